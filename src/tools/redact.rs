//! What must not stand in a transcript: values known to be secret, and values that look like it.
//!
//! Invariant: a known secret stands in no redacted text, neither plain nor as it looks inside JSON or a URL. Beyond that,
//! values of JSON members with a telling name and JSON Web Tokens go, which is a guess: a person reads a transcript before it
//! is shared.

use std::collections::BTreeSet;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::relay::sample::TELLING;

/// What stands in place of a secret.
pub const HIDDEN: &str = "***";
/// Shorter secrets are only found as a whole JSON string: replaced everywhere they would destroy the text.
const SHORT: usize = 4;
/// What is to be hidden.
#[derive(Debug, Default)]
pub struct Redactor {
    /// The longest first, so that one that holds another goes as a whole.
    secrets: BTreeSet<(std::cmp::Reverse<usize>, String)>,
}

impl Redactor {
    /// A value that is secret from now on, in each form in which it may stand in a text.
    pub fn learn(&mut self, secret: &str) {
        if secret.is_empty() {
            return;
        }
        let json = serde_json::Value::from(secret).to_string();
        let mut forms = vec![json.clone()];
        if secret.len() >= SHORT {
            forms.push(secret.to_owned());
            forms.push(json.trim_matches('"').to_owned());
            forms.push(utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string());
        }
        self.secrets.extend(forms.into_iter().map(|form| (std::cmp::Reverse(form.len()), form)));
    }

    /// The text without secrets.
    pub fn text(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (_, secret) in &self.secrets {
            if out.contains(secret.as_str()) {
                let quoted = secret.starts_with('"') && secret.ends_with('"');
                out = out.replace(secret.as_str(), if quoted { "\"***\"" } else { HIDDEN });
            }
        }
        redacted(&out)
    }

    /// The bytes without secrets; what is no text loses only known ones.
    pub fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        if let Ok(text) = std::str::from_utf8(bytes) {
            return self.text(text).into_bytes();
        }
        let mut out = bytes.to_vec();
        for (_, secret) in &self.secrets {
            let secret = secret.as_bytes();
            while let Some(at) = out.windows(secret.len()).position(|window| window == secret) {
                out.splice(at..at + secret.len(), HIDDEN.bytes());
            }
        }
        out
    }

    /// The address without user, password and the values of its query.
    pub fn url(&self, url: &str) -> String {
        let (start, query) = url.split_once('?').unwrap_or((url, ""));
        let start = match start.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?.1))) {
            Some((scheme, rest)) => format!("{scheme}://{rest}"),
            None => start.to_owned(),
        };
        let members: Vec<String> = query
            .split('&')
            .filter(|member| !member.is_empty())
            .map(|member| format!("{}={HIDDEN}", member.split('=').next().unwrap_or_default()))
            .collect();
        let query = if members.is_empty() { String::new() } else { format!("?{}", members.join("&")) };
        self.text(&start) + &query
    }
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
    }

    #[test]
    fn any_text_is_survived() {
        for text in ["", ":", "\"token\":\"", "\"token\":\"abc", "\\\"token\\\":\\\"é", "eyJ", "é\"token\": \"é\\"] {
            Redactor::default().text(text);
        }
    }
}
