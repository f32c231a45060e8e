//! From what a client names to what is carried: local channel, upstream channel, parameters, policy.
//!
//! A channel's identity is its name and its parameters, canonical: `orders?{"account":"9"}`. Parameters that the dialect
//! calls secret are no part of it. Invariant: equal requests have equal identities, whatever the order of their members.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::outbox::{Lane, OnUnknown};
use super::redact::HIDDEN;
use crate::config::{ChannelPolicy, Config, RingConfig};
use crate::protocol::request::ChannelRequest;

/// Longest parameters that stand in an identity as they are; longer ones as `?~` and 16 digits of their SHA-256.
const PARAMS_SHOWN_MAX: usize = 256;

/// A channel as the relay carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The local channel: name and public parameters.
    pub local: String,
    /// The upstream channel: name and public parameters.
    pub upstream: String,
    /// The upstream channel's name without parameters.
    pub base: String,
    /// All parameters, secrets too.
    pub params: Option<Box<str>>,
    /// Whether upstream's events that name only the upstream channel are this local channel's.
    pub direct: bool,
    /// Which key of the upstream channel this local channel is, where many are mapped onto one. Rights to the local channel
    /// are rights to this key and to no other.
    pub key: Option<String>,
    /// Order of subscribes.
    pub priority: Lane,
    /// How long to stay subscribed without interest.
    pub linger: Duration,
    /// The ring's bounds.
    pub ring: RingConfig,
    /// Default of messages published there.
    pub on_unknown: OnUnknown,
}

/// Whether a pattern (a name, or a prefix and `*`) matches a name.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

/// The first policy that matches a local channel name.
pub fn policy<'a>(config: &'a Config, name: &str) -> Option<&'a ChannelPolicy> {
    config.channels.iter().find(|policy| matches(&policy.pattern, name))
}

/// The policy of a channel as it is carried, with its public parameters.
pub fn policy_of_carried<'a>(config: &'a Config, local: &str) -> Option<&'a ChannelPolicy> {
    let params = ["?{", "?~"].iter().filter_map(|mark| local.find(mark)).min();
    policy(config, &local[..params.unwrap_or(local.len())])
}

/// What a pattern's `*` stands for in a name that it matches.
fn rest<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    name.strip_prefix(pattern.strip_suffix('*')?)
}

/// The policies that map many local channels onto one upstream channel: its identity, and how the local names begin.
pub fn mappings<'a>(config: &'a Config, secret: &[String]) -> impl Iterator<Item = (String, &'a str)> {
    config.channels.iter().filter_map(move |policy| {
        let (prefix, upstream) = (policy.pattern.strip_suffix('*')?, policy.upstream.as_deref()?);
        // The configuration's params are an object.
        let identity = upstream_identity(secret, upstream, policy.params.as_deref());
        Some((identity.unwrap_or_else(|_| upstream.to_owned()), prefix))
    })
}

/// Resolves a channel. An error says what is wrong with the parameters.
pub fn resolve(config: &Config, secret: &[String], request: &ChannelRequest) -> Result<Named, String> {
    let policy = policy(config, &request.name);
    let fixed = policy.and_then(|policy| policy.params.clone());
    if fixed.is_some() && request.params.is_some() {
        return Err(format!("channel {:?} has fixed params by the configuration: leave params out", &*request.name));
    }
    let params = request.params.clone().or_else(|| fixed.clone());
    let shown = match &params {
        Some(params) => public(params, secret)?,
        None => String::new(),
    };
    let mapped = policy.and_then(|policy| policy.upstream.as_deref());
    let base = mapped.unwrap_or(&request.name).to_owned();
    let key = policy.filter(|policy| policy.upstream.is_some()).and_then(|policy| rest(&policy.pattern, &request.name));
    if key.is_some() && request.params.is_some() {
        return Err(format!(
            "channel {:?} is a part of {base:?} by the configuration: leave params out",
            &*request.name
        ));
    }
    // Fixed params belong to the plain name: the local channel stays plain.
    let local = if fixed.is_some() { request.name.to_string() } else { identity(&request.name, &shown) };
    Ok(Named {
        local,
        upstream: identity(&base, &shown),
        base,
        params,
        direct: key.is_none(),
        key: key.map(str::to_owned),
        priority: policy.map_or(Lane::Medium, |policy| policy.priority),
        linger: policy.and_then(|policy| policy.linger).unwrap_or(config.interest.linger),
        ring: policy.and_then(|policy| policy.ring).unwrap_or(config.feed.ring),
        on_unknown: policy.map_or(OnUnknown::Retry, |policy| policy.on_unknown),
    })
}

