//! Questions about messages that wait on disk.

use super::*;
use crate::protocol::request::Subscribe;
use crate::protocol::request::options::Options;
use crate::relay::meet::messages::reading::LOOKS_MAX;
use crate::relay::record::MessageId;

/// Ten messages in an outage, of which one is in memory.
fn shelved() -> (House, Vec<String>) {
    let mut house = House::with("plain", |config| config.outbox.in_memory = 1);
    house.down = true;
    house.cut();
    let messages = (0..10).map(|n| message("orders", &n.to_string())).collect();
    let call = house.call(CallRequest::Publish { messages, atomic: true, wait: Duration::ZERO });
    let (_, body) = house.answer(call).unwrap();
    let ids = (0..10).map(|n| body["messages"][n]["message"].as_str().unwrap().to_owned()).collect();
    (house, ids)
}

#[test]
fn a_message_on_disk_is_read_to_be_shown_and_to_be_withdrawn() {
    let (mut house, ids) = shelved();
    let call = house.call(CallRequest::Message(ids[8].as_str().into()));
    let (status, body) = house.answer(call).unwrap();
    assert_eq!((status, &body["state"], &body["channel"]), (Ok(200), &json!("accepted"), &json!("orders")));
    let call = house.call(CallRequest::Cancel(ids[9].as_str().into()));
    assert_eq!(house.answer(call).unwrap().1["reason"], "cancelled");
    house.down = false;
    house.wait(120 * SECOND);
    let sent = |frame: &Value| (frame["type"] == "publish").then(|| frame["data"].clone());
    let mut left: Vec<Value> = Vec::new();
    for frame in house.sent() {
        left.extend(sent(&frame));
    }
    assert_eq!(left[..9], (0..9).map(Value::from).collect::<Vec<_>>()[..], "then again, not acknowledged");
}

#[test]
fn who_asks_a_store_that_fails_is_told_so() {
    let (mut house, ids) = shelved();
    house.broken_store = true;
    let state = house.call(CallRequest::Message(ids[8].as_str().into()));
    let cancel = house.call(CallRequest::Cancel(ids[9].as_str().into()));
    for call in [state, cancel] {
        assert_eq!(house.answer(call).unwrap().0, Err(ErrorCode::StoreFailed));
    }
}

/// Four messages with keys that upstream acknowledged; one of their ends is in memory.
fn ended() -> (House, Vec<String>) {
    let mut house = House::with("plain", |config| {
        (config.outbox.in_memory, config.outbox.keep_outcomes) = (1, 60 * SECOND);
    });
    let messages = (0..4).map(|n| Publish { idempotency_key: Some(n.to_string().into()), ..message("orders", "1") });
    let call = house.call(CallRequest::Publish { messages: messages.collect(), atomic: true, wait: Duration::ZERO });
    let ids = house.answer(call).unwrap().1["messages"].as_array().unwrap().clone();
    for frame in house.sent() {
        house.receive(&json!({"type": "ack", "id": frame["id"]}));
    }
    (house, ids.iter().map(|id| id["message"].as_str().unwrap().to_owned()).collect())
}

fn again(n: &str, data: &str) -> Publish {
    Publish { idempotency_key: Some(n.into()), ..message("orders", data) }
}

#[test]
fn how_a_message_ended_is_read_from_the_disk() {
    let (mut house, ids) = ended();
    for id in &ids {
        let call = house.call(CallRequest::Message(id.as_str().into()));
        let (status, body) = house.answer(call).unwrap();
        assert_eq!((status, &body["state"], &body["confirmed_by"]), (Ok(200), &json!("delivered"), &json!("ack")));
        let call = house.call(CallRequest::Cancel(id.as_str().into()));
        assert_eq!(house.answer(call).unwrap().0, Err(ErrorCode::Conflict), "it has ended");
    }
    let call = house.call(CallRequest::Message(MessageId(77).to_string().into()));
    assert_eq!(house.answer(call).unwrap().0, Err(ErrorCode::NotFound));
}

