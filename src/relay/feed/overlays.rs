//! Provisional values: what messages that have not ended will make of a channel. They are laid over its state and are no part
//! of it.
//!
//! Invariants: a message has one at most; those of a channel stand in the order of acceptance; what was told as pending is
//! told once as confirmed or rolled back, when its message has ended; what was never told is told of no more.
//! Deliberately not here: which messages may have one, and how they end (the outbox's).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::relay::record::{MessageId, Provisional};

/// Overlays at most, told or not: a publish with another one is refused.
pub const MOST: usize = 10_000;

/// All of them.
#[derive(Debug, Default)]
pub struct Overlays {
    all: BTreeMap<MessageId, Overlay>,
    channels: BTreeMap<Box<str>, BTreeSet<MessageId>>,
}

#[derive(Debug)]
struct Overlay {
    value: Arc<Provisional>,
    standing: Standing,
}

/// What is known of an overlay outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing: its message is not accepted yet.
    Laid,
    /// It is pending.
    Pending,
    /// It was rolled back with others of its batch, before its own message ended.
    RolledBack,
}

impl Overlays {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// A message was admitted that has one.
    pub fn lay(&mut self, message: MessageId, value: Arc<Provisional>) {
        self.channels.entry(value.channel.clone()).or_default().insert(message);
        self.all.insert(message, Overlay { value, standing: Standing::Laid });
    }

    /// The message is accepted, now or by an earlier process: what is pending from now on.
    pub fn accepted(&mut self, message: MessageId) -> Option<Arc<Provisional>> {
        let overlay = self.all.get_mut(&message)?;
        overlay.standing = Standing::Pending;
        Some(Arc::clone(&overlay.value))
    }

    /// Whether some value waits there to be confirmed.
    pub fn covers(&self, channel: &str, key: Option<&str>) -> bool {
        let messages = self.channels.get(channel).into_iter().flatten();
        messages
            .filter_map(|message| self.all.get(message))
            .any(|overlay| overlay.standing != Standing::RolledBack && overlay.value.key.as_deref() == key)
    }

    /// What is pending on a channel, in the order of acceptance.
    pub fn pending(&self, channel: &str) -> impl Iterator<Item = (MessageId, &Provisional)> {
        let messages = self.channels.get(channel).into_iter().flatten();
        messages.filter_map(|message| {
            let overlay = self.all.get(message).filter(|overlay| overlay.standing == Standing::Pending)?;
            Some((*message, &*overlay.value))
        })
    }

    /// The message has ended. What is to be told: nothing of one that was never pending.
    pub fn ended(&mut self, message: MessageId) -> Option<Arc<Provisional>> {
        let overlay = self.all.remove(&message)?;
        if let Some(messages) = self.channels.get_mut(&overlay.value.channel) {
            messages.remove(&message);
            if messages.is_empty() {
                self.channels.remove(&overlay.value.channel);
            }
        }
        (overlay.standing != Standing::Laid).then_some(overlay.value)
    }

    /// A message of the batch failed: the others' overlays go with its own, whatever becomes of them.
    pub fn roll_back(&mut self, batch: MessageId) -> Vec<(MessageId, Arc<Provisional>)> {
        let pending = self
            .all
            .iter_mut()
            .filter(|(_, overlay)| overlay.standing == Standing::Pending && overlay.value.batch == Some(batch));
        let rolled_back = pending.map(|(message, overlay)| {
            overlay.standing = Standing::RolledBack;
            (*message, Arc::clone(&overlay.value))
        });
        rolled_back.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(channel: &str, key: Option<&str>, batch: Option<u128>) -> Arc<Provisional> {
        Arc::new(Provisional {
            channel: channel.into(),
            key: key.map(Into::into),
            value: "1".into(),
            batch: batch.map(MessageId),
        })
    }

    fn pending(overlays: &Overlays, channel: &str) -> Vec<u128> {
        overlays.pending(channel).map(|(message, _)| message.0).collect()
    }

    #[test]
    fn they_stack_in_the_order_of_acceptance_and_go_one_by_one() {
        let mut overlays = Overlays::default();
        for (message, channel, key) in [(2, "a", "x"), (1, "a", "x"), (3, "a", "y"), (4, "b", "x")] {
            overlays.lay(MessageId(message), value(channel, Some(key), None));
        }
        assert_eq!(pending(&overlays, "a"), [0; 0], "nothing is accepted yet");
        assert!(overlays.covers("a", Some("y")) && !overlays.covers("a", None) && !overlays.covers("c", Some("x")));
        (1..4).for_each(|message| drop(overlays.accepted(MessageId(message)).unwrap()));
        assert_eq!((pending(&overlays, "a"), pending(&overlays, "b")), (vec![1, 2, 3], vec![]));
        assert!(overlays.ended(MessageId(1)).is_some());
        assert!(overlays.ended(MessageId(1)).is_none(), "once");
        assert!(overlays.ended(MessageId(4)).is_none(), "nobody was told of it");
        assert_eq!((pending(&overlays, "a"), overlays.len()), (vec![2, 3], 2));
        (2..4).for_each(|message| drop(overlays.ended(MessageId(message)).unwrap()));
        assert!(overlays.is_empty() && overlays.channels.is_empty());
    }

    #[test]
    fn a_batch_is_rolled_back_together() {
        let mut overlays = Overlays::default();
        for (message, batch) in [(1, Some(1)), (2, Some(1)), (3, None), (4, Some(4))] {
            overlays.lay(MessageId(message), value("a", None, batch));
            overlays.accepted(MessageId(message));
        }
        assert!(overlays.ended(MessageId(1)).is_some());
        let others: Vec<u128> = overlays.roll_back(MessageId(1)).iter().map(|(message, _)| message.0).collect();
        assert_eq!((others, pending(&overlays, "a")), (vec![2], vec![3, 4]));
        assert!(overlays.roll_back(MessageId(1)).is_empty());
        assert!(overlays.ended(MessageId(2)).is_some(), "its own end is told, too");
    }
}
