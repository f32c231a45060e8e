//! Messages about a subscription id that no answer has bound yet: some services send events before the reply.
//!
//! Invariant: at most [`MOST`] messages and [`MOST_BYTES`]; whoever gives way or waits in vain is told, never dropped.

use std::collections::VecDeque;

use super::field::Field;

/// Messages.
pub(crate) const MOST: usize = 256;
/// Their bytes.
pub(crate) const MOST_BYTES: usize = 1024 * 1024;

/// A message that waits for its subscription id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldMessage {
    pub(crate) sub: Box<str>,
    /// The rule that matched it.
    pub(crate) rule: usize,
    pub(crate) bytes: Box<[u8]>,
    /// What its frame said about it.
    pub(crate) fields: Vec<Field<'static>>,
}

/// All of them, in the order they came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    messages: VecDeque<HeldMessage>,
    bytes: usize,
}

impl Held {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Keeps a message; the rules of those that gave way come back.
    pub(crate) fn keep(&mut self, message: HeldMessage) -> Vec<usize> {
        let mut lost = Vec::new();
        self.bytes += message.bytes.len();
        self.messages.push_back(message);
        while (self.messages.len() > MOST || self.bytes > MOST_BYTES)
            && let Some(oldest) = self.messages.pop_front()
        {
            self.bytes -= oldest.bytes.len();
            lost.push(oldest.rule);
        }
        lost
    }

    /// Takes the messages about this id, in order.
    pub(crate) fn take(&mut self, sub: &str) -> Vec<HeldMessage> {
        let (taken, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.messages).into_iter().partition(|held| *held.sub == *sub);
        self.messages = kept.into();
        self.bytes = self.messages.iter().map(|held| held.bytes.len()).sum();
        taken
    }

    /// Nothing can bind an id any more: the rules of all that waited.
    pub(crate) fn give_up(&mut self) -> Vec<usize> {
        self.bytes = 0;
        std::mem::take(&mut self.messages).into_iter().map(|held| held.rule).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sub: &str, rule: usize, size: usize) -> HeldMessage {
        HeldMessage { sub: sub.into(), rule, bytes: vec![b'1'; size].into(), fields: Vec::new() }
    }

    #[test]
    fn the_oldest_give_way_and_are_told() {
        let mut held = Held::default();
        for rule in 0..MOST {
            assert_eq!(held.keep(message("a", rule, 1)), Vec::<usize>::new());
        }
        assert_eq!(held.keep(message("b", 999, 1)), vec![0]);
        assert_eq!(held.take("b").len(), 1);
        assert_eq!(held.take("a").iter().map(|held| held.rule).collect::<Vec<_>>(), (1..MOST).collect::<Vec<_>>());
        assert!(held.is_empty());
        assert_eq!(held.keep(message("a", 1, MOST_BYTES)), Vec::<usize>::new());
        assert_eq!(held.keep(message("a", 2, 1)), vec![1]);
        assert_eq!(held.keep(message("a", 3, MOST_BYTES + 1)), vec![2, 3]);
        held.keep(message("a", 4, 1));
        assert_eq!(held.give_up(), vec![4]);
    }
}
