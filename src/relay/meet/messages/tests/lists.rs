//! Several messages in one request.

use super::*;

#[test]
fn a_list_is_answered_message_by_message_and_an_atomic_one_as_a_whole() {
    let mut house = House::with("plain", |config| config.outbox.message_max = 10);
    let list = || vec![message("orders", "1"), message("orders", &"2".repeat(11)), message("orders", "3")];
    let call = house.call(CallRequest::Publish { messages: list(), atomic: false, wait: Duration::ZERO });
    let (status, body) = house.answer(call).unwrap();
    let codes: Vec<&Value> =
        (0..3).map(|n| body["messages"][n].get("state").unwrap_or(&body["messages"][n]["code"])).collect();
    assert_eq!((status, codes), (Ok(202), vec![&json!("accepted"), &json!("too_large"), &json!("accepted")]));
    house.sent();
    let call = house.call(CallRequest::Publish { messages: list(), atomic: true, wait: Duration::ZERO });
    let (status, words) = house.answer(call).unwrap();
    assert_eq!(status, Err(ErrorCode::TooLarge));
    assert_eq!(words, "messages[1]: data has 11 bytes, outbox.message_max is 10");
    let call = house.call(CallRequest::Publish { messages: vec![], atomic: false, wait: Duration::ZERO });
    assert_eq!(house.answer(call).unwrap().0, Err(ErrorCode::Invalid));
    let session = house.join();
    house.publish(session, list(), true);
    assert_eq!((house.told(session), house.sent()), (vec!["error too_large".to_owned()], vec![]));
    house.publish(session, list(), false);
    let mut told = house.told(session);
    told.sort();
    assert_eq!(told, ["accepted accepted", "accepted accepted", "error too_large"]);
}

/// How the errors begin that a session is told about what it publishes.
fn named(house: &mut House, session: SessionId, messages: Vec<Publish>, atomic: bool) -> Vec<String> {
    house.publish(session, messages, atomic);
    let errors = std::mem::take(&mut house.told).into_iter().filter(|(_, frame)| frame["kind"] == "error");
    let words = errors.map(|(_, frame)| frame["message"].as_str().unwrap().to_owned());
    words.map(|words| words.split_once(": ").map_or(String::new(), |(first, _)| first.to_owned())).collect()
}

#[test]
fn an_error_names_the_message_of_a_list_that_it_is_about() {
    let mut house = House::with("plain", |config| config.outbox.message_max = 10);
    let session = house.join();
    let (good, large) = (|| message("orders", "1"), || message("orders", &"2".repeat(11)));
    let keyed = |data: &str| Publish { idempotency_key: Some("k".into()), ..message("orders", data) };
    assert_eq!(named(&mut house, session, vec![large(), good(), large()], false), ["messages[0]", "messages[2]"]);
    assert_eq!(named(&mut house, session, vec![good(), keyed("1"), keyed("2")], true), ["messages[2]"]);
    assert_eq!(named(&mut house, session, vec![large()], false), [""], "it is the only one");
    assert_eq!(named(&mut house, session, vec![large()], true), [""]);
    house.cut();
    let volatile = || Publish { volatile: true, ..good() };
    assert_eq!(named(&mut house, session, vec![good(), volatile()], false).last().unwrap(), "messages[1]");

    let mut house = House::new("plain");
    let session = house.join();
    assert_eq!(named(&mut house, session, vec![good(), good()], true), [""; 0], "they are in flight");
    house.input(Input::Stop { now: false });
    assert_eq!(named(&mut house, session, vec![good(), good()], true), ["messages[0]"], "once for all of them");
}
