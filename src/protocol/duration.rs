//! Durations as people write them: whole numbers with units, `250ms`, `30s`, `24h`, `23h50m`, `7d`.

use std::time::Duration;

/// Longest duration that is taken: ten years. Keeps every sum with a clock far from overflow.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Reads a duration; `None` if the text is not of that form or longer than ten years.
pub fn parse(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = split(rest, |b| b.is_ascii_digit());
        let (unit, after) = split(after, |b| b.is_ascii_alphabetic());
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let part = number.parse::<u64>().ok()?.checked_mul(millis)?;
        total = total.checked_add(Duration::from_millis(part))?;
        rest = after;
    }
    (!text.is_empty() && total <= LONGEST).then_some(total)
}

/// The text up to the first byte that is not of this kind, and the rest.
fn split(text: &str, kind: impl Fn(&u8) -> bool) -> (&str, &str) {
    text.split_at_checked(text.bytes().take_while(kind).count()).unwrap_or((text, ""))
}

/// Whole milliseconds, cut: what frames, documents and log lines show.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Writes a duration in the largest unit that needs no fraction; what is below a millisecond is cut.
pub fn write(duration: Duration) -> String {
    const UNITS: [(&str, u128); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let exact = UNITS.iter().find(|(_, unit)| millis.is_multiple_of(*unit));
    exact.map(|(name, unit)| format!("{}{name}", millis / unit)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_a_round_trip() {
        for text in ["0s", "1ms", "1500ms", "90s", "5m", "25h", "10d"] {
            assert_eq!(write(parse(text).unwrap()), text);
        }
        assert_eq!(write(Duration::from_secs(86_400)), "1d");
        assert_eq!(write(Duration::from_micros(1_999)), "1ms");
    }

    #[test]
    fn durations_are_numbers_with_units() {
        assert_eq!(parse("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse("30s"), Some(Duration::from_secs(30)));
        assert_eq!(parse("5m"), Some(Duration::from_secs(300)));
        assert_eq!(parse("24h"), Some(Duration::from_secs(86_400)));
        assert_eq!(parse("7d"), Some(Duration::from_secs(604_800)));
        assert_eq!(parse("23h50m"), Some(Duration::from_secs(85_800)));
        for bad in [
            "",
            "s",
            "30",
            "30 s",
            "1h30",
            "-1s",
            "1.5s",
            "+1s",
            "30S",
            "99999999999999999999s",
            "4000d",
            "3000d3000d",
            "١s",
            "1é",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
