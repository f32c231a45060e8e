//! What each principal has waiting: its share of the outbox.
//!
//! Invariant: a number stands for one name as long as a message of that principal waits.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A principal with messages that wait, in the two bytes that a message has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PrincipalNumber(u16);

/// Those for whom there was no number left: they have one share together.
const OTHERS: PrincipalNumber = PrincipalNumber(0);

/// What waits of one principal.
#[derive(Debug, Clone, Default)]
pub(super) struct Share {
    name: Arc<str>,
    pub(super) messages: usize,
    pub(super) bytes: u64,
}

/// The shares of all principals that have one.
#[derive(Debug)]
pub(super) struct Principals {
    numbers: BTreeMap<Arc<str>, PrincipalNumber>,
    shares: Vec<Share>,
    free: Vec<PrincipalNumber>,
    most: u16,
}

impl Default for Principals {
    fn default() -> Self {
        Principals { numbers: BTreeMap::new(), shares: vec![Share::default()], free: Vec::new(), most: u16::MAX }
    }
}

impl Principals {
    /// What waits of this principal.
    pub(super) fn share(&self, name: &str) -> &Share {
        &self.shares[usize::from(self.numbers.get(name).unwrap_or(&OTHERS).0)]
    }

    /// One more message waits.
    pub(super) fn enter(&mut self, name: &Arc<str>, bytes: u64) -> PrincipalNumber {
        let number = self.numbers.get(name).copied().unwrap_or_else(|| self.number(name));
        let share = &mut self.shares[usize::from(number.0)];
        share.messages += 1;
        share.bytes += bytes;
        number
    }

    fn number(&mut self, name: &Arc<str>) -> PrincipalNumber {
        let share = Share { name: Arc::clone(name), messages: 0, bytes: 0 };
        let number = match (self.free.pop(), u16::try_from(self.shares.len())) {
            (Some(number), _) => {
                self.shares[usize::from(number.0)] = share;
                number
            }
            (None, Ok(next)) if next <= self.most => {
                self.shares.push(share);
                PrincipalNumber(next)
            }
            (None, _) => return OTHERS,
        };
        self.numbers.insert(Arc::clone(name), number);
        number
    }

    /// One less.
    pub(super) fn leave(&mut self, number: PrincipalNumber, bytes: u64) {
        let share = &mut self.shares[usize::from(number.0)];
        share.messages -= 1;
        share.bytes -= bytes;
        if share.messages == 0 && number != OTHERS {
            self.numbers.remove(&share.name);
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_lasts_as_long_as_something_waits_and_its_number_is_used_again() {
        let mut principals = Principals { most: 2, ..Principals::default() };
        let [a, b, c, d] = ["a", "b", "c", "d"].map(Arc::<str>::from);
        let first = principals.enter(&a, 5);
        assert_eq!(principals.enter(&a, 6), first);
        let second = principals.enter(&b, 1);
        assert_ne!(first, second);
        assert_eq!((principals.share("a").messages, principals.share("a").bytes), (2, 11));
        // No number is left: the others share one.
        assert_eq!((principals.enter(&c, 2), principals.enter(&d, 3)), (OTHERS, OTHERS));
        assert_eq!((principals.share("c").messages, principals.share("d").bytes), (2, 5));

        principals.leave(first, 5);
        principals.leave(first, 6);
        assert_eq!(principals.enter(&d, 4), first, "the number is free again");
        assert_eq!((principals.share("d").messages, principals.share("b").messages), (1, 1));
    }
}
