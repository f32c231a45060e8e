//! Action Cable of Ruby on Rails on puma, through the dialect of that name.

use std::process::Command;

use serde_json::{Value, json};

use crate::door::Door;
use crate::rig::{Relay, offset};
use crate::script::{self, Server, folder, free_port, has};

/// What the relay knows of the service: apps are told within a second that it does not answer.
const MORE: &str = "[interest]\nlinger = \"50ms\"\nack_timeout = \"300ms\"\nack_attempts = 2";

fn can_run(test: &str) -> bool {
    let ruby = |script: &str| {
        let mut command = Command::new("ruby");
        command.arg("-e").arg(script);
        command
    };
    script::can_run(test, &["ws"])
        && has(test, "Action Cable (package ruby-actioncable)", &mut ruby("require 'action_cable'"))
        && has(test, "puma (package puma)", Command::new("puma").arg("--version"))
}

fn cable(dir: &tempfile::TempDir) -> Server {
    let port = free_port();
    let mut command = Command::new("puma");
    command.args(["--bind", &format!("tcp://127.0.0.1:{port}"), "--dir"]).arg(dir.path());
    command.arg(folder().join("actioncable.ru"));
    Server::start(command, port, dir.path(), "puma")
}

fn room(name: &str) -> Value {
    json!({"channel": "RoomChannel", "params": {"room": name}})
}

fn speak(name: &str, text: &str) -> Value {
    json!({"channel": "RoomChannel", "params": {"room": name}, "data": {"action": "speak", "text": text}})
}

#[test]
fn rooms_of_a_real_cable() {
    if !can_run("actioncable_rooms") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = cable(&dir);
    let door = Door::new();
    door.lead_to(service.port());
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "wrong").unwrap();
    let upstream = format!("token_file = {:?}", token.path());
    let relay = Relay::start(&format!("ws://{}", door.address()), "actioncable", &upstream, MORE);

    let given_up = relay.upstream("given_up");
    assert!(given_up["last_ending"].to_string().contains("unauthorized"), "{given_up}");
    std::fs::write(token.path(), "secret").unwrap();
    relay.admin_post("/v1/upstream/reconnect");
    relay.upstream("live");

    let (mut app, mut other) = (relay.app(), relay.app());
    app.subscribe(room("kitchen"));
    other.subscribe(room("garden"));
    let message = relay.publish(&speak("kitchen", "dinner"));
    let first = app.frame("event");
    assert_eq!(first["channel"], r#"RoomChannel?{"room":"kitchen"}"#);
    assert_eq!(first["data"], json!({"said": "dinner"}));
    let outcome = relay.outcome(&message);
    assert_eq!((&outcome["state"], &outcome["confirmed_by"]), (&json!("delivered"), &json!("written")), "{outcome}");
    relay.publish(&speak("garden", "rain"));
    assert_eq!(other.frame("event")["data"], json!({"said": "rain"}), "the class is the same, the room is not");
    app.has_no("event");

    app.subscribe(room("closed"));
    let error = app.frame("error");
    assert_eq!(
        (&error["code"], &error["channel"]),
        (&json!("upstream_refused"), &json!(r#"RoomChannel?{"room":"closed"}"#))
    );
    assert!(error["message"].as_str().unwrap().contains("rejected"), "{error}");
    app.subscribe(json!("NoSuchChannel"));
    let error = app.frame("error");
    assert_eq!((&error["code"], &error["channel"]), (&json!("upstream_timeout"), &json!("NoSuchChannel")), "{error}");

    drop(service);
    let gap = app.frame("gap");
    assert_eq!((&gap["reason"], &gap["prev"]), (&json!("reconnect"), &json!(offset(&first))), "{gap}");
    let held = relay.publish(&speak("kitchen", "supper"));
    let service = cable(&dir);
    door.lead_to(service.port());
    let event = app.frame("event");
    assert_eq!(event["data"], json!({"said": "supper"}), "accepted while the service was away");
    assert_eq!(event["prev"], offset(&gap), "nothing but the gap between {gap} and {event}");
    assert_eq!(relay.outcome(&held)["state"], "delivered");
    assert_eq!(other.frame("gap")["channel"], r#"RoomChannel?{"room":"garden"}"#);
    other.has_no("error");
    assert_eq!(relay.metric("tidegate_dialect_unmatched_total"), "0");
}
