//! A token bucket: what leaves for upstream, and what a session may ask, in a span of time.
//!
//! Kept as one moment, the one at which the bucket would be full again (the virtual scheduling of ITU-T I.371's generic cell
//! rate algorithm): no timer refills anything and no rounding adds up.
//! Invariant: in any window `w`, what [`Bucket::take`] granted weighs at most `burst + w * rate`.
//! Deliberately not here: what waits for tokens, and in which order.

use std::time::Duration;

use super::time::Mono;

/// A token bucket. It starts full.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Nanoseconds in which one token comes back.
    interval: u64,
    /// Tokens it holds.
    burst: u32,
    /// When it is full again.
    full_at: Mono,
}

impl Bucket {
    /// A bucket to which `tokens` come back in the time `per`, evenly, and which holds `burst` tokens (0 counts as 1 in both).
    /// With `burst` 1 what leaves is evenly spaced: what to do where a service names a rate alone, because some count in
    /// windows of their own and a burst at the seam trips them.
    pub fn new(tokens: u32, per: Duration, burst: u32) -> Self {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        // Rounded up: never faster than the rate.
        Bucket { interval: per.div_ceil(u64::from(tokens.max(1))), burst: burst.max(1), full_at: Mono(0) }
    }

    /// Takes `weight` tokens if they are there now. More than `burst` counts as `burst`, else it could never be granted.
    pub fn take(&mut self, now: Mono, weight: u32) -> bool {
        if self.next(now, weight) > now {
            return false;
        }
        self.spend(now, self.capped(weight));
        true
    }

    /// Takes `weight` tokens whether or not they are there: for what leaves without asking (pongs). At most one `burst` of
    /// debt is kept, so that a flood of pings cannot silence us for longer than that.
    pub fn spend(&mut self, now: Mono, weight: u32) {
        let bound = now + self.span(self.burst).saturating_mul(2);
        self.full_at = (self.full_at.max(now) + self.span(weight)).min(bound);
    }

    /// Gives back what was taken and not used.
    pub fn refund(&mut self, weight: u32) {
        self.full_at = self.full_at - self.span(self.capped(weight));
    }

    /// When `weight` tokens are there at the earliest; `now` if they are there already.
    pub fn next(&self, now: Mono, weight: u32) -> Mono {
        let held = self.span(self.burst - self.capped(weight));
        (self.full_at - held).max(now)
    }

    /// Tokens that it holds when it is full.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// When it is full again; in the past if it is.
    pub fn full_at(&self) -> Mono {
        self.full_at
    }

    /// Tokens that are there now.
    pub fn left(&self, now: Mono) -> u32 {
        let missing = self.full_at.since(now).as_nanos().div_ceil(u128::from(self.interval.max(1)));
        self.burst - u32::try_from(missing).unwrap_or(u32::MAX).min(self.burst)
    }

    /// Tokens that come back in a second, one at least and as many as it holds at most.
    pub fn per_second(&self) -> u32 {
        let tokens = 1_000_000_000 / self.interval.max(1);
        u32::try_from(tokens).unwrap_or(u32::MAX).clamp(1, self.burst)
    }

    /// What a bucket that is full at `full_at` lacks now, in thousandths of a token, rounded up.
    pub fn lacks(&self, now: Mono, full_at: Mono) -> u64 {
        let lacks = full_at.since(now).as_nanos().saturating_mul(1_000).div_ceil(u128::from(self.interval.max(1)));
        u64::try_from(lacks).unwrap_or(u64::MAX)
    }

    /// Goes on as a bucket that lacked so many thousandths of a token at a moment since which this time has passed. It lacks
    /// no more than it holds: what took more was not asked whether it may.
    pub fn go_on(&mut self, now: Mono, lacks: u64, passed: Duration) {
        let lacked = u128::from(self.interval).saturating_mul(u128::from(lacks)).div_ceil(1_000);
        let lacked = Duration::from_nanos(u64::try_from(lacked).unwrap_or(u64::MAX));
        self.full_at = now + lacked.saturating_sub(passed).min(self.span(self.burst));
    }

    /// How long so many tokens take to come back.
    pub fn span(&self, tokens: u32) -> Duration {
        Duration::from_nanos(self.interval.saturating_mul(u64::from(tokens)))
    }

