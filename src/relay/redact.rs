//! What must not be shown: values known to be secret, in whatever form they come back, and values that look like it.
//!
//! Applied to what the other side says where it refuses or ends something, before that reaches log, status, clients or disk,
//! and to recordings; never to events. Invariants: a known secret stands in no redacted text, neither plain nor as it looks
//! inside JSON, a URL, HTML or base64, nor as its beginning where the text was cut; what was learnt is bounded. Beyond that
//! values of JSON members with a telling name and JSON Web Tokens go, which is a guess.
//! Deliberately not here: hashes of secrets, and secrets that nobody named (a key in an address' path is guessed).

use std::collections::{BTreeSet, VecDeque};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::alerts::AlertTarget;
use crate::config::{Config, EndpointConfig, TokenSource};
use crate::dialect::UNRESERVED;

/// What stands in place of a secret.
pub const HIDDEN: &str = "***";
/// Shorter secrets are only found as a whole JSON string: replaced everywhere they would destroy the text.
const SHORT: usize = 4;
/// Shorter texts, where a secret may or may not stand (a query's value, a fetched one), are words.
const WORTH_HIDING: usize = 8;
/// Values that are remembered besides the configuration's own, the latest ones: a token is renewed for ever.
const LATELY_MAX: usize = 64;
/// Longer parts of a path that hold digits and letters are keys.
const KEY_IN_PATH: usize = 20;
/// The same of words that a program writes.
const KEY_IN_WORDS: usize = 16;

/// Names of members whose text value is a secret, whatever it looks like; in lower case.
pub const TELLING: [&str; 19] = [
    "token",
    "access_token",
    "accesstoken",
    "refresh_token",
    "id_token",
    "auth_token",
    "auth",
    "authorization",
    "password",
    "passwd",
    "secret",
    "client_secret",
    "api_key",
    "apikey",
    "api-key",
    "signature",
    "jwt",
    "cookie",
    "session_token",
];

/// What is to be hidden.
#[derive(Default)]
pub struct Redactor {
    /// The configuration's.
    configured: BTreeSet<Box<str>>,
    /// Those that were read or fetched, the latest last.
    lately: VecDeque<Box<str>>,
    /// Every form of all of them, the longest first, so that one that holds another goes as a whole.
    forms: Vec<Box<[u8]>>,
}

impl std::fmt::Debug for Redactor {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").field("forms", &self.forms.len()).finish_non_exhaustive()
    }
}

impl Redactor {
    /// What a configuration holds itself. `secret_params` are the names of params that the dialect calls secret.
    pub fn of(config: &Config, secret_params: &[String]) -> Self {
        let mut redactor = Redactor::default();
        redactor.configure(config, secret_params);
        redactor
    }

    /// Another configuration: its secrets instead of the last one's.
    pub fn configure(&mut self, config: &Config, secret_params: &[String]) {
        self.configured = configured(config, secret_params);
        self.gather();
    }

    /// A value that is secret from now on.
    pub fn learn(&mut self, secret: &str) {
        if secret.is_empty() || self.configured.contains(secret) {
            return;
        }
        let known = self.lately.iter().position(|known| **known == *secret);
        match known.and_then(|at| self.lately.remove(at)) {
            Some(again) => self.lately.push_back(again),
            None => {
                self.lately.push_back(secret.into());
                if self.lately.len() > LATELY_MAX {
                    self.lately.pop_front();
                }
                self.gather();
            }
        }
    }

