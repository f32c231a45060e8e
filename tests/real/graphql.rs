//! graphql-ws, the reference server of graphql-transport-ws, through the dialect of that name.

use serde_json::{Value, json};

use crate::door::Door;
use crate::rig::{Relay, offset};
use crate::script::{Script, can_run};

/// A subscription to the ticks of one symbol.
fn ticks(symbol: &str) -> Value {
    let query = "subscription ($symbol: String!) { ticks(symbol: $symbol) { symbol price } }";
    json!({"channel": "ticks", "params": {"query": query, "variables": {"symbol": symbol}}})
}

fn place(symbol: &str) -> Value {
    let query = "mutation ($symbol: String!) { place(symbol: $symbol) { id symbol } }";
    json!({"channel": "orders", "data": {"query": query, "variables": {"symbol": symbol}}})
}

/// The service, the file with the relay's token, and the relay.
struct Scene {
    service: Script,
    token: tempfile::NamedTempFile,
    relay: Relay,
}

impl Scene {
    /// The service lets in who names `wanted`, the relay names `given`.
    fn new(wanted: &str, given: &str) -> Self {
        let (service, port) = Script::service("graphql.mjs", wanted);
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), given).unwrap();
        let upstream = format!("token_file = {:?}\nstable_for = \"10m\"", token.path());
        let more = "[interest]\nlinger = \"50ms\"";
        let relay = Relay::start(&format!("ws://127.0.0.1:{port}/graphql"), "graphql-transport-ws", &upstream, more);
        Scene { service, token, relay }
    }

    fn tick(&mut self, symbol: &str, price: f64) -> Value {
        let tick = json!({"symbol": symbol, "price": price});
        self.service.tell("tick", tick.clone());
        json!({"data": {"ticks": tick}})
    }
}

#[test]
fn subscriptions_and_mutations_of_a_real_service() {
    if !can_run("graphql_subscriptions", &["graphql", "graphql-ws", "ws"]) {
        return;
    }
    let mut scene = Scene::new("secret", "secret");
    let (mut app, mut other, mut wrong) = (scene.relay.app(), scene.relay.app(), scene.relay.app());
    let subscribed = app.subscribe(ticks("ACME"));
    assert_eq!(scene.service.says("subscribed"), "ACME");
    let first = scene.tick("ACME", 1.5);
    let event = app.frame("event");
    assert_eq!((&event["channel"], &event["data"]), (&subscribed["channel"], &first));

    let again = other.subscribe(ticks("ACME"));
    assert_eq!((&again["channel"], &again["upstream"]), (&subscribed["channel"], &json!("live")));
    assert_eq!(other.frame("snapshot")["values"][0]["data"], first);
    wrong.subscribe(json!({"channel": "wrong", "params": {"query": "subscription { nothing }"}}));
    let error = wrong.frame("error");
    assert_eq!(error["code"], "upstream_refused", "{error}");
    assert!(error["message"].as_str().unwrap().contains("nothing"), "{error}");

    let delivered = app.publish(place("ACME"));
    assert_eq!(delivered["state"], "delivered", "{delivered}");
    assert_eq!(delivered["reply"], json!({"data": {"place": {"id": "o-1", "symbol": "ACME"}}}));
    let invalid = app.publish(json!({"channel": "orders", "data": {"query": "mutation { nothing }"}}));
    assert_eq!(invalid["state"], "rejected", "{invalid}");

    let halted = app.publish(place("HALTED"));
    assert_eq!(halted["state"], "delivered", "the service has judged it: {halted}");
    assert_eq!(halted["reply"]["errors"][0]["message"], "trading is halted", "and the publisher reads how");

    let second = scene.tick("ACME", 2.25);
    for app in [&mut app, &mut other] {
        let event = app.frame("event");
        assert_eq!(event["data"], second);
        app.has_no("error");
    }
    for app in [&mut app, &mut other] {
        app.send(json!({"op": "unsubscribe", "channels": [ticks("ACME")]}));
        app.frame("unsubscribed");
    }
    assert_eq!(scene.service.says("unsubscribed"), "ACME");
    assert!(scene.service.left(|line| line.get("subscribed").is_some()).is_empty(), "one subscription served both");
    assert_eq!(scene.relay.metric("tidegate_dialect_unmatched_total"), "0");
}

