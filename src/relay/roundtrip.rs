//! How long upstream takes to answer a ping: the newest round trips, over all connections.
//!
//! Invariants: at most [`KEPT`] round trips are kept, the oldest goes first; a connection that died without an answer makes the
//! next one more patient, so that a path slower than every deadline so far is learnt and not cut for ever (as the
//! retransmission timer of RFC 6298 section 5.5 backs off); an answer ends that.
//! Deliberately not here: when to ping and when a connection is dead (the heartbeat's).

use std::collections::VecDeque;
use std::time::Duration;

/// Round trips kept: twenty minutes of them at the default interval.
const KEPT: usize = 64;
/// Doublings of the patience; more would be beyond every bound.
const DOUBLINGS_MAX: u32 = 6;

/// The newest round trips.
#[derive(Debug, Default)]
pub struct RoundTrips {
    kept: VecDeque<Duration>,
    /// Connections in a row that died waiting for an answer.
    unanswered: u32,
}

impl RoundTrips {
    /// A ping was answered after this long.
    pub fn observe(&mut self, trip: Duration) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(trip);
        self.unanswered = 0;
    }

    /// A connection died because its pings went unanswered.
    pub fn unanswered(&mut self) {
        self.unanswered = (self.unanswered + 1).min(DOUBLINGS_MAX);
    }

    /// By how many doublings to wait longer than what is known says.
    pub fn doublings(&self) -> u32 {
        self.unanswered
    }

    /// The median; `None` before the first answer.
    pub fn p50(&self) -> Option<Duration> {
        self.quantile(50)
    }

    /// The 99th percentile: of so few the longest, or nearly.
    pub fn p99(&self) -> Option<Duration> {
        self.quantile(99)
    }

    /// The shortest: the path without queues.
    pub fn least(&self) -> Option<Duration> {
        self.kept.iter().min().copied()
    }

    /// How much one differs from the one before it, on average (as the jitter of RFC 3550 section 6.4.1, over the window).
    pub fn jitter(&self) -> Option<Duration> {
        let steps = u32::try_from(self.kept.len()).ok()?.checked_sub(1).filter(|steps| *steps > 0)?;
        let sum: Duration = self.kept.iter().zip(self.kept.iter().skip(1)).map(|(a, b)| a.abs_diff(*b)).sum();
        Some(sum / steps)
    }

    fn quantile(&self, percent: usize) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.kept.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get((sorted.len() * percent / 100).min(sorted.len().checked_sub(1)?)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn quantiles_and_jitter_are_those_of_the_newest() {
        let mut trips = RoundTrips::default();
        assert_eq!((trips.p50(), trips.p99(), trips.least(), trips.jitter()), (None, None, None, None));
        trips.observe(ms(9_000));
        assert_eq!((trips.p50(), trips.p99(), trips.jitter()), (Some(ms(9_000)), Some(ms(9_000)), None));
        for n in 0..KEPT as u64 {
            trips.observe(ms(if n % 2 == 0 { 10 } else { 30 }));
        }
        assert_eq!((trips.p50(), trips.p99(), trips.least()), (Some(ms(30)), Some(ms(30)), Some(ms(10))));
        assert_eq!(trips.jitter(), Some(ms(20)), "the slow one has left the window");
    }

    #[test]
    fn patience_grows_with_each_death_and_an_answer_ends_it() {
        let mut trips = RoundTrips::default();
        for _ in 0..20 {
            trips.unanswered();
        }
        assert_eq!(trips.doublings(), DOUBLINGS_MAX);
        trips.observe(ms(1));
        assert_eq!(trips.doublings(), 0);
    }
}
