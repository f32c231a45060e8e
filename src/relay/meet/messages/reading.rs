//! What is on disk is read because somebody asks about it or follows it: messages that wait, and how messages ended.
//!
//! Invariant: whoever asked is answered when it was read, when it turns out to be forgotten, when the question is taken back,
//! or when the store fails.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::protocol::codes::ErrorCode;
use crate::protocol::control;
use crate::protocol::request::Subscribe;
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::outbox::Refusal;
use crate::relay::pairs::{CallId, SessionId};
use crate::relay::record::{MessageId, Stored};
use crate::relay::time::Time;

use super::letters::LetterCall;
use super::publishing::problem;
use super::waiting::Asker;

/// Questions of each kind that wait for the disk at most; more are refused.
pub(super) const LOOKS_MAX: usize = 1_024;
/// Ends to be told again that wait for the disk at most; they cannot be refused, and are left out beyond that.
const ENDS_MAX: usize = 65_536;

/// What somebody wants of a message that is on disk.
pub(in crate::relay) enum Look {
    /// Its state.
    State(CallId, Arc<Principal>),
    /// To withdraw it.
    Cancel(Asker, Arc<Principal>),
    /// How it ended, because it was published again.
    Repeated(SessionId),
    /// How it ended, for a request that waits for that.
    Awaited(CallId),
    /// What operators want of a dead letter.
    Letter(CallId, LetterCall),
    /// To follow it: the subscription to its channel.
    Follow(SessionId, Box<Subscribe>),
}

/// Who waits for which message to be read.
#[derive(Default)]
pub(in crate::relay) struct Reading {
    looks: BTreeMap<MessageId, Vec<Look>>,
    counts: Counts,
}

/// What a look counts as: many of one kind keep nobody from asking for another.
#[derive(Clone, Copy)]
enum Kind {
    Question,
    Follow,
    End,
}

/// How many looks of each kind wait.
#[derive(Default)]
struct Counts {
    questions: usize,
    follows: usize,
    ends: usize,
}

impl Kind {
    /// How many may wait.
    fn most(self) -> usize {
        match self {
            Kind::Question | Kind::Follow => LOOKS_MAX,
            Kind::End => ENDS_MAX,
        }
    }
}

impl Counts {
    fn of(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Question => &mut self.questions,
            Kind::Follow => &mut self.follows,
            Kind::End => &mut self.ends,
        }
    }
}

impl Look {
    fn kind(&self) -> Kind {
        match self {
            Look::State(..) | Look::Cancel(..) | Look::Letter(..) => Kind::Question,
            Look::Follow(..) => Kind::Follow,
            Look::Repeated(_) | Look::Awaited(_) => Kind::End,
        }
    }
}

impl Reading {
    fn wait(&mut self, id: MessageId, look: Look) {
        *self.counts.of(look.kind()) += 1;
        self.looks.entry(id).or_default().push(look);
    }

    /// Takes out what waits for this message, if it is wanted.
    fn take(&mut self, id: MessageId, wanted: impl Fn(&Look) -> bool) -> Vec<Look> {
        let Some(looks) = self.looks.remove(&id) else { return Vec::new() };
        let (taken, left): (Vec<Look>, Vec<Look>) = looks.into_iter().partition(wanted);
        taken.iter().for_each(|look| *self.counts.of(look.kind()) -= 1);
        if !left.is_empty() {
            self.looks.insert(id, left);
        }
        taken
    }
}

impl Relay {
    /// Answers once what is known of the message was read.
    pub(in crate::relay) fn look_later(&mut self, id: MessageId, look: Look) {
        if let Some(reason) = self.outbox.failure() {
            let refusal = Refusal::store_failed(reason);
            return self.answer_look(look, &refusal);
        }
        let kind = look.kind();
        if *self.outbound.reading.counts.of(kind) >= kind.most() {
            let words = "too many questions about messages wait for the disk: ask again in a moment";
            return self.answer_look(look, &Refusal::new(ErrorCode::LimitExceeded, words));
        }
        self.outbound.reading.wait(id, look);
        self.outbox.fetch(id);
    }

    /// A session takes back whatever subscriptions to this message's channel it has waiting; whether there were any. Each of
    /// them was a request, and is answered.
    pub(in crate::relay) fn take_back_follows(&mut self, session: SessionId, id: MessageId) -> bool {
        let of_session = |look: &Look| matches!(look, Look::Follow(of, _) if *of == session);
        let taken = self.outbound.reading.take(id, of_session);
        let any = !taken.is_empty();
        let refusal = Refusal::new(ErrorCode::Conflict, "taken back before the message was read from the disk");
        taken.into_iter().for_each(|look| self.answer_look(look, &refusal));
        any
    }

    /// The store's answer.
    pub(in crate::relay) fn loaded(&mut self, now: Time, records: Vec<Stored>) {
        for record in records {
            let id = record.id();
            self.outbox.loaded(record);
            // At once: the next one may take its place in memory.
            self.answer_looks(now, id);
        }
    }

    /// Nothing of this message has to be read any more.
    pub(in crate::relay) fn answer_looks(&mut self, now: Time, id: MessageId) {
        for look in self.outbound.reading.take(id, |_| true) {
            match look {
                Look::State(call, principal) => {
                    let reply = self.state_reply(now, &principal.name, id);
                    self.answer(call, reply);
                }
                Look::Cancel(asker, principal) => self.cancel_known(now, asker, &principal, id),
                Look::Repeated(session) => self.tell_end_again(session, id),
                Look::Awaited(call) => self.answer_awaited(call, id),
                Look::Letter(call, wish) => self.about_letter(now, call, id, &wish),
                Look::Follow(session, subscribe) => self.subscribe(now, session, *subscribe),
            }
        }
    }

    /// Nothing will be read any more.
    pub(in crate::relay) fn nothing_is_read(&mut self, reason: &str) {
        let reading = std::mem::take(&mut self.outbound.reading);
        for look in reading.looks.into_values().flatten() {
            self.answer_look(look, &Refusal::store_failed(reason));
        }
    }

    fn answer_look(&mut self, look: Look, refusal: &Refusal) {
        match look {
            Look::State(call, _) | Look::Letter(call, _) => self.answer(call, problem(refusal)),
            Look::Cancel(asker, _) => self.answer_uncancelled(asker, refusal),
            // It was told the state already; the rest is there to be asked for.
            Look::Repeated(_) => {}
            // It is answered at its time, with the state alone.
            Look::Awaited(_) => {}
            Look::Follow(session, subscribe) => {
                // Not the client's fault: does not count against it.
                self.stats.sessions.errors.bump(refusal.code.text());
                let (reference, channel) = (subscribe.reference.as_ref(), subscribe.channels.first());
                let channel = channel.map(|channel| &*channel.name);
                self.tell(session, control::error(reference, channel, refusal.code, &refusal.message, None));
            }
        }
    }
}
