//! nginx with nchan, through the dialect `nchan`.

use std::process::Command;

use serde_json::{Value, json};

use crate::common::{request, until};
use crate::door::Door;
use crate::rig::{Relay, offset};
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
    let address = ([127, 0, 0, 1], service.port()).into();
    let answer = request(address, "POST /pub/tides", &["Accept: text/json"], &data.to_string());
    let info: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    info["subscribers"].as_u64().unwrap()
}

fn relay(door: &Door, channel: &str, transport: &str) -> Relay {
    let params = format!("params = {{ channel = \"{channel}\" }}\ntransports = [\"{transport}\"]");
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

#[test]
fn an_event_stream_goes_on_where_it_ended() {
    goes_on("nchan_sse", "sse");
}

#[test]
fn a_long_poll_goes_on_where_it_ended() {
    goes_on("nchan_long_poll", "long-poll");
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

    drop(service);
    let gap = app.frame("gap");
    assert_eq!((&gap["reason"], &gap["prev"]), (&json!("reconnect"), &json!(offset(&first))), "{gap}");
    let service = nginx(&dir);
    door.lead_to(service.port());
    relay.upstream("live");
    assert_eq!(post(&service, &json!({"cm": 100})), 1);
    let event = app.frame("event");
    assert_eq!((&event["data"], &event["prev"]), (&json!({"cm": 100}), &json!(offset(&gap))), "{event}");
    assert_eq!(relay.metric("tidegate_dialect_unmatched_total"), "0");
}
