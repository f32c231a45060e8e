//! Drains and reloads, as sessions live through them.
//!
//! Not here: what the service manager hears of it, messages in flight, a configuration that is wrong (`tests/process.rs`).

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::Client;
use crate::common::until;
use crate::rig::{Place, Relay};
use crate::upstream::{Gate, Upstream, plain_answer};

fn told_to_come_back(closing: &Value, code: u16, reason: &str) {
    assert_eq!((&closing["code"], &closing["reason"]), (&json!(code), &json!(reason)), "{closing}");
    let hint = closing["retry_after_ms"].as_u64().unwrap();
    assert!((500..2_500).contains(&hint), "spread, so that no storm comes back: {closing}");
}

#[test]
fn a_stop_says_goodbye_to_every_session_and_loses_no_event_before_it() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    let mut clients: Vec<_> = (0..10).map(|_| relay.subscriber("a")).collect();
    let mut stream = relay.stream("channel=a", &[]);
    stream.next_of("subscribed");
    upstream.wait_for("subscribe", 1);
    (0..100).for_each(|n| upstream.event("a", &json!(n)));
    relay.wait_metric("tidegate_feed_admitted_total", 100.0);
    relay.signal(Signal::TERM);
    let mut hints = Vec::new();
    for client in &mut clients {
        (0..100).for_each(|n| assert_eq!(client.next_of("event")["data"], n));
        let closing = client.next_of("closing");
        told_to_come_back(&closing, 1012, "restart");
        hints.push(closing["retry_after_ms"].clone());
        assert_eq!(client.close_code(), Some(1012));
    }
    hints.dedup();
    assert!(hints.len() > 1, "not all at the same time: {hints:?}");
    let closing = stream.next_of("closing");
    told_to_come_back(&closing.frame, 1012, "restart");
    assert_eq!(closing.id, None);
    assert!(stream.next().is_none(), "an orderly end");
    relay.end();
    upstream.wait_alone();
}

#[test]
fn a_drain_by_the_operator_waits_for_outcomes_ends_sessions_and_keeps_the_process() {
    let upstream = Upstream::answering(|got| if got.is("publish") { Vec::new() } else { plain_answer(&got.json) });
    let mut place = Place::new(&upstream);
    let relay = place.set("drain.timeout", r#""10m""#).start_live();
    let mut client = relay.subscriber("a");
    let message = client.publish(json!({"channel": "orders", "data": 1}));
    let sent = upstream.wait_for("publish", 1);
    assert_eq!(relay.tell("POST /v1/drain", &[], "").status, 202);

    // Nothing new is accepted; what is in flight is waited for.
    client.request(json!({"op": "publish", "channel": "orders", "data": 2}));
    let error = client.next_of("error");
    assert_eq!((&error["code"], &error["retryable"]), (&json!("draining"), &json!(true)), "{error}");
    let ready = relay.tell("GET /readyz", &[], "");
    assert_eq!((ready.status, ready.json()["not_ready_because"].clone()), (503, json!(["draining"])));
    assert_eq!(relay.tell("GET /livez", &[], "").status, 200, "alive all the same");
    until("the feed to accept nobody", || std::net::TcpStream::connect(relay.feed()).is_err().then_some(()));

    upstream.push(&json!({"type": "ack", "id": sent[0].json["id"]}).to_string());
    let outcome = client.next_of("outcome");
    assert_eq!((&outcome["message"], &outcome["state"]), (&json!(message), &json!("delivered")));
    told_to_come_back(&client.next_of("closing"), 1001, "going_away");
    assert_eq!(client.close_code(), Some(1001));
    upstream.wait_alone();
    assert_eq!(upstream.opened(), 1, "it does not come back");
    assert_eq!(relay.status()["draining"], true);
    relay.signal(Signal::TERM);
    relay.end();
}

/// Reads the file again, and waits until the configuration in force says this.
fn reload(relay: &Relay, says: &str) {
    relay.signal(Signal::HUP);
    until(&format!("{says} to be in force"), || {
        let config = relay.tell("GET /v1/config", &[], "").body;
        config.contains(says).then_some(())
    });
    assert_eq!(relay.metric("tidegate_config_reloads_total{result=\"refused\"}"), 0.0);
}

fn with_token(relay: &Relay, token: &str) -> Result<Client, String> {
    Client::try_connect(relay.feed(), "/v1/ws", &[&format!("Authorization: Bearer {token}")])
}

#[test]
fn a_reload_changes_who_may_do_what_for_sessions_that_are_there() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    place.set("access.mode", r#""tokens""#).set(
        "access.tokens",
        r#"[{ name = "alice", token = "alice-secret", read = ["*"], write = ["*"] },
            { name = "bob", token = "bob-secret", read = ["*"], write = ["orders"] }]"#,
    );
    let relay = place.start_live();
    assert!(with_token(&relay, "wrong").is_err_and(|error| error.contains("401")));
    let mut alice = with_token(&relay, "alice-secret").unwrap();
    let mut bob = with_token(&relay, "bob-secret").unwrap();
    for client in [&mut alice, &mut bob] {
        client.subscribe("prices");
        client.subscribe("news");
    }
    upstream.wait_for("subscribe", 2);
    bob.request(json!({"op": "publish", "channel": "prices", "data": 1}));
    assert_eq!(bob.next_of("error")["code"], "forbidden");

    place.set(
        "access.tokens",
        r#"[{ name = "carol", token = "carol-secret", read = ["*"], write = [] },
            { name = "bob", token = "bob-secret", read = ["news"], write = ["prices"] }]"#,
    );
    reload(&relay, "carol");
    let closing = alice.next_of("closing");
    assert_eq!((&closing["code"], &closing["reason"]), (&json!(4100), &json!("token_expired")), "{closing}");
    assert_eq!(alice.close_code(), Some(4100));
    let error = bob.next_of("error");
    assert_eq!((&error["channel"], &error["code"]), (&json!("prices"), &json!("forbidden")), "{error}");
    upstream.event("prices", &json!("secret"));
    upstream.event("news", &json!("public"));
    let event = bob.next_of("event");
    assert_eq!((&event["channel"], &event["data"]), (&json!("news"), &json!("public")), "nothing of what he may not");
    bob.publish(json!({"channel": "prices", "data": 2}));
    assert!(with_token(&relay, "alice-secret").is_err());
    assert!(with_token(&relay, "carol-secret").is_ok());

    // Nobody's secret is shown anywhere.
    let config = relay.tell("GET /v1/config", &[], "").body;
    assert!(config.contains("carol") && !config.contains("-secret"), "{config}");
    relay.stop();
}

