//! Messages outlive what happens to upstream and to the relay: accepted before, delivered after.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::common::until;
use crate::rig::Place;
use crate::upstream::{Gate, Upstream, plain_answer};

fn data(frames: &[crate::upstream::Got]) -> Vec<Value> {
    frames.iter().map(|got| got.json["data"].clone()).collect()
}

#[test]
fn what_was_accepted_in_an_outage_is_delivered_after_it_in_order_and_told_once() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    upstream.gate(Gate::Shut);
    upstream.cut();
    relay.wait_metric("tidegate_link_disconnects_total{reason=\"reset\"}", 1.0);

    let mut client = relay.client();
    let ids: Vec<String> = (0..20).map(|n| client.publish(json!({"channel": "orders", "data": n}))).collect();
    let keyed: Vec<String> =
        (20..30).map(|n| client.publish(json!({"channel": "orders", "data": n, "order_key": "account-9"}))).collect();
    assert_eq!(relay.status()["outbox"]["depth"], 30);
    assert_eq!(upstream.frames("publish").len(), 0);

    upstream.gate(Gate::Open);
    let mut outcomes: BTreeMap<String, Value> = BTreeMap::new();
    while outcomes.len() < 30 {
        let outcome = client.next_of("outcome");
        assert_eq!((&outcome["state"], &outcome["confirmed_by"]), (&json!("delivered"), &json!("ack")), "{outcome}");
        let id = outcome["message"].as_str().unwrap().to_owned();
        assert!(outcomes.insert(id, outcome).is_none(), "a second outcome");
    }
    assert!(ids.iter().chain(&keyed).all(|id| outcomes.contains_key(id)));
    assert!(client.barrier().is_empty(), "one outcome each");
    let sent = data(&upstream.frames("publish"));
    assert_eq!(sent.len(), 30, "each left once: {sent:?}");
    let of = |from: i64, to: i64| -> Vec<Value> {
        sent.iter().filter(|n| (from..to).contains(&n.as_i64().unwrap())).cloned().collect()
    };
    assert_eq!(of(0, 20), (0..20).map(|n| json!(n)).collect::<Vec<_>>(), "in the order of acceptance");
    assert_eq!(of(20, 30), (20..30).map(|n| json!(n)).collect::<Vec<_>>(), "in the order of their key");

    let shown = relay.ask(&format!("GET /v1/messages/{}", ids[0]), &[], "").json();
    assert_eq!((&shown["state"], &shown["attempts"]), (&json!("delivered"), &json!(1)), "{shown}");
    relay.wait_settled();
    relay.stop();
}

#[test]
fn a_cut_before_the_acknowledgement_sends_again_or_gives_up_as_the_publisher_chose() {
    let answers = Arc::new(AtomicBool::new(false));
    let answering = answers.clone();
    let upstream = Upstream::answering(move |got| {
        let mute = got.is("publish") && !answering.load(Ordering::Relaxed);
        if mute { Vec::new() } else { plain_answer(&got.json) }
    });
    let relay = Place::new(&upstream).start_live();
    let mut client = relay.client();
    let again = client.publish(json!({"channel": "orders", "data": "again", "key": "k", "type": "place"}));
    let once = client.publish(json!({"channel": "orders", "data": "once", "on_unknown": "dead_letter"}));
    upstream.wait_for("publish", 2);
    answers.store(true, Ordering::Relaxed);
    upstream.cut();

    let mut outcomes = BTreeMap::new();
    while outcomes.len() < 2 {
        let outcome = client.next_of("outcome");
        outcomes.insert(outcome["message"].as_str().unwrap().to_owned(), outcome);
    }
    assert_eq!(outcomes[&again]["state"], "delivered");
    assert_eq!(outcomes[&once]["state"], "dead_lettered");
    assert_eq!(outcomes[&once]["reason"], "outcome_unknown");
    let sent = upstream.frames("publish");
    let count = |data: &str| sent.iter().filter(|got| got.json["data"] == data).count();
    assert_eq!((count("again"), count("once")), (2, 1), "at least once, and at most once");
    assert_eq!((&sent[0].json["key"], &sent[0].json["event"]), (&json!("k"), &json!("place")));
    assert!(client.barrier().is_empty());
    relay.wait_settled();
    relay.stop();
}

