//! The npm clients `ws` and `eventsource` on the feed.

use serde_json::{Value, json};

use crate::door::Door;
use crate::rig::{App, Relay, offset};
use crate::script::{Script, can_run};

/// Upstream for both: the npm package `ws` as a server.
pub fn upstream(more: &str) -> (Script, Relay) {
    let (service, port) = Script::service("upstream.mjs", "");
    let relay = Relay::start(&format!("ws://127.0.0.1:{port}/"), "plain", "", more);
    (service, relay)
}

pub fn emit(service: &mut Script, number: u64) {
    service.tell("emit", json!(["news", { "n": number }]));
}

/// Waits until upstream was asked this.
pub fn heard(service: &mut Script, kind: &str) -> Value {
    service.line(kind, |line| line["heard"]["type"] == kind)["heard"].take()
}

#[test]
fn the_client_ws_subscribes_publishes_and_resumes() {
    if !can_run("ws_resume", &["ws"]) {
        return;
    }
    let (mut service, relay) = upstream("[interest]\nlinger = \"10m\"");
    let mut app = relay.app();
    app.subscribe(json!("news"));
    assert_eq!(heard(&mut service, "subscribe")["channel"], "news");
    emit(&mut service, 1);
    let first = app.frame("event");
    assert_eq!(first["data"], json!({"n": 1}));
    let outcome = app.publish(json!({"channel": "orders", "data": {"buy": 3}}));
    assert_eq!(heard(&mut service, "publish")["data"], json!({"buy": 3}));
    assert_eq!((&outcome["state"], &outcome["reply"]), (&json!("delivered"), &json!({"seen": {"buy": 3}})));

    app.0.tell("ping", json!("are you there?"));
    assert_eq!(app.0.says("pong"), "are you there?");
    app.0.tell("close", json!([1000, "see you"]));
    let closed = app.0.line("close", |line| line.get("close").is_some());
    assert_eq!(closed["close"], 1000, "{closed}");

    let mut witness = relay.app();
    witness.subscribe(json!("news"));
    for number in 2..=4 {
        emit(&mut service, number);
        assert_eq!(witness.frame("event")["data"]["n"], number);
    }
    let since = first["id"].as_str().unwrap();
    let mut app = App::open(relay.feed_port(), &format!("/v1/ws?channel=news&since={since}"));
    assert_eq!(app.frame("hello")["cursor"], since);
    assert_eq!(app.frame("subscribed")["resumed"], true);
    emit(&mut service, 5);
    let mut before = first;
    for number in 2..=5 {
        let event = app.frame("event");
        assert_eq!((&event["data"]["n"], &event["prev"]), (&json!(number), &json!(offset(&before))), "{event}");
        before = event;
    }
    app.has_no("gap");
    app.has_no("reset");
}

#[test]
fn the_client_ws_sees_why_it_is_sent_away() {
    if !can_run("ws_close", &["ws"]) {
        return;
    }
    let (_service, relay) = upstream("");
    relay.upstream("live");
    let mut wrong = relay.app();
    wrong.0.tell("binary", json!("{\"op\":\"ping\"}"));
    let closed = wrong.0.line("close", |line| line.get("close").is_some());
    assert_eq!(closed, json!({"close": 4501, "reason": "protocol"}));

    let mut app = relay.app();
    app.subscribe(json!("news"));
    relay.terminate();
    let closing = app.frame("closing");
    assert_eq!((&closing["code"], &closing["reason"]), (&json!(1012), &json!("restart")), "{closing}");
    assert!(closing["retry_after_ms"].is_u64(), "{closing}");
    assert_eq!(app.0.says("close"), 1012);
    let (code, log) = relay.end();
    assert_eq!(code, Some(0), "{log}");
}

/// The next frame of this kind that the event source was given: the frame, and its last event id then.
fn frame(source: &mut Script, kind: &str) -> (Value, Value) {
    let mut line = source.line(kind, |line| line["frame"]["kind"] == kind);
    let wanted = if kind == "event" { "message" } else { kind };
    assert_eq!(line["type"], wanted, "{line}");
    (line["frame"].take(), line["id"].take())
}

#[test]
fn the_client_eventsource_comes_back_by_itself() {
    if !can_run("eventsource", &["eventsource", "ws"]) {
        return;
    }
    let door = Door::new();
    let hosts = format!("[access]\nhosts = [\"{}\"]\n[interest]\nlinger = \"10m\"", door.address());
    let (mut service, mut relay) = upstream(&hosts);
    door.lead_to(relay.feed_port());
    let mut source = Script::start("eventsource.mjs", &format!("http://{}/v1/sse?channel=news", door.address()));
    frame(&mut source, "hello");
    assert_eq!(frame(&mut source, "subscribed").0["resumed"], false);
    heard(&mut service, "subscribe");
    emit(&mut service, 1);
    let (first, id) = frame(&mut source, "event");
    assert_eq!(first["id"], id, "the id on the wire is the cursor");

    // Only the connection is cut: nothing is missing, nothing comes twice.
    door.shut();
    let mut witness = relay.app();
    witness.subscribe(json!("news"));
    for number in 2..=4 {
        emit(&mut service, number);
        assert_eq!(witness.frame("event")["data"]["n"], number);
    }
    door.lead_to(relay.feed_port());
    assert_eq!(frame(&mut source, "hello").0["cursor"], first["id"]);
    assert_eq!(frame(&mut source, "subscribed").0["resumed"], true);
    emit(&mut service, 5);
    let mut before = first;
    for number in 2..=5 {
        let (event, _) = frame(&mut source, "event");
        assert_eq!((&event["data"]["n"], &event["prev"]), (&json!(number), &json!(offset(&before))), "{event}");
        before = event;
    }
    assert!(source.left(|line| line["type"] == "reset" || line["type"] == "gap").is_empty());

    // The relay is killed: its history is another one, and the source is told so.
    relay.kill_and_restart();
    door.lead_to(relay.feed_port());
    assert_eq!(frame(&mut source, "hello").0["cursor"], before["id"]);
    let reset = frame(&mut source, "reset").0;
    assert_eq!((&reset["channel"], &reset["reason"]), (&json!("news"), &json!("epoch")), "{reset}");
    assert_eq!(frame(&mut source, "subscribed").0["resumed"], false);
    heard(&mut service, "subscribe");
    emit(&mut service, 6);
    let (event, id) = frame(&mut source, "event");
    assert_eq!((&event["data"]["n"], &event["id"]), (&json!(6), &id));
    assert!(source.left(|line| line["type"] == "message").is_empty(), "nothing came twice");
}
