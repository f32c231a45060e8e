//! Dead letters, published again with other members.

use super::*;

/// A house with one dead letter, and its id.
fn with_letter() -> (House, String) {
    let mut house = House::new("plain");
    let once =
        Publish { on_unknown: Some(OnUnknown::DeadLetter), order_key: Some("k".into()), ..message("orders", "1") };
    let call = house.call(CallRequest::Publish { messages: vec![once], atomic: false, wait: Duration::ZERO });
    let id = house.answer(call).unwrap().1["message"].as_str().unwrap().to_owned();
    house.cut();
    (house, id)
}

#[test]
fn an_edit_that_would_be_passed_over_is_refused_with_its_cure() {
    let (mut house, id) = with_letter();
    for (edit, words) in [
        (r#"{"volatile":true}"#, "leave `volatile` out"),
        (r#"{"volatile":true,"on_unknown":null,"order_key":null}"#, "leave `volatile` out"),
        (r#"{"on_unknown":null}"#, "`on_unknown` is `retry` or `dead_letter`: leave it out"),
        (r#"{"optimistic":{"value":1}}"#, "leave `optimistic` out"),
        (r#"{"idempotency_key":"k"}"#, "leave `idempotency_key` out"),
        (r#"{"op":"publish"}"#, "leave them out"),
        (r#"{"ref":1}"#, "leave them out"),
        (r#"{"volatile":false}"#, "leave `volatile` out"),
        (r#"{"data":1,"data":2}"#, "give the field `data` once"),
        (r#"{"dta":1}"#, "no field `dta`: correct its name"),
        (" ", "cannot be read"),
    ] {
        let call = house.call(CallRequest::Redrive { id: Some(id.as_str().into()), edit: edit.into() });
        let (status, body) = house.answer(call).unwrap();
        assert_eq!(status, Err(ErrorCode::Invalid), "{edit}");
        assert!(body.as_str().is_some_and(|said| said.contains(words)), "{edit}: {body}");
    }
    let edit = r#"{"data":2,"on_unknown":"retry","ttl":null}"#;
    let call = house.call(CallRequest::Redrive { id: None, edit: edit.into() });
    assert_eq!(house.answer(call).unwrap().0, Err(ErrorCode::Invalid), "of all of them");
    let call = house.call(CallRequest::Redrive { id: Some(id.as_str().into()), edit: edit.into() });
    assert_eq!(house.answer(call).unwrap().0, Ok(202), "an edit that says something");
    assert_eq!(house.disk.messages.last().map(|message| message.on_unknown), Some(OnUnknown::Retry));
}
