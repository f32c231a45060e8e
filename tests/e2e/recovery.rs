//! The connection to upstream breaks, and what the sessions are told.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::client::Continuity;
use crate::rig::Place;
use crate::upstream::{Gate, Upstream, frame, plain_answer};

#[test]
fn a_cut_is_told_before_the_next_event_and_every_channel_is_subscribed_again() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    let mut client = relay.client();
    let mut seen = Continuity::default();
    for channel in ["a", "b"] {
        client.subscribe(channel);
    }
    upstream.wait_for("subscribe", 2);
    upstream.push(&json!({"type": "event", "channel": "a", "id": "u-7", "data": 1}).to_string());
    upstream.event("b", &json!(2));
    seen.read(2, || client.next());

    upstream.cut();
    let again = upstream.wait_for("subscribe", 4);
    let resubscribed = |channel: &str| again[2..].iter().find(|got| got.json["channel"] == channel).unwrap();
    assert_eq!(resubscribed("a").connection, 1);
    assert_eq!(resubscribed("a").json["last_event_id"], "u-7", "upstream may go on from there");
    assert!(resubscribed("b").json["last_event_id"].is_null());
    upstream.event("a", &json!(3));
    upstream.event("b", &json!(4));
    let mut gaps = Vec::new();
    while seen.data.len() < 4 {
        let frame = client.next();
        seen.observe(&frame);
        if frame["kind"] == "gap" {
            assert_eq!(frame["reason"], "reconnect", "{frame}");
            assert_eq!((&frame["continuity"], &frame["to"]), (&json!("unknown"), &json!(null)), "{frame}");
            gaps.push(frame["channel"].as_str().unwrap().to_owned());
        } else if frame["kind"] == "event" {
            let channel = frame["channel"].as_str().unwrap();
            assert!(gaps.iter().any(|gap| gap == channel), "an event before the gap was told: {frame}");
        }
    }
    gaps.sort();
    assert_eq!(gaps, ["a", "b"]);
    assert_eq!(seen.data, [json!(1), json!(2), json!(3), json!(4)]);
    assert_eq!(relay.metric("tidegate_feed_gaps_total{reason=\"reconnect\"}"), 2.0);
    assert_eq!(relay.metric("tidegate_link_disconnects_total{reason=\"reset\"}"), 1.0);
    relay.stop();
}

#[test]
fn sequence_numbers_say_exactly_what_was_lost() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let dialect = include_str!("../../config/dialects/plain.toml").replace("name = \"plain\"", "name = \"counted\"");
    std::fs::write(place.path("counted.toml"), format!("{dialect}\n[gap]\nscope = \"channel\"\nthen = \"report\"\n"))
        .unwrap();
    let path = format!("{:?}", place.path("counted.toml"));
    let relay = place.set("upstream.dialect", &path).start_live();
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    let event =
        |seq: u64| upstream.push(&json!({"type": "event", "channel": "a", "seq": seq, "data": seq}).to_string());
    [1, 2, 2, 3].into_iter().for_each(&event);
    upstream.cut();
    upstream.wait_for("subscribe", 2);
    [4, 4, 7].into_iter().for_each(&event);
    let mut seen = Continuity::default();
    let mut holes = Vec::new();
    while seen.data.last() != Some(&json!(7)) {
        let frame = client.next();
        seen.observe(&frame);
        if frame["kind"] == "gap" {
            holes.push((frame["reason"].clone(), frame["from"].clone(), frame["to"].clone(), seen.data.len()));
        }
    }
    assert_eq!(seen.data, [1, 2, 3, 4, 7].map(|n| json!(n)), "what upstream repeats comes once");
    assert_eq!(holes, [(json!("upstream_seq"), json!(5), json!(6), 4)], "no cry of wolf for the cut itself");
    relay.stop();
}

#[test]
fn status_tells_of_the_link_in_order_with_the_data() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    let mut client = relay.client();
    client.subscribe("a");
    client.subscribe("$status");
    upstream.wait_for("subscribe", 1);
    upstream.event("a", &json!(1));
    while client.next_of("event")["channel"] != "a" {}
    upstream.gate(Gate::Shut);
    upstream.cut();
    let (mut states, mut gap) = (Vec::new(), false);
    while states.last().is_none_or(|state| state != "backing_off") {
        let frame = client.next();
        gap |= frame["kind"] == "gap" && frame["channel"] == "a";
        if frame["channel"] == "$status" && frame["kind"] == "event" {
            states.push(frame["data"]["state"].as_str().unwrap().to_owned());
        }
    }
    assert!(gap, "the gap stands before the news of the link: {states:?}");
    upstream.gate(Gate::Open);
    while client.next_of("event")["data"]["state"] != "live" {}
    relay.stop();
}

#[test]
fn what_upstream_says_in_closing_is_counted_and_obeyed() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    // 1001 going away, 4000 of its own: both come back by themselves.
    for (n, code) in [1001_u16, 4000].into_iter().enumerate() {
        upstream.raw(&frame(0x88, &code.to_be_bytes()));
        relay.wait_metric("tidegate_link_disconnects_total{reason=\"closed\"}", (n + 1) as f64);
        crate::common::until("another connection", || (upstream.opened() == n + 2).then_some(()));
        relay.wait_state("live");
    }
    relay.stop();
}

#[test]
fn an_upstream_that_stays_silent_is_left() {
    // It answers no WebSocket ping either: nothing reads while this holds.
    let hung = AtomicBool::new(false);
    let upstream = Upstream::answering(move |got| {
        if got.is("publish") && !hung.swap(true, Ordering::Relaxed) {
            std::thread::park_timeout(crate::common::DEADLINE);
        }
        plain_answer(&got.json)
    });
    let mut place = Place::new(&upstream);
    let relay = place.set("upstream.ping_interval", r#""200ms""#).start_live();
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    client.publish(json!({"channel": "orders", "data": 1}));
    assert_eq!(client.next_of("gap")["reason"], "reconnect");
    assert_eq!(client.next_of("outcome")["state"], "delivered", "on the next connection");
    assert!(upstream.opened() >= 2);
    relay.wait_metric("tidegate_link_disconnects_total{reason=\"heartbeat\"}", 1.0);
    relay.stop();
}
