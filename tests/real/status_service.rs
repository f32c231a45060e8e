//! docs/status-service.md: its commands run in order, with its own service and configuration, and what it shows comes out.
//! And what the page only tells: what happens when the token runs out.
//!
//! `&` at the end of a command lets it run on; the first `curl` that does is the page's reader, whose later output
//! `tail reader` waits for. `…` in an expected line stands for anything.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::common::until;
use crate::script::can_run;

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// An app that may follow payments.
const READ: &str =
    "curl -N -H 'authorization: Bearer payments-secret' 'http://127.0.0.1:7440/v1/sse?channel=service:payments'";

/// A copy of the example's folder, and what runs in it. Everything ends with it.
struct Stage {
    dir: tempfile::TempDir,
    running: Vec<Child>,
    /// Ports of the page and those that are taken in their place.
    ports: Vec<(&'static str, String)>,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(docs().join("status-service")).unwrap() {
            let file = file.unwrap();
            if file.file_type().unwrap().is_file() {
                std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
            }
        }
        let modules = docs().with_file_name("tests").join("real/node_modules");
        std::os::unix::fs::symlink(modules, dir.path().join("node_modules")).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tidegate"), dir.path().join("tidegate")).unwrap();
        Stage { dir, running: Vec::new(), ports: Vec::new() }
    }

    fn output(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    /// The page's text with the ports that are really there.
    fn real(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_owned(), |text, (page, real)| text.replace(page, real))
    }

    fn command(&self, line: &str, output: &str) -> Command {
        let line = self.real(line).replace("curl ", "curl -sS --max-time 90 ").replace("tidegate ", "./tidegate ");
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("exec {line}")).current_dir(self.dir.path()).process_group(0);
        command
            .env("PORT", "0")
            .env("TIDEGATE_FEED__LISTEN", "127.0.0.1:0")
            .env("TIDEGATE_ADMIN__LISTEN", "127.0.0.1:0");
        command.env("TIDEGATE_PORTS_FILE", "ports.json").env("TIDEGATE_OUTBOX__MIN_FREE", "1MiB");
        let file = |name: &str| File::create(self.dir.path().join(name)).unwrap();
        command.stdin(Stdio::null()).stdout(file(output)).stderr(file("errors"));
        command
    }

    /// Starts something that runs until the stage ends.
    fn start(&mut self, line: &str, output: &str) {
        let child = self.command(line, output).spawn().unwrap();
        self.running.push(child);
    }

    /// Waits until these lines are there, one after the other; what came behind them.
    fn shows(&self, output: &str, expected: &[&str]) {
        let expected: Vec<String> = expected.iter().map(|line| self.real(line)).collect();
        until(&format!("{expected:#?} in {output}"), || follows(&self.output(output), &expected).then_some(()));
    }

    fn service(&mut self) {
        self.start("node server.mjs", "service");
        let port = until("the service's port", || {
            let said = self.output("service");
            Some(said.split_once("listening on 127.0.0.1:")?.1.split_once('\n')?.0.to_owned())
        });
        self.ports.push(("127.0.0.1:8090", format!("127.0.0.1:{port}")));
        let config = self.real(&self.output("tidegate.toml"));
        std::fs::write(self.dir.path().join("tidegate.toml"), config).unwrap();
    }

    /// Writes a token of this name that lives so many seconds.
    fn mint(&self, name: &str, seconds: u64) {
        let line = format!("node token.mjs {name} {seconds} > relay.jwt");
        assert!(self.command(&line, "answer").status().unwrap().success());
    }

    fn relay(&mut self, line: &str) {
        self.start(line, "relay");
        let feed = until("the relay's ports", || {
            let ports: serde_json::Value = serde_json::from_str(&self.output("ports.json")).ok()?;
            Some(ports["feed"][0].as_str()?.to_owned())
        });
        self.ports.push(("127.0.0.1:7440", feed));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["service", "relay", "reader", "errors"] {
                let _ = writeln!(std::io::stderr(), "{name}: {}", self.output(name));
            }
        }
        for child in &mut self.running {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            let _ = child.wait();
        }
    }
}

