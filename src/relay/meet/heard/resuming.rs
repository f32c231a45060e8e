//! A lost connection meets the feed: a hole is told at once, or once it is known whether upstream goes on with the session.

use crate::dialect::ChannelId;
use crate::relay::Relay;
use crate::relay::pairs::AttemptId;
use crate::relay::stats::GapReason;
use crate::relay::time::Time;
use crate::relay::unsettled::Sequel;

impl Relay {
    /// A connection is lost on which these channels were live. `open`: the next one says what that means.
    pub(in crate::relay) fn connection_lost(&mut self, now: Time, live: &[ChannelId], reason: GapReason, open: bool) {
        self.unsettled.add(live, reason);
        if !open {
            self.settle_losses(now, Sequel::Lost);
        }
    }

    /// The connection did not begin where the one before it ended, though it was asked to: a hole after all. One beside the
    /// connection that serves leaves none.
    pub(in crate::relay) fn heard_unproven(&mut self, now: Time, id: AttemptId) {
        let serves = self.attempts.serves(id);
        let Some(attempt) = self.attempts.get_mut(id).filter(|attempt| attempt.goes_on) else { return };
        attempt.goes_on = false;
        if serves {
            let reason = if attempt.switched { GapReason::TransportSwitch } else { GapReason::Reconnect };
            let live: Vec<ChannelId> = attempt.acked.all_live().collect();
            self.connection_lost(now, &live, reason, false);
        }
    }

    /// Polls could not say from where they go on: a hole between two of them, if anything came there. One beside the connection
    /// that serves leaves none.
    pub(in crate::relay) fn heard_unseen(&mut self, now: Time, id: AttemptId) {
        let Some(polled) = self.attempts.active().filter(|active| active.id() == id) else { return };
        let live: Vec<ChannelId> = polled.acked.all_live().collect();
        self.connection_lost(now, &live, GapReason::Reconnect, false);
    }

    /// Whether upstream went on where it was is known now, of all connections lost since it was known last.
    pub(in crate::relay) fn settle_losses(&mut self, now: Time, sequel: Sequel) {
        let (channels, everything) = self.unsettled.settle();
        let told = |reason| match (sequel, reason) {
            (Sequel::Switched, GapReason::Reconnect) => GapReason::TransportSwitch,
            _ => reason,
        };
        if sequel == Sequel::GoesOn {
            return;
        }
        for (channel, reason) in channels {
            self.channel_lost(now, channel, told(reason));
        }
        if let Some(reason) = everything {
            self.everything_lost(now, told(reason));
        }
    }
}
