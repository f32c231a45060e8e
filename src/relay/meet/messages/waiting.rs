//! Who waits for what to be durable, and HTTP requests that publish: answered once their messages are accepted, or with
//! `Prefer: wait` once they ended.
//!
//! Invariants: a request gets one answer; one that waits for outcomes gets it at its time at the latest, with the states of
//! then, and what it asked for goes on without it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::protocol::control::Object;
use crate::protocol::request::Ref;
use crate::relay::Relay;
use crate::relay::outbox::{Outbox, Refusal, ended_state};
use crate::relay::pairs::{CallId, Reply, SessionId};
use crate::relay::record::{MessageId, StoredOutcome};
use crate::relay::time::{Mono, Time};

use super::publishing::problem;
use super::reading::Look;

/// Who waits for the answer to a publish or cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::relay) enum Asker {
    Session(SessionId, Option<Ref>),
    Call(CallId),
}

/// Which message of a request it is about.
#[derive(Debug, Clone, Copy)]
pub(in crate::relay) struct Place {
    pub(in crate::relay) at: usize,
    /// There are others.
    several: bool,
}

impl Place {
    pub(in crate::relay) fn of(at: usize, count: usize) -> Self {
        Place { at, several: count > 1 }
    }

    /// Names the message in a refusal, as where the request cannot be read.
    pub(in crate::relay) fn name(self, refusal: Refusal) -> Refusal {
        if self.several { refusal.of_message(self.at) } else { refusal }
    }
}

/// Who waits for what. Bounded by the messages that are on their way to the store, and by the HTTP requests that are open.
#[derive(Default)]
pub(in crate::relay) struct Waiting {
    /// For a message to be accepted.
    pub(in crate::relay) accepted: BTreeMap<MessageId, Vec<(Asker, Place)>>,
    /// For a cancelled message to have ended.
    pub(in crate::relay) cancelled: BTreeMap<MessageId, Asker>,
    /// The answers of HTTP requests as far as they are known.
    calls: BTreeMap<CallId, Answers>,
    /// Requests that wait for the end of a message.
    ends: BTreeSet<(MessageId, CallId)>,
    /// Until when.
    deadlines: BTreeSet<(Mono, CallId)>,
}

impl Waiting {
    /// When the next request has waited long enough.
    pub(in crate::relay) fn due(&self) -> Option<Mono> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn take(&mut self, call: CallId) -> Option<Answers> {
        let answers = self.calls.remove(&call)?;
        if let Some(until) = answers.expected.until {
            self.deadlines.remove(&(until, call));
        }
        for id in answers.open() {
            self.ends.remove(&(id, call));
        }
        Some(answers)
    }
}

/// What the answer to an HTTP request will be about.
#[derive(Debug, Clone, Copy)]
pub(in crate::relay) struct Expected {
    /// Messages.
    pub(in crate::relay) count: usize,
    /// The request was a list.
    pub(in crate::relay) list: bool,
    /// Until when it waits for their outcomes; `None`: not at all.
    pub(in crate::relay) until: Option<Mono>,
}

/// The answer to one message of a request.
#[derive(Debug, Clone)]
pub(in crate::relay) enum Part {
    Accepted(MessageId),
    /// It was accepted and has ended, which the request waited for; the end, as JSON.
    Ended(MessageId, Vec<u8>),
    /// It was volatile, and left.
    Sent,
    Refused(Refusal),
}

/// The answers to the messages of one HTTP request.
struct Answers {
    expected: Expected,
    /// By the message's place in the request.
    known: Vec<Option<Part>>,
}

impl Answers {
    /// Those accepted of which the end is not known here.
    fn open(&self) -> impl Iterator<Item = MessageId> {
        self.known.iter().flatten().filter_map(|part| match part {
            Part::Accepted(id) => Some(*id),
            Part::Ended(..) | Part::Sent | Part::Refused(_) => None,
        })
    }

    /// The end of a message.
    fn end(&mut self, message: MessageId, body: &[u8]) {
        for part in self.known.iter_mut().flatten() {
            if matches!(part, Part::Accepted(id) if *id == message) {
                *part = Part::Ended(message, body.to_vec());
            }
        }
    }

