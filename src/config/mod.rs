//! The configuration, parsed: one struct per owner, every limit of the program. `load` reads it (figment: file, environment,
//! `--set`); here are only the values. Invariant: a [`Config`] is valid; nothing else checks it again.

pub mod alerts;
mod credentials;
pub mod default;
pub mod load;
pub mod places;
pub mod reader;
pub mod reload;
mod repair;
mod sections;
pub mod show;
pub mod size;
pub mod suggest;
mod validate;

pub use repair::{Allowance, BudgetConfig, RepairConfig};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::dialect::Transport;
use crate::protocol::request::Secret;
use crate::relay::outbox::{Lane, OnUnknown};
use crate::relay::stats::StaleAction;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[upstream]`
    pub upstream: UpstreamConfig,
    /// `[secrets]`, by name, for dialects.
    pub secrets: Vec<(String, SecretSource)>,
    /// `[interest]`
    pub interest: InterestConfig,
    /// `[repair]`
    pub repair: RepairConfig,
    /// `[budget]`
    pub budget: BudgetConfig,
    /// `[feed]`
    pub feed: FeedConfig,
    /// `[[channels]]`, first match wins; ends with `match = "*"`.
    pub channels: Vec<ChannelPolicy>,
    /// `[outbox]`
    pub outbox: OutboxConfig,
    /// `[access]`
    pub access: AccessConfig,
    /// `[admin]`
    pub admin: AdminConfig,
    /// `[ready]`
    pub ready: ReadyUpstream,
    /// `[drain] timeout`: how long a drain waits for messages in flight and for sessions.
    pub drain_timeout: Duration,
    /// `[[alerts]]`
    pub alerts: Vec<alerts::AlertConfig>,
    /// `[log]`
    pub log: LogConfig,
}

/// Exponential backoff with full jitter between these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffConfig {
    /// The first upper bound.
    pub min: Duration,
    /// The last upper bound.
    pub max: Duration,
}

/// Where the upstream token comes from; read anew at each connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// The dialect gets no token.
    None,
    /// `token = "…"`
    Literal(Secret),
    /// `token_file = "…"`, trailing white space cut.
    File(PathBuf),
    /// `token_env = "…"`
    Env(String),
    /// `token_command = ["…"]`: what the program writes.
    Command(Vec<String>),
    /// `token_fetch = { … }`: a call in the words of a dialect's `[fetch]`, as TOML. May hold secrets.
    Fetch(Secret),
}

/// Where a secret comes from; read anew at each connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Trailing white space is cut.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// What a program writes.
    Command(Vec<String>),
}

/// A certificate by which upstream knows us (PEM files).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCert {
    /// It and those between it and upstream's root, ours first.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// One of `upstream.endpoints`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Its address.
    pub url: String,
    /// How often it is chosen, against the others.
    pub weight: u32,
}

/// `[upstream]`
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamConfig {
    /// `ws://`, `wss://`, `http://` or `https://` address; each transport uses its own scheme, with or without TLS as given.
    pub url: String,
    /// Several addresses; empty: `url` alone. Else `url` is the first of them.
    pub endpoints: Vec<EndpointConfig>,
    /// How to connect, the preferred way first; never empty, and the dialect has all of them.
    pub transports: Vec<Transport>,
    /// How long a transport that is not the first one serves before a better one is tried.
    pub climb_after: Duration,
    /// Built-in name or path of a dialect.
    pub dialect: String,
    /// For the dialect's connection templates: JSON values by name.
    pub params: serde_json::Map<String, serde_json::Value>,
    /// Extra headers of the upgrade. Values may be secret.
    pub headers: Vec<(String, Secret)>,
    /// Where the token comes from.
    pub token: TokenSource,
    /// Origins besides upstream's own that the dialect may ask over HTTP.
    pub fetch_origins: Vec<String>,
    /// More trusted roots (PEM), besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate.
    pub client_cert: Option<ClientCert>,
    /// `http://` address of a proxy, maybe with a password, or `off`; `None`: what the environment says.
    pub proxy: Option<Secret>,
    /// Name resolution and TCP together.
    pub connect_timeout: Duration,
    /// TLS, upgrade and the dialect's authentication together.
    pub handshake_timeout: Duration,
    /// Between attempts.
    pub backoff: BackoffConfig,
    /// Backoff resets only after this long live.
    pub stable_for: Duration,
    /// Attempts before giving up; 0: for ever.
    pub max_attempts: u32,
    /// WebSocket pings (and the dialect's, where it names no interval).
    pub ping_interval: Duration,
    /// Unanswered pings after which the connection is dead; one may take from a quarter of the interval to so many of them.
    pub ping_misses: u32,
    /// Another connection takes over before one is as old as this; `None`: the dialect's `[limits] age` alone.
    pub max_age: Option<Duration>,
    /// Bytes of one message from upstream.
    pub max_frame: usize,
}

