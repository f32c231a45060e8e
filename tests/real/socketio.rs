//! Socket.IO's official server through the dialect `socketio`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::common::until;
use crate::rig::{App, Relay, offset};
use crate::script::{Script, can_run};

/// The service and the relay in front of it, with a token that the service has signed.
struct Scene {
    service: Script,
    port: u16,
    options: Value,
    /// What the relay's token is read from.
    _token: NamedTempFile,
    relay: Relay,
}

impl Scene {
    fn new(options: Value) -> Self {
        Scene::carried(options, "")
    }

    /// `upstream`: more lines of the relay's section.
    fn carried(options: Value, upstream: &str) -> Self {
        let (mut service, port) = Script::service("socketio.mjs", &options.to_string());
        let token = NamedTempFile::new().unwrap();
        std::fs::write(token.path(), mint(&mut service)).unwrap();
        let relay = relay(port, &token, upstream);
        assert_eq!(service.says("connected"), "relay");
        Scene { service, port, options, _token: token, relay }
    }

    /// An app that has subscribed this channel.
    fn app(&mut self, channel: &str) -> App {
        let mut app = self.relay.app();
        let subscribed = app.subscribe(json!(channel));
        assert_eq!(subscribed["channel"], channel);
        assert_eq!(self.service.says("subscribed"), channel);
        app
    }

    fn event(&mut self, channel: &str, data: Value) {
        self.service.tell("event", json!({"channel": channel, "data": data}));
    }

    /// Ends the service like `kill -9` does, and starts it again at its port.
    fn restart(&mut self) {
        let mut options = self.options.clone();
        options["port"] = self.port.into();
        // The old one must be gone before its port is free.
        self.service = Script::start("socketio.mjs", "{}");
        self.service = Script::service("socketio.mjs", &options.to_string()).0;
    }
}

fn mint(service: &mut Script) -> String {
    service.ask("mint", json!({"sub": "relay"})).as_str().unwrap().to_owned()
}

fn relay(port: u16, token: &NamedTempFile, upstream: &str) -> Relay {
    let scheme = if upstream.is_empty() { "ws" } else { "http" };
    let upstream = format!("token_file = {:?}\nstable_for = \"10m\"\n{upstream}", token.path());
    Relay::start(&format!("{scheme}://127.0.0.1:{port}"), "socketio", &upstream, "[interest]\nlinger = \"50ms\"")
}

fn can(test: &str) -> bool {
    can_run(&format!("socketio_{test}"), &["socket.io"])
}

#[test]
fn a_service_of_rooms() {
    if !can("rooms") {
        return;
    }
    // Fast enough to see that pings are answered: without, the service would be rid of us in half a second.
    let mut scene = Scene::new(json!({"pingInterval": 250, "pingTimeout": 250}));
    let mut app = scene.app("news");
    scene.event("news", json!({"n": 1}));
    let event = app.frame("event");
    assert_eq!((&event["channel"], &event["data"], &event["seq"]), (&json!("news"), &json!({"n": 1}), &json!(1)));
    scene.service.tell("bytes", json!({"channel": "news", "bytes": [1, 2, 3]}));
    assert_eq!(app.frame("event")["data"], json!({"bytes": "AQID"}), "an attachment is base64 in its place");

    let mut other = scene.relay.app();
    other.subscribe(json!("secret"));
    let error = other.frame("error");
    assert_eq!((&error["channel"], &error["code"]), (&json!("secret"), &json!("upstream_refused")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("not for relay"), "{error}");
    assert_eq!(other.subscribe(json!("other"))["channel"], "other");
    scene.service.tell("other", json!([5]));
    assert_eq!(other.frame("event")["data"], json!([5]), "any other event is a channel of its name");

    let delivered = app.publish(json!({"channel": "orders", "data": {"side": "buy"}}));
    assert_eq!((&delivered["state"], &delivered["reply"]), (&json!("delivered"), &json!({"id": 7})), "{delivered}");
    assert_eq!(scene.service.says("published"), json!({"channel": "orders", "data": {"side": "buy"}}));
    let rejected = app.publish(json!({"channel": "orders", "data": null}));
    assert_eq!(rejected["state"], "rejected", "{rejected}");

    for _ in 0..4 {
        assert_eq!(scene.service.says("heartbeat"), "relay");
    }
    app.send(json!({"op": "unsubscribe", "channels": ["news"]}));
    app.frame("unsubscribed");
    assert_eq!(scene.service.says("unsubscribed"), "news");
    assert!(scene.service.left(|line| line.get("disconnected").is_some()).is_empty());
    assert_eq!(scene.relay.metric("tidegate_dialect_unmatched_total"), "0");
    assert_eq!(scene.relay.metric("tidegate_dialect_malformed_total"), "0");
}

#[test]
fn a_token_of_somebody_else_is_denied() {
    if !can("denied") {
        return;
    }
    let (mut service, port) = Script::service("socketio.mjs", "{}");
    let token = NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "a.b.c").unwrap();
    let relay = relay(port, &token, "");
    assert_eq!(service.says("refused"), "the token is not ours");
    let ending = until("the refusal", || {
        let ending = relay.feed("/v1/status")["upstream"]["last_ending"].take();
        Some(ending).filter(|ending| !ending.is_null())
    });
    assert_eq!((&ending["reason"], &ending["detail"]), (&json!("denied"), &json!("the token is not ours")), "{ending}");
    std::fs::write(token.path(), mint(&mut service)).unwrap();
    relay.admin_post("/v1/upstream/reconnect");
    assert_eq!(service.says("connected"), "relay");
    relay.upstream("live");
}

