//! The other side of a dialect: what a service would answer, made of the dialect's own templates and rules.
//!
//! Templates read backwards tell what a client said; rules read backwards tell how an answer looks: their conditions are
//! met, and what they take out is put in. That a real service speaks so is the dialect's claim, not checked here.
//! Invariant: nothing is said that no rule of the dialect asks for. Deliberately not here: framings whose services greet in
//! a way of their own (Socket.IO), and everything that a rule does not show (limits, errors in odd moments).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Pattern, Rehearsal, Send, TRIED, Values, request_id};
use crate::dialect::{LoadError, WireFrame};

/// Subscriptions of one client.
const SUBSCRIPTIONS_MAX: usize = 10_000;
/// An interval that the service names, in seconds.
const INTERVAL_S: u64 = 25;

/// A dialect, ready to be spoken from the other side.
#[derive(Debug)]
pub struct Mimic {
    rehearsal: Rehearsal,
    rules: Vec<toml::Table>,
    /// Templates that a service need not answer.
    quiet: Vec<Pattern>,
    /// The subscription id that a subscribe gives itself.
    given: Option<String>,
    subscribes: bool,
    ndjson: bool,
    records: bool,
}

/// What a client has subscribed, by name and subscription id.
#[derive(Debug, Default)]
pub struct Side {
    subscriptions: BTreeMap<String, Value>,
    next_subscription: u64,
    events: u64,
}

/// What a frame of the client led to.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// To be sent back.
    pub frames: Vec<WireFrame>,
    /// Whether some template makes such a frame.
    pub understood: bool,
}

/// What goes into a message that a rule would take out of it.
type Parts = BTreeMap<&'static str, Value>;

