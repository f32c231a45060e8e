//! nginx with nchan, through the dialect `nchan`.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{request, until};
use crate::door::Door;
use crate::rig::{App, Relay, offset};
use crate::script::{self, Server, folder, free_port, has};

const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

fn can_run(test: &str) -> bool {
    script::can_run(test, &["ws"])
        && has(test, "nginx (package nginx)", Command::new("nginx").arg("-v"))
        && has(test, "nchan (package libnginx-mod-nchan)", Command::new("test").args(["-f", MODULE]))
}

fn nginx(dir: &tempfile::TempDir) -> Server {
    let port = free_port();
    let text = std::fs::read_to_string(folder().join("nchan.conf")).unwrap();
    let text = text.replace("PORT", &port.to_string()).replace("DIR", dir.path().to_str().unwrap());
    let config = dir.path().join("nginx.conf");
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir.path()).arg("-c").arg(config);
    Server::start(command, port, dir.path(), "nginx")
}

/// Publishes to the channel `tides`; how many heard it.
fn post(service: &Server, data: &Value) -> u64 {
    post_to(([127, 0, 0, 1], service.port()).into(), "tides", data)
}

fn post_to(address: SocketAddr, channel: &str, data: &Value) -> u64 {
    let answer = request(address, &format!("POST /pub/{channel}"), &["Accept: text/json"], &data.to_string());
    let info: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    info["subscribers"].as_u64().unwrap()
}

fn relay(door: &Door, channel: &str, transport: &str) -> Relay {
    over(door, channel, &format!("transports = [\"{transport}\"]"))
}

fn over(door: &Door, channel: &str, transports: &str) -> Relay {
    let params = format!("params = {{ channel = \"{channel}\" }}\n{transports}");
    Relay::start(&format!("ws://{}", door.address()), "nchan", &params, "")
}

/// What comes while the connection is away comes when it is back, once, and no gap is told.
fn goes_on(test: &str, transport: &str) {
    if !can_run(test) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = nginx(&dir);
    let door = Door::new();
    door.lead_to(service.port());
    let relay = relay(&door, "tides", transport);
    let mut app = relay.app();
    app.subscribe(json!("tides"));
    assert_eq!(relay.upstream("live")["transport"], transport);
    until("a subscriber", || (post(&service, &json!({"cm": 0})) > 0).then_some(()));
    post(&service, &json!({"cm": 1}));
    let mut before = app.frame("event");
    while before["data"]["cm"] != 1 {
        before = app.frame("event");
    }
    for round in 1..=3_u64 {
        door.shut();
        for n in 0..3 {
            post(&service, &json!({"cm": round * 10 + n}));
        }
        door.lead_to(service.port());
        for n in 0..3 {
            let event = app.frame("event");
            assert_eq!(event["data"]["cm"], round * 10 + n, "{event}");
            assert_eq!(event["prev"], offset(&before), "nothing between {before} and {event}");
            before = event;
        }
    }
    app.has_no("gap");
    app.has_no("event");
}

/// Publishes 1, 2, 3, … until it is told to stop; gives the last number.
fn publisher(service: &Server, stop: &Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    let (address, stop) = (([127, 0, 0, 1], service.port()).into(), stop.clone());
    thread::spawn(move || {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            post_to(address, "tides", &json!({"cm": n}));
            thread::sleep(Duration::from_millis(5));
        }
        n
    })
}

/// Waits until the relay serves over this transport.
fn serves_over(relay: &Relay, transport: &str) {
    until(&format!("a connection over {transport}"), || {
        let upstream = &relay.feed("/v1/status")["upstream"];
        (upstream["state"] == "live" && upstream["transport"] == transport).then_some(())
    });
}

/// What an app hears of the numbers: each once, in order, and nothing between them.
struct Heard {
    app: App,
    last: u64,
    before: Option<u64>,
}

impl Heard {
    fn read_to(&mut self, number: u64) {
        while self.last < number {
            let event = self.app.frame("event");
            self.last += 1;
            if event["data"]["cm"] != self.last {
                // If it was told, that says more.
                self.app.has_no("gap");
            }
            assert_eq!(event["data"]["cm"], self.last, "{event}");
            assert!(self.before.is_none_or(|before| event["prev"] == before), "nothing between: {event}");
            self.before = Some(offset(&event));
        }
    }
}

