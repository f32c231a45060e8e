//! Provisional values: what messages that have not ended will make of a channel. They are laid over its state and are no part
//! of it.
//!
//! Invariants: a message has one at most; those of a channel stand in the order of acceptance; what was told as pending is
//! told once as confirmed or rolled back: when its message has ended, or with others of its batch; what was never told, or is
//! rolled back, is told of no more.
//! Deliberately not here: which messages may have one, how they end, and which are of one batch (the outbox's).

use std::borrow::Borrow;
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
    /// Those of atomic batches.
    batches: BTreeMap<MessageId, BTreeSet<MessageId>>,
}

#[derive(Debug)]
struct Overlay {
    value: Arc<Provisional>,
    /// Its message is accepted, and that was told.
    pending: bool,
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
        if let Some(batch) = value.batch {
            self.batches.entry(batch).or_default().insert(message);
        }
        self.all.insert(message, Overlay { value, pending: false });
    }

    /// The message is accepted, now or by an earlier process: what is pending from now on.
    pub fn accepted(&mut self, message: MessageId) -> Option<Arc<Provisional>> {
        let overlay = self.all.get_mut(&message)?;
        overlay.pending = true;
        Some(Arc::clone(&overlay.value))
    }

    /// Whether some value waits there to be confirmed.
    pub fn covers(&self, channel: &str, key: Option<&str>) -> bool {
        let messages = self.channels.get(channel).into_iter().flatten();
        messages.filter_map(|message| self.all.get(message)).any(|overlay| overlay.value.key.as_deref() == key)
    }

    /// What is pending on a channel, in the order of acceptance.
    pub fn pending(&self, channel: &str) -> impl Iterator<Item = (MessageId, &Provisional)> {
        let messages = self.channels.get(channel).into_iter().flatten();
        messages.filter_map(|message| {
            let overlay = self.all.get(message).filter(|overlay| overlay.pending)?;
            Some((*message, &*overlay.value))
        })
    }

    /// The batch that this message's value is of.
    pub fn batch_of(&self, message: MessageId) -> Option<MessageId> {
        self.all.get(&message)?.value.batch
    }

    /// The last batch with values whose id is below the message's: if the message is of one, it is of this one.
    pub fn batch_before(&self, message: MessageId) -> Option<MessageId> {
        self.batches.range(..message).next_back().map(|(batch, _)| *batch)
    }

    /// The message has ended. What is to be told: nothing of one that was never pending.
    pub fn ended(&mut self, message: MessageId) -> Option<Arc<Provisional>> {
        let Overlay { value, pending } = self.all.remove(&message)?;
        leave(&mut self.channels, &value.channel, message);
        if let Some(batch) = &value.batch {
            leave(&mut self.batches, batch, message);
        }
        pending.then_some(value)
    }

    /// A message of the batch failed: the others' values go with its own, whatever becomes of them. Those that were pending.
    pub fn roll_back(&mut self, batch: MessageId) -> Vec<(MessageId, Arc<Provisional>)> {
        let messages = self.batches.get(&batch).cloned().unwrap_or_default();
        messages.into_iter().filter_map(|message| Some((message, self.ended(message)?))).collect()
    }
}

/// Strikes a message out; who has none any more is forgotten.
fn leave<K: Ord + Borrow<Q>, Q: Ord + ?Sized>(all: &mut BTreeMap<K, BTreeSet<MessageId>>, of: &Q, message: MessageId) {
    if let Some(messages) = all.get_mut(of) {
        messages.remove(&message);
        if messages.is_empty() {
            all.remove(of);
        }
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
    fn a_batch_is_rolled_back_together_and_told_of_once() {
        let mut overlays = Overlays::default();
        for (message, batch) in [(11, Some(10)), (12, Some(10)), (13, None), (21, Some(20)), (14, Some(10))] {
            overlays.lay(MessageId(message), value("a", None, batch));
            if message != 14 {
                overlays.accepted(MessageId(message));
            }
        }
        let before = |message| overlays.batch_before(MessageId(message)).map(|batch| batch.0);
        assert_eq!([10, 11, 20, 21, 99].map(before), [None, Some(10), Some(10), Some(20), Some(20)]);
        let of = [11, 13].map(|message| overlays.batch_of(MessageId(message)));
        assert_eq!(of, [Some(MessageId(10)), None]);
        assert!(overlays.ended(MessageId(11)).is_some());
        let others: Vec<u128> = overlays.roll_back(MessageId(10)).iter().map(|(message, _)| message.0).collect();
        assert_eq!((others, pending(&overlays, "a")), (vec![12], vec![13, 21]), "what was never told is not told now");
        assert!(overlays.roll_back(MessageId(10)).is_empty());
        assert!(overlays.ended(MessageId(12)).is_none(), "whatever became of it");
        assert!(overlays.accepted(MessageId(14)).is_none(), "nor is it pending later");
        drop([13, 21].map(|message| overlays.ended(MessageId(message))));
        assert!(overlays.is_empty() && overlays.channels.is_empty() && overlays.batches.is_empty());
    }
}
