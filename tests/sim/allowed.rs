//! What the provider counts over all connections and all lives of the relay, and what it allows: S18.

use std::collections::VecDeque;

use tidegate::relay::time::Mono;

/// `[limits]` of the simulated dialect.
pub const LIMITS: &str = "[limits]\nrate = \"15/s\"\nburst = 30\nconnects = \"20/10s\"\n";
const FRAMES_PER_SECOND: f64 = 15.0;
const FRAMES_AT_ONCE: f64 = 30.0;
const CONNECTS: usize = 20;
const CONNECTS_IN: u64 = 10_000_000_000;

/// The provider's own books.
pub struct Provider {
    /// Connects that it allows in ten seconds.
    most: usize,
    /// Connects of the last ten seconds; with those that a dead disk could not keep.
    connects: VecDeque<(Mono, bool)>,
    /// How full a bucket is that leaks at the rate: it holds so many frames, in whatever window they came.
    level: f64,
    last: Mono,
}

impl Default for Provider {
    fn default() -> Self {
        Provider::allowing(CONNECTS)
    }
}

impl Provider {
    /// So many connects in ten seconds.
    pub fn allowing(most: usize) -> Self {
        Provider { most, connects: VecDeque::new(), level: 0.0, last: Mono::default() }
    }

    /// A connect; `unkept`: it was begun while no disk could know of it.
    pub fn connect(&mut self, now: Mono, unkept: bool) -> Result<(), String> {
        while self.connects.front().is_some_and(|(at, _)| at.0 + CONNECTS_IN <= now.0) {
            self.connects.pop_front();
        }
        self.connects.push_back((now, unkept));
        match self.connects.len() {
            count if count > self.most => Err(format!("S18: {count} connects within ten seconds")),
            _ => Ok(()),
        }
    }

    /// Frames.
    pub fn frames(&mut self, now: Mono, count: usize) -> Result<(), String> {
        let leaked = now.since(self.last).as_secs_f64() * FRAMES_PER_SECOND;
        self.level = (self.level - leaked).max(0.0) + count as f64;
        self.last = now;
        // Sums of fractions are not exact.
        if self.level > FRAMES_AT_ONCE + 1e-6 {
            return Err(format!("S18: {} frames at once, {FRAMES_AT_ONCE} are allowed", self.level));
        }
        Ok(())
    }

    /// The relay starts again: it cannot know what its disk did not take.
    pub fn restarted(&mut self) {
        self.connects.retain(|(_, unkept)| !unkept);
    }
}
