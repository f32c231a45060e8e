//! Every key of the file, read once, section by section. What stands here is the whole language of the configuration.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use figment::value::Value;

use super::credentials;
use super::reader::Reader;
use super::{
    AccessConfig, AccessMode, AdminConfig, ChannelPolicy, ClientCert, Config, Conflict, EndpointConfig, FeedConfig,
    InterestConfig, Listen, LogConfig, LogFormat, OutboxConfig, ReadyUpstream, RingConfig, StaleAfter, TokenGrant,
    TokenSource, UpstreamConfig,
};
use crate::dialect::Transport;
use crate::protocol::request::Secret;
use crate::protocol::{canonical, duration};
use crate::relay::outbox::{Lane, OnUnknown};
use crate::relay::stats::StaleAction;

const LANES: [(&str, Lane); 4] =
    [("critical", Lane::Critical), ("high", Lane::High), ("medium", Lane::Medium), ("low", Lane::Low)];
const ON_UNKNOWN: [(&str, OnUnknown); 2] = [("retry", OnUnknown::Retry), ("dead_letter", OnUnknown::DeadLetter)];
const CONFLICTS: [(&str, Conflict); 3] =
    [("queue", Conflict::Queue), ("last_write_wins", Conflict::LastWriteWins), ("reject", Conflict::Reject)];
const STALE_ACTIONS: [(&str, StaleAction); 3] =
    [("mark", StaleAction::Mark), ("resubscribe", StaleAction::Resubscribe), ("reconnect", StaleAction::Reconnect)];
const LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

/// Addresses of one service.
const ENDPOINTS_MAX: usize = 64;
/// Most of anything that is counted.
const MANY: u64 = 100_000_000;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

fn from_millis(low: u64, high_secs: u64) -> RangeInclusive<Duration> {
    Duration::from_millis(low)..=Duration::from_secs(high_secs)
}

/// The whole configuration. What is wrong stands in the reader afterwards.
pub(super) fn read(r: &mut Reader) -> Config {
    let d = Config::default();
    Config {
        upstream: upstream(r, d.upstream),
        secrets: credentials::secrets(r),
        interest: interest(r, d.interest),
        repair: super::repair::repair(r, d.repair),
        budget: super::repair::budget(r, d.budget),
        feed: feed(r, d.feed),
        channels: channels(r),
        outbox: outbox(r, d.outbox),
        access: access(r, d.access),
        admin: admin(r, d.admin),
        ready: ready(r),
        drain_timeout: r.duration("drain.timeout", d.drain_timeout, from_millis(0, 3_600)),
        alerts: super::alerts::read(r),
        log: log(r, d.log),
    }
}

/// Only where to listen: `(feed, admin)`.
pub(super) fn listeners(r: &mut Reader) -> (Vec<Listen>, Vec<SocketAddr>) {
    let d = Config::default();
    (listen(r, d.feed.listen), admin(r, d.admin).listen)
}

fn upstream(r: &mut Reader, d: UpstreamConfig) -> UpstreamConfig {
    let endpoints = endpoints(r);
    match (r.has("upstream.url"), endpoints.first()) {
        (false, None) => r.complain("upstream.url", "is missing", "write the service's address: url = \"wss://…\""),
        (true, Some(_)) => {
            let cure = "leave out one of them: url is the short form of one endpoint";
            r.complain("upstream.endpoints", "stands beside upstream.url", cure);
        }
        _ => {}
    }
    let first = endpoints.first().map_or(d.url, |endpoint| endpoint.url.clone());
    UpstreamConfig {
        url: r.text("upstream.url").unwrap_or(first),
        endpoints,
        transports: transports(r, d.transports),
        climb_after: r.duration("upstream.climb_after", d.climb_after, from_millis(100, 86_400)),
        dialect: r.text("upstream.dialect").unwrap_or(d.dialect),
        params: params(r, "upstream.params").unwrap_or_default(),
        headers: headers(r),
        token: credentials::upstream_token(r),
        fetch_origins: credentials::origins(r),
        ca_file: r.optional_path("upstream.ca_file"),
        client_cert: client_cert(r),
        proxy: proxy(r),
        connect_timeout: r.duration("upstream.connect_timeout", d.connect_timeout, from_millis(10, 600)),
        handshake_timeout: r.duration("upstream.handshake_timeout", d.handshake_timeout, from_millis(10, 600)),
        backoff: r.backoff("upstream.backoff", d.backoff),
        stable_for: r.duration("upstream.stable_for", d.stable_for, from_millis(0, 86_400)),
        max_attempts: r.count("upstream.max_attempts", d.max_attempts, 0..=MANY),
        ping_interval: r.duration("upstream.ping_interval", d.ping_interval, from_millis(10, 86_400)),
        ping_misses: r.count("upstream.ping_misses", d.ping_misses, 1..=1_000),
        max_age: r.optional_duration("upstream.max_age", from_millis(60_000, 30 * 86_400)),
        max_frame: r.size("upstream.max_frame", d.max_frame, 1_024..=GIB),
    }
}

