//! Options of a subscription: what it wants of a channel's entries, and when. The same words in a request and in an address.

use std::sync::Arc;
use std::time::Duration;

use super::parse::{Wrong, check_word, invalid, shown};
use crate::protocol::duration;
use crate::protocol::selection::Selection;

/// Event types of one subscription.
pub(super) const TYPES_MAX: usize = 64;
/// Events of a `max_rate`, and of one in a second.
const RATE_MAX: u32 = 1000;
/// Between the batches of a subscription that is conflated.
const CONFLATE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(3600));

/// What a slow session loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnSlow {
    /// The oldest undelivered entries; the gap is told.
    #[default]
    DropOldest,
    /// Of what it did not read in time, everything but the newest event of each key; how much, is told.
    Conflate,
    /// The connection (close code 4000).
    Disconnect,
}

/// So many events in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// 1 to 1000.
    pub events: u32,
    /// A second, a minute or an hour.
    pub per: Duration,
}

/// What a subscription wants of its channels' entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Only these event types; empty: all.
    pub types: Vec<Box<str>>,
    /// What a slow session loses.
    pub on_slow: OnSlow,
    /// Only the newest event of each key in so much time.
    pub conflate: Option<Duration>,
    /// At most so many events; the newest of each key are kept.
    pub max_rate: Option<Rate>,
    /// Only these members of payloads; events that have none of them are left out.
    pub fields: Option<Arc<Selection>>,
    /// Only what changed since the key's event before, where that can be said.
    pub delta: bool,
}

impl Options {
    /// What `options` may name.
    pub const NAMES: [&str; 7] = ["snapshot", "types", "fields", "delta", "conflate", "max_rate", "on_slow"];

    /// Whether entries may be left out that were not lost.
    pub fn is_lossy(&self) -> bool {
        !self.types.is_empty() || self.fields.is_some() || self.conflates()
    }

    /// Whether the newest event of a key may stand for older ones: not where events add up.
    pub fn conflates(&self) -> bool {
        self.is_paced() || self.on_slow == OnSlow::Conflate
    }

    /// Whether events are not sent as they are.
    pub fn is_seen_otherwise(&self) -> bool {
        self.fields.is_some() || self.delta
    }

    /// What does not go together.
    pub(super) fn checked(self) -> Result<Self, Wrong> {
        if self.delta && !self.types.is_empty() {
            return Err(invalid("`delta` needs the events of all types: leave `types` out, or `delta`"));
        }
        Ok(self)
    }

    /// Whether all entries are wanted, at once, and as they are.
    pub fn is_as_it_comes(&self) -> bool {
        self.types.is_empty() && !self.is_seen_otherwise() && !self.is_paced()
    }

    /// Whether entries wait for their time.
    pub fn is_paced(&self) -> bool {
        self.conflate.is_some() || self.max_rate.is_some()
    }
}

pub(super) fn types(list: Vec<String>) -> Result<Vec<Box<str>>, Wrong> {
    if list.len() > TYPES_MAX {
        return Err(invalid(format!("`types` may name {TYPES_MAX} types")));
    }
    list.into_iter().map(|text| check_word("types", &text).map(|()| text.into())).collect()
}

pub(super) fn on_slow(text: &str) -> Result<OnSlow, Wrong> {
    match text {
        "drop_oldest" => Ok(OnSlow::DropOldest),
        "conflate" => Ok(OnSlow::Conflate),
        "disconnect" => Ok(OnSlow::Disconnect),
        other => {
            Err(invalid(format!("`on_slow` is `drop_oldest`, `conflate` or `disconnect`, not `{}`", shown(other))))
        }
    }
}

pub(super) fn conflate(text: &str) -> Result<Duration, Wrong> {
    match duration::parse(text) {
        Some(time) if (CONFLATE.0..=CONFLATE.1).contains(&time) => Ok(time),
        _ => Err(invalid(format!("`conflate` is a time from `1ms` to `1h`, like `250ms`, not `{}`", shown(text)))),
    }
}

pub(super) fn max_rate(text: &str) -> Result<Rate, Wrong> {
    let units = [("s", 1), ("m", 60), ("h", 3600)];
    let rate = text.split_once('/').and_then(|(events, unit)| {
        let seconds = units.into_iter().find(|(name, _)| *name == unit)?.1;
        let digits = events.bytes().all(|byte| byte.is_ascii_digit());
        let events = events.parse().ok().filter(|events| digits && (1..=RATE_MAX).contains(events))?;
        Some(Rate { events, per: Duration::from_secs(seconds) })
    });
    rate.ok_or_else(|| {
        let words =
            format!("`max_rate` is 1 to {RATE_MAX} events a second, minute or hour, like `10/s`, `30/m`, `5/h`");
        invalid(format!("{words}, not `{}`", shown(text)))
    })
}

pub(super) fn fields(pointers: &[String]) -> Result<Arc<Selection>, Wrong> {
    Selection::new(pointers).map(Arc::new).map_err(invalid)
}
