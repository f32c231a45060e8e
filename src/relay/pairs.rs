//! The pairs: every [`Output`] asks, an [`Input`] answers. Read this file and you know the program.
//!
//! | `Output` asks | `Input` answers | carried by |
//! |---|---|---|
//! | `Connect` | `Connected`, or `Disconnected` (also later, unasked) | `upstream/` |
//! | `Transmit` | `Transmitted`, or `Disconnected`: then its frames *may have left* | `upstream/` |
//! | `Disconnect` | `Disconnected` | `upstream/` |
//! | `Upgrade` | `Upgraded`, or `NotUpgraded` (also later, unasked) | `upstream/` |
//! | `KeepPolling` | `NotUpgraded`, unless that is on its way already | `upstream/` |
//! | `Fetch` | `Fetched` | `upstream/fetch.rs`, `upstream/http.rs` |
//! | `Commit` | `Committed` or `CommitFailed`; durable before the answer | `store/` |
//! | `Load` | `Loaded`, or `CommitFailed` | `store/` |
//! | `Deliver` | `Delivered`: at once if all was written, later if the socket was full | `downstream/writer.rs` |
//! | `Answer` | - (it answers `Call`) | `downstream/http.rs` |
//! | `Close` | `Left` (also unasked) | `downstream/` |
//! | `Notify` | - | the log |
//! | `Alert` | `Alerted` | `notify/` |
//! | `Stopped` | - (it answers `Stop`) | `main.rs` |
//! | unasked | `Received`, `Joined`, `Request`, `Call`, `Disk`, `Stop`, `Reload` | |
//!
//! Invariant: a sink (attempt, store, session) has at most one request out; the store one of each kind. `attempt`,
//! `session` and `call` numbers make stale input harmless.

use std::sync::Arc;

use bytes::Bytes;

use super::access::Principal;
use super::record::{Operation, Stored, Wanted};
use super::time::{Mono, Time};
use crate::config::Config;
use crate::config::alerts::AlertTarget;
use crate::dialect::{Ask, ConnectRequest, HttpAnswer, HttpRequest, WireFrame};
use crate::protocol::codes::{CloseCode, ErrorCode};
use crate::protocol::frame::{Batch, Format};
use crate::protocol::request::{Publish, Request, Secret, Subscribe};

/// One connection's life, counted over the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AttemptId(pub u32);

/// One local client's connection. `index` is reused, `generation` is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId {
    /// Slot in the tables of sessions and writers.
    pub index: u32,
    /// Distinguishes successive users of the slot.
    pub generation: u32,
}

/// One HTTP request that waits for an answer, or one fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CallId(pub u64);

/// One message of an alert to one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DeliveryId(pub u64);

/// Why a message of an alert did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertFailure {
    /// Trying it again may help.
    pub again: bool,
    /// What went wrong, for people; no address and no secret.
    pub detail: String,
}