/// Down the ladder to its last rung and up again, while messages are published all the time.
#[test]
fn the_ladder_loses_nothing_and_brings_nothing_twice() {
    if !can_run("nchan_ladder") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = nginx(&dir);
    let door = Door::new();
    door.lead_to(service.port());
    let ladder = "transports = [\"websocket\", \"sse\", \"long-poll\"]\nclimb_after = \"500ms\"";
    let relay = over(&door, "tides", ladder);
    let mut app = relay.app();
    app.subscribe(json!("tides"));
    serves_over(&relay, "websocket");
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = publisher(&service, &stop);
    let mut heard = Heard { app, last: 0, before: None };
    heard.read_to(20);
    for (forbidden, next) in [("no-websocket", "sse"), ("no-sse", "long-poll")] {
        std::fs::write(dir.path().join(forbidden), "").unwrap();
        door.shut();
        door.lead_to(service.port());
        serves_over(&relay, next);
        heard.read_to(heard.last + 20);
    }
    for (forbidden, next) in [("no-sse", "sse"), ("no-websocket", "websocket")] {
        std::fs::remove_file(dir.path().join(forbidden)).unwrap();
        serves_over(&relay, next);
        heard.read_to(heard.last + 20);
    }
    stop.store(true, Ordering::Relaxed);
    let sent = publisher.join().unwrap();
    heard.read_to(sent);
    for kind in ["event", "gap", "reset"] {
        heard.app.has_no(kind);
    }
    assert_eq!(relay.metric("tidegate_link_transport_switches_total"), "4");
    assert_eq!(relay.metric("tidegate_dialect_unmatched_total"), "0");
}

/// Another connection takes over, again and again, while numbers are published: over each transport that has a connection.
#[test]
fn rotation_loses_nothing_and_brings_nothing_twice() {
    if !can_run("nchan_rotation") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = nginx(&dir);
    let door = Door::new();
    door.lead_to(service.port());
    for transport in ["websocket", "sse"] {
        let relay = relay(&door, "tides", transport);
        let mut app = relay.app();
        app.subscribe(json!("tides"));
        serves_over(&relay, transport);
        let stop = Arc::new(AtomicBool::new(false));
        let publisher = publisher(&service, &stop);
        let mut heard = Heard { app, last: 0, before: None };
        heard.read_to(20);
        for taken in 1..=5 {
            relay.admin_post("/v1/upstream/rotate");
            let taken = taken.to_string();
            until("another connection to serve", || {
                (relay.metric("tidegate_link_rotations_total") == taken).then_some(())
            });
            heard.read_to(heard.last + 20);
        }
        stop.store(true, Ordering::Relaxed);
        let sent = publisher.join().unwrap();
        heard.read_to(sent);
        for kind in ["event", "gap", "reset"] {
            heard.app.has_no(kind);
        }
        serves_over(&relay, transport);
    }
}

#[test]
fn an_event_stream_goes_on_where_it_ended() {
    goes_on("nchan_sse", "sse");
}

#[test]
fn a_long_poll_goes_on_where_it_ended() {
    goes_on("nchan_long_poll", "long-poll");
}

#[test]
fn a_websocket_goes_on_where_it_ended() {
    goes_on("nchan_websocket", "websocket");
}

/// nginx keeps two messages of this channel: of more nobody knows.
#[test]
fn what_the_service_did_not_keep_is_a_gap() {
    if !can_run("nchan_few") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = nginx(&dir);
    let address = ([127, 0, 0, 1], service.port()).into();
    let door = Door::new();
    door.lead_to(service.port());
    let relay = relay(&door, "few", "websocket");
    let mut app = relay.app();
    app.subscribe(json!("few"));
    relay.upstream("live");
    until("a subscriber", || (post_to(address, "few", &json!(0)) > 0).then_some(()));
    post_to(address, "few", &json!(1));
    let mut before = app.frame("event");
    while before["data"] != 1 {
        before = app.frame("event");
    }
    door.shut();
    for n in 2..=4 {
        post_to(address, "few", &json!(n));
    }
    door.lead_to(service.port());
    let gap = app.frame("gap");
    assert_eq!((&gap["reason"], &gap["prev"]), (&json!("reconnect"), &json!(offset(&before))), "{gap}");
    for (n, prev) in [(3, Some(offset(&gap))), (4, None)] {
        let event = app.frame("event");
        assert_eq!(event["data"], n, "what it kept: {event}");
        assert!(prev.is_none_or(|prev| event["prev"] == prev), "{event}");
    }
    app.has_no("gap");
}

/// How many listen to a channel.
fn listeners(address: SocketAddr, channel: &str) -> Option<u64> {
    let answer = request(address, &format!("GET /pub/{channel}"), &["Accept: text/json"], "");
    let info: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).ok()?;
    info["subscribers"].as_u64()
}

