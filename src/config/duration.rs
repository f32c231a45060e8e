//! Durations as people write them: `500ms`, `10s`, `5m`, `24h`. Not here: which duration makes sense where.

use std::time::Duration;

/// Units, largest first, in nanoseconds.
const UNITS: [(&str, u128); 6] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

/// The longest duration that a configuration may name: a year, so that no sum of two overflows a timer.
pub const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Reads a whole number and its unit (`d`, `h`, `m`, `s`, `ms`, `us`); `None` for everything else and above [`LONGEST`].
pub fn parse(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let number: u128 = number.parse().ok()?;
    let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let nanos = u64::try_from(number.checked_mul(*nanos)?).ok()?;
    Some(Duration::from_nanos(nanos)).filter(|duration| *duration <= LONGEST)
}

/// Writes it in the largest unit that needs no fraction; what is below a microsecond is cut.
pub fn write(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let exact = UNITS.iter().find(|(_, unit)| nanos.is_multiple_of(*unit));
    let (name, unit) = exact.copied().unwrap_or(("us", 1_000));
    format!("{}{name}", nanos / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_a_round_trip() {
        for text in ["0s", "1us", "500ms", "10s", "90s", "5m", "24h", "10d"] {
            let read = parse(text).unwrap();
            assert_eq!(parse(&write(read)), Some(read), "{text}");
        }
        assert_eq!(parse("90s"), Some(Duration::from_secs(90)));
        assert_eq!(write(Duration::from_secs(90)), "90s");
        assert_eq!(write(Duration::from_secs(86_400)), "1d");
        assert_eq!(write(Duration::from_millis(1_500)), "1500ms");
    }

    #[test]
    fn what_is_no_duration_does_not_parse() {
        for text in ["", "10", "s", "1.5s", "-1s", "+1s", "10 s", "10sec", "10S", "99999999999999999999999s", "367d"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
