//! The one place that asks the system what time it is.
//!
//! Carriers call [`now`] and hand the answer to the relay; nothing under `relay/` or `dialect/` may.
//! Invariant: all threads share one monotonic start, so that times taken on different threads compare.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::relay::time::{Mono, Time, Wall};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Both clocks, read now.
pub fn now() -> Time {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Time { mono: mono(), wall: Wall(nanos(wall)) }
}

/// The monotonic clock alone, for latencies.
pub fn mono() -> Mono {
    Mono(nanos(START.elapsed()))
}

/// The instant at which the monotonic clock will read `at`, for timers of the runtime. A time too far away for the
/// system's clock is a day from now.
pub fn instant(at: Mono) -> Instant {
    const DAY: Duration = Duration::from_secs(86_400);
    START.checked_add(Duration::from_nanos(at.0)).unwrap_or_else(|| Instant::now() + DAY)
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_readings_and_instants_agree() {
        let before = Instant::now();
        let reading = mono();
        let after = Instant::now();
        assert!(instant(reading) <= after);
        assert!(instant(reading) >= before.checked_sub(Duration::from_micros(1)).unwrap());
        assert!(instant(Mono(u64::MAX)) > after);
    }
}
