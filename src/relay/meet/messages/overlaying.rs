//! Messages meet the feed: what a message that has not ended will make of a channel is shown there until then.
//!
//! Invariants: what was shown as pending is told as confirmed or rolled back before anybody is told its message's outcome; once
//! a message of an atomic batch has failed, no value of the batch is told as pending or confirmed, in this process or a later
//! one, as long as that message's outcome is kept.

use std::sync::Arc;

use crate::config::Conflict;
use crate::protocol::codes::ErrorCode;
use crate::protocol::request::{Optimistic, Publish};
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::feed::overlays::{self, Overlays};
use crate::relay::naming;
use crate::relay::outbox::{Admitted, OutcomeState, Refusal, is_of_batch};
use crate::relay::record::{MessageId, Restored, StoredOutcome};
use crate::relay::time::Time;

/// What an earlier process accepted and did not end, without the batches that it rolled back.
pub(in crate::relay) fn restore(overlays: &mut Overlays, restored: &Restored) {
    let queued = || restored.messages.iter().filter_map(|queued| Some((queued.id, queued.optimistic()?)));
    queued().for_each(|(message, value)| overlays.lay(message, Arc::clone(value)));
    if overlays.is_empty() {
        return;
    }
    let failed = restored.outcomes.iter().flatten().filter(|outcome| outcome.state != OutcomeState::Delivered);
    for outcome in failed {
        if let Some(batch) = batch_of(overlays, outcome.id) {
            overlays.roll_back(batch);
        }
    }
    queued().for_each(|(message, _)| drop(overlays.accepted(message)));
}

/// The batch with values that a message is of, whether it has a value itself or not.
fn batch_of(overlays: &Overlays, message: MessageId) -> Option<MessageId> {
    let own = overlays.batch_of(message);
    own.or_else(|| overlays.batch_before(message).filter(|batch| is_of_batch(message, *batch)))
}

impl Relay {
    /// Sees whether a provisional value may be laid where it is to be, and what that means for the order of its message.
    /// `before`: those of the same batch that were checked.
    pub(in crate::relay) fn check_overlay(
        &self,
        principal: &Principal,
        publish: &mut Publish,
        before: &[Publish],
    ) -> Result<(), Refusal> {
        let Some(Optimistic { channel, key, .. }) = &mut publish.optimistic else { return Ok(()) };
        if !principal.may_write(&channel.name) {
            let words =
                format!("optimistic: {} is not among the channels that {} may write", &*channel.name, &*principal.name);
            return Err(Refusal::new(ErrorCode::Forbidden, words));
        }
        let named = naming::resolve(&self.config, self.dialect.secret_params(), channel)
            .map_err(|words| Refusal::new(ErrorCode::Invalid, format!("optimistic: {words}")))?;
        let conflict = naming::policy(&self.config, &channel.name).map(|policy| policy.conflict).unwrap_or_default();
        (channel.name, channel.params) = (named.local.into(), None);
        // A repeated publish finds the first one, whose value is the one that is pending.
        let known = publish.idempotency_key.as_ref().is_some_and(|key| self.outbox.knows(&principal.name, key));
        if self.feed.overlays.len() >= overlays::MOST && !known {
            let words = format!("{} provisional values are pending already: publish later, or without", overlays::MOST);
            return Err(Refusal::new(ErrorCode::LimitExceeded, words));
        }
        let is_same = |other: &Optimistic| other.channel.name == channel.name && other.key == *key;
        if conflict != Conflict::Queue && before.iter().filter_map(|other| other.optimistic.as_ref()).any(is_same) {
            let words = "two changes of the same in one atomic batch (channels.conflict): leave one of them out";
            return Err(Refusal::new(ErrorCode::Conflict, words));
        }
        if conflict == Conflict::Reject && !known && self.feed.overlays.covers(&channel.name, key.as_deref()) {
            let words = "another change of the same is pending: publish again when it has ended (channels.conflict)";
            return Err(Refusal::new(ErrorCode::Conflict, words));
        }
        // Changes of one item leave in their order, whoever makes them.
        let item = || format!("{}#{}", channel.name, key.as_deref().unwrap_or_default());
        publish.order_key.get_or_insert_with(|| item().into());
        publish.coalesce |= conflict == Conflict::LastWriteWins;
        Ok(())
    }

    /// These messages were admitted: their values are shown once they are accepted.
    pub(in crate::relay) fn lay_overlays(&mut self, admitted: &[Admitted]) {
        for one in admitted {
            if let Admitted::New(id) = one
                && let Some(value) = self.outbox.message(*id).and_then(|message| message.optimistic.clone())
            {
                self.feed.overlays.lay(*id, value);
            }
        }
    }

    /// A message is accepted.
    pub(in crate::relay) fn overlay_accepted(&mut self, now: Time, message: MessageId) {
        if !self.feed.overlays.is_empty() {
            self.feed.admit_pending(message, now, &mut self.stats.feed);
        }
    }

    /// A message has ended.
    pub(in crate::relay) fn overlay_ended(&mut self, now: Time, outcome: &StoredOutcome) {
        if !self.feed.overlays.is_empty() {
            let delivered = outcome.outcome.state == OutcomeState::Delivered;
            let failed = batch_of(&self.feed.overlays, outcome.id).filter(|_| !delivered);
            self.feed.admit_settled(outcome.id, now, delivered, &mut self.stats.feed);
            if let Some(batch) = failed {
                self.feed.admit_rolled_back(batch, now, &mut self.stats.feed);
            }
        }
    }
}
