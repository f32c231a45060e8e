//! The defaults: what `config/tidegate.toml` shows, as values. A test holds the two equal.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{
    AccessConfig, AccessMode, AdminConfig, BackoffConfig, BudgetConfig, ChannelPolicy, Config, Conflict, FeedConfig,
    InterestConfig, Listen, LogConfig, LogFormat, OutboxConfig, ReadyUpstream, RepairConfig, RingConfig, StaleAfter,
    TokenSource, UpstreamConfig,
};
use crate::dialect::Transport;
use crate::relay::outbox::{Lane, OnUnknown};
use crate::relay::stats::StaleAction;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Where the feed listens.
const FEED_PORT: u16 = 7440;
/// Where the admin listener is.
const ADMIN_PORT: u16 = 7441;

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Default for Config {
    fn default() -> Self {
        Config {
            upstream: UpstreamConfig::default(),
            secrets: Vec::new(),
            interest: InterestConfig::default(),
            repair: RepairConfig::default(),
            budget: BudgetConfig::default(),
            feed: FeedConfig::default(),
            channels: vec![ChannelPolicy::default()],
            outbox: OutboxConfig::default(),
            access: AccessConfig::default(),
            admin: AdminConfig { listen: vec![loopback(ADMIN_PORT)], probes: None },
            ready: ReadyUpstream::Ignore,
            drain_timeout: Duration::from_secs(10),
            alerts: Vec::new(),
            log: LogConfig { level: tracing::Level::INFO, format: LogFormat::Auto },
        }
    }
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        UpstreamConfig {
            url: "wss://example.com/stream".to_owned(),
            endpoints: Vec::new(),
            transports: vec![Transport::WebSocket],
            climb_after: Duration::from_secs(300),
            dialect: "plain".to_owned(),
            params: serde_json::Map::new(),
            headers: Vec::new(),
            token: TokenSource::None,
            fetch_origins: Vec::new(),
            ca_file: None,
            client_cert: None,
            proxy: None,
            connect_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            backoff: BackoffConfig { min: Duration::from_millis(500), max: Duration::from_secs(60) },
            stable_for: Duration::from_secs(10),
            max_attempts: 0,
            ping_interval: Duration::from_secs(20),
            ping_misses: 2,
            max_age: None,
            max_frame: 16 * MIB,
        }
    }
}

impl Default for InterestConfig {
    fn default() -> Self {
        InterestConfig {
            linger: Duration::from_secs(5),
            ack_timeout: Duration::from_secs(10),
            ack_attempts: 3,
            refresh_ttl: Duration::from_secs(2),
            refused_for: Duration::from_secs(300),
            audit_interval: Some(Duration::from_secs(300)),
            max_channels: 0,
        }
    }
}

impl Default for FeedConfig {
    fn default() -> Self {
        FeedConfig {
            listen: vec![Listen::Tcp(loopback(FEED_PORT))],
            max_sessions: 10_000,
            max_channels: 100_000,
            channel_keys: 10_000,
            session_channels: 1_000,
            session_requests: 100,
            session_errors: 100,
            ring: RingConfig { events: 1_000, bytes: MIB, age: Duration::from_secs(600) },
            ring_bytes_total: 256 * MIB,
            value_bytes_total: 256 * MIB,
            control_bytes_total: 256 * MIB,
            session_lag: MIB,
            write_timeout: Duration::from_secs(10),
            request_max: 256 * KIB,
            header_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(20),
            sse_ping_interval: Duration::from_secs(15),
        }
    }
}

impl Default for ChannelPolicy {
    /// The policy of all channels that no other one matches.
    fn default() -> Self {
        ChannelPolicy {
            pattern: "*".to_owned(),
            priority: Lane::Medium,
            on_unknown: OnUnknown::Retry,
            conflict: Conflict::Queue,
            params: None,
            upstream: None,
            ring: None,
            linger: None,
            stale_after: StaleAfter::Off,
            stale_action: StaleAction::Reconnect,
        }
    }
}

impl Default for OutboxConfig {
    fn default() -> Self {
        OutboxConfig {
            path: PathBuf::from("/var/lib/tidegate"),
            window: 64,
            ack_timeout: Duration::from_secs(10),
            max_attempts: 10,
            backoff: BackoffConfig { min: Duration::from_secs(1), max: Duration::from_secs(300) },
            ttl: None,
            in_memory: 10_000,
            in_memory_bytes: 16 << 20,
            message_max: 256 * KIB,
            max_messages: 1_000_000,
            max_bytes: 1 << 30,
            reserve: 10,
            principal_messages: None,
            principal_bytes: None,
            min_free: 256 << 20,
            max_disk: 8 << 30,
            rotate_above: 128 << 20,
            ballast: 32 << 20,
            keep_outcomes: Duration::from_secs(86_400),
            keep_outcomes_max: 1_000_000,
            max_dead_letters: 10_000,
            max_dead_letter_bytes: 64 * MIB,
        }
    }
}

impl Default for AccessConfig {
    fn default() -> Self {
        AccessConfig {
            mode: AccessMode::Loopback,
            origins: Vec::new(),
            hosts: Vec::new(),
            tokens: Vec::new(),
            allow_query_token: false,
            insecure: false,
        }
    }
}