#[test]
fn a_service_that_is_killed_comes_back_with_a_gap() {
    if !can("killed") {
        return;
    }
    let mut scene = Scene::new(json!({}));
    let mut app = scene.app("news");
    scene.event("news", json!(1));
    let before = app.frame("event");
    scene.restart();
    let gap = app.frame("gap");
    assert_eq!((&gap["reason"], &gap["prev"]), (&json!("reconnect"), &json!(offset(&before))), "{gap}");
    assert_eq!(scene.service.says("connected"), "relay");
    assert_eq!(scene.service.says("subscribed"), "news", "what was wanted is still");
    scene.event("news", json!(2));
    let event = app.frame("event");
    assert_eq!((&event["data"], &event["prev"]), (&json!(2), &json!(offset(&gap))));

    // The service ends the session: a new one begins.
    scene.service.tell("kick", Value::Null);
    assert_eq!(app.frame("gap")["prev"], json!(offset(&event)));
    assert_eq!(scene.service.says("subscribed"), "news");
}

#[test]
fn what_a_lost_connection_misses_is_recovered() {
    if !can("recovered") {
        return;
    }
    let mut scene = Scene::new(json!({"connectionStateRecovery": {"maxDisconnectionDuration": 120_000}}));
    let mut app = scene.app("news");
    let mut last = Value::Null;
    let mut follow = |app: &mut App, data: Value| {
        let event = app.frame("event");
        assert_eq!(event["data"], data);
        if !last.is_null() {
            assert_eq!(event["prev"], json!(offset(&last)), "one after the other, nothing in between");
        }
        last = event;
    };
    scene.event("news", json!(1));
    follow(&mut app, json!(1));
    for round in 0..3 {
        let n = 10 * (round + 1);
        let news: Vec<Value> = (n..n + 3).map(|n| json!({"channel": "news", "data": n})).collect();
        scene.service.tell("cut", json!(news));
        (n..n + 3).for_each(|n| follow(&mut app, json!(n)));
        let back = scene.service.line("recovered", |line| line["recovered"] == true);
        assert_eq!(back["connected"], "relay");
        scene.event("news", json!({"live": round}));
        follow(&mut app, json!({"live": round}));
    }
    app.has_no("gap");
    assert!(scene.service.left(|line| line.get("subscribed").is_some()).is_empty(), "the rooms still stand");

    // Killed, it has forgotten the session, and that is told.
    scene.restart();
    assert_eq!(app.frame("gap")["reason"], "reconnect");
    assert_eq!(scene.service.line("another", |line| line["recovered"] == false)["connected"], "relay");
    assert_eq!(scene.service.says("subscribed"), "news");
    scene.event("news", json!("anew"));
    assert_eq!(app.frame("event")["data"], "anew");
}

