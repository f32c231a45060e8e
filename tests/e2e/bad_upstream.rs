//! What upstream sends that it should not: nothing panics, stalls or passes silently.

use serde_json::json;

use crate::client::Continuity;
use crate::common::until;
use crate::rig::Place;
use crate::upstream::{Upstream, frame, plain_answer};

#[test]
fn messages_that_make_no_sense_are_counted_and_cost_no_connection() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    let deep = "[".repeat(100_000);
    let closed = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let malformed =
        ["", "hello", "{", "{\"type\":\"event\"} {}", "{\"a\":1,}", "[01]", "\"\\ud8\"", "NaN", &deep, &closed];
    let unmatched = [
        "{}",
        "[]",
        "7",
        "null",
        "1e999",
        "\"\\ud800\"",
        "{\"type\":\"news\"}",
        "{\"type\":[\"event\"]}",
        "{\"type\":\"event\\u0000\"}",
    ];
    let unextracted = ["{\"type\":\"event\"}", "{\"type\":\"event\",\"channel\":[],\"data\":1}"];
    let unexpected = ["{\"type\":\"ack\",\"id\":12345678}", "{\"type\":\"error\",\"message\":\"about what?\"}"];
    for text in malformed.iter().chain(&unmatched).chain(&unextracted).chain(&unexpected) {
        upstream.push(text);
    }
    // Binary that is neither UTF-8 nor JSON is a message that makes no sense, not a broken frame.
    upstream.raw(&frame(0x82, b"\xff\xfe\x00"));
    upstream.event("nobody wants this", &json!(1));
    (0..2_000).for_each(|_| upstream.raw(&frame(0x89, b"flood")));
    upstream.raw(&frame(0x8a, b"a pong to nothing"));
    // Numbers that no type holds and repeated names are the payload's own business.
    upstream.push(r#"{"type":"event","channel":"a","data":{"n":1,"n":123456789012345678901234567890.10}}"#);
    assert!(client.next_text("event").contains(r#""data":{"n":1,"n":123456789012345678901234567890.10}}"#));
    let digits = "9".repeat(5_000);
    for data in ["1e999", r#"{"half":"\ud800"}"#, &digits] {
        upstream.push(&format!(r#"{{"type":"event","channel":"a","ts":1e400,"data":{data}}}"#));
        let text = client.next_text("event");
        assert!(text.ends_with(&format!(",\"data\":{data}}}")) && !text.contains("source_time"), "{text}");
    }

    let read = |name: &str| relay.metric(name);
    assert_eq!(read("tidegate_dialect_malformed_total"), malformed.len() as f64 + 1.0);
    assert_eq!(read("tidegate_dialect_unmatched_total"), unmatched.len() as f64);
    assert_eq!(read("tidegate_dialect_unextracted_total"), unextracted.len() as f64);
    assert_eq!(read("tidegate_dialect_unexpected_total"), unexpected.len() as f64);
    assert_eq!(read("tidegate_feed_dropped_total{reason=\"unwanted\"}"), 1.0);
    until("a pong at least for the last ping", || (upstream.pongs() >= 1).then_some(()));
    assert!(client.barrier().is_empty(), "clients hear of none of it");
    assert_eq!(upstream.opened(), 1);
    relay.stop();
}

#[test]
fn frames_that_are_no_websocket_end_the_connection_and_are_told() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let relay = place.set("upstream.max_frame", r#""64KiB""#).start_live();
    let mut client = relay.subscriber("a");
    let fragments = {
        let mut wire = frame(0x01, b"x");
        (0..70_000).for_each(|_| wire.extend(frame(0x00, b"x")));
        wire
    };
    let masked = [0x81, 0x82, 1, 2, 3, 4, b'{' ^ 1, b'}' ^ 2];
    let huge = [&[0x81, 127][..], &(1_u64 << 62).to_be_bytes()].concat();
    let wrong: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no UTF-8", frame(0x81, b"\xff"), "not_utf8"),
        ("no UTF-8 over two fragments", [frame(0x01, b"\xe2"), frame(0x80, b"x")].concat(), "not_utf8"),
        ("reserved bits", frame(0xc1, b"{}"), "protocol"),
        ("a reserved opcode", frame(0x83, b"{}"), "protocol"),
        ("a mask", masked.to_vec(), "protocol"),
        ("a continuation of nothing", frame(0x80, b"{}"), "protocol"),
        ("a fragmented ping", frame(0x09, b""), "protocol"),
        ("half a close code", frame(0x88, b"x"), "protocol"),
        ("a close code that must not be sent", frame(0x88, &1005_u16.to_be_bytes()), "protocol"),
        ("garbage", b"HTTP/1.1 200 OK\r\n".repeat(100), "protocol"),
        ("too large", frame(0x81, &vec![b' '; 65_537]), "oversize"),
        ("endless fragments", fragments, "oversize"),
        ("larger than memory", huge, "oversize"),
    ];
    for (n, (what, bytes, reason)) in wrong.iter().enumerate() {
        upstream.wait_for("subscribe", n + 1);
        upstream.event("a", &json!(what));
        assert_eq!(client.next_of("event")["data"], *what);
        upstream.raw(bytes);
        let gap = client.next_of("gap");
        let told = if *reason == "oversize" { "oversize" } else { "reconnect" };
        assert_eq!((&gap["channel"], &gap["to"]), (&json!("a"), &json!(null)), "{what}: {gap}");
        assert_eq!((&gap["reason"], &gap["continuity"]), (&json!(told), &json!("unknown")), "{what}: {gap}");
        let of_reason = wrong[..=n].iter().filter(|(.., have)| have == reason).count();
        let metric = format!("tidegate_link_disconnects_total{{reason=\"{reason}\"}}");
        assert_eq!(relay.metric(&metric), of_reason as f64, "{what}");
    }
    upstream.wait_for("subscribe", wrong.len() + 1);
    upstream.event("a", &json!("and still"));
    assert_eq!(client.next_of("event")["data"], "and still");
    let gaps = |reason| relay.metric(&format!("tidegate_feed_gaps_total{{reason=\"{reason}\"}}"));
    assert_eq!(gaps("reconnect") + gaps("oversize"), wrong.len() as f64);
    assert!(relay.peak_memory() < 256 << 20, "what is announced is not allocated");
    relay.stop();
}

#[test]
fn acknowledgements_that_are_wrong_settle_nothing_else() {
    // Each publish is answered with the wrong number first, then twice with the right one.
    let upstream = Upstream::answering(|got| {
        let answer = plain_answer(&got.json);
        if !got.is("publish") {
            return answer;
        }
        let wrong = json!({"type": "ack", "id": got.json["id"].as_u64().unwrap() + 1_000}).to_string();
        [&[wrong][..], &answer, &answer].concat()
    });
    let relay = Place::new(&upstream).start_live();
    let mut client = relay.client();
    let mut outcomes = 0;
    for n in 0..5 {
        client.publish(json!({"channel": "orders", "data": n}));
        assert_eq!(client.next_of("outcome")["state"], "delivered");
        outcomes += client.barrier().len() + 1;
    }
    assert_eq!(outcomes, 5, "one each");
    relay.wait_settled();
    relay.wait_metric("tidegate_dialect_unexpected_total", 10.0);
    assert_eq!(relay.metric("tidegate_outbox_outcomes_total{state=\"delivered\"}"), 5.0);
    assert_eq!(upstream.frames("publish").len(), 5);
    relay.stop();
}

/// Upstream's clock decides nothing: neither order, nor what is too old to be kept, nor whether a cursor holds.
#[test]
fn times_that_are_wrong_order_and_end_nothing() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).set("feed.ring", r#"{ events = 100, bytes = "1MiB", age = "1h" }"#).start_live();
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    let times = [
        json!(1_795_231_888_123_u64),
        json!("9999-12-31T23:59:59Z"),
        json!(0),
        json!(-5),
        json!("1970-01-01T00:00:00Z"),
        json!("soon"),
        json!(1e300),
        json!({}),
        json!(null),
        json!(1_795_231_888_124_u64),
    ];
    for (n, time) in times.iter().enumerate() {
        upstream.push(&json!({"type": "event", "channel": "a", "ts": time, "data": n}).to_string());
    }
    let mut seen = Continuity::default();
    seen.read(1, || client.next());
    let first = seen.cursor.clone();
    seen.read(times.len(), || client.next());
    let all: Vec<_> = (0..times.len()).map(|n| json!(n)).collect();
    assert_eq!(seen.data, all, "in the order in which they came");

    let mut back = relay.client();
    back.resume(&["a"], &first);
    assert_eq!(back.next_of("subscribed")["resumed"], true);
    let mut again = Continuity::default();
    again.read(times.len() - 1, || back.next());
    assert_eq!(again.data, all[1..], "none is too old");
    relay.stop();
}

#[test]
fn what_the_dialect_does_not_know_is_shown_without_secrets_and_can_be_explained() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    place.set("access.mode", r#""tokens""#);
    let grant = |name: &str, read: &str| format!(r#"{{ name = "{name}", token = "{name}", read = ["{read}"] }}"#);
    place.set("access.tokens", &format!("[{}, {}]", grant("everything", "*"), grant("operator", "$unmatched")));
    let relay = place.start_live();
    let mut app = relay.client_as("everything");
    app.request(json!({"op": "subscribe", "channels": ["$unmatched"]}));
    assert_eq!(app.next_of("error")["code"], "forbidden", "only who is named for it");
    let mut operator = relay.client_as("operator");
    operator.subscribe("$unmatched");
    upstream.push(r#"{"type":"brand_new","password":"hunter2","n":1}"#);
    let event = operator.next_of("event");
    let sample = event["data"]["sample"].as_str().unwrap().to_owned();
    assert_eq!(sample, r#"{"n":1,"password":"***","type":"brand_new"}"#);
    relay.wait_metric("tidegate_dialect_unmatched_total", 1.0);
    let shapes = relay.status()["not_understood"]["shapes"].clone();
    assert_eq!((&shapes[0]["sample"], &shapes[0]["sampled"]), (&json!(sample), &json!(1)), "{shapes}");
    let explain = ["dialect", "explain", "plain", &sample];
    let explained = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate")).args(explain).output().unwrap();
    assert!(String::from_utf8_lossy(&explained.stdout).contains("unmatched"), "{explained:?}");
    relay.stop();
}