#[test]
fn a_reload_changes_limits_and_channels_and_names_what_it_cannot() {
    let upstream = Upstream::plain();
    upstream.gate(Gate::Shut);
    let mut place = Place::new(&upstream);
    let relay = place.start();
    let mut client = relay.client();
    client.publish(json!({"channel": "orders", "data": 1}));
    place.set("outbox.max_messages", "1").set("feed.session_channels", "2").set("feed.request_max", r#""1KiB""#);
    place.set("upstream.max_attempts", "7").set("log.format", r#""json""#);
    place.set("channels", r#"[{ match = "dear", on_unknown = "dead_letter" }, { match = "*" }]"#);
    let answer = relay.tell("POST /v1/reload", &[], "").json();
    assert_eq!(answer, json!({"reloaded": true, "needs_restart": ["upstream.max_attempts", "log.format"]}));
    until("the new limits", || {
        let config = relay.tell("GET /v1/config", &[], "").json();
        (config["outbox"]["max_messages"] == 1).then_some(())
    });
    client.request(json!({"op": "publish", "channel": "orders", "data": 2}));
    let error = client.next_of("error");
    assert_eq!(error["code"], "store_full", "{error}");
    assert_eq!(relay.publish(&json!({"channel": "orders", "data": "x".repeat(2_000)})).status, 413);
    client.subscribe("a");
    client.subscribe("b");
    client.request(json!({"op": "subscribe", "channels": ["c"]}));
    let error = client.next_of("error");
    assert_eq!((&error["channel"], &error["code"]), (&json!("c"), &json!("limit_exceeded")), "{error}");

    // And back, with more room.
    place.set("outbox.max_messages", "10");
    reload(&relay, "\"max_messages\":10");
    assert_eq!(relay.metric("tidegate_config_reloads_total{result=\"applied\"}"), 2.0);
    client.publish(json!({"channel": "orders", "data": 3}));
    upstream.gate(Gate::Open);
    relay.wait_settled();
    relay.stop();
}