    /// The same of a value that a call supplied, as JSON text: one that is long enough to be none of the service's words. What
    /// an address holds is learnt, too.
    pub fn learn_fetched(&mut self, json: &str) {
        let text = serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned());
        parts(&text).iter().for_each(|part| self.learn(part));
        if text.len() >= WORTH_HIDING {
            self.learn(&text);
        }
    }

    fn gather(&mut self) {
        let forms: BTreeSet<Vec<u8>> =
            self.configured.iter().chain(&self.lately).flat_map(|known| forms(known)).collect();
        self.forms = forms.into_iter().map(Vec::into_boxed_slice).collect();
        self.forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    }

    /// The text without secrets.
    pub fn text(&self, text: &str) -> String {
        redacted(&String::from_utf8_lossy(&self.known(text.as_bytes())))
    }

    /// The bytes without secrets; what is no text loses only known ones.
    pub fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(text).into_bytes(),
            Err(_) => self.known(bytes),
        }
    }

    /// Without known ones, nor the beginning of one at the end, where a text was cut.
    fn known(&self, bytes: &[u8]) -> Vec<u8> {
        let cut = bytes.strip_suffix("…".as_bytes()).unwrap_or(bytes).len();
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while let Some(first) = bytes.get(at) {
            let mut candidates = self.forms.iter().filter(|form| form.first() == Some(first));
            match candidates.find_map(|form| found(form, &bytes[at..], cut.saturating_sub(at))) {
                Some(length) => {
                    let quoted = is_quoted(&bytes[at..at + length]);
                    out.extend_from_slice(if quoted { b"\"***\"" } else { HIDDEN.as_bytes() });
                    at += length;
                }
                None => {
                    out.push(*first);
                    at += 1;
                }
            }
        }
        out
    }

    /// The address without user, password and the values of its query.
    pub fn url(&self, url: &str) -> String {
        self.url_with(url, &BTreeSet::new())
    }

    /// The same with the values of these members of the query, as far as they are not known to be secret.
    pub fn url_with(&self, url: &str, shown: &BTreeSet<String>) -> String {
        let (start, query) = url.split_once('?').unwrap_or((url, ""));
        let member = |member: &str| {
            let name = member.split('=').next().unwrap_or_default();
            let plain = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
            let telling = TELLING.contains(&plain.to_ascii_lowercase().as_str());
            let shows = shown.contains(&*plain) && !telling;
            if shows { self.text(member) } else { format!("{name}={HIDDEN}") }
        };
        let members: Vec<String> = query.split('&').filter(|member| !member.is_empty()).map(member).collect();
        let query = if members.is_empty() { String::new() } else { format!("?{}", members.join("&")) };
        self.text(&address(start)) + &query
    }
}

/// How many bytes at the beginning of `text` are this form, or its beginning where the text was cut after `cut` bytes. As
/// JSON may stand in JSON, backslashes in between count for nothing.
fn found(form: &[u8], text: &[u8], cut: usize) -> Option<usize> {
    if is_quoted(form) {
        return text.starts_with(form).then_some(form.len());
    }
    let mut length = 0;
    for (matched, wanted) in form.iter().enumerate() {
        while length < cut && text[length] == b'\\' {
            length += 1;
        }
        if length >= cut {
            let telling = (form.len() / 4).clamp(SHORT, WORTH_HIDING);
            return (matched >= telling).then_some(cut);
        }
        if text[length] != *wanted {
            return None;
        }
        length += 1;
    }
    Some(length)
}

/// Whether a form is a whole JSON string: a short secret's.
fn is_quoted(form: &[u8]) -> bool {
    (3..SHORT + 2).contains(&form.len()) && form.first() == Some(&b'"') && form.last() == Some(&b'"')
}

/// Scheme, host and path of an address, for people; without what stands before and after them, and without what looks like
/// a key in its path.
pub fn address(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = plain.split_once("://").unwrap_or(("", plain));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let path: Vec<&str> = path.split('/').map(|part| if is_key(part) { HIDDEN } else { part }).collect();
    let colon = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{colon}{host}{}", path.join("/"))
}

/// The text without words that look like keys: what a program complains about may hold any.
pub fn keys(text: &str) -> String {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '=' | '.' | '~');
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c| !inside(c)) {
        let word = piece.trim_end_matches(|c| !inside(c));
        let key = word.len() >= KEY_IN_WORDS && is_mixed(word);
        out.push_str(if key { HIDDEN } else { word });
        out.push_str(&piece[word.len()..]);
    }
    out
}

