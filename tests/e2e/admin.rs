//! The admin listener of a relay at work: what operators and their tools see, and who is let near it.

use serde_json::json;

use crate::rig::Place;
use crate::upstream::Upstream;

#[test]
fn every_route_says_something_true() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let relay = place.set("feed.session_channels", "77").start_live();
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    upstream.event("a", &json!(1));
    client.next_of("event");
    let message = client.publish(json!({"channel": "orders", "data": 1}));
    client.next_of("outcome");

    for probe in ["livez", "live", "healthz", "startupz", "readyz", "ready"] {
        assert_eq!(relay.tell(&format!("GET /{probe}"), &[], "").status, 200, "{probe}");
    }
    let index = relay.tell("GET /", &[], "");
    assert!(index.status == 200 && index.body.contains("/metrics"), "{}", index.body);
    let status = relay.status();
    assert_eq!(status["upstream"]["state"], "live");
    assert_eq!(status["upstream"]["endpoint"], upstream.url());
    assert_eq!((&status["feed"]["sessions"], &status["outbox"]["depth"]), (&json!(1), &json!(0)), "{status}");
    let subscriptions = relay.tell("GET /v1/subscriptions", &[], "").json();
    let mut channels = subscriptions["channels"].as_array().unwrap().iter();
    let channel = channels.find(|channel| channel["channel"] == "a").unwrap();
    assert_eq!((&channel["state"], &channel["upstream"]), (&json!("live"), &json!("a")), "{subscriptions}");
    assert_eq!((&channel["subscribers"], &channel["events"]), (&json!(1), &json!(1)), "{subscriptions}");
    assert_eq!(subscriptions["interest"][0]["references"], 1, "{subscriptions}");
    let sessions = relay.tell("GET /v1/sessions", &[], "").json();
    assert_eq!(sessions["sessions"][0]["format"], "websocket", "{sessions}");
    assert_eq!(sessions["sessions"][0]["channels"], 1, "{sessions}");
    let outbox = relay.tell("GET /v1/outbox", &[], "");
    assert_eq!((outbox.status, outbox.json()["depth"].clone()), (200, json!(0)), "{}", outbox.body);
    assert_eq!(relay.tell("GET /v1/config", &[], "").json()["feed"]["session_channels"], 77);
    let shown = relay.ask(&format!("GET /v1/messages/{message}"), &[], "").json();
    assert_eq!(shown["state"], "delivered");
    assert_eq!(relay.ask("GET /v1/snapshot?channel=a", &[], "").json()["values"][0]["data"], 1);
    assert_eq!(relay.ask("GET /v1/status", &[], "").json()["upstream"]["state"], "live", "on the feed, too");

    let level = relay.tell("POST /v1/loglevel", &[], r#"{"level":"debug"}"#);
    assert_eq!((level.status, level.json()["level"].clone()), (200, json!("debug")));
    assert_eq!(relay.tell("POST /v1/reload", &[], "").json()["reloaded"], true);
    assert_eq!(relay.tell("GET /v1/dialect", &[], "").status, 422);
    assert_eq!(relay.tell("GET /v1/upstream/pause", &[], "").status, 405, "a GET changes nothing");
    assert_eq!(relay.status()["upstream"]["state"], "live");
    relay.stop();
}

