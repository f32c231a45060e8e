//! Addresses read backwards, and recorded requests held against ours.
//!
//! What was hidden in a recording fits anything. Compared are the method, the path, the members of the query in any order,
//! and of the header fields those that a dialect makes or that say where to go on; origins are not, nor what the carrier
//! adds. Deliberately not here: which request is expected.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::pattern::{Pattern, Values};
use super::transcript::Call;
use crate::dialect::{Ask, ConnectRequest, Transport};
use crate::relay::redact::HIDDEN;

/// Header fields that must not be there unless the dialect makes them.
const TELLING: [&str; 5] = ["authorization", "content-type", "if-modified-since", "if-none-match", "last-event-id"];

/// The templates of a transport's address, as the dialect's file has them.
#[derive(Debug, Default)]
pub(super) struct AddressPattern {
    path: Option<String>,
    query: Vec<Member>,
    headers: Vec<(String, String)>,
    join: String,
}

#[derive(Debug)]
struct Member {
    name: String,
    template: String,
    /// Once for each channel.
    each: bool,
}

/// What an address tells.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Values of its templates.
    pub(super) values: Values,
    /// The same for each member that stands for one channel.
    pub(super) each: Vec<Values>,
}

impl AddressPattern {
    /// Of the dialect that this file is.
    pub(super) fn of(file: &toml::Table, transport: Transport) -> Self {
        let common = file.get("connect").and_then(toml::Value::as_table);
        let own = file.get("transport").and_then(|all| all.get(transport.text())?.as_table());
        let mut pattern = AddressPattern::default();
        let text = |table: &toml::Table, key: &str| table.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        pattern.join = common.and_then(|common| text(common, "join")).unwrap_or_else(|| ",".to_owned());
        for table in own.into_iter().chain(common) {
            pattern.path = pattern.path.take().or_else(|| text(table, "path"));
            let entries = |key: &str| table.get(key).and_then(toml::Value::as_table).into_iter().flatten();
            for (name, value) in entries("query") {
                let each = value.as_array().and_then(|list| list.first());
                let template = each.unwrap_or(value).as_str().unwrap_or_default().to_owned();
                if !pattern.query.iter().any(|known| known.name == *name) {
                    pattern.query.push(Member { name: name.clone(), template, each: each.is_some() });
                }
            }
            for (name, value) in entries("headers") {
                let template = value.as_str().unwrap_or_default().to_owned();
                pattern.headers.push((name.to_ascii_lowercase(), template));
            }
        }
        pattern
    }

    /// Whether the dialect says the path.
    pub(super) fn has_path(&self) -> bool {
        self.path.is_some()
    }

    /// The values that make this request, as far as it tells them.
    pub(super) fn values(&self, call: &Call) -> Told {
        let mut told = Told::default();
        if let Some(path) = &self.path {
            told.values.extend(path_values(path, &call.url).unwrap_or_default());
        }
        for (name, value) in members(&call.url) {
            let Some(member) = self.query.iter().find(|member| member.name == name) else { continue };
            let Some(values) = text_values(&member.template, &value, &self.join) else { continue };
            match member.each {
                true => told.each.push(values),
                false => told.values.extend(values),
            }
        }
        for (name, template) in &self.headers {
            let values = call.headers.get(name).and_then(|value| text_values(template, value, &self.join));
            told.values.extend(values.unwrap_or_default());
        }
        told
    }
}

/// The values with which a path's template makes the path of this address.
pub(super) fn path_values(template: &str, url: &str) -> Option<Values> {
    let mut values = text_values(template, path(url), ",")?;
    for value in values.values_mut() {
        if let Some(text) = value.as_str().map(decoded) {
            *value = Value::from(text.into_owned());
        }
    }
    Some(values)
}

/// The values with which a text template makes a text; `{name*}` lists several, with `join` between them.
fn text_values(template: &str, text: &str, join: &str) -> Option<Values> {
    if text == HIDDEN {
        // It was there, whatever it was.
        let names = template.split('{').skip(1).filter_map(|rest| rest.split(['}', '?', '*', '|']).next());
        return Some(names.map(|name| (name.to_owned(), Value::from(HIDDEN))).collect());
    }
    let quoted = Value::from(template).to_string();
    let mut values = Pattern::new(&quoted)?.values(&Value::from(text))?;
    for (name, value) in &mut values {
        if template.contains(&format!("{{{name}*}}")) {
            let parts = value.as_str().unwrap_or_default().split(join);
            *value = parts.map(Value::from).collect();
        }
    }
    Some(values)
}

