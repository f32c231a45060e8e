//! What of a new configuration takes effect at once. Reloadable: log level, limits and times of feed and outbox, tokens,
//! access, channel policies, readiness, drain. Not reloadable: what a listener, a connection or the store was built with.
//!
//! Deliberately not here: carrying it out (the relay's `Reload`, the log's level).

use super::Config;

macro_rules! keys {
    ($(#[$meta:meta])* $name:ident: $($key:literal => $($field:ident).+;)*) => {
        $(#[$meta])*
        const $name: &[Key] = &[$(Key {
            name: $key,
            differs: |old, new| old.$($field).+ != new.$($field).+,
            keep: |old, new| new.$($field).+.clone_from(&old.$($field).+),
        },)*];
    };
}

/// A key that only a restart changes.
struct Key {
    name: &'static str,
    differs: fn(&Config, &Config) -> bool,
    keep: fn(&Config, &mut Config),
}

keys! {
    /// All of them.
    FIXED:
    "upstream.url" => upstream.url;
    "upstream.endpoints" => upstream.endpoints;
    "upstream.transports" => upstream.transports;
    "upstream.climb_after" => upstream.climb_after;
    "upstream.dialect" => upstream.dialect;
    "upstream.params" => upstream.params;
    "upstream.headers" => upstream.headers;
    "upstream.token" => upstream.token;
    "upstream.fetch_origins" => upstream.fetch_origins;
    "secrets" => secrets;
    "upstream.ca_file" => upstream.ca_file;
    "upstream.client_cert_file" => upstream.client_cert;
    "upstream.proxy" => upstream.proxy;
    "upstream.connect_timeout" => upstream.connect_timeout;
    "upstream.handshake_timeout" => upstream.handshake_timeout;
    "upstream.backoff" => upstream.backoff;
    "upstream.stable_for" => upstream.stable_for;
    "upstream.max_attempts" => upstream.max_attempts;
    "upstream.ping_interval" => upstream.ping_interval;
    "upstream.ping_misses" => upstream.ping_misses;
    "upstream.max_age" => upstream.max_age;
    "upstream.max_frame" => upstream.max_frame;
    "feed.listen" => feed.listen;
    "outbox.path" => outbox.path;
    "outbox.max_disk" => outbox.max_disk;
    "outbox.rotate_above" => outbox.rotate_above;
    "outbox.ballast" => outbox.ballast;
    "admin.listen" => admin.listen;
    "admin.probes" => admin.probes;
    "log.format" => log.format;
}

/// The changed keys that need a restart, in the order of the file.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    FIXED.iter().filter(|key| (key.differs)(old, new)).map(|key| key.name).collect()
}

/// `new`, with the old values of all keys that need a restart: what is in force after a reload.
pub fn in_force(old: &Config, new: &Config) -> Config {
    let mut merged = new.clone();
    for key in FIXED {
        (key.keep)(old, &mut merged);
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn fixed_keys_are_named_and_keep_their_values() {
        let old = Config::default();
        let mut new = old.clone();
        new.upstream.url = "wss://other.example/".to_owned();
        new.outbox.path = "/elsewhere".into();
        new.interest.linger = Duration::from_secs(60);
        new.log.level = tracing::Level::DEBUG;
        new.access.hosts = vec!["feed.example.com".to_owned()];
        assert_eq!(needs_restart(&old, &new), ["upstream.url", "outbox.path"]);
        let merged = in_force(&old, &new);
        assert_eq!(merged.upstream, old.upstream);
        assert_eq!(merged.outbox, old.outbox);
        assert_eq!((merged.interest, &merged.access, &merged.log), (new.interest, &new.access, &new.log));
        assert_eq!(needs_restart(&old, &merged), [""; 0]);
    }
}
