//! What a dialect says about its provider's limits and about lost events: plain values for the relay's policy.
//!
//! Deliberately not here: obeying them. The relay paces, pings, rotates and repairs.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Checksum, Then};

/// `[limits]`: what the provider allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Frames per time; `None`: not limited.
    pub rate: Option<Rate>,
    /// Connections begun in any such time; `None`: not limited.
    pub connects: Option<Rate>,
    /// Whether WebSocket pings and pongs cost tokens too (`counts = "all"`).
    pub counts_control: bool,
    /// Channels in one subscribe or unsubscribe frame; at least 1.
    pub per_frame: usize,
    /// Channels subscribed at once on one connection; `None`: not limited.
    pub channels: Option<usize>,
    /// How long the provider lets a connection live; `None`: for ever.
    pub age: Option<Duration>,
    /// Silence of a healthy connection; longer means dead. `None`: quiet connections are healthy.
    pub idle: Option<Duration>,
    /// Between two pings of the dialect; `None`: the configuration decides.
    pub ping: Option<Duration>,
    /// The first ping comes after the interval times a random fraction.
    pub ping_jitter: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            rate: None,
            connects: None,
            counts_control: true,
            per_frame: 100,
            channels: None,
            age: None,
            idle: None,
            ping: None,
            ping_jitter: false,
        }
    }
}

/// A token bucket's size and refill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come back …
    pub tokens: u32,
    /// … in this time, evenly.
    pub per: Duration,
    /// Tokens of a full bucket; at least 1.
    pub burst: u32,
}

/// `rotate`: how a connection is replaced before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rotate {
    /// Another one is opened beside it and takes over.
    #[default]
    MakeBeforeBreak,
    /// The service allows one session at a time: it is closed first.
    BreakBeforeMake,
}

/// `[gap]`: what proves that nothing is missing, numbers without holes or checksums, and what to do about a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GapPolicy {
    /// What a sequence counts; `None`: numbers may have holes, and only a checksum proves something.
    pub scope: Option<GapScope>,
    /// From one number to the next; at least 1.
    pub step: u64,
    /// What is done about a hole, besides telling it.
    pub then: OnGap,
    /// How long an event waits for those before it; `None`: not at all.
    pub reorder: Option<Duration>,
    /// Whose checksums over channels' states are held against ours.
    pub checksum: Option<Checksum>,
}

/// What is done about missing numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    /// Nothing: it is told.
    Report,
    /// The channel is subscribed anew, so that upstream begins with its state.
    Resubscribe,
    /// A new connection.
    Reconnect,
    /// What is missing, or the state, is asked for beside the stream (`[repair]`).
    Fetch,
}

/// What a sequence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapScope {
    /// The events of one channel.
    Channel,
    /// The events of the whole connection.
    Connection,
}

/// `[close]`: what close codes mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CloseTable {
    /// First match wins.
    pub then: Vec<(RangeInclusive<u16>, Then)>,
    /// Codes after which session variables are worthless.
    pub forget: Vec<RangeInclusive<u16>>,
    /// The code we close with.
    pub ours: u16,
}

impl Default for CloseTable {
    fn default() -> Self {
        CloseTable { then: Vec::new(), forget: Vec::new(), ours: 1000 }
    }
}

impl CloseTable {
    /// What the table says about `code`.
    pub(crate) fn then(&self, code: u16) -> Option<Then> {
        self.then.iter().find(|(codes, _)| codes.contains(&code)).map(|(_, then)| *then)
    }

    /// Whether session variables do not survive `code`.
    pub(crate) fn forgets(&self, code: u16) -> bool {
        self.forget.iter().any(|codes| codes.contains(&code))
    }
}