/// nginx answers a poll for which nothing came with 408 and names no place: a message between two of those is lost.
#[test]
fn what_came_between_two_polls_before_the_first_message_is_a_gap() {
    if !can_run("nchan_between_polls") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = nginx(&dir);
    let address = ([127, 0, 0, 1], service.port()).into();
    let door = Door::new();
    door.lead_to(service.port());
    // Polls follow each other so slowly that something comes between them.
    let dialect = include_str!("../../config/dialects/nchan.toml");
    let slow = dialect.replacen("[transport.long-poll]\n", "[transport.long-poll]\ninterval = \"8s\"\n", 1);
    assert_ne!(slow, dialect);
    let path = dir.path().join("slow.toml");
    std::fs::write(&path, slow).unwrap();
    let params = "params = { channel = \"brief\" }\ntransports = [\"long-poll\"]";
    let relay = Relay::start(&format!("ws://{}", door.address()), path.to_str().unwrap(), params, "");
    let mut app = relay.app();
    app.subscribe(json!("brief"));
    let wait = |number: u64| {
        until(&format!("{number} polls held"), || (listeners(address, "brief") == Some(number)).then_some(()));
    };
    let publish = |data: u64, heard: u64| assert_eq!(post_to(address, "brief", &json!(data)), heard, "{data}");

    wait(1);
    wait(0);
    // nginx counts its listeners before the door has passed on what it says.
    let mut said = String::new();
    until("the whole answer", || {
        said.push_str(&door.take_said());
        said.contains("\r\n\r\n").then_some(())
    });
    assert!(said.starts_with("HTTP/1.1 408 ") && !said.to_lowercase().contains("\r\nlast-modified:"), "{said}");
    app.has_no("gap");
    publish(1, 0);
    wait(1);
    publish(2, 1);
    let (gap, event) = (app.frame("gap"), app.frame("event"));
    assert_eq!((&gap["channel"], &gap["reason"]), (&json!("brief"), &json!("reconnect")), "{gap}");
    assert_eq!((&event["data"], &event["prev"]), (&json!(2), &json!(offset(&gap))), "{event}");

    // From here on each poll names a place: what comes between them waits for the next one.
    wait(1);
    wait(0);
    publish(3, 0);
    let next = app.frame("event");
    assert_eq!((&next["data"], &next["prev"]), (&json!(3), &json!(offset(&event))), "{next}");
    app.has_no("gap");
}

#[test]
fn a_channel_of_a_real_nginx() {
    if !can_run("nchan_channel") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = nginx(&dir);
    let door = Door::new();
    door.lead_to(service.port());

    let refused = relay(&door, "closed", "websocket");
    let upstream = until("a refusal", || {
        let upstream = refused.feed("/v1/status")["upstream"].take();
        Some(upstream).filter(|upstream| upstream["last_ending"].to_string().contains("403"))
    });
    assert_ne!(upstream["state"], "live", "{upstream}");
    drop(refused);

    let relay = relay(&door, "tides", "websocket");
    relay.upstream("live");
    let mut app = relay.app();
    app.subscribe(json!("tides"));
    assert_eq!(post(&service, &json!({"cm": 312})), 1);
    let first = app.frame("event");
    assert_eq!((&first["channel"], &first["data"]), (&json!("tides"), &json!({"cm": 312})), "{first}");
    let outcome = app.publish(json!({"channel": "tides", "data": {"cm": 313}}));
    assert_eq!((&outcome["state"], &outcome["confirmed_by"]), (&json!("delivered"), &json!("ack")), "{outcome}");
    let first = app.frame("event");
    assert_eq!(first["data"], json!({"cm": 313}), "{first}");

    // Another nginx keeps nothing of what the first one had: it cannot go on there.
    drop(service);
    until("the connection to be lost", || (relay.feed("/v1/status")["upstream"]["state"] != "live").then_some(()));
    let service = nginx(&dir);
    door.lead_to(service.port());
    relay.upstream("live");
    assert_eq!(post(&service, &json!({"cm": 100})), 1);
    let gap = app.frame("gap");
    assert_eq!((&gap["reason"], &gap["prev"]), (&json!("reconnect"), &json!(offset(&first))), "{gap}");
    let event = app.frame("event");
    assert_eq!((&event["data"], &event["prev"]), (&json!({"cm": 100}), &json!(offset(&gap))), "{event}");
    assert_eq!(relay.metric("tidegate_dialect_unmatched_total"), "0");
}
