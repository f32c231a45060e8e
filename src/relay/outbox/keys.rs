//! Order keys: messages with the same key leave strictly one after another.
//!
//! Invariant: only the oldest message of a key ever stands in a lane, and it stays the oldest until its end is durable.
//! A key is one over all principals: who names the same account means the same account.

use std::collections::{BTreeMap, VecDeque};

use super::Lane;
use crate::relay::record::MessageId;

/// The messages of one key.
#[derive(Debug, Default)]
struct Queue {
    /// In the order of acceptance.
    messages: VecDeque<MessageId>,
    /// How many of them are of each lane.
    lanes: [u32; Lane::COUNT],
    /// The lane in which the oldest stands now.
    placed: Option<Lane>,
}

/// All keys that have messages.
#[derive(Debug, Default)]
pub(super) struct OrderKeys(BTreeMap<Box<str>, Queue>);

impl OrderKeys {
    /// Adds a message behind the others of its key.
    pub(super) fn push(&mut self, key: &str, lane: Lane, id: MessageId) {
        let queue = self.0.entry(key.into()).or_default();
        queue.messages.push_back(id);
        queue.lanes[lane.index()] += 1;
    }

    /// Takes a message out, wherever it stands.
    pub(super) fn remove(&mut self, key: &str, lane: Lane, id: MessageId) {
        let Some(queue) = self.0.get_mut(key) else { return };
        let Ok(place) = queue.messages.binary_search(&id) else { return };
        queue.messages.remove(place);
        queue.lanes[lane.index()] -= 1;
        if queue.messages.is_empty() {
            self.0.remove(key);
        }
    }

    /// The key's oldest message.
    pub(super) fn head(&self, key: &str) -> Option<MessageId> {
        self.0.get(key)?.messages.front().copied()
    }

    /// The highest lane among the key's messages: the one in which the key moves.
    pub(super) fn lane(&self, key: &str) -> Lane {
        let lanes = self.0.get(key).map_or([0; Lane::COUNT], |queue| queue.lanes);
        Lane::ALL.into_iter().find(|lane| lanes[lane.index()] > 0).unwrap_or_default()
    }

    /// Notes in which lane the oldest message stands; gives the one in which it stood.
    pub(super) fn place(&mut self, key: &str, lane: Option<Lane>) -> Option<Lane> {
        let queue = self.0.get_mut(key)?;
        std::mem::replace(&mut queue.placed, lane)
    }
}