/// What the relay asks of its carriers.
#[derive(Debug)]
pub enum Output {
    /// Open a connection to upstream.
    Connect {
        /// Which attempt.
        attempt: AttemptId,
        /// Where and how.
        request: ConnectRequest,
    },
    /// Write these frames, in order, and flush.
    Transmit {
        /// On which attempt.
        attempt: AttemptId,
        /// What.
        frames: Vec<WireFrame>,
    },
    /// Close the connection with this code.
    Disconnect {
        /// Which attempt.
        attempt: AttemptId,
        /// WebSocket close code.
        code: u16,
        /// What a session that is polled leaves with: carried, and waited for, as long as a close may take.
        farewell: Option<Box<Ask>>,
    },
    /// Open a WebSocket beside the polls of a connection. Frames that are no asks leave there.
    Upgrade {
        /// Which attempt.
        attempt: AttemptId,
        /// Where and how.
        request: ConnectRequest,
    },
    /// Let go of that WebSocket; the polls go on.
    KeepPolling {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// Get something from outside that a connection needs.
    Fetch {
        /// Echoed by `Fetched`.
        call: CallId,
        /// What.
        request: Fetch,
    },
    /// Make these changes durable, all or none.
    Commit(Vec<Operation>),
    /// Read these. All of them were made durable by a `Commit` that was answered; none was removed by a `Commit` that was asked
    /// for before.
    Load(Vec<Wanted>),
    /// Write a batch to a session's socket.
    Deliver {
        /// Whose.
        session: SessionId,
        /// What; shared between sessions with the same cut.
        batch: Arc<Batch>,
    },
    /// Answer an HTTP request.
    Answer {
        /// Which.
        call: CallId,
        /// With what.
        reply: Reply,
    },
    /// Close a session after what was delivered before.
    Close {
        /// Whose.
        session: SessionId,
        /// Why.
        code: CloseCode,
    },
    /// Something that people should know.
    Notify(Notice),
    /// Tell an alert to a place outside.
    Alert {
        /// Which message.
        delivery: DeliveryId,
        /// Where to; never the log.
        target: AlertTarget,
        /// The JSON text.
        body: Arc<[u8]>,
    },
    /// Drained: the process may exit.
    Stopped,
}

/// What people should know; said in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A message from upstream was not understood.
    NotUnderstood {
        /// `unmatched` (no rule), `unextracted` (a rule, but not what it needs) or `malformed`.
        why: &'static str,
        /// The message's shape, without what may be secret.
        sample: String,
        /// Others like it since the last notice.
        left_out: u64,
    },
    /// A session that was polled goes on over a WebSocket.
    Upgraded,
    /// It does not, and is polled on.
    NotUpgraded {
        /// Why, as one word.
        reason: &'static str,
        /// The circumstances; empty where the reason says it all.
        detail: String,
    },
    /// Upstream's list of what is subscribed was another one than ours; it is being mended.
    Audited {
        /// Channels that it did not have: subscribed anew.
        missing: u64,
        /// Channels that it had too many: unsubscribed.
        extra: u64,
    },
    /// Another connection took over from the one that served.
    TookOver {
        /// Why it was opened.
        why: &'static str,
    },
    /// Another connection was to take over and did not; the one that serves stays.
    NotTakenOver {
        /// Why it was opened.
        why: &'static str,
        /// How it ended, as one word.
        reason: &'static str,
        /// The circumstances; empty where the reason says it all.
        detail: String,
    },
    /// An alert fires, or does not any more.
    Alert {
        /// Its name.
        name: String,
        /// Whether it fires.
        firing: bool,
        /// Its condition.
        when: String,
        /// The quantity, in words.
        value: String,
    },
    /// A message of an alert did not arrive.
    AlertUntold {
        /// It will be tried again.
        again: bool,
        /// What went wrong.
        detail: String,
    },
    /// Connections end again and again as a fault of one side: a bug here or there.
    Faults {
        /// In a row.
        times: u32,
        /// How the last one ended, as one word.
        reason: &'static str,
        /// The circumstances.
        detail: String,
    },
    /// Connections come live and do not last.
    Flapping {
        /// In a row.
        times: u32,
        /// How long the last one was live.
        live_for: std::time::Duration,
    },
    /// What is known against what we show upstream has changed.
    Credentials {
        /// How it stands now.
        standing: super::credentials::Standing,
        /// Why; empty where it is good.
        detail: String,
    },
    /// A connection is begun before the store knows of it: a restart would not count it among those that upstream allows.
    Uncounted,
    /// The file system under the store ran low, or has room again.
    Disk {
        /// Publishes are refused.
        low: bool,
        /// Free bytes.
        free: u64,
        /// `outbox.min_free`.
        min_free: u64,
    },
}

/// What a fetch gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetch {
    /// The upstream token and the dialect's secrets, read anew from where the configuration says.
    Credentials,
    /// An HTTP exchange.
    Http(Box<HttpRequest>),
}

/// What a fetch got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchAnswer {
    /// Token and secrets.
    Credentials(Credentials),
    /// An HTTP answer, whatever its status.
    Http(HttpAnswer),
}

/// What the configuration has of credentials.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// The token; `None`: the configuration names none, or one that is fetched.
    pub token: Option<Secret>,
    /// `[secrets]`, by name.
    pub secrets: Vec<(Box<str>, Secret)>,
}

