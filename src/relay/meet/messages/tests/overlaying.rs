//! What messages that have not ended will make of a channel: shown, then confirmed or rolled back.

use super::*;
use crate::config::{ChannelPolicy, Conflict};
use crate::protocol::request::options::Options;
use crate::protocol::request::{Optimistic, Subscribe};
use crate::relay::outbox::OutcomeState;
use crate::relay::record::{Backlog, KeptOutcome, MessageId};

/// Whether an item is somebody's favourite, by a message for another channel.
fn favour(key: &str, value: &str) -> Publish {
    let channel = ChannelRequest { name: "favourites".into(), params: None };
    let optimistic = Some(Optimistic { channel, key: Some(key.into()), value: value.into() });
    Publish { optimistic, ..message("orders", value) }
}

fn with_conflict(conflict: Conflict) -> House {
    House::with("plain", |config| {
        config.channels = vec![ChannelPolicy { pattern: "favourites".into(), conflict, ..ChannelPolicy::default() }];
    })
}

/// The same house after a restart: what has not ended waits again, and of the others the outcomes are kept.
fn restarted(mut house: House) -> House {
    let mut messages = Backlog::default();
    house.disk.waiting().for_each(|message| messages.add(message, 0));
    let outcomes = vec![house.disk.ends.iter().map(KeptOutcome::of).collect()];
    let restored = Restored { messages, outcomes, next_sequence: 100, ..Restored::default() };
    let mut again = with_conflict(Conflict::Queue);
    let config = Arc::clone(&again.relay.config);
    again.relay = Relay::new(config, Dialect::builtin("plain").unwrap(), restored, 2, again.now);
    again.disk = std::mem::take(&mut house.disk);
    again.wait(Duration::ZERO);
    again
}

impl House {
    fn subscribe(&mut self, channel: &str) -> SessionId {
        let session = self.join();
        let channels = vec![ChannelRequest { name: channel.into(), params: None }];
        let request = Subscribe { reference: None, channels, since: None, snapshot: true, options: Options::default() };
        self.input(Input::Request { session, request: Ok(Request::Subscribe(request)) });
        session
    }

    /// Answers the oldest message that upstream got and that is not answered.
    fn settle(&mut self, accepted: bool) {
        self.settle_which(accepted, |_| true);
    }

    /// The same with the message that has this payload.
    fn settle_with(&mut self, data: u64, accepted: bool) {
        self.settle_which(accepted, |of| *of == data);
    }

    fn settle_which(&mut self, accepted: bool, is: impl Fn(&Value) -> bool) {
        let at = self.sent.iter().position(|sent| sent["type"] == "publish" && is(&sent["data"]));
        let at = at.expect("upstream got such a message");
        let id = self.sent.remove(at)["id"].clone();
        let kind = if accepted { "ack" } else { "error" };
        self.receive(&json!({"type": kind, "id": id, "code": "no"}));
    }

    fn truth(&mut self, key: &str, value: &str) {
        let data: Value = serde_json::from_str(value).unwrap();
        self.receive(&json!({"type": "event", "channel": "favourites", "key": key, "data": data}));
    }

    /// What the session was told of the channel, and how its own messages ended: kind, key and data.
    fn shown(&mut self, session: SessionId) -> Vec<String> {
        let kinds = ["event", "pending", "confirmed", "rolled_back", "outcome", "error"];
        let frames = std::mem::take(&mut self.told).into_iter().filter(|(of, _)| *of == session);
        let frames = frames.filter(|(_, frame)| kinds.contains(&frame["kind"].as_str().unwrap()));
        let word = |frame: &Value, name: &str| frame.get(name).map(|value| format!(" {value}")).unwrap_or_default();
        frames
            .map(|(_, frame)| {
                let more = ["key", "data", "state", "code"].map(|name| word(&frame, name)).concat();
                format!("{}{}", frame["kind"].as_str().unwrap(), more.replace('"', ""))
            })
            .collect()
    }

    /// What a snapshot lists as pending: key and data.
    fn pending(&mut self) -> Vec<String> {
        let channel = ChannelRequest { name: "favourites".into(), params: None };
        let call = self.call(CallRequest::Snapshot(channel));
        let (_, body) = self.answer(call).unwrap();
        body["pending"].as_array().unwrap().iter().map(|one| format!("{} {}", one["key"], one["data"])).collect()
    }
}

