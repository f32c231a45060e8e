//! From a frame to the rule that decides, and the rules that are about the conversation itself.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::{Conversation, Says, Stage};
use crate::dialect::field::{Field, FieldValue};
use crate::dialect::framing::{Part, Session};
use crate::dialect::message::Message;
use crate::dialect::pending::Op;
use crate::dialect::rule::{Class, Reply, Rule};
use crate::dialect::schema::Dialect;
use crate::dialect::template::write_string;
use crate::dialect::units;
use crate::dialect::value::Value;
use crate::dialect::{AskFor, ChannelId, GapScope, Heard, Outgoing, Purpose, RequestId, Skipped, WireFrame};
use crate::relay::record::MessageId;
use crate::relay::time::Time;

/// Replies that one frame may cause: a frame full of pings is answered by this many.
const REPLIES: usize = 16;
/// A longer wait than this is not believed.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// One message and the rule that decides about it.
#[derive(Clone, Copy)]
pub(super) struct Turn<'t> {
    pub(super) now: Time,
    pub(super) dialect: &'t Dialect,
    pub(super) index: usize,
    pub(super) rule: &'t Rule,
    pub(super) message: Message<'t>,
    /// What the frame says about the message.
    pub(super) fields: &'t [Field<'t>],
    /// What `lost` says, or `cut`.
    pub(super) lost: bool,
    /// Some of its attachments were too large and left out.
    pub(super) cut: bool,
}

