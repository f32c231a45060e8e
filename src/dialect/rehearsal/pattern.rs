//! Send templates read backwards: which template could have made a frame, and with which values.
//!
//! A recorded conversation says what was sent, not why. To hold it again, a rehearsal needs the channel, params and data
//! that went into each frame. The patterns are made from the template texts themselves; whether a guess is right is
//! decided by rendering it again and comparing, so a pattern may be generous.
//! Deliberately not here: rendering (`template`), and the order of what is tried.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Stand around a hole's name in a string of the pattern; private use, so no protocol's text has them.
const OPEN: char = '\u{E000}';
const CLOSE: char = '\u{E001}';
/// After [`OPEN`]: the hole is the whole JSON value, not part of a string.
const VALUE: char = '=';

/// The values of a template's holes, by name.
pub(super) type Values = BTreeMap<String, Value>;

/// A template, to be recognised.
#[derive(Debug)]
pub(super) struct Pattern(Value);

impl Pattern {
    /// From a template's text; `None` if it is no JSON (a text template, say).
    pub(super) fn new(template: &str) -> Option<Self> {
        serde_json::from_str(&marked(template)).ok().map(Self)
    }

    /// The values that make `frame`, if this template can make it.
    pub(super) fn values(&self, frame: &Value) -> Option<Values> {
        let mut values = Values::new();
        unify(&self.0, frame, &mut values).then_some(values)
    }
}