fn is_mixed(part: &str) -> bool {
    part.bytes().any(|b| b.is_ascii_digit()) && part.bytes().any(|b| b.is_ascii_alphabetic())
}

fn is_key(part: &str) -> bool {
    part.len() >= KEY_IN_PATH && is_mixed(part)
}

/// What in an address may be secret: password, values of the query, keys in the path. Nothing of a text that is no address.
fn parts(url: &str) -> Vec<String> {
    let Some((_, rest)) = url.split_once("://") else { return Vec::new() };
    let (start, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut parts: Vec<String> = start.split('/').skip(1).filter(|part| is_key(part)).map(str::to_owned).collect();
    let values = query.split('&').filter_map(|member| member.split_once('='));
    parts.extend(values.map(|(_, value)| value.to_owned()).filter(|value| value.len() >= WORTH_HIDING));
    if let Some((user, _)) = start.split('/').next().unwrap_or_default().rsplit_once('@') {
        parts.push(user.to_owned());
        parts.extend(user.split_once(':').map(|(_, password)| password.to_owned()));
    }
    let decoded = |part: &String| Some(percent_encoding::percent_decode_str(part).decode_utf8().ok()?.into_owned());
    let decoded: Vec<String> = parts.iter().filter_map(decoded).collect();
    parts.extend(decoded);
    parts
}

/// What the configuration itself calls secret, or may hold one.
fn configured(config: &Config, secret_params: &[String]) -> BTreeSet<Box<str>> {
    let upstream = &config.upstream;
    let mut all: Vec<String> = upstream.headers.iter().map(|(_, value)| value.expose().to_owned()).collect();
    // `Bearer x`: x alone, too.
    all.extend(upstream.headers.iter().filter_map(|(_, value)| Some(value.expose().split_once(' ')?.1.to_owned())));
    match &upstream.token {
        TokenSource::Literal(token) => all.push(token.expose().to_owned()),
        TokenSource::Fetch(call) => all.extend(call_values(call.expose())),
        _ => {}
    }
    for EndpointConfig { url, .. } in upstream.addresses() {
        all.extend(parts(&url));
    }
    all.extend(upstream.proxy.iter().flat_map(|proxy| parts(proxy.expose())));
    all.extend(config.access.tokens.iter().map(|grant| grant.token.expose().to_owned()));
    for target in config.alerts.iter().flat_map(|alert| &alert.to) {
        if let AlertTarget::Webhook { url, headers } = target {
            all.extend(parts(url.expose()));
            all.push(url.expose().to_owned());
            all.extend(headers.iter().map(|(_, value)| value.expose().to_owned()));
        }
    }
    let fixed = config.channels.iter().filter_map(|policy| serde_json::from_str(policy.params.as_deref()?).ok());
    for params in fixed.chain([upstream.params.clone()]) {
        let named = params.iter().filter(|(name, _)| secret_params.contains(name));
        all.extend(named.filter_map(|(_, value)| Some(value.as_str()?.to_owned())));
    }
    all.into_iter().filter(|secret| !secret.is_empty()).map(String::into_boxed_str).collect()
}

/// Values in `upstream.token_fetch` that may be secret: headers, form, the query and the texts of the content.
fn call_values(call: &str) -> Vec<String> {
    let Ok(call) = toml::from_str::<toml::Table>(call) else { return Vec::new() };
    let mut values = Vec::new();
    for (key, value) in &call {
        match (key.as_str(), value) {
            ("get" | "post" | "put", toml::Value::String(url)) => values.extend(parts(url)),
            ("headers" | "form", toml::Value::Table(members)) => {
                values.extend(members.values().filter_map(|value| Some(value.as_str()?.to_owned())));
            }
            ("json", toml::Value::String(content)) => {
                values.extend(content.split('"').skip(1).step_by(2).map(str::to_owned));
            }
            _ => {}
        }
    }
    values.retain(|value| value.len() >= WORTH_HIDING);
    values
}

/// Each way in which a secret may stand in a text.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let json = serde_json::Value::from(secret).to_string();
    if secret.len() < SHORT {
        return vec![json.into_bytes()];
    }
    let html = secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let percent = |set: &'static AsciiSet| utf8_percent_encode(secret, set).to_string();
    let (all, unreserved) = (percent(NON_ALPHANUMERIC), percent(UNRESERVED));
    let mut forms = vec![
        secret.to_owned(),
        json[1..json.len() - 1].to_owned(),
        secret.escape_default().to_string(),
        secret.as_bytes().escape_ascii().to_string(),
        html.replace('"', "&quot;").replace('\'', "&#39;"),
        html,
        unreserved.replace("%20", "+"),
        lower_percent(&all),
        lower_percent(&unreserved),
        all,
        unreserved,
    ];
    if secret.len() >= WORTH_HIDING {
        forms.extend((0..3).flat_map(|shift| base64_within(secret, shift)));
    }
    // Backslashes count for nothing: see `found`.
    let plain = |form: String| form.replace('\\', "").into_bytes();
    forms.into_iter().map(plain).filter(|form| form.len() >= SHORT && !is_quoted(form)).collect()
}

