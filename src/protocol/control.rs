//! Control frames: JSON text of everything a client gets that has no offset, and the text of ring entries.
//!
//! Each function is one frame kind of `tidegate.v1`. Upstream's payload bytes are copied as they are.

use std::time::Duration;

use bytes::Bytes;

use super::codes::{CloseCode, ErrorCode};
use super::duration::millis;
use super::frame::{Item, push_json_string};
use super::position::Position;
use super::request::Ref;
use crate::relay::outbox::{Confirm, Outcome, OutcomeState};
use crate::relay::record::MessageId;

/// A JSON object under construction. Names are literals of this program and need no escaping.
pub struct Object(Vec<u8>);

impl Object {
    /// `{"kind":"…"`
    pub fn kind(kind: &'static str) -> Self {
        Object(Vec::with_capacity(160)).raw_start().text("kind", kind)
    }

    /// An object without a kind.
    pub fn new() -> Self {
        Object(Vec::with_capacity(160)).raw_start()
    }

    fn raw_start(mut self) -> Self {
        self.0.push(b'{');
        self
    }

    fn name(&mut self, name: &str) {
        if self.0.last() != Some(&b'{') {
            self.0.push(b',');
        }
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// A string member.
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        push_json_string(&mut self.0, value);
        self
    }

    /// A member that is left out when `None`.
    pub fn text_if(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// A member whose JSON text is given.
    pub fn raw(mut self, name: &str, json: &[u8]) -> Self {
        self.name(name);
        self.0.extend_from_slice(json);
        self
    }

    /// A whole number.
    pub fn number(self, name: &str, value: u64) -> Self {
        self.raw(name, value.to_string().as_bytes())
    }

    /// A whole number or `null`.
    pub fn number_or_null(self, name: &str, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.number(name, value),
            None => self.raw(name, b"null"),
        }
    }

    /// `true` or `false`.
    pub fn flag(self, name: &str, value: bool) -> Self {
        self.raw(name, if value { b"true" } else { b"false" })
    }

    /// The client's mark, if it gave one.
    pub fn reference(self, reference: Option<&Ref>) -> Self {
        match reference {
            Some(Ref(json)) => self.raw("ref", json.as_bytes()),
            None => self,
        }
    }

    /// The finished text.
    pub fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }

    fn control(self, kind: &'static str) -> Item {
        Item::Control(kind, Bytes::from(self.end()))
    }
}

impl Default for Object {
    fn default() -> Self {
        Object::new()
    }
}

/// A JSON array under construction.
#[derive(Debug)]
pub struct List(Vec<u8>);

impl List {
    /// An empty one.
    pub fn new() -> Self {
        List(vec![b'['])
    }

    /// Appends JSON text.
    pub fn push(&mut self, element: &[u8]) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        self.0.extend_from_slice(element);
    }

    /// Its JSON text.
    pub fn end(mut self) -> Vec<u8> {
        self.0.push(b']');
        self.0
    }
}

impl Default for List {
    fn default() -> Self {
        Self::new()
    }
}

/// First frame of every session. `cursor` repeats the client's `since` on resume.
pub fn hello(session: &str, cursor: &str, upstream: &[u8], limits: &[u8]) -> Item {
    Object::kind("hello")
        .text("protocol", "tidegate.v1")
        .text("session", session)
        .text("cursor", cursor)
        .raw("upstream", upstream)
        .raw("limits", limits)
        .control("hello")
}

/// What `subscribed` says of one channel.
pub struct Subscribed<'a> {
    /// The client's mark.
    pub reference: Option<&'a Ref>,
    /// The channel's local name, or the pattern.
    pub channel: &'a str,
    /// `live`, `pending` or `waiting`.
    pub upstream: &'static str,
    /// Every entry after `since` follows.
    pub resumed: bool,
    /// Whether a snapshot follows.
    pub snapshot: bool,
    /// Whether options make it leave out entries.
    pub lossy: bool,
    /// Where the subscription begins.
    pub position: Position,
}

/// A subscription stands.
pub fn subscribed(of: &Subscribed<'_>) -> Item {
    Object::kind("subscribed")
        .reference(of.reference)
        .text("channel", of.channel)
        .text("upstream", of.upstream)
        .flag("resumed", of.resumed)
        .text("snapshot", if of.snapshot { "full" } else { "none" })
        .flag("lossy", of.lossy)
        .text("position", &of.position.to_string())
        .control("subscribed")
}

/// A subscription ended on request.
pub fn unsubscribed(reference: Option<&Ref>, channel: &str) -> Item {
    Object::kind("unsubscribed").reference(reference).text("channel", channel).control("unsubscribed")
}

/// This session missed entries `from..=to` of a channel.
pub fn gap_of_session(channel: &str, from: u64, to: u64, reason: &'static str) -> Item {
    Object::kind("gap")
        .text("channel", channel)
        .number("from", from)
        .number("to", to)
        .text("reason", reason)
        .text("continuity", "lost")
        .control("gap")
}

