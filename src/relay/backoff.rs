//! Exponential backoff with full jitter: the wait before try `n` is drawn evenly from nothing up to `min * 2^n`, at most
//! `max` (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015), so that many relays never come in step.
//!
//! Invariant: a wait is never above `floor + max`, and never below the floor that the other side asked for.
//! Deliberately not here: when a try counts as a success (the link's `stable_for`), and giving up.

use std::time::Duration;

use super::rng::Rng;
use crate::config::BackoffConfig;

/// The upper bound of the wait after `failures` earlier failures in a row.
pub fn bound(bounds: BackoffConfig, failures: u32) -> Duration {
    // Any doubling beyond 2^31 is above every configurable maximum.
    bounds.min.saturating_mul(1 << failures.min(31)).min(bounds.max)
}

/// A wait after `failures` earlier failures in a row. `floor` is the least that the other side asked for (`Retry-After`):
/// the jitter comes on top of it.
pub fn delay(bounds: BackoffConfig, failures: u32, floor: Option<Duration>, rng: &mut Rng) -> Duration {
    floor.unwrap_or_default().saturating_add(up_to(bound(bounds, failures), rng))
}

/// A wait where trying soon is pointless (a certificate that does not check, refused credentials): the upper half of the
/// longest one.
pub fn slow(bounds: BackoffConfig, rng: &mut Rng) -> Duration {
    let half = bounds.max / 2;
    half.saturating_add(up_to(half, rng))
}

/// Evenly from nothing to `bound`, inclusive.
fn up_to(bound: Duration, rng: &mut Rng) -> Duration {
    let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.below(nanos.saturating_add(1)))
}

/// After which part of a life of a token more is asked for: a random one, from three quarters to four fifths, so that many
/// relays do not ask at once.
pub fn early(life: Duration, rng: &mut Rng) -> Duration {
    let percent = 75 + rng.below(6);
    life.mul_f64(percent as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    const BOUNDS: BackoffConfig = BackoffConfig { min: Duration::from_millis(500), max: Duration::from_secs(60) };

    #[test]
    fn bounds_double_up_to_the_maximum() {
        let bounds: Vec<u128> = (0..9).map(|n| bound(BOUNDS, n).as_millis()).collect();
        assert_eq!(bounds, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(bound(BOUNDS, u32::MAX), BOUNDS.max);
    }

    #[test]
    fn jitter_is_full() {
        let mut rng = Rng::new(1);
        let waits: Vec<u128> = (0..1000).map(|_| delay(BOUNDS, 7, None, &mut rng).as_secs().into()).collect();
        let mean = waits.iter().sum::<u128>() / 1000;
        assert!((25..35).contains(&mean), "evenly over the whole range: {mean}");
        assert!(waits.iter().any(|s| *s < 3) && waits.iter().any(|s| *s > 56));
    }

    proptest! {
        #[test]
        fn a_wait_is_within_its_bounds(seed: u64, failures: u32, min in 0u64..10_000, more in 0u64..1_000_000, floor in 0u64..4_000_000) {
            let bounds = BackoffConfig { min: Duration::from_millis(min), max: Duration::from_millis(min + more) };
            let mut rng = Rng::new(seed);
            let wait = delay(bounds, failures, None, &mut rng);
            prop_assert!(wait <= bound(bounds, failures) && bound(bounds, failures) <= bounds.max);
            let floor = Duration::from_millis(floor);
            let wait = delay(bounds, failures, Some(floor), &mut rng);
            prop_assert!(wait >= floor && wait <= floor + bounds.max);
            let wait = slow(bounds, &mut rng);
            prop_assert!(wait >= bounds.max / 2 && wait <= bounds.max);
        }
    }
}