impl UpstreamConfig {
    /// Where to connect to; at least one.
    pub fn addresses(&self) -> Vec<EndpointConfig> {
        if self.endpoints.is_empty() {
            vec![EndpointConfig { url: self.url.clone(), weight: 1 }]
        } else {
            self.endpoints.clone()
        }
    }
}

/// `[interest]`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InterestConfig {
    /// Keep a channel subscribed upstream this long without interest.
    pub linger: Duration,
    /// How long upstream may take to answer a subscribe.
    pub ack_timeout: Duration,
    /// Subscribes of one channel before it is refused with `upstream_timeout`.
    pub ack_attempts: u32,
    /// How long the answer to a refresh is good for whoever asks next.
    pub refresh_ttl: Duration,
    /// How long a refusal is remembered.
    pub refused_for: Duration,
    /// How often upstream is asked what it believes to be subscribed; `None`: never.
    pub audit_interval: Option<Duration>,
    /// Channels subscribed upstream at once; 0: the dialect's limit.
    pub max_channels: usize,
}

/// Bounds of one ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingConfig {
    /// Entries.
    pub events: usize,
    /// Bytes of their text.
    pub bytes: usize,
    /// Age of the oldest.
    pub age: Duration,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP.
    Tcp(SocketAddr),
}

/// `[feed]`
#[derive(Debug, Clone, PartialEq)]
pub struct FeedConfig {
    /// Addresses of the feed listener.
    pub listen: Vec<Listen>,
    /// Sessions at once.
    pub max_sessions: usize,
    /// Channels carried at once.
    pub max_channels: usize,
    /// Last values (keys) kept per channel; beyond it the oldest value goes.
    pub channel_keys: usize,
    /// Channels one session may subscribe.
    pub session_channels: usize,
    /// Requests a session may make per second, sustained; bursts up to twice that.
    pub session_requests: u32,
    /// Wrong requests after which a session is closed (4003).
    pub session_errors: u32,
    /// Bounds of each ring.
    pub ring: RingConfig,
    /// Bytes of all rings.
    pub ring_bytes_total: usize,
    /// Bytes of all last values.
    pub value_bytes_total: usize,
    /// Bytes of snapshots and other control frames that wait for all sessions together.
    pub control_bytes_total: usize,
    /// Bytes a session may lag in the rings before `on_slow` applies.
    pub session_lag: usize,
    /// How long one write may be blocked before the session is closed (4001).
    pub write_timeout: Duration,
    /// Bytes of one request.
    pub request_max: usize,
    /// How long a client may take to send its request's head.
    pub header_timeout: Duration,
    /// Pings to WebSocket sessions; a session that answers none for twice as long is closed (4002).
    pub ping_interval: Duration,
    /// Comments to SSE sessions.
    pub sse_ping_interval: Duration,
}

/// `[[channels]]`: a policy for the channels that match.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelPolicy {
    /// Local channel name, or prefix followed by `*`.
    pub pattern: String,
    /// Order of upstream subscribes.
    pub priority: Lane,
    /// Default of messages published there.
    pub on_unknown: OnUnknown,
    /// Fixed params for the plain name.
    pub params: Option<Box<str>>,
    /// The upstream subscription that carries these local channels.
    pub upstream: Option<String>,
    /// Ring bounds other than `feed.ring`.
    pub ring: Option<RingConfig>,
    /// Linger other than `interest.linger`.
    pub linger: Option<Duration>,
    /// What a second change of something means whose first one is still pending.
    pub conflict: Conflict,
    /// When silence of the channel is told.
    pub stale_after: StaleAfter,
    /// The most that is done about it.
    pub stale_action: StaleAction,
}