/// Both files or none.
fn client_cert(r: &mut Reader) -> Option<ClientCert> {
    let (cert, key) = ("upstream.client_cert_file", "upstream.client_key_file");
    let (cert_file, key_file) = (r.optional_path(cert), r.optional_path(key));
    for (name, path) in [(cert, &cert_file), (key, &key_file)] {
        if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
            r.complain(
                name,
                format!("{}: no such file", path.display()),
                "name a readable PEM file, or leave it empty",
            );
        }
    }
    match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => Some(ClientCert { cert_file, key_file }),
        (None, None) => None,
        (Some(_), None) => {
            r.complain(cert, "has no key", "name its private key by upstream.client_key_file");
            None
        }
        (None, Some(_)) => {
            r.complain(key, "has no certificate", "name the certificate by upstream.client_cert_file");
            None
        }
    }
}

/// A proxy's address; its password makes it a secret.
fn proxy(r: &mut Reader) -> Option<Secret> {
    let key = "upstream.proxy";
    let address = r.optional_text(key)?;
    if address != "off" && !address.starts_with("http://") {
        r.complain(key, "is no address of a proxy", "write http://host:port, or off");
    }
    Some(Secret::new(address))
}

/// Several addresses: texts, or tables of `url` and `weight`.
fn endpoints(r: &mut Reader) -> Vec<EndpointConfig> {
    let key = "upstream.endpoints";
    let Some(value) = r.value(key) else { return Vec::new() };
    let Value::Array(_, elements) = value else {
        r.complain(key, "must be a list", "write [\"wss://a\", { url = \"wss://b\", weight = 2 }]");
        return Vec::new();
    };
    let mut out = Vec::new();
    for (n, element) in elements.iter().take(ENDPOINTS_MAX).enumerate() {
        match element {
            Value::String(_, url) => out.push(EndpointConfig { url: url.clone(), weight: 1 }),
            Value::Dict(..) => {
                let url = r.text(&format!("{key}[{n}].url")).unwrap_or_default();
                let weight = r.count(&format!("{key}[{n}].weight"), 1, 1..=1_000);
                out.push(EndpointConfig { url, weight });
            }
            _ => r.complain(key, "holds something that is no address", "write \"wss://…\" or { url = \"wss://…\" }"),
        }
    }
    if elements.len() > ENDPOINTS_MAX {
        r.complain(key, format!("has more than {ENDPOINTS_MAX} addresses"), "leave some out");
    }
    out
}

/// Transports by their words. Whether the dialect has them is seen once it is there.
fn transports(r: &mut Reader, default: Vec<Transport>) -> Vec<Transport> {
    let key = "upstream.transports";
    if !r.has(key) {
        return default;
    }
    let mut out = Vec::new();
    for word in r.list(key, &[]) {
        match Transport::parse(&word) {
            Some(transport) if out.contains(&transport) => {
                r.complain(key, format!("\"{word}\" is named twice"), "name each transport once");
            }
            Some(transport) => out.push(transport),
            None => {
                let cure = "write some of websocket, sse, long-poll, poll";
                r.complain(key, format!("\"{word}\" is no transport"), cure);
            }
        }
    }
    if out.is_empty() && r.errors.is_empty() {
        r.complain(key, "is empty: there is no way to connect", "write [\"websocket\"]");
    }
    out
}

/// A table of any JSON values.
fn params(r: &mut Reader, key: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    // A TOML table always becomes a JSON object.
    match serde_json::to_value(r.table(key, "{ name = \"value\" }")?) {
        Ok(serde_json::Value::Object(members)) => Some(members),
        _ => None,
    }
}

/// A table of any JSON values in its canonical text.
fn canonical_params(r: &mut Reader, key: &str) -> Option<Box<str>> {
    let text = serde_json::Value::Object(params(r, key)?).to_string();
    match canonical::object(&text) {
        Ok(text) => Some(text.into()),
        Err(message) => {
            r.complain(key, message, "write simpler params");
            None
        }
    }
}