/// Why a fetch got nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchError {
    /// The token cannot be read from where the configuration says: why.
    Unreadable(String),
    /// The server could not be reached.
    Unreachable(Disconnect),
    /// No whole answer within the request's `timeout`.
    Timeout,
    /// The answer is larger than the request's `max_body`.
    Oversize,
    /// What came is no HTTP answer, or it broke off: how.
    Broken(String),
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FetchError::Unreadable(why) | FetchError::Broken(why) => f.write_str(why),
            FetchError::Unreachable(reason) => match reason.detail() {
                detail if detail.is_empty() => write!(f, "the server is not reached ({})", reason.reason()),
                detail => write!(f, "the server is not reached ({}: {detail})", reason.reason()),
            },
            FetchError::Timeout => f.write_str("no answer in time"),
            FetchError::Oversize => f.write_str("the answer is too large"),
        }
    }
}

/// What reaches the relay.
#[derive(Debug)]
pub enum Input {
    /// The connection is open (WebSocket upgraded).
    Connected {
        /// Which attempt.
        attempt: AttemptId,
        /// The address that was reached, for people.
        peer: String,
    },
    /// The connection ended, or never came about.
    Disconnected {
        /// Which attempt.
        attempt: AttemptId,
        /// Why.
        reason: Disconnect,
    },
    /// The frames of the last `Transmit` are with the kernel.
    Transmitted {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// The WebSocket beside the polls is open.
    Upgraded {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// There is no WebSocket beside the polls, or none any more. If a `Transmit` was out there, it may have left or not; its
    /// `Transmitted` follows.
    NotUpgraded {
        /// Which attempt.
        attempt: AttemptId,
        /// Why.
        reason: Disconnect,
    },
    /// Frames came in; one read, in order.
    Received {
        /// Which attempt.
        attempt: AttemptId,
        /// When the read returned.
        at: Time,
        /// What.
        frames: Vec<WireFrame>,
    },
    /// Answer to `Fetch`.
    Fetched {
        /// Which.
        call: CallId,
        /// What came, or why there is nothing.
        result: Result<FetchAnswer, FetchError>,
    },
    /// Answer to `Alert`, after the carrier's deadline at the latest.
    Alerted {
        /// Which message.
        delivery: DeliveryId,
        /// Whether it arrived.
        result: Result<(), AlertFailure>,
    },
    /// Everything of the last `Commit` is durable.
    Committed,
    /// What the last `Load` asked for.
    Loaded(Vec<Stored>),
    /// The store failed, writing or reading; nothing of the last `Commit` may be relied on and the store is dead.
    CommitFailed {
        /// Why, for people.
        reason: String,
    },
    /// A client's connection is ready. Answered by a first `Deliver` with `hello`, or by `Close`.
    Joined {
        /// Its number.
        session: SessionId,
        /// Who it is.
        principal: Arc<Principal>,
        /// In which format it is written.
        format: Format,
        /// A subscription made by the connection's address (query, SSE), if any.
        subscribe: Option<Subscribe>,
    },
    /// A session asks something.
    Request {
        /// Which session.
        session: SessionId,
        /// What, or why it could not be read.
        request: Result<Request, BadRequest>,
    },
    /// The whole batch of the last `Deliver` is with the kernel.
    Delivered {
        /// Which session.
        session: SessionId,
        /// When the write returned.
        at: Mono,
    },
    /// A session ended, by `Close` or by itself.
    Left {
        /// Which.
        session: SessionId,
        /// By whom and why, for the metric `tidegate_sessions_closed_total`.
        reason: LeftReason,
    },
    /// An HTTP request waits for `Answer`.
    Call {
        /// Its number.
        call: CallId,
        /// Who asks.
        principal: Arc<Principal>,
        /// What.
        request: CallRequest,
    },
    /// The disk under the store; said at start and whenever it changed, at most once a second.
    Disk {
        /// Bytes that are free on the file system for this user.
        free: u64,
        /// Bytes that the store's files occupy.
        used: u64,
    },
    /// Drain and stop.
    Stop {
        /// The second signal: stop at once, still durable.
        now: bool,
    },
    /// A new configuration took the old one's place; only reloadable parts differ.
    Reload(Arc<Config>),
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftReason {
    /// The client closed or vanished.
    Client,
    /// The relay closed it with this code.
    Closed(CloseCodeOrd),
}

/// A close code that can key an ordered map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CloseCodeOrd(pub u16);

/// A request that could not be read; answered by `error` with these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRequest {
    /// The client's `ref`, as far as it could be read.
    pub reference: Option<crate::protocol::request::Ref>,
    /// Which kind of wrong.
    pub code: ErrorCode,
    /// What is wrong and how to mend it.
    pub message: String,
}

/// Why a connection to upstream ended or never came about: the label `reason` of the disconnect metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disconnect {
    /// The name did not resolve.
    Dns(String),
    /// Nobody listens there.
    Refused,
    /// The system could not even try, or no route leads there: its words.
    Unreachable(String),
    /// No answer within `connect_timeout`.
    ConnectTimeout,
    /// TLS or upgrade or authentication not finished within `handshake_timeout`.
    HandshakeTimeout,
    /// The certificate does not check.
    TlsCertificate(String),
    /// The server has no version of TLS, or of what is spoken inside it, in common with us.
    TlsProtocol(String),
    /// TLS failed otherwise.
    Tls(String),
    /// The server answered the upgrade with another status.
    BadStatus {
        /// HTTP status.
        status: u16,
        /// `Retry-After` in whole seconds from now (RFC 9110 section 10.2.3), clamped to 1 s..1 h.
        retry_after: Option<std::time::Duration>,
        /// Start of the body or target of a redirect, escaped, for people.
        detail: String,
    },
    /// The upgrade's answer is not RFC 6455's.
    BadUpgrade(String),
    /// A close frame (1005 if it had no code).
    Closed {
        /// The code.
        code: u16,
        /// The reason text, cut and escaped.
        reason: String,
    },
    /// The connection was reset or cut without a close frame.
    Reset(String),
    /// A poll was not answered in time.
    AnswerTimeout,
    /// Upstream ended the answer that an event stream is.
    Ended,
    /// Bytes that are not RFC 6455's.
    Protocol(String),
    /// Text that is not UTF-8.
    NotUtf8,
    /// A frame or message above `upstream.max_frame`.
    Oversize,
    /// Our writes did not get through in time.
    WriteTimeout,
    /// The relay asked for it (`Output::Disconnect`).
    Asked,
}

impl Disconnect {
    /// The reason as one word of a closed set: a metric's label, a log line's field.
    pub fn reason(&self) -> &'static str {
        match self {
            Disconnect::Dns(_) => "dns",
            Disconnect::Refused => "refused",
            Disconnect::Unreachable(_) => "unreachable",
            Disconnect::ConnectTimeout => "connect_timeout",
            Disconnect::HandshakeTimeout => "handshake_timeout",
            Disconnect::TlsCertificate(_) => "tls_certificate",
            Disconnect::TlsProtocol(_) => "tls_protocol",
            Disconnect::Tls(_) => "tls",
            Disconnect::BadStatus { .. } => "bad_status",
            Disconnect::BadUpgrade(_) => "bad_upgrade",
            Disconnect::Closed { .. } => "closed",
            Disconnect::Reset(_) => "reset",
            Disconnect::AnswerTimeout => "answer_timeout",
            Disconnect::Ended => "ended",
            Disconnect::Protocol(_) => "protocol",
            Disconnect::NotUtf8 => "not_utf8",
            Disconnect::Oversize => "oversize",
            Disconnect::WriteTimeout => "write_timeout",
            Disconnect::Asked => "asked",
        }
    }

