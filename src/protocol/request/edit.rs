//! An edit of a dead letter: members of its publish request that are others when it is published again.
//!
//! Invariant: every member of an edit counts. One that would be passed over is refused, with its name and its cure.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::fields::Fields;

/// The publish request with the members that the edit names; payload bytes stay as they are. An empty edit names none.
///
/// # Errors
/// Words for the operator: what is wrong with the edit.
pub fn edited(publish: &str, edit: &str) -> Result<String, String> {
    if edit.is_empty() {
        return Ok(publish.to_owned());
    }
    let edit = Fields::read(edit).map_err(|error| format!("the edit cannot be read: {error}"))?.into_list();
    if let Some(words) = edit.iter().find_map(|(name, value)| meaningless(name, value.get())) {
        return Err(format!("the edit: {words}"));
    }
    let mut members: BTreeMap<String, &RawValue> = Fields::read(publish)?.into_list().into_iter().collect();
    members.extend(edit);
    serde_json::to_string(&members).map_err(|error| error.to_string())
}

/// Whether an edit changes nothing, so that it may stand where none is possible.
pub fn is_nothing(edit: &str) -> bool {
    edit.is_empty() || Fields::read(edit).is_ok_and(|fields| fields.left().is_none())
}

/// Why a member that a publish request may have has no meaning in an edit.
fn meaningless(name: &str, value: &str) -> Option<&'static str> {
    match name {
        "op" | "ref" => Some("`op` and `ref` are of a session's request, and no part of a message: leave them out"),
        "messages" | "atomic" => {
            Some("it is about one message, and `messages` and `atomic` are about several: leave them out")
        }
        "idempotency_key" => Some("a dead letter is published again without one: leave `idempotency_key` out"),
        "volatile" => Some("what is published again is stored until it has ended: leave `volatile` out"),
        "optimistic" => Some("a dead letter is published again without a provisional value: leave `optimistic` out"),
        "on_unknown" if value == "null" => {
            Some("`on_unknown` is `retry` or `dead_letter`: leave it out, and it stays what it was")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISH: &str = r#"{"channel":"orders","data":{"p": 1.10},"ttl":"30s","on_unknown":"retry"}"#;

    #[test]
    fn members_are_replaced_and_payload_bytes_stay() {
        assert_eq!(edited(PUBLISH, "").unwrap(), PUBLISH);
        let other = edited(PUBLISH, r#" {"ttl":null,"key":"k"} "#).unwrap();
        assert_eq!(other, r#"{"channel":"orders","data":{"p": 1.10},"key":"k","on_unknown":"retry","ttl":null}"#);
        assert!(edited(PUBLISH, r#"{"data":[ 1e2 ]}"#).unwrap().contains(r#""data":[ 1e2 ]"#));
    }

    #[test]
    fn what_would_be_passed_over_is_refused_with_its_name_and_its_cure() {
        for (edit, words) in [
            (r#"{"op":"publish"}"#, "`op` and `ref` are of a session's request"),
            (r#"{"ref":1}"#, "leave them out"),
            (r#"{"messages":[]}"#, "leave them out"),
            (r#"{"atomic":false}"#, "leave them out"),
            (r#"{"volatile":false}"#, "leave `volatile` out"),
            (r#"{"volatile":null}"#, "leave `volatile` out"),
            (r#"{"data":2,"idempotency_key":null}"#, "leave `idempotency_key` out"),
            (r#"{"optimistic":{"value":1}}"#, "leave `optimistic` out"),
            (r#"{"on_unknown":null}"#, "leave it out, and it stays what it was"),
            (r#"{"data":1,"data":2}"#, "give the field `data` once, it stands twice"),
            (r#"{"data":1,"d\u0061ta":1}"#, "give the field `data` once"),
            (" ", "the edit cannot be read"),
            ("[]", "expected a JSON object"),
        ] {
            let said = edited(PUBLISH, edit).unwrap_err();
            assert!(said.contains(words), "{edit}: {said}");
        }
    }

    #[test]
    fn only_what_names_no_member_is_nothing() {
        assert!(is_nothing("") && is_nothing("{}") && is_nothing(" { } "));
        assert!(!is_nothing(" ") && !is_nothing(r#"{"data":1}"#) && !is_nothing("[]"));
    }
}
