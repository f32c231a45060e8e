//! The one clock, passed in: a monotonic reading for every timer, a wall reading for what people see.
//!
//! Invariant: nothing under `relay/` or `dialect/` asks a clock; whoever calls the machine brings the time along.
//! Timers never use the wall clock; only TTLs and displayed times do.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Monotonic time in nanoseconds since an arbitrary start. Never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

/// Wall-clock time in nanoseconds since 1970-01-01T00:00:00Z. May jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wall(pub u64);

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// For timers and latencies.
    pub mono: Mono,
    /// For timestamps and TTLs.
    pub wall: Wall,
}

impl Mono {
    /// Time passed since `earlier`; zero if `earlier` lies in the future.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, d: Duration) -> Mono {
        Mono(self.0.saturating_add(nanos(d)))
    }
}

impl Sub<Duration> for Mono {
    type Output = Mono;
    fn sub(self, d: Duration) -> Mono {
        Mono(self.0.saturating_sub(nanos(d)))
    }
}

impl Add<Duration> for Wall {
    type Output = Wall;
    fn add(self, d: Duration) -> Wall {
        Wall(self.0.saturating_add(nanos(d)))
    }
}

impl Wall {
    /// Time passed since `earlier`; zero if `earlier` lies in the future.
    pub fn since(self, earlier: Wall) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Milliseconds since 1970, as message ids carry it.
    pub fn millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Appends the time as RFC 3339 in UTC with microseconds: `2026-11-21T03:31:28.123456Z`.
    pub fn write_rfc3339(self, out: &mut Vec<u8>) {
        let secs = self.0 / 1_000_000_000;
        let micros = (self.0 % 1_000_000_000) / 1_000;
        let (year, month, day) = civil_from_days(secs / 86_400);
        let of_day = secs % 86_400;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        put(&mut text[..4], year);
        put(&mut text[5..7], month);
        put(&mut text[8..10], day);
        put(&mut text[11..13], of_day / 3600);
        put(&mut text[14..16], of_day / 60 % 60);
        put(&mut text[17..19], of_day % 60);
        put(&mut text[20..26], micros);
        out.extend_from_slice(&text);
    }

    /// The same as [`Wall::write_rfc3339`], as a string.
    pub fn rfc3339(self) -> String {
        let mut out = Vec::with_capacity(27);
        self.write_rfc3339(&mut out);
        out.into_iter().map(char::from).collect()
    }
}

impl Time {
    /// Both clocks moved on by `d`.
    pub fn after(self, d: Duration) -> Time {
        Time { mono: self.mono + d, wall: self.wall + d }
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// Fills a field with the last digits of a value.
#[inline]
fn put(field: &mut [u8], mut value: u64) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (value % 10).to_le_bytes()[0];
        value /= 10;
    }
}

/// Days since 1970 to (year, month, day), after the calendar arithmetic that Howard Hinnant describes in
/// "chrono-compatible low-level date algorithms".
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_reads_as_rfc3339() {
        assert_eq!(Wall(0).rfc3339(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Wall(951_782_400_000_000_000).rfc3339(), "2000-02-29T00:00:00.000000Z");
        assert_eq!(Wall(1_795_231_888_123_456_789).rfc3339(), "2026-11-21T03:31:28.123456Z");
        assert_eq!(Wall(4_102_444_799_999_999_999).rfc3339(), "2099-12-31T23:59:59.999999Z");
    }

    #[test]
    fn monotonic_time_saturates() {
        assert_eq!(Mono(5).since(Mono(9)), Duration::ZERO);
        assert_eq!(Mono(u64::MAX) + Duration::from_secs(1), Mono(u64::MAX));
        assert_eq!(Mono(3) - Duration::from_secs(1), Mono(0));
    }
}
