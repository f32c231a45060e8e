//! Dead letters: shown, published again, purged.
//!
//! Invariants: a dead letter is published again at most once, as a new message with an end of its own, durable together with
//! the word of it at the letter; the letter's own end never changes. Its idempotency key goes on to name it, not the new one.

use std::sync::Arc;

use super::idempotency::digest;
use super::outcomes::Gone;
use super::outcomes::letter;
use super::{Lane, OnUnknown, Outbox, OutboxStats, Publisher, Refusal};
use crate::protocol::codes::ErrorCode;
use crate::protocol::control::{List, Object};
use crate::protocol::duration;
use crate::protocol::request::Publish;
use crate::relay::record::{MessageId, StoredMessage, StoredOutcome};
use crate::relay::rng::Rng;
use crate::relay::time::Time;

impl Outbox {
    /// The oldest dead letters after this one.
    pub fn letters(&self, after: Option<MessageId>, most: usize) -> Vec<MessageId> {
        self.outcomes.letters(after).take(most).map(|outcome| outcome.id).collect()
    }

    /// Whether a page of dead letters can begin after this message.
    pub fn is_place_among_letters(&self, id: MessageId) -> bool {
        self.outcomes.get(id).is_some()
    }

    /// How many there are.
    pub fn letter_count(&self) -> usize {
        self.outcomes.letter_count()
    }

    /// A dead letter's message, as it was accepted. It must be at hand.
    ///
    /// # Errors
    /// `not_found` for what is no dead letter, `conflict` for what was published again.
    pub fn letter(&self, id: MessageId) -> Result<Arc<StoredMessage>, Refusal> {
        let outcome = self.outcomes.get(id);
        if let Some(message) = outcome.and_then(|outcome| letter(outcome)) {
            return Ok(Arc::clone(message));
        }
        match outcome.and_then(|outcome| outcome.letter.as_ref()?.redriven) {
            Some((as_id, _)) => {
                Err(Refusal::new(ErrorCode::Conflict, format!("it was published again already, as {as_id}")))
            }
            None => Err(Refusal::new(ErrorCode::NotFound, "no such dead letter")),
        }
    }

    /// Publishes a dead letter again, as this: a new message of the same principal.
    ///
    /// # Errors
    /// As [`Outbox::letter`], and whatever refuses a publish.
    pub fn redrive(
        &mut self,
        now: Time,
        id: MessageId,
        publish: Publish,
        rng: &mut Rng,
        stats: &mut OutboxStats,
    ) -> Result<MessageId, Refusal> {
        let old = self.letter(id)?;
        self.clock.observe(now);
        let from = Publisher { principal: &old.principal, session: None, redrive_of: Some(id) };
        let admitted = self.admit_one(now, from, publish, None, rng)?;
        self.stage(&[admitted]);
        if let Some(outcome) = self.outcomes.take_letter(id) {
            // In one commit with the new message: published again and still a letter would be published twice.
            self.amend(&outcome, Some((admitted.id(), now.wall)), true);
        }
        stats.redriven += 1;
        Ok(admitted.id())
    }

    /// Forgets a dead letter, its outcome and its idempotency key.
    ///
    /// # Errors
    /// `not_found` for what is no dead letter, `store_failed`.
    pub fn purge(&mut self, id: MessageId) -> Result<(), Refusal> {
        if let Some(reason) = &self.failed {
            return Err(Refusal::store_failed(reason));
        }
        let outcome = self.outcomes.take_letter(id);
        let outcome = outcome.ok_or_else(|| Refusal::new(ErrorCode::NotFound, "no such dead letter"))?;
        let key = outcome.idempotency_key.as_ref().map(|key| digest(&outcome.principal, key));
        self.forget(Gone { id, key });
        Ok(())
    }

    /// Dead letters for operators, without payloads.
    pub fn letters_listing(&self, after: Option<MessageId>, most: usize) -> Vec<u8> {
        let mut list = List::new();
        let mut last = None;
        let mut rest = self.outcomes.letters(after).peekable();
        for outcome in rest.by_ref().take(most) {
            last = Some(outcome.id);
            list.push(&head(Object::new(), outcome).end());
        }
        let next = rest.next().and(last).map(|id| id.to_string());
        let count = u64::try_from(self.outcomes.letter_count()).unwrap_or(u64::MAX);
        let object = Object::new().number("count", count).raw("dead_letters", &list.end());
        object.text_if("next", next.as_deref()).end()
    }

    /// One dead letter, whole; also one that was published again. It must be at hand.
    pub fn letter_shown(&self, id: MessageId, params: impl Fn(&str) -> String) -> Option<Vec<u8>> {
        let outcome = self.outcomes.get(id)?;
        let letter = outcome.letter.as_ref()?;
        let mut history = List::new();
        for failure in &letter.history {
            history.push(&Object::new().text("at", &failure.at.rfc3339()).text("reason", &failure.reason).end());
        }
        let object = head(Object::new(), outcome).raw("history", &history.end());
        let object = object.text_if("redriven_as", letter.redriven.map(|(as_id, _)| as_id.to_string()).as_deref());
        Some(match &letter.message {
            Some(message) => object
                .raw("publish", &as_publish(message, message.channel.params.as_deref().map(params).as_deref()))
                .end(),
            None => object.end(),
        })
    }
}

fn head(object: Object, outcome: &StoredOutcome) -> Object {
    let object = object
        .text("message", &outcome.id.to_string())
        .text("reason", &outcome.outcome.reason)
        .number("attempts", u64::from(outcome.attempts))
        .text("ended", &outcome.ended.rfc3339())
        .text("principal", &outcome.principal);
    match letter(outcome) {
        Some(message) => object
            .text("channel", &message.channel.name)
            .text("accepted", &message.accepted.rfc3339())
            .text_if("redrive_of", message.redrive_of.map(|id| id.to_string()).as_deref())
            .number("bytes", u64::try_from(message.data.len()).unwrap_or(u64::MAX)),
        None => object,
    }
}

/// The message as somebody would publish it, with these params of its channel; its time to live begins anew.
pub fn as_publish(message: &StoredMessage, params: Option<&str>) -> Vec<u8> {
    let object = Object::new().text("channel", &message.channel.name);
    let object = match params {
        Some(params) => object.raw("params", params.as_bytes()),
        None => object,
    };
    let object = object.text_if("key", message.key.as_deref()).text_if("type", message.kind.as_deref());
    let object = object.raw("data", message.data.as_bytes()).text_if("order_key", message.order_key.as_deref());
    let ttl = message.expires.map(|at| duration::write(at.since(message.accepted)));
    let object = object.text_if("ttl", ttl.as_deref());
    let object = if message.lane == Lane::default() { object } else { object.text("priority", message.lane.text()) };
    match message.on_unknown {
        OnUnknown::Retry => object.text("on_unknown", "retry").end(),
        OnUnknown::DeadLetter => object.text("on_unknown", "dead_letter").end(),
    }
}