#[test]
fn a_service_that_only_polls() {
    if !can("polling") {
        return;
    }
    let options = json!({"transports": ["polling"], "pingInterval": 250, "pingTimeout": 1000,
        "connectionStateRecovery": {"maxDisconnectionDuration": 120_000}});
    let mut scene = Scene::carried(options, "transports = [\"long-poll\"]");
    let mut app = scene.app("news");
    for n in 0..3 {
        scene.event("news", json!(n));
        assert_eq!(app.frame("event")["data"], n);
    }
    scene.service.tell("bytes", json!({"channel": "news", "bytes": [1, 2, 3]}));
    assert_eq!(app.frame("event")["data"], json!({"bytes": "AQID"}));
    let delivered = app.publish(json!({"channel": "orders", "data": {"side": "buy"}}));
    assert_eq!((&delivered["state"], &delivered["reply"]), (&json!("delivered"), &json!({"id": 7})), "{delivered}");
    for _ in 0..4 {
        assert_eq!(scene.service.says("heartbeat"), "relay");
    }
    app.has_no("gap");
    // It is killed and knows the session no more: another one, and the gap is told.
    scene.restart();
    assert_eq!(app.frame("gap")["reason"], "reconnect");
    let back = scene.service.line("connected", |line| line["connected"] == "relay");
    assert_eq!(back["transport"], "polling");
    assert_eq!(scene.service.says("subscribed"), "news");
    scene.event("news", json!("anew"));
    assert_eq!(app.frame("event")["data"], "anew");
}

/// What an app publishes to have these bytes sent beside the message.
fn mark(bytes: &[u8]) -> Value {
    json!({"$binary": STANDARD.encode(bytes)})
}

/// The service gets these bytes, and the app gets them back turned around.
fn comes_and_goes(scene: &mut Scene, app: &mut App, bytes: &[u8]) {
    let delivered = app.publish(json!({"channel": "photos", "data": {"name": "a", "bytes": mark(bytes)}}));
    let back: Vec<u8> = bytes.iter().rev().copied().collect();
    assert_eq!(delivered["reply"], json!({"bytes": STANDARD.encode(back)}), "{delivered}");
    assert_eq!((&delivered["state"], &delivered["confirmed_by"]), (&json!("delivered"), &json!("ack")), "{delivered}");
    assert_eq!(scene.service.says("bytes"), STANDARD.encode(bytes));
}

#[test]
fn attachments_go_up_as_bytes_over_either_transport() {
    if !can("attachments") {
        return;
    }
    for (transport, upstream) in [("websocket", ""), ("long-poll", "transports = [\"long-poll\"]")] {
        let mut scene = Scene::carried(json!({"maxHttpBufferSize": 2000}), upstream);
        let mut app = scene.relay.app();
        assert_eq!(scene.relay.upstream("live")["transport"], transport);
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [&[1, 2, 3][..], &[], &all, &[0xe7; 1400]] {
            comes_and_goes(&mut scene, &mut app, bytes);
        }
        // More than a POST takes, in attachments that fit into one.
        let several = json!({"bytes": mark(&[7; 1400]), "more": [mark(&[8; 1400]), mark(&[9; 1400])]});
        let delivered = app.publish(json!({"channel": "photos", "data": several}));
        assert_eq!(delivered["state"], "delivered", "{delivered}");
        assert_eq!(scene.service.says("bytes"), STANDARD.encode([7; 1400]));
        // Base64 makes a POST of this one too large.
        let large = app.publish(json!({"channel": "photos", "data": {"bytes": mark(&[7; 1600])}}));
        let end = if transport == "websocket" { "delivered" } else { "rejected" };
        assert_eq!(large["state"], end, "{large}");

        // Nobody names a place that is not his, and the session that everybody shares stays.
        let place = json!({"_placeholder": true, "num": 99});
        let forged = json!({"bytes": mark(&[1]), "more": [place]});
        app.send(json!({"op": "publish", "ref": 1, "channel": "photos", "data": forged}));
        let error = app.frame("error");
        assert_eq!((&error["ref"], &error["code"]), (&json!(1), &json!("invalid")), "{error}");
        assert!(error["message"].as_str().unwrap().contains("data/more/0 has a member"), "{error}");
        let harmless = app.publish(json!({"channel": "orders", "data": place}));
        assert_eq!(harmless["state"], "delivered", "{harmless}");
        assert_eq!(scene.service.says("published")["data"], place, "without attachments it is JSON");
        assert!(scene.service.left(|line| line.get("disconnected").is_some()).is_empty());
        assert_eq!(scene.relay.metric("tidegate_link_attempts_total"), "1");
        assert_eq!(scene.relay.metric("tidegate_dialect_malformed_total"), "0");
    }
}

