//! Where a document's commands are run: a directory of its own, the processes that it started, and their real ports.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::blocks::Block;

/// The ports that documents write: feed, admin, the demo's upstream, a replay or mock.
const WRITTEN: [&str; 4] = ["127.0.0.1:7440", "127.0.0.1:7441", "127.0.0.1:7442", "127.0.0.1:7443"];
/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);
/// A frame on a feed's output.
const FRAME: &str = "\"kind\":";

/// A directory, and what runs in it.
pub struct Stage {
    dir: tempfile::TempDir,
    processes: Vec<Child>,
    /// In place of [`WRITTEN`].
    real: [Option<String>; 4],
}

impl Stage {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // `tidegate` on the path is the binary under test.
        std::fs::create_dir_all(dir.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tidegate"), dir.path().join("bin/tidegate")).unwrap();
        Stage { dir, processes: Vec::new(), real: [None, None, None, None] }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs one command of a document as its reader would, each kind to its own end.
    pub fn run(&mut self, block: &Block, command: &str) {
        let command = command.replace("cargo run --release -- ", "tidegate ");
        if command.starts_with("tidegate demo") {
            self.demo(block, &command);
        } else if command.starts_with("tidegate run") {
            self.relay(block, &command);
        } else if ["tidegate replay", "tidegate mock"].iter().any(|start| command.starts_with(start)) {
            self.service(block, &command);
        } else {
            let asks = WRITTEN.iter().any(|port| command.contains(port)) || command.starts_with("tidegate ");
            if asks && self.processes.is_empty() && !command.starts_with("tidegate dialect") {
                // A page about a relay that runs already.
                self.demo(block, "tidegate demo");
            }
            let endless =
                command.contains("curl -N") || (command.starts_with("tidegate tail") && !command.contains("--count"));
            if endless { self.watch(block, &command) } else { self.finish(block, &command) }
        }
    }

    /// A shell for a command, with the real ports in it and around it.
    fn shell(&self, command: &str) -> Command {
        let mut text = command.replace("curl ", "curl --fail-with-body ");
        for (written, real) in WRITTEN.iter().zip(&self.real) {
            if let Some(real) = real {
                text = text.replace(written, real);
            }
        }
        let mut shell = Command::new("bash");
        let path = format!("{}:{}", self.dir().join("bin").display(), std::env::var("PATH").unwrap_or_default());
        shell.arg("-c").arg(format!("exec {text}")).current_dir(self.dir()).env("PATH", path).env("TMPDIR", self.dir());
        for (name, real) in [("TIDEGATE_FEED__LISTEN", &self.real[0]), ("TIDEGATE_ADMIN__LISTEN", &self.real[1])] {
            if let Some(real) = real {
                shell.env(name, real);
            }
        }
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        shell
    }

    /// A command that comes to an end by itself, and well.
    fn finish(&self, block: &Block, command: &str) {
        let mut child = self.shell(command).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let (done, ended) = mpsc::channel::<()>();
        let guard = std::thread::spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill_process(pid, Signal::TERM);
            }
        });
        let mut stderr = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let mut output = String::new();
        let _ = child.stdout.take().unwrap().read_to_string(&mut output);
        let status = child.wait().unwrap();
        drop(done);
        guard.join().unwrap();
        let errors = errors.join().unwrap();
        assert!(status.success(), "{}: `{command}` ended with {status}\n{output}\n{errors}", block.place());
    }

    /// A command that shows a feed until it is stopped: one frame is enough.
    fn watch(&self, block: &Block, command: &str) {
        let mut child = self.shell(command).spawn().unwrap();
        let seen = wait_for_line(&mut child, |line| line.contains(FRAME));
        stop(&mut child);
        assert!(seen.is_ok(), "{}: `{command}` showed no frame, but\n{}", block.place(), seen.unwrap_err());
    }

    /// `tidegate demo`: its guide on standard output names its addresses.
    fn demo(&mut self, block: &Block, command: &str) {
        let mut command = command.to_owned();
        for option in ["--feed", "--admin", "--upstream"] {
            if !command.contains(option) {
                command.push_str(&format!(" {option} 127.0.0.1:0"));
            }
        }
        let mut child = self.shell(&command).spawn().unwrap();
        let (mut upstream, mut feed) = (None, None);
        let admin = wait_for_line(&mut child, |line| {
            upstream = upstream.take().or_else(|| address_after(line, "ws://"));
            feed = feed.take().or_else(|| address_after(line, "curl -N 'http://"));
            line.contains("/metrics")
        });
        let admin = admin.unwrap_or_else(|said| panic!("{}: `{command}` did not start\n{said}", block.place()));
        self.real = [feed, address_after(&admin, "curl http://"), upstream, self.real[3].take()];
        assert!(self.real[..3].iter().all(Option::is_some), "the demo's guide names its addresses: {:?}", self.real);
        self.processes.push(child);
    }

    /// `tidegate replay` or `mock`: it prints where it listens.
    fn service(&mut self, block: &Block, command: &str) {
        let mut child = self.shell(&format!("{command} --listen 127.0.0.1:0")).spawn().unwrap();
        let line = wait_for_line(&mut child, |line| line.contains("ws://"));
        let line = line.unwrap_or_else(|said| panic!("{}: `{command}` did not start\n{said}", block.place()));
        self.real[3] = address_after(&line, "ws://");
        self.processes.push(child);
    }

    /// `tidegate run`: it writes its addresses to a file when everything listens.
    fn relay(&mut self, block: &Block, command: &str) {
        let ports = self.dir().join("ports.json");
        let mut shell = self.shell(command);
        shell.env("TIDEGATE_FEED__LISTEN", "127.0.0.1:0").env("TIDEGATE_ADMIN__LISTEN", "127.0.0.1:0");
        shell.env("TIDEGATE_PORTS_FILE", &ports).env("TIDEGATE_OUTBOX__PATH", self.dir().join("state"));
        let mut child = shell.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = lines(child.stderr.take().unwrap());
        let mut said = String::new();
        while !ports.exists() {
            match log.recv_timeout(PATIENCE) {
                Ok(line) => said.push_str(&format!("{line}\n")),
                Err(_) => panic!("{}: `{command}` did not start\n{said}", block.place()),
            }
        }
        let bound: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&ports).unwrap()).unwrap();
        let first = |key: &str| bound[key][0].as_str().map(str::to_owned);
        self.real = [first("feed"), first("admin"), self.real[2].take(), self.real[3].take()];
        self.processes.push(child);
    }

    /// A whole file if its first line names one, else a part of one.
    pub fn check_toml(&self, block: &Block) {
        let first = block.text.lines().next().unwrap_or_default();
        let name = first.strip_prefix("# ").filter(|name| name.ends_with(".toml") && !name.contains(' '));
        let mut text = block.text.clone();
        for (written, real) in WRITTEN.iter().zip(&self.real).skip(2) {
            if let Some(real) = real {
                text = text.replace(written, real);
            }
        }
        let path = self.dir().join(name.unwrap_or("part.toml"));
        std::fs::write(&path, &text).unwrap();
        if text.lines().any(|line| line.starts_with("dialect = 1")) {
            let parsed = tidegate::dialect::Dialect::parse(name.unwrap_or("part"), &text);
            assert!(parsed.is_ok(), "{}: {:?}", block.place(), parsed.err());
            return;
        }
        let mut check = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        check.arg("check").arg("-c").arg(&path).current_dir(self.dir());
        if !text.contains("url =") {
            check.args(["--set", "upstream.url=ws://127.0.0.1:9/"]);
        }
        let output = check.output().unwrap();
        assert!(output.status.success(), "{}: {}", block.place(), String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.processes.iter_mut().for_each(stop);
    }
}

/// Asks a process to end and waits for it.
fn stop(child: &mut Child) {
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    let _ = child.wait();
}

/// `127.0.0.1:PORT` after some words.
fn address_after(line: &str, words: &str) -> Option<String> {
    let rest = &line[line.find(words)? + words.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(rest.len());
    Some(rest[..end].to_owned()).filter(|address| address.contains(':'))
}

/// The first line of standard output that is wanted; what was said instead, if none comes.
fn wait_for_line(child: &mut Child, mut wanted: impl FnMut(&str) -> bool) -> Result<String, String> {
    let output = lines(child.stdout.take().unwrap());
    let errors = lines(child.stderr.take().unwrap());
    let mut said = String::new();
    while let Ok(line) = output.recv_timeout(PATIENCE) {
        if wanted(&line) {
            return Ok(line);
        }
        said.push_str(&format!("{line}\n"));
    }
    said.extend(errors.try_iter().map(|line| format!("{line}\n")));
    Err(said)
}

/// Lines of a stream, read on a thread of their own for as long as there are any, so that nobody blocks on a full pipe.
fn lines(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}
