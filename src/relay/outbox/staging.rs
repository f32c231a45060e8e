//! What waits for the store, and what its answer will mean: group commit.
//!
//! Invariants: operations become durable in the order in which they were staged; those of one group in one commit; at most
//! one commit is out.

use std::collections::VecDeque;

use crate::relay::record::{MessageId, Operation};

/// Operations of one commit at most, unless one group alone has more.
pub(super) const COMMIT_OPERATIONS: usize = 1024;
/// Bytes of one commit at most, unless one group alone has more.
pub(super) const COMMIT_BYTES: u64 = 1 << 20;
/// What an operation takes besides a message's own text.
const OPERATION_BYTES: u64 = 128;

/// What becomes true when an operation is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// The message is accepted.
    Accepted(MessageId),
    /// So many attempts of the message are known to the store.
    Attempted(MessageId, u32),
    /// The message has ended.
    Settled(MessageId),
    /// What is known of the message's end is what it should be.
    Amended(MessageId),
    /// Nothing that anybody waits for.
    Nothing,
}

#[derive(Debug)]
struct Staged {
    operation: Operation,
    effect: Effect,
    bytes: u64,
    /// Goes into the same commit as the one before it.
    joined: bool,
}

/// What waits for the store.
#[derive(Debug, Default)]
pub(super) struct Staging {
    waiting: VecDeque<Staged>,
    /// Their bytes.
    bytes: u64,
    /// The effects of the commit that is out.
    out: Option<Vec<Effect>>,
}

impl Staging {
    /// Appends an operation. `bytes`: of the message that it carries, else 0.
    pub(super) fn push(&mut self, operation: Operation, effect: Effect, bytes: u64, joined: bool) {
        let bytes = bytes + OPERATION_BYTES;
        self.bytes += bytes;
        self.waiting.push_back(Staged { operation, effect, bytes, joined });
    }

    /// The next commit, if none is out and something waits. `beside`: what somebody else wants kept and tells from the answer.
    pub(super) fn cut(&mut self, beside: Option<Operation>) -> Option<Vec<Operation>> {
        if self.out.is_some() || (self.waiting.is_empty() && beside.is_none()) {
            return None;
        }
        let mut operations: Vec<Operation> = beside.into_iter().collect();
        let (mut effects, mut bytes) = (vec![Effect::Nothing; operations.len()], 0u64);
        while let Some((count, size)) = self.first_group() {
            let fits = operations.len() + count <= COMMIT_OPERATIONS && bytes + size <= COMMIT_BYTES;
            if !fits && !operations.is_empty() {
                break;
            }
            bytes += size;
            for staged in self.waiting.drain(..count) {
                operations.push(staged.operation);
                effects.push(staged.effect);
            }
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        self.out = Some(effects);
        Some(operations)
    }

    /// How many operations the first group has, and their bytes.
    fn first_group(&self) -> Option<(usize, u64)> {
        let mut group = self.waiting.iter().enumerate().take_while(|(place, staged)| *place == 0 || staged.joined);
        let (_, first) = group.next()?;
        Some(group.fold((1, first.bytes), |(count, bytes), (_, staged)| (count + 1, bytes + staged.bytes)))
    }

    /// The commit that was out is durable: what is true now.
    pub(super) fn done(&mut self) -> Option<Vec<Effect>> {
        self.out.take()
    }

    /// Forgets everything, because nothing will be durable any more; gives the messages that are not accepted now.
    pub(super) fn clear(&mut self) -> Vec<MessageId> {
        self.bytes = 0;
        let out = self.out.take().into_iter().flatten();
        let effects = out.chain(self.waiting.drain(..).map(|staged| staged.effect));
        let accepted = effects.filter_map(|effect| match effect {
            Effect::Accepted(id) => Some(id),
            Effect::Attempted(..) | Effect::Settled(_) | Effect::Amended(_) | Effect::Nothing => None,
        });
        accepted.collect()
    }

    /// Operations that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a commit is out.
    pub(super) fn is_out(&self) -> bool {
        self.out.is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.out.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(sizes: &[(u64, bool)]) -> Staging {
        let mut staging = Staging::default();
        for (n, (bytes, joined)) in (0..).zip(sizes) {
            staging.push(Operation::Forget { id: MessageId(n) }, Effect::Settled(MessageId(n)), *bytes, *joined);
        }
        staging
    }

    fn commits(mut staging: Staging) -> Vec<usize> {
        let mut counts = Vec::new();
        while let Some(operations) = staging.cut(None) {
            assert!(staging.cut(None).is_none(), "one commit at a time");
            counts.push(operations.len());
            assert_eq!(staging.done().unwrap().len(), operations.len());
        }
        assert!(staging.is_empty());
        counts
    }

    #[test]
    fn a_commit_is_cut_by_count_and_by_bytes() {
        assert_eq!(commits(staged(&[(0, false); 2500])), [1024, 1024, 452]);
        assert_eq!(commits(staged(&[(600 << 10, false); 3])), [1, 1, 1]);
        assert_eq!(commits(staged(&[(2 << 20, false), (1, false)])), [1, 1]);
    }

    #[test]
    fn what_somebody_else_wants_kept_goes_along_or_alone() {
        let beside = || Some(Operation::Forget { id: MessageId(9) });
        let mut staging = staged(&[(0, false); 2]);
        assert_eq!(staging.cut(beside()).map(|operations| operations.len()), Some(3));
        assert_eq!(staging.cut(beside()), None, "one commit at a time");
        let settled = [Effect::Nothing, Effect::Settled(MessageId(0)), Effect::Settled(MessageId(1))];
        assert_eq!(staging.done(), Some(settled.to_vec()));
        assert_eq!(staging.cut(beside()), beside().map(|operation| vec![operation]));
        assert_eq!(staging.done(), Some(vec![Effect::Nothing]));
    }

    #[test]
    fn a_group_is_never_divided() {
        let mut sizes = vec![(0, false); 1000];
        sizes.extend([(0, false)]);
        sizes.extend([(0, true); 49]);
        assert_eq!(commits(staged(&sizes)), [1000, 50]);
        let mut large = vec![(0, false)];
        large.extend([(0, true); 2000]);
        large.push((0, false));
        assert_eq!(commits(staged(&large)), [2001, 1]);
    }
}
