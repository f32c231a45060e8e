//! Which of the wanted channels may be subscribed at once: at most `cap`, by priority and then by age.
//!
//! Invariant: as many as possible are admitted; one that was already sent is never displaced, one that was not gives way to
//! a more urgent one. Every verb but [`Admission::choose_anew`] takes logarithmic time.

use std::collections::{BTreeMap, BTreeSet};

use super::{ChannelId, Lane};

/// The order of subscribes: by lane, then by number, which rises with age.
type Rank = (Lane, ChannelId);

#[derive(Debug)]
pub(super) struct Admission {
    cap: usize,
    /// Admitted ones, with their lanes.
    admitted: BTreeMap<ChannelId, Lane>,
    /// Those of them that were not sent yet.
    unsent: BTreeSet<Rank>,
    waiting: BTreeSet<Rank>,
    /// The lanes of those that wait.
    waiting_lanes: BTreeMap<ChannelId, Lane>,
}

impl Admission {
    pub(super) fn new(cap: usize) -> Self {
        Admission {
            cap,
            admitted: BTreeMap::new(),
            unsent: BTreeSet::new(),
            waiting: BTreeSet::new(),
            waiting_lanes: BTreeMap::new(),
        }
    }

    pub(super) fn full(&self) -> bool {
        self.admitted.len() >= self.cap
    }

    pub(super) fn admitted(&self, id: ChannelId) -> bool {
        self.admitted.contains_key(&id)
    }

    pub(super) fn count(&self) -> usize {
        self.admitted.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A new channel: admitted, or to wait. Gives the one that it displaced.
    pub(super) fn enter(&mut self, lane: Lane, id: ChannelId) -> Option<ChannelId> {
        if !self.full() {
            self.admit((lane, id));
            return None;
        }
        let displaced = self.unsent.last().copied().filter(|last| (lane, id) < *last);
        match displaced {
            Some(rank) => {
                self.unsent.remove(&rank);
                self.admitted.remove(&rank.1);
                self.wait(rank);
                self.admit((lane, id));
            }
            None => self.wait((lane, id)),
        }
        displaced.map(|(_, id)| id)
    }

    /// A channel that left; gives the one that takes its place.
    pub(super) fn leave(&mut self, id: ChannelId) -> Option<ChannelId> {
        if let Some(lane) = self.waiting_lanes.remove(&id) {
            self.waiting.remove(&(lane, id));
            return None;
        }
        let lane = self.admitted.remove(&id)?;
        self.unsent.remove(&(lane, id));
        let next = *self.waiting.first().filter(|_| !self.full())?;
        self.waiting.remove(&next);
        self.waiting_lanes.remove(&next.1);
        self.admit(next);
        Some(next.1)
    }

    /// A channel became more urgent.
    pub(super) fn promote(&mut self, from: Lane, to: Lane, id: ChannelId) {
        if let Some(lane) = self.admitted.get_mut(&id) {
            *lane = to;
            if self.unsent.remove(&(from, id)) {
                self.unsent.insert((to, id));
            }
        } else if self.waiting.remove(&(from, id)) {
            self.wait((to, id));
        }
    }

    /// Whether the subscribe of an admitted channel was sent.
    pub(super) fn sent(&mut self, lane: Lane, id: ChannelId, sent: bool) {
        if sent {
            self.unsent.remove(&(lane, id));
        } else if self.admitted(id) {
            self.unsent.insert((lane, id));
        }
    }

    /// All admitted ones.
    pub(super) fn all(&self) -> impl Iterator<Item = ChannelId> {
        self.admitted.keys().copied()
    }

    /// Nothing is sent any more: admits by rank alone. Gives those that were admitted and now wait.
    pub(super) fn choose_anew(&mut self) -> Vec<ChannelId> {
        let before = std::mem::take(&mut self.admitted);
        let mut ranks = std::mem::take(&mut self.waiting);
        ranks.extend(before.iter().map(|(id, lane)| (*lane, *id)));
        self.unsent.clear();
        self.waiting_lanes.clear();
        for rank in ranks {
            if self.full() { self.wait(rank) } else { self.admit(rank) }
        }
        before.into_keys().filter(|id| !self.admitted(*id)).collect()
    }

    fn admit(&mut self, rank: Rank) {
        self.admitted.insert(rank.1, rank.0);
        self.unsent.insert(rank);
    }

    fn wait(&mut self, rank: Rank) {
        self.waiting.insert(rank);
        self.waiting_lanes.insert(rank.1, rank.0);
    }
}