    /// The circumstances for people; empty where the reason says it all.
    pub fn detail(&self) -> String {
        match self {
            Disconnect::Dns(text)
            | Disconnect::Unreachable(text)
            | Disconnect::TlsCertificate(text)
            | Disconnect::TlsProtocol(text)
            | Disconnect::Tls(text)
            | Disconnect::BadUpgrade(text)
            | Disconnect::Reset(text)
            | Disconnect::Protocol(text) => text.clone(),
            Disconnect::BadStatus { status, detail, .. } => format!("HTTP status {status}: {detail}"),
            Disconnect::Closed { code, reason } => format!("close code {code}: {reason}"),
            _ => String::new(),
        }
    }

    /// What the other side or the system said, if anything.
    pub fn words_mut(&mut self) -> Option<&mut String> {
        // No catch-all: words that are overlooked here would be shown with the secrets in them.
        match self {
            Disconnect::Dns(text)
            | Disconnect::Unreachable(text)
            | Disconnect::TlsCertificate(text)
            | Disconnect::TlsProtocol(text)
            | Disconnect::Tls(text)
            | Disconnect::BadUpgrade(text)
            | Disconnect::Reset(text)
            | Disconnect::Protocol(text)
            | Disconnect::BadStatus { detail: text, .. }
            | Disconnect::Closed { reason: text, .. } => Some(text),
            Disconnect::Refused
            | Disconnect::ConnectTimeout
            | Disconnect::HandshakeTimeout
            | Disconnect::AnswerTimeout
            | Disconnect::Ended
            | Disconnect::NotUtf8
            | Disconnect::Oversize
            | Disconnect::WriteTimeout
            | Disconnect::Asked => None,
        }
    }
}

