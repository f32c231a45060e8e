//! Holes that may turn out to be none, or to be another transport's: what was live when a connection was lost.
//!
//! Some services send what was missed before they say that the session goes on. Until they have said so, or that another one
//! begins, nobody can tell whether a channel has a hole. Where there are several transports, nobody can tell what the hole is
//! before one of them serves.
//! Invariant: a channel is in here once, with the reason of its first loss; only what was live is.
//! Deliberately not here: who hears of a hole (`meet::heard::resuming`).

use std::collections::BTreeMap;

use crate::dialect::ChannelId;
use crate::relay::stats::GapReason;

/// What the next connection that serves says about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequel {
    /// Upstream went on where the lost one ended: there is no hole.
    GoesOn,
    /// Nobody knows what was missed.
    Lost,
    /// The same, and the connection is another transport's.
    Switched,
}

/// Losses without a verdict.
#[derive(Debug, Default)]
pub struct Unsettled {
    channels: BTreeMap<ChannelId, GapReason>,
    /// The dialect subscribes nothing: all channels that are carried.
    everything: Option<GapReason>,
}

impl Unsettled {
    /// These channels were live, and so was everything else if the dialect subscribes nothing.
    pub fn add(&mut self, channels: &[ChannelId], reason: GapReason) {
        for channel in channels {
            self.channels.entry(*channel).or_insert(reason);
        }
        self.everything.get_or_insert(reason);
    }

    /// The channel is not carried any more: whoever wants it again begins anew.
    pub fn forget(&mut self, channel: ChannelId) {
        self.channels.remove(&channel);
    }

    /// The verdict is there, whatever it says: what it is about.
    pub fn settle(&mut self) -> (BTreeMap<ChannelId, GapReason>, Option<GapReason>) {
        (std::mem::take(&mut self.channels), self.everything.take())
    }
}
