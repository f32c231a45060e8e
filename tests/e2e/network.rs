//! The way to upstream, in a network that loses packets: what vanishes, crawls, goes down and comes back.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::Client;
use crate::common::until;
use crate::hub::Hub;
use crate::island::{Island, on_an_island};
use crate::rig::{Place, Relay};
use crate::upstream::{Got, Upstream, plain_answer};

fn answer(got: &Got) -> Vec<String> {
    plain_answer(&got.json)
}

/// A relay that is connected, and an app that reads `a` and got its first event.
fn begun(upstream: &Upstream, place: &Place) -> (Relay, Client) {
    let relay = place.start_live();
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    upstream.event("a", &json!("first"));
    assert_eq!(client.next_of("event")["data"], "first");
    (relay, client)
}

/// What the app has to see of a connection that was lost …
fn missed(client: &mut Client) {
    let gap = client.next_of("gap");
    assert_eq!((&gap["reason"], &gap["continuity"]), (&json!("reconnect"), &json!("unknown")), "{gap}");
}

/// … and of the one after it.
fn over_it(upstream: &Upstream, client: &mut Client) {
    upstream.wait_for("subscribe", 2);
    upstream.event("a", &json!("later"));
    assert_eq!(client.next_of("event")["data"], "later");
}

fn lost(relay: &Relay, reason: &str) -> bool {
    relay.find_metric(&format!("tidegate_link_disconnects_total{{reason=\"{reason}\"}}")).is_some_and(|n| n >= 1.0)
}

