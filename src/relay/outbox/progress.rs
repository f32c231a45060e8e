//! What becomes of messages that somebody follows, reported as it happens, for `$outbox` and `$outbox/{message}`. No payloads,
//! neither the message's nor upstream's reply.
//!
//! Invariants: the steps of a message stand in the order of its life, and its outcome is the last one, reported once it is
//! durable; of a message that nobody follows nothing is reported.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::message::{Pending, Phase};
use super::shown::pending_members;
use super::{Confirm, Outbox};
use crate::protocol::control::{Object, confirm_text, state_text};
use crate::relay::record::{MessageId, StoredOutcome};
use crate::relay::time::Time;

/// Something that became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which message.
    pub message: MessageId,
    /// `accepted`, `sent`, `acked`, `retry` or `outcome`.
    pub kind: &'static str,
    /// The message's state after it, a JSON object.
    pub data: Vec<u8>,
}

/// Who is followed, and what was reported of them since the last look.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Every message is.
    all: bool,
    /// These are, with their publishers.
    followed: BTreeMap<MessageId, Arc<str>>,
    steps: VecDeque<Step>,
}

impl Progress {
    fn follows(&self, id: MessageId) -> bool {
        self.all || self.followed.contains_key(&id)
    }
}

impl Outbox {
    /// Who published a message, if it is accepted and how it ended is still kept. It must be at hand.
    pub fn publisher(&self, id: MessageId) -> Option<&Arc<str>> {
        match self.messages.get(id) {
            Some(pending) if *pending.phase() == Phase::Accepting => None,
            Some(pending) => Some(&pending.message()?.principal),
            None => Some(&self.outcomes.get(id)?.principal),
        }
    }

    /// Reports from now on what becomes of a message, until [`Outbox::unfollow`]. Gives its state as of now, a JSON object;
    /// `None` where there is no [`Outbox::publisher`]. It must be at hand.
    pub fn follow(&mut self, now: Time, id: MessageId) -> Option<Vec<u8>> {
        let publisher = Arc::clone(self.publisher(id)?);
        let state = match self.messages.get(id) {
            Some(pending) => {
                let failure = pending.live().history.last().filter(|_| !pending.is_in_flight());
                state(now, id, pending).text_if("reason", failure.map(|failure| &*failure.reason))
            }
            None => ended(self.outcomes.get(id)?, None),
        };
        self.progress.followed.insert(id, publisher);
        Some(state.end())
    }

    /// Nobody follows this message any more.
    pub fn unfollow(&mut self, id: MessageId) {
        self.progress.followed.remove(&id);
    }

    /// Reports from now on what becomes of every message, or of those only that are followed one by one.
    pub fn follow_all(&mut self, all: bool) {
        self.progress.all = all;
    }

    /// Who published a message that is followed by itself.
    pub fn followed_publisher(&self, id: MessageId) -> Option<&str> {
        self.progress.followed.get(&id).map(|publisher| &**publisher)
    }

    /// Takes the oldest step that was reported; `of`: only if it is of this message.
    pub fn take_step(&mut self, of: Option<MessageId>) -> Option<Step> {
        let steps = &mut self.progress.steps;
        steps.front().filter(|step| of.is_none_or(|id| id == step.message))?;
        steps.pop_front()
    }

    /// How many messages have not ended, those included whose acceptance is not durable yet, and the newest of them: later
    /// ones have larger ids.
    pub fn backlog(&self) -> (usize, MessageId) {
        (self.messages.len(), self.last_id)
    }

    pub(super) fn report_accepted(&mut self, now: Time, id: MessageId) {
        self.report(now, id, "accepted", |_, object| object);
    }

    pub(super) fn report_sent(&mut self, now: Time, id: MessageId) {
        self.report(now, id, "sent", |_, object| object);
    }

    pub(super) fn report_acked(&mut self, now: Time, id: MessageId, by: Confirm) {
        self.report(now, id, "acked", |_, object| object.text("confirmed_by", confirm_text(by)));
    }

    /// `next_retry` is null where the next attempt waits for nothing but its turn on a connection.
    pub(super) fn report_retry(&mut self, now: Time, id: MessageId, reason: &str) {
        self.report(now, id, "retry", |pending, object| {
            let object = object.text("reason", reason);
            let timed = matches!(pending.phase(), Phase::Backoff { .. });
            if timed { object } else { object.raw("next_retry", b"null") }
        });
    }

    fn report(&mut self, now: Time, id: MessageId, kind: &'static str, more: impl FnOnce(&Pending, Object) -> Object) {
        if !self.progress.follows(id) {
            return;
        }
        let Some(pending) = self.messages.get(id) else { return };
        let data = more(pending, state(now, id, pending)).end();
        self.progress.steps.push_back(Step { message: id, kind, data });
    }

    /// The outcome is durable, and `pending` is no longer in the table.
    pub(super) fn report_outcome(&mut self, outcome: &StoredOutcome, pending: &Pending) {
        if self.progress.follows(outcome.id) {
            let data = ended(outcome, Some(pending)).end();
            self.progress.steps.push_back(Step { message: outcome.id, kind: "outcome", data });
        }
    }
}

/// A message that has not ended. Principal and channel are left out while it is on disk.
fn state(now: Time, id: MessageId, pending: &Pending) -> Object {
    let principal = pending.message().map(|message| &*message.principal);
    pending_members(now, Object::new().text_if("principal", principal), id, pending)
}

/// One that has. The channel is known only as long as the message is.
fn ended(of: &StoredOutcome, pending: Option<&Pending>) -> Object {
    let channel = pending.and_then(Pending::message).map(|message| &*message.channel.name);
    let outcome = &of.outcome;
    Object::new()
        .text("principal", &of.principal)
        .text("message", &of.id.to_string())
        .text("state", state_text(outcome.state))
        .number("attempts", u64::from(of.attempts))
        .text_if("channel", channel)
        .text("ended", &of.ended.rfc3339())
        .text_if("reason", Some(&*outcome.reason).filter(|reason| !reason.is_empty()))
        .text_if("confirmed_by", outcome.confirmed_by.map(confirm_text))
}