fn headers(r: &mut Reader) -> Vec<(String, Secret)> {
    let key = "upstream.headers";
    let members = r.table(key, "{ \"X-Name\" = \"value\" }").unwrap_or_default();
    let mut out = Vec::new();
    for name in members.keys() {
        let inner = format!("{key}.{name}");
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) {
            r.complain(&inner, "is no header's name", "use letters, digits and -");
        }
        // A dot is legal in a header's name, so the value is taken from the table and not looked up by path.
        match members.get(name).and_then(Value::as_str) {
            Some(value) if value.bytes().all(|b| b == b'\t' || (0x20..0x7f).contains(&b)) => {
                out.push((name.clone(), Secret::new(value)));
            }
            Some(_) => r.complain(&inner, "has characters that no header can carry", "use printable ASCII"),
            None => r.complain(&inner, "must be a text", "put it into double quotes"),
        }
    }
    out
}

fn interest(r: &mut Reader, d: InterestConfig) -> InterestConfig {
    let audit_interval = match r.has("interest.audit_interval") {
        true => r.optional_duration("interest.audit_interval", from_millis(10_000, 86_400)),
        false => d.audit_interval,
    };
    InterestConfig {
        audit_interval,
        linger: r.duration("interest.linger", d.linger, from_millis(0, 86_400)),
        ack_timeout: r.duration("interest.ack_timeout", d.ack_timeout, from_millis(10, 3_600)),
        ack_attempts: r.count("interest.ack_attempts", d.ack_attempts, 1..=1_000),
        refresh_ttl: r.duration("interest.refresh_ttl", d.refresh_ttl, from_millis(0, 3_600)),
        refused_for: r.duration("interest.refused_for", d.refused_for, from_millis(0, 86_400)),
        max_channels: r.count("interest.max_channels", d.max_channels, 0..=MANY),
    }
}

fn feed(r: &mut Reader, d: FeedConfig) -> FeedConfig {
    FeedConfig {
        listen: listen(r, d.listen),
        max_sessions: r.count("feed.max_sessions", d.max_sessions, 1..=1_000_000),
        max_channels: r.count("feed.max_channels", d.max_channels, 1..=10_000_000),
        channel_keys: r.count("feed.channel_keys", d.channel_keys, 1..=MANY),
        session_channels: r.count("feed.session_channels", d.session_channels, 1..=MANY),
        session_requests: r.count("feed.session_requests", d.session_requests, 1..=1_000_000),
        session_errors: r.count("feed.session_errors", d.session_errors, 1..=1_000_000),
        ring: ring(r, "feed.ring", d.ring),
        ring_bytes_total: r.size("feed.ring_bytes_total", d.ring_bytes_total, 1_024..=TIB),
        value_bytes_total: r.size("feed.value_bytes_total", d.value_bytes_total, 1_024..=TIB),
        control_bytes_total: r.size("feed.control_bytes_total", d.control_bytes_total, 1_024..=TIB),
        session_lag: r.size("feed.session_lag", d.session_lag, 1_024..=TIB),
        write_timeout: r.duration("feed.write_timeout", d.write_timeout, from_millis(10, 3_600)),
        request_max: r.size("feed.request_max", d.request_max, 1_024..=GIB),
        header_timeout: r.duration("feed.header_timeout", d.header_timeout, from_millis(10, 3_600)),
        ping_interval: r.duration("feed.ping_interval", d.ping_interval, from_millis(10, 86_400)),
        sse_ping_interval: r.duration("feed.sse_ping_interval", d.sse_ping_interval, from_millis(10, 86_400)),
    }
}

fn ring(r: &mut Reader, key: &str, d: RingConfig) -> RingConfig {
    r.table(key, "{ events = 1000, bytes = \"1MiB\", age = \"10m\" }");
    RingConfig {
        events: r.count(&format!("{key}.events"), d.events, 1..=MANY),
        bytes: r.size(&format!("{key}.bytes"), d.bytes, 1_024..=TIB),
        age: r.duration(&format!("{key}.age"), d.age, from_millis(1, 30 * 86_400)),
    }
}

fn listen(r: &mut Reader, default: Vec<Listen>) -> Vec<Listen> {
    let key = "feed.listen";
    if !r.has(key) {
        return default;
    }
    let mut out = Vec::new();
    for text in r.list(key, &[]) {
        if text == "systemd" || text.starts_with("unix:") {
            r.complain(
                key,
                format!("\"{text}\" is not supported by this version"),
                "write an address such as 127.0.0.1:7440",
            );
        } else {
            out.extend(address(r, key, &text).map(Listen::Tcp));
        }
    }
    if out.is_empty() && r.errors.is_empty() {
        r.complain(key, "is empty: no app could connect", "write an address such as 127.0.0.1:7440");
    }
    out
}

