//! A SignalR hub of other people's making (aiosignalr, from PyPI; Microsoft's own needs .NET), through the dialect `signalr`.

use std::process::Command;

use serde_json::json;
use tempfile::NamedTempFile;

use crate::rig::Relay;
use crate::script::{self, Script, folder, has};

/// The version that `tests/run` installs into `venv/signalr`.
const VERSION: &str = "0.1.1";

fn can_run(test: &str) -> bool {
    let check = format!("from importlib.metadata import version as v; assert v('aiosignalr') == '{VERSION}'");
    let python = folder().join("venv/signalr/bin/python");
    let package = format!("aiosignalr {VERSION} (pip, tests/real/venv/signalr; tests/run makes it)");
    script::can_run(test, &["ws"]) && has(test, &package, Command::new(python).arg("-c").arg(check))
}

/// The hub at this port, or any.
fn hub(port: u16) -> (Script, u16) {
    let mut command = Command::new("venv/signalr/bin/python");
    command.arg("signalr.py").arg(port.to_string());
    let mut script = Script::run(command, "signalr.py");
    let port = script.port();
    (script, port)
}

/// A relay whose token is in the file.
fn relay(port: u16, path: &str, token: &NamedTempFile, more: &str) -> Relay {
    let upstream = format!("token_file = {:?}\n{more}", token.path());
    Relay::start(&format!("ws://127.0.0.1:{port}{path}"), "signalr", &upstream, "")
}

fn token(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn a_hub_without_negotiation() {
    if !can_run("signalr_plain") {
        return;
    }
    let (mut service, port) = hub(0);
    let token = token("t0k");
    let relay = relay(port, "/hub", &token, "");
    let connected = service.line("connected", |line| line.get("connected").is_some());
    assert_eq!(connected, json!({"connected": "t0k", "negotiated": false, "from": null}));
    let mut app = relay.app();
    app.subscribe(json!("level"));
    relay.upstream("live");
    service.tell("call", json!(["level", "north", 312]));
    assert_eq!(app.frame("event")["data"], json!(["north", 312]));
    let sum = app.publish(json!({"channel": "add", "data": [2, 3]}));
    assert_eq!((&sum["state"], &sum["reply"]), (&json!("delivered"), &json!(5)), "{sum}");
    assert_eq!(app.publish(json!({"channel": "fail", "data": []}))["state"], "rejected");
    assert_eq!(relay.metric("tidegate_dialect_unmatched_total"), "0");
    relay.terminate();
    service.says("disconnected");
}

#[test]
fn each_connection_is_negotiated() {
    if !can_run("signalr_negotiated") {
        return;
    }
    let (mut service, port) = hub(0);
    let token = token("t0k");
    let relay = relay(port, "/hub", &token, "params = { negotiate = \"/hub\" }");
    let negotiated = json!({"connected": "t0k", "negotiated": true, "from": null});
    assert_eq!(service.line("connected", |line| line.get("connected").is_some()), negotiated);
    let mut app = relay.app();
    app.subscribe(json!("level"));
    relay.upstream("live");
    service.tell("call", json!(["level", 1]));
    assert_eq!(app.frame("event")["data"], json!([1]));
    // The hub that comes back knows nothing of the connection's id: another one is asked for.
    drop(service);
    let (mut service, _) = hub(port);
    assert_eq!(service.line("connected", |line| line.get("connected").is_some()), negotiated);
    assert_eq!(app.frame("gap")["reason"], "reconnect");
    relay.upstream("live");
    service.tell("call", json!(["level", 2]));
    assert_eq!(app.frame("event")["data"], json!([2]));
}

#[test]
fn a_service_that_sends_elsewhere() {
    if !can_run("signalr_redirected") {
        return;
    }
    let (mut service, port) = hub(0);
    let token = token("wrong");
    let relay = relay(port, "/front", &token, "params = { negotiate = \"/front\" }");
    let ending = crate::common::until("the refusal", || {
        let ending = relay.feed("/v1/status")["upstream"]["last_ending"].take();
        Some(ending).filter(|ending| !ending.is_null())
    });
    assert!(ending["detail"].as_str().unwrap().contains("not with this token"), "{ending}");
    std::fs::write(token.path(), "front").unwrap();
    relay.admin_post("/v1/upstream/reconnect");
    let connected = service.line("connected", |line| line.get("connected").is_some());
    assert_eq!(connected, json!({"connected": "for the hub", "negotiated": true, "from": "front"}));
    let mut app = relay.app();
    app.subscribe(json!("level"));
    relay.upstream("live");
    service.tell("call", json!(["level", 1]));
    assert_eq!(app.frame("event")["data"], json!([1]));
}
