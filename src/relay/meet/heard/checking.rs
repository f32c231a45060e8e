//! Upstream's checksums meet the feed: a state that is not upstream's is told as a gap and mended.

use crate::dialect::{OnGap, Target};
use crate::relay::Relay;
use crate::relay::feed::Hole;
use crate::relay::pairs::AttemptId;
use crate::relay::repair::{How, Wound};
use crate::relay::stats::GapReason;
use crate::relay::time::Time;

/// Why a connection ends whose state does not add up, for people.
const WHY: &str = "upstream's checksum is not that of the channel's state";

impl Relay {
    /// A channel's state as it came over this connection is not upstream's. `whole`: it came so, in one piece, so that asking
    /// for it once more helps little: that is left for later.
    pub(in crate::relay) fn checksum_failed(&mut self, at: Time, attempt: AttemptId, target: Target<'_>, whole: bool) {
        self.stats.feed.mismatched += 1;
        if !self.attempts.serves(attempt) {
            // It would take over with a state that nothing checks any more.
            return self.renew_connection(attempt, WHY);
        }
        let mut rings = Vec::new();
        self.rings_for(at, target, &mut rings);
        let reconnects = self.sequence.repair() == OnGap::Reconnect && !whole;
        for ring in rings {
            let reason = GapReason::Checksum;
            if whole {
                self.repairs.rest(at.mono, ring);
            }
            let how = self.mend(at, ring, Wound { missing: None, floor: 0, told: true, sound: false, reason });
            let repair = how.map(How::text).or(reconnects.then_some("reconnect"));
            self.admit_hole(at, ring, Hole { span: None, reason, repair });
        }
        if reconnects {
            self.renew_connection(attempt, WHY);
        }
    }
}
