//! The life of messages as apps follow it, and how far what waited has come after an outage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::client::Client;
use crate::common::until;
use crate::rig::Place;
use crate::upstream::{Gate, Upstream, plain_answer};

/// The next event of a channel: its type and data.
fn next_step(client: &mut Client, channel: &str) -> (String, Value) {
    loop {
        let mut event = client.next_of("event");
        if event["channel"] == channel {
            return (event["type"].as_str().unwrap().to_owned(), event["data"].take());
        }
    }
}

/// The events of a message's channel up to its outcome, in short.
fn life(client: &mut Client, channel: &str) -> Vec<String> {
    let mut steps = Vec::new();
    loop {
        let (kind, data) = next_step(client, channel);
        let ended = kind == "outcome";
        steps.push(format!("{kind} {} {}", data["state"].as_str().unwrap(), data["attempts"]));
        if ended {
            return steps;
        }
    }
}

/// Subscribes a channel; gives the state that its snapshot shows, or the code of the refusal.
fn follow(client: &mut Client, channel: &str) -> Result<Value, String> {
    let mark = client.request(json!({"op": "subscribe", "channels": [channel]}));
    loop {
        let mut frame = client.next();
        if frame["kind"] == "error" && frame["ref"] == mark {
            return Err(frame["code"].as_str().unwrap().to_owned());
        }
        if frame["kind"] == "snapshot" && frame["channel"] == channel {
            return Ok(frame["values"][0]["data"].take());
        }
    }
}

#[test]
fn a_publisher_follows_its_own_messages_and_only_who_is_permitted_all() {
    let upstream = Upstream::answering(|got| if got.is("publish") { Vec::new() } else { plain_answer(&got.json) });
    let mut place = Place::new(&upstream);
    place.set("access.mode", r#""tokens""#);
    let grant = |name: &str, read: &str| {
        format!(r#"{{ name = "{name}", token = "{name}", read = ["{read}"], write = ["orders"] }}"#)
    };
    let grants = [grant("ann", "*"), grant("ben", "*"), grant("operator", "$outbox")];
    let relay = place.set("access.tokens", &format!("[{}]", grants.join(", "))).start_live();
    let (mut ann, mut ben, mut operator) =
        (relay.client_as("ann"), relay.client_as("ben"), relay.client_as("operator"));
    operator.subscribe("$outbox");
    let id = ann.publish(json!({"channel": "orders", "data": {"buy": "s3cret"}}));
    let own = format!("$outbox/{id}");
    let sent = upstream.wait_for("publish", 1);

    let state = follow(&mut ann, &own).unwrap();
    assert_eq!((&state["message"], &state["channel"]), (&json!(id), &json!("orders")), "{state}");
    for name in [&own, "$outbox/01ARZ3NDEKTSV4RRFFQ69G5FAV", "$outbox"] {
        assert_eq!(follow(&mut ben, name), Err("forbidden".to_owned()), "{name}");
    }
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    let snapshot = |token: &str, name: &str| {
        let line = format!("GET /v1/snapshot?channel={}", name.replace('$', "%24"));
        relay.ask(&line, &[&bearer(token)], "")
    };
    assert_eq!(snapshot("ann", &own).status, 200);
    assert_eq!(snapshot("ben", &own).body, snapshot("ben", "$outbox/01ARZ3NDEKTSV4RRFFQ69G5FAV").body);
    // The channel in the address, as server-sent events.
    let mut stream = relay.stream(&format!("channel=%24outbox/{id}"), &[&bearer("ann")]);
    assert_eq!(stream.next_of("snapshot").frame["values"][0]["data"]["message"], json!(id));

    upstream.push(&json!({"type": "ack", "id": sent[0].json["id"], "data": {"order": "s3cret"}}).to_string());
    let rest = ["acked in_flight 1", "outcome delivered 1"];
    let of_ann = life(&mut ann, &own);
    assert_eq!(of_ann[of_ann.len() - 2..], rest);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(kind, _): &(String, Value)| kind != "outcome") {
        seen.push(next_step(&mut operator, "$outbox"));
    }
    let kinds: Vec<&str> = seen.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["accepted", "sent", "acked", "outcome"]);
    assert!(
        seen.iter().all(|(_, data)| data["principal"] == "ann" && !data.to_string().contains("s3cret")),
        "{seen:?}"
    );
    while stream.next_of("event").frame["type"] != "outcome" {}
    assert!(ben.barrier().is_empty());
    drop((ann, stream, operator));
    until("nobody to follow anything", || {
        let carried = relay.tell("GET /v1/subscriptions", &[], "");
        (!carried.body.contains("$outbox")).then_some(())
    });
    relay.stop();
}