#[test]
fn a_wrong_token_is_final_until_it_is_mended() {
    if !can_run("graphql_token", &["graphql", "graphql-ws", "ws"]) {
        return;
    }
    let mut scene = Scene::new("second", "first");
    assert_eq!(scene.service.says("connected"), json!({"token": "first"}));
    let upstream = scene.relay.upstream("given_up");
    assert!(upstream["last_ending"].to_string().contains("4403"), "{upstream}");
    let mut app = scene.relay.app();
    app.subscribe(ticks("ACME"));

    std::fs::write(scene.token.path(), "second\n").unwrap();
    scene.relay.admin_post("/v1/upstream/reconnect");
    assert_eq!(scene.service.says("connected"), json!({"token": "second"}));
    assert_eq!(scene.service.says("subscribed"), "ACME");
    let first = scene.tick("ACME", 1.5);
    let before = app.frame("event");
    assert_eq!(before["data"], first);

    // The token changes on both sides while the connection lives; the next one names the new.
    scene.service.tell("token", json!("third"));
    std::fs::write(scene.token.path(), "third").unwrap();
    scene.service.tell("close", json!(1012));
    let gap = app.frame("gap");
    assert_eq!((&gap["reason"], &gap["prev"]), (&json!("reconnect"), &json!(offset(&before))), "{gap}");
    assert_eq!(scene.service.says("connected"), json!({"token": "third"}));
    assert_eq!(scene.service.says("subscribed"), "ACME");
    let second = scene.tick("ACME", 2.5);
    let event = app.frame("event");
    assert_eq!((&event["data"], &event["prev"]), (&second, &json!(offset(&gap))));
    assert!(scene.service.left(|line| line.get("connected").is_some()).is_empty(), "a connection for each change");
}

#[test]
fn a_subscription_that_the_service_ends_is_begun_again_and_the_gap_told() {
    if !can_run("graphql_complete", &["graphql", "graphql-ws", "ws"]) {
        return;
    }
    let mut scene = Scene::new("secret", "secret");
    let mut app = scene.relay.app();
    let channel = app.subscribe(ticks("ACME"))["channel"].take();
    assert_eq!(scene.service.says("subscribed"), "ACME");
    scene.service.tell("tick", Value::Null);
    let gap = app.frame("gap");
    assert_eq!((&gap["channel"], &gap["continuity"]), (&channel, &json!("unknown")), "{gap}");
    assert_eq!(scene.service.says("subscribed"), "ACME", "whoever wanted it wants it still");
    let tick = scene.tick("ACME", 3.5);
    let event = app.frame("event");
    assert_eq!((&event["data"], &event["prev"]), (&tick, &json!(offset(&gap))), "{event}");
    app.has_no("error");

    // One that is over each time it is begun is not begun for ever (interest.ack_attempts).
    scene.service.tell("tick", Value::Null);
    assert_eq!(scene.service.says("subscribed"), "ACME", "the third and last time");
    scene.service.tell("tick", Value::Null);
    let error = app.frame("error");
    assert_eq!((&error["channel"], &error["code"]), (&channel, &json!("upstream_refused")), "{error}");
}

#[test]
fn a_service_that_was_killed_is_found_again() {
    if !can_run("graphql_restart", &["graphql", "graphql-ws", "ws"]) {
        return;
    }
    let door = Door::new();
    let (mut service, port) = Script::service("graphql.mjs", "secret");
    door.lead_to(port);
    let more = "token = \"secret\"";
    let relay = Relay::start(&format!("ws://{}/graphql", door.address()), "graphql-transport-ws", more, "");
    let mut app = relay.app();
    app.subscribe(ticks("ACME"));
    assert_eq!(service.says("subscribed"), "ACME");
    service.tell("tick", json!({"symbol": "ACME", "price": 1.5}));
    let first = app.frame("event");

    drop(service);
    let gap = app.frame("gap");
    assert_eq!((&gap["reason"], &gap["prev"]), (&json!("reconnect"), &json!(offset(&first))), "{gap}");
    let held = relay.publish(&place("ACME"));
    let (mut service, port) = Script::service("graphql.mjs", "secret");
    door.lead_to(port);
    assert_eq!(service.says("subscribed"), "ACME");
    assert_eq!(service.says("placed"), "ACME", "accepted while the service was away");
    assert_eq!(relay.outcome(&held)["state"], "delivered");
    service.tell("tick", json!({"symbol": "ACME", "price": 2.5}));
    let event = app.frame("event");
    assert_eq!(event["data"]["data"]["ticks"]["price"], 2.5);
    assert_eq!(event["prev"], offset(&gap), "nothing but the gap between {gap} and {event}");
    app.has_no("error");
}
