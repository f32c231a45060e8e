//! The configuration in force, for people: as TOML that loads again, and as JSON for the admin listener.
//!
//! Invariant: no secret is shown; what might be one is `***`.

use serde_json::{Map, Value, json};

use super::{
    AccessConfig, AccessMode, BackoffConfig, ChannelPolicy, Config, Conflict, FeedConfig, InterestConfig, Listen,
    LogFormat, OutboxConfig, ReadyUpstream, RingConfig, SecretSource, StaleAfter, TokenSource, UpstreamConfig, size,
};
use crate::protocol::duration;
use crate::relay::outbox::OnUnknown;
use crate::relay::redact::{HIDDEN, address};

/// Every key with its value; secrets as `***`. `secret_params` are the names of params that the dialect calls secret.
pub fn json(config: &Config, secret_params: &[String]) -> Value {
    let mut root = json!({
        "upstream": upstream(&config.upstream, secret_params),
        "secrets": config.secrets.iter().map(|(name, source)| (name.clone(), secret(source))).collect::<Map<_, _>>(),
        "interest": interest(&config.interest),
        "repair": super::repair::repair_json(&config.repair),
        "budget": super::repair::budget_json(&config.budget),
        "feed": feed(&config.feed),
        "channels": config.channels.iter().map(|policy| channel(policy, secret_params)).collect::<Vec<_>>(),
        "outbox": outbox(&config.outbox),
        "access": access(&config.access),
        "admin": { "listen": config.admin.listen, "probes": config.admin.probes.map_or(String::new(), |a| a.to_string()) },
        "ready": { "upstream": ready(config.ready) },
        "drain": { "timeout": duration::write(config.drain_timeout) },
        "alerts": config.alerts.iter().map(|alert| super::alerts::show(alert, HIDDEN)).collect::<Vec<_>>(),
        "log": { "level": config.log.level.as_str().to_ascii_lowercase(), "format": format(config.log.format) },
    });
    drop_nulls(&mut root);
    root
}

/// The same as TOML.
pub fn toml(config: &Config, secret_params: &[String]) -> String {
    // Serialising can only fail on nulls, which `json` leaves out, and on keys that are no texts.
    toml::to_string(&json(config, secret_params)).unwrap_or_default()
}

/// TOML has no null: what is not set is left out.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(elements) => elements.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn bytes(count: usize) -> String {
    size::write(count as u64)
}

fn backoff(config: BackoffConfig) -> Value {
    json!({ "min": duration::write(config.min), "max": duration::write(config.max) })
}

fn ring(config: RingConfig) -> Value {
    json!({ "events": config.events, "bytes": bytes(config.bytes), "age": duration::write(config.age) })
}

fn without_query(url: &str) -> String {
    let query = if url.contains('?') { format!("?{HIDDEN}") } else { String::new() };
    address(url) + &query
}

fn upstream(config: &UpstreamConfig, secret_params: &[String]) -> Value {
    let mut out = json!({
        // A query often holds a key.
        "url": without_query(&config.url),
        "endpoints": config.endpoints.iter().map(|endpoint| json!({ "url": without_query(&endpoint.url), "weight": endpoint.weight })).collect::<Vec<_>>(),
        "transports": config.transports.iter().map(|transport| transport.text()).collect::<Vec<_>>(),
        "dialect": config.dialect,
        "params": hide(&config.params, secret_params),
        "headers": config.headers.iter().map(|(name, _)| (name.clone(), json!(HIDDEN))).collect::<Map<_, _>>(),
        "fetch_origins": config.fetch_origins,
        "ca_file": config.ca_file.as_ref().map_or(String::new(), |path| path.display().to_string()),
        "client_cert_file": config.client_cert.as_ref().map_or(String::new(), |own| own.cert_file.display().to_string()),
        "client_key_file": config.client_cert.as_ref().map_or(String::new(), |own| own.key_file.display().to_string()),
        "proxy": config.proxy.as_ref().map_or("", |_| HIDDEN),
        "connect_timeout": duration::write(config.connect_timeout),
        "handshake_timeout": duration::write(config.handshake_timeout),
        "backoff": backoff(config.backoff),
        "climb_after": duration::write(config.climb_after),
        "stable_for": duration::write(config.stable_for),
        "max_attempts": config.max_attempts,
        "ping_interval": duration::write(config.ping_interval),
        "ping_misses": config.ping_misses,
        "max_age": config.max_age.map_or(String::new(), duration::write),
        "max_frame": bytes(config.max_frame),
    });
    let source = match &config.token {
        TokenSource::None => None,
        TokenSource::Literal(_) => Some(("token", json!(HIDDEN))),
        TokenSource::File(path) => Some(("token_file", json!(path.display().to_string()))),
        TokenSource::Env(name) => Some(("token_env", json!(name))),
        TokenSource::Command(words) => Some(("token_command", json!(words))),
        TokenSource::Fetch(text) => Some(("token_fetch", token_call(text.expose()))),
    };
    if let (Some((key, value)), Some(members)) = (source, out.as_object_mut()) {
        members.insert(key.to_owned(), value);
    }
    out
}

/// Where a secret is is none.
fn secret(source: &SecretSource) -> Value {
    match source {
        SecretSource::File(path) => json!({ "file": path.display().to_string() }),
        SecretSource::Env(name) => json!({ "env": name }),
        SecretSource::Command(words) => json!({ "command": words }),
    }
}

