//! Subscriptions whose time has not come, in the order in which it will: one timer for all of them.
//!
//! Invariant: a subscription stands here at most once, and not after it has ended.

use std::collections::BTreeSet;

use super::pairs::SessionId;
use super::time::Mono;

/// Who rests until when.
#[derive(Debug, Default)]
pub struct Rests(BTreeSet<(Mono, SessionId, u32)>);

impl Rests {
    /// This subscription rests until then.
    pub fn rest(&mut self, until: Mono, session: SessionId, slot: u32) {
        self.0.insert((until, session, slot));
    }

    /// It has ended.
    pub fn forget(&mut self, until: Mono, session: SessionId, slot: u32) {
        self.0.remove(&(until, session, slot));
    }

    /// When the next one wakes.
    pub fn due(&self) -> Option<Mono> {
        self.0.first().map(|(until, ..)| *until)
    }

    /// Takes one whose time has come.
    pub fn take_due(&mut self, now: Mono) -> Option<(SessionId, u32)> {
        let (until, session, slot) = *self.0.first()?;
        (until <= now && self.0.remove(&(until, session, slot))).then_some((session, slot))
    }
}