fn address(r: &mut Reader, key: &str, text: &str) -> Option<SocketAddr> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let cure = "write a numeric address and a port, such as 127.0.0.1:7440 or [::1]:7440";
        r.complain(key, format!("\"{text}\" is not an address"), cure);
    }
    parsed
}

fn channels(r: &mut Reader) -> Vec<ChannelPolicy> {
    let mut out: Vec<ChannelPolicy> =
        (0..r.tables("channels")).map(|i| channel(r, &format!("channels[{i}]"))).collect();
    if out.iter().all(|policy| policy.pattern != "*") {
        out.push(ChannelPolicy::default());
    }
    out
}

fn channel(r: &mut Reader, table: &str) -> ChannelPolicy {
    let key = |name: &str| format!("{table}.{name}");
    let d = ChannelPolicy::default();
    let pattern = r.text(&key("match"));
    if pattern.is_none() {
        r.complain(&key("match"), "is missing", "write match = \"name\" or match = \"prefix*\"");
    }
    let ring_default = super::FeedConfig::default().ring;
    ChannelPolicy {
        pattern: pattern.unwrap_or(d.pattern),
        priority: r.word(&key("priority"), d.priority, &LANES),
        on_unknown: r.word(&key("on_unknown"), d.on_unknown, &ON_UNKNOWN),
        conflict: r.word(&key("conflict"), d.conflict, &CONFLICTS),
        params: canonical_params(r, &key("params")),
        upstream: r.optional_text(&key("upstream")),
        ring: r.has(&key("ring")).then(|| ring(r, &key("ring"), ring_default)),
        linger: r.optional_duration(&key("linger"), from_millis(0, 86_400)),
        stale_after: stale_after(r, &key("stale_after")),
        stale_action: r.word(&key("stale_action"), StaleAction::Reconnect, &STALE_ACTIONS),
    }
}

/// `off`, `learn` or a duration.
fn stale_after(r: &mut Reader, key: &str) -> StaleAfter {
    let Some(value) = r.value(key) else { return StaleAfter::Off };
    match value.as_str() {
        Some("" | "off") => StaleAfter::Off,
        Some("learn") => StaleAfter::Learn,
        Some(text) if duration::parse(text).is_some() => {
            StaleAfter::After(r.duration(key, Duration::ZERO, from_millis(100, 30 * 86_400)))
        }
        _ => {
            let cure = "write \"off\", \"learn\", or a whole number and its unit, such as \"30s\"";
            r.complain(key, "is neither a duration nor off or learn", cure);
            StaleAfter::Off
        }
    }
}

fn outbox(r: &mut Reader, d: OutboxConfig) -> OutboxConfig {
    OutboxConfig {
        path: r.optional_path("outbox.path").unwrap_or(d.path),
        window: r.count("outbox.window", d.window, 1..=1_000_000),
        ack_timeout: r.duration("outbox.ack_timeout", d.ack_timeout, from_millis(10, 86_400)),
        max_attempts: r.count("outbox.max_attempts", d.max_attempts, 1..=MANY),
        backoff: r.backoff("outbox.backoff", d.backoff),
        ttl: r.optional_duration("outbox.ttl", from_millis(1, 366 * 86_400)),
        in_memory: r.count("outbox.in_memory", d.in_memory, 16..=MANY),
        in_memory_bytes: r.size("outbox.in_memory_bytes", d.in_memory_bytes, 1 << 20..=TIB),
        message_max: r.size("outbox.message_max", d.message_max, 1..=GIB),
        max_messages: r.count("outbox.max_messages", d.max_messages, 1..=MANY),
        max_bytes: r.size("outbox.max_bytes", d.max_bytes, 1 << 20..=1 << 50),
        reserve: r.percent("outbox.reserve", d.reserve, 0..=90),
        principal_messages: Some(r.count("outbox.principal_messages", 0, 0..=MANY)).filter(|most| *most > 0),
        principal_bytes: Some(r.size("outbox.principal_bytes", 0, 0..=1 << 50)).filter(|most| *most > 0),
        min_free: r.size("outbox.min_free", d.min_free, 0..=1 << 50),
        max_disk: r.size("outbox.max_disk", d.max_disk, 64 << 20..=1 << 50),
        rotate_above: r.size("outbox.rotate_above", d.rotate_above, 4 << 20..=1 << 50),
        ballast: r.size("outbox.ballast", d.ballast, 0..=1 << 40),
        keep_outcomes: r.duration("outbox.keep_outcomes", d.keep_outcomes, from_millis(0, 366 * 86_400)),
        keep_outcomes_max: r.count("outbox.keep_outcomes_max", d.keep_outcomes_max, 1..=MANY),
        max_dead_letters: r.count("outbox.max_dead_letters", d.max_dead_letters, 1..=MANY),
        max_dead_letter_bytes: r.size("outbox.max_dead_letter_bytes", d.max_dead_letter_bytes, 1..=GIB),
    }
}