    fn capped(&self, weight: u32) -> u32 {
        weight.min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000 + 1_000_000_000)
    }

    #[test]
    fn without_a_burst_what_leaves_is_evenly_spaced() {
        let mut bucket = Bucket::new(4, SECOND, 1);
        assert!(bucket.take(at(0), 1));
        assert!(!bucket.take(at(249), 1));
        assert_eq!(bucket.next(at(0), 1), at(250));
        assert!(bucket.take(at(250), 1));
        assert!(bucket.take(at(900), 1), "unused time does not add up to a burst");
        assert!(!bucket.take(at(901), 1));
    }

    #[test]
    fn a_burst_is_there_once() {
        let mut bucket = Bucket::new(8, SECOND, 20);
        assert!((0..20).all(|_| bucket.take(at(0), 1)));
        assert_eq!(bucket.next(at(0), 1), at(125));
        assert_eq!(bucket.next(at(0), 3), at(375));
        assert!(bucket.take(at(375), 3));
    }

    #[test]
    fn refund_and_weights() {
        let mut bucket = Bucket::new(1, SECOND, 3);
        assert!(bucket.take(at(0), 9), "more than it ever holds counts as all of it");
        assert!(!bucket.take(at(0), 1));
        bucket.refund(2);
        assert!(bucket.take(at(0), 2));
        assert_eq!(bucket.next(at(0), 1), at(1000));
    }

    #[test]
    fn a_flood_of_unasked_spending_is_a_bounded_debt() {
        let mut bucket = Bucket::new(2, SECOND, 2);
        for _ in 0..1000 {
            bucket.spend(at(0), 1);
        }
        assert_eq!(bucket.next(at(0), 1), at(1500));
    }

    #[test]
    fn it_goes_on_where_it_was() {
        let mut bucket = Bucket::new(2, SECOND, 4);
        assert!(bucket.take(at(0), 3));
        let lacks = bucket.lacks(at(100), bucket.full_at());
        assert_eq!((lacks, bucket.left(at(100)), bucket.left(at(600))), (2_800, 1, 2));
        let go_on = |passed: u64| {
            let mut next = Bucket::new(2, SECOND, 4);
            next.go_on(at(50_000), lacks, Duration::from_millis(passed));
            (next.left(at(50_000)), next.next(at(50_000), 4))
        };
        assert_eq!(go_on(0), (1, at(51_400)));
        assert_eq!(go_on(400), (2, at(51_000)));
        assert_eq!(go_on(u64::MAX), (4, at(50_000)), "never more than it holds");
        let mut slower = Bucket::new(1, SECOND, 4);
        slower.go_on(at(0), lacks, Duration::ZERO);
        assert_eq!(slower.left(at(0)), 1, "tokens are counted, not time: the rate may be another one now");
        slower.go_on(at(0), u64::MAX, Duration::ZERO);
        assert_eq!(slower.next(at(0), 1), at(1_000), "it is empty");
    }

    proptest! {
        #[test]
        fn no_window_gets_more_than_the_rate(
            tokens in 1u32..50, burst in 1u32..20, steps in prop::collection::vec((0u64..400, 1u32..4), 1..200)
        ) {
            let mut bucket = Bucket::new(tokens, SECOND, burst);
            let mut now = 0;
            let mut granted: Vec<(u64, u32)> = Vec::new();
            for (step, weight) in steps {
                now += step;
                if bucket.take(at(now), weight) {
                    granted.push((now, weight.min(burst)));
                }
            }
            for first in 0..granted.len() {
                let mut sum = 0u64;
                for (time, weight) in &granted[first..] {
                    sum += u64::from(*weight);
                    // All in thousandths of a token, so that the comparison is exact.
                    prop_assert!(sum * 1000 <= u64::from(burst) * 1000 + (time - granted[first].0) * u64::from(tokens));
                }
            }
        }

        #[test]
        fn what_is_promised_is_granted(tokens in 1u32..50, burst in 1u32..20, weights in prop::collection::vec(1u32..25, 1..50)) {
            let mut bucket = Bucket::new(tokens, SECOND, burst);
            let mut now = at(0);
            for weight in weights {
                let next = bucket.next(now, weight);
                if next > now {
                    prop_assert!(!bucket.clone().take(Mono(next.0 - 1), weight));
                }
                now = next;
                prop_assert!(bucket.take(now, weight));
            }
        }
    }
}
