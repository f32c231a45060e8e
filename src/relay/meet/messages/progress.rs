//! What becomes of messages is told to whoever follows them, on `$outbox` and `$outbox/{message}`.
//!
//! Invariants: a step is told before the call returns that caused it, so nobody hears of a later one first; an acceptance
//! follows its `accepted` frame, which names the message, and an outcome comes before its `outcome` frame, which is the
//! last word.
//! Deliberately not here: who may follow (`clients::following`), and what a step says (the outbox's).

use crate::relay::Relay;
use crate::relay::meet::clients::following::{OUTBOX_CHANNEL, channel_of};
use crate::relay::outbox::Step;
use crate::relay::record::MessageId;
use crate::relay::time::Time;

impl Relay {
    /// Tells every step that the outbox has reported.
    pub(in crate::relay) fn tell_progress(&mut self, now: Time) {
        while let Some(step) = self.outbox.take_step(None) {
            self.tell_step(now, step);
        }
    }

    /// Tells the next step, if it is this message's.
    pub(in crate::relay) fn tell_progress_of(&mut self, now: Time, message: MessageId) {
        if let Some(step) = self.outbox.take_step(Some(message)) {
            self.tell_step(now, step);
        }
    }

    fn tell_step(&mut self, now: Time, step: Step) {
        let Step { message, kind, data } = step;
        if let Some(all) = self.feed.find(OUTBOX_CHANNEL) {
            self.tell_own(now, OUTBOX_CHANNEL, Some(&message.to_string()), kind, data.clone());
            // Its steps add up to no state: messages that did nothing since somebody reads it would be missing there.
            if let Some(ring) = self.feed.ring_mut(all) {
                ring.values.forget();
            }
        }
        self.tell_own(now, &channel_of(message), None, kind, data);
    }
}
