//! What subscriptions ask of their channels' entries, over every transport.

use serde_json::{Value, json};

use crate::rig::Place;
use crate::upstream::Upstream;

const EVENTS: u64 = 300;

/// Adds up what a lossy reader was given and told of a channel.
#[derive(Default)]
struct Sum {
    events: u64,
    told: u64,
    last: u64,
}

impl Sum {
    /// Reads until `data` is the event's payload; nothing between two events is missing that was not told.
    fn read(&mut self, data: &Value, mut next: impl FnMut() -> Value) {
        let mut told_to = 0;
        loop {
            let frame = next();
            match frame["kind"].as_str().unwrap() {
                "conflated" => {
                    assert!(frame["from"].as_u64().unwrap() > self.last, "{frame} after {}", self.last);
                    told_to = frame["to"].as_u64().unwrap();
                    self.told += frame["count"].as_u64().unwrap();
                }
                "event" => {
                    let id = frame["id"].as_str().unwrap().rsplit_once('-').unwrap().1.parse().unwrap();
                    assert!(frame["prev"].as_u64().is_none_or(|prev| prev == self.last || prev <= told_to), "{frame}");
                    (self.last, self.events) = (id, self.events + 1);
                    if frame["data"] == *data {
                        return;
                    }
                }
                other => panic!("{other}: {frame}"),
            }
        }
    }
}

/// Sends events of two keys to a channel, the last one of a key of its own.
fn storm(upstream: &Upstream, channel: &str) {
    for n in 1..EVENTS {
        let key = if n % 2 == 0 { "even" } else { "odd" };
        upstream.push(&json!({"type": "event", "channel": channel, "key": key, "data": n}).to_string());
    }
    upstream.push(&json!({"type": "event", "channel": channel, "key": "last", "data": EVENTS}).to_string());
}

#[test]
fn conflated_events_are_counted_to_the_last_on_every_transport() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    let mut client = relay.client();
    client.request(json!({"op": "subscribe", "channels": ["a"], "options": {"conflate": "200ms"}}));
    assert_eq!(client.next_of("subscribed")["lossy"], true);
    let mut stream = relay.stream("channel=a&conflate=200ms", &[]);
    assert_eq!(stream.next_of("subscribed").frame["lossy"], true);
    storm(&upstream, "a");
    let (mut over_websocket, mut over_sse) = (Sum::default(), Sum::default());
    over_websocket.read(&json!(EVENTS), || client.next());
    over_sse.read(&json!(EVENTS), || stream.next().unwrap().frame);
    for sum in [&over_websocket, &over_sse] {
        assert_eq!(sum.events + sum.told, EVENTS, "delivered or told");
        // One batch in 200 ms: without conflation they would take a minute.
        assert!(sum.told > EVENTS / 2, "{} told", sum.told);
    }
    relay.wait_metric("tidegate_feed_conflated_total", (over_websocket.told + over_sse.told) as f64);
    assert!(stream.last_id.ends_with(&over_sse.last.to_string()), "the cursor is behind all of it");
    relay.stop();
}

#[test]
fn a_rate_keeps_the_last_event_of_every_key_on_every_transport() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    let mut client = relay.client();
    client.request(json!({"op": "subscribe", "channels": ["a"], "options": {"max_rate": "10/s"}}));
    assert_eq!(client.next_of("subscribed")["lossy"], true);
    let mut stream = relay.stream("channel=a&max_rate=10/s", &[]);
    stream.next_of("subscribed");
    storm(&upstream, "a");
    let (mut over_websocket, mut over_sse) = (Sum::default(), Sum::default());
    over_websocket.read(&json!(EVENTS), || client.next());
    over_sse.read(&json!(EVENTS), || stream.next().unwrap().frame);
    for sum in [over_websocket, over_sse] {
        assert_eq!(sum.events + sum.told, EVENTS, "delivered or told");
        assert!(sum.told > EVENTS / 2, "{} told", sum.told);
    }
    relay.stop();
}

#[test]
fn fields_come_as_upstream_wrote_them_on_every_transport() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    let mut client = relay.client();
    client.request(json!({"op": "subscribe", "channels": ["a"], "options": {"fields": ["/p", "/q/r"]}}));
    assert_eq!(client.next_of("subscribed")["lossy"], true);
    let mut stream = relay.stream("channel=a&fields=/p&fields=/q/r", &[]);
    stream.next_of("subscribed");
    for data in [r#"{"x":1}"#, r#"{"q":{"r":[1, 2],"s":1},"x":2,"p":97000.10}"#] {
        upstream.push(&format!(r#"{{"type":"event","channel":"a","data":{data}}}"#));
    }
    assert_eq!(client.next_of("conflated")["count"], 1);
    let text = client.next_text("event");
    assert!(text.ends_with(r#""data":{"q":{"r":[1, 2]},"p":97000.10}}"#), "{text}");
    assert_eq!(stream.next_of("conflated").frame["count"], 1);
    assert_eq!(stream.next_of("event").frame["data"], json!({"q": {"r": [1, 2]}, "p": 97000.1}));
    relay.stop();
}

#[test]
fn changes_come_to_who_has_what_they_change_on_every_transport() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    let mut client = relay.client();
    client.request(json!({"op": "subscribe", "channels": ["a"], "options": {"delta": true}}));
    assert_eq!(client.next_of("subscribed")["lossy"], false);
    let mut stream = relay.stream("channel=a&delta=true", &[]);
    stream.next_of("subscribed");
    for price in ["1.10", "1.20"] {
        upstream.push(&format!(r#"{{"type":"event","channel":"a","data":{{"price":{price},"size":7}}}}"#));
    }
    let first = client.next_of("event");
    assert_eq!((&first["patch"], &first["data"]), (&Value::Null, &json!({"price": 1.1, "size": 7})));
    let base = first["id"].as_str().unwrap().rsplit_once('-').unwrap().1.to_owned();
    let text = client.next_text("event");
    assert!(text.ends_with(&format!(r#","patch":true,"base":{base},"data":{{"price":1.20}}}}"#)), "{text}");
    assert_eq!(stream.next_of("event").frame["data"], json!({"price": 1.1, "size": 7}));
    assert_eq!(stream.next_of("event").frame, serde_json::from_str::<Value>(&text).unwrap());
    let mut late = relay.client();
    late.request(json!({"op": "subscribe", "channels": ["a"], "options": {"delta": true, "snapshot": false}}));
    late.next_of("subscribed");
    upstream.push(r#"{"type":"event","channel":"a","data":{"price":1.30,"size":7}}"#);
    assert_eq!(late.next_of("event")["data"], json!({"price": 1.3, "size": 7}));
    assert_eq!(client.next_of("event")["data"], json!({"price": 1.3}));
    relay.stop();
}