/// The template with each hole replaced: inside quotes by its marked name, outside by a string that is nothing else.
fn marked(template: &str) -> String {
    let mut out = String::with_capacity(template.len() + 16);
    let mut quoted = false;
    let mut rest = template;
    while let Some(c) = rest.chars().next() {
        if let Some((hole, after)) = hole(rest) {
            let name = hole.trim_end_matches(['?', '*']);
            // Of several variables the first one stands for whichever had the value.
            let suffix = &hole[name.len()..];
            let name = name.split('|').next().unwrap_or_default();
            let marked =
                if quoted { format!("{OPEN}{name}{CLOSE}") } else { format!("\"{OPEN}{VALUE}{name}{suffix}{CLOSE}\"") };
            out.push_str(&marked);
            rest = after;
            continue;
        }
        let len =
            if quoted && c == '\\' { 1 + rest[1..].chars().next().map_or(0, char::len_utf8) } else { c.len_utf8() };
        quoted ^= c == '"';
        out.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    out
}

/// A hole at the beginning: its name with `?` or `*`, and what follows.
fn hole(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('{')?;
    let (name, after) = inner.split_once('}')?;
    name.starts_with(|c: char| c.is_ascii_alphabetic()).then_some((name, after))
}

/// The hole that a pattern's string is, with `?` or `*`, if it is nothing else.
fn value_hole(text: &str) -> Option<&str> {
    text.strip_prefix([OPEN])?.strip_prefix(VALUE)?.strip_suffix(CLOSE)
}

fn optional(pattern: &Value) -> bool {
    pattern.as_str().and_then(value_hole).is_some_and(|hole| hole.ends_with('?'))
}

fn unify(pattern: &Value, frame: &Value, values: &mut Values) -> bool {
    match (pattern, frame) {
        (Value::String(text), frame) => match (value_hole(text), frame) {
            (Some(hole), frame) => {
                (!hole.ends_with('*') || frame.is_array())
                    && bind(hole.trim_end_matches(['?', '*']), frame.clone(), values)
            }
            (None, Value::String(frame)) => unify_text(text, frame, values),
            (None, _) => false,
        },
        (Value::Array(pattern), Value::Array(frame)) => {
            let left_out = pattern.get(frame.len()..).unwrap_or_default();
            frame.len() <= pattern.len()
                && left_out.iter().all(optional)
                && pattern.iter().zip(frame).all(|(pattern, frame)| unify(pattern, frame, values))
        }
        (Value::Object(pattern), Value::Object(frame)) => unify_object(pattern, frame, values),
        (pattern, frame) => pattern == frame,
    }
}

fn unify_object(pattern: &Map<String, Value>, frame: &Map<String, Value>, values: &mut Values) -> bool {
    for (key, pattern) in pattern.iter().filter(|(key, _)| *key != "*") {
        let fits = match frame.get(key) {
            Some(frame) => unify(pattern, frame, values),
            None => optional(pattern),
        };
        if !fits {
            return false;
        }
    }
    let further = frame.iter().filter(|(key, _)| !pattern.contains_key(*key));
    let further: Map<String, Value> = further.map(|(key, value)| (key.clone(), value.clone())).collect();
    match pattern.get("*") {
        Some(merged) => unify(merged, &Value::Object(further), values),
        None => further.is_empty(),
    }
}

/// A string with holes in it: each takes what stands before the next literal, the last one the rest.
fn unify_text(pattern: &str, frame: &str, values: &mut Values) -> bool {
    let mut pieces = pattern.split(OPEN);
    let Some(mut frame) = pieces.next().and_then(|literal| frame.strip_prefix(literal)) else {
        return false;
    };
    let mut ends_in_hole = false;
    for piece in pieces {
        let Some((name, literal)) = piece.split_once(CLOSE) else { return false };
        let end = if literal.is_empty() { Some(frame.len()) } else { frame.find(literal) };
        let Some(end) = end else { return false };
        // A payload inside quotes is JSON in a string.
        let payload = (name == "data").then(|| serde_json::from_str(&frame[..end]).ok()).flatten();
        if !bind(name, payload.unwrap_or_else(|| Value::from(&frame[..end])), values) {
            return false;
        }
        frame = &frame[end + literal.len()..];
        ends_in_hole = literal.is_empty();
    }
    ends_in_hole || frame.is_empty()
}

/// A hole that stands twice has one value; as text and as number it is the same.
fn bind(name: &str, value: Value, values: &mut Values) -> bool {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match values.get(name) {
        Some(before) => text(before) == text(&value),
        None => values.insert(name.to_owned(), value).is_none(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(template: &str, frame: Value) -> Option<Value> {
        Pattern::new(template).unwrap().values(&frame).map(|values| Value::Object(values.into_iter().collect()))
    }

    #[test]
    fn holes_outside_quotes_are_values() {
        let template = r#"{"m":"sub","p":{channel*},"id":{id}}"#;
        assert_eq!(
            values(template, json!({"id": 1, "m": "sub", "p": ["a"]})),
            Some(json!({"id": 1, "channel": ["a"]}))
        );
        assert_eq!(values(template, json!({"id": 1, "m": "sub", "p": "a"})), None, "a list hole wants a list");
        assert_eq!(values(template, json!({"id": 1, "m": "unsub", "p": []})), None);
        assert_eq!(values(template, json!({"id": 1, "m": "sub", "p": [], "x": 0})), None, "a member too many");
    }

    #[test]
    fn holes_inside_quotes_are_text() {
        let template = r#"{"event":"client-{type}","id":"{id}/{n}!","s":"say \"{x}\""}"#;
        let frame = json!({"event": "client-a-b", "id": "1/2/3!", "s": "say \"\""});
        assert_eq!(values(template, frame), Some(json!({"type": "a-b", "id": "1", "n": "2/3", "x": ""})));
        assert_eq!(values(template, json!({"event": "x", "id": "1/2!", "s": "say \"\""})), None);
    }

    #[test]
    fn optional_members_may_be_missing_and_merged_objects_take_the_rest() {
        let template = r#"{"t":{token?},"params":{"c":{channel},"*":{params}},"q":[{a},{b?}]}"#;
        let frame = json!({"params": {"c": "x", "depth": 10}, "q": [1]});
        assert_eq!(values(template, frame), Some(json!({"channel": "x", "params": {"depth": 10}, "a": 1})));
        assert_eq!(values(template, json!({"params": {"depth": 10}, "q": [1]})), None);
    }

    #[test]
    fn a_hole_that_stands_twice_has_one_value() {
        let template = r#"["{id}",{id},{channel}]"#;
        assert!(values(template, json!(["1", 1, "x"])).is_some());
        assert!(values(template, json!(["1", 2, "x"])).is_none());
    }

    #[test]
    fn an_object_that_begins_like_a_hole_is_none() {
        assert_eq!(values(r#"{"a":{ "b":1},"c":{"d":{}}}"#, json!({"a": {"b": 1}, "c": {"d": {}}})), Some(json!({})));
        assert!(Pattern::new("plain text {x}").is_none());
    }
}