/// Both transports, as Socket.IO's own clients go about it.
const POLLS_FIRST: &str = "transports = [\"long-poll\", \"websocket\"]";

impl Scene {
    /// Publishes these numbers, ten in one request, without waiting for the outcomes; each third one as an attachment.
    fn publish(&self, app: &mut App, numbers: std::ops::Range<u64>) {
        let data = |n: u64| if n % 3 == 2 { mark(&n.to_be_bytes()) } else { json!(n) };
        for n in numbers.step_by(10) {
            let messages: Vec<Value> = (n..n + 10).map(|n| json!({"channel": "orders", "data": data(n)})).collect();
            app.send(json!({"op": "publish", "messages": messages}));
        }
    }

    /// That the app was told `count` events of the stream, one after the other.
    fn streamed(&self, app: &mut App, count: u64) {
        let mut prev = None;
        for n in 0..count {
            let event = app.frame("event");
            assert_eq!(event["data"]["n"], n, "{event}");
            assert_eq!(event["data"].get("bytes").is_some(), n % 10 == 9, "{event}");
            if let Some(prev) = prev {
                assert_eq!(event["prev"], prev, "one after the other, nothing in between");
            }
            prev = Some(offset(&event));
        }
        app.has_no("gap");
    }

    /// That the service got these messages in this order, once each.
    fn published(&mut self, count: u64) {
        let number = |said: &Value| match &said["data"]["data"] {
            Value::Array(bytes) => bytes.iter().fold(0, |n, byte| n << 8 | byte.as_u64().unwrap()),
            _ => said["data"].as_u64().unwrap(),
        };
        for n in 0..count {
            let said = self.service.says("published");
            // This is how Node.js shows a `Buffer`.
            assert_eq!(said["data"]["type"] == "Buffer", n % 3 == 2, "{said}");
            assert_eq!(number(&said), n, "{said}");
        }
    }
}

#[test]
fn a_session_of_polls_moves_to_a_websocket_while_everything_flows() {
    if !can("upgrade") {
        return;
    }
    let mut scene = Scene::carried(json!({"slow": 40, "upgrades": "wait"}), POLLS_FIRST);
    let mut app = scene.app("news");
    assert_eq!(scene.relay.upstream("live")["transport"], "long-poll");
    scene.service.line("upgrading", |line| line["upgrading"] == true);
    scene.service.tell("stream", json!("news"));
    scene.publish(&mut app, 0..150);
    scene.service.tell("upgrade", Value::Null);
    scene.publish(&mut app, 150..300);
    assert_eq!(scene.service.says("upgraded"), "websocket");
    scene.published(300);
    scene.publish(&mut app, 0..20);
    scene.published(20);
    let count = scene.service.ask("end", Value::Null).as_u64().unwrap();
    scene.streamed(&mut app, count);
    (0..320).for_each(|_| assert_eq!(app.frame("outcome")["state"], "delivered"));
    assert_eq!(scene.relay.upstream("live")["transport"], "websocket");
    assert_eq!(scene.relay.metric("tidegate_link_upgrades_total{result=\"moved\"}"), "1");
    assert_eq!(scene.relay.metric("tidegate_link_attempts_total"), "1");
    assert!(scene.service.left(|line| line.get("disconnected").is_some()).is_empty());

    // The next session begins in the same way, and brings back what this one was subscribed to.
    scene.service.tell("kick", Value::Null);
    assert_eq!(app.frame("gap")["reason"], "reconnect");
    assert_eq!(scene.service.line("again", |line| line["connected"] == "relay")["transport"], "polling");
    assert_eq!(scene.service.says("subscribed"), "news");
}

#[test]
fn a_session_whose_websocket_is_cut_off_is_polled_on() {
    if !can("no_upgrade") {
        return;
    }
    let mut scene = Scene::carried(json!({"upgrades": "cut"}), POLLS_FIRST);
    let mut app = scene.app("news");
    scene.service.tell("stream", json!("news"));
    scene.service.line("upgrading", |line| line["upgrading"] == true);
    scene.relay.wait_metric("tidegate_link_upgrades_total{result=\"failed\"}", "1");
    scene.publish(&mut app, 0..50);
    scene.published(50);
    let count = scene.service.ask("end", Value::Null).as_u64().unwrap();
    scene.streamed(&mut app, count);
    assert_eq!(scene.relay.upstream("live")["transport"], "long-poll");
    assert!(scene.service.left(|line| line.get("disconnected").is_some()).is_empty());
}

