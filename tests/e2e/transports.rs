//! The same service over every transport but WebSocket: events arrive, nothing is missing or doubled after a cut, channels
//! join by another address, messages leave by POST.

use serde_json::json;

use crate::client::Client;
use crate::hub::{DIALECT, Hub};
use crate::rig::Place;

/// Numbers of the next events of a session, which must not hear of a gap in between.
pub fn numbers(client: &mut Client, count: usize) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    while all.len() < count {
        let frame = client.next();
        match frame["kind"].as_str() {
            Some("event") if !frame["channel"].as_str().unwrap().starts_with('$') => {
                all.push((frame["channel"].as_str().unwrap().to_owned(), frame["data"].as_u64().unwrap()));
            }
            Some("gap" | "reset") => panic!("nothing is missing: {frame}"),
            _ => {}
        }
    }
    all
}

/// Events of a channel with these numbers.
pub fn named(channel: &str, numbers: impl IntoIterator<Item = u64>) -> Vec<(String, u64)> {
    numbers.into_iter().map(|n| (channel.to_owned(), n)).collect()
}

fn place(hub: &Hub, transport: &str) -> Place {
    let mut place = Place::at(&hub.url());
    std::fs::write(place.path("hub.toml"), DIALECT).unwrap();
    let dialect = format!("{:?}", place.path("hub.toml"));
    place.set("upstream.dialect", &dialect).set("upstream.transports", &format!("[{transport:?}]"));
    place
}

fn over(transport: &str) {
    let hub = Hub::new();
    let place = place(&hub, transport);
    let relay = place.start();
    let mut client = relay.subscriber("a");
    let status = relay.wait_state("live");
    assert_eq!(status["upstream"]["transport"], transport);
    hub.wait_for(&format!("GET /{transport}/a "));
    relay.wait_metric("tidegate_link_frames_in_total", 1.0);
    for n in 1..=3 {
        hub.event("a", n);
    }
    assert_eq!(numbers(&mut client, 3), named("a", 1..=3), "{transport}");

    // What happens while the connection is away comes when it is back, once.
    hub.cut(true);
    for n in 4..=6 {
        hub.event("a", n);
    }
    relay.wait_metric("tidegate_link_attempts_total", 2.0);
    hub.open();
    assert_eq!(numbers(&mut client, 3), named("a", 4..=6), "{transport}");
    hub.event("a", 7);
    assert_eq!(numbers(&mut client, 1), named("a", [7]), "{transport}");

    // Another channel means another address; the first one goes on.
    let mut both = relay.subscriber("b");
    hub.wait_for(&format!("GET /{transport}/a,b "));
    both.subscribe("a");
    hub.event("b", 1);
    assert_eq!(numbers(&mut both, 1), named("b", [1]), "{transport}");
    hub.event("a", 8);
    assert_eq!(numbers(&mut client, 1), named("a", [8]), "{transport}");
    assert_eq!(numbers(&mut both, 1), named("a", [8]), "{transport}");

    let message = client.publish(json!({"channel": "a", "data": {"text": "up"}}));
    relay.wait_settled();
    assert_eq!(hub.posts(), [json!({"text": "up"})]);
    let told = relay.ask(&format!("GET /v1/messages/{message}"), &[], "").json();
    assert_eq!(told["state"], "delivered", "{told}");
    relay.stop();
}

#[test]
fn an_event_stream_brings_everything_once() {
    over("sse");
}

#[test]
fn long_polls_bring_everything_once() {
    over("long-poll");
}

#[test]
fn polls_bring_everything_once() {
    over("poll");
}

#[test]
fn nothing_is_connected_for_nobody_and_many_wishes_make_one_connection() {
    let hub = Hub::new();
    let relay = place(&hub, "sse").start();
    let mut client = relay.client();
    client.barrier();
    assert_eq!(hub.asked("GET"), 0, "an address without channels is none");
    for channel in ["a", "b", "c"] {
        client.subscribe(channel);
    }
    relay.wait_state("live");
    hub.wait_for("GET /sse/a,b,c ");
    assert!(hub.asked("GET") <= 2, "{}", hub.asked("GET"));
    relay.stop();
}