/// What an HTTP client asks of the relay. The admin listener and the feed listener each let only theirs through.
#[derive(Debug, Clone, PartialEq)]
pub enum CallRequest {
    /// `POST /v1/publish`.
    Publish {
        /// One or several.
        messages: Vec<Publish>,
        /// All or none.
        atomic: bool,
        /// `Prefer: wait`: how long the answer may wait for the outcomes; zero: it comes once all is accepted.
        wait: std::time::Duration,
    },
    /// `POST /v1/refresh`.
    Refresh {
        /// Which channel.
        channel: crate::protocol::request::ChannelRequest,
        /// Only this item of it.
        key: Option<Box<str>>,
    },
    /// `GET /v1/messages/{id}`.
    Message(Box<str>),
    /// `DELETE /v1/messages/{id}`.
    Cancel(Box<str>),
    /// `GET /v1/snapshot?channel=…`.
    Snapshot(crate::protocol::request::ChannelRequest),
    /// `GET /v1/status`.
    Status,
    /// `GET /v1/subscriptions` (admin).
    Subscriptions,
    /// `GET /v1/sessions` (admin).
    Sessions,
    /// `GET /v1/outbox` (admin).
    Outbox,
    /// `GET /v1/dead-letters` (admin): the oldest ones after this one.
    DeadLetters {
        /// The last one of the page before.
        after: Option<Box<str>>,
    },
    /// `GET /v1/dead-letters/{id}` (admin).
    DeadLetter(Box<str>),
    /// `POST /v1/dead-letters/{id}/redrive` (admin), or of all of them.
    Redrive {
        /// Which; `None`: all.
        id: Option<Box<str>>,
        /// A JSON object whose members replace those of the message; empty: none.
        edit: Box<str>,
    },
    /// `DELETE /v1/dead-letters/{id}` (admin), or of all of them.
    Purge(Option<Box<str>>),
    /// `POST /v1/upstream/reconnect` (admin): drop the connection, forget backoff, also out of `given_up`.
    Reconnect,
    /// `POST /v1/upstream/rotate` (admin): open another connection, which takes over, and close this one.
    Rotate,
    /// `POST /v1/upstream/pause` (admin): close and stay closed.
    Pause,
    /// `POST /v1/upstream/resume` (admin).
    Resume,
    /// `POST /v1/drain` (admin): as SIGTERM, but the process stays.
    Drain,
    /// The probes: is the relay ready? The reply's body says why not.
    Ready,
    /// A copy of the statistics, for `/metrics`.
    Stats,
}

/// The answer to a call.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A status and a JSON body.
    Json {
        /// HTTP status.
        status: u16,
        /// The JSON text.
        body: Bytes,
        /// `Location` header.
        location: Option<String>,
    },
    /// A problem (RFC 9457).
    Problem {
        /// Which.
        code: ErrorCode,
        /// What is wrong and how to mend it.
        message: String,
        /// `Retry-After`.
        retry_after: Option<std::time::Duration>,
    },
    /// The statistics.
    Stats(Box<super::stats::Stats>),
}
