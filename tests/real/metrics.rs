//! Prometheus' own judgement of what a relay that works shows at `/metrics`.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::clients;
use crate::script::can_run;

#[test]
fn promtool_takes_the_metrics_of_a_busy_relay() {
    if !can_run("promtool", &["ws"]) {
        return;
    }
    let command =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = command else {
        let line = "SKIP real::promtool: promtool is not installed (package prometheus)\n";
        let _ = std::io::stderr().write_all(line.as_bytes());
        return;
    };
    promtool.stdin.take().unwrap().write_all(scrape().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// Metrics after events, messages, refusals and a lost connection.
fn scrape() -> String {
    let (mut service, relay) = clients::upstream("");
    let mut app = relay.app();
    app.subscribe(json!("news"));
    clients::heard(&mut service, "subscribe");
    for number in 1..=50 {
        clients::emit(&mut service, number);
        assert_eq!(app.frame("event")["data"]["n"], number);
        assert_eq!(app.publish(json!({"channel": "orders", "data": number}))["state"], "delivered");
    }
    app.send(json!({"op": "rewind", "ref": 1, "channel": "news"}));
    assert_eq!(app.frame("error")["code"], "not_supported");
    drop(service);
    app.frame("gap");
    let text = relay.metrics();
    for busy in ["tidegate_outbox_outcomes_total{", "tidegate_deliveries_total ", "tidegate_link_disconnects_total{"] {
        let counted = |line: &&str| line.starts_with(busy) && !line.ends_with(" 0");
        assert!(text.lines().any(|line| counted(&line)), "no {busy} in:\n{text}");
    }
    text
}