#[test]
fn metrics_have_every_family_that_operators_were_promised() {
    let upstream = Upstream::plain();
    let relay = Place::new(&upstream).start_live();
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    upstream.event("a", &json!(1));
    client.next_of("event");
    client.publish(json!({"channel": "orders", "data": 1}));
    client.next_of("outcome");
    upstream.cut();
    client.next_of("gap");
    let metrics = relay.tell("GET /metrics", &[], "");
    assert!(metrics.head.contains("text/plain; version=0.0.4"), "{}", metrics.head);
    for (family, kind) in [
        ("tidegate_build_info", "gauge"),
        ("tidegate_link_state", "gauge"),
        ("tidegate_link_disconnects_total", "counter"),
        ("tidegate_link_rtt_seconds", "histogram"),
        ("tidegate_link_frames_in_total", "counter"),
        ("tidegate_dialect_events_total", "counter"),
        ("tidegate_dialect_unmatched_total", "counter"),
        ("tidegate_dialect_unextracted_total", "counter"),
        ("tidegate_throttled_total", "counter"),
        ("tidegate_interest_channels", "gauge"),
        ("tidegate_sessions_open", "gauge"),
        ("tidegate_deliveries_total", "counter"),
        ("tidegate_feed_dropped_total", "counter"),
        ("tidegate_feed_gaps_total", "counter"),
        ("tidegate_outbox_messages", "gauge"),
        ("tidegate_outbox_oldest_age_seconds", "gauge"),
        ("tidegate_outbox_outcomes_total", "counter"),
        ("tidegate_outbox_conservation_error", "gauge"),
        ("tidegate_store_commit_seconds", "histogram"),
        ("tidegate_delivery_latency_seconds", "histogram"),
    ] {
        assert!(metrics.body.contains(&format!("# HELP {family} ")), "{family} has no help");
        assert!(metrics.body.contains(&format!("# TYPE {family} {kind}\n")), "{family} is no {kind}");
    }
    assert_eq!(relay.metric("tidegate_delivery_latency_seconds_count"), 2.0, "the event and the gap");
    assert_eq!(relay.metric("tidegate_dialect_events_total"), 1.0);
    assert_eq!(relay.metric("tidegate_outbox_outcomes_total{state=\"delivered\"}"), 1.0);
    assert_eq!(relay.metric("tidegate_outbox_conservation_error"), 0.0);
    assert!(relay.metric("tidegate_store_commit_seconds_count") >= 2.0, "acceptance and outcome");
    relay.stop();
}

#[test]
fn strangers_are_refused_on_both_listeners_and_told_which_key_would_let_them_in() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    place.set("access.origins", r#"["https://app.example"]"#).set("access.hosts", r#"["feed.example"]"#);
    let relay = place.start_live();
    for (header, key) in [
        ("Host: evil.example", "access.hosts"),
        ("Host: 127.0.0.1.evil.example", "access.hosts"),
        ("Origin: https://evil.example", "access.origins"),
        ("Origin: https://app.example.evil.example", "access.origins"),
        ("Origin: null", "access.origins"),
        ("Sec-Fetch-Site: cross-site", "access.origins"),
    ] {
        for line in ["GET /v1/status", "GET /v1/sse?channel=a", "GET /v1/ws", "POST /v1/publish", "OPTIONS /v1/publish"]
        {
            let answer = relay.ask(line, &[header], "");
            assert_eq!(answer.status, 403, "{line} {header}: {}", answer.body);
            assert!(answer.body.contains(key), "{line} {header}: {}", answer.body);
            assert!(!answer.head.contains("access-control-allow-origin"), "{line} {header}: {}", answer.head);
        }
        for line in ["GET /metrics", "GET /v1/config", "POST /v1/drain"] {
            let answer = relay.tell(line, &[header], "");
            assert_eq!(answer.status, 403, "{line} {header}: {}", answer.body);
            assert!(answer.body.contains(key), "{line} {header}: {}", answer.body);
        }
    }
    assert_eq!(relay.metric("tidegate_http_refused_total{code=\"forbidden\"}"), 30.0);
    assert_eq!(relay.tell("GET /readyz", &[], "").status, 200, "nothing was drained");

    // Who is listed is let in, and only the feed answers pages of others.
    let page = relay.ask("GET /v1/status", &["Host: feed.example", "Origin: https://app.example"], "");
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(page.head.contains("access-control-allow-origin: https://app.example"), "{}", page.head);
    assert!(page.head.contains("vary: origin"), "{}", page.head);
    let preflight = relay.ask("OPTIONS /v1/publish", &["Origin: https://app.example"], "");
    assert!(preflight.status == 204 && preflight.head.contains("idempotency-key"), "{}", preflight.head);
    relay.stop();
}
