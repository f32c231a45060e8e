//! Messages meet the feed: what a message that has not ended will make of a channel is shown there until then.
//!
//! Invariant: what was shown as pending is told as confirmed or rolled back before anybody is told its message's outcome.

use std::sync::Arc;

use crate::config::Conflict;
use crate::protocol::codes::ErrorCode;
use crate::protocol::request::{Optimistic, Publish};
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::feed::overlays::{self, Overlays};
use crate::relay::naming;
use crate::relay::outbox::{Admitted, OutcomeState, Refusal};
use crate::relay::record::{MessageId, Provisional, StoredOutcome};
use crate::relay::time::Time;

/// What an earlier process accepted and did not end.
pub(in crate::relay) fn restore(
    overlays: &mut Overlays,
    messages: impl Iterator<Item = (MessageId, Arc<Provisional>)>,
) {
    for (message, value) in messages {
        overlays.lay(message, value);
        overlays.accepted(message);
    }
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
            self.feed.admit_settled(outcome.id, now, delivered, &mut self.stats.feed);
        }
    }
}