#[test]
fn packets_are_posted_together_and_never_more_than_the_service_takes() {
    if !can("packets") {
        return;
    }
    // Nothing but a packet tells the service that we leave.
    let options = json!({"slow": 20, "maxHttpBufferSize": 2000, "pingInterval": 600_000});
    let mut scene = Scene::carried(options, "transports = [\"long-poll\"]");
    let mut app = scene.app("news");
    scene.publish(&mut app, 0..200);
    scene.published(200);
    (0..200).for_each(|_| assert_eq!(app.frame("outcome")["state"], "delivered"));
    let mut app = scene.relay.app();
    let large = app.publish(json!({"channel": "orders", "data": "x".repeat(2000)}));
    assert_eq!((&large["state"], &large["reason"]), (&json!("rejected"), &json!("too_large")), "{large}");
    let fits = app.publish(json!({"channel": "orders", "data": "x".repeat(1900)}));
    assert_eq!(fits["state"], "delivered", "{fits}");
    assert!(scene.service.left(|line| line.get("disconnected").is_some()).is_empty(), "it never saw too much");
    scene.relay.terminate();
    assert_eq!(scene.service.says("disconnected"), "transport close");
}

#[test]
fn a_service_that_freezes_is_left_and_its_session_recovered() {
    if !can("frozen") {
        return;
    }
    let options = json!({"pingInterval": 500, "pingTimeout": 500,
        "connectionStateRecovery": {"maxDisconnectionDuration": 120_000}});
    let mut scene = Scene::new(options);
    let mut app = scene.app("news");
    scene.event("news", json!(1));
    let first = app.frame("event");
    scene.service.signal(Signal::STOP);
    scene.relay.wait_metric("tidegate_link_disconnects_total{reason=\"idle\"}", "1");
    // Who comes back before the service has noticed that the old connection is gone finds nothing to recover.
    scene.relay.admin_post("/v1/upstream/pause");
    scene.service.signal(Signal::CONT);
    scene.service.says("disconnected");
    scene.relay.admin_post("/v1/upstream/resume");
    let back = scene.service.line("recovered", |line| line["recovered"] == true);
    assert_eq!(back["connected"], "relay");
    scene.event("news", json!(2));
    let second = app.frame("event");
    assert_eq!((&second["data"], &second["prev"]), (&json!(2), &json!(offset(&first))));
    app.has_no("gap");
}

#[test]
fn a_namespace_of_its_own() {
    if !can("namespace") {
        return;
    }
    let dialect = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    let text = include_str!("../../config/dialects/socketio.toml");
    let own = text.replace("namespace = \"/\"", "namespace = \"/market\"").replace("\"socketio\"", "\"market\"");
    assert_ne!(own, text);
    std::fs::write(dialect.path(), own).unwrap();
    let (mut service, port) = Script::service("socketio.mjs", &json!({"namespace": "/market"}).to_string());
    let token = NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "a.b.c").unwrap();
    let upstream = format!("token_file = {:?}", token.path());
    let url = format!("ws://127.0.0.1:{port}");
    let relay = Relay::start(&url, dialect.path().to_str().unwrap(), &upstream, "");
    assert_eq!(service.says("refused"), "the token is not ours");
    std::fs::write(token.path(), mint(&mut service)).unwrap();
    relay.admin_post("/v1/upstream/reconnect");
    assert_eq!(service.says("connected"), "relay");
    let mut app = relay.app();
    app.subscribe(json!("news"));
    assert_eq!(service.says("subscribed"), "news");
    service.tell("elsewhere", Value::Null);
    service.tell("bytes", json!({"channel": "news", "bytes": [1, 2, 3]}));
    assert_eq!(app.frame("event")["data"], json!({"bytes": "AQID"}));
    let rejected = app.publish(json!({"channel": "orders", "data": null}));
    assert_eq!(rejected["state"], "rejected", "{rejected}");
    let delivered = app.publish(json!({"channel": "orders", "data": 1}));
    assert_eq!(delivered["state"], "delivered", "{delivered}");
}