/// Neither side hears of the other any more, and nobody says so.
#[test]
fn a_peer_that_vanishes_is_noticed_and_found_again() {
    on_an_island("network::a_peer_that_vanishes_is_noticed_and_found_again", |island| {
        let upstream = island.upstream(answer);
        let mut place = Place::new(&upstream);
        place.set("upstream.ping_interval", r#""500ms""#).set("upstream.connect_timeout", r#""500ms""#);
        let (relay, mut client) = begun(&upstream, &place);
        island.silence(upstream.port());
        until("the end of the connection", || {
            (lost(&relay, "heartbeat") || lost(&relay, "write_timeout")).then_some(())
        });
        missed(&mut client);
        // Connecting leads nowhere either.
        relay.wait_metric("tidegate_link_disconnects_total{reason=\"connect_timeout\"}", 2.0);
        let message = client.publish(json!({"channel": "orders", "data": 1}));
        island.calm();
        over_it(&upstream, &mut client);
        relay.wait_settled();
        assert_eq!(relay.ask(&format!("GET /v1/messages/{message}"), &[], "").json()["state"], "delivered");
        relay.stop();
    });
}

/// The interface goes down and comes back, before anybody gave the connection up and after it.
#[test]
fn an_interface_that_goes_down_costs_a_gap_and_nothing_else() {
    on_an_island("network::an_interface_that_goes_down_costs_a_gap_and_nothing_else", |island| {
        let upstream = island.upstream(answer);
        let mut place = Place::new(&upstream);
        place.set("upstream.ping_interval", r#""1s""#);
        let (relay, mut client) = begun(&upstream, &place);
        island.down();
        upstream.event("a", &json!("on its way"));
        island.up();
        assert_eq!(client.next_of("event")["data"], "on its way", "TCP brings it, and nobody noticed");

        island.down();
        until("the end of the connection", || {
            (lost(&relay, "heartbeat") || lost(&relay, "write_timeout")).then_some(())
        });
        relay.wait_metric("tidegate_link_disconnects_total{reason=\"unreachable\"}", 2.0);
        island.up();
        missed(&mut client);
        over_it(&upstream, &mut client);
        relay.stop();
    });
}

/// Small packets pass, large ones vanish: the connection seems alive, and what is large never arrives.
#[test]
fn large_packets_that_vanish_cost_the_connection_and_not_what_is_small() {
    on_an_island("network::large_packets_that_vanish_cost_the_connection_and_not_what_is_small", |island| {
        let upstream = island.upstream(answer);
        let mut place = Place::new(&upstream);
        place.set("upstream.ping_interval", r#""1s""#).set("upstream.ping_misses", "1").set("outbox.max_attempts", "2");
        let (relay, mut client) = begun(&upstream, &place);
        island.rule(&format!("tcp dport {} meta length > 1000 drop", upstream.port()));
        client.publish(json!({"channel": "orders", "data": "x".repeat(20_000)}));
        let outcome = client.next_of("outcome");
        assert_eq!(
            (&outcome["state"], &outcome["reason"]),
            (&json!("dead_lettered"), &json!("max_attempts")),
            "{outcome}"
        );
        assert!(lost(&relay, "write_timeout") || lost(&relay, "heartbeat"), "{}", relay.status());
        // It does not stand in the way of the small ones.
        client.publish(json!({"channel": "orders", "data": 1}));
        assert_eq!(client.next_of("outcome")["state"], "delivered");
        relay.stop();
    });
}

/// What we send crawls; what comes does not.
#[test]
fn a_way_up_that_crawls_is_seen_and_holds_no_event_back() {
    on_an_island("network::a_way_up_that_crawls_is_seen_and_holds_no_event_back", |island| {
        let upstream = island.upstream(answer);
        let mut place = Place::new(&upstream);
        place.set("upstream.ping_interval", r#""60s""#).set("outbox.window", "1000");
        let (relay, mut client) = begun(&upstream, &place);
        let (port, rate) = (upstream.port(), "limit rate over 20 kbytes/second burst 20 kbytes drop");
        island.rule(&format!("tcp dport {port} meta length > 100 {rate}"));
        let large = "x".repeat(100_000);
        (0..80).for_each(|_| drop(client.publish(json!({"channel": "orders", "data": large}))));
        relay.wait_metric("tidegate_link_write_stall_seconds", 0.2);
        upstream.event("a", &json!("meanwhile"));
        assert_eq!(client.next_of("event")["data"], "meanwhile");
        assert_eq!(relay.status()["upstream"]["state"], "live");
        island.calm();
        relay.wait_settled();
        assert_eq!(upstream.opened(), 1, "slow is not dead");
        relay.stop();
    });
}

/// One packet of twenty is lost each way: TCP mends it, late; that is no reason to connect anew.
#[test]
fn a_path_that_loses_packets_is_slow_and_not_dead() {
    const EVENTS: usize = 300;
    // A session may ask for twice as much at once.
    const MESSAGES: usize = 100;
    on_an_island("network::a_path_that_loses_packets_is_slow_and_not_dead", |island| {
        let upstream = island.upstream(answer);
        let mut place = Place::new(&upstream);
        place.set("upstream.ping_interval", r#""5s""#).set("upstream.ping_misses", "6");
        let (relay, mut client) = begun(&upstream, &place);
        let port = upstream.port();
        island.rule(&format!("tcp dport {port} numgen random mod 20 < 1 drop"));
        island.rule(&format!("tcp sport {port} numgen random mod 20 < 1 drop"));
        for n in 0..EVENTS {
            upstream.event("a", &json!(n));
        }
        let read: Vec<Value> = (0..EVENTS).map(|_| client.next_of("event")["data"].clone()).collect();
        assert_eq!(read, (0..EVENTS).map(|n| json!(n)).collect::<Vec<_>>(), "all of them, in order");
        (0..MESSAGES).for_each(|n| drop(client.publish(json!({"channel": "orders", "data": n}))));
        relay.wait_settled();
        assert_eq!(relay.metric("tidegate_outbox_retries_total"), 0.0);
        relay.wait_metric("tidegate_link_rtt_seconds_count", 1.0);
        assert_eq!(upstream.opened(), 1);
        island.calm();
        relay.stop();
    });
}

/// Who only listens has no ping that could go unanswered.
#[test]
fn a_peer_that_vanishes_from_an_event_stream_or_a_long_poll_is_noticed_too() {
    on_an_island("network::a_peer_that_vanishes_from_an_event_stream_or_a_long_poll_is_noticed_too", |island| {
        for transport in ["sse", "long-poll"] {
            let hub = Hub::new();
            let mut place = Place::at(&hub.url());
            std::fs::write(place.path("hub.toml"), crate::hub::DIALECT).unwrap();
            let dialect = format!("{:?}", place.path("hub.toml"));
            place.set("upstream.dialect", &dialect).set("upstream.transports", &format!("[{transport:?}]"));
            place.set("upstream.ping_interval", r#""1s""#).set("upstream.connect_timeout", r#""500ms""#);
            let relay = place.start();
            let mut client = relay.subscriber("a");
            hub.wait_for(&format!("GET /{transport}/a "));
            relay.wait_metric("tidegate_link_frames_in_total", 1.0);
            hub.event("a", 1);
            assert_eq!(client.next_of("event")["data"], 1);
            island.silence(hub.port());
            relay.wait_metric("tidegate_link_disconnects_total{reason=\"connect_timeout\"}", 2.0);
            hub.event("a", 2);
            island.calm();
            assert_eq!(client.next_of("event")["data"], 2, "{transport} goes on where it ended");
            relay.stop();
        }
    });
}

/// How the name server answers.
const GOOD: u8 = 0;
const UNKNOWN: u8 = 3;
const FAILURE: u8 = 2;
const SILENT: u8 = 255;

/// Answers each question (RFC 1035) as it is told to: with upstream's addresses, a code, or not at all.
fn name_server(island: &Island, socket: UdpSocket, mode: Arc<AtomicU8>) {
    let addresses = island.addresses();
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let code = mode.load(Relaxed);
            if code == SILENT || length < 12 {
                continue;
            }
            // The question ends with its type and class; what comes behind it (EDNS) is not answered.
            let end = 12 + question[12..length].iter().position(|byte| *byte == 0).unwrap_or(0) + 5;
            let asks_for_v4 = question[end - 3] == 1;
            let answers: &[Ipv4Addr] = if code == GOOD && asks_for_v4 { &addresses } else { &[] };
            let mut answer = question[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, answers.len() as u8, 0, 0, 0, 0]);
            for address in answers {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                answer.extend(address.octets());
            }
            let _ = socket.send_to(&answer, from);
        }
    });
}

/// The first address is dead and does not say so.
#[test]
fn an_address_that_is_silent_does_not_hide_the_next_one() {
    on_an_island("network::an_address_that_is_silent_does_not_hide_the_next_one", |island| {
        let dir = tempfile::tempdir().unwrap();
        name_server(island, island.name_server(dir.path()), Arc::new(AtomicU8::new(GOOD)));
        let upstream = island.upstream(answer);
        let place = Place::at(&format!("ws://upstream.example:{}/", upstream.port()));
        let relay = place.start_live();
        assert_eq!(relay.metric("tidegate_link_attempts_total"), 1.0, "the first attempt finds it");
        relay.stop();
    });
}

/// The name is there, gone, the server fails, falls silent, and all of it again.
#[test]
fn a_name_that_comes_and_goes_is_found_whenever_it_is_there() {
    on_an_island("network::a_name_that_comes_and_goes_is_found_whenever_it_is_there", |island| {
        let dir = tempfile::tempdir().unwrap();
        let mode = Arc::new(AtomicU8::new(UNKNOWN));
        name_server(island, island.name_server(dir.path()), mode.clone());
        let upstream = island.upstream(answer);
        let mut place = Place::at(&format!("ws://upstream.example:{}/", upstream.port()));
        let relay = place.set("upstream.connect_timeout", r#""2s""#).start();
        let mut client = relay.subscriber("a");
        let failures = |relay: &Relay| {
            let read = relay.find_metric("tidegate_link_disconnects_total{reason=\"dns\"}");
            read.unwrap_or(0.0)
        };
        for (n, bad) in [UNKNOWN, FAILURE, SILENT].into_iter().enumerate() {
            mode.store(bad, Relaxed);
            upstream.cut();
            let before = failures(&relay);
            until("lookups that fail", || (failures(&relay) >= before + 3.0).then_some(()));
            let detail = relay.status()["upstream"]["last_ending"]["detail"].clone();
            assert!(detail.as_str().unwrap().contains("upstream.example"), "{detail}");
            mode.store(GOOD, Relaxed);
            upstream.wait_for("subscribe", n + 1);
            upstream.event("a", &json!(n));
            assert_eq!(client.next_of("event")["data"], n);
        }
        // Not even a lookup that hangs for minutes keeps the process from its end.
        mode.store(SILENT, Relaxed);
        upstream.cut();
        let before = failures(&relay);
        until("lookups that fail", || (failures(&relay) > before).then_some(()));
        relay.signal(Signal::TERM);
        relay.end();
    });
}
