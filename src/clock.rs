//! The one place that asks the system what time it is.
//!
//! Carriers call [`now`] and hand the answer to the relay; nothing under `relay/` or `dialect/` may.
//! Invariant: all threads share one monotonic clock, so that times taken on different threads compare. It is the system's
//! (CLOCK_MONOTONIC), so that times taken by another process compare, too, as long as the system runs.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::relay::time::{Mono, Time, Wall};

/// The runtime's clock and ours, read together.
static START: LazyLock<(Instant, Mono)> = LazyLock::new(|| (Instant::now(), mono()));

/// Both clocks, read now.
pub fn now() -> Time {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Time { mono: mono(), wall: Wall(nanos(wall)) }
}

/// The monotonic clock alone, for latencies.
pub fn mono() -> Mono {
    let reading = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, rest) = (u64::try_from(reading.tv_sec).unwrap_or(0), u64::try_from(reading.tv_nsec).unwrap_or(0));
    Mono(seconds.saturating_mul(1_000_000_000).saturating_add(rest))
}

/// The instant at which the monotonic clock will read `at`, for timers of the runtime. A time too far away for the
/// system's clock is a day from now.
pub fn instant(at: Mono) -> Instant {
    const DAY: Duration = Duration::from_secs(86_400);
    let (start, reading) = *START;
    start.checked_add(at.since(reading)).unwrap_or_else(|| Instant::now() + DAY)
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_readings_and_instants_agree() {
        let (start, reading) = *START;
        assert_eq!(instant(reading), start);
        assert_eq!(instant(reading + Duration::from_secs(5)), start + Duration::from_secs(5));
        let (before, now, after) = (Instant::now(), instant(mono()), Instant::now());
        // The two were read one after the other when the first of them was asked for.
        let between = Duration::from_secs(1);
        assert!(before <= now + between && now <= after + between);
        assert!(instant(Mono(u64::MAX)) > after);
    }
}
