//! Where credentials come from: `upstream.token…`, `[secrets]`, and where a dialect's calls may go.
//!
//! Deliberately not here: reading them (the carrier's, anew at each connect); a configuration only says where they are.

use std::path::PathBuf;

use figment::value::Value;

use super::reader::Reader;
use super::{Config, EndpointConfig, SecretSource, TokenSource};
use crate::dialect::{Dialect, TokenCall, may_call};
use crate::protocol::request::Secret;

/// The keys of a token that every table with a token has.
const ANYWHERE: [&str; 3] = ["token", "token_file", "token_env"];
/// Those that only `[upstream]` has besides.
const UPSTREAM: [&str; 2] = ["token_command", "token_fetch"];

/// `token`, `token_file` or `token_env` of a table; at most one.
pub(super) fn token(r: &mut Reader, table: &str) -> TokenSource {
    one_of(r, table, &ANYWHERE)
}

/// The same for `[upstream]`, which also has `token_command` and `token_fetch`.
pub(super) fn upstream_token(r: &mut Reader) -> TokenSource {
    one_of(r, "upstream", &[&ANYWHERE[..], &UPSTREAM[..]].concat())
}

fn one_of(r: &mut Reader, table: &str, names: &[&str]) -> TokenSource {
    let given: Vec<&str> = names.iter().copied().filter(|name| r.has(&format!("{table}.{name}"))).collect();
    if let [first, second, ..] = given[..] {
        let cure = format!("keep one of {}", names.join(", "));
        r.complain(&format!("{table}.{second}"), format!("{first} is given, too"), cure);
    }
    let Some(name) = given.first() else { return TokenSource::None };
    let key = format!("{table}.{name}");
    match *name {
        "token_command" => command(r, &key).map_or(TokenSource::None, TokenSource::Command),
        "token_fetch" => call(r, &key).map_or(TokenSource::None, TokenSource::Fetch),
        _ => match (*name, r.optional_text(&key)) {
            (_, None) => TokenSource::None,
            ("token", Some(text)) => TokenSource::Literal(Secret::new(text)),
            ("token_file", Some(text)) => TokenSource::File(PathBuf::from(text)),
            (_, Some(text)) => TokenSource::Env(text),
        },
    }
}

/// A program and its arguments.
fn command(r: &mut Reader, key: &str) -> Option<Vec<String>> {
    let words = r.list(key, &[]);
    if words.first().is_none_or(String::is_empty) {
        r.complain(key, "names no program", "write [\"/path/to/program\", \"argument\"]");
        return None;
    }
    Some(words)
}

/// A call, in the words of a dialect's `[fetch]`; kept as its TOML.
fn call(r: &mut Reader, key: &str) -> Option<Secret> {
    let text = r.value(key).and_then(|value| toml::to_string(&value).ok()).unwrap_or_default();
    match TokenCall::parse(&text) {
        Ok(_) => Some(Secret::new(text)),
        Err(reasons) => {
            for reason in reasons {
                r.complain(key, reason, "see \"Fetched tokens\" in docs/connect-a-service.md");
            }
            None
        }
    }
}

/// `[secrets]`: each with `file`, `env` or `command`.
pub(super) fn secrets(r: &mut Reader) -> Vec<(String, SecretSource)> {
    let members = r.table("secrets", "[secrets] and below it name = { file = \"…\" }").unwrap_or_default();
    let mut secrets = Vec::new();
    for (name, value) in members {
        let key = format!("secrets.{name}");
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            r.complain(&key, "is no name that a dialect can say", "use letters, digits and _");
        }
        let text = |inner: &Value| inner.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let words = |inner: &Value| -> Option<Vec<String>> {
            let words = inner.as_array()?.iter().map(text).collect::<Option<Vec<_>>>()?;
            (!words.is_empty()).then_some(words)
        };
        let only = value.as_dict().filter(|inner| inner.len() == 1).and_then(|inner| inner.iter().next());
        let source = match only.map(|(how, inner)| (how.as_str(), inner)) {
            Some(("file", inner)) => text(inner).map(|path| SecretSource::File(PathBuf::from(path))),
            Some(("env", inner)) => text(inner).map(SecretSource::Env),
            Some(("command", inner)) => words(inner).map(SecretSource::Command),
            _ => None,
        };
        match source {
            Some(source) => secrets.push((name, source)),
            None => {
                let cure = "write { file = \"…\" }, { env = \"…\" } or { command = [\"…\"] }; the secret itself never stands here";
                r.complain(&key, "does not say where the secret is", cure);
            }
        }
    }
    secrets
}

/// `upstream.fetch_origins`
pub(super) fn origins(r: &mut Reader) -> Vec<String> {
    let key = "upstream.fetch_origins";
    let origins = r.list(key, &[]);
    for origin in &origins {
        let rest = ["https://", "wss://", "http://", "ws://"].iter().find_map(|scheme| origin.strip_prefix(scheme));
        let host = rest.map(|rest| rest.strip_prefix("*.").unwrap_or(rest));
        if host.is_none_or(|host| host.is_empty() || host.contains(['/', '*', '?', '#', '@', '\\', ' '])) {
            let cure =
                "write scheme and host, and a port if it is another: https://api.example.com, wss://*.example.com";
            r.complain(key, format!("\"{origin}\" is not an origin"), cure);
        }
    }
    origins
}

/// The secrets that `upstream.token_fetch` names.
fn secrets_of_call(config: &Config) -> Vec<Box<str>> {
    match &config.upstream.token {
        TokenSource::Fetch(text) => TokenCall::parse(text.expose()).map(|call| call.secrets()).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// What the dialect needs of the configuration and does not find: each with its cure.
pub(super) fn missing(config: &Config, dialect: &Dialect) -> Vec<(String, String)> {
    let call = secrets_of_call(config);
    let of_dialect = dialect.secrets().iter().filter(|(_, required)| *required).map(|(name, _)| name);
    let has = |name: &str| config.secrets.iter().any(|(known, _)| known == name);
    let secret = |(who, name): (&str, &str)| {
        let message = format!("{who} needs the secret \"{name}\", which is not configured");
        (message, format!("write [secrets] and below it {name} = {{ file = \"…\" }} (or env, command)"))
    };
    let who = format!("upstream.dialect: {}", dialect.name());
    let named = of_dialect.map(|name| (who.as_str(), &**name));
    let named = named.chain(call.iter().map(|name| ("upstream.token_fetch:", &**name)));
    let mut all: Vec<(String, String)> = named.filter(|(_, name)| !has(name)).map(secret).collect();
    let addresses = config.upstream.addresses();
    for url in dialect.calls() {
        let call = |address: &EndpointConfig| may_call(url, &address.url, &config.upstream.fetch_origins);
        if let Some(message) = addresses.iter().find_map(|address| call(address).err()) {
            let origin = url.split('/').take(3).collect::<Vec<_>>().join("/");
            all.push((
                format!("{who} calls {url}: {message}"),
                format!("write upstream.fetch_origins = [\"{origin}\"]"),
            ));
        }
    }
    all
}

/// Secrets that nobody names.
pub(super) fn unused<'c>(config: &'c Config, dialect: &Dialect) -> impl Iterator<Item = &'c str> {
    let of_dialect = dialect.secrets().iter().map(|(name, _)| name.clone());
    let named: Vec<Box<str>> = of_dialect.chain(secrets_of_call(config)).collect();
    let names = config.secrets.iter().map(|(name, _)| name.as_str());
    names.filter(move |name| !named.iter().any(|known| **known == **name))
}
