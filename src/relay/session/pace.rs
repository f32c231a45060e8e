//! When a subscription's entries may leave: not more often than it asked for.
//!
//! Invariants: the first event after a pause leaves at once, what follows waits for its time; in any time `per` at most as many
//! events leave as its rate says.

use std::time::Duration;

use crate::protocol::request::options::{Options, Rate};
use crate::relay::limiter::Bucket;
use crate::relay::time::Mono;

/// Timers are no finer than that by much: what a rate allows in this time may leave at once.
const GRAIN: Duration = Duration::from_millis(10);

/// The pace of one subscription.
#[derive(Debug)]
pub struct Pace {
    /// From one batch to the next.
    interval: Duration,
    /// Events.
    bucket: Option<Bucket>,
    /// Not before.
    pub next: Mono,
}

impl Pace {
    /// The pace that options ask for, if they do.
    pub fn new(options: &Options) -> Option<Box<Pace>> {
        let (interval, bucket) = (options.conflate.unwrap_or_default(), options.max_rate.map(bucket));
        options.is_paced().then(|| Box::new(Pace { interval, bucket, next: Mono(0) }))
    }

    /// How many events may leave now; 0: none before [`Pace::next`].
    pub fn allows(&self, now: Mono) -> u32 {
        match &self.bucket {
            _ if now < self.next => 0,
            Some(bucket) => bucket.left(now),
            None => u32::MAX,
        }
    }

    /// So many events leave. `whole`: they are all of their interval.
    pub fn leave(&mut self, now: Mono, events: u32, whole: bool) {
        if events > 0 && whole {
            self.next = now + self.interval;
        }
        if let Some(bucket) = &mut self.bucket {
            bucket.spend(now, events);
            self.next = self.next.max(bucket.next(now, 1));
        }
    }
}

/// A bucket that never grants more than the rate in any time `per`: what it holds at first comes off what comes back.
fn bucket(rate: Rate) -> Bucket {
    let apart = rate.per / rate.events.max(1);
    let burst = u32::try_from(GRAIN.as_nanos() / apart.as_nanos().max(1)).unwrap_or(1).max(1);
    Bucket::new(rate.events.saturating_sub(burst - 1), rate.per, burst)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_takes_all_it_may_gets_the_rate_and_no_more() {
        for events in [1, 10, 150, 999, 1000] {
            let rate = Rate { events, per: Duration::from_secs(1) };
            let mut pace = Pace::new(&Options { max_rate: Some(rate), ..Options::default() }).unwrap();
            let mut left: Vec<u32> = Vec::new();
            for ms in 0..3_000 {
                let now = Mono(1_000_000_000 + ms * 1_000_000);
                let granted = pace.allows(now);
                pace.leave(now, granted, true);
                left.push(granted);
            }
            let most = left.windows(1_000).map(|window| window.iter().sum::<u32>()).max().unwrap();
            assert!(most <= events && most >= events - events / 10, "{most} of {events}");
        }
    }

    proptest! {
        #[test]
        fn no_window_holds_more_than_the_rate(
            events in 1..=1000_u32,
            wishes in prop::collection::vec((0..40_u64, 1..50_u32), 1..400),
        ) {
            let per = Duration::from_secs(1);
            let options = Options { max_rate: Some(Rate { events, per }), ..Options::default() };
            let mut pace = Pace::new(&options).unwrap();
            let mut now = Mono(1_000_000_000);
            let mut left: Vec<Mono> = Vec::new();
            for (wait, wish) in wishes {
                now = now + Duration::from_millis(wait);
                let granted = pace.allows(now).min(wish);
                prop_assert_eq!(pace.allows(now) == 0, now < pace.next);
                pace.leave(now, granted, true);
                left.extend((0..granted).map(|_| now));
            }
            for (from, at) in left.iter().enumerate() {
                let within = left[from..].iter().filter(|other| other.since(*at) < per).count();
                prop_assert!(within <= events as usize, "{} in a second", within);
            }
        }
    }
}
