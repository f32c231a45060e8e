//! The connections of the moment: the one that serves, and at most one beside it.
//!
//! Invariants: never more than one serves, never more than two exist; which one serves changes only in [`Attempts::swap`] and
//! by one's end. The one beside is a candidate on its way to take over or, once it drains, the one that it took over from.
//! Deliberately not here: when to take over (`meet::connections::handover`), and what a connection does.

use super::super::pairs::AttemptId;
use super::{Attempt, Phase};

/// At most two connections, told apart by their numbers.
#[derive(Debug, Default)]
pub struct Attempts {
    active: Option<Attempt>,
    beside: Option<Attempt>,
}

impl Attempts {
    /// A new connection takes the first free place: it serves, or it stands beside the one that does.
    pub fn begin(&mut self, attempt: Attempt) {
        let place = if self.active.is_none() { &mut self.active } else { &mut self.beside };
        debug_assert!(place.is_none(), "never more than two");
        *place = Some(attempt);
    }

    /// The one that serves, however far it is.
    pub fn active(&self) -> Option<&Attempt> {
        self.active.as_ref()
    }

    /// The one that serves, however far it is.
    pub fn active_mut(&mut self) -> Option<&mut Attempt> {
        self.active.as_mut()
    }

    /// The one that is on its way to take over.
    pub fn candidate(&self) -> Option<&Attempt> {
        self.beside.as_ref().filter(|attempt| attempt.phase() != Phase::Draining)
    }

    /// The one that is on its way to take over.
    pub fn candidate_mut(&mut self) -> Option<&mut Attempt> {
        self.beside.as_mut().filter(|attempt| attempt.phase() != Phase::Draining)
    }

    /// Whether there is one beside the one that serves.
    pub fn is_paired(&self) -> bool {
        self.beside.is_some()
    }

    /// Whether this one serves.
    pub fn serves(&self, id: AttemptId) -> bool {
        self.active.as_ref().is_some_and(|attempt| attempt.id() == id)
    }

    /// The one of this number, unless it is over: then what is said of it is stale.
    pub fn get(&self, id: AttemptId) -> Option<&Attempt> {
        match &self.active {
            Some(active) if active.id() == id => Some(active),
            _ => self.beside.as_ref().filter(|attempt| attempt.id() == id),
        }
    }

    /// The one of this number, unless it is over.
    pub fn get_mut(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        match &mut self.active {
            Some(active) if active.id() == id => Some(active),
            _ => self.beside.as_mut().filter(|attempt| attempt.id() == id),
        }
    }

    /// All there are, the one that serves first.
    pub fn iter(&self) -> impl Iterator<Item = &Attempt> {
        [&self.active, &self.beside].into_iter().flatten()
    }

    /// All there are, the one that serves first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Attempt> {
        [&mut self.active, &mut self.beside].into_iter().flatten()
    }

    /// Their numbers, the one that serves first.
    pub fn ids(&self) -> impl Iterator<Item = AttemptId> + use<> {
        [&self.active, &self.beside].map(|place| place.as_ref().map(Attempt::id)).into_iter().flatten()
    }

    /// The candidate serves from now on; the one that did stands beside it.
    pub fn swap(&mut self) {
        std::mem::swap(&mut self.active, &mut self.beside);
    }

    /// Takes out the one of this number: it is over.
    pub fn remove(&mut self, id: AttemptId) -> Option<Attempt> {
        [&mut self.active, &mut self.beside].into_iter().find_map(|place| place.take_if(|attempt| attempt.id() == id))
    }

    /// Whether no connection is left.
    pub fn is_empty(&self) -> bool {
        self.active.is_none() && self.beside.is_none()
    }
}
