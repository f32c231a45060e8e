//! Coming back with a cursor: all that was missed and nothing twice, or a `reset` that says why not.

use serde_json::{Value, json};

use crate::client::{Client, Continuity};
use crate::rig::{Place, Relay};
use crate::sse::Stream;
use crate::upstream::Upstream;

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<Value> {
    range.map(|n| json!(n)).collect()
}

/// A relay with a channel that somebody else keeps alive, so that its ring goes on while a session is away.
fn started(upstream: &Upstream) -> (Relay, Client) {
    let relay = Place::new(upstream).start_live();
    let keeper = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    (relay, keeper)
}

#[test]
fn a_websocket_session_comes_back_without_hole_or_repetition() {
    let upstream = Upstream::plain();
    let (relay, mut keeper) = started(&upstream);
    let mut seen = Continuity::default();
    let mut first = relay.subscriber("a");
    (1..=5).for_each(|n| upstream.event("a", &json!(n)));
    seen.read(5, || first.next());
    drop(first);
    (6..=20).for_each(|n| upstream.event("a", &json!(n)));
    let mut kept = Continuity::default();
    kept.read(20, || keeper.next());

    let mut back = relay.client();
    let hello = back.next();
    assert_eq!(hello["kind"], "hello");
    back.resume(&["a"], &seen.cursor);
    // The hand-over to live: more comes while the missed is read.
    (21..=60).for_each(|n| upstream.event("a", &json!(n)));
    let subscribed = back.next_of("subscribed");
    assert_eq!((&subscribed["resumed"], &subscribed["snapshot"]), (&json!(true), &json!("none")), "{subscribed}");
    seen.read(60, || back.next());
    assert_eq!(seen.data, numbers(1..=60));

    // By the query, too; and `hello` repeats the cursor.
    let cursor = seen.cursor.clone();
    let mut by_query = Client::connect(relay.feed(), &format!("/v1/ws?channel=a&since={cursor}"), &[]);
    assert_eq!(by_query.next()["cursor"], cursor.as_str());
    assert_eq!(by_query.next_of("subscribed")["resumed"], true);
    upstream.event("a", &json!(61));
    seen.read(61, || by_query.next());
    assert_eq!(relay.metric("tidegate_feed_resumed_total"), 2.0);
    relay.stop();
}

/// Reads events of a stream until so many came, and holds the stream's own rule: an id stands only where it may be resumed.
fn read(stream: &mut Stream, seen: &mut Continuity, events: usize) {
    while seen.data.len() < events {
        let sent = stream.next().expect("another event");
        if ["hello", "subscribed", "reset", "snapshot"].contains(&sent.frame["kind"].as_str().unwrap()) {
            assert_eq!(sent.id, None, "{}", sent.frame);
            assert_eq!(sent.name, sent.frame["kind"].as_str().unwrap(), "only events are plain messages");
        }
        if sent.frame["kind"] == "event" {
            assert_eq!(sent.name, "", "`onmessage` hears events");
        }
        seen.observe(&sent.frame);
    }
}

#[test]
fn a_browser_comes_back_by_last_event_id() {
    let upstream = Upstream::plain();
    let (relay, mut keeper) = started(&upstream);
    let mut seen = Continuity::default();
    let mut stream = relay.stream("channel=a", &[]);
    stream.next_of("subscribed");
    (1..=5).for_each(|n| upstream.event("a", &json!(n)));
    read(&mut stream, &mut seen, 5);
    let cursor = stream.last_id.clone();
    assert_eq!(cursor, seen.cursor, "all that was sent is covered by the id");
    drop(stream);
    (6..=9).for_each(|n| upstream.event("a", &json!(n)));
    Continuity::default().read(9, || keeper.next());

    let header = format!("Last-Event-ID: {cursor}");
    // A browser's address does not change: its old `since` must not win.
    let mut back = relay.stream("channel=a&since=never-1", &[&header]);
    assert_eq!(back.next_of("subscribed").frame["resumed"], true);
    (10..=12).for_each(|n| upstream.event("a", &json!(n)));
    read(&mut back, &mut seen, 12);
    assert_eq!(seen.data, numbers(1..=12));
    relay.stop();
}

