//! Another connection takes over, and another transport: the sessions read on as if nothing had happened, and where
//! something is missing they are told what.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::client::Client;
use crate::common::until;
use crate::hub::{Hub, anywhere, numbered, with_websocket};
use crate::rig::{Place, Relay};
use crate::transports::{named, numbers};
use crate::upstream::Upstream;

/// The plain dialect, with numbers that have no holes.
const PLAIN: &str = include_str!("../../config/dialects/plain.toml");

fn with_dialect(mut place: Place, text: &str) -> Place {
    std::fs::write(place.path("dialect.toml"), text).unwrap();
    let path = format!("{:?}", place.path("dialect.toml"));
    place.set("upstream.dialect", &path);
    place
}

fn event(n: u64) -> String {
    json!({"type": "event", "channel": "a", "seq": n, "data": n}).to_string()
}

#[test]
fn a_rotation_while_events_flow_brings_each_number_once() {
    /// How far the older connection is behind the newer one, at first.
    const LAG: u64 = 40;
    let upstream = Upstream::plain();
    let dialect = format!("{PLAIN}\n[gap]\nscope = \"channel\"\n");
    let relay = with_dialect(Place::new(&upstream), &dialect).start_live();
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    let (mut sent, mut older, mut lag, mut seen, mut last) = (0, 0, LAG, 0, None);
    while last.is_none_or(|last| sent < last) {
        sent += 1;
        if upstream.frames("subscribe").iter().any(|got| got.connection == 1) {
            upstream.push_to(1, &event(sent));
            lag = lag.saturating_sub(1);
        }
        while sent - older > lag {
            older += 1;
            upstream.push_to(0, &event(older));
        }
        if sent == 2 * LAG {
            assert_eq!(relay.tell("POST /v1/upstream/rotate", &[], "").status, 202);
        }
        if older > seen {
            assert_eq!(numbers(&mut client, 1), named("a", [seen + 1]));
            seen += 1;
        }
        if upstream.is_over(0) {
            last.get_or_insert(sent + LAG);
        }
    }
    let rest = usize::try_from(sent - seen).unwrap();
    assert_eq!(numbers(&mut client, rest), named("a", seen + 1..=sent));
    assert_eq!((upstream.opened(), upstream.is_over(1)), (2, false));
    assert_eq!(relay.metric("tidegate_link_rotations_total"), 1.0);
    assert_eq!(relay.metric("tidegate_link_transport_switches_total"), 0.0);
    relay.stop();
}

