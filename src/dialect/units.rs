//! Small notations of dialect files: durations, rates, close codes, and what an error means.
//!
//! Invariant: a text is read whole or not at all; nothing overflows.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Then;
use super::limits::Rate;

/// The longest duration that makes sense in a dialect: a year.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// A duration that makes sense in a dialect.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    crate::protocol::duration::parse(text).filter(|duration| *duration <= LONGEST)
}

/// `"4/s"`, `"110/60s"`, `"300/m"`: tokens that come back in that time. The bucket holds one, so that frames leave evenly
/// spaced: a burst at the seam of a provider's own counting windows trips limits that the mean rate keeps.
pub(crate) fn rate(text: &str) -> Option<Rate> {
    let (tokens, per) = text.split_once('/')?;
    let tokens: u32 = tokens.parse().ok().filter(|tokens| *tokens > 0)?;
    let per = match per {
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => duration(per).filter(|per| !per.is_zero())?,
    };
    Some(Rate { tokens, per, burst: 1 })
}

/// `"retry"`, …, `"pause 30s"`.
pub(crate) fn then(text: &str) -> Option<Then> {
    Some(match text {
        "retry" => Then::Retry,
        "reject" => Then::Reject,
        "refresh" => Then::Refresh,
        "resubscribe" => Then::Resubscribe,
        "reconnect" => Then::Reconnect,
        "fatal" => Then::Fatal,
        _ => Then::Pause(duration(text.strip_prefix("pause ")?)?),
    })
}

/// `"4001"` or `"4000-4099"`: close codes, and HTTP statuses, which are smaller.
pub(crate) fn codes(text: &str) -> Option<RangeInclusive<u16>> {
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| matches!(code, 200..=599 | 1000..=4999));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (code(first)?, code(last)?),
        None => (code(text)?, code(text)?),
    };
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("23h50m", 85_800_000), ("1d", 86_400_000), ("0s", 0)] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "30", "s", "30 s", "-1s", "1.5s", "1w", "99999999999999999999s", "18446744073709551615d", "400d"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn rates() {
        let read = |text| rate(text).map(|rate| (rate.tokens, rate.per.as_secs(), rate.burst));
        assert_eq!(read("4/s"), Some((4, 1, 1)));
        assert_eq!(read("110/60s"), Some((110, 60, 1)));
        assert_eq!(read("600/m"), Some((600, 60, 1)));
        for text in ["", "4", "0/s", "4/0s", "-4/s", "4/x", "s/4"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn meanings_and_codes() {
        assert_eq!(then("pause 30s"), Some(Then::Pause(Duration::from_secs(30))));
        assert_eq!(then("fatal"), Some(Then::Fatal));
        assert_eq!(then("pause"), None);
        assert_eq!(codes("4000-4099"), Some(4000..=4099));
        assert_eq!(codes("1008"), Some(1008..=1008));
        for text in ["999", "5000", "4099-4000", "4000-", "x", ""] {
            assert_eq!(codes(text), None, "{text}");
        }
    }
}
