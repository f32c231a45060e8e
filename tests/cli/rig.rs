//! Processes of the real binary for the tests of the command line, each in a directory of its own.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary with a clean environment.
pub fn tidegate(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEGATE_") {
            command.env_remove(name);
        }
    }
    command.current_dir(dir).env("TMPDIR", dir).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(dir: &Path, arguments: &[&str]) -> Output {
    tidegate(dir).args(arguments).output().unwrap()
}

/// Both outputs together.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A process whose lines are read as they come.
pub struct Process {
    pub child: Child,
    pub lines: Receiver<String>,
    seen: String,
}

impl Process {
    /// Starts a command and reads its standard output and error together.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Process { child, lines, seen: String::new() }
    }

    /// The next line that has these words.
    pub fn line_with(&mut self, words: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("no line with `{words}`, but:\n{}", self.seen);
            };
            self.seen.push_str(&line);
            self.seen.push('\n');
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; its exit code.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// The demo, of which only the upstream service is used; and its address.
pub fn upstream(dir: &Path) -> (Process, String) {
    let mut command = tidegate(dir);
    let anywhere = "127.0.0.1:0";
    command.args(["demo", "--feed", anywhere, "--admin", anywhere, "--upstream", anywhere]);
    let mut process = Process::start(command);
    let line = process.line_with("ws://127.0.0.1");
    let address = &line[line.find("ws://").unwrap() + 5..];
    let address = address.split_whitespace().next().unwrap().to_owned();
    process.line_with("stops it");
    (process, address)
}

/// A relay with the configuration file `relay.toml` of its directory, and where it listens: feed, admin.
pub fn relay(dir: &Path) -> (Process, String, String) {
    let ports = dir.join("ports.json");
    let _ = std::fs::remove_file(&ports);
    let mut command = tidegate(dir);
    command.args(["run", "-c", "relay.toml"]).env("TIDEGATE_PORTS_FILE", &ports);
    let mut process = Process::start(command);
    // Said after the file was written.
    process.line_with("\"message\":\"admin\"");
    while !ports.exists() {
        std::thread::yield_now();
    }
    let bound: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&ports).unwrap()).unwrap();
    let first = |key: &str| bound[key][0].as_str().unwrap().to_owned();
    (process, first("feed"), first("admin"))
}
