//! Whether a client says what a transcript says, request ids and redacted values apart; and answers with the client's ids.
//!
//! A client counts its requests by itself, and a transcript holds no secrets. So two messages are alike if they are equal but
//! for numbers (also in strings) and for what was redacted. Where a number differs, answers that hold the recorded one under
//! the same name get the client's. Deliberately not here: any dialect; this must work before there is one.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::dialect::rehearsal::fits;
use crate::relay::redact::{HIDDEN, redacted};

/// Recorded numbers and what the client says in their place, by the member's name (empty in arrays).
pub type Renamed = BTreeMap<(String, String), Value>;

/// Whether `said` is what was recorded; the numbers that differ go into `renamed`.
pub fn alike(recorded: &str, said: &str, renamed: &mut Renamed) -> bool {
    if recorded == said {
        return true;
    }
    // What a recording would hide need not be the same, whether it was hidden or not.
    let (recorded, said) = (&*redacted(recorded), &*redacted(said));
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    let (Some(recorded), Some(said)) = (parse(recorded), parse(said)) else {
        return recorded.contains(HIDDEN) && fits(recorded, said);
    };
    let mut found = Renamed::new();
    let same = values("", &recorded, &said, &mut found);
    if same {
        renamed.extend(found);
    }
    same
}

fn values(name: &str, recorded: &Value, said: &Value, found: &mut Renamed) -> bool {
    match (recorded, said) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| values("", a, b, found))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| values(name, a, b, found)))
        }
        (a, b) if a == b => true,
        (Value::String(a), Value::String(b)) if a.contains(HIDDEN) => fits(a, b),
        (a, b) if is_number(a) && is_number(b) => {
            found.insert((name.to_owned(), a.to_string()), b.clone());
            true
        }
        _ => false,
    }
}

/// A number, or a text of digits.
fn is_number(value: &Value) -> bool {
    value.is_number()
        || value.as_str().is_some_and(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A recorded answer with the client's numbers in it; as it is where it holds none of them, or is no JSON.
pub fn answer(recorded: &str, renamed: &Renamed) -> String {
    if renamed.is_empty() {
        return recorded.to_owned();
    }
    let Ok(mut value) = serde_json::from_str::<Value>(recorded) else { return recorded.to_owned() };
    if replace("", &mut value, renamed) { value.to_string() } else { recorded.to_owned() }
}

fn replace(name: &str, value: &mut Value, renamed: &Renamed) -> bool {
    match value {
        Value::Array(list) => list.iter_mut().fold(false, |any, value| replace("", value, renamed) | any),
        Value::Object(map) => map.iter_mut().fold(false, |any, (name, value)| replace(name, value, renamed) | any),
        Value::Number(_) | Value::String(_) => {
            match renamed.get(&(name.to_owned(), value.to_string())) {
                Some(new) => *value = new.clone(),
                None => return false,
            }
            true
        }
        Value::Null | Value::Bool(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(recorded: &str, said: &str) -> Option<Renamed> {
        let mut renamed = Renamed::new();
        alike(recorded, said, &mut renamed).then_some(renamed)
    }

    #[test]
    fn ids_may_differ_and_nothing_else() {
        let recorded = r#"{"op":"subscribe","id":1,"channel":"a"}"#;
        let renamed = told(recorded, r#"{"channel":"a","id":7,"op":"subscribe"}"#).unwrap();
        assert_eq!(answer(r#"{"id":1,"n":1,"ok":true}"#, &renamed), r#"{"id":7,"n":1,"ok":true}"#);
        assert_eq!(answer(r#"{"ok":true,"id":2}"#, &renamed), r#"{"ok":true,"id":2}"#);
        assert_eq!(told(recorded, r#"{"op":"subscribe","id":1,"channel":"b"}"#), None);
        assert_eq!(told(recorded, r#"{"op":"subscribe","id":1}"#), None);
        assert_eq!(told(recorded, r#"{"op":"subscribe","id":1,"channel":"a","x":0}"#), None);
        assert!(told(r#"["3","3","room","join",{}]"#, r#"["5","5","room","join",{}]"#).is_some());
        assert_eq!(told("ping", "pong"), None);
    }

    #[test]
    fn what_was_redacted_may_be_anything() {
        assert!(told(r#"{"token":"***"}"#, r#"{"token":"abc"}"#).is_some());
        assert!(told(r#"{"token":"theirs"}"#, r#"{"token":"ours"}"#).is_some());
        assert!(told(r#"{"a":"Bearer ***!"}"#, r#"{"a":"Bearer xyz!"}"#).is_some());
        assert_eq!(told(r#"{"a":"Bearer ***"}"#, r#"{"a":"Basic x"}"#), None);
        assert!(told("hello ***", "hello you").is_some());
    }

    #[test]
    fn a_message_that_is_not_alike_renames_nothing() {
        let mut renamed = Renamed::new();
        assert!(!alike(r#"{"id":1,"x":"a"}"#, r#"{"id":2,"x":"b"}"#, &mut renamed));
        assert!(renamed.is_empty());
    }
}
