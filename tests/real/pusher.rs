//! soketi, a server of the Pusher protocol, through the dialect `pusher`. Its native sockets are replaced by Node's, since
//! they are no npm package; what it says is its own.

use std::process::Command;

use serde_json::{Value, json};

use crate::door::Door;
use crate::rig::{Relay, offset};
use crate::script::{self, Script, folder, free_port, has};

fn can_run(test: &str) -> bool {
    let mut check = Command::new("node");
    check.current_dir(folder().join("soketi")).args(["-e", "require('@soketi/soketi/package.json')"]);
    script::can_run(test, &["ws"]) && has(test, "soketi (npm ci in tests/real/soketi)", &mut check)
}

fn soketi() -> (Script, u16) {
    Script::service("soketi/server.mjs", &free_port().to_string())
}

fn trigger(service: &mut Script, event: &str, data: Value) {
    assert_eq!(service.ask("trigger", json!(["tides", event, data])), 200);
}

#[test]
fn channels_of_a_real_soketi() {
    if !can_run("pusher_channels") {
        return;
    }
    let (mut service, port) = soketi();
    let door = Door::new();
    door.lead_to(port);

    let stranger = Relay::start(&format!("ws://{}/app/no-such-key", door.address()), "pusher", "", "");
    let given_up = stranger.upstream("given_up");
    assert!(given_up["last_ending"].to_string().contains("4001"), "{given_up}");
    drop(stranger);

    let relay =
        Relay::start(&format!("ws://{}/app/tide", door.address()), "pusher", "", "[interest]\nlinger = \"50ms\"");
    relay.upstream("live");
    let (mut app, mut other) = (relay.app(), relay.app());
    app.subscribe(json!("tides"));
    other.subscribe(json!({"channel": "private-tides", "params": {"auth": "tide:no-signature"}}));
    let error = other.frame("error");
    assert_eq!((&error["channel"], &error["code"]), (&json!("private-tides"), &json!("upstream_refused")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("401"), "{error}");
    relay.carried("tides");
    trigger(&mut service, "rose", json!({"cm": 312}));
    let first = app.frame("event");
    assert_eq!((&first["channel"], &first["type"]), (&json!("tides"), &json!("rose")), "{first}");
    assert_eq!(first["data"], json!({"cm": 312}), "its data are JSON in a string");

    drop(service);
    let gap = app.frame("gap");
    assert_eq!((&gap["reason"], &gap["prev"]), (&json!("reconnect"), &json!(offset(&first))), "{gap}");
    let (mut service, port) = soketi();
    door.lead_to(port);
    relay.upstream("live");
    relay.carried("tides");
    trigger(&mut service, "fell", json!({"cm": 100}));
    let event = app.frame("event");
    assert_eq!((&event["type"], &event["prev"]), (&json!("fell"), &json!(offset(&gap))), "{event}");
    assert_eq!(relay.metric("tidegate_dialect_unmatched_total"), "0");
}