#[test]
fn a_repeated_publish_is_told_an_end_that_is_on_disk() {
    let (mut house, ids) = ended();
    let session = house.join();
    house.publish(session, vec![again("0", "1")], false);
    assert_eq!(house.told(session), ["accepted delivered", "outcome delivered"]);
    house.publish(session, vec![again("0", "2")], false);
    assert_eq!(house.told(session), ["error conflict"]);
    // Two of a request that waits are on disk, the third is new.
    let messages = vec![again("1", "1"), again("2", "1"), message("orders", "5")];
    let call = house.call(CallRequest::Publish { messages, atomic: false, wait: 5 * SECOND });
    assert!(house.answer(call).is_none(), "the new one has not ended");
    house.wait(5 * SECOND);
    let (status, body) = house.answer(call).unwrap();
    let states: Vec<_> = (0..3).map(|n| body["messages"][n]["state"].as_str().unwrap()).collect();
    assert_eq!((status, states), (Ok(202), vec!["delivered", "delivered", "in_flight"]));
    assert_eq!((&body["messages"][1]["message"], &body["messages"][1]["attempts"]), (&json!(ids[2]), &json!(1)));
    let call = house.call(CallRequest::Publish { messages: vec![again("3", "1")], atomic: false, wait: SECOND });
    assert_eq!(house.answer(call).unwrap().0, Ok(200));
}

#[test]
fn who_asks_about_an_end_that_is_forgotten_meanwhile_is_answered() {
    let (mut house, ids) = ended();
    // The store reads something else, so the question waits; meanwhile the end's time is over.
    house.stuck_store = true;
    let first = house.call(CallRequest::Message(ids[0].as_str().into()));
    let second = house.call(CallRequest::Message(ids[1].as_str().into()));
    house.wait(60 * SECOND);
    house.unstick();
    for call in [first, second] {
        assert_eq!(house.answer(call).unwrap().0, Err(ErrorCode::NotFound));
    }
}

/// Those of one kind keep nobody from asking for another, and what cannot be refused is not.
#[test]
fn questions_that_wait_for_the_disk_are_bounded() {
    let (mut house, ids) = ended();
    house.stuck_store = true;
    let state = |house: &mut House, of: usize| house.call(CallRequest::Message(ids[of].as_str().into()));
    let asked: Vec<_> = (0..LOOKS_MAX).map(|n| state(&mut house, n % 2)).collect();
    assert!(house.answers.is_empty());
    let more = [state(&mut house, 0), house.call(CallRequest::Cancel(ids[1].as_str().into()))];
    for call in more {
        assert_eq!(house.answer(call).unwrap().0, Err(ErrorCode::LimitExceeded));
    }

    let followers: Vec<_> = (0..=LOOKS_MAX).map(|_| house.join()).collect();
    for session in &followers {
        let channels = vec![ChannelRequest { name: format!("$outbox/{}", ids[0]).into(), params: None }];
        let request = Subscribe {
            reference: Some(Ref("1".into())),
            channels,
            since: None,
            snapshot: true,
            options: Options::default(),
        };
        house.input(Input::Request { session: *session, request: Ok(Request::Subscribe(request)) });
    }
    let refused = house.told.iter().map(|(session, frame)| (*session, frame["code"].as_str().unwrap_or_default()));
    assert_eq!(refused.collect::<Vec<_>>(), [(followers[LOOKS_MAX], "limit_exceeded")]);
    house.told.clear();
    house.publish(followers[0], vec![again("0", "1")], false);
    assert_eq!(house.told(followers[0]), ["accepted delivered"], "its end waits for the disk, too");

    house.unstick();
    for call in asked {
        assert_eq!(house.answer(call).unwrap().0, Ok(200));
    }
    let told = |kind: &str| house.told.iter().filter(|(_, frame)| frame["kind"] == kind).count();
    assert_eq!((told("subscribed"), told("outcome")), (LOOKS_MAX, 1));
    let call = state(&mut house, 1);
    assert_eq!(house.answer(call).unwrap().0, Ok(200), "there is room again");
}