    /// The answer to the whole request. 202 if something was accepted of which the end is not told, else 200.
    fn reply(&self, outbox: &Outbox) -> Reply {
        let parts: Vec<&Part> = self.known.iter().flatten().collect();
        if let Some(Part::Refused(refusal)) = parts.first()
            && parts.iter().all(|part| matches!(part, Part::Refused(_)))
        {
            return problem(refusal);
        }
        let body = |part: &&Part| match part {
            Part::Refused(refusal) => {
                let object = Object::new().text("code", refusal.code.text()).text("detail", &refusal.message);
                object.flag("retryable", refusal.code.retryable()).end()
            }
            Part::Sent => Object::new().text("state", "sent").end(),
            Part::Ended(_, body) => body.clone(),
            Part::Accepted(id) => {
                Object::new().text("message", &id.to_string()).text("state", outbox.state_text(*id)).end()
            }
        };
        let bodies: Vec<Vec<u8>> = parts.iter().map(body).collect();
        let status = if self.open().next().is_none() { 200 } else { 202 };
        if self.expected.list {
            let list = [b"[".as_slice(), &bodies.join(&b","[..]), b"]"].concat();
            let body = Bytes::from(Object::new().raw("messages", &list).end());
            return Reply::Json { status, body, location: None };
        }
        let location = parts.iter().find_map(|part| match part {
            Part::Accepted(id) | Part::Ended(id, _) => Some(format!("/v1/messages/{id}")),
            Part::Sent | Part::Refused(_) => None,
        });
        Reply::Json { status, body: Bytes::from(bodies.concat()), location }
    }
}

impl Relay {
    pub(in crate::relay) fn expect_answers(&mut self, asker: &Asker, expected: Expected) {
        if let Asker::Call(call) = asker {
            let answers = Answers { expected, known: vec![None; expected.count] };
            self.outbound.waiting.calls.insert(*call, answers);
        }
    }

    /// One message of an HTTP request is accepted or refused; when all are, the request is answered or waits on.
    pub(in crate::relay) fn answer_part(&mut self, call: CallId, place: usize, part: Part) {
        let waiting = &mut self.outbound.waiting;
        let Some(answers) = waiting.calls.get_mut(&call) else { return };
        if let Some(slot) = answers.known.get_mut(place) {
            *slot = Some(part);
        }
        if answers.known.iter().any(Option::is_none) {
            return;
        }
        if let Some(until) = answers.expected.until {
            let open: Vec<MessageId> = answers.open().collect();
            waiting.ends.extend(open.iter().map(|id| (*id, call)));
            waiting.deadlines.insert((until, call));
            for id in open.into_iter().filter(|id| self.outbox.has_ended(*id)).collect::<Vec<_>>() {
                // A repeated publish of what has ended.
                match self.outbox.is_at_hand(id) {
                    true => self.answer_awaited(call, id),
                    false => self.look_later(id, Look::Awaited(call)),
                }
            }
        }
        self.answer_if_ended(call);
    }

    /// What has ended and a request waits for was read.
    pub(in crate::relay) fn answer_awaited(&mut self, call: CallId, message: MessageId) {
        let Some(body) = self.outbox.outcome(message).map(|stored| ended_state(stored)) else { return };
        self.end_part(call, message, &body);
        self.answer_if_ended(call);
    }

    /// A message ended: the requests that wait for it may be complete.
    pub(in crate::relay) fn answer_ended(&mut self, outcome: &StoredOutcome) {
        let message = outcome.id;
        let every = (message, CallId(0))..=(message, CallId(u64::MAX));
        let calls: Vec<CallId> = self.outbound.waiting.ends.range(every).map(|(_, call)| *call).collect();
        if calls.is_empty() {
            return;
        }
        let body = ended_state(outcome);
        for call in calls {
            self.end_part(call, message, &body);
            self.answer_if_ended(call);
        }
    }

    fn end_part(&mut self, call: CallId, message: MessageId, body: &[u8]) {
        self.outbound.waiting.ends.remove(&(message, call));
        if let Some(answers) = self.outbound.waiting.calls.get_mut(&call) {
            answers.end(message, body);
        }
    }

    fn answer_if_ended(&mut self, call: CallId) {
        let Some(answers) = self.outbound.waiting.calls.get(&call) else { return };
        let waits = answers.expected.until.is_some();
        if !(waits && answers.open().next().is_some()) {
            self.answer_now(call);
        }
    }

    fn answer_now(&mut self, call: CallId) {
        if let Some(answers) = self.outbound.waiting.take(call) {
            let reply = answers.reply(&self.outbox);
            self.answer(call, reply);
        }
    }

    /// Requests that have waited long enough get the states of now.
    pub(in crate::relay) fn answer_waited(&mut self, now: Time) {
        while let Some((_, call)) = self.outbound.waiting.deadlines.first().copied().filter(|(at, _)| *at <= now.mono) {
            self.answer_now(call);
        }
    }

    /// No outcome will come any more while this process runs: whoever waits for one gets the states of now.
    pub(in crate::relay) fn answer_all_waiting(&mut self) {
        let calls: Vec<CallId> = self.outbound.waiting.deadlines.iter().map(|(_, call)| *call).collect();
        calls.into_iter().for_each(|call| self.answer_now(call));
    }
}