fn either(hub: &Hub, dialect: &str) -> Place {
    let mut place = with_dialect(Place::at(&hub.url()), dialect);
    place.set("upstream.transports", r#"["websocket", "sse"]"#);
    place
}

fn wait_over(relay: &Relay, transport: &str) {
    until(&format!("a connection over {transport}"), || {
        let link = &relay.status()["upstream"];
        (link["state"] == "live" && link["transport"] == transport).then_some(())
    });
}

#[test]
fn a_refused_transport_gives_way_to_the_next_one_and_numbers_tell_what_that_cost() {
    const SWITCHES: &str = "tidegate_link_transport_switches_total";
    let hub = Hub::new();
    let relay = either(&hub, &numbered()).start();
    let mut client = relay.subscriber("a");
    wait_over(&relay, "websocket");
    (1..=3).for_each(|n| hub.event("a", n));
    assert_eq!(numbers(&mut client, 3), named("a", 1..=3));
    assert_eq!(hub.asked("GET /sse/"), 0);

    // Something on the way lets no WebSocket through any more. Nothing happens meanwhile: nothing is missing, and nothing told.
    hub.refuse(&["ws"]);
    hub.cut(false);
    wait_over(&relay, "sse");
    assert_eq!((hub.asked("GET /ws/a "), hub.asked("GET /sse/a ")), (4, 1), "one that served, three refusals");
    (4..=6).for_each(|n| hub.event("a", n));
    assert_eq!(numbers(&mut client, 3), named("a", 4..=6));
    assert_eq!(relay.metric(SWITCHES), 1.0);

    // After the last one the best one again, from now on: what happened meanwhile is missing, and told.
    hub.refuse(&["ws", "sse"]);
    hub.cut(false);
    hub.event("a", 7);
    hub.refuse(&["sse"]);
    wait_over(&relay, "websocket");
    hub.event("a", 8);
    let gap = client.next_of("gap");
    assert_eq!((&gap["reason"], &gap["from"], &gap["to"]), (&json!("upstream_seq"), &json!(7), &json!(7)), "{gap}");
    assert_eq!(numbers(&mut client, 1), named("a", [8]));
    assert_eq!(relay.metric(SWITCHES), 2.0);
    relay.stop();
}

#[test]
fn without_numbers_the_way_from_one_transport_to_the_next_is_a_gap() {
    let hub = Hub::new();
    let relay = either(&hub, &with_websocket()).start();
    let mut client = relay.subscriber("a");
    wait_over(&relay, "websocket");
    hub.event("a", 1);
    assert_eq!(numbers(&mut client, 1), named("a", [1]));
    hub.refuse(&["ws"]);
    hub.cut(false);
    wait_over(&relay, "sse");
    hub.event("a", 2);
    let gap = client.next_of("gap");
    assert_eq!((&gap["reason"], &gap["continuity"]), (&json!("transport_switch"), &json!("unknown")), "{gap}");
    assert_eq!(numbers(&mut client, 1), named("a", [2]), "one gap, not one for each refusal");
    relay.stop();
}

/// Ends the thread that makes events, also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn down_and_up_the_ladder_again_and_again_brings_each_event_once() {
    /// Down and up again.
    const ROUNDS: u32 = 5;
    let hub = Hub::new();
    let mut place = either(&hub, &anywhere());
    let ladder = r#"["websocket", "sse", "long-poll"]"#;
    let relay = place.set("upstream.transports", ladder).set("upstream.climb_after", "\"150ms\"").start();
    let mut client = relay.subscriber("a");
    wait_over(&relay, "websocket");
    let (stop, sent, mut seen) = (AtomicBool::new(false), AtomicU64::new(0), 0);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                hub.event("a", sent.load(Ordering::Relaxed) + 1);
                sent.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let mut read_on = |client: &mut Client| {
            let to = sent.load(Ordering::Relaxed) + 10;
            assert_eq!(numbers(client, usize::try_from(to - seen).unwrap()), named("a", seen + 1..=to));
            seen = to;
        };
        read_on(&mut client);
        for _ in 0..ROUNDS {
            for (refused, next) in [(&["ws"][..], "sse"), (&["ws", "sse"], "long-poll")] {
                hub.refuse(refused);
                hub.cut(false);
                wait_over(&relay, next);
                read_on(&mut client);
            }
            hub.refuse(&[]);
            wait_over(&relay, "websocket");
            read_on(&mut client);
        }
    });
    let rest = usize::try_from(sent.load(Ordering::Relaxed) - seen).unwrap();
    assert_eq!(numbers(&mut client, rest), named("a", seen + 1..=seen + rest as u64));
    assert_eq!(relay.metric("tidegate_link_transport_switches_total"), f64::from(4 * ROUNDS));
    relay.stop();
}

#[test]
fn a_lost_endpoint_gives_way_to_another_one_and_is_remembered() {
    let (first, second) = (Hub::new(), Hub::new());
    let mut place = with_dialect(Place::at(&first.url()), &with_websocket());
    let endpoints = format!("[{{ url = {:?}, weight = 1000 }}, {:?}]", first.url(), second.url());
    let relay = place.unset("upstream.url").set("upstream.endpoints", &endpoints).start();
    let mut client = relay.subscriber("a");
    let serves = |hub: &Hub| {
        until(&format!("a connection to {}", hub.url()), || {
            let link = relay.status()["upstream"].clone();
            (link["state"] == "live" && link["endpoint"] == hub.url()).then_some(link)
        })
    };
    let mut lost = &first;
    if relay.wait_state("live")["upstream"]["endpoint"] != first.url() {
        lost = &second;
    }
    for n in 1..=3 {
        let next = if std::ptr::eq(lost, &raw const first) { &second } else { &first };
        lost.cut(true);
        let link = serves(next);
        let of = |hub: &Hub| {
            let all = link["endpoints"].as_array().unwrap();
            all.iter().find(|one| one["endpoint"] == hub.url()).unwrap()["failures"].as_u64().unwrap()
        };
        assert!(of(lost) > 0, "{link}");
        assert_eq!(client.next_of("gap")["reason"], "reconnect");
        next.event("a", n);
        assert_eq!(numbers(&mut client, 1), named("a", [n]));
        lost.open();
        lost = next;
    }
    relay.stop();
}