/// Whether the text has all lines, in their order.
fn follows(text: &str, lines: &[String]) -> bool {
    let mut rest = text;
    lines.iter().flat_map(|line| line.split('…')).all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

/// The page's commands, each with what it shows.
fn commands(page: &str) -> Vec<(&str, Vec<&str>)> {
    let mut commands: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        match (line.strip_prefix("$ "), open) {
            _ if line.starts_with("```") => open = line == "```session",
            (Some(command), true) => commands.push((command, Vec::new())),
            (None, true) => commands.last_mut().unwrap().1.push(line),
            (_, false) => {}
        }
    }
    commands
}

fn can(test: &str) -> bool {
    can_run(&format!("status_service_{test}"), &["socket.io"])
}

#[test]
fn the_page_is_true() {
    if !can("page") {
        return;
    }
    let page = std::fs::read_to_string(docs().join("status-service.md")).unwrap();
    let commands = commands(&page);
    assert!(commands.len() >= 12, "has the page changed its marks? {commands:#?}");
    let mut stage = Stage::new();
    for (command, shown) in commands {
        match command.strip_suffix(" &") {
            Some("node server.mjs") => stage.service(),
            Some(relay) if relay.starts_with("tidegate run") => stage.relay(relay),
            Some(reader) => {
                stage.start(reader, "reader");
                stage.shows("reader", &shown);
            }
            None if command == "tail reader" => stage.shows("reader", &shown),
            None if command.contains("curl -N") => {
                stage.start(command, "other");
                stage.shows("other", &shown);
            }
            None => {
                // `> file` of the command itself wins over where its output goes here.
                let status = stage.command(command, "answer").status().unwrap();
                assert!(status.success(), "{command}: {status}: {}", stage.output("errors"));
                stage.shows("answer", &shown);
            }
        }
    }
    assert!(!stage.output("reader").contains("search"), "nothing of another service: {}", stage.output("reader"));
    let service = stage.output("service");
    assert_eq!(service.matches("subscribed\n").count(), 1, "one subscription for all: {service}");
}

#[test]
fn a_newer_token_is_handed_over_before_the_old_one_runs_out() {
    if !can("token") {
        return;
    }
    const LIFE: u64 = 20;
    let mut stage = Stage::new();
    stage.service();
    stage.mint("first", LIFE);
    let minted = Instant::now();
    stage.relay("tidegate run --config tidegate.toml");
    stage.start(READ, "reader");
    stage.shows("reader", &["\"version\":1"]);
    stage.mint("second", 3600);
    stage.shows("service", &["first connects", "subscribed", "second may stay"]);
    until("the first token's end", || (minted.elapsed().as_secs() > LIFE).then_some(()));
    let post = stage
        .command("curl -X POST http://127.0.0.1:8090/services/payments -d '{\"state\":\"down\"}'", "answer")
        .status();
    assert!(post.unwrap().success());
    stage.shows("reader", &["\"version\":1", "\"version\":2"]);
    let (reader, service) = (stage.output("reader"), stage.output("service"));
    assert!(!reader.contains("\"kind\":\"gap\""), "apps notice nothing: {reader}");
    assert_eq!(service.matches("connects").count(), 1, "one connection all the time: {service}");
}

#[test]
fn a_token_that_ran_out_is_read_anew() {
    if !can("expiry") {
        return;
    }
    let mut stage = Stage::new();
    stage.service();
    stage.mint("first", 12);
    stage.relay("tidegate run --config tidegate.toml");
    stage.start(READ, "reader");
    stage.shows("reader", &["\"version\":1"]);
    // Nobody writes a newer one in time: the service ends the connection and refuses the next.
    stage.shows("service", &["first connects", "subscribed", "refused: "]);
    stage.mint("second", 3600);
    stage.shows("service", &["first connects", "subscribed", "second connects", "subscribed"]);
    stage.shows("reader", &["\"version\":1", "\"kind\":\"gap\"", "\"snapshot\":true", "\"version\":1"]);
}
