//! Many sessions, one subscription upstream.

use serde_json::json;

use crate::common::until;
use crate::rig::Place;
use crate::upstream::{Got, Upstream};

const SUBSCRIBERS: usize = 100;

fn of_channel(frames: &[Got], channel: &str) -> usize {
    frames.iter().filter(|got| got.json["channel"] == channel).count()
}

#[test]
fn a_hundred_subscribers_cost_one_subscribe_and_one_unsubscribe() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    place.set("channels", r#"[{ match = "kept", linger = "1h" }, { match = "*", linger = "50ms" }]"#);
    let relay = place.start_live();

    let mut clients: Vec<_> = (0..SUBSCRIBERS).map(|_| relay.subscriber("prices")).collect();
    clients[0].subscribe("kept");
    upstream.wait_for("subscribe", 2);
    upstream.event("prices", &json!({"n": 1}));
    for client in &mut clients {
        assert_eq!(client.next_of("event")["data"], json!({"n": 1}));
    }
    assert_eq!(relay.metric("tidegate_deliveries_total"), SUBSCRIBERS as f64);

    // All but one: still wanted.
    let mut last = clients.pop().unwrap();
    drop(clients);
    until("the others to be gone", || (relay.metric("tidegate_sessions_open") == 1.0).then_some(()));
    upstream.event("prices", &json!({"n": 2}));
    assert_eq!(last.next_of("event")["data"], json!({"n": 2}));
    assert_eq!(upstream.frames("unsubscribe").len(), 0);

    drop(last);
    let unsubscribed = upstream.wait_for("unsubscribe", 1);
    assert_eq!(unsubscribed[0].json["channel"], "prices");

    // What lingers longer is there at once for who comes back.
    let mut back = relay.subscriber("kept");
    let again = back.subscribe("prices");
    assert_eq!(again["resumed"], false);
    let subscribes = upstream.wait_for("subscribe", 3);
    assert_eq!(of_channel(&subscribes, "prices"), 2, "once for all hundred, and once for who came later");
    assert_eq!(of_channel(&subscribes, "kept"), 1, "never let go of");
    assert_eq!(upstream.frames("unsubscribe").len(), 1);
    assert_eq!(relay.metric("tidegate_interest_unsubscribes_total"), 1.0);
    relay.stop();
}

#[test]
fn a_pattern_hears_what_others_subscribed_and_costs_nothing_upstream() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    let mut pattern = relay.subscriber("price:*");
    let mut one = relay.subscriber("price:a");
    upstream.wait_for("subscribe", 1);
    upstream.event("price:a", &json!(1));
    assert_eq!(pattern.next_of("event")["channel"], "price:a");
    assert_eq!(one.next_of("event")["data"], 1);
    assert_eq!(upstream.frames("subscribe").len(), 1);
    relay.stop();
}

#[test]
fn a_refused_channel_is_told_to_its_subscribers_only() {
    let upstream = Upstream::answering(|got| {
        if got.is("subscribe") && got.json["channel"] == "secret" {
            let refusal = json!({"type": "error", "id": got.json["id"], "code": "nope", "message": "not yours"});
            return vec![refusal.to_string()];
        }
        crate::upstream::plain_answer(&got.json)
    });
    let relay = Place::new(&upstream).start_live();
    let mut other = relay.subscriber("open");
    let mut client = relay.subscriber("secret");
    let error = client.next_of("error");
    assert_eq!((&error["channel"], &error["code"]), (&json!("secret"), &json!("upstream_refused")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("not yours"), "{error}");
    upstream.event("open", &json!(1));
    assert_eq!(other.next_of("event")["data"], 1);
    assert!(other.barrier().is_empty(), "nobody else hears of it");
    assert_eq!(client.barrier().len(), 0);
    assert_eq!(relay.metric("tidegate_interest_refused_total{code=\"upstream_refused\"}"), 1.0);
    relay.stop();
}

#[test]
fn services_are_channels_of_their_own_on_one_subscription_and_nobody_sees_anothers() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    place.set("channels", r#"[{ match = "service:*", upstream = "status", linger = "50ms" }]"#);
    place.set("access.mode", r#""tokens""#);
    let grant = |name: &str| format!(r#"{{ name = "{name}", token = "{name}", read = ["service:{name}"] }}"#);
    place.set("access.tokens", &format!("[{}, {}]", grant("a"), grant("b")));
    let relay = place.start_live();
    let mut a = relay.client_as("a");
    let mut b = relay.client_as("b");
    for (client, own, other) in [(&mut a, "service:a", "service:b"), (&mut b, "service:b", "service:a")] {
        client.subscribe(own);
        for forbidden in [other, "status"] {
            client.request(json!({"op": "subscribe", "channels": [forbidden]}));
            assert_eq!(client.next_of("error")["code"], "forbidden", "{forbidden}");
        }
        // A pattern shows what may be read of it, and that is subscribed already.
        client.request(json!({"op": "subscribe", "channels": ["service:*"]}));
        client.barrier();
    }
    assert_eq!(upstream.wait_for("subscribe", 1)[0].json["channel"], "status");
    for key in ["a", "b", "c"] {
        upstream.push(&json!({"type": "event", "channel": "status", "key": key, "data": {"of": key}}).to_string());
    }
    for (client, own) in [(&mut a, "a"), (&mut b, "b")] {
        let event = client.next_of("event");
        assert_eq!((&event["channel"], &event["data"]["of"]), (&json!(format!("service:{own}")), &json!(own)));
        assert_eq!(client.barrier(), Vec::<serde_json::Value>::new(), "nothing of the others");
    }

    // Only a is left of all keys.
    upstream.push(&json!({"type": "snapshot", "channel": "status", "key": "a", "data": {"of": "a"}}).to_string());
    assert_eq!(a.next_of("event")["snapshot"], true);
    let reset = b.next_of("reset");
    assert_eq!((&reset["channel"], &reset["reason"]), (&json!("service:b"), &json!("upstream")));
    assert_eq!(b.barrier().len(), 0);

    assert_eq!(upstream.frames("subscribe").len(), 1);
    drop(a);
    until("a to be gone", || (relay.metric("tidegate_sessions_open") == 1.0).then_some(()));
    assert_eq!(upstream.frames("unsubscribe").len(), 0, "b holds it");
    drop(b);
    assert_eq!(upstream.wait_for("unsubscribe", 1)[0].json["channel"], "status");
    relay.stop();
}
