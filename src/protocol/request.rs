//! What a client may ask, as data. Parsing happens under limits: depth, size and counts are checked before anything is kept.

pub mod edit;
pub(in crate::protocol) mod fields;
pub mod options;
pub mod parse;
pub mod query;

use std::time::Duration;

use options::Options;

use crate::relay::outbox::{Lane, OnUnknown};

/// The client's own mark on a request, echoed in the answer: a JSON number or string, kept as its JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref(pub Box<str>);

/// A channel as a client names it: the name and, optionally, parameters for the dialect's templates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelRequest {
    /// The name, at most 256 bytes, no control characters. A trailing `*` makes it a pattern.
    pub name: Box<str>,
    /// Canonical JSON object (RFC 8785), or `None`.
    pub params: Option<Box<str>>,
}

/// `subscribe`: one or several channels with the same options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Echoed in `subscribed` and `error`.
    pub reference: Option<Ref>,
    /// What to subscribe; never empty.
    pub channels: Vec<ChannelRequest>,
    /// Resume after this position; kept as text so that a malformed one is answered by `reset` and not by an error.
    pub since: Option<Box<str>>,
    /// Whether to begin with a snapshot (without `since`).
    pub snapshot: bool,
    /// What of the channels' entries, and when.
    pub options: Options,
}

/// One message to publish, as the client gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Where to.
    pub channel: ChannelRequest,
    /// The item within the channel, if the dialect's template has one.
    pub key: Option<Box<str>>,
    /// The message's type, if the dialect's template has one.
    pub kind: Option<Box<str>>,
    /// The payload's JSON text, byte for byte.
    pub data: Box<str>,
    /// Makes a repeated publish find the first one; scoped to the principal.
    pub idempotency_key: Option<Box<str>>,
    /// Messages with the same order key leave strictly one after another.
    pub order_key: Option<Box<str>>,
    /// Once accepted, those of the same principal, channel, key and order key that still wait end as `superseded`.
    pub coalesce: bool,
    /// How urgent.
    pub lane: Lane,
    /// Expire if no attempt began within this time.
    pub ttl: Option<Duration>,
    /// What a lost connection between sending and ack means; `None`: the channel's policy.
    pub on_unknown: Option<OnUnknown>,
    /// It leaves now or not at all, is not stored and has no outcome.
    pub volatile: bool,
    /// What it will make of a channel: shown there until it has ended.
    pub optimistic: Option<Optimistic>,
}

/// A value that is laid over a channel until its message has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Optimistic {
    /// Which channel: if the publisher names none, the message's.
    pub channel: ChannelRequest,
    /// The item within it: if the publisher names none, and no channel either, the message's.
    pub key: Option<Box<str>>,
    /// The value's JSON text, byte for byte.
    pub value: Box<str>,
}

/// A request of a session. What the feed knows and this relay does not carry out, parsing refuses as `not_supported` by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Start receiving channels.
    Subscribe(Subscribe),
    /// Stop receiving channels.
    Unsubscribe {
        /// Echoed.
        reference: Option<Ref>,
        /// Which.
        channels: Vec<ChannelRequest>,
    },
    /// Send messages upstream.
    Publish {
        /// Echoed in `accepted` and `error`.
        reference: Option<Ref>,
        /// One, or several of one `messages` list.
        messages: Vec<Publish>,
        /// All accepted or none.
        atomic: bool,
    },
    /// Withdraw a message that is not in flight.
    Cancel {
        /// Echoed.
        reference: Option<Ref>,
        /// The message's id text.
        message: Box<str>,
    },
    /// Ask upstream for the present state of a channel.
    Refresh {
        /// Echoed.
        reference: Option<Ref>,
        /// Which.
        channel: ChannelRequest,
        /// Only this item of it.
        key: Option<Box<str>>,
    },
    /// Present a token after connecting.
    Auth {
        /// Echoed.
        reference: Option<Ref>,
        /// The token.
        token: Secret,
    },
    /// Answered by `pong`.
    Ping {
        /// Echoed.
        reference: Option<Ref>,
    },
}

/// Text that must not be shown: `Debug` prints nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Secret(text.into())
    }

    /// The secret itself, for the one place that uses it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
