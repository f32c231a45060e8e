//! How well the event loop does: length of its turns, and how late it wakes for timers.

use crate::relay::stats::LoopStats;
use crate::relay::time::Mono;

/// Counts turns and lateness.
#[derive(Default)]
pub struct Meter(LoopStats);

impl Meter {
    /// A turn is over.
    pub fn turned(&mut self, began: Mono, ended: Mono) {
        self.0.turns += 1;
        self.0.turn.observe(ended.since(began));
    }

    /// A timer that was due at `due` was noticed at `noticed`.
    pub fn woke(&mut self, due: Mono, noticed: Mono) {
        self.0.lag.observe(noticed.since(due));
    }

    /// The numbers so far.
    pub fn read(&self) -> LoopStats {
        self.0.clone()
    }
}