#[test]
fn a_value_is_pending_until_its_message_has_ended_and_the_truth_goes_on_below_it() {
    let mut house = with_conflict(Conflict::Queue);
    let session = house.subscribe("favourites");
    house.truth("42", "0");
    house.slow_store = true;
    house.publish(session, vec![favour("42", "1")], false);
    assert_eq!(house.shown(session), ["event 42 0"], "it is not accepted yet");
    house.commit();
    assert_eq!(house.shown(session), ["pending 42 1"]);
    house.truth("42", "7");
    assert_eq!(house.pending(), ["\"42\" 1"]);
    let call = house.call(CallRequest::Snapshot(ChannelRequest { name: "favourites".into(), params: None }));
    assert_eq!(house.answer(call).unwrap().1["values"][0]["data"], 7, "it is no last value");
    house.settle(true);
    assert_eq!(house.shown(session), ["event 42 7", "confirmed 42 7", "outcome delivered"]);
    assert_eq!(house.pending(), [""; 0]);

    house.publish(session, vec![favour("43", "1")], false);
    house.settle(false);
    assert_eq!(house.shown(session), ["pending 43 1", "rolled_back 43", "outcome rejected"], "nothing is known of it");
}

#[test]
fn changes_of_one_item_stack_and_leave_in_order() {
    let mut house = with_conflict(Conflict::Queue);
    let session = house.subscribe("favourites");
    house.truth("42", "0");
    for value in ["1", "2"] {
        house.publish(session, vec![favour("42", value)], false);
    }
    house.publish(session, vec![favour("43", "3")], false);
    assert_eq!(house.pending(), ["\"42\" 1", "\"42\" 2", "\"43\" 3"]);
    let left = |house: &House| {
        house.sent.iter().filter(|sent| sent["type"] == "publish").map(|sent| sent["data"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(left(&house), [1, 3], "the second change of the first item waits for its turn");
    house.settle(false);
    assert_eq!((left(&house), house.pending()), (vec![json!(3), json!(2)], vec!["\"42\" 2".into(), "\"43\" 3".into()]));
}

#[test]
fn a_channel_says_what_a_second_change_means() {
    let mut house = with_conflict(Conflict::Reject);
    let session = house.subscribe("favourites");
    let first = Publish { idempotency_key: Some("k".into()), ..favour("42", "1") };
    house.publish(session, vec![first.clone()], false);
    house.publish(session, vec![favour("42", "2")], false);
    house.publish(session, vec![favour("43", "2")], false);
    let told = house.told(session);
    assert!(told.contains(&"error conflict".to_owned()), "{told:?}");
    house.publish(session, vec![first], false);
    assert!(house.told(session).contains(&"accepted in_flight".to_owned()), "it finds itself");
    house.settle(true);
    house.publish(session, vec![favour("42", "3")], false);
    assert!(!house.told(session).contains(&"error conflict".to_owned()), "the first one has ended");
    house.publish(session, vec![favour("44", "1"), favour("44", "2")], true);
    assert!(house.told(session).contains(&"error conflict".to_owned()), "also within one batch");
    house.publish(session, vec![favour("45", "1"), favour("46", "2")], true);
    assert!(!house.told(session).contains(&"error conflict".to_owned()), "two items");

    let mut house = with_conflict(Conflict::LastWriteWins);
    let session = house.subscribe("favourites");
    house.publish(session, vec![favour("42", "1"), favour("42", "2")], true);
    assert_eq!(house.told(session)[1..], ["error conflict"], "the first would roll back the second with it");
    for value in ["1", "2", "3"] {
        house.publish(session, vec![favour("42", value)], false);
    }
    let shown = house.shown(session);
    let wanted = ["pending 42 1", "pending 42 2", "pending 42 3", "rolled_back 42", "outcome rejected"];
    assert_eq!(shown, wanted, "the second never left");
    house.settle(true);
    house.settle(true);
    assert_eq!(house.shown(session), ["confirmed 42", "outcome delivered", "confirmed 42", "outcome delivered"]);
}

#[test]
fn a_batch_is_rolled_back_together() {
    let mut house = with_conflict(Conflict::Queue);
    let session = house.subscribe("favourites");
    house.publish(session, vec![favour("1", "1"), favour("2", "2")], true);
    house.publish(session, vec![favour("3", "3")], false);
    house.shown(session);
    house.settle(false);
    assert_eq!(house.shown(session), ["rolled_back 1", "rolled_back 2", "outcome rejected"]);
    house.settle(true);
    assert_eq!(house.shown(session), ["outcome delivered"], "nothing is told of its value any more");
    assert_eq!(house.pending(), ["\"3\" 3"]);

    house.publish(session, vec![message("orders", "4"), favour("5", "5")], true);
    house.settle(true);
    house.shown(session);
    house.settle(false);
    assert_eq!(house.shown(session), ["rolled_back 5", "outcome rejected"], "also for one of them that has no value");
}

#[test]
fn a_batch_that_was_rolled_back_is_not_pending_again_after_a_restart() {
    let mut house = with_conflict(Conflict::Queue);
    let session = house.subscribe("favourites");
    house.publish(session, vec![favour("1", "1"), favour("2", "2")], true);
    house.publish(session, vec![message("orders", "3"), favour("4", "4")], true);
    house.publish(session, vec![favour("5", "5"), favour("6", "6")], true);
    house.publish(session, vec![favour("7", "7"), favour("8", "8")], true);
    house.publish(session, vec![message("orders", "9")], false);
    for (data, accepted) in [(1, false), (3, false), (5, true), (9, false)] {
        house.settle_with(data, accepted);
    }
    let left = ["\"6\" 6", "\"7\" 7", "\"8\" 8"];
    assert_eq!(house.pending(), left, "one arrived, and what failed behind the last batch is not of it");

    let mut again = restarted(house);
    let session = again.subscribe("favourites");
    assert_eq!(again.pending(), left);
    for data in [2, 4, 6] {
        again.settle_with(data, true);
    }
    assert_eq!(again.shown(session), ["confirmed 6"], "of the others nobody hears again");
    again.settle_with(8, false);
    assert_eq!(again.shown(session), ["rolled_back 8", "rolled_back 7"]);
}

#[test]
fn a_value_needs_the_right_to_write_there_and_is_refused_with_its_message() {
    let mut house = with_conflict(Conflict::Queue);
    house.subscribe("favourites");
    let mut principal = Principal::local();
    principal.write = vec!["orders".into()];
    let (call, messages) = (CallId(99), vec![favour("42", "1")]);
    let request = CallRequest::Publish { messages, atomic: false, wait: Duration::ZERO };
    house.input(Input::Call { call, principal: Arc::new(principal), request });
    assert_eq!(house.answer(call).unwrap().0, Err(ErrorCode::Forbidden));
    let call = house.call(CallRequest::Publish {
        messages: vec![favour("42", "1"), message("orders", &"x".repeat(1 << 20))],
        atomic: true,
        wait: Duration::ZERO,
    });
    assert_eq!(house.answer(call).unwrap().0, Err(ErrorCode::TooLarge));
    assert!(house.relay.feed.overlays.is_empty(), "none of the batch was accepted");
}

#[test]
fn values_are_pending_again_after_a_restart() {
    let mut house = with_conflict(Conflict::Queue);
    house.subscribe("favourites");
    house.down = true;
    house.cut();
    let session = house.join();
    house.publish(session, vec![favour("42", "1"), favour("43", "2")], false);
    let mut again = restarted(house);
    assert_eq!(again.pending(), ["\"42\" 1", "\"43\" 2"], "although nobody carries the channel");
    let channel = |name: &str| ChannelRequest { name: name.into(), params: None };
    let call = again.call(CallRequest::Snapshot(channel("favourites")));
    let alone = again.answer(call).unwrap().1;
    let call = again.call(CallRequest::Snapshot(channel("other")));
    assert_eq!(again.answer(call).unwrap().0, Err(ErrorCode::NotFound), "nothing is laid over that one");
    let session = again.subscribe("favourites");
    let told = std::mem::take(&mut again.told).into_iter().map(|(_, frame)| frame);
    let begun: Vec<Value> = told.filter(|frame| frame["channel"] == "favourites").collect();
    assert_eq!((&begun[0]["kind"], &begun[0]["snapshot"]), (&json!("subscribed"), &json!("full")));
    let laid: Vec<&Value> = begun[1]["pending"].as_array().unwrap().iter().map(|one| &one["data"]).collect();
    assert_eq!(
        (&begun[1]["kind"], laid),
        (&json!("snapshot"), vec![&json!(1), &json!(2)]),
        "upstream said nothing yet"
    );
    assert_eq!((&begun[1]["values"], &begun[1]["stale"]), (&json!([]), &json!(true)), "nobody knows that it is empty");
    let without_place = |frame: &Value| frame.as_object().unwrap().clone().into_iter().filter(|(k, _)| k != "position");
    assert!(without_place(&alone).eq(without_place(&begun[1])), "over HTTP {alone}, over a WebSocket {}", begun[1]);
    assert_eq!(again.pending(), ["\"42\" 1", "\"43\" 2"]);
    again.truth("42", "0");
    assert_eq!(again.pending(), ["\"42\" 1", "\"43\" 2"]);
    again.settle(true);
    assert_eq!(again.shown(session), ["event 42 0", "confirmed 42 0"]);
    let ended: Vec<MessageId> = again.disk.messages.iter().map(|message| message.id).collect();
    let outcome = again.relay.outbox.outcome(ended[0]).map(|stored| stored.outcome.state);
    assert_eq!(outcome, Some(OutcomeState::Delivered));
}