impl Conversation {
    /// A frame came in: tells what it meant, in order.
    pub fn receive(&mut self, now: Time, frame: &WireFrame, heard: &mut dyn FnMut(Heard<'_>)) {
        self.clock = now.mono;
        self.replies = 0;
        if self.over {
            return heard(Heard::Ignored);
        }
        match frame {
            WireFrame::Text(_) | WireFrame::Binary(_) if self.is_engine_polled() => self.probed(frame, heard),
            WireFrame::Pong(_) => heard(Heard::Pong { request: None }),
            WireFrame::Answer(answer) => match answer.of {
                AskFor::Poll if self.is_engine_polled() => self.packets_polled(now, frame, answer, heard),
                AskFor::Request(_) if self.is_engine_polled() => self.packets_posted(answer, heard),
                AskFor::Poll => self.polled(now, frame, answer, heard),
                AskFor::Request(id) => self.post_answered(id, answer, heard),
            },
            WireFrame::Event(event) => {
                match event.data {
                    Some(_) => self.read(now, frame, heard),
                    None => heard(Heard::Ignored),
                }
                self.streamed(event);
            }
            frame if !frame.speaks() => heard(Heard::Ignored),
            frame => self.read(now, frame, heard),
        }
    }

    /// What a frame's messages mean.
    pub(super) fn read(&mut self, now: Time, frame: &WireFrame, heard: &mut dyn FnMut(Heard<'_>)) {
        let dialect = Arc::clone(&self.dialect);
        let mut session = self.session.take();
        dialect.framing.read(&mut session, frame, &mut |part| match part {
            // Told after a hole that is not told yet, it would hide it.
            _ if self.over => {}
            Part::Message { fields, text } => self.message(now, &dialect, text, fields, None, heard),
            Part::Malformed => heard(Heard::Malformed),
            Part::Broken(why) => self.broken(why, heard),
            Part::Quiet => heard(Heard::Ignored),
            Part::Skipped(what, count) => {
                self.cut = what == Skipped::Attachment;
                heard(Heard::Skipped(what, count));
            }
            Part::Open(sid) => {
                self.asking.sid = Some(sid.into());
                self.greeted(now, heard);
            }
            Part::Answer(text) => self.answer(text, heard),
            Part::Closed => {
                self.ended();
                heard(Heard::Closed);
            }
        });
        let asked = self.session.take();
        self.session = Session::rejoin(session, asked);
        if !self.held.is_empty() && !self.pending.subscribing() {
            self.held.give_up().into_iter().for_each(|rule| heard(Heard::Unextracted(rule)));
        }
    }

    /// What came cannot be followed: nothing after it counts.
    fn broken(&mut self, why: &'static str, heard: &mut dyn FnMut(Heard<'_>)) {
        self.over = true;
        heard(Heard::Broken(why));
    }

    /// One message. `rule`: it matched that rule before and was held.
    pub(super) fn message(
        &mut self,
        now: Time,
        dialect: &Dialect,
        bytes: &[u8],
        fields: &[Field<'_>],
        rule: Option<usize>,
        heard: &mut dyn FnMut(Heard<'_>),
    ) {
        let mut spans = std::mem::take(&mut self.spans);
        if dialect.pointers.scan(bytes, &mut spans).is_err() {
            match dialect.framing.greets() {
                // A packet's payload is JSON, or it is no packet.
                true => self.broken("the payload of a packet is not JSON", heard),
                false => heard(Heard::Malformed),
            }
        } else {
            dialect.pointers.note(fields, &mut spans);
            self.variables.clear_incoming();
            let message = Message { bytes, spans: &spans };
            let found = rule.or_else(|| {
                let context = self.context(now, None);
                dialect.rules.iter().position(|rule| rule.matches(&message, &context))
            });
            match found {
                Some(index) => self.decide(now, dialect, index, message, fields, heard),
                None => heard(Heard::Unmatched),
            }
        }
        self.spans = spans;
    }

    fn decide(
        &mut self,
        now: Time,
        dialect: &Dialect,
        index: usize,
        message: Message<'_>,
        fields: &[Field<'_>],
        heard: &mut dyn FnMut(Heard<'_>),
    ) {
        let rule = &dialect.rules[index];
        let (lost, resumed, forget) = {
            let context = self.context(now, None);
            let holds = |when: &crate::dialect::rule::When| when.holds(&message, &context);
            (holds(&rule.lost), holds(&rule.resumed), holds(&rule.forget))
        };
        if forget {
            self.variables.forget_session();
        }
        let cut = std::mem::take(&mut self.cut);
        let turn = Turn { now, dialect, index, rule, message, fields, lost: lost || cut, cut };
        if !matches!(rule.class, Class::Event | Class::Snapshot) {
            self.count_numbers(turn, heard);
        }
        match rule.class {
            Class::Event | Class::Snapshot => self.event(turn, heard),
            Class::Gone => self.gone(turn, heard),
            Class::Ack => self.ack(turn, heard),
            Class::Error => self.error(turn, heard),
            Class::Pong => self.pong(turn, heard),
            Class::Subscriptions => self.listed(turn, heard),
            Class::Hello => self.hello(turn, heard),
            Class::Ready => self.ready(turn, resumed, heard),
            Class::Denied => self.denied(turn, heard),
            Class::Reconnect => {
                self.store(turn, &[]);
                heard(Heard::Reconnect { retry_after: retry_after(turn) });
            }
            Class::Ping => {
                self.store(turn, &[]);
                if !self.reply(turn, Reply::Pong, heard) {
                    heard(Heard::Ignored);
                }
            }
            Class::Ignore => {
                self.store(turn, &[]);
                heard(Heard::Ignored);
            }
        }
        if let Some(reply) = rule.reply {
            self.reply(turn, reply, heard);
        }
    }

    /// A message that is nobody's event counts, too, where numbers count the whole connection.
    pub(super) fn count_numbers(&self, turn: Turn<'_>, heard: &mut dyn FnMut(Heard<'_>)) {
        if turn.dialect.gap().is_some_and(|gap| gap.scope == Some(GapScope::Connection))
            && let Some((first, last)) = turn.rule.fields.numbers(&turn.message)
        {
            heard(Heard::Numbered(first, last));
        }
    }

    /// Upstream's first word. Later ones are ignored: some services greet again when their state changes.
    fn hello(&mut self, turn: Turn<'_>, heard: &mut dyn FnMut(Heard<'_>)) {
        if !matches!(self.stage, Stage::New | Stage::Greeting) {
            return heard(Heard::Ignored);
        }
        self.store(turn, &[]);
        self.authenticate(turn.now, heard);
    }

    /// The framing is ready.
    fn greeted(&mut self, now: Time, heard: &mut dyn FnMut(Heard<'_>)) {
        if matches!(self.stage, Stage::New | Stage::Greeting) {
            self.authenticate(now, heard);
        }
    }

    /// The framing wants this sent: a pong.
    fn answer(&mut self, text: String, heard: &mut dyn FnMut(Heard<'_>)) {
        if self.replies >= REPLIES {
            return heard(Heard::Ignored);
        }
        self.replies += 1;
        self.last_id += 1;
        let request = RequestId(self.last_id);
        let frame = WireFrame::Text(text.into());
        heard(Heard::Send(Outgoing::unanswered(request, Purpose::Reply, frame)));
    }

    fn ready(&mut self, turn: Turn<'_>, resumed: bool, heard: &mut dyn FnMut(Heard<'_>)) {
        self.store(turn, &[]);
        if self.stage == Stage::Ready {
            return heard(Heard::Ignored);
        }
        self.become_ready(resumed, heard);
    }

    fn denied(&mut self, turn: Turn<'_>, heard: &mut dyn FnMut(Heard<'_>)) {
        self.store(turn, &[]);
        if let Some(auth) = self.pending.oldest(&[Op::Auth], None, None) {
            self.pending.remove(auth);
        }
        let message = self.words(turn, &turn.rule.message);
        heard(Heard::Denied { message, then: turn.rule.then });
    }

    /// Sends an answer back; `false`: there is no template, or this frame has caused enough of them.
    fn reply(&mut self, turn: Turn<'_>, reply: Reply, heard: &mut dyn FnMut(Heard<'_>)) -> bool {
        let Some(send) = turn.dialect.templates.reply(reply).filter(|_| self.replies < REPLIES) else { return false };
        let says = match turn.fields.iter().find(|field| field.name == "ack").map(|field| &field.value) {
            Some(FieldValue::Number(number)) => Says::Receipt(*number),
            _ => Says::Event,
        };
        let Ok(mut outgoing) = self.plain(turn.now, send, Purpose::Reply, says) else { return false };
        self.replies += 1;
        outgoing.answered = false;
        heard(Heard::Send(outgoing));
        true
    }

    /// Stores what `set` says; channel variables for these channels.
    pub(super) fn store(&mut self, turn: Turn<'_>, channels: &[ChannelId]) {
        for (target, value) in &turn.rule.set {
            let value = match value {
                Value::Pointer(pointer) => {
                    turn.message.raw(*pointer).and_then(|raw| std::str::from_utf8(raw).ok()).map(Cow::Borrowed)
                }
                Value::Text(_) => self.text(turn, value).map(|text| {
                    let mut json = String::new();
                    write_string(&text, &mut json);
                    Cow::Owned(json)
                }),
            };
            self.variables.set(&turn.dialect.names, target, value.as_deref(), channels);
        }
    }

    /// A value of the rule, as text.
    pub(super) fn text<'t>(&self, turn: Turn<'t>, value: &'t Value) -> Option<Cow<'t, str>> {
        value.text(&turn.message, &self.context(turn.now, None))
    }

    /// A value of the rule, for people.
    pub(super) fn words<'t>(&self, turn: Turn<'t>, value: &'t Option<Value>) -> Option<Cow<'t, str>> {
        value.as_ref()?.words(&turn.message, &self.context(turn.now, None))
    }

    /// The request that an answer names: by its number, or by the id of the message it publishes (26 characters, more
    /// than any number has).
    pub(super) fn request_named(&self, text: &str) -> Option<RequestId> {
        if text.len() == ulid::ULID_LEN {
            return self.pending.publish_of(MessageId::parse(text)?);
        }
        let id = RequestId(text.parse().ok()?);
        self.pending.get(id).map(|_| id)
    }
}

/// Seconds, or a duration's text.
pub(super) fn retry_after(turn: Turn<'_>) -> Option<Duration> {
    let text = turn.message.text(turn.rule.retry_after?)?;
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.or_else(|| units::duration(&text)).map(|wait| wait.min(LONGEST_RETRY))
}
