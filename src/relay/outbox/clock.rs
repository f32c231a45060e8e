//! The wall clock, distrusted: times to live are wall-clock times, and a clock that jumps must not expire everything.
//!
//! The difference between wall and monotonic time moves slowly unless somebody sets the clock. If it jumps by more than
//! [`JUMP`], nothing expires until it has stayed where it is for [`CONFIRM`]; if it jumps back, at once again.

use std::time::Duration;

use crate::relay::time::{Mono, Time, Wall};

/// A difference above this is a jump, below it is drift.
const JUMP: Duration = Duration::from_secs(60);
/// How long a jumped clock must stand still to be believed.
const CONFIRM: Duration = Duration::from_secs(5 * 60);

/// The guarded clock.
#[derive(Debug)]
pub(super) struct Clock {
    seen: Time,
    /// Wall minus monotonic time, in nanoseconds, as believed.
    trusted: i128,
    /// The same after a jump, and since when.
    doubted: Option<(i128, Mono)>,
    jumps: u64,
}

impl Clock {
    pub(super) fn new(now: Time) -> Self {
        Clock { seen: now, trusted: difference(now), doubted: None, jumps: 0 }
    }

    /// Takes notice of a reading.
    pub(super) fn observe(&mut self, now: Time) {
        self.seen = now;
        let difference = difference(now);
        if is_near(difference, self.trusted) {
            self.trusted = difference;
            self.doubted = None;
            return;
        }
        match self.doubted {
            Some((doubted, since)) if is_near(difference, doubted) => {
                if now.mono.since(since) >= CONFIRM {
                    self.trusted = difference;
                    self.doubted = None;
                }
            }
            _ => {
                self.doubted = Some((difference, now.mono));
                self.jumps += 1;
            }
        }
    }

    /// Whether `at` has come, by a clock that is believed.
    pub(super) fn is_past(&self, at: Wall) -> bool {
        self.doubted.is_none() && at <= self.seen.wall
    }

    /// When to look again whether `at` has come.
    pub(super) fn due(&self, at: Wall) -> Mono {
        match self.doubted {
            Some((_, since)) => since + CONFIRM,
            None => self.seen.mono + at.since(self.seen.wall),
        }
    }

    /// How often the clock jumped.
    pub(super) fn jumps(&self) -> u64 {
        self.jumps
    }
}

fn difference(now: Time) -> i128 {
    i128::from(now.wall.0) - i128::from(now.mono.0)
}

fn is_near(a: i128, b: i128) -> bool {
    a.abs_diff(b) <= JUMP.as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(mono: u64, wall: u64) -> Time {
        Time { mono: Mono(mono * SECOND), wall: Wall(wall * SECOND) }
    }

    #[test]
    fn a_jump_is_believed_after_five_minutes() {
        let mut clock = Clock::new(at(0, 1000));
        assert!(!clock.is_past(Wall(1010 * SECOND)));
        clock.observe(at(10, 1010));
        assert!(clock.is_past(Wall(1010 * SECOND)));
        clock.observe(at(11, 5000));
        assert!(!clock.is_past(Wall(1010 * SECOND)), "even what had been past is left alone");
        assert_eq!(clock.due(Wall(0)), at(311, 0).mono);
        clock.observe(at(310, 5299));
        assert!(!clock.is_past(Wall(2000 * SECOND)));
        clock.observe(at(311, 5300));
        assert!(clock.is_past(Wall(2000 * SECOND)));
        assert_eq!(clock.jumps(), 1);
    }

    #[test]
    fn a_jump_back_to_the_believed_time_counts_at_once_and_another_jump_starts_anew() {
        let mut clock = Clock::new(at(0, 1000));
        clock.observe(at(1, 9000));
        clock.observe(at(2, 1002));
        assert!(clock.is_past(Wall(1002 * SECOND)));
        clock.observe(at(3, 9000));
        clock.observe(at(200, 20_000));
        clock.observe(at(400, 20_200));
        assert!(!clock.is_past(Wall(0)));
        clock.observe(at(500, 20_300));
        assert!(clock.is_past(Wall(0)));
    }

    #[test]
    fn drift_is_followed() {
        let mut clock = Clock::new(at(0, 1000));
        for step in 1..100 {
            clock.observe(at(step * 100, 1000 + step * 150));
            assert!(clock.is_past(Wall((1000 + step * 150) * SECOND)));
        }
        assert_eq!(clock.jumps(), 0);
    }
}
