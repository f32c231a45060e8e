//! Publishers meet the outbox: what they ask, and what they are told once it is durable.
//!
//! Invariant: whoever asked gets one answer for each message, and none before what it says is durable.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::dialect::{MessageSpec, SendError};
use crate::protocol::codes::ErrorCode;
use crate::protocol::control;
use crate::protocol::request::Publish;
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::naming;
use crate::relay::outbox::{Admitted, Publisher, Refusal, ended_state};
use crate::relay::pairs::{CallId, Reply, SessionId};
use crate::relay::record::{MessageId, StoredOutcome};
use crate::relay::time::Time;

use super::reading::Look;
use super::waiting::{Asker, Expected, Part, Place};

/// Messages that `GET /v1/outbox` shows.
const LISTED: usize = 100;

/// What somebody publishes.
pub(in crate::relay) struct Published {
    /// One or several.
    pub messages: Vec<Publish>,
    /// All or none.
    pub atomic: bool,
    /// How long an HTTP request waits for their outcomes; zero: it is answered once they are accepted.
    pub wait: Duration,
}

impl Relay {
    /// A publish by a session or over HTTP.
    pub(in crate::relay) fn publish(
        &mut self,
        now: Time,
        asker: Asker,
        principal: &Arc<Principal>,
        Published { messages, atomic, wait }: Published,
    ) {
        let count = messages.len();
        if count == 0 {
            self.expect_answers(&asker, Expected { count: 1, list: true, until: None });
            return self.answer_refused(&asker, Place::of(0, 1), Refusal::new(ErrorCode::Invalid, "messages is empty"));
        }
        let until = (!wait.is_zero()).then(|| now.mono + wait);
        self.expect_answers(&asker, Expected { count, list: count != 1 || atomic, until });
        let session = match asker {
            Asker::Session(session, _) => Some(session),
            Asker::Call(_) => None,
        };
        let from = Publisher { principal: &principal.name, session, redrive_of: None };
        if atomic {
            let mut checked = Vec::with_capacity(count);
            let all = messages.into_iter().enumerate().try_for_each(|(at, message)| {
                let one = self.checked(principal, message, &checked);
                checked.push(one.map_err(|refusal| Place::of(at, count).name(refusal))?);
                Ok(())
            });
            let admitted = all.and_then(|()| self.hand_over(now, from, checked));
            return self.answer_atomic(&asker, count, admitted);
        }
        for (at, message) in messages.into_iter().enumerate() {
            let place = Place::of(at, count);
            let checked = match self.checked(principal, message, &[]) {
                Ok(checked) if checked.volatile => {
                    self.publish_volatile(now, &asker, place, checked);
                    continue;
                }
                checked => checked,
            };
            match checked.and_then(|checked| self.hand_over(now, from, vec![checked])) {
                Ok(admitted) => admitted.into_iter().for_each(|one| self.answer_once_accepted(&asker, place, one)),
                Err(refusal) => self.answer_refused(&asker, place, refusal),
            }
        }
    }

    fn hand_over(&mut self, now: Time, from: Publisher<'_>, messages: Vec<Publish>) -> Result<Vec<Admitted>, Refusal> {
        let admitted = self.outbox.admit(now, from, messages, &mut self.rng, &mut self.stats.outbox)?;
        self.lay_overlays(&admitted);
        Ok(admitted)
    }

    fn answer_atomic(&mut self, asker: &Asker, count: usize, admitted: Result<Vec<Admitted>, Refusal>) {
        match admitted {
            Ok(admitted) => {
                for (at, one) in admitted.into_iter().enumerate() {
                    self.answer_once_accepted(asker, Place::of(at, count), one);
                }
            }
            Err(refusal) => {
                let places = if matches!(asker, Asker::Call(_)) { count } else { 1 };
                // It names the one that is wrong already.
                (0..places).for_each(|at| self.answer_refused(asker, Place::of(at, 1), refusal.clone()));
            }
        }
    }

