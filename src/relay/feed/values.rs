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
pub struct Values {
    state: State,
    /// A hole came after the last whole value, so that value is no base for increments.
    holed: bool,
    /// Bytes of the entries that it refers to.
    bytes: usize,
}

#[derive(Debug, Default)]
enum State {
    /// Nothing is known.
    #[default]
    Unknown,
    /// The last whole value per key (`None`: the channel has one value).
    Replaced(BTreeMap<Option<Arc<str>>, Arc<Entry>>),
    /// Upstream's snapshot and every increment since, in order.
    Appended(VecDeque<Arc<Entry>>),
    /// Increments up to a hole: no state, unless exactly what is missing comes next.
    Holed(VecDeque<Arc<Entry>>),
    /// Increments without a base, or with a hole: no state until upstream's next snapshot.
    Broken,
}

impl Values {
    /// Folds one event in. Returns how many keys were evicted for `max_keys`.
    pub fn fold(&mut self, entry: &Arc<Entry>, role: Role, fold: Fold, max_keys: usize) -> usize {
        match (role, fold) {
            (Role::Snapshot, Fold::Append) => {
                self.set(State::Appended(VecDeque::from([Arc::clone(entry)])), entry.text.len());
            }
            (Role::Snapshot, Fold::Replace) => {
                let values = BTreeMap::from([(entry.key.clone(), Arc::clone(entry))]);
                self.set(State::Replaced(values), entry.text.len());
            }
            (Role::SnapshotPart | Role::Event, Fold::Append) => self.append(entry),
            (Role::SnapshotPart | Role::Event, Fold::Replace) => return self.replace(entry, max_keys),
        }
        0
    }

    fn set(&mut self, state: State, bytes: usize) {
        *self = Values { state, holed: false, bytes };
    }

    fn append(&mut self, entry: &Arc<Entry>) {
        let bytes = self.bytes + entry.text.len();
        match &mut self.state {
            State::Appended(entries) => {
                entries.push_back(Arc::clone(entry));
                self.bytes = bytes;
            }
            // An increment may follow a snapshot whose rule says `replace`: the snapshot is its base.
            State::Replaced(values) if !self.holed && values.len() == 1 && values.contains_key(&None) => {
                let base = values.pop_first().map(|(_, base)| base);
                let entries = base.into_iter().chain([Arc::clone(entry)]).collect();
                self.set(State::Appended(entries), bytes);
            }
            State::Unknown | State::Replaced(_) | State::Holed(_) | State::Broken => self.set(State::Broken, 0),
        }
    }

    fn replace(&mut self, entry: &Arc<Entry>, max_keys: usize) -> usize {
        if !matches!(self.state, State::Replaced(_)) {
            self.set(State::Replaced(BTreeMap::new()), 0);
        }
        let State::Replaced(values) = &mut self.state else { return 0 };
        self.holed &= entry.key.is_some();
        let before = values.insert(entry.key.clone(), Arc::clone(entry));
        self.bytes = self.bytes + entry.text.len() - before.map_or(0, |before| before.text.len());
        let mut evicted = 0;
        while self.len() > max_keys.max(1) && self.evict_oldest() {
            evicted += 1;
        }
        evicted
    }

    /// Lets the oldest value go, or a sum as a whole: it is one value. `false`: only the newest one is left.
    pub fn evict_oldest(&mut self) -> bool {
        match &mut self.state {
            State::Replaced(values) if values.len() > 1 => {
                let oldest = values.iter().min_by_key(|(_, entry)| entry.offset).map(|(key, _)| key.clone());
                let gone = oldest.and_then(|oldest| values.remove(&oldest));
                self.bytes -= gone.map_or(0, |gone| gone.text.len());
                true
            }
            State::Appended(entries) if entries.len() > 1 => {
                self.set(State::Broken, 0);
                true
            }
            State::Holed(_) => {
                self.set(State::Broken, 0);
                true
            }
            State::Unknown | State::Replaced(_) | State::Appended(_) | State::Broken => false,
        }
    }

    /// The value of an item, where each has one; of a channel with one value: without a key.
    pub fn get(&self, key: Option<&str>) -> Option<&Arc<Entry>> {
        let State::Replaced(values) = &self.state else { return None };
        values.get(&key.map(Arc::from))
    }

    /// Increments whose base is no longer held, or that follow a hole, are no state.
    pub fn broken_by_hole(&mut self) {
        match &mut self.state {
            State::Appended(entries) => self.state = State::Holed(std::mem::take(entries)),
            // A second hole: what is missing at the first one did not come.
            State::Holed(_) => self.set(State::Broken, 0),
            State::Replaced(_) => self.holed = true,
            State::Unknown | State::Broken => {}
        }
    }

    /// Exactly what was missing comes next: the state goes on from before the hole.
    pub fn mended(&mut self) {
        self.holed = false;
        if let State::Holed(entries) = &mut self.state {
            self.state = State::Appended(std::mem::take(entries));
        }
    }

    /// Whether an increment would change a state that is not known.
    pub fn lacks_base(&self) -> bool {
        match &self.state {
            State::Unknown | State::Holed(_) | State::Broken => true,
            State::Appended(_) => false,
            State::Replaced(values) => self.holed || values.len() != 1 || !values.contains_key(&None),
        }
    }

    /// The ring dropped everything up to `offset`: a sum of increments that began there is gone too, so that a channel
    /// never holds more increments than its ring.
    pub fn evicted_up_to(&mut self, offset: u64) {
        if let State::Appended(entries) | State::Holed(entries) = &self.state
            && entries.get(1).is_some_and(|first| first.offset <= offset)
        {
            self.set(State::Broken, 0);
        }
    }

    /// Nothing counts any more.
    pub fn forget(&mut self) {
        self.set(State::Unknown, 0);
    }

    /// The entries that make up the state, in key order or in the order of increments; `None` if there is no state.
    pub fn snapshot(&self) -> Option<Vec<&Arc<Entry>>> {
        match &self.state {
            State::Unknown | State::Holed(_) | State::Broken => None,
            State::Replaced(values) => Some(values.values().collect()),
            State::Appended(entries) => Some(entries.iter().collect()),
        }
    }

    /// The last whole values that are newer than `after`, up to `to`, oldest first.
    pub fn between(&self, after: u64, to: u64) -> Vec<&Arc<Entry>> {
        let State::Replaced(values) = &self.state else { return Vec::new() };
        let mut between: Vec<_> = values.values().filter(|e| e.offset > after && e.offset <= to).collect();
        between.sort_unstable_by_key(|entry| entry.offset);
        between
    }

    /// Whether dropping one entry of it makes a reader's state wrong.
    pub fn is_sum(&self) -> bool {
        matches!(self.state, State::Appended(_) | State::Holed(_) | State::Broken)
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        match &self.state {
            State::Unknown | State::Broken => 0,
            State::Replaced(values) => values.len(),
            State::Appended(entries) | State::Holed(entries) => entries.len(),
        }
    }

    /// Bytes of the entries held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no entry is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