#[test]
fn a_message_is_followed_over_a_retry_and_over_a_restart() {
    let answers = Arc::new(AtomicBool::new(false));
    let answering = answers.clone();
    let upstream = Upstream::answering(move |got| {
        let mute = got.is("publish") && !answering.load(Ordering::Relaxed);
        if mute { Vec::new() } else { plain_answer(&got.json) }
    });
    let mut place = Place::new(&upstream);
    let relay = place.set("outbox.in_memory", "16").start_live();
    let mut client = relay.client();
    let own = format!("$outbox/{}", client.publish(json!({"channel": "orders", "data": 1})));
    upstream.wait_for("publish", 1);
    assert_eq!(follow(&mut client, &own).unwrap()["state"], "in_flight");
    upstream.gate(Gate::Shut);
    upstream.cut();
    let (kind, retry) = next_step(&mut client, &own);
    assert_eq!((kind.as_str(), &retry["reason"]), ("retry", &json!("connection_lost")), "{retry}");
    assert_eq!((&retry["attempts"], &retry["next_retry"]), (&json!(1), &Value::Null), "{retry}");
    answers.store(true, Ordering::Relaxed);
    upstream.gate(Gate::Open);
    assert_eq!(life(&mut client, &own), ["sent in_flight 2", "acked in_flight 2", "outcome delivered 2"]);
    assert_eq!(client.next_of("outcome")["state"], "delivered", "the frame comes after the event");

    upstream.gate(Gate::Shut);
    upstream.cut();
    relay.wait_state("backing_off");
    // More than memory holds: the last one is on disk.
    let ids: Vec<String> = (0..40).map(|n| client.publish(json!({"channel": "orders", "data": n}))).collect();
    relay.kill();
    let relay = place.start();
    let mut client = relay.client();
    let own = format!("$outbox/{}", ids[39]);
    let state = follow(&mut client, &own).unwrap();
    assert_eq!((&state["state"], &state["attempts"]), (&json!("accepted"), &json!(0)), "{state}");
    assert_eq!(state["channel"], "orders", "it was read: {state}");
    upstream.gate(Gate::Open);
    assert_eq!(life(&mut client, &own), ["sent in_flight 1", "acked in_flight 1", "outcome delivered 1"]);
    let mut late = relay.client();
    assert_eq!(follow(&mut late, &own).unwrap()["state"], "delivered");
    relay.wait_settled();
    relay.stop();
}

#[test]
fn after_an_outage_it_is_told_how_far_what_waited_has_come() {
    const QUEUED: usize = 50;
    let answers = Arc::new(AtomicBool::new(false));
    let answering = answers.clone();
    let upstream = Upstream::answering(move |got| {
        let mute = got.is("publish") && !answering.load(Ordering::Relaxed);
        if mute { Vec::new() } else { plain_answer(&got.json) }
    });
    let relay = Place::new(&upstream).start_live();
    upstream.gate(Gate::Shut);
    upstream.cut();
    relay.wait_state("backing_off");
    let mut client = relay.client();
    for n in 0..QUEUED {
        client.publish(json!({"channel": "orders", "data": n}));
    }
    assert_eq!(relay.status()["outbox"]["sync"], Value::Null, "nothing goes on");
    client.request(json!({"op": "subscribe", "channels": ["$status"], "options": {"types": ["sync"]}}));
    client.next_of("subscribed");

    // The first time upstream takes everything and answers nothing, until the link is lost again.
    upstream.gate(Gate::Open);
    let (_, begun) = next_step(&mut client, "$status");
    let first =
        |sync: &Value| (sync["state"].clone(), sync["queued"].clone(), sync["sent"].clone(), sync["remaining"].clone());
    assert_eq!(first(&begun), (json!("running"), json!(QUEUED), json!(0), json!(QUEUED)), "{begun}");
    let status = relay.status();
    let (state, queued, ..) = first(&status["outbox"]["sync"]);
    assert_eq!((state, queued), (json!("running"), json!(QUEUED)), "{status}");
    upstream.cut();
    let (_, cut) = next_step(&mut client, "$status");
    assert_eq!(
        (&cut["state"], &cut["reason"], &cut["remaining"]),
        (&json!("interrupted"), &json!("link_lost"), &json!(QUEUED))
    );

    // Each connection since began one of its own; on one of them upstream answers.
    answers.store(true, Ordering::Relaxed);
    upstream.cut();
    let mut syncs = vec![next_step(&mut client, "$status").1];
    while syncs.last().is_some_and(|sync| sync["state"] != "done") {
        syncs.push(next_step(&mut client, "$status").1);
    }
    let (mut sent, mut running) = (0, false);
    for sync in &syncs {
        let number = |name: &str| sync[name].as_u64().unwrap();
        assert_eq!(number("queued"), number("sent") + number("remaining"), "{sync}");
        assert!(!running || number("sent") >= sent, "it never goes back: {syncs:?}");
        (sent, running) = (number("sent"), sync["state"] == "running");
    }
    let done = syncs.last().unwrap();
    assert_eq!((&done["remaining"], &done["eta_ms"]), (&json!(0), &json!(0)), "{done}");
    assert!(done["rate"].as_f64().is_some_and(|rate| rate > 0.0), "it is measured: {done}");
    relay.wait_settled();
    assert_eq!(relay.status()["outbox"]["sync"], Value::Null);
    relay.stop();
}
