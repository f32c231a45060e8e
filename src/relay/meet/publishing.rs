//! Publishers meet the outbox: what they ask, and what they are told once it is durable.
//!
//! Invariant: whoever asked gets one answer for each message, and none before what it says is durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::dialect::{MessageSpec, SendError};
use crate::protocol::codes::ErrorCode;
use crate::protocol::control::{self, Object};
use crate::protocol::request::{Publish, Ref};
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::naming;
use crate::relay::outbox::{Admitted, Publisher, Refusal};
use crate::relay::pairs::{CallId, Reply, SessionId};
use crate::relay::record::{MessageId, StoredOutcome};
use crate::relay::time::Time;

/// Messages that `GET /v1/outbox` shows.
const LISTED: usize = 100;

/// Who waits for the answer to a publish or cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::relay) enum Asker {
    Session(SessionId, Option<Ref>),
    Call(CallId),
}

/// Who waits for what to be durable. Bounded by the messages that are on their way to the store.
#[derive(Default)]
pub(in crate::relay) struct Waiting {
    /// For a message to be accepted.
    accepted: BTreeMap<MessageId, Vec<(Asker, usize)>>,
    /// For a cancelled message to have ended.
    cancelled: BTreeMap<MessageId, Asker>,
    /// The answers of HTTP requests as far as they are known.
    calls: BTreeMap<CallId, Answers>,
}

/// The answers to the messages of one HTTP request.
struct Answers {
    /// By the message's place in the request.
    known: Vec<Option<Result<(MessageId, &'static str), Refusal>>>,
    /// The request was a list.
    list: bool,
}

impl Relay {
    /// A publish by a session or over HTTP; `list`: as a list of messages, of which `atomic` are accepted all or none.
    pub(in crate::relay) fn publish(
        &mut self,
        now: Time,
        asker: Asker,
        principal: &Arc<Principal>,
        messages: Vec<Publish>,
        atomic: bool,
    ) {
        let count = messages.len();
        if count == 0 {
            self.expect_answers(&asker, 1, true);
            return self.answer_refused(&asker, 0, Refusal::new(ErrorCode::Invalid, "messages is empty"));
        }
        self.expect_answers(&asker, count, count != 1 || atomic);
        let session = match asker {
            Asker::Session(session, _) => Some(session),
            Asker::Call(_) => None,
        };
        let from = Publisher { principal: &principal.name, session };
        if atomic {
            let checked: Result<Vec<Publish>, Refusal> =
                messages.into_iter().map(|message| self.checked(principal, message)).collect();
            let admitted = checked.and_then(|checked| self.hand_over(now, from, checked));
            return self.answer_atomic(&asker, count, admitted);
        }
        for (place, message) in messages.into_iter().enumerate() {
            let admitted =
                self.checked(principal, message).and_then(|checked| self.hand_over(now, from, vec![checked]));
            match admitted {
                Ok(admitted) => admitted.into_iter().for_each(|one| self.answer_once_accepted(&asker, place, one)),
                Err(refusal) => self.answer_refused(&asker, place, refusal),
            }
        }
    }

    fn expect_answers(&mut self, asker: &Asker, count: usize, list: bool) {
        if let Asker::Call(call) = asker {
            self.outbound.waiting.calls.insert(*call, Answers { known: vec![None; count], list });
        }
    }

    fn hand_over(&mut self, now: Time, from: Publisher<'_>, messages: Vec<Publish>) -> Result<Vec<Admitted>, Refusal> {
        self.outbox.admit(now, from, messages, &mut self.rng, &mut self.stats.outbox)
    }

    fn answer_atomic(&mut self, asker: &Asker, count: usize, admitted: Result<Vec<Admitted>, Refusal>) {
        match admitted {
            Ok(admitted) => {
                for (place, one) in admitted.into_iter().enumerate() {
                    self.answer_once_accepted(asker, place, one);
                }
            }
            Err(refusal) => {
                let places = if matches!(asker, Asker::Call(_)) { count } else { 1 };
                (0..places).for_each(|place| self.answer_refused(asker, place, refusal.clone()));
            }
        }
    }

