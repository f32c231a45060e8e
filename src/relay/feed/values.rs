//! The state of one channel: the fold of all admitted events, as references to the entries that make it up.
//!
//! Invariant: what [`Values::snapshot`] yields is exactly the state, or it yields nothing; never a guess.
//! Bounded: at most `max_keys` keys; beyond that a new key evicts the one whose value is oldest, and says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::dialect::{Fold, Role};
use crate::protocol::frame::Entry;

/// What a channel's events add up to.
#[derive(Debug, Default)]
pub enum Values {
    /// Nothing is known.
    #[default]
    Unknown,
    /// The last whole value per key (`None`: the channel has one value).
    Replaced(BTreeMap<Option<Arc<str>>, Arc<Entry>>),
    /// Upstream's snapshot and every increment since, in order.
    Appended(VecDeque<Arc<Entry>>),
    /// Increments without a base, or with a hole: no state until upstream's next snapshot.
    Broken,
}

impl Values {
    /// Folds one event in. Returns how many keys were evicted for `max_keys`.
    pub fn fold(&mut self, entry: &Arc<Entry>, role: Role, fold: Fold, max_keys: usize) -> usize {
        match (role, fold) {
            (Role::Snapshot, Fold::Append) => *self = Values::Appended(VecDeque::from([Arc::clone(entry)])),
            (Role::Snapshot, Fold::Replace) => {
                *self = Values::Replaced(BTreeMap::from([(entry.key.clone(), Arc::clone(entry))]));
            }
            (Role::SnapshotPart | Role::Event, Fold::Append) => match self {
                Values::Appended(entries) => entries.push_back(Arc::clone(entry)),
                // An increment may follow a snapshot whose rule says `replace`: the snapshot is its base.
                Values::Replaced(values) if values.len() == 1 && values.contains_key(&None) => {
                    let base = values.pop_first().map(|(_, base)| base);
                    *self = Values::Appended(base.into_iter().chain([Arc::clone(entry)]).collect());
                }
                Values::Unknown | Values::Replaced(_) | Values::Broken => *self = Values::Broken,
            },
            (Role::SnapshotPart | Role::Event, Fold::Replace) => return self.replace(entry, max_keys),
        }
        0
    }

    fn replace(&mut self, entry: &Arc<Entry>, max_keys: usize) -> usize {
        if !matches!(self, Values::Replaced(_)) {
            *self = Values::Replaced(BTreeMap::new());
        }
        let Values::Replaced(values) = self else { return 0 };
        values.insert(entry.key.clone(), Arc::clone(entry));
        let mut evicted = 0;
        while values.len() > max_keys.max(1) {
            let oldest = values.iter().min_by_key(|(_, entry)| entry.offset).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { break };
            values.remove(&oldest);
            evicted += 1;
        }
        evicted
    }

    /// Increments whose base is no longer held, or that follow a hole, are no state.
    pub fn broken_by_hole(&mut self) {
        if matches!(self, Values::Appended(_)) {
            *self = Values::Broken;
        }
    }

    /// The ring dropped everything up to `offset`: a sum of increments that began there is gone too, so that a channel
    /// never holds more increments than its ring.
    pub fn evicted_up_to(&mut self, offset: u64) {
        if let Values::Appended(entries) = self
            && entries.get(1).is_some_and(|first| first.offset <= offset)
        {
            *self = Values::Broken;
        }
    }

    /// Nothing counts any more.
    pub fn forget(&mut self) {
        *self = Values::Unknown;
    }

    /// The entries that make up the state, in key order or in the order of increments; `None` if there is no state.
    pub fn snapshot(&self) -> Option<Vec<&Arc<Entry>>> {
        match self {
            Values::Unknown | Values::Broken => None,
            Values::Replaced(values) => Some(values.values().collect()),
            Values::Appended(entries) => Some(entries.iter().collect()),
        }
    }

    /// Whether dropping one entry of it makes a reader's state wrong.
    pub fn is_sum(&self) -> bool {
        matches!(self, Values::Appended(_) | Values::Broken)
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        match self {
            Values::Unknown | Values::Broken => 0,
            Values::Replaced(values) => values.len(),
            Values::Appended(entries) => entries.len(),
        }
    }

    /// Whether no entry is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