/// Scheme and authority; nothing of what begins with its path.
pub(super) fn origin(url: &str) -> &str {
    let start =
        url.split(['/', '?', '#']).next().filter(|scheme| scheme.ends_with(':')).map_or(0, |scheme| scheme.len() + 2);
    &url[..url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at)]
}

/// The path, as it stands there.
pub(super) fn path(url: &str) -> &str {
    url[origin(url).len()..].split(['?', '#']).next().unwrap_or_default()
}

/// The same, `/` where there is none.
fn some_path(url: &str) -> &str {
    Some(path(url)).filter(|path| !path.is_empty()).unwrap_or("/")
}

/// The members of the query as they stand there.
pub(super) fn raw_members(url: &str) -> impl Iterator<Item = &str> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter(|member| !member.is_empty())
}

/// The members of the query, decoded.
fn members(url: &str) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let split = |member| -> (_, _) {
        let (name, value) = str::split_once(member, '=').unwrap_or((member, ""));
        (decoded(name), decoded(value))
    };
    let mut members: Vec<_> = raw_members(url).map(split).collect();
    members.sort();
    members
}

/// The names of the query's members.
pub(super) fn member_names(url: &str) -> BTreeSet<String> {
    members(url).into_iter().map(|(name, _)| name.into_owned()).collect()
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// The request of a connection as a call.
pub(super) fn of_connect(request: &ConnectRequest) -> Call {
    let (method, body) = ("GET".to_owned(), bytes::Bytes::new());
    Call { method, url: request.url.clone(), headers: lower(&request.headers), body }
}

/// A poll or a post as a call.
pub(super) fn of_ask(ask: &Ask) -> Call {
    let method = ask.method.text().to_owned();
    Call { method, url: ask.url.clone(), headers: lower(&ask.headers), body: ask.body.clone() }
}

fn lower(headers: &[(String, String)]) -> BTreeMap<String, String> {
    headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
}

/// Whether the recorded request is ours, contents apart.
pub(super) fn same(recorded: &Call, ours: &Call) -> bool {
    let (theirs, mine) = (members(&recorded.url), members(&ours.url));
    let members = theirs.len() == mine.len()
        && theirs.iter().zip(&mine).all(|(theirs, mine)| theirs.0 == mine.0 && fits(&theirs.1, &mine.1));
    let names = ours.headers.keys().map(String::as_str).chain(TELLING);
    let header = |name: &str| match (recorded.headers.get(name), ours.headers.get(name)) {
        (Some(theirs), Some(mine)) if name == "content-type" => plain(theirs) == plain(mine),
        (Some(theirs), Some(mine)) => fits(theirs, mine),
        (theirs, mine) => theirs.is_none() && mine.is_none(),
    };
    recorded.method == ours.method
        && fits(some_path(&recorded.url), some_path(&ours.url))
        && members
        && names.into_iter().all(header)
}

/// Whether a client's request is the recorded one for a service that plays the recording: methods and paths are the same, and
/// so are the members of the query but for hidden ones. `loosely`: whatever the query is.
pub fn resembles(recorded: &Call, said: &Call, loosely: bool) -> bool {
    let theirs = members(&recorded.url);
    let hidden: BTreeSet<&str> =
        theirs.iter().filter(|(_, value)| value == HIDDEN).map(|(name, _)| name.as_ref()).collect();
    let plain = |members: &[(Cow<'_, str>, Cow<'_, str>)]| -> Vec<(String, String)> {
        let shown = members.iter().filter(|(name, _)| !hidden.contains(name.as_ref()));
        shown.map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    recorded.method == said.method
        && fits(some_path(&recorded.url), some_path(&said.url))
        && (loosely || plain(&theirs) == plain(&members(&said.url)))
}

/// A content type as it is compared.
fn plain(kind: &str) -> String {
    kind.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase()
}

/// A request in words: those of its header fields that are compared, and no origin.
pub(super) fn shown(call: &Call, ours: &Call) -> String {
    let query = call.url.split_once('?').map(|(_, query)| format!("?{query}")).unwrap_or_default();
    let mut words = format!("{} {}{query}", call.method, path(&call.url));
    for (name, value) in &call.headers {
        if ours.headers.contains_key(name) || TELLING.contains(&name.as_str()) {
            let quote = value.contains(char::is_whitespace);
            words += &if quote { format!(" {name}={value:?}") } else { format!(" {name}={value}") };
        }
    }
    words
}

/// Whether a text is the recorded one, with anything in place of what was hidden.
pub fn fits(recorded: &str, said: &str) -> bool {
    let mut pieces = recorded.split(HIDDEN);
    let Some(mut rest) = pieces.next().and_then(|first| said.strip_prefix(first)) else { return false };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    recorded.ends_with(HIDDEN) || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, url: &str, headers: &[(&str, &str)]) -> Call {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Call { method: method.to_owned(), url: url.to_owned(), headers, body: bytes::Bytes::new() }
    }

    #[test]
    fn addresses_tell_channels_params_and_tokens() {
        let file: toml::Table = r#"
            connect = { path = "/sub/{params/room}", query = { v = "2", topic = "{channel}" } }
            [transport.sse]
            query = { topic = ["t:{channel}"], all = "{channel*}" }
            headers = { Authorization = "Bearer {token?}" }
        "#
        .parse()
        .unwrap();
        let pattern = AddressPattern::of(&file, Transport::Sse);
        let url = "http://h/sub/a%2Fb?v=2&topic=t%3Ax&topic=t%3Ay&all=p%2Cq&key=1";
        let told = pattern.values(&call("GET", url, &[("authorization", "***")]));
        let values = serde_json::json!({"params/room": "a/b", "channel": ["p", "q"], "token": "***"});
        assert_eq!(Value::Object(told.values.into_iter().collect()), values);
        let each: Vec<_> = told.each.iter().map(|values| values["channel"].as_str().unwrap()).collect();
        assert_eq!(each, ["x", "y"]);
    }

    #[test]
    fn requests_are_the_same_but_for_what_was_hidden_and_nobody_compares() {
        let ours = call("GET", "http://h/a?y=2&x=1%202", &[("x-key", "secret")]);
        let same = |recorded: &Call| super::same(recorded, &ours);
        assert!(same(&call("GET", "https://other/a?x=1%202&y=***", &[("x-key", "***"), ("accept", "*/*")])));
        for (what, other) in [
            ("method", call("POST", "http://h/a?y=2&x=1%202", &[("x-key", "***")])),
            ("path", call("GET", "http://h/b?y=2&x=1%202", &[("x-key", "***")])),
            ("member", call("GET", "http://h/a?y=2&x=1", &[("x-key", "***")])),
            ("a member less", call("GET", "http://h/a?y=2", &[("x-key", "***")])),
            ("a field less", call("GET", "http://h/a?y=2&x=1%202", &[])),
            ("a field more", call("GET", "http://h/a?y=2&x=1%202", &[("x-key", "***"), ("last-event-id", "7")])),
        ] {
            assert!(!same(&other), "another {what}");
        }
        assert!(super::same(&call("GET", "http://h", &[]), &call("GET", "http://h/", &[])));
    }

    #[test]
    fn a_client_may_say_anything_for_what_was_hidden_and_on_a_second_round() {
        let recorded = call("GET", "http://h/a/b?x=1&sid=***", &[]);
        for url in ["/a/b?x=1&sid=7", "/a/b?x=1"] {
            assert!(resembles(&recorded, &call("GET", url, &[]), false), "{url}");
        }
        for url in ["/a/b?x=2&sid=7", "/a/b?sid=7", "/a/b?x=1&y=2", "/a?x=1", "/a/b?x=1&u=http://c/d"] {
            let said = call("GET", url, &[]);
            assert!(!resembles(&recorded, &said, false), "{url}");
            assert_eq!(resembles(&recorded, &said, true), path(url) == "/a/b", "{url}");
        }
        assert!(!resembles(&recorded, &call("POST", "/a/b?x=1", &[]), true));
    }

    #[test]
    fn what_was_hidden_fits_anything_in_its_place() {
        assert!(fits("a", "a") && fits("a***c", "abc") && fits("***", "") && fits("/x/***", "/x/y"));
        assert!(!fits("a", "ab") && !fits("a***c", "abd") && !fits("a***c", "acd"));
    }
}
