//! Holes that may turn out to be none: what was live when a connection was lost whose session upstream may go on with.
//!
//! Some services send what was missed before they say that the session goes on. Until they have said so, or that another one
//! begins, nobody can tell whether a channel has a hole.
//! Invariant: a channel is in here once, with the reason of its first loss; only what was live is.
//! Deliberately not here: who hears of a hole (`meet::heard::resuming`).

use std::collections::BTreeMap;

use crate::dialect::ChannelId;
use crate::relay::stats::GapReason;

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
