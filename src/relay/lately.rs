//! How much a counter rose in the last minutes or hour: what rates and alerts are made of.
//!
//! Invariant: a fixed number of samples ([`STEPS`]), however long nobody asked. The window is exact to one step.

use std::collections::VecDeque;
use std::time::Duration;

use super::time::Mono;

/// Steps of a window.
const STEPS: usize = 60;

/// One counter, remembered over a window.
#[derive(Debug)]
pub struct Lately {
    step: Duration,
    /// The counter at the end of each step, oldest first.
    samples: VecDeque<u64>,
    /// The counter when it was looked at last.
    last: u64,
    next: Mono,
}

impl Lately {
    /// A counter that stands at 0 now.
    pub fn new(now: Mono, window: Duration) -> Self {
        let step = window / STEPS as u32;
        Lately { step, samples: VecDeque::from([0]), last: 0, next: now + step }
    }

    /// How much it rose within the window, or since it began. `count`: where it stands now.
    pub fn rise(&mut self, now: Mono, count: u64) -> u64 {
        let mut steps = 0;
        while self.next <= now && steps <= STEPS {
            // What rose since the last look rose at an unknown time: it counts as new.
            self.samples.push_back(self.last);
            self.next = self.next + self.step;
            steps += 1;
        }
        if self.next <= now {
            self.next = now + self.step;
        }
        self.last = count;
        while self.samples.len() > STEPS {
            self.samples.pop_front();
        }
        self.samples.front().map_or(0, |before| count.saturating_sub(*before))
    }

    /// How much of the window has passed, at most one.
    pub fn filled(&self) -> f64 {
        self.samples.len() as f64 / STEPS as f64
    }

    /// Per second, over what has passed of the window.
    pub fn rate(&mut self, now: Mono, count: u64) -> f64 {
        let rise = self.rise(now, count) as f64;
        rise / (self.step.as_secs_f64() * self.samples.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    #[test]
    fn a_rise_is_forgotten_after_the_window() {
        let mut lately = Lately::new(at(0), Duration::from_secs(3_600));
        assert_eq!(lately.rise(at(30), 7), 7);
        assert_eq!(lately.rise(at(1_800), 10), 10);
        assert_eq!(lately.rise(at(3_539), 10), 10);
        assert_eq!(lately.rise(at(3_660), 10), 3, "the first seven are over an hour old");
        assert_eq!(lately.rise(at(6_000), 10), 0);
        assert_eq!(lately.rise(at(1_000_000), 12), 2, "what rose unseen counts as new");
        assert_eq!(lately.samples.len(), STEPS);
    }

    #[test]
    fn a_rate_is_per_second_of_what_has_passed() {
        let mut lately = Lately::new(at(0), Duration::from_secs(60));
        assert!((lately.rate(at(9), 50) - 5.0).abs() < 1e-9);
        for second in 10..200 {
            lately.rate(at(second), second * 4);
        }
        assert!((lately.rate(at(200), 800) - 4.0).abs() < 0.1);
    }
}