#[test]
fn what_may_have_arrived_is_never_called_unsent_over_a_stop_and_over_a_kill() {
    for kills in [false, true] {
        let upstream = Upstream::answering(|got| if got.is("publish") { Vec::new() } else { plain_answer(&got.json) });
        let mut place = Place::new(&upstream);
        let relay = place.set("outbox.ack_timeout", r#""10m""#).start_live();
        let before = relay.metric("tidegate_store_operations_total");
        let mut client = relay.client();
        let late = client.publish(json!({"channel": "orders", "data": 1, "ttl": "2s"}));
        let cancelled = client.publish(json!({"channel": "orders", "data": 2}));
        let replaced = client.publish(json!({"channel": "orders", "data": 3, "order_key": "k"}));
        upstream.wait_for("publish", 3);
        upstream.gate(Gate::Shut);
        if kills {
            // Three were accepted, and of each an attempt is on disk.
            relay.wait_metric("tidegate_store_operations_total", before + 6.0);
            relay.kill();
        } else {
            relay.stop();
        }

        let relay = place.start();
        let mut client = relay.client();
        let newest = client.publish(json!({"channel": "orders", "data": 4, "order_key": "k", "coalesce": true}));
        for id in [&cancelled, &newest] {
            assert_eq!(relay.ask(&format!("DELETE /v1/messages/{id}"), &[], "").status, 200);
        }
        let ended = |id: &str| {
            until("the message to end", || {
                let shown = relay.ask(&format!("GET /v1/messages/{id}"), &[], "").json();
                (shown["state"] != "accepted").then_some(shown)
            })
        };
        for (id, state, reason, attempts) in [
            (late, "expired", "outcome_unknown", 1),
            (cancelled, "rejected", "outcome_unknown", 1),
            (replaced, "rejected", "outcome_unknown", 1),
            (newest, "rejected", "cancelled", 0),
        ] {
            let shown = ended(&id);
            assert_eq!((&shown["state"], &shown["reason"]), (&json!(state), &json!(reason)), "{kills}: {shown}");
            assert_eq!(shown["attempts"], attempts, "{kills}: {shown}");
        }
        assert_eq!(upstream.frames("publish").len(), 3, "nothing left again");
        relay.wait_settled();
        relay.stop();
    }
}

#[test]
fn the_same_idempotency_key_is_the_same_message_also_after_a_restart() {
    let upstream = Upstream::plain();
    upstream.gate(Gate::Shut);
    let place = Place::new(&upstream);
    let relay = place.start();
    let order = json!({"channel": "orders", "data": {"buy": 1}, "idempotency_key": "o-17"});
    let first = relay.publish(&order);
    assert_eq!(first.status, 202, "{}", first.body);
    let id = first.json()["message"].clone();
    let location = format!("location: /v1/messages/{}", id.as_str().unwrap().to_lowercase());
    assert!(first.head.contains(&location), "{}", first.head);
    assert_eq!(relay.publish(&order).json()["message"], id);
    let other = json!({"channel": "orders", "data": {"buy": 2}, "idempotency_key": "o-17"});
    let conflict = relay.publish(&other);
    assert_eq!((conflict.status, conflict.json()["code"].clone()), (409, json!("conflict")));
    relay.stop();

    let relay = place.start();
    assert_eq!(relay.publish(&order).json()["message"], id);
    assert_eq!(relay.publish(&other).status, 409);
    upstream.gate(Gate::Open);
    relay.wait_settled();
    assert_eq!(upstream.frames("publish").len(), 1);
    let after = relay.publish(&order).json();
    assert_eq!((&after["message"], &after["state"]), (&id, &json!("delivered")), "its state now: {after}");
    assert_eq!(relay.metric("tidegate_outbox_restored_total"), 1.0);
    relay.stop();
}

#[test]
fn what_is_not_in_flight_can_be_cancelled_and_expires() {
    let upstream = Upstream::plain();
    upstream.gate(Gate::Shut);
    let relay = Place::new(&upstream).start();
    let mut client = relay.client();
    let cancelled = client.publish(json!({"channel": "orders", "data": 1}));
    client.request(json!({"op": "cancel", "message": cancelled}));
    let outcome = client.next_of("outcome");
    assert_eq!((&outcome["state"], &outcome["reason"]), (&json!("rejected"), &json!("cancelled")), "{outcome}");
    let by_http = client.publish(json!({"channel": "orders", "data": 2}));
    assert_eq!(relay.ask(&format!("DELETE /v1/messages/{by_http}"), &[], "").status, 200);
    assert_eq!(client.next_of("outcome")["message"], by_http.as_str());
    let expired = client.publish(json!({"channel": "orders", "data": 3, "ttl": "20ms"}));
    let outcome = client.next_of("outcome");
    assert_eq!((&outcome["message"], &outcome["state"]), (&json!(expired), &json!("expired")), "{outcome}");
    let kept = client.publish(json!({"channel": "orders", "data": 4}));
    upstream.gate(Gate::Open);
    assert_eq!(client.next_of("outcome")["message"], kept.as_str());
    assert_eq!(data(&upstream.frames("publish")), [json!(4)], "nothing else left");
    relay.wait_settled();
    relay.stop();
}

#[test]
fn what_a_message_will_make_of_a_channel_is_pending_until_then_also_over_a_kill() {
    let upstream = Upstream::plain();
    let place = Place::new(&upstream);
    let relay = place.start_live();
    let mut client = relay.subscriber("favourites");
    upstream.wait_for("subscribe", 1);
    upstream.event("favourites", &json!("none"));
    assert_eq!(client.next_of("event")["data"], "none");
    upstream.gate(Gate::Shut);
    upstream.cut();
    client.next_of("gap");
    let favour =
        |what: &str| json!({"channel": "orders", "data": what, "optimistic": {"channel": "favourites", "value": what}});
    let id = client.publish(favour("a"));
    let pending = client.next_of("pending");
    assert_eq!((&pending["message"], &pending["data"]), (&json!(id), &json!("a")), "{pending}");
    let snapshot = relay.ask("GET /v1/snapshot?channel=favourites", &[], "").json();
    assert_eq!((&snapshot["values"][0]["data"], &snapshot["stale"]), (&json!("none"), &json!(true)), "{snapshot}");
    assert_eq!(snapshot["pending"], json!([{"message": id, "data": "a"}]));
    relay.kill();

    let relay = place.start();
    let mut client = relay.subscriber("favourites");
    let snapshot = client.next_of("snapshot");
    assert_eq!(snapshot["pending"], json!([{"message": id, "data": "a"}]), "before upstream says anything");
    assert_eq!((&snapshot["values"], &snapshot["stale"]), (&json!([]), &json!(true)), "{snapshot}");
    let over_http = relay.ask("GET /v1/snapshot?channel=favourites", &[], "").json();
    assert_eq!(over_http["pending"], snapshot["pending"]);
    let second = client.publish(favour("b"));
    assert_eq!(client.next_of("pending")["message"], json!(second));
    upstream.gate(Gate::Open);
    let mut confirmed = [client.next_of("confirmed"), client.next_of("confirmed")];
    assert_eq!(confirmed.each_mut().map(|frame| frame["message"].take()), [json!(id), json!(second)], "in their order");
    assert_eq!(client.next_of("outcome")["message"], json!(second), "this one was published by this session");
    relay.wait_settled();
    assert_eq!(relay.metric("tidegate_feed_overlays_total{result=\"confirmed\"}"), 2.0);
    assert_eq!(relay.metric("tidegate_feed_overlays"), 0.0);
    relay.stop();
}

#[test]
fn a_batch_that_was_rolled_back_stays_so_over_a_kill() {
    let answers = Arc::new(AtomicBool::new(false));
    let answering = answers.clone();
    let upstream = Upstream::answering(move |got| match got.json["data"].as_str() {
        Some("refused") => vec![json!({"type": "error", "id": got.json["id"], "code": "no"}).to_string()],
        Some("late") if !answering.load(Ordering::Relaxed) => Vec::new(),
        _ => plain_answer(&got.json),
    });
    let place = Place::new(&upstream);
    let relay = place.start_live();
    let mut client = relay.subscriber("favourites");
    let favour = |what: &str, key: &str| json!({"channel": "orders", "data": what, "optimistic": {"channel": "favourites", "key": key, "value": what}});
    let batch = json!({"messages": [favour("late", "1"), favour("refused", "2")], "atomic": true});
    let accepted = relay.publish(&batch);
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    let mut rolled_back = [client.next_of("rolled_back"), client.next_of("rolled_back")];
    assert_eq!(rolled_back.each_mut().map(|frame| frame["key"].take()), [json!("2"), json!("1")]);
    relay.kill();

    let relay = place.start_live();
    let mut client = relay.subscriber("favourites");
    upstream.wait_for("subscribe", 2);
    upstream.event("favourites", &json!("none"));
    client.next_of("event");
    let snapshot = relay.ask("GET /v1/snapshot?channel=favourites", &[], "").json();
    assert_eq!(snapshot["pending"], json!([]), "{snapshot}");
    answers.store(true, Ordering::Relaxed);
    upstream.cut();
    relay.wait_settled();
    assert!(client.barrier().iter().all(|frame| frame["kind"] != "confirmed"), "late is accepted, and not told");
    assert_eq!(relay.metric("tidegate_feed_overlays_total{result=\"confirmed\"}"), 0.0);
    relay.stop();
}
