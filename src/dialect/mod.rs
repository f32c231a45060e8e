//! Dialects, PURE: an upstream protocol as data, and a conversation held in it.
//!
//! A [`Dialect`] is one TOML file, compiled: ordered receive rules, send templates, variables. Nothing in it is executed.
//! A [`Conversation`] is a dialect at work on one attempt: variables, bindings, pending requests. It is told what comes in
//! and what the relay wants to say; it answers with what that meant ([`Heard`]) and with frames ([`Outgoing`]).
//!
//! Invariants: no input panics, stalls or grows memory without bound; payload bytes are slices of the received frame;
//! a rule that matches without its channel is [`Heard::Unextracted`], never an event without one.
//! Deliberately not here: sockets, clocks, pacing, retries (the relay's), and what an event means to a session.
//!
//! | part | what |
//! |---|---|
//! | `schema` | the file's form; all load errors at once, with line and column |
//! | `pointer`, `reader`, `scan` | one strict pass over a message's bytes that finds the values of all pointers of all rules |
//! | `wire`, `http` | transports, addresses, frames, exchanges: what travels between relay and carrier |
//! | `stream` | an event stream's bytes (SSE), however they are cut, to events |
//! | `framing`, `field` | how messages stand in frames, and what a frame says about its message |
//! | `rule`, `condition`, `value`, `message` | which rule decides, and what it takes out of a message |
//! | `template`, `composition` | texts with holes; channel names made of parts |
//! | `variable`, `variables`, `fill` | names, stored values, and what a name means at one moment |
//! | `conversation` | the running state: `pending` requests, `bindings` of subscription ids, `held` events, `channels` |
//! | `fetch`, `sign`, `jwt` | calls whose answers supply variables, signatures, when a token ends |
//! | `checksum` | a channel's state held against the checksum that a provider sends over it |
//! | `limits`, `units`, `timestamp` | what the provider allows, and small notations |
//! | `explain`, `rehearsal` | what a frame would mean, for people; recorded conversations held again |

mod bindings;
mod channels;
mod checksum;
mod composition;
mod condition;
pub mod conversation;
pub mod explain;
mod fetch;
mod field;
mod fill;
mod framing;
mod held;
mod http;
pub mod jwt;
pub mod limits;
mod message;
mod pending;
pub mod pointer;
mod reader;
pub mod rehearsal;
pub mod rule;
pub mod scan;
pub mod schema;
mod sign;
pub mod stream;
mod template;
mod timestamp;
mod units;
mod value;
mod variable;
mod variables;
mod wire;

pub use checksum::Checksum;
pub use conversation::{Carried, Conversation, Equipment, Timing, Wanted};
pub use explain::Explained;
pub use fetch::{NoSupply, Supply, may_call};
pub use field::{Field, FieldValue};
pub use framing::Skipped;
pub use http::{HttpAnswer, HttpRequest, UNRESERVED, retry_after, same_origin};
pub use limits::{GapPolicy, GapScope, Limits, OnGap, Rate, Rotate};
pub use rule::Class;
pub use schema::connect::UrlChannels;
pub use schema::{Dialect, LoadError, TokenCall};
pub use wire::{Answer, Ask, AskFor, ConnectRequest, Method, StreamEvent, Transport, WireFrame};

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use crate::relay::record::MessageId;
use crate::relay::time::Wall;

/// The number by which the relay knows a channel; opaque here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u32);

/// A channel that the relay wants subscribed or unsubscribed.
#[derive(Debug, Clone, Copy)]
pub struct ChannelSpec<'a> {
    /// The relay's number for it.
    pub id: ChannelId,
    /// Upstream's name: the base, without params.
    pub name: &'a str,
    /// The params' JSON object text, secrets included, if any.
    pub params: Option<&'a str>,
}

/// A message to publish.
#[derive(Debug, Clone, Copy)]
pub struct MessageSpec<'a> {
    /// The message's id, the same over all its attempts: `{message}`.
    pub id: MessageId,
    /// Where to: `{channel}`, `{params}`, and `{sub}` of a joined channel.
    pub channel: &'a str,
    /// The params' JSON object text.
    pub params: Option<&'a str>,
    /// `{key}`.
    pub key: Option<&'a str>,
    /// `{type}`.
    pub kind: Option<&'a str>,
    /// `{data}`: JSON text.
    pub data: &'a str,
    /// `{idempotency_key}`; the message id where the publisher gave none.
    pub idempotency_key: Option<&'a str>,
}

/// What is asked for beside the stream of a channel's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish<'a> {
    /// Only this item: `{key}`.
    pub key: Option<&'a str>,
    /// The numbers that are missing, first and last: `{missing_from}`, `{missing_to}`.
    pub missing: Option<(u64, u64)>,
}

