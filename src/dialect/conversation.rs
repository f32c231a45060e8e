//! A dialect at work on one attempt.
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::schema::Dialect;
use super::{ChannelId, ChannelSpec, ConnectRequest, Heard, MessageSpec, Outgoing, RequestId, SendError, WireFrame};
use crate::protocol::request::Secret;
use crate::relay::time::Time;

/// What outlives an attempt: session variables, channel variables, the source of `{uuid}`.
#[derive(Debug)]
pub struct Carried {
    #[allow(dead_code)]
    seed: u64,
}

impl Carried {
    /// For a process's first conversation. `seed` is for `{uuid}` only.
    pub fn new(seed: u64) -> Self {
        Carried { seed }
    }
}

/// Intervals as the dialect and, later, upstream set them. `None`: the configuration decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// Between two pings of the dialect.
    pub ping: Option<Duration>,
    /// Silence of a healthy connection; longer means dead.
    pub idle: Option<Duration>,
    /// How long the token is good for, from when upstream said so.
    pub token_ttl: Option<Duration>,
}

/// A dialect at work on one attempt.
#[derive(Debug)]
pub struct Conversation {
    dialect: Arc<Dialect>,
    carried: Carried,
    params: Map<String, Value>,
    token: Option<Secret>,
}

impl Conversation {
    /// For one attempt. `params` are the connection's (`upstream.params`), `token` was read for this attempt.
    pub fn new(dialect: Arc<Dialect>, carried: Carried, params: Map<String, Value>, token: Option<Secret>) -> Self {
        Conversation { dialect, carried, params, token }
    }

    /// Where and how to connect: the configured URL and headers, completed by the dialect.
    pub fn connect_request(&self, url: &str, headers: &[(String, Secret)]) -> Result<ConnectRequest, SendError> {
        let _ = (&self.params, &self.token);
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
        Ok(ConnectRequest { url: url.to_owned(), headers, subprotocols: Vec::new() })
    }

    /// The connection is open. Tells [`Heard::Send`] (authentication), [`Heard::Ready`] where upstream says nothing first,
    /// or nothing.
    pub fn opened(&mut self, now: Time, heard: &mut dyn FnMut(Heard<'_>)) {
        let _ = now;
        heard(Heard::Ready { resumed: false });
    }

    /// A frame came in: tells what it meant, in order.
    pub fn receive(&mut self, now: Time, frame: &WireFrame, heard: &mut dyn FnMut(Heard<'_>)) {
        let _ = (now, frame);
        heard(Heard::Unmatched);
    }

    /// One subscribe frame: for the first candidate and those others that fit in the same frame (equal in all but what the
    /// template lists), up to `limits.per_frame`. Which ones went in is in [`Outgoing::purpose`]. `again`: they were live
    /// on an earlier attempt and their history is unbroken, so `resubscribe` may ask for what was missed.
    /// An error is about the first candidate alone.
    pub fn subscribe(&mut self, now: Time, candidates: &[ChannelSpec<'_>], again: bool) -> Result<Outgoing, SendError> {
        let _ = (now, candidates, again);
        Err(SendError::NoTemplate)
    }

    /// One unsubscribe frame, as [`Conversation::subscribe`]. `Ok(None)`: nothing to send for the first candidate (the
    /// dialect has no such template, or the channel has no subscription here); it counts as done.
    pub fn unsubscribe(&mut self, now: Time, candidates: &[ChannelSpec<'_>]) -> Result<Option<Outgoing>, SendError> {
        let _ = (now, candidates);
        Ok(None)
    }

    /// Whether the dialect can carry this message, before it is accepted. Looks at the message and its channel only, not
    /// at the state of the connection.
    pub fn check_publish(&self, message: &MessageSpec<'_>) -> Result<(), SendError> {
        let _ = message;
        Err(SendError::NoTemplate)
    }

    /// The frame that publishes this message. [`SendError::NotJoined`] passes once the channel is live.
    pub fn publish(&mut self, now: Time, message: &MessageSpec<'_>) -> Result<Outgoing, SendError> {
        let _ = (now, message);
        Err(SendError::NoTemplate)
    }

    /// A heartbeat of the dialect's own; `None`: it has none, or a variable it needs is not known yet.
    pub fn ping(&mut self, now: Time) -> Option<Outgoing> {
        let _ = now;
        None
    }

    /// In-band renewal of the token; [`SendError::NoTemplate`]: connect again instead.
    pub fn renew(&mut self, now: Time, token: Secret) -> Result<Outgoing, SendError> {
        let _ = (now, token);
        Err(SendError::NoTemplate)
    }

    /// The deadline of this request passed (deadlines are the relay's): a late answer is about nothing.
    pub fn give_up(&mut self, request: RequestId) {
        let _ = request;
    }

    /// The channel is unsubscribed for good: its variables go, its number may be used anew.
    pub fn forget_channel(&mut self, channel: ChannelId) {
        let _ = channel;
    }

    /// Intervals as they stand now.
    pub fn timing(&self) -> Timing {
        Timing { ping: self.dialect.limits().ping, idle: self.dialect.limits().idle, token_ttl: None }
    }

    /// Ends the conversation; `forget`: without its session variables.
    pub fn into_carried(self, forget: bool) -> Carried {
        let _ = forget;
        self.carried
    }
}