impl Mimic {
    /// Of the dialect of this text; `origin` names it in errors. All errors at once. The inner error: what of it cannot be
    /// spoken from the other side.
    pub fn new(origin: &str, text: &str) -> Result<Result<Self, &'static str>, Vec<LoadError>> {
        let rehearsal = Rehearsal::new(origin, text)?;
        if rehearsal.dialect.framing.greets() {
            return Ok(Err("its framing greets in a way of its own"));
        }
        if !rehearsal.dialect.connect.websocket {
            return Ok(Err("it has no WebSocket"));
        }
        // What a dialect was loaded from is TOML.
        let file: toml::Table = text.parse().unwrap_or_default();
        let rules = file.get("on").and_then(toml::Value::as_array).into_iter().flatten();
        let rules = rules.filter_map(|rule| rule.as_table().cloned()).collect();
        let send = file.get("send").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        let quiet = ["pong", "receipt"].into_iter().filter_map(|key| Pattern::new(send.get(key)?.as_str()?)).collect();
        let bind = send.get("subscribe").and_then(|subscribe| subscribe.get("bind"));
        let given = bind.and_then(|bind| bind.as_str()).map(str::to_owned);
        let kind = file.get("frame").and_then(|frame| frame.get("kind")).and_then(toml::Value::as_str);
        let (ndjson, records) = (kind == Some("ndjson"), kind == Some("rs"));
        let subscribes = send.contains_key("subscribe");
        Ok(Ok(Mimic { rehearsal, rules, quiet, given, subscribes, ndjson, records }))
    }

    /// The calls without which nobody connects; they are not answered here.
    pub fn calls(&self) -> impl Iterator<Item = &str> {
        self.rehearsal.dialect.calls_to_connect()
    }

    /// What the service says first.
    pub fn greeting(&self, side: &mut Side) -> Vec<WireFrame> {
        if !self.subscribes {
            side.subscriptions.insert("mock".to_owned(), Value::Null);
        }
        let hello = self.of_class("hello").find_map(|rule| make(rule, &Parts::new()));
        // Where nothing has to be said first, a service that gets no credentials is ready.
        let silent = hello.is_none() && !self.has(Send::Auth);
        let ready = || self.of_class("ready").find_map(|rule| make(rule, &Parts::new()));
        hello.or_else(|| silent.then(ready).flatten()).map(|message| self.frame(&message)).into_iter().collect()
    }

    /// What the service says to a frame of the client.
    pub fn hear(&self, side: &mut Side, frame: &WireFrame, now_ms: u64) -> Reply {
        let Some(said) = self.rehearsal.said(frame, &[]) else { return self.puzzled() };
        let tried = [Send::Auth, Send::Resume].into_iter().chain(TRIED);
        for send in tried {
            if let Some(values) = self.rehearsal.values(send, &said, None) {
                let messages = self.answers(side, send, &values, now_ms);
                return Reply {
                    frames: messages.iter().map(|message| self.frame(message)).collect(),
                    understood: true,
                };
            }
        }
        if self.quiet.iter().any(|pattern| pattern.values(&said.value).is_some()) {
            return Reply { frames: Vec::new(), understood: true };
        }
        self.puzzled()
    }

    /// One event for every subscription.
    pub fn events(&self, side: &mut Side, now_ms: u64) -> Vec<WireFrame> {
        side.events += 1;
        let data = json!({"n": side.events, "at": now_ms});
        let all = side.subscriptions.iter();
        all.filter_map(|(name, sub)| self.event(name, sub, &data, side.events, now_ms))
            .map(|message| self.frame(&message))
            .collect()
    }

    fn event(&self, name: &str, sub: &Value, data: &Value, number: u64, now_ms: u64) -> Option<Value> {
        let mut parts = Parts::from([
            ("channel", json!(name)),
            ("data", data.clone()),
            ("seq", json!(number)),
            ("ts", json!(now_ms)),
            ("id", json!(format!("mock-{number}"))),
            ("type", json!("mock")),
            ("key", json!("mock")),
        ]);
        if !sub.is_null() {
            parts.insert("sub", sub.clone());
        }
        self.of_class("event").chain(self.of_class("snapshot")).find_map(|rule| make(rule, &parts))
    }

    fn answers(&self, side: &mut Side, send: Send, values: &Values, now_ms: u64) -> Vec<Value> {
        let id = values.get("id").cloned();
        let parts = |more: &[(&'static str, Value)]| {
            let mut parts: Parts = more.iter().cloned().collect();
            if let Some(id) = &id {
                parts.insert("req", id.clone());
            }
            parts
        };
        let one = |message: Option<Value>| message.into_iter().collect();
        match send {
            Send::Auth | Send::Resume => {
                let ready = self.of_class("ready").find_map(|rule| make(rule, &parts(&[])));
                one(ready.or_else(|| self.ack(side, "auth", &parts(&[]))))
            }
            Send::Renew => one(self.ack(side, "auth", &parts(&[]))),
            Send::Audit => one(self.of_class("subscriptions").find_map(|rule| Self::list(side, rule, &parts(&[])))),
            Send::State => one(self.ack(side, "state", &parts(&[]))),
            Send::Ping => one(self.of_class("pong").find_map(|rule| make(rule, &parts(&[])))),
            Send::Publish => {
                let ack =
                    self.ack(side, "publish", &parts(&[("data", values.get("data").cloned().unwrap_or_default())]));
                let echo = || {
                    let channel = self.rehearsal.names(values)?.into_iter().next()?;
                    let sub = side.subscriptions.get(&channel)?;
                    self.event(&channel, sub, values.get("data")?, request_id(values).unwrap_or(0), now_ms)
                };
                one(ack.or_else(echo))
            }
            Send::Subscribe | Send::Resubscribe => {
                let names = self.rehearsal.names(values).unwrap_or_else(|| vec!["mock".to_owned()]);
                let mut out: Vec<Value> = Vec::new();
                for name in names {
                    if side.subscriptions.len() >= SUBSCRIPTIONS_MAX {
                        break;
                    }
                    side.next_subscription += 1;
                    let sub = self.own_id(values).unwrap_or_else(|| json!(1_000 + side.next_subscription));
                    let parts = parts(&[("channel", json!(name)), ("sub", sub.clone()), ("bind", sub.clone())]);
                    side.subscriptions.insert(name, sub);
                    out.extend(self.ack(side, "subscribe", &parts).filter(|ack| !out.contains(ack)));
                }
                out
            }
            Send::Unsubscribe => {
                let names = self.rehearsal.names(values).unwrap_or_default();
                let sub = values.get("sub").cloned().unwrap_or_default();
                let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                side.subscriptions
                    .retain(|name, known| !names.contains(name) && (sub.is_null() || text(known) != text(&sub)));
                let channel = names.first().map(|name| ("channel", json!(name)));
                one(self.ack(side, "unsubscribe", &parts(&channel.into_iter().collect::<Vec<_>>())))
            }
        }
    }

    /// What a rule that is `subscriptions` reads: all that is subscribed.
    fn list(side: &Side, rule: &toml::Table, parts: &Parts) -> Option<Value> {
        let text = |key: &str| rule.get("each")?.get(key)?.as_str();
        let (at, channel, list) = (text("at")?, text("channel")?, text("list"));
        // What stands between the element's part of the name and those of its list.
        let separator = channel.rsplit('}').next()?;
        let element = |name: &String| {
            let mut element = Value::Null;
            let (begin, rest) = match list {
                Some(_) => name.split_at(name.find(separator)? + separator.len()),
                None => (&**name, ""),
            };
            match channel {
                "" => element = json!(begin),
                channel => fill(&mut element, channel, &json!(begin), &BTreeMap::new())?,
            }
            if let Some(list) = list {
                put(&mut element, list, json!([rest]))?;
            }
            Some(element)
        };
        let names: Option<Vec<Value>> = side.subscriptions.keys().map(element).collect();
        let mut message = make(rule, parts)?;
        put(&mut message, at, json!(names?))?;
        Some(message)
    }

    /// The subscription id that the subscribe gave itself.
    fn own_id(&self, values: &Values) -> Option<Value> {
        if let Some(sub) = values.get("sub") {
            return Some(sub.clone());
        }
        let mut text = self.given.clone()?;
        for (name, value) in values {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text = text.replace(&format!("{{{name}}}"), &value);
        }
        // The client reads numbers and texts alike.
        Some(text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number)))
    }

    /// The answer that grants a request of this kind, by the rule that speaks most of it.
    fn ack(&self, side: &Side, op: &str, parts: &Parts) -> Option<Value> {
        let of = |rule: &toml::Table| match rule.get("of") {
            Some(toml::Value::String(one)) => one == op,
            Some(toml::Value::Array(list)) => list.iter().any(|one| one.as_str() == Some(op)),
            _ => {
                (parts.contains_key("req") && rule.contains_key("req"))
                    || (op == "subscribe" && (rule.contains_key("channel") || rule.contains_key("sub")))
            }
        };
        let acks = self.of_class("ack").filter(|rule| of(rule)).filter_map(|rule| Some((rule, make(rule, parts)?)));
        let lists = self.of_class("subscriptions").filter(|rule| rule.contains_key("of") && of(rule));
        let made = acks.chain(lists.filter_map(|rule| Some((rule, Self::list(side, rule, parts)?))));
        let words = |rule: &toml::Table| rule.get("match").map(ToString::to_string).unwrap_or_default();
        let other = |words: &str| ["subscribe", "refresh", "publish"].iter().any(|word| words.contains(word));
        made.min_by_key(|(rule, _)| {
            let words = words(rule);
            if words.contains(op) { 0 } else { 1 + usize::from(other(&words)) }
        })
        .map(|(_, message)| message)
    }

    fn puzzled(&self) -> Reply {
        let words = Parts::from([("message", json!("not understood")), ("code", json!("mock"))]);
        let error = self.of_class("error").filter(|rule| !rule.contains_key("req")).find_map(|rule| make(rule, &words));
        Reply { frames: error.iter().map(|message| self.frame(message)).collect(), understood: false }
    }

    fn has(&self, send: Send) -> bool {
        self.rehearsal.patterns.iter().any(|(known, _)| *known == send)
    }

    fn of_class<'a>(&'a self, class: &'static str) -> impl Iterator<Item = &'a toml::Table> {
        self.rules.iter().filter(move |rule| rule.get("is").and_then(toml::Value::as_str) == Some(class))
    }

    fn frame(&self, message: &Value) -> WireFrame {
        let mut text = message.to_string();
        if self.ndjson {
            text.push('\n');
        } else if self.records {
            text.push('\u{1e}');
        }
        WireFrame::Text(text.into())
    }
}