/// This session does not get `count` entries of a channel from `from` to `to`, since newer ones stand for them.
pub fn conflated(channel: &str, from: u64, to: u64, count: u64) -> Item {
    Object::kind("conflated")
        .text("channel", channel)
        .number("from", from)
        .number("to", to)
        .number("count", count)
        .control("conflated")
}

/// This session starts again on a channel.
pub fn reset_of_session(reference: Option<&Ref>, channel: &str, reason: &str) -> Item {
    Object::kind("reset").reference(reference).text("channel", channel).text("reason", reason).control("reset")
}

/// A message is durable. `state` is another than `accepted` where a repeated publish found the first one.
pub fn accepted(reference: Option<&Ref>, message: MessageId, state: &str) -> Item {
    Object::kind("accepted")
        .reference(reference)
        .text("message", &message.to_string())
        .text("state", state)
        .control("accepted")
}

/// A message ended.
pub fn outcome(message: MessageId, outcome: &Outcome) -> Item {
    outcome_members(Object::kind("outcome").text("message", &message.to_string()), outcome).control("outcome")
}

/// The members that an outcome adds to any object: `state`, `reason`, `confirmed_by`, `reply`.
pub fn outcome_members(object: Object, outcome: &Outcome) -> Object {
    let object = object.text("state", state_text(outcome.state));
    let object = object.text_if("reason", (!outcome.reason.is_empty()).then_some(&*outcome.reason));
    let object = object.text_if("confirmed_by", outcome.confirmed_by.map(confirm_text));
    match &outcome.reply {
        Some(reply) => object.raw("reply", reply.as_bytes()),
        None => object,
    }
}

/// The name of an outcome's state.
pub fn state_text(state: OutcomeState) -> &'static str {
    match state {
        OutcomeState::Delivered => "delivered",
        OutcomeState::Rejected => "rejected",
        OutcomeState::Expired => "expired",
        OutcomeState::DeadLettered => "dead_lettered",
    }
}

/// The name of a confirmation level.
pub fn confirm_text(confirm: Confirm) -> &'static str {
    match confirm {
        Confirm::Ack => "ack",
        Confirm::Echo => "echo",
        Confirm::Barrier => "barrier",
        Confirm::Written => "written",
    }
}

/// A request was done.
pub fn ok(reference: Option<&Ref>) -> Item {
    Object::kind("ok").reference(reference).control("ok")
}

/// A refresh was done in this way.
pub fn refreshed(reference: Option<&Ref>, how: &str) -> Item {
    Object::kind("ok").reference(reference).text("refreshed", how).control("ok")
}

/// A request was refused, or a subscription ended by refusal.
pub fn error(
    reference: Option<&Ref>,
    channel: Option<&str>,
    code: ErrorCode,
    message: &str,
    retry_after: Option<Duration>,
) -> Item {
    Object::kind("error")
        .reference(reference)
        .text_if("channel", channel)
        .text("code", code.text())
        .text("message", message)
        .flag("retryable", code.retryable())
        .number_or_null("retry_after_ms", retry_after.map(millis))
        .control("error")
}

/// The answer to `ping`.
pub fn pong(reference: Option<&Ref>) -> Item {
    Object::kind("pong").reference(reference).control("pong")
}

/// The relay is about to close the connection.
pub fn closing(code: CloseCode, retry_after: Option<Duration>) -> Item {
    Object::kind("closing")
        .number("code", u64::from(code.number()))
        .text("reason", code.reason())
        .number_or_null("retry_after_ms", retry_after.map(millis))
        .control("closing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(item: &Item) -> serde_json::Value {
        serde_json::from_slice(item.text()).unwrap()
    }

    #[test]
    fn frames_are_valid_json_whatever_the_names_hold() {
        let reference = Ref("\"r\\u0000\"".into());
        let frame = error(Some(&reference), Some("a\"\n\u{1}"), ErrorCode::Forbidden, "no \\ way", None);
        let value = parsed(&frame);
        assert_eq!(value["kind"], "error");
        assert_eq!(value["ref"], "r\u{0}");
        assert_eq!(value["channel"], "a\"\n\u{1}");
        assert_eq!(value["retryable"], false);
        assert!(value["retry_after_ms"].is_null());
    }

    #[test]
    fn an_outcome_carries_upstreams_reply_as_it_came() {
        let ended = Outcome {
            state: OutcomeState::Delivered,
            reason: "".into(),
            confirmed_by: Some(Confirm::Ack),
            reply: Some("{\"price\":1.10}".into()),
        };
        let text = String::from_utf8(outcome(MessageId(7), &ended).text().to_vec()).unwrap();
        assert!(text.contains("\"reply\":{\"price\":1.10}"), "{text}");
        assert!(text.contains("\"state\":\"delivered\"") && !text.contains("reason"), "{text}");
    }
}