fn access(r: &mut Reader, d: AccessConfig) -> AccessConfig {
    let mode = match r.text("access.mode").as_deref() {
        None | Some("loopback") => AccessMode::Loopback,
        Some("tokens") => AccessMode::Tokens,
        Some("jwt") => {
            r.complain("access.mode", "\"jwt\" is not supported by this version", "write loopback or tokens");
            d.mode
        }
        Some(other) => {
            r.complain("access.mode", format!("\"{other}\" is no access control"), "write loopback or tokens");
            d.mode
        }
    };
    AccessConfig {
        mode,
        origins: r.list("access.origins", &d.origins),
        hosts: r.list("access.hosts", &d.hosts),
        tokens: (0..r.tables("access.tokens")).filter_map(|i| grant(r, &format!("access.tokens[{i}]"))).collect(),
        allow_query_token: r.flag("access.allow_query_token", d.allow_query_token),
        insecure: r.flag("access.insecure", d.insecure),
    }
}

/// A static token. Its secret is read now: a change of the file or variable takes effect with the next reload.
fn grant(r: &mut Reader, table: &str) -> Option<TokenGrant> {
    let name = r.optional_text(&format!("{table}.name"));
    let read = r.list(&format!("{table}.read"), &[]);
    let write = r.list(&format!("{table}.write"), &[]);
    let source = credentials::token(r, table);
    let token = match &source {
        TokenSource::None | TokenSource::Command(_) | TokenSource::Fetch(_) => Err("has no token".to_owned()),
        TokenSource::Literal(secret) => Ok(secret.clone()),
        TokenSource::File(path) => std::fs::read_to_string(path)
            .map(|text| Secret::new(text.trim_end()))
            .map_err(|error| format!("token_file {}: {error}", path.display())),
        TokenSource::Env(name) => {
            std::env::var(name).map(Secret::new).map_err(|_| format!("token_env {name}: no such environment variable"))
        }
    };
    let token = token
        .and_then(|token| if token.expose().is_empty() { Err("its token is empty".to_owned()) } else { Ok(token) });
    if name.is_none() {
        r.complain(table, "has no name", "write name = \"who holds this token\"");
    }
    match token {
        Ok(token) => Some(TokenGrant { name: name?, token, read, write }),
        Err(message) => {
            r.complain(table, message, "write one of token, token_file, token_env, and see that it holds a token");
            None
        }
    }
}

fn admin(r: &mut Reader, d: AdminConfig) -> AdminConfig {
    let key = "admin.listen";
    let listen = match r.has(key) {
        false => d.listen,
        true => r.list(key, &[]).iter().filter_map(|text| address(r, key, text)).collect(),
    };
    let probes = r.optional_text("admin.probes").and_then(|text| address(r, "admin.probes", &text));
    AdminConfig { listen, probes }
}

fn ready(r: &mut Reader) -> ReadyUpstream {
    let key = "ready.upstream";
    let Some(text) = r.text(key) else { return ReadyUpstream::Ignore };
    let grace = text.strip_prefix("grace(").and_then(|rest| rest.strip_suffix(')')).and_then(duration::parse);
    match (text.as_str(), grace) {
        ("ignore", _) => ReadyUpstream::Ignore,
        ("required", _) => ReadyUpstream::Required,
        (_, Some(grace)) => ReadyUpstream::Grace(grace),
        _ => {
            r.complain(key, format!("\"{text}\" is none of its words"), "write ignore, required or grace(30s)");
            ReadyUpstream::Ignore
        }
    }
}

fn log(r: &mut Reader, d: LogConfig) -> LogConfig {
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogConfig { level: r.word("log.level", d.level, &LEVELS), format: r.word("log.format", d.format, &formats) }
}