/// The same with the digits of `%XX` in lower case.
fn lower_percent(text: &str) -> String {
    let mut digits = 0;
    let lower = |c: char| {
        digits = if c == '%' { 3_u8 } else { digits }.saturating_sub(1);
        if digits > 0 || c == '%' { c.to_ascii_lowercase() } else { c }
    };
    text.chars().map(lower).collect()
}

/// What base64 (RFC 4648) makes of a secret that stands `shift` bytes behind a multiple of three, as far as no neighbour
/// has a part in it.
fn base64_within(secret: &str, shift: usize) -> [String; 2] {
    let bytes = [&[0; 2][..shift], secret.as_bytes()].concat();
    let begin = [0, 2, 3][shift];
    let end = bytes.len() * 8 / 6;
    [STANDARD_NO_PAD, URL_SAFE_NO_PAD].map(|alphabet| alphabet.encode(&bytes)[begin..end].to_owned())
}

/// The text without what looks secret.
pub fn redacted(text: &str) -> String {
    web_tokens(&members(text))
}

/// Hides the text values of telling members, also inside JSON that stands in a string.
fn members(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, quote, after)) = next_name(rest) {
        out.push_str(before);
        let end = end_of(after, quote);
        out.push_str(if end > 0 { HIDDEN } else { "" });
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// Up to and with the quote that begins the next telling member's text value; that quote; and what follows it.
fn next_name(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    loop {
        let at = from + text.get(from..)?.find(':')?;
        from = at + 1;
        let name = text[..at].trim_end();
        let quote = if name.ends_with("\\\"") { "\\\"" } else { "\"" };
        let Some(name) = name.strip_suffix(quote).and_then(|name| name.rsplit(quote).next()) else { continue };
        if !TELLING.contains(&name.to_ascii_lowercase().as_str()) {
            continue;
        }
        let value = text[from..].trim_start();
        if value.starts_with(quote) {
            let begin = text.len() - value.len() + quote.len();
            return Some((&text[..begin], quote, &text[begin..]));
        }
    }
}

/// Where a text value ends: at the next such quote that nothing escapes.
fn end_of(text: &str, quote: &str) -> usize {
    let mut from = 0;
    while let Some(found) = text[from..].find(quote) {
        let at = from + found;
        let escapes = text[..at].bytes().rev().take_while(|byte| *byte == b'\\').count();
        let plain = if quote.len() == 1 { escapes % 2 == 0 } else { escapes % 4 == 0 };
        if plain {
            return at;
        }
        from = at + quote.len();
    }
    text.len()
}

/// Hides JSON Web Tokens (RFC 7519): three base64url parts, of which the first begins with `{"`.
fn web_tokens(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("eyJ") {
        let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let end = rest[at..].find(|c| !inside(c)).map_or(rest.len(), |end| at + end);
        let is_token = rest[at..end].matches('.').count() == 2;
        out.push_str(&rest[..at]);
        out.push_str(if is_token { HIDDEN } else { &rest[at..end] });
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::Secret;

    fn knowing(secret: &str) -> Redactor {
        let mut redactor = Redactor::default();
        redactor.learn(secret);
        redactor
    }

    #[test]
    fn a_known_secret_goes_in_every_form() {
        let secret = "a\"b/c d+é";
        let redactor = knowing(secret);
        let json = serde_json::json!({"x": secret, "y": [format!("Bearer {secret}!")]}).to_string();
        let mut text = secret.to_owned();
        for _ in 0..4 {
            text = serde_json::Value::from(text).to_string();
            assert!(!redactor.text(&text).contains("b/c") && !redactor.text(&text).contains(" d+"), "{text}");
        }
        let nested = serde_json::json!({"inner": json}).to_string();
        let url = format!("x/{}/y", utf8_percent_encode(secret, NON_ALPHANUMERIC));
        for text in [secret.to_owned(), json, url] {
            let redacted = redactor.text(&text);
            assert!(
                redacted.contains(HIDDEN) && !redacted.contains("b/c") && !redacted.contains("b%2Fc"),
                "{redacted}"
            );
        }
        assert!(knowing("s3cret-x").text(&nested.replace("b/c", "s3cret-x")).contains(HIDDEN));
        let binary = [&[0xff, 0][..], b"s3cret-x", &[0xfe]].concat();
        assert_eq!(knowing("s3cret-x").bytes(&binary), [&[0xff, 0][..], b"***", &[0xfe]].concat());
    }

    #[test]
    fn a_known_secret_goes_as_base64_wherever_it_stands_in_it() {
        use base64::engine::general_purpose::{STANDARD, URL_SAFE};
        let secret = "c4nary?secret>value~1";
        let redactor = knowing(secret);
        for before in ["", "u", "u:", "user:", "{\"k\":\""] {
            for after in ["", "!", "\"}", "\"} "] {
                for text in [STANDARD, URL_SAFE].map(|a| a.encode(format!("{before}{secret}{after}"))) {
                    let redacted = redactor.text(&format!("Basic {text} is wrong"));
                    let left = redacted.len() - "Basic  is wrong***".len();
                    let neighbours = (before.len() + after.len()) * 4 / 3 + 6;
                    assert!(redacted.contains(HIDDEN) && left <= neighbours, "{text}: {redacted}");
                }
            }
        }
    }

    #[test]
    fn the_beginning_of_a_secret_goes_where_the_text_was_cut() {
        let redactor = knowing("s3cret-s3cret-s3cret");
        assert_eq!(redactor.text("wrong: s3cret-s3c"), "wrong: ***");
        assert_eq!(redactor.text("wrong: s3cret…"), "wrong: ***…");
        assert_eq!(redactor.text("wrong: s3c"), "wrong: s3c", "next to nothing");
        assert_eq!(redactor.text("s3cret, a word"), "s3cret, a word");
    }

    #[test]
    fn what_is_known_is_bounded_and_the_configurations_own_stay() {
        let mut config = Config::default();
        config.upstream.headers = vec![("Authorization".into(), Secret::new("Bearer of-the-config"))];
        config.upstream.proxy = Some(Secret::new("http://me:p%40ss-word@proxy:3128"));
        config.upstream.url = "wss://h.example/v3/0a1b2c3d4e5f60718293a4b5?key=of-the-query&v=2".into();
        let mut redactor = Redactor::of(&config, &[]);
        for n in 0..10 * LATELY_MAX {
            redactor.learn(&format!("token-number-{n}-"));
            redactor.learn("always");
        }
        let text =
            "of-the-config of-the-query 0a1b2c3d4e5f60718293a4b5 p@ss-word token-number-0- token-number-639- always 2";
        assert_eq!(redactor.text(text), "*** *** *** *** token-number-0- *** *** 2");
        assert_eq!(redactor.lately.len(), LATELY_MAX);
        redactor.configure(&Config::default(), &[]);
        assert_eq!(redactor.text("of-the-config always"), "of-the-config ***");
    }

    #[test]
    fn what_was_fetched_is_hidden_with_the_parts_of_an_address() {
        let mut redactor = Redactor::default();
        redactor.learn_fetched("\"wss://host.example/link/?ticket=a1b2c3d4-e5&app_id=x\"");
        redactor.learn_fetched("\"JSON\"");
        assert_eq!(redactor.text("no ticket a1b2c3d4-e5 as JSON"), "no ticket *** as JSON");
    }

    #[test]
    fn a_short_secret_goes_as_a_whole_value_and_leaves_the_rest() {
        assert_eq!(knowing("t").text(r#"{"type":"t","text":"tt"}"#), r#"{"type":"***","text":"tt"}"#);
    }

    #[test]
    fn one_that_holds_another_goes_as_a_whole() {
        let mut redactor = knowing("abcd");
        redactor.learn("abcdefgh");
        assert_eq!(redactor.text("abcdefgh abcd"), "*** ***");
    }

    #[test]
    fn telling_members_go_also_in_strings_of_json() {
        let nothing = Redactor::default();
        assert_eq!(nothing.text(r#"{"Token" : "a\"b","n":1}"#), r#"{"Token" : "***","n":1}"#);
        assert_eq!(nothing.text(r#"{"type":"auth","token":""}"#), r#"{"type":"auth","token":""}"#);
        assert_eq!(nothing.text(r#"{"token":7,"auth":{"password":"x"}}"#), r#"{"token":7,"auth":{"password":"***"}}"#);
        let inner = serde_json::json!({"data": r#"{"auth":"k:\"s","m":"x"}"#}).to_string();
        let redacted = nothing.text(&inner);
        let outer: serde_json::Value = serde_json::from_str(&redacted).unwrap();
        assert_eq!(outer["data"], r#"{"auth":"***","m":"x"}"#);
    }

    #[test]
    fn web_tokens_go_and_what_only_begins_so_stays() {
        let nothing = Redactor::default();
        assert_eq!(nothing.text("x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig-_ y"), "x *** y");
        assert_eq!(nothing.text("eyJust a word. Or two."), "eyJust a word. Or two.");
    }

    #[test]
    fn an_address_keeps_its_place_and_the_names_of_its_query() {
        let redactor = knowing("s3cret");
        assert_eq!(redactor.url("wss://me:pw@h.example/a/s3cret?key=abc&v=2"), "wss://h.example/a/***?key=***&v=***");
        assert_eq!(redactor.url("ws://h/"), "ws://h/");
        let shown = ["v", "key", "token", "a b"].map(str::to_owned).into();
        let url = "ws://h/?v=2&key=s3cret&token=1&a%20b=c&w=3";
        assert_eq!(redactor.url_with(url, &shown), "ws://h/?v=2&key=***&token=***&a%20b=c&w=***");
        assert_eq!(address("wss://node.example/v3/0a1b2c3d4e5f60718293a4b5?x#y"), "wss://node.example/v3/***");
        assert_eq!(address("/login?next=/"), "/login");
    }

    #[test]
    fn any_text_is_survived() {
        for text in ["", ":", "\"token\":\"", "\"token\":\"abc", "\\\"token\\\":\\\"é", "eyJ", "é\"token\": \"é\\"] {
            Redactor::default().text(text);
        }
    }
}
