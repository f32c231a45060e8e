//! Dead letters, listed, and published again with other members.

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

/// The pages of all dead letters from the beginning.
fn pages(house: &mut House) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let call = house.call(CallRequest::DeadLetters { after });
        let (status, body) = house.answer(call).unwrap();
        assert_eq!(status, Ok(200), "{body}");
        let ids =
            body["dead_letters"].as_array().unwrap().iter().map(|one| one["message"].as_str().unwrap().to_owned());
        pages.push(ids.collect());
        let Some(next) = body["next"].as_str() else { return pages };
        after = Some(next.into());
    }
}

#[test]
fn they_are_listed_a_page_at_a_time_to_the_end() {
    let mut house = House::with("plain", |config| config.outbox.window = 1_000);
    let once = Publish { on_unknown: Some(OnUnknown::DeadLetter), ..message("orders", "1") };
    let call = house.call(CallRequest::Publish { messages: vec![once; 201], atomic: true, wait: Duration::ZERO });
    let accepted = house.answer(call).unwrap().1;
    let ids = accepted["messages"].as_array().unwrap().iter().map(|one| one["message"].as_str().unwrap().to_owned());
    let mut ids: Vec<String> = ids.collect();
    house.cut();
    let listed = pages(&mut house);
    assert_eq!(listed.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 1]);
    assert_eq!(listed.concat(), ids, "each once");

    let gone = ids.remove(150);
    house.call(CallRequest::Purge(Some(gone.as_str().into())));
    let listed = pages(&mut house);
    assert_eq!(listed.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100], "no empty page behind a full one");
    assert_eq!(listed.concat(), ids);
    let mut after = |after: &str| {
        let call = house.call(CallRequest::DeadLetters { after: Some(after.into()) });
        house.answer(call).unwrap()
    };
    assert_eq!(after("x").0, Err(ErrorCode::Invalid));
    assert_eq!(after(&gone).0, Err(ErrorCode::NotFound), "a page of what, nobody knows");
    let (status, last) = after(&ids[199]);
    assert_eq!(
        (status, &last["count"], &last["dead_letters"], &last["next"]),
        (Ok(200), &json!(200), &json!([]), &Value::Null)
    );

    // Published again, the last of a page is none any more, and still a place to go on from.
    house.call(CallRequest::Redrive { id: Some(ids[99].as_str().into()), edit: "{}".into() });
    let call = house.call(CallRequest::DeadLetters { after: Some(ids[99].as_str().into()) });
    let (_, second) = house.answer(call).unwrap();
    assert_eq!(second["dead_letters"][0]["message"], json!(ids[100]));
}
