//! What was recorded over HTTP: the dialect that recorded it understands all of it, and a relay in front of the recording
//! brings its apps the same events.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::common::until;
use crate::hub::{DIALECT, Hub};
use crate::rig::{Place, Relay};
use crate::transports::{named, numbers};

/// A command of the real binary, without the environment's settings.
fn tidegate(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
        command.env_remove(name);
    }
    command.current_dir(dir).args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `tidegate replay` of a transcript, and its address.
fn replay(dir: &Path, transcript: &str, more: &[&str]) -> (Running, String) {
    let arguments = [&["replay", transcript, "--listen", "127.0.0.1:0", "--speed", "0"], more].concat();
    let mut child = tidegate(dir, &arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.split_whitespace().last().unwrap().to_owned();
    (Running(child), url)
}

/// A relay in front of this address.
fn relay(url: &str, dialect: &str, transport: &str) -> (Place, Relay) {
    let mut place = Place::at(url);
    std::fs::write(place.path("spoken.toml"), dialect).unwrap();
    let spoken = format!("{:?}", place.path("spoken.toml"));
    place.set("upstream.dialect", &spoken).set("upstream.transports", &format!("[{transport:?}]"));
    let relay = place.start();
    (place, relay)
}

/// Records a service, and a cut in between, while things happen there; gives the numbers of the events that were recorded.
fn record(hub: &Hub, dir: &Path, transport: &str) -> Vec<u64> {
    std::fs::write(dir.join("hub.toml"), DIALECT).unwrap();
    let set = [
        "upstream.dialect=./hub.toml".to_owned(),
        format!("upstream.transports=[{transport:?}]"),
        r#"upstream.backoff={ min = "10ms", max = "20ms" }"#.to_owned(),
    ];
    let url = hub.url();
    let mut arguments = vec!["record", "out.jsonl", "--url", &url, "--channel", "a", "--max-frames", "16"];
    set.iter().for_each(|set| arguments.extend(["--set", set]));
    let mut recording = Running(tidegate(dir, &arguments).stdout(Stdio::null()).spawn().unwrap());
    let (mut n, mut cut) = (0, false);
    let status = until("the end of the recording", || {
        n += 1;
        hub.event("a", n);
        let written = std::fs::read_to_string(dir.join("out.jsonl")).unwrap_or_default();
        if !cut && written.contains(r#"\"n\":"#) {
            hub.cut(false);
            cut = true;
        }
        recording.0.try_wait().unwrap()
    });
    assert!(status.success() && cut, "{transport}: {status}");
    let tested = tidegate(dir, &["dialect", "test", "hub.toml", "out.jsonl"]).output().unwrap();
    let said = String::from_utf8_lossy(&tested.stdout).into_owned();
    assert!(
        tested.status.success() && said.contains(", 0 not;") && said.contains(" 0 foreign"),
        "{transport}:\n{said}"
    );
    // A poll that was cut is asked again.
    assert!(transport != "sse" || said.contains("c2 "), "a second connection\n{said}");
    let data = said.split("event a id=").skip(1).map(|event| event.split("data=").nth(1).unwrap());
    data.map(|data| data.split_whitespace().next().unwrap().parse().unwrap()).collect()
}

fn there_and_back(transport: &str) {
    let hub = Hub::new();
    let dir = tempfile::tempdir().unwrap();
    let recorded = record(&hub, dir.path(), transport);
    let expected: Vec<u64> = (recorded[0]..).take(recorded.len()).collect();
    assert_eq!(recorded, expected, "{transport}: none is missing");
    assert!(recorded.len() > 2, "{transport}: {recorded:?}");
    let (_replay, url) = replay(dir.path(), "out.jsonl", &[]);
    let (_place, relay) = relay(&url, DIALECT, transport);
    let mut client = relay.subscriber("a");
    assert_eq!(numbers(&mut client, recorded.len()), named("a", recorded), "{transport}");
    assert_eq!(relay.status()["upstream"]["transport"], transport);
    relay.stop();
}

#[test]
fn what_was_recorded_over_an_event_stream_comes_again() {
    there_and_back("sse");
}

#[test]
fn what_was_recorded_over_long_polls_comes_again() {
    there_and_back("long-poll");
}

#[test]
fn what_was_recorded_over_polls_comes_again() {
    there_and_back("poll");
}

/// A transcript of these steps, of one connection over this transport.
fn write(dir: &Path, transport: &str, steps: &[Value]) {
    let begin =
        json!({"dir": "out", "op": "connect", "transport": transport, "url": format!("http://h/{transport}/a")});
    let open = json!({"dir": "in", "op": "open"});
    let mut text = String::from("{\"meta\":{}}\n");
    for step in [begin, open].iter().chain(steps) {
        let mut step = step.clone();
        step["conn"] = "c1".into();
        text += &format!("{step}\n");
    }
    std::fs::write(dir.join("script.jsonl"), text).unwrap();
}

fn chunk(n: u64) -> Value {
    let event = json!({"id": n.to_string(), "channel": "a", "n": n});
    json!({"dir": "in", "op": "chunk", "data": format!("id: {n}\ndata: {event}\n\n")})
}

#[test]
fn a_recorded_publish_is_waited_for_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    let published =
        json!({"dir": "out", "op": "http", "method": "POST", "url": "http://h/publish/a", "data": "{\"x\":1}"});
    let answered = json!({"dir": "in", "op": "http", "method": "POST", "status": 201, "data": "{\"kept\":true}"});
    write(dir.path(), "sse", &[chunk(1), published, answered, chunk(2)]);
    let (_replay, url) = replay(dir.path(), "script.jsonl", &[]);
    let (_place, relay) = relay(&url, DIALECT, "sse");
    let mut client = relay.subscriber("a");
    assert_eq!(numbers(&mut client, 1), named("a", [1]));
    let message = client.publish(json!({"channel": "a", "data": {"x": 1}}));
    assert_eq!(numbers(&mut client, 1), named("a", [2]), "it comes after what was published");
    relay.wait_settled();
    let told = relay.ask(&format!("GET /v1/messages/{message}"), &[], "").json();
    assert_eq!(told["state"], "delivered", "{told}");
    relay.stop();
}

#[test]
fn after_the_last_round_comes_the_first() {
    for transport in ["sse", "long-poll"] {
        let dir = tempfile::tempdir().unwrap();
        let steps = match transport {
            "sse" => vec![chunk(1), json!({"dir": "in", "op": "eof"})],
            _ => vec![
                json!({"dir": "out", "op": "http", "method": "GET", "url": "http://h/long-poll/a"}),
                json!({"dir": "in", "op": "http", "status": 200, "data": "[{\"id\":\"1\",\"channel\":\"a\",\"n\":1}]"}),
                json!({"dir": "in", "op": "drop"}),
            ],
        };
        write(dir.path(), transport, &steps);
        let (_replay, url) = replay(dir.path(), "script.jsonl", &["--loop"]);
        let (_place, relay) = relay(&url, &DIALECT.replace("id = \"/id\"\n", ""), transport);
        let mut client = relay.subscriber("a");
        let mut rounds = 0;
        while rounds < 3 {
            let frame = client.next();
            // Where the transcript ends in between, the relay says so.
            if frame["kind"] == "event" && frame["channel"] == "a" {
                assert_eq!(frame["data"], 1, "{transport}: {frame}");
                rounds += 1;
            }
        }
        relay.stop();
    }
}
