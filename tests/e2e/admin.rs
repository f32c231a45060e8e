//! The admin listener of a relay at work: what operators and their tools see, and who is let near it.

use serde_json::{Value, json};

use crate::common::until;
use crate::rig::Place;
use crate::upstream::{Upstream, plain_answer};

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

#[test]
fn a_dead_letter_is_found_published_again_and_purged_by_command() {
    let upstream = Upstream::answering(|got| match got.json["data"].as_u64() {
        // What nobody answers is what nobody knows about once the connection is gone.
        Some(1..=3) => Vec::new(),
        _ => plain_answer(&got.json),
    });
    let place = Place::new(&upstream);
    let relay = place.start_live();
    let mut client = relay.client();
    let publish = |data: u64| json!({"channel": "orders", "data": data, "on_unknown": "dead_letter", "order_key": "a"});
    let mut ids = Vec::new();
    for n in 1..=3 {
        ids.push(client.publish(publish(n)));
        upstream.wait_for("publish", n as usize);
        upstream.cut();
        assert_eq!(client.next_of("outcome")["state"], "dead_lettered");
        relay.wait_state("live");
    }
    relay.kill();
    let relay = place.start_live();
    let listed = relay.tell("GET /v1/dead-letters", &[], "").json();
    let found: Vec<&str> =
        listed["dead_letters"].as_array().unwrap().iter().map(|one| one["message"].as_str().unwrap()).collect();
    assert_eq!(found, ids, "also after a kill, oldest first");
    let page = relay.tell(&format!("GET /v1/dead-letters?after={}", ids[1]), &[], "").json();
    assert_eq!((&page["count"], page["dead_letters"].as_array().unwrap().len()), (&json!(3), 1));

    let command = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.arg("dead-letters").args(["--admin", &relay.admin().to_string()]).args(arguments).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), said, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(command(&["ls"]).1.lines().count(), 3);
    let (_, shown, _) = command(&["show", &ids[0]]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["reason"], &shown["publish"]["data"]), (&json!("outcome_unknown"), &json!(1)));
    assert_eq!(shown["history"][0]["reason"], "unanswered: connection_lost");
    let (_, redriven, _) = command(&["redrive", &ids[0], "--edit", r#"{"data":11}"#]);
    let redriven: Value = serde_json::from_str(&redriven).unwrap();
    let new = redriven["message"].as_str().unwrap();
    until("the new message to be delivered", || {
        (relay.ask(&format!("GET /v1/messages/{new}"), &[], "").json()["state"] == "delivered").then_some(())
    });
    assert_eq!(upstream.frames("publish").last().unwrap().json["data"], 11, "with the edit");
    let (done, _, told) = command(&["redrive", &ids[0]]);
    assert!(!done && told.contains("conflict") && told.contains(new), "{told}");
    let (done, _, told) = command(&["redrive", &ids[1], "--edit", r#"{"date":1}"#]);
    assert!(!done && told.contains("date"), "{told}");
    for (edit, field) in [
        (r#"{"volatile":true}"#, "leave `volatile` out"),
        (r#"{"op":"publish"}"#, "leave them out"),
        (
            r#"{"data":1,"data":2}"#,
            "refused with HTTP 400 (invalid): the edit cannot be read: give the field `data` once",
        ),
    ] {
        let (done, _, told) = command(&["redrive", &ids[1], "--edit", edit]);
        assert!(!done && told.contains("invalid") && told.contains(field), "{edit}: {told}");
    }
    let (done, _, told) = command(&["redrive", &ids[1], "--edit", ""]);
    assert!(!done && told.contains("--edit is empty: write for example"), "{told}");
    assert!(command(&["purge", &ids[1]]).0);
    assert!(!command(&["purge", "nonsense"]).0 && !command(&["purge"]).0 && !command(&["show", "../status"]).0);
    let (done, all, _) = command(&["redrive", "--all"]);
    assert!(done && all.contains(&ids[2]) && all.contains("\"left\":0"), "{all}");
    assert_eq!(command(&["ls"]).1, "");
    assert_eq!(relay.metric("tidegate_outbox_redriven_total"), 2.0);
    assert_eq!(relay.metric("tidegate_outbox_conservation_error"), 0.0);
    relay.stop();
}

#[test]
fn more_dead_letters_than_a_page_has_are_listed_by_command() {
    let upstream = Upstream::answering(|got| if got.is("publish") { Vec::new() } else { plain_answer(&got.json) });
    let mut place = Place::new(&upstream);
    let relay = place.set("outbox.window", "200").start_live();
    let mut client = relay.client();
    let publish = json!({"channel": "orders", "data": 1, "on_unknown": "dead_letter"});
    let ids: Vec<String> = (0..120).map(|_| client.publish(publish.clone())).collect();
    upstream.wait_for("publish", 120);
    upstream.cut();
    relay.wait_metric("tidegate_outbox_dead_letters", 120.0);
    let first = relay.tell("GET /v1/dead-letters", &[], "").json();
    let next = first["next"].as_str().unwrap();
    let second = relay.tell(&format!("GET /v1/dead-letters?after={next}"), &[], "").json();
    let lengths = [&first, &second].map(|page| page["dead_letters"].as_array().unwrap().len());
    assert_eq!((lengths, &second["next"]), ([100, 20], &Value::Null));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let listed = command.args(["dead-letters", "--admin", &relay.admin().to_string(), "ls"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let found =
        listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["message"].as_str().unwrap().to_owned());
    assert_eq!(found.collect::<Vec<_>>(), ids);
    relay.stop();
}

/// Under the names for buffers, too, what came in less what went out is what is there, in every life.
#[test]
fn the_buffer_adds_up_over_a_restart() {
    let upstream = Upstream::answering(|got| match got.json["data"].as_u64() {
        Some(1) => vec![json!({"type": "error", "id": got.json["id"], "code": "no", "message": "no"}).to_string()],
        Some(2) => Vec::new(),
        _ => plain_answer(&got.json),
    });
    let mut place = Place::new(&upstream);
    place.set("outbox.ack_timeout", r#""10m""#).set("outbox.max_messages", "77").set("outbox.max_bytes", r#""3MiB""#);
    let relay = place.start_live();
    let mut client = relay.client();
    for data in 0..3 {
        client.publish(json!({"channel": "orders", "data": data}));
    }
    relay.wait_metric("tidegate_buffer_sent_events_total", 1.0);
    relay.wait_metric("tidegate_buffer_discarded_events_total{reason=\"rejected\"}", 1.0);
    let family = |relay: &crate::rig::Relay| {
        ["received_events_total", "sent_events_total", "discarded_events_total{reason=\"rejected\"}", "size_events"]
            .map(|name| relay.metric(&format!("tidegate_buffer_{name}")))
    };
    assert_eq!(family(&relay), [3.0, 1.0, 1.0, 1.0]);
    assert!(relay.metric("tidegate_buffer_size_bytes") > 0.0);
    assert_eq!(relay.metric("tidegate_buffer_max_size_events"), 77.0);
    assert_eq!(relay.metric("tidegate_buffer_max_size_bytes"), f64::from(3 << 20));
    relay.kill();
    let relay = place.start_live();
    assert_eq!(family(&relay), [1.0, 0.0, 0.0, 1.0]);
    relay.stop();
}