/// What a request was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Authentication.
    Auth,
    /// Subscribe these channels.
    Subscribe(Vec<ChannelId>),
    /// Unsubscribe these channels.
    Unsubscribe(Vec<ChannelId>),
    /// Publish this message.
    Publish(MessageId),
    /// Tell the state of this channel, or of one of its keys where the template names it.
    State(ChannelId, Option<Box<str>>),
    /// List what upstream believes to be subscribed.
    Audit,
    /// A heartbeat.
    Ping,
    /// A message of upstream answered: pong, receipt. Never answered itself.
    Reply,
    /// The next messages are asked for.
    Poll,
}

/// A request's number on one attempt: the dialect's `{id}`. Rises, never reused within an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A frame to send, rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its number.
    pub request: RequestId,
    /// What it is for.
    pub purpose: Purpose,
    /// The frame.
    pub frame: WireFrame,
    /// Binary frames that belong to it and follow it with nothing in between.
    pub attachments: Vec<Bytes>,
    /// Whether upstream answers it with an ack or error. If not, a subscribe counts as live once transmitted.
    pub answered: bool,
}

impl Outgoing {
    /// One frame that upstream answers with nothing that is matched to it.
    pub fn unanswered(request: RequestId, purpose: Purpose, frame: WireFrame) -> Self {
        Outgoing { request, purpose, frame, attachments: Vec::new(), answered: false }
    }
}

/// Why something cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// The dialect has no such template: `not_supported`.
    NoTemplate,
    /// A variable without `?` has no value: its name.
    Unset(String),
    /// The channel's name does not fit the dialect's `channel = "{a}:{b}"`.
    Name(String),
    /// A publish that needs `{sub}` of a channel that is not subscribed on this attempt yet.
    NotJoined,
    /// The transport carries nothing up, and the template has no `post`: another transport may.
    NoWayUp(Transport),
    /// The values do not make valid JSON (for example params that are no object).
    Invalid(String),
    /// Larger than upstream says it takes.
    TooLarge {
        /// Bytes of the frame.
        bytes: usize,
        /// Bytes that upstream takes.
        takes: usize,
    },
    /// More than anybody takes: what, and how to mend it.
    Oversize(String),
}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SendError::NoTemplate => f.write_str("the dialect has no template for it"),
            SendError::Unset(name) if name == "token" => {
                f.write_str("{token} has no value: set upstream.token, token_file or token_env")
            }
            SendError::Unset(name) => write!(f, "{{{name}}} has no value"),
            SendError::Name(name) => write!(f, "channel {name:?} does not fit the dialect's composed channel names"),
            SendError::NotJoined => f.write_str("the channel is not subscribed on this connection yet"),
            SendError::NoWayUp(transport) => {
                write!(f, "nothing can be sent over {}, and the dialect names no `post` for it", transport.text())
            }
            SendError::Invalid(reason) | SendError::Oversize(reason) => f.write_str(reason),
            SendError::TooLarge { bytes, takes } => {
                write!(f, "upstream takes {takes} bytes at once, and these are {bytes}")
            }
        }
    }
}

impl std::error::Error for SendError {}

/// Which channel an inbound message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// By upstream's base name.
    Name(&'a str),
    /// By a subscription id that was bound to this channel.
    Channel(ChannelId),
}

/// How an event changes its channel's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fold {
    /// It is the whole value of its key.
    #[default]
    Replace,
    /// It is an increment.
    Append,
}

/// What part of the channel's state an inbound message states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One change.
    Event,
    /// The whole channel, or (with `each`) the first of its elements: what stood before goes.
    Snapshot,
    /// A further element of the snapshot that the `Snapshot` before it began.
    SnapshotPart,
}

/// One event, extracted. Text is borrowed from the frame where it holds no escapes.
#[derive(Debug, Clone, PartialEq)]
pub struct Event<'a> {
    /// Which channel.
    pub target: Target<'a>,
    /// Which item of the channel.
    pub key: Option<Cow<'a, str>>,
    /// The event's type.
    pub kind: Option<Cow<'a, str>>,
    /// Upstream's id of the event.
    pub id: Option<Cow<'a, str>>,
    /// Upstream's sequence, first and last (equal where it is one number).
    pub sequence: Option<(u64, u64)>,
    /// Upstream's own time of the event.
    pub source_time: Option<Wall>,
    /// The payload's bytes as upstream sent them.
    pub data: Cow<'a, [u8]>,
    /// Change or snapshot.
    pub role: Role,
    /// How a change folds.
    pub fold: Fold,
}

