//! Durations as people write them: a whole number and a unit, `250ms`, `30s`, `5m`, `24h`, `7d`.

use std::time::Duration;

/// Longest duration that is taken: ten years. Keeps every sum with a clock far from overflow.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Reads a duration; `None` if the text is not of that form or longer than ten years.
pub fn parse(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?)).filter(|d| *d <= LONGEST)
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
    fn durations_are_a_number_and_a_unit() {
        assert_eq!(parse("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse("30s"), Some(Duration::from_secs(30)));
        assert_eq!(parse("5m"), Some(Duration::from_secs(300)));
        assert_eq!(parse("24h"), Some(Duration::from_secs(86_400)));
        assert_eq!(parse("7d"), Some(Duration::from_secs(604_800)));
        for bad in ["", "s", "30", "30 s", "-1s", "1.5s", "+1s", "30S", "99999999999999999999s", "4000d", "١s"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