    /// Whether the message may be published and the dialect can carry it; filled in by the channel's policy. `before`: those of
    /// the same batch that were checked.
    fn checked(&self, principal: &Principal, mut publish: Publish, before: &[Publish]) -> Result<Publish, Refusal> {
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
        if let Some(key) = named.key {
            if publish.key.as_deref().is_some_and(|own| own != key) {
                let words =
                    format!("channel {:?} is one key of its upstream channel: leave key out", &*publish.channel.name);
                return Err(Refusal::new(ErrorCode::Invalid, words));
            }
            publish.key = Some(key.into());
        }
        let local = std::mem::replace(&mut publish.channel.name, named.base.into());
        publish.channel.params = named.params;
        publish.on_unknown = publish.on_unknown.or(Some(named.on_unknown));
        self.check_overlay(principal, &mut publish, before)?;
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
            Ok(()) | Err(SendError::NotJoined) => {
                let params = publish.channel.params.take();
                publish.channel.params = naming::stored(&self.config, self.dialect.secret_params(), &local, params);
                Ok(publish)
            }
            Err(error) => Err(self.unpublishable(error)),
        }
    }

    pub(in crate::relay) fn unpublishable(&self, error: SendError) -> Refusal {
        let dialect = self.dialect.name();
        let words = |text: String| Refusal::new(ErrorCode::Invalid, text);
        match error {
            SendError::NoTemplate | SendError::NotJoined => Refusal::new(
                ErrorCode::NotSupported,
                format!("dialect {dialect} has no publish template: nothing can be published upstream"),
            ),
            SendError::Unset(name) => words(format!("publishing with dialect {dialect} needs `{name}`")),
            SendError::Name(text) => words(format!("the channel's name does not fit dialect {dialect}: {text}")),
            SendError::NoWayUp(_) => Refusal::new(ErrorCode::NotSupported, error.to_string()),
            SendError::TooLarge { .. } | SendError::Oversize(_) => Refusal::new(ErrorCode::TooLarge, error.to_string()),
            SendError::Invalid(text) => words(format!("dialect {dialect} cannot make a message of it: {text}")),
        }
    }

    /// Answers now if the message is durable already, else when it is.
    fn answer_once_accepted(&mut self, asker: &Asker, place: Place, admitted: Admitted) {
        let id = admitted.id();
        if self.outbox.is_accepted(id) {
            self.answer_accepted(asker, place, id);
        } else {
            self.outbound.waiting.accepted.entry(id).or_default().push((asker.clone(), place));
        }
    }

    pub(in crate::relay) fn tell_accepted(&mut self, id: MessageId) {
        for (asker, place) in self.outbound.waiting.accepted.remove(&id).unwrap_or_default() {
            self.answer_accepted(&asker, place, id);
        }
    }

    fn answer_accepted(&mut self, asker: &Asker, place: Place, id: MessageId) {
        let state = self.outbox.state_text(id);
        match asker {
            Asker::Session(session, reference) => {
                self.tell(*session, control::accepted(reference.as_ref(), id, state));
                // A repeated publish of what has ended gets the end once more.
                if self.outbox.is_at_hand(id) {
                    self.tell_end_again(*session, id);
                } else if self.outbox.has_ended(id) {
                    self.look_later(id, Look::Repeated(*session));
                }
            }
            Asker::Call(call) => self.answer_part(*call, place.at, Part::Accepted(id)),
        }
    }

    pub(in crate::relay) fn tell_end_again(&mut self, session: SessionId, id: MessageId) {
        if let Some(frame) = self.outbox.outcome(id).map(|stored| control::outcome(id, &stored.outcome)) {
            self.tell(session, frame);
        }
    }

    pub(in crate::relay) fn answer_refused(&mut self, asker: &Asker, place: Place, refusal: Refusal) {
        self.stats.outbox.refused.bump(refusal.code.text());
        let refusal = place.name(refusal);
        match asker {
            Asker::Session(session, reference) if refusal.code.retryable() => {
                // Not the client's fault: does not count against it.
                self.stats.sessions.errors.bump(refusal.code.text());
                self.tell(*session, control::error(reference.as_ref(), None, refusal.code, &refusal.message, None));
            }
            Asker::Session(session, reference) => {
                self.refuse(*session, reference.as_ref(), None, refusal.code, &refusal.message, None);
            }
            Asker::Call(call) => self.answer_part(*call, place.at, Part::Refused(refusal)),
        }
    }

    /// Tells everybody concerned how a message ended.
    pub(in crate::relay) fn tell_settled(&mut self, outcome: &StoredOutcome, publishers: &[SessionId]) {
        for session in publishers {
            self.tell(*session, control::outcome(outcome.id, &outcome.outcome));
        }
        match self.outbound.waiting.cancelled.remove(&outcome.id) {
            Some(Asker::Session(session, reference)) => self.tell(session, control::ok(reference.as_ref())),
            Some(Asker::Call(call)) => {
                let body = Bytes::from(ended_state(outcome));
                self.answer(call, Reply::Json { status: 200, body, location: None });
            }
            None => {}
        }
        self.answer_ended(outcome);
    }

    /// The store failed: whoever waits for it is told so.
    pub(in crate::relay) fn commit_failed(&mut self, now: Time, reason: &str) {
        self.outbox.commit_failed(reason, &mut self.stats.outbox);
        let accepted = std::mem::take(&mut self.outbound.waiting.accepted);
        for (asker, place) in accepted.into_values().flatten() {
            self.answer_refused(&asker, place, Refusal::store_failed(reason));
        }
        for asker in std::mem::take(&mut self.outbound.waiting.cancelled).into_values() {
            self.answer_uncancelled(asker, &Refusal::store_failed(reason));
        }
        self.nothing_is_read(reason);
        self.stop_sync(now, "store_failed");
        self.answer_all_waiting();
        self.tally_failed(now);
    }

    pub(in crate::relay) fn cancel(&mut self, now: Time, asker: Asker, principal: &Arc<Principal>, message: &str) {
        let id = MessageId::parse(message);
        let found = id.ok_or_else(|| Refusal::new(ErrorCode::NotFound, "no such message"));
        match found {
            Ok(id) if !self.outbox.is_at_hand(id) => {
                self.look_later(id, Look::Cancel(asker, Arc::clone(principal)));
            }
            Ok(id) => self.cancel_known(now, asker, principal, id),
            Err(refusal) => self.answer_uncancelled(asker, &refusal),
        }
    }

    pub(in crate::relay) fn cancel_known(
        &mut self,
        now: Time,
        asker: Asker,
        principal: &Arc<Principal>,
        id: MessageId,
    ) {
        match self.outbox.cancel(now, &principal.name, id) {
            Ok(()) => {
                self.outbound.waiting.cancelled.insert(id, asker);
            }
            Err(refusal) => self.answer_uncancelled(asker, &refusal),
        }
    }

    pub(in crate::relay) fn answer_uncancelled(&mut self, asker: Asker, refusal: &Refusal) {
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
            Some(id) if !self.outbox.is_at_hand(id) => {
                return self.look_later(id, Look::State(call, Arc::clone(principal)));
            }
            Some(id) => self.state_reply(now, &principal.name, id),
            None => problem(&Refusal::new(ErrorCode::NotFound, "no such message")),
        };
        self.answer(call, reply);
    }

    pub(in crate::relay) fn state_reply(&self, now: Time, principal: &str, id: MessageId) -> Reply {
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

pub(in crate::relay) fn problem(refusal: &Refusal) -> Reply {
    Reply::Problem { code: refusal.code, message: refusal.message.clone(), retry_after: None }
}