/// What an error, denial, nack or close means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Try again with backoff.
    Retry,
    /// For good: refuse the subscription, reject the message.
    Reject,
    /// Get new credentials and try again.
    Refresh,
    /// Subscribe the channel again.
    Resubscribe,
    /// Connect again.
    Reconnect,
    /// Do not connect again until told.
    Fatal,
    /// Send nothing for this long.
    Pause(Duration),
}

/// What one inbound message meant. A frame may hold several messages, a message several events.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard<'a> {
    /// Something happened on a channel.
    Event(Event<'a>),
    /// A request was answered well.
    Acked {
        /// Which request; `None`: nothing that waits (the answer is late, repeated, or to somebody else).
        request: Option<RequestId>,
        /// What it was for, as far as this answer settles it (one channel of several, say). Without a request: nothing.
        purpose: Purpose,
        /// Upstream's answer payload.
        data: Option<Cow<'a, [u8]>>,
    },
    /// A request was refused, or upstream complains.
    Refused {
        /// Which request and what for; `None`: about nothing that is pending.
        about: Option<(RequestId, Purpose)>,
        /// The channel it names, if any.
        target: Option<Target<'a>>,
        /// Upstream's code.
        code: Option<Cow<'a, str>>,
        /// Upstream's words.
        message: Option<Cow<'a, str>>,
        /// What the dialect says it means.
        then: Option<Then>,
        /// When to try again.
        retry_after: Option<Duration>,
    },
    /// The conversation is ready for subscribes and publishes.
    Ready {
        /// Upstream goes on where it was: no resubscribe needed.
        resumed: bool,
    },
    /// Authentication was refused.
    Denied {
        /// Upstream's words.
        message: Option<Cow<'a, str>>,
        /// What the dialect says it means.
        then: Option<Then>,
    },
    /// Upstream ended a subscription.
    Gone {
        /// Which.
        target: Target<'a>,
        /// Upstream's code.
        code: Option<Cow<'a, str>>,
        /// Upstream's words.
        message: Option<Cow<'a, str>>,
        /// What the dialect says it means.
        then: Option<Then>,
    },
    /// Events of a channel were lost, or a part of one.
    Lost {
        /// Which.
        target: Target<'a>,
        /// A part of the next event was too large; else upstream says it (`lost`).
        oversize: bool,
    },
    /// What upstream believes to be subscribed on this connection.
    Subscriptions {
        /// The question that this answers; `None`: nobody asked.
        request: Option<RequestId>,
        /// By upstream's names.
        names: Vec<Box<str>>,
        /// Nothing on the list was passed over.
        whole: bool,
    },
    /// Upstream's checksum over a channel's state is not ours (`[gap] checksum`): something is missing, or was misread.
    Mismatched {
        /// Which.
        target: Target<'a>,
        /// It was a whole state that is wrong in itself, and that was told before.
        whole: bool,
    },
    /// The connection was to begin with the newest event that had come before it, and began with another one: what was
    /// between them is not known.
    Unproven,
    /// Long-polls followed each other without a place from which the later one could go on: what came between them, before
    /// the next event, is not known.
    Unseen,
    /// Upstream asks for a new connection.
    Reconnect {
        /// When to try again.
        retry_after: Option<Duration>,
    },
    /// Upstream has ended the session: nothing more comes of it.
    Closed,
    /// What upstream sends cannot be followed any more: why. Nothing more is heard on this connection.
    Broken(&'static str),
    /// A poll was answered with a status that brings nothing and means something; 0: it was not answered in time.
    PollFailed {
        /// HTTP status.
        status: u16,
        /// When to try again.
        retry_after: Option<Duration>,
        /// The start of what was said, escaped.
        detail: String,
    },
    /// A poll came back at once with nothing, again: the next one waits.
    Hasty,
    /// A heartbeat was answered.
    Pong {
        /// Which; `None`: the protocol's pongs have no id.
        request: Option<RequestId>,
    },
    /// Something came over the WebSocket to which a polled session may be moved.
    Probed {
        /// What had to come.
        good: bool,
    },
    /// Something has to be sent back: authentication after hello, pong, receipt.
    Send(Outgoing),
    /// A rule says ignore.
    Ignored,
    /// A message that is no event for anybody has these numbers, first and last, where numbers count the whole connection.
    Numbered(u64, u64),
    /// So many things that are passed over on purpose.
    Skipped(Skipped, usize),
    /// No rule matched.
    Unmatched,
    /// A rule matched but its channel, or what it needs, is missing; the rule's number (from 0).
    Unextracted(usize),
    /// Not valid in the dialect's framing (not JSON, not UTF-8, too deep).
    Malformed,
}