/// `channels.conflict`: what a publish with a provisional value means where another one is pending for the same item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conflict {
    /// It waits for its turn.
    #[default]
    Queue,
    /// It takes the place of those that have not left.
    LastWriteWins,
    /// It is refused.
    Reject,
}

/// `channels.stale_after`: after how much silence a live channel is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleAfter {
    /// Never.
    Off,
    /// After this long without an event.
    After(Duration),
    /// After much more than the channel's usual time between two events.
    Learn,
}

/// `[outbox]`
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxConfig {
    /// The state directory.
    pub path: PathBuf,
    /// Messages in flight to upstream.
    pub window: usize,
    /// How long upstream may take to acknowledge.
    pub ack_timeout: Duration,
    /// Attempts before a message is dead-lettered.
    pub max_attempts: u32,
    /// Between attempts of one message.
    pub backoff: BackoffConfig,
    /// Default TTL; `None`: none.
    pub ttl: Option<Duration>,
    /// Waiting messages held in memory.
    pub in_memory: usize,
    /// Their bytes.
    pub in_memory_bytes: u64,
    /// Bytes of one message's payload.
    pub message_max: usize,
    /// Undelivered messages.
    pub max_messages: usize,
    /// Their bytes on disk.
    pub max_bytes: u64,
    /// Percent of both that are kept for lanes above `medium`.
    pub reserve: u8,
    /// Undelivered messages of one principal; `None`: as many as of all.
    pub principal_messages: Option<usize>,
    /// Their bytes on disk.
    pub principal_bytes: Option<u64>,
    /// Free bytes of the file system below which nothing is accepted.
    pub min_free: u64,
    /// Bytes that the store's files may take; nothing is accepted from there on.
    pub max_disk: u64,
    /// Bytes on disk above which the store is written anew if a quarter of that would do.
    pub rotate_above: u64,
    /// Bytes set aside on disk, given back when it is full; 0: none.
    pub ballast: u64,
    /// How long outcomes and idempotency keys are kept.
    pub keep_outcomes: Duration,
    /// At most so many.
    pub keep_outcomes_max: usize,
    /// Dead letters kept at most; beyond it the oldest are dropped.
    pub max_dead_letters: usize,
    /// Bytes of their payloads at most, in memory and on disk.
    pub max_dead_letter_bytes: usize,
}

/// A static token and what it may do.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenGrant {
    /// The principal's name.
    pub name: String,
    /// The token.
    pub token: Secret,
    /// Patterns of channels it may read.
    pub read: Vec<String>,
    /// Patterns of channels it may write.
    pub write: Vec<String>,
}

/// `access.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessMode {
    /// Whoever reaches the loopback listener, with a right `Host` and `Origin`, may do all.
    Loopback,
    /// Only who shows one of `access.tokens`.
    Tokens,
}

/// `[access]`
#[derive(Debug, Clone, PartialEq)]
pub struct AccessConfig {
    /// Which control.
    pub mode: AccessMode,
    /// Origins allowed besides the listener's own, exact.
    pub origins: Vec<String>,
    /// Host names allowed besides the addresses bound.
    pub hosts: Vec<String>,
    /// `[[access.tokens]]`
    pub tokens: Vec<TokenGrant>,
    /// Tokens may come in the query.
    pub allow_query_token: bool,
    /// Listen beyond loopback without access control.
    pub insecure: bool,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq)]
pub struct AdminConfig {
    /// Addresses of the admin listener.
    pub listen: Vec<SocketAddr>,
    /// One more listener with only probes and metrics.
    pub probes: Option<SocketAddr>,
}

/// `ready.upstream`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadyUpstream {
    /// Readiness does not depend on upstream.
    Ignore,
    /// Not ready once upstream was down this long.
    Grace(Duration),
    /// Not ready unless upstream is live.
    Required,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Lines for people.
    Text,
    /// One object a line.
    Json,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace`.
    pub level: tracing::Level,
    /// How lines look.
    pub format: LogFormat,
}
