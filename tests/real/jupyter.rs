//! A Jupyter server with an IPython kernel as upstream: its broadcasts, and code that runs or fails.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{request, until};
use crate::door::Door;
use crate::rig::{Relay, offset};
use crate::script::{self, Server, folder, free_port, has};

const TOKEN: &str = "sesame";

fn can_run(test: &str) -> bool {
    let mut check = Command::new(folder().join("venv/jupyter/bin/python"));
    check.args(["-c", "import jupyter_server, ipykernel"]);
    script::can_run(test, &["ws"])
        && has(test, "jupyter_server (pip, tests/real/venv/jupyter; tests/run makes it)", &mut check)
}

/// A server whose files are in `dir`.
fn server(dir: &Path) -> Server {
    let port = free_port();
    let mut command = Command::new(folder().join("venv/jupyter/bin/python"));
    command.args(["-m", "jupyter_server", "--no-browser", "--allow-root", &format!("--port={port}")]);
    command.arg(format!("--ServerApp.token={TOKEN}")).arg(format!("--ServerApp.root_dir={}", dir.display()));
    command.current_dir(dir).env("HOME", dir).env("JUPYTER_RUNTIME_DIR", dir.join("runtime"));
    Server::start(command, port, dir, "jupyter")
}

/// A new kernel's id.
fn kernel(service: &Server) -> String {
    let address = ([127, 0, 0, 1], service.port()).into();
    let headers = [format!("Authorization: token {TOKEN}")];
    let answer = request(address, "POST /api/kernels", &headers.each_ref().map(String::as_str), "{}");
    let kernel: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    kernel["id"].as_str().unwrap().to_owned()
}

fn code(text: &str) -> Value {
    json!({"channel": "execute_request", "data": {"code": text}})
}

#[test]
fn code_in_a_real_kernel() {
    if !can_run("jupyter_kernel") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = server(dir.path());
    let door = Door::new();
    door.lead_to(service.port());
    let first_kernel = kernel(&service);
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "no token of this server").unwrap();
    let upstream = format!("token_file = {:?}\nparams = {{ kernel = \"{first_kernel}\" }}", token.path());
    let mut relay = Relay::start(&format!("ws://{}", door.address()), "jupyter", &upstream, "");
    until("the refusal", || relay.feed("/v1/status").to_string().contains("403").then_some(()));

    std::fs::write(token.path(), TOKEN).unwrap();
    relay.admin_post("/v1/upstream/reconnect");
    let (mut app, mut other) = (relay.app(), relay.app());
    app.subscribe(json!("execute_result"));
    other.subscribe(json!("stream"));
    let outcome = app.publish(code("print('high')\n6 * 7"));
    assert_eq!((&outcome["state"], &outcome["confirmed_by"]), (&json!("delivered"), &json!("ack")), "{outcome}");
    let first = app.frame("event");
    assert_eq!(first["data"]["content"]["data"]["text/plain"], "42", "{first}");
    assert_eq!(other.frame("event")["data"]["content"]["text"], "high\n");
    let failed = app.publish(code("1 / 0"));
    assert_eq!((&failed["state"], &failed["reason"]), (&json!("rejected"), &json!("ZeroDivisionError")), "{failed}");

    // The line is cut: the kernel and what it knows live on.
    app.publish(code("tide = 312"));
    door.shut();
    let gap = app.frame("gap");
    assert_eq!((&gap["reason"], &gap["prev"]), (&json!("reconnect"), &json!(offset(&first))), "{gap}");
    door.lead_to(service.port());
    app.publish(code("tide + 1"));
    let event = app.frame("event");
    assert_eq!(event["data"]["content"]["data"]["text/plain"], "313", "{event}");

    // The server is killed: its kernels end with it, others have other names, which a relay reads when it starts.
    drop(service);
    app.frame("gap");
    let held = relay.publish(&code("6 * 9"));
    let service = server(dir.path());
    door.lead_to(service.port());
    relay.configure(&first_kernel, &kernel(&service));
    relay.kill_and_restart();
    assert_eq!(relay.outcome(&held)["state"], "delivered");
    assert_eq!(relay.metric("tidegate_dialect_unmatched_total"), "0");
}