/// A message that meets a rule's conditions and holds these parts where the rule takes them out; `None`: it cannot be made,
/// or the rule wants a part that there is not.
fn make(rule: &toml::Table, parts: &Parts) -> Option<Value> {
    let mut message = Value::Null;
    let decoded = rule.get("decode").and_then(toml::Value::as_str) == Some("json");
    let value_of = |key: &'static str| Some((key, rule.get(key)?, parts.get(key)?));
    // What holds others comes first, so that they stand inside of it.
    if let Some((_, at, value)) = value_of("data")
        && let Some(at) = at.as_str().filter(|at| at.starts_with('/'))
    {
        let text = || Value::String(value.to_string());
        put(&mut message, at, if decoded { text() } else { value.clone() })?;
    }
    let conditions = rule.get("match").and_then(toml::Value::as_table);
    let mut fixed: BTreeMap<&str, Value> = BTreeMap::new();
    for (at, condition) in conditions.into_iter().flatten() {
        match example(condition)? {
            Example::Is(value) => {
                put(&mut message, at, value.clone())?;
                fixed.insert(at, value);
            }
            Example::Exists if look(&message, at).is_none() => put(&mut message, at, json!({}))?,
            Example::Exists | Example::Any => {}
        }
    }
    // The elements of a list of subscriptions are filled in by whoever knows them.
    let listed = rule.get("is").and_then(toml::Value::as_str) == Some("subscriptions");
    if let Some(each) = rule.get("each").and_then(toml::Value::as_table)
        && each.contains_key("channel")
        && !listed
    {
        let element = make(each, parts)?;
        put(&mut message, each.get("at")?.as_str()?, Value::Array(vec![element]))?;
    }
    for key in ["channel", "sub", "key", "type", "id", "seq", "ts", "req", "bind", "code", "message"] {
        let Some(at) = rule.get(key) else { continue };
        let needed = matches!(key, "channel" | "sub" | "req" | "bind");
        let Some(value) = parts.get(key) else {
            if needed && key != "channel" {
                return None;
            }
            continue;
        };
        match at {
            // What may be left out does not replace what stands there for something else.
            toml::Value::String(at) if !needed && look(&message, at).is_some_and(|known| *known != json!({})) => {}
            toml::Value::String(at) => {
                fill(&mut message, at, value, &fixed).or(if needed { None } else { Some(()) })?
            }
            toml::Value::Array(both) => {
                both.iter().filter_map(toml::Value::as_str).try_for_each(|at| put(&mut message, at, value.clone()))?;
            }
            _ => return None,
        }
    }
    for (name, at) in rule.get("set").and_then(toml::Value::as_table).into_iter().flatten() {
        let Some(at) = at.as_str().filter(|at| at.starts_with('/') && !at.contains(['{', '#'])) else { continue };
        if look(&message, at).is_none_or(|known| *known == json!({})) {
            let interval = name.ends_with("_s").then_some(INTERVAL_S);
            let interval = interval.or_else(|| name.ends_with("_ms").then_some(INTERVAL_S * 1_000));
            put(&mut message, at, interval.map_or_else(|| json!("mock"), |interval| json!(interval)))?;
        }
    }
    Some(if message.is_null() { json!({}) } else { message })
}

