//! Receive rules: what an inbound message is, and what is taken out of it.
//!
//! Rules are ordered; the first whose conditions all hold decides. Invariant: everything a rule may need from a message is
//! a pointer of the dialect's one set, so a message is read once.
//! Deliberately not here: what a rule's verdict does to the conversation (`conversation`).

use std::borrow::Cow;

use super::condition::{Condition, all_hold};
use super::fill::Context;
use super::message::Message;
use super::pending::Op;
use super::scan::{Kind, PointerId, PointerSet, elements};
use super::timestamp;
use super::value::Value;
use super::variable::Variable;
use super::{Fold, Then};
use crate::relay::time::Wall;

/// What a rule says a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Class {
    /// Something happened on a channel.
    Event,
    /// The whole state of a channel.
    Snapshot,
    /// A request was answered well.
    Ack,
    /// A request was refused, or upstream complains.
    Error,
    /// Upstream's first word: authenticate now.
    Hello,
    /// Authenticated, or otherwise ready.
    Ready,
    /// Authentication was refused.
    Denied,
    /// A heartbeat that wants an answer.
    Ping,
    /// The answer to ours.
    Pong,
    /// A subscription ended.
    Gone,
    /// What upstream believes to be subscribed.
    Subscriptions,
    /// Connect again.
    Reconnect,
    /// Nothing.
    #[default]
    Ignore,
}

/// The words for classes.
pub(crate) const CLASSES: [(&str, Class); 13] = [
    ("event", Class::Event),
    ("snapshot", Class::Snapshot),
    ("ack", Class::Ack),
    ("error", Class::Error),
    ("hello", Class::Hello),
    ("ready", Class::Ready),
    ("denied", Class::Denied),
    ("ping", Class::Ping),
    ("pong", Class::Pong),
    ("gone", Class::Gone),
    ("subscriptions", Class::Subscriptions),
    ("reconnect", Class::Reconnect),
    ("ignore", Class::Ignore),
];

impl Class {
    /// The word for it.
    pub fn word(self) -> &'static str {
        CLASSES.iter().find(|(_, class)| *class == self).map_or("", |(word, _)| word)
    }
}

/// One `[[on]]`.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    pub(crate) class: Class,
    /// Cheap ones first.
    pub(crate) conditions: Vec<Condition>,
    pub(crate) channel: Option<Value>,
    pub(crate) sub: Option<Value>,
    pub(crate) fields: Fields,
    pub(crate) decode: bool,
    pub(crate) fold: Fold,
    pub(crate) req: Option<Value>,
    pub(crate) of: Vec<Op>,
    pub(crate) bind: Option<Value>,
    pub(crate) then: Option<Then>,
    pub(crate) retry_after: Option<PointerId>,
    pub(crate) code: Option<Value>,
    pub(crate) message: Option<Value>,
    pub(crate) set: Vec<(Variable, Value)>,
    pub(crate) each: Option<Each>,
    /// What the dialect's check reads: changes or state of the channel, and the checksum over it.
    pub(crate) checksum: Option<PointerId>,
    pub(crate) lost: When,
    pub(crate) resumed: When,
    pub(crate) forget: When,
    pub(crate) reply: Option<Reply>,
}

/// What an event is made of, besides its channel.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) key: Option<Value>,
    pub(crate) kind: Option<Value>,
    pub(crate) id: Option<Value>,
    /// First and last.
    pub(crate) seq: Option<(PointerId, PointerId)>,
    pub(crate) ts: Option<PointerId>,
    pub(crate) data: Option<PointerId>,
}

/// `each`: every element of an array is an event.
#[derive(Debug)]
pub(crate) struct Each {
    /// The array, in the message.
    pub(crate) at: PointerId,
    /// Of an element.
    pub(crate) pointers: PointerSet,
    pub(crate) channel: Option<Value>,
    /// Of `subscriptions`: texts that complete the channel's name, each another one.
    pub(crate) list: Option<PointerId>,
    pub(crate) fields: Fields,
}

/// `true`, or conditions.
#[derive(Debug, Default)]
pub(crate) enum When {
    #[default]
    Never,
    Always,
    If(Vec<Condition>),
}

/// Which template answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Pong,
    Receipt,
}

impl Reply {
    /// The template's name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Reply::Pong => "pong",
            Reply::Receipt => "receipt",
        }
    }
}

/// What was taken out of a message for one event.
#[derive(Debug, Default)]
pub(crate) struct Taken<'m> {
    pub(crate) key: Option<Cow<'m, str>>,
    pub(crate) kind: Option<Cow<'m, str>>,
    pub(crate) id: Option<Cow<'m, str>>,
    pub(crate) seq: Option<(u64, u64)>,
    pub(crate) ts: Option<Wall>,
    pub(crate) data: Option<Cow<'m, [u8]>>,
}

impl Rule {
    /// Whether it decides about this message.
    #[inline]
    pub(crate) fn matches<'m>(&'m self, message: &Message<'m>, context: &Context<'_>) -> bool {
        all_hold(&self.conditions, message, context)
    }
}

impl When {
    pub(crate) fn holds<'m>(&'m self, message: &Message<'m>, context: &Context<'_>) -> bool {
        match self {
            When::Never => false,
            When::Always => true,
            When::If(conditions) => all_hold(conditions, message, context),
        }
    }
}

impl Fields {
    /// Takes what is there.
    #[inline]
    pub(crate) fn take<'m>(&'m self, message: &Message<'m>, context: &Context<'_>, decode: bool) -> Taken<'m> {
        let text = |value: &'m Option<Value>| value.as_ref().and_then(|value| value.text(message, context));
        Taken {
            key: text(&self.key),
            kind: text(&self.kind),
            id: text(&self.id),
            seq: self.numbers(message),
            ts: self.ts.and_then(|ts| timestamp::read(&message.text(ts)?)),
            data: self.data.and_then(|data| payload(message, data, decode)),
        }
    }

    /// The message's numbers, first and last.
    pub(crate) fn numbers(&self, message: &Message<'_>) -> Option<(u64, u64)> {
        let (from, to) = self.seq?;
        let last = message.number(to)?;
        // Mostly both are the same field.
        let first = if from == to { last } else { message.number(from)? };
        Some((first, last))
    }
}

impl<'m> Taken<'m> {
    /// What is missing here comes from `other`.
    pub(crate) fn or(self, other: &Taken<'m>) -> Taken<'m> {
        Taken {
            key: self.key.or_else(|| other.key.clone()),
            kind: self.kind.or_else(|| other.kind.clone()),
            id: self.id.or_else(|| other.id.clone()),
            seq: self.seq.or(other.seq),
            ts: self.ts.or(other.ts),
            data: self.data,
        }
    }
}

/// The raw bytes of a value; with `decode`, of the JSON that a string holds, if it does.
#[inline]
fn payload<'m>(message: &Message<'m>, pointer: PointerId, decode: bool) -> Option<Cow<'m, [u8]>> {
    let span = message.span(pointer)?;
    let raw = message.spans.bytes(message.bytes, span);
    if decode && span.kind == Kind::String {
        let inner = match message.spans.text(message.bytes, span) {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        if PointerSet::new().scan(&inner, &mut super::scan::Spans::new()).is_ok() {
            return Some(inner);
        }
    }
    Some(Cow::Borrowed(raw))
}

impl Each {
    /// The raw elements.
    pub(crate) fn elements<'m>(&self, message: &Message<'m>) -> impl Iterator<Item = &'m [u8]> + use<'m> {
        elements(message.raw(self.at).unwrap_or_default())
    }
}
