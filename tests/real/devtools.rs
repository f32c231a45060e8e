//! Chromium's DevTools protocol, through the dialect `cdp`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::until;
use crate::rig::{Relay, offset};
use crate::script::{self, Server, free_port, has};

fn can_run(test: &str) -> bool {
    script::can_run(test, &["ws"])
        && has(test, "chromium (package chromium)", Command::new("chromium").arg("--version"))
}

/// A browser without a window, its profile in `dir`.
fn browser(dir: &Path) -> Server {
    let port = free_port();
    let mut command = Command::new("chromium");
    // Tests may run as root, where its sandbox does not.
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.arg(format!("--remote-debugging-port={port}")).arg(format!("--user-data-dir={}", dir.display()));
    command.arg("about:blank");
    Server::start(command, port, dir, "chromium")
}

/// What the browser lists; it keeps the connection open after its answer.
fn targets(port: u16) -> std::io::Result<Value> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port))?);
    stream.get_mut().write_all(format!("GET /json/list HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").as_bytes())?;
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// The address of the browser's page.
fn page(browser: &Server) -> String {
    until("a page in the browser", || {
        let list = targets(browser.port()).unwrap();
        let page = list.as_array()?.iter().find(|target| target["type"] == "page")?;
        Some(page["webSocketDebuggerUrl"].as_str()?.to_owned())
    })
}

/// A page whose script says this in the console.
fn visit(word: &str) -> Value {
    let page = format!("data:text/html,<title>tide</title><script>console.log('{word}')</script>");
    json!({"channel": "Page.navigate", "data": {"url": page}})
}

#[test]
fn events_and_commands_of_a_real_browser() {
    if !can_run("devtools_events") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = browser(dir.path());
    let address = page(&service);
    let mut relay = Relay::start(&address, "cdp", "", "[interest]\nlinger = \"10m\"");
    let (mut app, mut other) = (relay.app(), relay.app());
    app.subscribe(json!("Runtime.consoleAPICalled"));
    other.subscribe(json!("Page.frameNavigated"));
    let outcome = app.publish(visit("high"));
    assert_eq!((&outcome["state"], &outcome["confirmed_by"]), (&json!("delivered"), &json!("ack")), "{outcome}");
    let first = app.frame("event");
    assert_eq!(first["data"]["args"][0]["value"], "high", "{first}");
    let navigated = other.frame("event");
    assert_eq!(navigated["data"]["frame"]["id"], outcome["reply"]["frameId"], "{navigated}");

    let value = app.publish(json!({"channel": "Runtime.evaluate", "data": {"expression": "6 * 7"}}));
    assert_eq!(value["reply"]["result"]["value"], 42, "{value}");
    let refused = app.publish(json!({"channel": "Page.navigate", "data": {}}));
    assert_eq!(refused["state"], "rejected", "{refused}");
    assert!(refused["reply"].to_string().contains("Invalid parameters"), "{refused}");
    app.subscribe(json!("Tide.rose"));
    let error = app.frame("error");
    assert_eq!((&error["channel"], &error["code"]), (&json!("Tide.rose"), &json!("upstream_refused")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("'Tide.enable' wasn't found"), "{error}");

    drop(service);
    let gap = app.frame("gap");
    assert_eq!((&gap["reason"], &gap["prev"]), (&json!("reconnect"), &json!(offset(&first))), "{gap}");
    let held = relay.publish(&visit("low"));
    // A browser that is started again has other addresses, which a relay reads when it starts.
    let service = browser(dir.path());
    relay.configure(&address, &page(&service));
    relay.kill_and_restart();
    assert_eq!(relay.outcome(&held)["state"], "delivered");
    let mut app = relay.app();
    app.subscribe(json!("Runtime.consoleAPICalled"));
    // DevTools tells a new listener what was said before, too.
    let event = app.frame("event");
    assert_eq!(event["data"]["args"][0]["value"], "low", "{event}");
    assert_eq!(relay.metric("tidegate_dialect_unmatched_total"), "0");
}