    /// Whether the message may be published and the dialect can carry it; filled in by the channel's policy.
    fn checked(&self, principal: &Principal, mut publish: Publish) -> Result<Publish, Refusal> {
        if self.draining.is_draining() {
            return Err(Refusal::new(ErrorCode::Draining, "the relay is stopping: publish again in a moment"));
        }
        if !principal.may_write(&publish.channel.name) {
            let words =
                format!("{} is not among the channels that {} may write", &*publish.channel.name, &*principal.name);
            return Err(Refusal::new(ErrorCode::Forbidden, words));
        }
        let named = naming::resolve(&self.config, self.dialect.secret_params(), &publish.channel)
            .map_err(|words| Refusal::new(ErrorCode::Invalid, words))?;
        publish.channel.name = named.base.into();
        publish.channel.params = named.params;
        publish.on_unknown = publish.on_unknown.or(Some(named.on_unknown));
        let spec = MessageSpec {
            id: MessageId(0),
            channel: &publish.channel.name,
            params: publish.channel.params.as_deref(),
            key: publish.key.as_deref(),
            kind: publish.kind.as_deref(),
            data: &publish.data,
            idempotency_key: publish.idempotency_key.as_deref(),
        };
        match self.outbound.checker.check_publish(&spec) {
            Ok(()) | Err(SendError::NotJoined) => Ok(publish),
            Err(error) => Err(self.unpublishable(error)),
        }
    }

    fn unpublishable(&self, error: SendError) -> Refusal {
        let dialect = self.dialect.name();
        let words = |text: String| Refusal::new(ErrorCode::Invalid, text);
        match error {
            SendError::NoTemplate | SendError::NotJoined => Refusal::new(
                ErrorCode::NotSupported,
                format!("dialect {dialect} has no publish template: nothing can be published upstream"),
            ),
            SendError::Unset(name) => words(format!("publishing with dialect {dialect} needs `{name}`")),
            SendError::Name(text) => words(format!("the channel's name does not fit dialect {dialect}: {text}")),
            SendError::Invalid(text) => words(format!("dialect {dialect} cannot make a message of it: {text}")),
        }
    }

    /// Answers now if the message is durable already, else when it is.
    fn answer_once_accepted(&mut self, asker: &Asker, place: usize, admitted: Admitted) {
        let id = admitted.id();
        if self.outbox.is_accepted(id) {
            self.answer_accepted(asker, place, id);
        } else {
            self.outbound.waiting.accepted.entry(id).or_default().push((asker.clone(), place));
        }
    }

    pub(super) fn tell_accepted(&mut self, id: MessageId) {
        for (asker, place) in self.outbound.waiting.accepted.remove(&id).unwrap_or_default() {
            self.answer_accepted(&asker, place, id);
        }
    }

    fn answer_accepted(&mut self, asker: &Asker, place: usize, id: MessageId) {
        let state = self.outbox.state_text(id);
        match asker {
            Asker::Session(session, reference) => {
                self.tell(*session, control::accepted(reference.as_ref(), id, state));
                // A repeated publish of what has ended gets the end once more.
                if let Some(frame) = self.outbox.outcome(id).map(|outcome| control::outcome(id, outcome)) {
                    self.tell(*session, frame);
                }
            }
            Asker::Call(call) => self.answer_part(*call, place, Ok((id, state))),
        }
    }

    fn answer_refused(&mut self, asker: &Asker, place: usize, refusal: Refusal) {
        self.stats.outbox.refused.bump(refusal.code.text());
        match asker {
            Asker::Session(session, reference) if refusal.code.retryable() => {
                // Not the client's fault: does not count against it.
                self.stats.sessions.errors.bump(refusal.code.text());
                self.tell(*session, control::error(reference.as_ref(), None, refusal.code, &refusal.message, None));
            }
            Asker::Session(session, reference) => {
                self.refuse(*session, reference.as_ref(), None, refusal.code, &refusal.message, None);
            }
            Asker::Call(call) => self.answer_part(*call, place, Err(refusal)),
        }
    }

