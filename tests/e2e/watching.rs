//! Silence and alerts, seen from outside: what is told of a channel that falls silent, and who hears of an alert how often.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::common::until;
use crate::rig::Place;
use crate::upstream::{Gate, Upstream};

/// A receiver of webhooks that fails the first time, and writes down what it took.
struct Receiver {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    taken: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (heads, taken) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let receiver = Receiver { address, heads: heads.clone(), taken: taken.clone() };
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (head, body) = read_request(&mut stream);
                let first = heads.lock().unwrap().is_empty();
                heads.lock().unwrap().push(head);
                let status = if first { "503 Service Unavailable" } else { "204 No Content" };
                if !first {
                    taken.lock().unwrap().push(serde_json::from_str(&body).unwrap());
                }
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
            }
        });
        receiver
    }

    fn taken(&self) -> Vec<Value> {
        self.taken.lock().unwrap().clone()
    }
}

fn read_request(stream: &mut impl Read) -> (String, String) {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn one_channel_that_falls_silent_is_told_subscribed_anew_and_heard_again() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let relay = place.set("channels", r#"[{ match = "quiet", stale_after = "200ms" }]"#).start_live();
    let mut client = relay.subscriber("quiet");
    client.subscribe("loud");
    upstream.wait_for("subscribe", 2);
    upstream.event("quiet", &json!(1));
    assert_eq!(client.next_of("event")["data"], 1);
    let stale = client.next_of("stale");
    assert_eq!((&stale["channel"], &stale["action"]), (&json!("quiet"), &json!("mark")));
    assert!(stale["since"].as_str().unwrap() < stale["time"].as_str().unwrap(), "{stale}");
    let snapshot = relay.ask("GET /v1/snapshot?channel=quiet", &[], "").json();
    assert_eq!(snapshot["stale"], true, "{snapshot}");
    assert_eq!(client.next_of("stale")["action"], "resubscribe");
    assert_eq!(client.next_of("gap")["reason"], "silence");
    upstream.wait_for("unsubscribe", 1);
    upstream.wait_for("subscribe", 3);
    assert_eq!(upstream.opened(), 1, "the connection lives");
    assert_eq!(relay.metric("tidegate_watch_channels"), 1.0, "the other channel is nobody's concern");

    upstream.event("quiet", &json!(2));
    assert_eq!(client.next_of("event")["data"], 2);
    relay.wait_metric("tidegate_watch_recovered_total", 1.0);
    assert!(relay.metric("tidegate_watch_actions_total{action=\"resubscribe\"}") >= 1.0);
    relay.stop();
}

#[test]
fn an_alert_reaches_webhook_and_command_once_each_way_and_shows_no_secret() {
    let upstream = Upstream::plain();
    let receiver = Receiver::start();
    let mut place = Place::new(&upstream);
    let file = place.path("paged");
    let hook = format!("http://{}/canary-path", receiver.address);
    let script = format!("cat >> {0}; echo >> {0}", file.display());
    place.set(
        "alerts",
        &format!(
            r#"[{{ name = "down", when = "upstream_down > 300ms", resolve_after = "0s", to = ["log",
            {{ webhook = "{hook}", headers = {{ X-Key = "canary-key" }} }}, {{ command = ["/bin/sh", "-c", "{script}"] }}] }}]"#
        )
        .replace('\n', " "),
    );
    let relay = place.start_live();
    let mut client = relay.subscriber("$status");
    assert_eq!(relay.metric("tidegate_alerts_firing{alert=\"down\"}"), 0.0);
    upstream.gate(Gate::Shut);
    upstream.cut();
    relay.wait_metric("tidegate_alerts_firing{alert=\"down\"}", 1.0);
    relay.wait_metric("tidegate_alert_deliveries_total{result=\"delivered\"}", 2.0);
    upstream.gate(Gate::Open);
    relay.wait_state("live");
    relay.wait_metric("tidegate_alert_deliveries_total{result=\"delivered\"}", 4.0);
    assert_eq!(relay.metric("tidegate_alert_deliveries_total{result=\"retried\"}"), 1.0, "it had failed once");
    assert_eq!(relay.metric("tidegate_alerts_firing{alert=\"down\"}"), 0.0);

    let taken = receiver.taken();
    let states: Vec<&Value> = taken.iter().map(|message| &message["status"]).collect();
    assert_eq!(states, ["firing", "resolved"], "{taken:?}");
    assert_eq!(taken[0]["id"], taken[1]["id"], "one firing, one id");
    assert_eq!((&taken[0]["alert"], &taken[0]["when"]), (&json!("down"), &json!("upstream_down > 300ms")));
    assert!(receiver.heads.lock().unwrap().iter().all(|head| head.contains("canary-key")), "the header is sent");
    let paged = until("what the command wrote", || {
        let text = std::fs::read_to_string(&file).ok()?;
        (text.lines().count() == 2).then_some(text)
    });
    let paged: Vec<Value> = paged.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(paged, taken, "the same message");

    let mut told = Vec::new();
    while told.len() < 2 {
        let event = client.next_of("event");
        if event["type"] == "alert" {
            told.push(event["data"]["status"].clone());
        }
    }
    assert_eq!(told, ["firing", "resolved"]);
    let log = std::fs::read_to_string(place.path("log")).unwrap();
    assert!(log.contains("an alert fires") && log.contains("an alert is resolved"), "{log}");
    let shown = [log, relay.tell("GET /v1/config", &[], "").body, relay.status().to_string()];
    assert!(!shown.concat().contains("canary"), "no address and no header is shown");
    relay.stop();
}

#[test]
fn alerts_change_with_a_reload_and_a_program_that_hangs_holds_nothing_up() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let started = place.path("started");
    let script = format!("echo $$ >> {}; exec sleep 600", started.display());
    let hanging = format!(r#"{{ command = ["/bin/sh", "-c", "{script}"] }}"#);
    place.set("alerts", &format!(r#"[{{ name = "seen", when = "sessions > 0", to = [{hanging}] }}]"#));
    let relay = place.start_live();
    let mut client = relay.subscriber("a");
    relay.wait_metric("tidegate_alerts_firing{alert=\"seen\"}", 1.0);
    upstream.wait_for("subscribe", 1);
    upstream.event("a", &json!(1));
    assert_eq!(client.next_of("event")["data"], 1, "the feed goes on");
    place.set("alerts", r#"[{ name = "other", when = "sessions > 0" }]"#);
    assert_eq!(relay.tell("POST /v1/reload", &[], "{}").status, 200);
    relay.wait_metric("tidegate_alerts_firing{alert=\"other\"}", 1.0);
    let status = relay.status();
    assert_eq!(status["alerts"][0]["name"], "other", "{status}");
    assert_eq!(status["alerts"].as_array().unwrap().len(), 1);
    relay.wait_metric("tidegate_alert_deliveries_total{result=\"retried\"}", 1.0);
    until("the second try", || (std::fs::read_to_string(&started).ok()?.lines().count() >= 2).then_some(()));
    assert!(["good", "degraded"].contains(&status["quality"]["band"].as_str().unwrap_or("good")), "{status}");
    relay.stop();
    for process in std::fs::read_to_string(&started).unwrap().lines() {
        let alive = std::path::Path::new("/proc").join(process).join("exe").exists();
        assert!(!alive, "no program outlives its delivery or the relay");
    }
}
