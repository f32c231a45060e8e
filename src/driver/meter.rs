//! How well the event loop does: length of its turns, and how late it wakes for timers.

use crate::relay::stats::{CarrierStats, Histogram};
use crate::relay::time::Mono;
use crate::store::StoreStats;

/// Counts turns and lateness.
#[derive(Default)]
pub struct Meter {
    turns: u64,
    turn: Histogram,
    lag: Histogram,
}

impl Meter {
    /// A turn is over.
    pub fn turned(&mut self, began: Mono, ended: Mono) {
        self.turns += 1;
        self.turn.observe(ended.since(began));
    }

    /// A timer that was due at `due` was noticed at `noticed`.
    pub fn woke(&mut self, due: Mono, noticed: Mono) {
        self.lag.observe(noticed.since(due));
    }

    /// The numbers, with the store's.
    pub fn read(&self, store: &StoreStats) -> CarrierStats {
        CarrierStats {
            turns: self.turns,
            turn: self.turn.clone(),
            lag: self.lag.clone(),
            store_disk_bytes: store.disk_bytes,
            store_free_bytes: store.free_bytes,
            store_lost: store.lost,
        }
    }
}