/// A call without what may be secret: the query, the values of headers, the content.
fn token_call(text: &str) -> Value {
    let mut call: Value = toml::from_str(text).unwrap_or_default();
    for question in ["get", "post", "put"] {
        if let Some(url) = call.get_mut(question)
            && let Some(text) = url.as_str()
        {
            *url = json!(without_query(text));
        }
    }
    for values in ["headers", "form"] {
        let members = call.get_mut(values).and_then(Value::as_object_mut);
        members.into_iter().flatten().for_each(|(_, value)| *value = json!(HIDDEN));
    }
    if let Some(content) = call.get_mut("json") {
        *content = json!(format!("\"{HIDDEN}\""));
    }
    call
}

fn hide(params: &Map<String, Value>, secret: &[String]) -> Value {
    let shown = |(name, value): (&String, &Value)| {
        let value = if secret.contains(name) { json!(HIDDEN) } else { value.clone() };
        (name.clone(), value)
    };
    Value::Object(params.iter().map(shown).collect())
}

fn interest(config: &InterestConfig) -> Value {
    json!({
        "linger": duration::write(config.linger),
        "ack_timeout": duration::write(config.ack_timeout),
        "ack_attempts": config.ack_attempts,
        "refresh_ttl": duration::write(config.refresh_ttl),
        "refused_for": duration::write(config.refused_for),
        "audit_interval": config.audit_interval.map_or("off".to_owned(), duration::write),
        "max_channels": config.max_channels,
    })
}

fn feed(config: &FeedConfig) -> Value {
    json!({
        "listen": config.listen.iter().map(|Listen::Tcp(address)| address.to_string()).collect::<Vec<_>>(),
        "max_sessions": config.max_sessions,
        "max_channels": config.max_channels,
        "channel_keys": config.channel_keys,
        "session_channels": config.session_channels,
        "session_requests": config.session_requests,
        "session_errors": config.session_errors,
        "ring": ring(config.ring),
        "ring_bytes_total": bytes(config.ring_bytes_total),
        "value_bytes_total": bytes(config.value_bytes_total),
        "control_bytes_total": bytes(config.control_bytes_total),
        "session_lag": bytes(config.session_lag),
        "write_timeout": duration::write(config.write_timeout),
        "request_max": bytes(config.request_max),
        "header_timeout": duration::write(config.header_timeout),
        "ping_interval": duration::write(config.ping_interval),
        "sse_ping_interval": duration::write(config.sse_ping_interval),
    })
}

fn channel(policy: &ChannelPolicy, secret_params: &[String]) -> Value {
    let params = policy.params.as_deref().and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    json!({
        "match": policy.pattern,
        "priority": policy.priority.text(),
        "on_unknown": match policy.on_unknown {
            OnUnknown::Retry => "retry",
            OnUnknown::DeadLetter => "dead_letter",
        },
        "conflict": match policy.conflict {
            Conflict::Queue => "queue",
            Conflict::LastWriteWins => "last_write_wins",
            Conflict::Reject => "reject",
        },
        "params": params.map(|params| hide(&params, secret_params)),
        "upstream": policy.upstream,
        "ring": policy.ring.map(ring),
        "linger": policy.linger.map(duration::write),
        "stale_after": match policy.stale_after {
            StaleAfter::Off => "off".to_owned(),
            StaleAfter::Learn => "learn".to_owned(),
            StaleAfter::After(after) => duration::write(after),
        },
        "stale_action": policy.stale_action.text(),
    })
}

fn outbox(config: &OutboxConfig) -> Value {
    json!({
        "path": config.path,
        "window": config.window,
        "ack_timeout": duration::write(config.ack_timeout),
        "max_attempts": config.max_attempts,
        "backoff": backoff(config.backoff),
        "ttl": config.ttl.map_or(String::new(), duration::write),
        "in_memory": config.in_memory,
        "in_memory_bytes": size::write(config.in_memory_bytes),
        "message_max": bytes(config.message_max),
        "max_messages": config.max_messages,
        "max_bytes": size::write(config.max_bytes),
        "reserve": format!("{}%", config.reserve),
        "principal_messages": config.principal_messages.unwrap_or(0),
        "principal_bytes": size::write(config.principal_bytes.unwrap_or(0)),
        "min_free": size::write(config.min_free),
        "max_disk": size::write(config.max_disk),
        "rotate_above": size::write(config.rotate_above),
        "ballast": size::write(config.ballast),
        "keep_outcomes": duration::write(config.keep_outcomes),
        "keep_outcomes_max": config.keep_outcomes_max,
        "max_dead_letters": config.max_dead_letters,
        "max_dead_letter_bytes": size::write(config.max_dead_letter_bytes as u64),
    })
}

fn access(config: &AccessConfig) -> Value {
    let grant = |grant: &super::TokenGrant| json!({ "name": grant.name, "token": HIDDEN, "read": grant.read, "write": grant.write });
    json!({
        "mode": match config.mode {
            AccessMode::Loopback => "loopback",
            AccessMode::Tokens => "tokens",
        },
        "origins": config.origins,
        "hosts": config.hosts,
        "tokens": config.tokens.iter().map(grant).collect::<Vec<_>>(),
        "allow_query_token": config.allow_query_token,
        "insecure": config.insecure,
    })
}

fn ready(upstream: ReadyUpstream) -> String {
    match upstream {
        ReadyUpstream::Ignore => "ignore".to_owned(),
        ReadyUpstream::Required => "required".to_owned(),
        ReadyUpstream::Grace(grace) => format!("grace({})", duration::write(grace)),
    }
}

fn format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Auto => "auto",
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}