    /// One message of an HTTP request is decided; the request is answered when all are.
    fn answer_part(&mut self, call: CallId, place: usize, part: Result<(MessageId, &'static str), Refusal>) {
        let calls = &mut self.outbound.waiting.calls;
        let Some(answers) = calls.get_mut(&call) else { return };
        if let Some(slot) = answers.known.get_mut(place) {
            *slot = Some(part);
        }
        if answers.known.iter().all(Option::is_some)
            && let Some(answers) = calls.remove(&call)
        {
            self.answer(call, answers.reply());
        }
    }

    /// Tells everybody concerned how a message ended.
    pub(super) fn tell_settled(&mut self, now: Time, outcome: &StoredOutcome, publishers: &[SessionId]) {
        for session in publishers {
            self.tell(*session, control::outcome(outcome.id, &outcome.outcome));
        }
        match self.outbound.waiting.cancelled.remove(&outcome.id) {
            Some(Asker::Session(session, reference)) => self.tell(session, control::ok(reference.as_ref())),
            Some(Asker::Call(call)) => {
                let reply = self.state_reply(now, &outcome.principal, outcome.id);
                self.answer(call, reply);
            }
            None => {}
        }
    }

    /// The store failed: whoever waits for it is told so.
    pub(in crate::relay) fn commit_failed(&mut self, reason: &str) {
        self.outbox.commit_failed(reason, &mut self.stats.outbox);
        let accepted = std::mem::take(&mut self.outbound.waiting.accepted);
        for (asker, place) in accepted.into_values().flatten() {
            self.answer_refused(&asker, place, Refusal::store_failed(reason));
        }
        for asker in std::mem::take(&mut self.outbound.waiting.cancelled).into_values() {
            self.answer_uncancelled(asker, &Refusal::store_failed(reason));
        }
    }

    pub(in crate::relay) fn cancel(&mut self, now: Time, asker: Asker, principal: &Arc<Principal>, message: &str) {
        let id = MessageId::parse(message);
        let found = id.ok_or_else(|| Refusal::new(ErrorCode::NotFound, "no such message"));
        match found.and_then(|id| self.outbox.cancel(now, &principal.name, id).map(|()| id)) {
            Ok(id) => {
                self.outbound.waiting.cancelled.insert(id, asker);
            }
            Err(refusal) => self.answer_uncancelled(asker, &refusal),
        }
    }

    fn answer_uncancelled(&mut self, asker: Asker, refusal: &Refusal) {
        match asker {
            Asker::Session(session, reference) => {
                self.stats.sessions.errors.bump(refusal.code.text());
                self.tell(session, control::error(reference.as_ref(), None, refusal.code, &refusal.message, None));
            }
            Asker::Call(call) => self.answer(call, problem(refusal)),
        }
    }

    pub(in crate::relay) fn message_state(
        &mut self,
        now: Time,
        call: CallId,
        principal: &Arc<Principal>,
        message: &str,
    ) {
        let reply = match MessageId::parse(message) {
            Some(id) => self.state_reply(now, &principal.name, id),
            None => problem(&Refusal::new(ErrorCode::NotFound, "no such message")),
        };
        self.answer(call, reply);
    }

    fn state_reply(&self, now: Time, principal: &str, id: MessageId) -> Reply {
        match self.outbox.message_state(now, principal, id) {
            Some(body) => Reply::Json { status: 200, body: Bytes::from(body), location: None },
            None => problem(&Refusal::new(ErrorCode::NotFound, "no such message, or its outcome is not kept any more")),
        }
    }

    pub(in crate::relay) fn outbox_listing(&mut self, now: Time, call: CallId) {
        let body = Bytes::from(self.outbox.listing(now, LISTED, &self.stats.outbox));
        self.answer(call, Reply::Json { status: 200, body, location: None });
    }
}

impl Answers {
    /// The answer to the whole request: 202 if at least one message was accepted.
    fn reply(self) -> Reply {
        let parts: Vec<_> = self.known.into_iter().flatten().collect();
        let refused = parts.iter().find_map(|part| part.as_ref().err());
        if let Some(refusal) = refused.filter(|_| parts.iter().all(Result::is_err)) {
            return problem(refusal);
        }
        let mut bodies = parts.iter().map(|part| part_body(part.as_ref()));
        let body = match (self.list, parts.first()) {
            (false, Some(Ok((id, _)))) => {
                let location = Some(format!("/v1/messages/{id}"));
                let body = Bytes::from(bodies.next().unwrap_or_default());
                return Reply::Json { status: 202, body, location };
            }
            _ => bodies.collect::<Vec<_>>().join(&b","[..]),
        };
        let list = [b"[".as_slice(), &body, b"]"].concat();
        Reply::Json { status: 202, body: Bytes::from(Object::new().raw("messages", &list).end()), location: None }
    }
}

fn part_body(part: Result<&(MessageId, &'static str), &Refusal>) -> Vec<u8> {
    match part {
        Ok((id, state)) => Object::new().text("message", &id.to_string()).text("state", state).end(),
        Err(refusal) => {
            let object = Object::new().text("code", refusal.code.text()).text("detail", &refusal.message);
            object.flag("retryable", refusal.code.retryable()).end()
        }
    }
}

fn problem(refusal: &Refusal) -> Reply {
    Reply::Problem { code: refusal.code, message: refusal.message.clone(), retry_after: None }
}
