//! Upstream's times: numbers whose unit shows in their magnitude, RFC 3339 texts, and HTTP's dates.
//!
//! Invariant: what is no time reads as `None`; nothing overflows, nothing is rounded up.

use crate::relay::time::Wall;

const SECOND: u64 = 1_000_000_000;

/// A JSON number's text, or a string's content.
pub(crate) fn read(text: &str) -> Option<Wall> {
    let text = text.trim();
    match text.bytes().find(|byte| !byte.is_ascii_digit() && *byte != b'.') {
        None => number(text),
        Some(b'e' | b'E') => None,
        Some(_) => rfc3339(text),
    }
}

/// Since 1970, in seconds below 1e11 (year 5138), else milliseconds below 1e14, microseconds below 1e17, nanoseconds.
fn number(text: &str) -> Option<Wall> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let value: u64 = whole.parse().ok()?;
    let unit = match value {
        0..100_000_000_000 => SECOND,
        100_000_000_000..100_000_000_000_000 => 1_000_000,
        100_000_000_000_000..100_000_000_000_000_000 => 1_000,
        _ => 1,
    };
    value.checked_mul(unit)?.checked_add(decimal(fraction, unit)?).map(Wall)
}

/// The decimal fraction `0.DIGITS` of `unit`, cut.
fn decimal(digits: &str, unit: u64) -> Option<u64> {
    let mut rest = unit;
    let mut sum = 0;
    for digit in digits.bytes() {
        let digit = char::from(digit).to_digit(10)?;
        rest /= 10;
        sum += u64::from(digit) * rest;
    }
    Some(sum)
}

/// `2022-10-19T23:28:22.061769Z` (RFC 3339 section 5.6), also with a space for `T`, with an offset, or (as some services
/// send it) without one, meaning UTC.
fn rfc3339(text: &str) -> Option<Wall> {
    let bytes = text.as_bytes();
    let two = |at: usize| number_of(bytes.get(at..at + 2)?);
    let is = |at: usize, expected: &[u8]| bytes.get(at).is_some_and(|byte| expected.contains(byte));
    let year = number_of(bytes.get(..4)?)?;
    let (month, day, hour, minute, second) = (two(5)?, two(8)?, two(11)?, two(14)?, two(17)?);
    let shape = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    // 60: a leap second.
    let range = year >= 1970
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !shape || !range {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.len() - fraction.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 {
            return None;
        }
        nanos = decimal(&fraction[..digits], SECOND)?;
        rest = &fraction[digits..];
    }
    let local = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let seconds = local.checked_add_signed(-offset_seconds(rest)?)?;
    seconds.checked_mul(SECOND)?.checked_add(nanos).map(Wall)
}

/// `Sat, 21 Nov 2026 03:48:48 GMT`, HTTP's preferred form (RFC 9110 section 5.6.7), in seconds since 1970.
pub(crate) fn http_date(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (_, text) = text.split_once(", ")?;
    let [day, month, year, time, "GMT"] = text.split(' ').collect::<Vec<_>>()[..] else { return None };
    let month = MONTHS.find(month).filter(|at| month.len() == 3 && at % 3 == 0)? / 3 + 1;
    rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).map(|time| time.0 / SECOND)
}

fn number_of(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum, digit| Some(sum * 10 + u64::from(char::from(*digit).to_digit(10)?)))
}

fn offset_seconds(text: &str) -> Option<i64> {
    let sign = match text.as_bytes() {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return None,
    };
    let [a, b, b':', c, d] = text.as_bytes()[1..] else { return None };
    let (hours, minutes) = (number_of(&[a, b])?, number_of(&[c, d])?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    Some(sign * i64::try_from(hours * 3600 + minutes * 60).ok()?)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// For years from 1970 on.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let before = year - 1;
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leap_days(before) - leap_days(1969);
    years + (1..month).map(|month| days_in(year, month)).sum::<u64>() + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_by_magnitude() {
        for (text, nanos) in [
            ("1795233361", 1_795_233_361_000_000_000),
            ("1795233361.768519", 1_795_233_361_768_519_000),
            ("1672515782136", 1_672_515_782_136_000_000),
            ("1672515782136001", 1_672_515_782_136_001_000),
            ("1672515782136001002", 1_672_515_782_136_001_002),
            ("0", 0),
        ] {
            assert_eq!(read(text), Some(Wall(nanos)), "{text}");
        }
        for text in ["", "-1", "1e9", "99999999999999999999", ".", "1.2.3", "true"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn http_dates_are_read_in_their_preferred_form() {
        assert_eq!(http_date("Sat, 21 Nov 2026 03:48:48 GMT"), Some(1_795_232_928));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        for text in [
            "",
            "Sat, 21 Nov 2026 03:48:48 UTC",
            "Saturday, 21-Nov-26 03:48:48 GMT",
            "Sat, 21 ovD 2026 03:48:48 GMT",
            "Sat, 31 Nov 2026 03:48:48 GMT",
            "Sat, 1 Nov 2026 03:48:48 GMT",
            "Sat, 21 Nov 2026 é GMT",
        ] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }

    #[test]
    fn rfc_3339_agrees_with_what_the_relay_writes() {
        for nanos in [0, 951_782_400_000_000_000, 1_795_231_888_123_456_000, 4_102_444_799_999_999_000] {
            assert_eq!(read(&Wall(nanos).rfc3339()), Some(Wall(nanos)));
        }
        assert_eq!(read("2022-10-19T23:28:22.061769Z"), read("2022-10-20T01:28:22.061769+02:00"));
        assert_eq!(read("2022-10-19 23:28:22"), read("2022-10-19T23:28:22-00:00"));
        for text in [
            "2022-13-01T00:00:00Z",
            "2022-02-29T00:00:00Z",
            "2022-01-01T24:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "2022-01-01",
            "2022-01-01T00:00:00.Z",
            "2022-01-01T00:00:00+1:00",
            "2022-01-01T00:00:00é",
            "9999-12-31T00:00:00Z",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
