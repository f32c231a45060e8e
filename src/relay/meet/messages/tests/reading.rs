//! Questions about messages that wait on disk.

use super::*;

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
