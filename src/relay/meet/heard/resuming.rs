//! A lost connection meets the feed: a hole is told at once, or once it is known whether upstream goes on with the session.

use crate::dialect::ChannelId;
use crate::relay::Relay;
use crate::relay::stats::GapReason;
use crate::relay::time::Time;

impl Relay {
    /// A connection is lost on which these channels were live. `may_go_on`: upstream may still send what they miss.
    pub(in crate::relay) fn connection_lost(
        &mut self,
        now: Time,
        live: &[ChannelId],
        reason: GapReason,
        may_go_on: bool,
    ) {
        self.unsettled.add(live, reason);
        if !may_go_on {
            self.settle_losses(now, false);
        }
    }

    /// Whether upstream went on where it was is known now, of all connections lost since it was known last.
    pub(in crate::relay) fn settle_losses(&mut self, now: Time, resumed: bool) {
        let (channels, everything) = self.unsettled.settle();
        if resumed {
            return;
        }
        for (channel, reason) in channels {
            self.channel_lost(now, channel, reason);
        }
        if let Some(reason) = everything {
            self.everything_lost(now, reason);
        }
    }
}
