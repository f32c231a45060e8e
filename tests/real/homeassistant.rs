//! Home Assistant's core, through the dialect of that name.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::door::Door;
use crate::rig::{Relay, offset};
use crate::script::{self, Script, folder, has};

/// The version that `tests/run` installs into `venv`.
const VERSION: &str = "2024.3.3";

fn can_run(test: &str) -> bool {
    let check = format!("import homeassistant.const as c; assert c.__version__ == '{VERSION}'");
    let python = folder().join("venv/homeassistant/bin/python");
    let package = format!("homeassistant {VERSION} (pip, tests/real/venv/homeassistant; tests/run makes it)");
    script::can_run(test, &["ws"]) && has(test, &package, Command::new(python).arg("-c").arg(check))
}

/// A Home Assistant with its state in `dir`: the script, its port, and the tokens that it gave.
fn home(dir: &Path) -> (Script, u16, Value) {
    let mut command = Command::new("venv/homeassistant/bin/python");
    command.arg("home.py").arg(dir);
    let mut script = Script::run(command, "home.py");
    let mut said = script.line("port", |line| line.get("port").is_some());
    let port = said["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap();
    (script, port, said.take())
}

#[test]
fn events_of_a_real_home() {
    if !can_run("homeassistant_events") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (script, port, tokens) = home(dir.path());
    let door = Door::new();
    door.lead_to(port);
    let token = tempfile::NamedTempFile::new().unwrap();
    let name = |text: &str| std::fs::write(token.path(), text).unwrap();
    name("no token of this home");
    let upstream = format!("token_file = {:?}", token.path());
    let relay = Relay::start(&format!("ws://{}", door.address()), "homeassistant", &upstream, "");
    let given_up = relay.upstream("given_up");
    assert!(given_up["last_ending"].to_string().contains("Invalid access token"), "{given_up}");

    name(tokens["guest"].as_str().unwrap());
    relay.admin_post("/v1/upstream/reconnect");
    let mut guest = relay.app();
    guest.subscribe(json!("tide_turned"));
    let error = guest.frame("error");
    assert_eq!((&error["channel"], &error["code"]), (&json!("tide_turned"), &json!("upstream_refused")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("unauthorized"), "{error}");
    guest.subscribe(json!("state_changed"));

    // What was refused stays so for a while; the owner asks for another.
    name(tokens["owner"].as_str().unwrap());
    relay.admin_post("/v1/upstream/reconnect");
    let mut app = relay.app();
    app.subscribe(json!("tide_rose"));
    let outcome = app.publish(json!({"channel": "tide_rose", "data": {"cm": 312}}));
    assert_eq!((&outcome["state"], &outcome["confirmed_by"]), (&json!("delivered"), &json!("ack")), "{outcome}");
    let first = app.frame("event");
    assert_eq!((&first["channel"], &first["type"]), (&json!("tide_rose"), &json!("tide_rose")));
    assert_eq!(first["data"]["data"], json!({"cm": 312}), "{first}");
    assert_eq!(first["data"]["context"]["id"], outcome["reply"]["context"]["id"], "it is the event that was fired");
    assert!(first["source_time"].is_string(), "{first}");

    drop(script);
    let gap = app.frame("gap");
    assert_eq!((&gap["reason"], &gap["prev"]), (&json!("reconnect"), &json!(offset(&first))), "{gap}");
    let held = relay.publish(&json!({"channel": "tide_rose", "data": {"cm": 415}}));
    let (_script, port, _) = home(dir.path());
    door.lead_to(port);
    assert_eq!(relay.outcome(&held)["state"], "delivered", "the tokens outlive the home");
    let fired = app.publish(json!({"channel": "tide_rose", "data": {"cm": 500}}));
    assert_eq!(fired["state"], "delivered");
    let mut event = app.frame("event");
    assert_eq!(event["prev"], offset(&gap), "nothing but the gap between {gap} and {event}");
    // The one that was held may leave before the subscribe does.
    if event["data"]["data"]["cm"] == 415 {
        event = app.frame("event");
    }
    assert_eq!(event["data"]["data"], json!({"cm": 500}));
    guest.has_no("event");
    assert_eq!(relay.metric("tidegate_dialect_unmatched_total"), "0");
}