/// The identity of an upstream channel with all its parameters.
pub fn upstream_identity(secret: &[String], base: &str, params: Option<&str>) -> Result<String, String> {
    Ok(identity(base, &params.map_or(Ok(String::new()), |params| public(params, secret))?))
}

fn identity(name: &str, shown: &str) -> String {
    if shown.is_empty() {
        return name.to_owned();
    }
    if shown.len() <= PARAMS_SHOWN_MAX {
        return format!("{name}?{shown}");
    }
    let mut out = format!("{name}?~");
    for byte in Sha256::digest(shown.as_bytes()).iter().take(8) {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// The params of a message as they are stored: without the secrets that the configuration fixes. [`whole`] adds them again.
pub fn stored(config: &Config, secret: &[String], local: &str, params: Option<Box<str>>) -> Option<Box<str>> {
    let fixed = policy(config, local).is_some_and(|policy| policy.params.is_some());
    match &params {
        // They were an object when the channel was resolved.
        Some(all) if fixed && !secret.is_empty() => match public(all, secret) {
            Ok(shown) => Some(shown).filter(|shown| !shown.is_empty()).map(Into::into),
            Err(_) => params,
        },
        _ => params,
    }
}

/// All params of a stored message for this upstream channel, with the secrets that the configuration fixes now.
pub fn whole<'a>(config: &'a Config, secret: &[String], base: &str, params: Option<&'a str>) -> Option<&'a str> {
    if secret.is_empty() {
        return params;
    }
    let leads = |policy: &&ChannelPolicy| match &policy.upstream {
        Some(upstream) => upstream == base,
        None => matches(&policy.pattern, base),
    };
    let fixed = config.channels.iter().filter(leads).filter_map(|policy| policy.params.as_deref());
    let mut fitting = fixed.filter(|fixed| public(fixed, secret).as_deref() == Ok(params.unwrap_or_default()));
    fitting.next().or(params)
}

/// The parameters for people: the secret ones as `***`.
pub fn shown(params: &str, secret: &[String]) -> String {
    let Ok(mut all) = serde_json::from_str::<Map<String, Value>>(params) else { return HIDDEN.to_owned() };
    all.iter_mut().filter(|(name, _)| secret.contains(name)).for_each(|(_, value)| *value = HIDDEN.into());
    Value::Object(all).to_string()
}

/// The parameters without the secret ones; empty if none is left. They are canonical already and stay so.
fn public(params: &str, secret: &[String]) -> Result<String, String> {
    let all: Map<String, Value> =
        serde_json::from_str(params).map_err(|error| format!("params must be a JSON object: {error}"))?;
    if all.is_empty() {
        return Ok(String::new());
    }
    if !all.keys().any(|name| secret.contains(name)) {
        return Ok(params.to_owned());
    }
    let shown: Map<String, Value> = all.into_iter().filter(|(name, _)| !secret.contains(name)).collect();
    if shown.is_empty() { Ok(String::new()) } else { serde_json::to_string(&shown).map_err(|error| error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str, params: Option<&str>) -> ChannelRequest {
        ChannelRequest { name: name.into(), params: params.map(Into::into) }
    }

    fn config(policies: Vec<ChannelPolicy>) -> Config {
        Config { channels: policies, ..Config::default() }
    }

    fn mapping(pattern: &str, upstream: Option<&str>, params: Option<&str>) -> ChannelPolicy {
        ChannelPolicy {
            pattern: pattern.into(),
            priority: Lane::High,
            on_unknown: OnUnknown::Retry,
            params: params.map(Into::into),
            upstream: upstream.map(Into::into),
            ring: None,
            linger: None,
            ..ChannelPolicy::default()
        }
    }

    #[test]
    fn params_are_part_of_the_identity_and_secrets_are_not() {
        let config = config(vec![]);
        let secret = ["token".to_owned()];
        let named = resolve(&config, &secret, &request("orders", Some(r#"{"account":"9","token":"x"}"#))).unwrap();
        assert_eq!(named.local, r#"orders?{"account":"9"}"#);
        assert_eq!(named.params.as_deref(), Some(r#"{"account":"9","token":"x"}"#));
        let only_secret = resolve(&config, &secret, &request("orders", Some(r#"{"token":"x"}"#))).unwrap();
        assert_eq!(only_secret.local, "orders");
        assert!(resolve(&config, &secret, &request("orders", Some("[1]"))).is_err());
    }

    #[test]
    fn long_params_are_shown_as_a_hash() {
        let long = format!(r#"{{"q":"{}"}}"#, "x".repeat(300));
        let named = resolve(&config(vec![]), &[], &request("q", Some(&long))).unwrap();
        assert!(named.local.starts_with("q?~") && named.local.len() == 19, "{}", named.local);
    }

    #[test]
    fn a_policy_maps_many_local_channels_onto_one() {
        let config =
            config(vec![mapping("service:*", Some("status"), None), mapping("blocks", Some("newHeads"), None)]);
        let named = resolve(&config, &[], &request("service:a", None)).unwrap();
        assert_eq!((named.local.as_str(), named.upstream.as_str(), named.direct), ("service:a", "status", false));
        assert_eq!(named.key.as_deref(), Some("a"));
        assert!(
            resolve(&config, &[], &request("service:a", Some("{}"))).is_err(),
            "there is one subscription upstream"
        );
        let alias = resolve(&config, &[], &request("blocks", None)).unwrap();
        assert_eq!((alias.local.as_str(), alias.upstream.as_str(), alias.direct), ("blocks", "newHeads", true));
        assert_eq!(alias.key, None);
    }

    #[test]
    fn a_mapping_may_fix_the_params_of_its_upstream_channel() {
        let config = config(vec![mapping("service:*", Some("status"), Some(r#"{"region":"eu","token":"x"}"#))]);
        let secret = ["token".to_owned()];
        let named = resolve(&config, &secret, &request("service:a", None)).unwrap();
        assert_eq!((named.local.as_str(), named.upstream.as_str()), ("service:a", r#"status?{"region":"eu"}"#));
        let all: Vec<(String, &str)> = mappings(&config, &secret).collect();
        assert_eq!(all, [(named.upstream, "service:")]);
    }

    #[test]
    fn secrets_of_the_configuration_are_not_stored_and_those_of_a_request_are() {
        let secret = ["pin".to_owned()];
        let channels = vec![
            mapping("mapped:*", Some("base"), Some(r#"{"pin":"1"}"#)),
            mapping("fixed", None, Some(r#"{"a":"9","pin":"2"}"#)),
            mapping("*", None, None),
        ];
        let config = Config { channels, ..Config::default() };
        for (local, base, params, kept) in [
            ("mapped:x", "base", r#"{"pin":"1"}"#, None),
            ("fixed", "fixed", r#"{"a":"9","pin":"2"}"#, Some(r#"{"a":"9"}"#)),
            ("free", "free", r#"{"pin":"3"}"#, Some(r#"{"pin":"3"}"#)),
        ] {
            let stored = stored(&config, &secret, local, Some(params.into()));
            assert_eq!(stored.as_deref(), kept, "{local}");
            assert_eq!(whole(&config, &secret, base, stored.as_deref()), Some(params), "{local}");
        }
        assert_eq!(whole(&config, &secret, "free", None), None);
        assert_eq!(shown(r#"{"a":"9","pin":"2"}"#, &secret), r#"{"a":"9","pin":"***"}"#);
    }

    #[test]
    fn a_policy_gives_a_plain_name_fixed_params() {
        let config = config(vec![mapping("book", None, Some(r#"{"depth":10}"#))]);
        let named = resolve(&config, &[], &request("book", None)).unwrap();
        assert_eq!((named.local.as_str(), named.upstream.as_str()), ("book", r#"book?{"depth":10}"#));
        assert!(resolve(&config, &[], &request("book", Some("{}"))).is_err());
    }
}
