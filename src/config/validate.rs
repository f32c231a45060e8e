//! What must fit together beyond each key's own range, and what is dangerous.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::reader::Reader;
use super::{AccessMode, ChannelPolicy, Config, Listen};
use crate::relay::naming;

/// Longest channel name, in bytes; as for clients' requests.
const CHANNEL_NAME_MAX: usize = 256;

/// Adds to the reader's complaints and warnings.
pub(super) fn check(r: &mut Reader, config: &Config) {
    upstream_address(r, config);
    files(r, config);
    ladder(r, config);
    rings(r, config);
    patterns(r, config);
    browser_names(r, config);
    tokens(r, config);
    listeners(r, config);
}

fn upstream_address(r: &mut Reader, config: &Config) {
    if config.upstream.endpoints.is_empty() {
        address(r, "upstream.url", &config.upstream.url);
    }
    for endpoint in &config.upstream.endpoints {
        address(r, "upstream.endpoints", &endpoint.url);
    }
}

fn address(r: &mut Reader, key: &str, url: &str) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return r.complain(key, "is not an address", "write ws://host/path or wss://host/path");
    };
    if !["ws", "wss", "http", "https"].contains(&scheme) {
        let message = format!("\"{scheme}\" is no scheme of a transport");
        return r.complain(key, message, "write wss://… or https://…, or ws://… or http://… without TLS");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host_name = host.rsplit_once(':').map_or(host, |(name, port)| if port.contains(']') { host } else { name });
    let port = host.strip_prefix(host_name).and_then(|rest| rest.strip_prefix(':'));
    if host_name.is_empty() {
        r.complain(key, "names no host", "write wss://host/path");
    } else if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        r.complain(key, "has a port that is not a number from 1 to 65535", "write wss://host:port/path");
    } else if url.contains(char::is_whitespace) || url.contains('#') || authority.contains('@') {
        let cure = "leave out white space, # and user@; a password belongs into upstream.headers or upstream.token";
        r.complain(key, "has parts that this address must not have", cure);
    }
}

fn files(r: &mut Reader, config: &Config) {
    if let Some(path) = config.upstream.ca_file.as_ref().filter(|path| !path.is_file()) {
        let message = format!("{}: no such file", path.display());
        r.complain("upstream.ca_file", message, "name a readable PEM file, or leave it empty");
    }
}

/// Transports that are tried in turn.
fn ladder(r: &mut Reader, config: &Config) {
    let upstream = &config.upstream;
    if upstream.transports.len() > 1 && upstream.climb_after < upstream.backoff.max {
        let message =
            "is shorter than upstream.backoff.max: a better transport may be tried again before the next one was";
        r.warn("upstream.climb_after", message, "raise it or lower upstream.backoff.max");
    }
}

fn rings(r: &mut Reader, config: &Config) {
    if config.feed.ring.bytes > config.feed.ring_bytes_total {
        let cure = "raise feed.ring_bytes_total or lower feed.ring.bytes";
        r.complain("feed.ring_bytes_total", "is below feed.ring.bytes: not one ring could fill", cure);
    }
    if config.outbox.message_max > config.feed.request_max {
        let cure = "raise feed.request_max or lower outbox.message_max";
        r.warn("outbox.message_max", "is above feed.request_max, which limits it", cure);
    }
}

fn patterns(r: &mut Reader, config: &Config) {
    let mut seen = BTreeSet::new();
    let mut all_matched = false;
    for (index, policy) in config.channels.iter().enumerate() {
        let key = format!("channels[{index}].match");
        if let Err(message) = pattern(&policy.pattern) {
            r.complain(&key, message, "write a channel's name, or the start of names followed by one *");
        }
        if all_matched || !seen.insert(policy.pattern.as_str()) {
            r.warn(&key, format!("\"{}\" is never reached", policy.pattern), "the first match wins: move it up");
        }
        all_matched |= policy.pattern == "*";
        if let Some(upstream) = &policy.upstream {
            let key = format!("channels[{index}].upstream");
            upstream_channel(r, &key, upstream);
            whole(r, &key, config, policy);
        }
    }
    for (index, grant) in config.access.tokens.iter().enumerate() {
        for (name, patterns) in [("read", &grant.read), ("write", &grant.write)] {
            for text in patterns {
                if let Err(message) = pattern(text) {
                    let cure = "write a channel's name, or the start of names followed by one *";
                    r.complain(&format!("access.tokens[{index}].{name}"), message, cure);
                }
            }
        }
    }
}

/// The local channel of the upstream channel's own name stands for the whole of it: nothing else may have that name.
fn whole(r: &mut Reader, key: &str, config: &Config, policy: &ChannelPolicy) {
    let Some(upstream) =
        policy.upstream.as_deref().filter(|_| policy.pattern.ends_with('*') && policy.params.is_none())
    else {
        return;
    };
    let other = config.channels.iter().find(|other| naming::matches(&other.pattern, upstream));
    if other.is_some_and(|other| other.upstream.is_some() || other.params.is_some()) {
        let message = format!("\"{upstream}\" is something else by the policy that matches it first");
        r.complain(
            key,
            message,
            format!("write a policy with match = \"{upstream}\" and neither upstream nor params above"),
        );
    }
}

