//! What clients send that they should not: told, counted, limited; nobody else notices.

use std::io::Write;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::rig::{Place, Relay};
use crate::upstream::{Upstream, frame};

/// A frame as a client sends it.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = frame(first, payload);
    let head = out.len() - payload.len();
    out[1] |= 0x80;
    let mask = [7, 11, 13, 17];
    for (n, byte) in out[head..].iter_mut().enumerate() {
        *byte ^= mask[n % 4];
    }
    out.splice(head..head, mask);
    out
}

/// Somebody who does nothing wrong, and still gets everything in the end.
fn innocent(relay: &Relay, upstream: &Upstream) -> impl FnOnce() {
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    move || {
        upstream.event("a", &json!("still here"));
        assert_eq!(client.next_of("event")["data"], "still here");
    }
}

#[test]
fn wrong_requests_get_an_error_and_keep_the_connection() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let relay = place.set("outbox.message_max", r#""1KiB""#).start_live();
    let unharmed = innocent(&relay, &upstream);
    let deep = "[".repeat(10_000);
    let deep_data = format!(r#"{{"op":"publish","channel":"a","data":{}{}}}"#, "[".repeat(100), "]".repeat(100));
    let large = json!({"op": "publish", "channel": "a", "data": "x".repeat(2_000)}).to_string();
    let long_name = json!({"op": "subscribe", "channels": ["x".repeat(257)]}).to_string();
    let wrong: Vec<(&str, &str, &str)> = vec![
        ("", "invalid", ""),
        ("not JSON", "invalid", ""),
        ("[]", "invalid", ""),
        ("\"op\"", "invalid", ""),
        ("{\"op\":\"ping\"", "invalid", ""),
        ("{\"op\":\"ping\",\"x\":\"\u{0}\"}", "invalid", ""),
        (&deep, "invalid", "deeper"),
        (&deep_data, "invalid", "deeper"),
        ("{}", "invalid", "`op` is missing"),
        (r#"{"op":5}"#, "invalid", ""),
        (r#"{"op":"dance"}"#, "not_supported", "dance"),
        (r#"{"op":"ping","colour":1}"#, "invalid", "colour"),
        (r#"{"op":"ping","ref":{}}"#, "invalid", "`ref`"),
        (r#"{"op":"subscribe"}"#, "invalid", "`channels`"),
        (r#"{"op":"subscribe","channels":"a"}"#, "invalid", "list"),
        (r#"{"op":"subscribe","channels":[]}"#, "invalid", "empty"),
        (r#"{"op":"subscribe","channels":[7]}"#, "invalid", ""),
        (r#"{"op":"subscribe","channels":["a*b"]}"#, "invalid", "%2A"),
        (r#"{"op":"subscribe","channels":["a\nb"]}"#, "invalid", "control"),
        (&long_name, "invalid", "256"),
        (r#"{"op":"subscribe","channels":["a"],"since":7}"#, "invalid", "since"),
        (r#"{"op":"subscribe","channels":["a"],"options":[]}"#, "invalid", "options"),
        (r#"{"op":"subscribe","channels":["a"],"options":{"speed":1}}"#, "not_supported", "speed"),
        (r#"{"op":"subscribe","channels":["a"],"options":{"conflate":"1 s"}}"#, "invalid", "250ms"),
        (r#"{"op":"subscribe","channels":["a"],"options":{"on_slow":"cry"}}"#, "invalid", "conflate"),
        (r#"{"op":"subscribe","channels":["$outbox/x"]}"#, "not_found", "no such message"),
        (r#"{"op":"refresh"}"#, "invalid", "channel"),
        (r#"{"op":"publish","channel":"a"}"#, "invalid", "`data`"),
        (r#"{"op":"publish","channel":"a*","data":1}"#, "invalid", "pattern"),
        (r#"{"op":"publish","channel":"$status","data":1}"#, "invalid", "own"),
        (r#"{"op":"publish","channel":"a","data":1,"ttl":"soon"}"#, "invalid", "soon"),
        (r#"{"op":"publish","channel":"a","data":1,"ttl":"1s","volatile":true}"#, "invalid", "volatile"),
        (r#"{"op":"publish","channel":"a","data":1,"coalesce":true}"#, "invalid", "order_key"),
        (r#"{"op":"publish","channel":"a","data":1,"optimistic":{}}"#, "invalid", "value"),
        (r#"{"op":"publish","messages":[{"channel":"a","data":1},{"channel":"a"}]}"#, "invalid", "messages[1]"),
        (&large, "too_large", "1024"),
        (r#"{"op":"cancel","message":"01J"}"#, "not_found", ""),
        (r#"{"op":"auth"}"#, "invalid", "token"),
    ];
    let mut client = relay.client();
    for (text, code, words) in &wrong {
        client.send(text);
        let error = client.next_of("error");
        assert_eq!(error["code"], *code, "{text:.80}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(!message.is_empty() && message.contains(words) && message.len() < 500, "{text:.80}: {error}");
        assert_eq!(error["retryable"], false, "{error}");
    }
    assert!(client.barrier().is_empty(), "one answer each");
    let count = |code: &str| wrong.iter().filter(|(_, have, _)| *have == code).count() as f64;
    for code in ["invalid", "not_supported", "too_large", "not_found"] {
        let metric = format!("tidegate_sessions_errors_total{{code=\"{code}\"}}");
        assert_eq!(relay.metric(&metric), count(code), "{code}");
    }
    assert_eq!(relay.metric("tidegate_outbox_accepted_total"), 0.0);
    unharmed();
    relay.stop();
}

#[test]
fn what_is_no_conversation_is_closed_with_its_code() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let relay = place.set("feed.request_max", r#""4KiB""#).start_live();
    let unharmed = innocent(&relay, &upstream);
    let huge = [&[0x81, 0xff][..], &(1_u64 << 62).to_be_bytes(), &[1, 2, 3, 4]].concat();
    let negative = [&[0x81, 0xff][..], &u64::MAX.to_be_bytes(), &[1, 2, 3, 4]].concat();
    let fragments = [masked(0x01, &[b' '; 3_000]), masked(0x00, &[b' '; 3_000])].concat();
    let wrong: Vec<(&str, Vec<u8>, u16)> = vec![
        ("binary", masked(0x82, b"{\"op\":\"ping\"}"), 4501),
        ("no UTF-8", masked(0x81, b"{\"op\":\"\xff\"}"), 4501),
        ("half a character", masked(0x81, b"\xe2\x82"), 4501),
        ("no mask", frame(0x81, b"{\"op\":\"ping\"}"), 4501),
        ("reserved bits", masked(0xc1, b"{\"op\":\"ping\"}"), 4501),
        ("a reserved opcode", masked(0x83, b"x"), 4501),
        ("a reserved control opcode", masked(0x8b, b"x"), 4501),
        ("a continuation of nothing", masked(0x80, b"x"), 4501),
        ("a message within a message", [masked(0x01, b"{"), masked(0x81, b"{}")].concat(), 4501),
        ("a fragmented ping", masked(0x09, b"x"), 4501),
        ("a long ping", masked(0x89, &[b'x'; 126]), 4501),
        ("half a close code", masked(0x88, b"x"), 4501),
        ("too large", masked(0x81, &[b' '; 4_097]), 4503),
        ("too large in fragments", fragments, 4503),
        ("larger than memory", huge, 4503),
        ("larger than numbers", negative, 4503),
    ];
    for (what, bytes, code) in &wrong {
        let mut client = relay.client();
        client.next_of("hello");
        client.stream().write_all(bytes).unwrap();
        assert_eq!(client.close_code(), Some(*code), "{what}");
    }
    let count = |code: u16| wrong.iter().filter(|(.., have)| *have == code).count() as f64;
    relay.wait_metric("tidegate_sessions_closed_total{reason=\"protocol\"}", count(4501));
    relay.wait_metric("tidegate_sessions_closed_total{reason=\"too_large\"}", count(4503));
    assert!(relay.peak_memory() < 256 << 20, "what is announced is not allocated");
    unharmed();
    relay.stop();
}

#[test]
fn what_is_only_unusual_is_understood() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    let mut client = relay.client();
    client.next_of("hello");
    let text = "{\"op\":\"publish\",\"ref\":\"€\",\"channel\":\"o\",\"data\":\"€\"}";
    let bytes = text.as_bytes();
    // A byte a fragment, so characters are cut too, with a ping between.
    let mut wire = masked(0x01, &bytes[..1]);
    for byte in &bytes[1..bytes.len() - 1] {
        wire.extend(masked(0x00, &[*byte]));
    }
    wire.extend(masked(0x89, b"are you there"));
    wire.extend(masked(0x80, &bytes[bytes.len() - 1..]));
    client.stream().write_all(&wire).unwrap();
    assert_eq!(client.next_of("accepted")["ref"], "€");
    assert_eq!(upstream.wait_for("publish", 1)[0].json["data"], "€");
    client.message(Message::Pong(Bytes::from_static(b"nobody asked")));
    client.message(Message::Ping(Bytes::new()));
    client.next_of("outcome");
    assert!(client.barrier().is_empty());
    // The client closes: the relay answers with the same code.
    client.stream().write_all(&masked(0x88, &1000_u16.to_be_bytes())).unwrap();
    assert_eq!(client.close_code(), Some(1000));
    relay.wait_metric("tidegate_sessions_closed_total{reason=\"client\"}", 1.0);
    relay.stop();
}

#[test]
fn too_many_requests_and_too_many_errors_have_limits() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    place.set("feed.session_errors", "5").set("feed.session_requests", "1");
    let relay = place.start_live();
    let unharmed = innocent(&relay, &upstream);
    let mut client = relay.client();
    // At once, so that a slow machine cannot make it a slow client.
    client.stream().write_all(&masked(0x81, b"{\"op\":\"ping\"}").repeat(100)).unwrap();
    let error = client.next_of("error");
    assert_eq!((&error["code"], &error["retryable"]), (&json!("limit_exceeded"), &json!(true)), "{error}");
    assert!(error["retry_after_ms"].as_u64().is_some_and(|wait| wait <= 2_000), "{error}");
    let closing = client.next_of("closing");
    assert_eq!((&closing["code"], &closing["reason"]), (&json!(4003), &json!("too_many_errors")), "{closing}");
    assert_eq!(client.close_code(), Some(4003));
    assert!(relay.metric("tidegate_throttled_total{place=\"request\"}") >= 5.0);
    unharmed();
    relay.stop();
}

#[test]
fn wrong_requests_over_http_are_problems() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let relay = place.set("feed.request_max", r#""4KiB""#).start_live();
    let large = format!("\"{}\"", "x".repeat(5_000));
    for (line, headers, body, status, code) in [
        ("POST /v1/publish", &[][..], "{", 400, "invalid"),
        ("POST /v1/publish", &[], r#"{"channel":"a"}"#, 400, "invalid"),
        ("POST /v1/publish", &[], r#"{"op":"subscribe","channel":"a","data":1}"#, 400, "invalid"),
        ("POST /v1/publish", &[], large.as_str(), 413, "too_large"),
        ("POST /v1/publish", &["Content-Length: 3"], "", 415, "unsupported_media_type"),
        ("GET /v1/publish", &[], "", 405, "method_not_allowed"),
        ("GET /v1/sse", &[], "", 400, "invalid"),
        ("GET /v1/sse?channel=a&colour=1", &[], "", 400, "invalid"),
        ("GET /v1/ws", &[], "", 426, "invalid"),
        ("GET /v1/poll?channel=a", &[], "", 422, "not_supported"),
        ("GET /v1/snapshot?channel=never", &[], "", 404, "not_found"),
        ("GET /v1/messages/01J", &[], "", 404, "not_found"),
        ("GET /nothing", &[], "", 404, "not_found"),
    ] {
        let answer = relay.ask(line, headers, body);
        assert_eq!(answer.status, status, "{line}: {}{}", answer.head, answer.body);
        assert!(answer.head.contains("application/problem+json"), "{line}: {}", answer.head);
        let problem: Value = answer.json();
        assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{line}: {problem}");
    }
    relay.stop();
}
