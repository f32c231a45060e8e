//! Options of a subscription: what it wants of a channel's entries, and when. The same words in a request and in an address.

use std::time::Duration;

use super::parse::{Wrong, check_word, invalid, shown};
use crate::protocol::duration;

/// Event types of one subscription.
pub(super) const TYPES_MAX: usize = 64;
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

/// What a subscription wants of its channels' entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Only these event types; empty: all.
    pub types: Vec<Box<str>>,
    /// What a slow session loses.
    pub on_slow: OnSlow,
    /// Only the newest event of each key in so much time.
    pub conflate: Option<Duration>,
}

impl Options {
    /// What `options` may name.
    pub const NAMES: [&str; 4] = ["snapshot", "types", "conflate", "on_slow"];

    /// Whether entries may be left out that were not lost.
    pub fn is_lossy(&self) -> bool {
        !self.types.is_empty() || self.conflates()
    }

    /// Whether the newest event of a key may stand for older ones: not where events add up.
    pub fn conflates(&self) -> bool {
        self.is_paced() || self.on_slow == OnSlow::Conflate
    }

    /// Whether entries wait for their time.
    pub fn is_paced(&self) -> bool {
        self.conflate.is_some()
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