/// The name of an upstream channel that a policy names.
fn upstream_channel(r: &mut Reader, key: &str, name: &str) {
    if name.len() > CHANNEL_NAME_MAX
        || name.contains('*')
        || name.starts_with('$')
        || name.chars().any(char::is_control)
    {
        let cure = "write the name of one channel as the service knows it, without * and without a leading $";
        r.complain(key, format!("{name:?} is not one channel's name"), cure);
    }
}

/// A name, or a prefix followed by `*`.
fn pattern(text: &str) -> Result<(), String> {
    let name = text.strip_suffix('*').unwrap_or(text);
    if text.is_empty() {
        Err("is empty".to_owned())
    } else if text.len() > CHANNEL_NAME_MAX {
        Err(format!("\"{text}\" is longer than {CHANNEL_NAME_MAX} bytes"))
    } else if name.contains('*') {
        Err(format!("\"{text}\" has a * that is not at its end"))
    } else if name.chars().any(char::is_control) {
        Err("has control characters".to_owned())
    } else {
        Ok(())
    }
}

fn browser_names(r: &mut Reader, config: &Config) {
    for origin in &config.access.origins {
        let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        let exact = rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '*', '?', '#', '@', ' ']));
        if !exact {
            let cure = "write scheme, host and port exactly as the browser sends them: https://app.example.com";
            r.complain("access.origins", format!("\"{origin}\" is not an origin"), cure);
        }
    }
    for host in &config.access.hosts {
        if host.is_empty() || host.contains(['/', '*', ' ', '@']) {
            let cure = "write a host's name without scheme and path: feed.example.com";
            r.complain("access.hosts", format!("\"{host}\" is not a host's name"), cure);
        }
    }
}

fn tokens(r: &mut Reader, config: &Config) {
    let access = &config.access;
    match access.mode {
        AccessMode::Tokens if access.tokens.is_empty() && r.tables("access.tokens") == 0 => {
            r.complain(
                "access.tokens",
                "is empty: nobody could connect",
                "write [[access.tokens]] with name, token, read, write",
            );
        }
        AccessMode::Loopback if !access.tokens.is_empty() => {
            r.warn("access.tokens", "are not used in mode loopback", "write access.mode = \"tokens\"");
        }
        _ => {}
    }
    let mut names = BTreeSet::new();
    let mut secrets = BTreeSet::new();
    for (index, grant) in access.tokens.iter().enumerate() {
        let key = format!("access.tokens[{index}]");
        if !names.insert(grant.name.as_str()) {
            r.complain(
                &key,
                format!("the name \"{}\" is given twice", grant.name),
                "give each token a name of its own",
            );
        }
        if !secrets.insert(grant.token.expose()) {
            r.complain(&key, "another one has the same token", "give each principal a token of its own");
        }
        if grant.read.is_empty() && grant.write.is_empty() {
            r.warn(
                &key,
                format!("\"{}\" may neither read nor write", grant.name),
                "write read = [\"*\"] or write = [\"*\"]",
            );
        }
    }
}

fn listeners(r: &mut Reader, config: &Config) {
    let open = config.access.mode == AccessMode::Loopback && !config.access.insecure;
    let mut bound: BTreeSet<SocketAddr> = BTreeSet::new();
    for Listen::Tcp(address) in &config.feed.listen {
        twice(r, &mut bound, "feed.listen", *address);
        if address.ip().is_loopback() {
            continue;
        }
        if open {
            let cure = "set access.mode = \"tokens\", or access.insecure = true if the network is trusted";
            r.complain("feed.listen", format!("{address} is reachable from outside without access control"), cure);
        } else {
            r.warn(
                "feed.listen",
                format!("{address} is reachable from outside without TLS"),
                "put a TLS proxy in front",
            );
        }
    }
    for address in &config.admin.listen {
        twice(r, &mut bound, "admin.listen", *address);
        if !address.ip().is_loopback() && !config.access.insecure {
            let cure =
                "use admin.probes for probes and metrics, or set access.insecure = true if the network is trusted";
            r.complain("admin.listen", format!("{address} would let everybody steer this relay"), cure);
        }
    }
    if let Some(address) = config.admin.probes {
        twice(r, &mut bound, "admin.probes", address);
    }
}

fn twice(r: &mut Reader, bound: &mut BTreeSet<SocketAddr>, key: &str, address: SocketAddr) {
    if address.port() != 0 && !bound.insert(address) {
        r.complain(key, format!("{address} is listened on twice"), "give each listener a port of its own");
    }
}
