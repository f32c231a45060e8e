//! Arbitrary bytes, and bytes that look right: nothing panics, tables stay bounded, a conversation goes on.

use proptest::prelude::*;

use super::*;

/// Words that the built-in dialects look for, so that random messages reach their rules.
const KEYS: [&str; 36] = [
    "type",
    "channel",
    "id",
    "data",
    "seq",
    "stream",
    "e",
    "error",
    "code",
    "event",
    "params",
    "subscription",
    "result",
    "method",
    "push",
    "pub",
    "offset",
    "subscribe",
    "publications",
    "unsubscribe",
    "connect",
    "ping",
    "success",
    "req_id",
    "symbol",
    "product_id",
    "sequence",
    "time",
    "payload",
    "status",
    "response",
    "message",
    "ts",
    "U",
    "u",
    "was_recovering",
];
const TEXTS: [&str; 24] = [
    "event",
    "snapshot",
    "ack",
    "auth_ok",
    "error",
    "gone",
    "ping",
    "pong",
    "next",
    "complete",
    "phx_reply",
    "phx_close",
    "ok",
    "eth_subscription",
    "result",
    "subscriptions",
    "heartbeat",
    "depthUpdate",
    "a",
    "1",
    "2",
    "pusher:connection_established",
    "{\"socket_id\":1}",
    "2022-10-19T23:28:22Z",
];

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        (0u64..5).prop_map(Into::into),
        proptest::sample::select(&TEXTS[..]).prop_map(Into::into),
        "\\PC{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            proptest::collection::vec((proptest::sample::select(&KEYS[..]), inner), 0..6).prop_map(|members| {
                serde_json::Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

/// A conversation with something pending and something bound.
fn talk(name: &str) -> Talk {
    let mut talk = Talk::builtin(name, Some("t"));
    talk.open();
    for channel in ["a", "ticker:A"] {
        let _ = talk.try_subscribe(&[(channel, Some(r#"{"query":"q"}"#))], false);
    }
    let _ = talk.publish("a", Some("x"), "1");
    talk
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_bytes_never_panic(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..8)) {
        for name in Dialect::builtins() {
            let mut talk = talk(name);
            for bytes in &frames {
                talk.frame(&WireFrame::Binary(Bytes::copy_from_slice(bytes)));
            }
        }
    }

    #[test]
    fn plausible_messages_never_panic_and_are_always_answered_for(messages in proptest::collection::vec(value(), 1..8)) {
        for name in Dialect::builtins() {
            let mut talk = talk(name);
            for message in &messages {
                let heard = match name {
                    "socketio" => talk.hear(&format!("42[\"event\",{message}]")),
                    _ => talk.hear(&message.to_string()),
                };
                let split = matches!(message, serde_json::Value::Array(_));
                let held = !talk.conversation.held.is_empty();
                prop_assert!(!heard.is_empty() || split || held || name == "eth-jsonrpc", "{name}: {message}");
                prop_assert!(!heard.contains(&"malformed".to_owned()), "{name}: {message}");
            }
        }
    }
}

#[test]
fn a_flood_of_events_for_unknown_ids_is_bounded_and_told() {
    let mut talk = Talk::builtin("eth-jsonrpc", None);
    talk.open();
    talk.subscribe(&["newHeads"]);
    let event = r#"{"method":"eth_subscription","params":{"result":1,"subscription":"0x9"}}"#;
    let told: usize = (0..1000).map(|_| talk.hear(event).len()).sum();
    assert_eq!(told, 1000 - crate::dialect::held::MOST);
    talk.conversation.give_up(RequestId(1));
    assert_eq!(talk.hear("{}").len(), crate::dialect::held::MOST + 1, "the rest is told once nothing can bind them");
}

#[test]
fn every_way_of_being_malformed_is_told_once() {
    let mut talk = Talk::builtin("homeassistant", None);
    let deep = "[".repeat(100_000);
    for text in ["", " ", "{", "[1,", "nul", "{\"a\":1}x", "\"\\ud8\"", "1e+", &deep] {
        assert_eq!(talk.hear(text), ["malformed"], "{}", &text[..text.len().min(20)]);
    }
    assert_eq!(talk.frame(&WireFrame::Binary(Bytes::from_static(b"\"\xff\""))), ["malformed"]);
    assert_eq!(talk.frame(&WireFrame::Pong(Bytes::new())), ["pong"]);
}
