//! What changed from one value to the next, as a JSON merge patch (RFC 7396).
//!
//! Invariants: the patch, applied to the old value, gives the new one; what it sets are the new payload's own bytes. Where a
//! patch cannot say it (no objects, a member that is null) or would not be shorter, there is none.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::frame::push_json_string;
use super::request::fields::Fields;

/// How deep objects are looked into; a deeper payload has no patch.
const DEPTH: usize = 32;

/// The patch that nothing has changed.
pub const UNCHANGED: &[u8] = b"{}";

/// The patch from `old` to `new`, if there is one.
pub fn patch(old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let (old, new) = (std::str::from_utf8(old).ok()?, std::str::from_utf8(new).ok()?);
    if holds_null(new, DEPTH)? {
        return None;
    }
    let patch = diff(old, new)?;
    (patch.len() < new.len()).then_some(patch)
}

fn members(object: &str) -> Option<Vec<(String, &RawValue)>> {
    Fields::read(object).ok().map(Fields::into_list)
}

/// Whether a member is null, where a patch would mean its removal; `None`: no object, or too deep to tell.
fn holds_null(object: &str, depth: usize) -> Option<bool> {
    let depth = depth.checked_sub(1)?;
    for (_, value) in members(object)? {
        if value.get() == "null" || value.get().starts_with('{') && holds_null(value.get(), depth)? {
            return Some(true);
        }
    }
    Some(false)
}

fn diff(old: &str, new: &str) -> Option<Vec<u8>> {
    let (old, new) = (members(old)?, members(new)?);
    let mut before: BTreeMap<&str, &RawValue> = old.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let mut out = vec![b'{'];
    for (name, value) in &new {
        let nested;
        let change = match before.remove(name.as_str()) {
            Some(old) if old.get() == value.get() => continue,
            Some(old) if old.get().starts_with('{') && value.get().starts_with('{') => {
                nested = diff(old.get(), value.get())?;
                &nested
            }
            _ => value.get().as_bytes(),
        };
        push_member(&mut out, name, change);
    }
    for name in before.into_keys() {
        push_member(&mut out, name, b"null");
    }
    out.push(b'}');
    Some(out)
}

fn push_member(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    if out.len() > 1 {
        out.push(b',');
    }
    push_json_string(out, name);
    out.push(b':');
    out.extend_from_slice(value);
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// RFC 7396, section 2.
    pub(crate) fn merge(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else { return *target = patch.clone() };
        if !target.is_object() {
            *target = Value::Object(serde_json::Map::new());
        }
        let Value::Object(members) = target else { return };
        for (name, value) in patch {
            if value.is_null() {
                members.remove(name);
            } else {
                merge(members.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
    }

    fn patched(old: &str, new: &str) -> Option<String> {
        patch(old.as_bytes(), new.as_bytes()).map(|patch| String::from_utf8(patch).unwrap())
    }

    #[test]
    fn a_patch_holds_what_changed_in_the_bytes_of_the_new_value() {
        let old = r#"{"p":97000.10,"q":"a word that stays","s":{"a":1,"b":2},"gone":true}"#;
        let new = r#"{"p":97000.20,"q":"a word that stays","s":{"a":1,"b":[null, 3.0]}}"#;
        assert_eq!(patched(old, new).unwrap(), r#"{"p":97000.20,"s":{"b":[null, 3.0]},"gone":null}"#);
        assert_eq!(patched(old, old).unwrap().as_bytes(), UNCHANGED);
    }

    #[test]
    fn what_a_patch_cannot_say_has_none() {
        let deep = format!("{}1{}", r#"{"a":"#.repeat(40), "}".repeat(40));
        for (old, new) in [
            ("{}", "[1,2,3]"),
            ("1", r#"{"a":1}"#),
            (r#"{"a":1,"b":1}"#, r#"{"a":1,"b":null}"#),
            (r#"{"a":1}"#, r#"{"a":{"b":{"c":null}}}"#),
            (r#"{"a":1}"#, r#"{"b":1}"#),
            (r#"{"a":1,"a":2,"long":1}"#, r#"{"a":1,"long":1}"#),
            (&deep, &deep),
        ] {
            assert_eq!(patched(old, new), None, "{old} -> {new}");
        }
    }

    /// Objects that have members in common.
    pub(crate) fn object() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), (0..3_u8).prop_map(Value::from), "[xy]".prop_map(Value::from)];
        let value = leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::hash_map("[abc]", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        prop::collection::btree_map("[abcdefgh]", value, 0..8).prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn a_patch_makes_the_new_value_of_the_old_one(old in object(), new in object()) {
            if let Some(patch) = patched(&old.to_string(), &new.to_string()) {
                let mut value = old;
                merge(&mut value, &serde_json::from_str(&patch).unwrap());
                prop_assert_eq!(value, new);
            }
        }
    }
}
