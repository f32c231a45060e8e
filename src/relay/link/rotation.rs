//! When a second connection is opened to take the place of the one that serves, before that one ends.
//!
//! Invariants: nothing is due while none serves; a connection that has to go by a certain age is replaced within the last
//! fifth of it, at a moment drawn by chance, so that many relays never come in step; a try that failed is followed by backoff.
//! Deliberately not here: how the second connection takes over.

use std::time::Duration;

use super::super::backoff;
use super::super::rng::Rng;
use super::super::time::Mono;
use crate::config::BackoffConfig;

/// The part of the age at which the window for the replacement begins, and its length, in percent.
const WINDOW_BEGINS: u32 = 80;
const WINDOW: u32 = 10;

/// Why a second connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The one that serves grows old.
    Age,
    /// People asked for it.
    Asked,
    /// Upstream asks for a new connection; the one that serves is given up if no other one comes about.
    Told,
    /// What the connection was made with runs out.
    Credentials,
    /// The address names other channels than are wanted.
    Channels,
    /// A better transport may get through by now.
    Climb,
}

impl Why {
    /// Its word, for the log and people.
    pub fn text(self) -> &'static str {
        match self {
            Why::Age => "age",
            Why::Asked => "asked",
            Why::Told => "told",
            Why::Credentials => "credentials",
            Why::Channels => "channels",
            Why::Climb => "climb",
        }
    }
}

/// The plan of the next replacement.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rotation {
    /// The age at which the connection that serves has to be replaced.
    age: Option<Duration>,
    next: Option<(Mono, Why)>,
    /// Tries in a row that failed.
    failures: u32,
}

impl Rotation {
    /// By the configuration's and the provider's ages: the lower one counts.
    pub fn new(ages: [Option<Duration>; 2]) -> Self {
        Rotation { age: ages.into_iter().flatten().min(), next: None, failures: 0 }
    }

    /// A connection begins to serve.
    pub fn served(&mut self, now: Mono, rng: &mut Rng) {
        self.failures = 0;
        self.next = self.age.map(|age| {
            let window = u64::try_from((age * WINDOW / 100).as_nanos()).unwrap_or(u64::MAX);
            let into = Duration::from_nanos(rng.below(window.max(1)));
            (now + age * WINDOW_BEGINS / 100 + into, Why::Age)
        });
    }

    /// None serves any more.
    pub fn lost(&mut self) {
        self.next = None;
    }

    /// A replacement is wanted at `at`, or earlier if one is planned earlier.
    pub fn ask(&mut self, at: Mono, why: Why) {
        match self.next {
            Some((planned, Why::Age)) if planned <= at => self.next = Some((planned, why)),
            Some((planned, _)) if planned <= at => {}
            _ => self.next = Some((at, why)),
        }
    }

    /// When the next replacement is due, and why.
    pub fn next(&self) -> Option<(Mono, Why)> {
        self.next
    }

    /// The try for this reason came to nothing: the next one waits.
    pub fn failed(&mut self, now: Mono, why: Why, floor: Duration, bounds: BackoffConfig, rng: &mut Rng) {
        let wait = backoff::delay(bounds, self.failures, Some(floor), rng);
        self.failures = self.failures.saturating_add(1);
        self.next = Some((now + wait, why));
    }

    /// The try begins.
    pub fn begin(&mut self) -> Option<Why> {
        self.next.take().map(|(_, why)| why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: BackoffConfig = BackoffConfig { min: Duration::from_secs(1), max: Duration::from_secs(60) };
    const DAY: Duration = Duration::from_secs(86_400);

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    #[test]
    fn a_connection_is_replaced_before_its_age_and_not_in_step_with_others() {
        let mut rng = Rng::new(1);
        let mut rotation = Rotation::new([Some(DAY * 2), Some(DAY)]);
        assert_eq!(rotation.next(), None, "none serves");
        let times: Vec<u64> = (0..100)
            .map(|_| {
                rotation.served(at(0), &mut rng);
                rotation.next().unwrap().0.0 / 1_000_000_000
            })
            .collect();
        assert!(times.iter().all(|time| (69_120..=77_760).contains(time)), "{times:?}");
        assert!(times.iter().max().unwrap() - times.iter().min().unwrap() > 7_000, "{times:?}");
        rotation.lost();
        assert_eq!(rotation.next(), None);
    }

    #[test]
    fn the_earliest_wish_counts() {
        let mut rotation = Rotation::new([None, None]);
        rotation.ask(at(10), Why::Told);
        rotation.ask(at(20), Why::Asked);
        assert_eq!(rotation.next(), Some((at(10), Why::Told)));
        rotation.ask(at(5), Why::Asked);
        assert_eq!(rotation.begin(), Some(Why::Asked));
        assert_eq!(rotation.next(), None);
    }

    #[test]
    fn tries_that_fail_are_backed_off() {
        let mut rng = Rng::new(1);
        let mut rotation = Rotation::new([None, None]);
        let waits: Vec<u64> = (0..8)
            .map(|_| {
                rotation.failed(at(0), Why::Asked, Duration::ZERO, BOUNDS, &mut rng);
                rotation.next().unwrap().0.0 / 1_000_000
            })
            .collect();
        assert!(waits[0] <= 1_000 && waits[1] <= 2_000 && waits.iter().any(|wait| *wait > 8_000), "{waits:?}");
    }
}
