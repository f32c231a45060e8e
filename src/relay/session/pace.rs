//! When a subscription's entries may leave: not more often than it asked for.
//!
//! Invariant: the first event after a pause leaves at once; what follows waits for its time.

use std::time::Duration;

use crate::protocol::request::options::Options;
use crate::relay::time::Mono;

/// The pace of one subscription.
#[derive(Debug)]
pub struct Pace {
    /// From one batch to the next.
    interval: Duration,
    /// Not before.
    pub next: Mono,
}

impl Pace {
    /// The pace that options ask for, if they do.
    pub fn new(options: &Options) -> Option<Box<Pace>> {
        let interval = options.conflate?;
        Some(Box::new(Pace { interval, next: Mono(0) }))
    }

    /// How many events may leave now; 0: none before [`Pace::next`].
    pub fn allows(&self, now: Mono) -> u32 {
        if now < self.next { 0 } else { u32::MAX }
    }

    /// So many events leave.
    pub fn leave(&mut self, now: Mono, events: u32) {
        if events > 0 {
            self.next = now + self.interval;
        }
    }
}
