//! Services and clients of other people's making, as processes: scripts, which say what happens and do what they are told, a
//! JSON line each, and servers, which listen.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

use crate::common::until;

/// How long a script may stay silent before it counts as hanging: on a busy machine it takes long to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// The oldest Node.js that the packages support.
const NODE: u32 = 20;

/// Where the scripts are.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/real")
}

/// Says that a test cannot run here, and why.
pub fn skip(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIP real::{test}: {reason}");
}

/// Whether this command succeeds here, which only asks whether something is installed; says SKIP for this test if not.
pub fn has(test: &str, package: &str, command: &mut Command) -> bool {
    let found = command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success());
    if !found {
        skip(test, &format!("{package} is not installed"));
    }
    found
}

/// A port of loopback where nobody listens now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether scripts that need these packages can run here; says SKIP for this test if not.
pub fn can_run(test: &str, packages: &[&str]) -> bool {
    match missing(packages) {
        None => true,
        Some(reason) => {
            skip(test, &reason);
            false
        }
    }
}

fn missing(packages: &[&str]) -> Option<String> {
    let Ok(output) = Command::new("node").arg("--version").output() else {
        return Some("node is not installed (package nodejs)".to_owned());
    };
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
    if major.is_none_or(|major: u32| major < NODE) {
        return Some(format!("node is {version}, the packages need {NODE} or newer"));
    }
    let manifest = |path: &str| -> Option<Value> {
        serde_json::from_slice(&std::fs::read(folder().join(path).join("package.json")).ok()?).ok()
    };
    let wanted = manifest(".")?;
    let absent = packages.iter().find(|package| {
        let installed = manifest(&format!("node_modules/{package}"));
        installed.is_none_or(|installed| installed["version"] != wanted["dependencies"][**package])
    })?;
    Some(format!("the npm package {absent} is not installed (npm ci in tests/real)"))
}

/// A server that runs; killed with all its children when it is dropped.
pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts it and waits until it listens at this port of loopback; what it says goes to a file of this name in `dir`.
    pub fn start(mut command: Command, port: u16, dir: &Path, name: &str) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join(name)).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        let mut server = Server { child: command.spawn().unwrap(), port };
        until(&format!("{name} at port {port}"), || {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{name} has ended: {}", std::fs::read_to_string(dir.join(name)).unwrap());
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A script that runs; killed with all its children when it is dropped.
pub struct Script {
    child: Child,
    name: String,
    lines: Receiver<Value>,
    /// Said, but not asked for yet.
    waiting: VecDeque<Value>,
}

impl Script {
    pub fn start(name: &str, argument: &str) -> Self {
        let mut command = Command::new("node");
        command.arg(name).arg(argument);
        Script::run(command, name)
    }

    /// Any program that speaks in such lines, begun in the folder of the scripts.
    pub fn run(mut command: Command, name: &str) -> Self {
        command.current_dir(folder()).process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let Ok(value) = serde_json::from_str(&line) else { continue };
                if said.send(value).is_err() {
                    return;
                }
            }
        });
        Script { child, name: name.to_owned(), lines, waiting: VecDeque::new() }
    }

    /// A service: also the port of loopback where it listens.
    pub fn service(name: &str, argument: &str) -> (Self, u16) {
        let mut script = Script::start(name, argument);
        let port = script.port();
        (script, port)
    }

    /// Waits until the service says where it listens.
    pub fn port(&mut self) -> u16 {
        self.says("port").as_u64().and_then(|port| port.try_into().ok()).unwrap()
    }

    /// Gives an order.
    pub fn tell(&mut self, order: &str, argument: Value) {
        writeln!(self.child.stdin.as_ref().unwrap(), "{}", json!({ order: argument })).unwrap();
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Gives an order and waits for its answer.
    pub fn ask(&mut self, order: &str, argument: Value) -> Value {
        self.tell(order, argument);
        self.says("answer")
    }

    /// Waits for the first line that has this member and was not taken yet: the member.
    pub fn says(&mut self, member: &str) -> Value {
        self.line(member, |line| line.get(member).is_some())[member].take()
    }

    /// Waits for the first line that fits and was not taken yet.
    pub fn line(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.waiting.iter().position(&fits) {
            return self.waiting.remove(at).unwrap();
        }
        let begun = Instant::now();
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())) else {
                panic!("{} does not say `{what}`, but: {:#?}", self.name, self.waiting);
            };
            if fits(&line) {
                return line;
            }
            self.waiting.push_back(line);
        }
    }

    /// What was said before the lines that were taken, and fits.
    pub fn left(&self, fits: impl Fn(&Value) -> bool) -> Vec<&Value> {
        self.waiting.iter().filter(|line| fits(line)).collect()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