#[test]
fn one_cursor_works_on_every_transport() {
    let upstream = Upstream::plain();
    let (relay, mut keeper) = started(&upstream);
    keeper.subscribe("b");
    upstream.wait_for("subscribe", 2);
    let mut seen = Continuity::default();
    let mut client = relay.client();
    client.subscribe("a");
    client.subscribe("b");
    for n in 1..=4 {
        upstream.event(if n % 2 == 0 { "a" } else { "b" }, &json!(n));
    }
    seen.read(4, || client.next());
    drop(client);
    for n in 5..=8 {
        upstream.event(if n % 2 == 0 { "a" } else { "b" }, &json!(n));
    }
    Continuity::default().read(8, || keeper.next());

    let mut stream = relay.stream(&format!("channel=a&channel=b&since={}", seen.cursor), &[]);
    read(&mut stream, &mut seen, 8);
    let cursor = stream.last_id.clone();
    assert_eq!(cursor, seen.cursor);
    drop(stream);
    for n in 9..=12 {
        upstream.event(if n % 2 == 0 { "a" } else { "b" }, &json!(n));
    }
    Continuity::default().read(4, || keeper.next());
    let mut client = relay.client();
    client.resume(&["a", "b"], &cursor);
    seen.read(12, || client.next());
    assert_eq!(seen.data, numbers(1..=12), "replays of several channels come in one order");
    relay.stop();
}

#[test]
fn a_channel_that_nobody_held_meanwhile_is_reset() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let relay = place.set("interest.linger", r#""20ms""#).start_live();
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    let mut seen = Continuity::default();
    (1..=3).for_each(|n| upstream.event("a", &json!(n)));
    seen.read(3, || client.next());
    drop(client);
    upstream.wait_for("unsubscribe", 1);

    let mut back = relay.client();
    back.resume(&["a"], &seen.cursor);
    assert_eq!(back.next_of("subscribed")["resumed"], false);
    let reset = back.next_of("reset");
    assert_eq!((&reset["channel"], &reset["reason"]), (&json!("a"), &json!("not_carried")), "{reset}");
    upstream.wait_for("subscribe", 2);
    upstream.event("a", &json!(4));
    let event = back.next_of("event");
    assert_eq!(event["data"], 4);

    let mut stream = relay.stream("channel=a", &[&format!("Last-Event-ID: {}", seen.cursor)]);
    let reset = stream.next_of("reset");
    assert_eq!((&reset.frame["reason"], &reset.id), (&json!("not_carried"), &None));
    assert_eq!(relay.metric("tidegate_feed_resets_total{reason=\"not_carried\"}"), 2.0);
    assert_eq!(relay.metric("tidegate_feed_resumed_total"), 0.0);
    relay.stop();
}

#[test]
fn a_cursor_that_leads_nowhere_is_reset_with_its_reason() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let relay = place.set("feed.ring", r#"{ events = 4, bytes = "1MiB", age = "10m" }"#).start_live();
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    let mut seen = Continuity::default();
    upstream.event("a", &json!(1));
    seen.read(1, || client.next());
    let old = seen.cursor.clone();
    for n in 2..=9 {
        // One by one: a ring this short would leave a session behind that has to read them together.
        upstream.event("a", &json!(n));
        seen.read(n, || client.next());
    }
    let epoch = old.rsplit_once('-').unwrap().0;
    for (since, reason) in [
        (old.clone(), "evicted"),
        (format!("{epoch}-99999"), "future"),
        ("zzzzzz-1".to_owned(), "epoch"),
        ("what is this".to_owned(), "malformed"),
        (format!("{epoch}-18446744073709551616"), "malformed"),
    ] {
        let mut back = relay.client();
        back.resume(&["a"], &since);
        let reset = back.next_of("reset");
        assert_eq!(reset["reason"], reason, "{since}: {reset}");
        let snapshot = back.next_of("snapshot");
        assert_eq!(snapshot["values"][0]["data"], 9, "the state stands in for what is gone: {snapshot}");
        assert!(back.barrier().is_empty(), "never a partial replay");
    }
    // A restart begins a new history.
    relay.stop();
    let relay = place.start_live();
    let mut back = relay.client();
    back.resume(&["a"], &seen.cursor);
    assert_eq!(back.next_of("reset")["reason"], "epoch");
    relay.stop();
}
