//! When the relay dials, when it waits, when it gives up, and that it says so.

use serde_json::{Value, json};

use crate::common::until;
use crate::rig::{Place, Relay};
use crate::upstream::{Gate, Upstream};

fn reconnect(relay: &Relay) {
    assert_eq!(relay.tell("POST /v1/upstream/reconnect", &[], "").status, 202);
}

#[test]
fn it_gives_up_after_so_many_attempts_until_it_is_told_to_go_on() {
    let upstream = Upstream::plain();
    upstream.gate(Gate::Shut);
    let mut place = Place::new(&upstream);
    let relay = place.set("upstream.max_attempts", "3").start();
    let status = relay.wait_state("given_up");
    let link = &status["upstream"];
    assert_eq!(link["failures"], 3, "{link}");
    assert!(link["next_attempt_ms"].is_null(), "nothing is planned: {link}");
    assert_eq!(relay.metric("tidegate_link_state{state=\"given_up\"}"), 1.0);

    // The rest of the relay lives on.
    upstream.gate(Gate::Open);
    let mut client = relay.subscriber("a");
    client.publish(json!({"channel": "orders", "data": 1}));
    assert_eq!(relay.tell("GET /readyz", &[], "").status, 200);
    assert_eq!(upstream.tried(), 3);

    reconnect(&relay);
    assert_eq!(client.next_of("outcome")["state"], "delivered");
    assert_eq!(upstream.tried(), 4);
    upstream.wait_for("subscribe", 1);
    relay.stop();
}

#[test]
fn retry_after_is_honoured_and_shown_and_may_be_overruled() {
    let upstream = Upstream::plain();
    let busy = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3000\r\nContent-Length: 12\r\n\r\nmaintenance\n";
    upstream.gate(Gate::Answer(busy.to_owned()));
    let relay = Place::new(&upstream).start();
    let status = relay.wait_state("backing_off");
    let link = &status["upstream"];
    // The hour that it may be at most, less what this machine has lost since.
    let wait = link["next_attempt_ms"].as_u64().unwrap();
    assert!((2_000_000..=3_100_000).contains(&wait), "{link}");
    assert_eq!(link["last_ending"]["reason"], "rate_limited", "{link}");
    assert!(link["last_ending"]["detail"].as_str().unwrap().contains("maintenance"), "{link}");
    assert_eq!(upstream.tried(), 1);
    upstream.gate(Gate::Open);
    reconnect(&relay);
    relay.wait_state("live");
    assert_eq!(upstream.tried(), 2);
    relay.stop();
}

#[test]
fn answers_that_are_no_upgrade_are_named() {
    let upstream = Upstream::plain();
    upstream.gate(Gate::Shut);
    let mut place = Place::new(&upstream);
    let relay = place.set("upstream.max_attempts", "1").start();
    for (answer, reason, detail) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html>log in!", "bad_status", "<html>log in!"),
        ("HTTP/1.1 302 Found\r\nLocation: https://else.where/\r\n\r\n", "redirect", "else.where"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "denied", "403"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            "bad_upgrade",
            "Accept",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "bad_upgrade", ""),
    ] {
        relay.wait_state("given_up");
        let tried = upstream.tried();
        upstream.gate(Gate::Answer(answer.to_owned()));
        reconnect(&relay);
        until("another attempt", || (upstream.tried() > tried).then_some(()));
        let link: Value = relay.wait_state("given_up")["upstream"].clone();
        let ending = &link["last_ending"];
        assert_eq!(ending["reason"], reason, "{answer}: {link}");
        assert!(ending["detail"].as_str().unwrap().contains(detail), "{answer}: {link}");
    }
    relay.stop();
}

#[test]
fn a_pause_closes_and_keeps_what_is_published() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    assert_eq!(relay.tell("POST /v1/upstream/pause", &[], "").status, 202);
    upstream.wait_alone();
    relay.wait_state("paused");
    reconnect(&relay);
    let message = client.publish(json!({"channel": "orders", "data": 1}));
    assert_eq!(relay.status()["upstream"]["state"], "paused", "only a resume ends a pause");
    assert_eq!(upstream.opened(), 1);
    assert_eq!(relay.tell("POST /v1/upstream/resume", &[], "").status, 202);
    let outcome = client.next_of("outcome");
    assert_eq!((&outcome["message"], &outcome["state"]), (&json!(message), &json!("delivered")));
    assert_eq!(upstream.opened(), 2);
    relay.stop();
}

#[test]
fn the_token_is_read_anew_at_each_connect_and_shown_nowhere() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    std::fs::write(place.path("token"), "first-secret\n").unwrap();
    let path = format!("{:?}", place.path("token"));
    let relay = place.set("upstream.token_file", &path).start_live();
    std::fs::write(place.path("token"), "second-secret\n").unwrap();
    upstream.cut();
    let tokens: Vec<Value> = upstream.wait_for("auth", 2).iter().map(|got| got.json["token"].clone()).collect();
    assert_eq!(tokens, [json!("first-secret"), json!("second-secret")]);
    relay.wait_state("live");
    for path in ["/v1/status", "/v1/config", "/metrics", "/v1/sessions"] {
        let answer = relay.tell(&format!("GET {path}"), &[], "");
        assert!(!answer.body.contains("-secret"), "{path}: {}", answer.body);
    }
    relay.stop();
    let log = std::fs::read_to_string(place.path("log")).unwrap();
    assert!(!log.is_empty() && !log.contains("-secret"), "{log}");
}