/// What meets a condition.
enum Example {
    Is(Value),
    Exists,
    Any,
}

fn example(condition: &toml::Value) -> Option<Example> {
    let scalar = |value: &toml::Value| serde_json::to_value(value).ok();
    Some(match condition {
        // A variable's value is not known here.
        toml::Value::String(text) if text.starts_with('{') && text.ends_with('}') => return None,
        toml::Value::Array(any) => Example::Is(scalar(any.first()?)?),
        toml::Value::Table(table) => {
            let word = |key: &str| table.get(key).and_then(toml::Value::as_str);
            match (word("type"), word("prefix"), table.get("exists")) {
                (Some("null"), ..) => Example::Is(Value::Null),
                (Some("bool"), ..) => Example::Is(json!(true)),
                (Some("number"), ..) => Example::Is(json!(1)),
                (Some("string"), ..) => Example::Is(json!("mock")),
                (Some("array"), ..) => Example::Is(json!([])),
                (Some("object" | "empty"), ..) => Example::Is(json!({})),
                (_, Some(prefix), _) => Example::Is(json!(prefix)),
                (.., Some(toml::Value::Boolean(true))) => Example::Exists,
                _ => Example::Any,
            }
        }
        value => Example::Is(scalar(value)?),
    })
}

/// Puts a value where a rule's value takes it from: a pointer, or a text with pointers in holes.
fn fill(message: &mut Value, at: &str, value: &Value, fixed: &BTreeMap<&str, Value>) -> Option<()> {
    if at.starts_with('/') {
        return match fixed.get(at) {
            // Ids are told apart by nothing but their text.
            Some(known) if !known.is_number() || !value.is_number() => (known == value).then_some(()),
            _ => put(message, at, value.clone()),
        };
    }
    if at.starts_with("{connect.") && at.ends_with('}') {
        // The client's own configuration says it.
        return Some(());
    }
    let mut rest = value.as_str()?.to_owned();
    let mut pieces = at.split('{');
    rest = rest.strip_prefix(pieces.next()?)?.to_owned();
    for piece in pieces {
        let (pointer, literal) = piece.split_once('}')?;
        let end = if literal.is_empty() { rest.len() } else { rest.find(literal)? };
        let part = json!(rest.get(..end)?);
        if !pointer.starts_with('/') {
            return None;
        }
        match fixed.get(pointer) {
            Some(known) if *known != part => return None,
            _ => put(message, pointer, part)?,
        }
        rest = rest.get(end + literal.len()..)?.to_owned();
    }
    rest.is_empty().then_some(())
}

fn look<'a>(message: &'a Value, at: &str) -> Option<&'a Value> {
    message.pointer(at)
}

/// Sets the value at a JSON Pointer; arrays and objects on the way come to be. `None`: something else is in the way.
fn put(message: &mut Value, at: &str, value: Value) -> Option<()> {
    if at.contains('#') {
        return None;
    }
    let mut here = message;
    for token in at.split('/').skip(1) {
        let name = token.replace("~1", "/").replace("~0", "~");
        if here.is_null() {
            *here = if name.parse::<usize>().is_ok() { json!([]) } else { json!({}) };
        }
        here = match here {
            Value::Array(list) => {
                let index: usize = name.parse().ok().filter(|index| *index < 64)?;
                while list.len() <= index {
                    list.push(Value::Null);
                }
                &mut list[index]
            }
            Value::Object(map) => map.entry(name).or_insert(Value::Null),
            _ => return None,
        };
    }
    *here = value;
    Some(())
}

#[cfg(test)]
#[path = "mimic_tests.rs"]
mod tests;
