//! The real binary as a process, for tests: started in a directory of its own, spoken to over HTTP, signalled, waited for.
//!
//! Invariant: no process outlives its test. Waits are for conditions; [`DEADLINE`] is only there so that a broken build fails
//! instead of hanging.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take before it counts as hanging.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < DEADLINE, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says past the test runner's capture that a test could not run.
pub fn skip(test: &str, reason: &str) {
    std::io::stderr().write_all(format!("SKIP {test}: {reason}\n").as_bytes()).unwrap();
}

/// One request on a connection of its own; the whole answer.
pub fn request(address: SocketAddr, line: &str, headers: &[&str], body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut text = format!("{line} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|header| header.starts_with("Host:")) {
        text.push_str(&format!("Host: {address}\r\n"));
    }
    headers.iter().for_each(|header| text.push_str(&format!("{header}\r\n")));
    if !body.is_empty() {
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    // A listener that refuses early closes before it has read everything; its answer counts.
    let _ = stream.write_all(format!("{text}\r\n{body}").as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A relay that runs; killed if a test fails.
pub struct Process {
    child: Option<Child>,
    dir: PathBuf,
}

impl Process {
    /// `tidegate run` with this file, nothing inherited from the environment. Where it listens goes to `ports` in `dir`, what
    /// it says to `log`.
    pub fn command(dir: &Path, config: &Path) -> Command {
        Process::command_by(&[], dir, config)
    }

    /// The same, run by another program with these arguments. That must become the relay: it is waited for and signalled.
    pub fn command_by(wrapper: &[&str], dir: &Path, config: &Path) -> Command {
        let program = env!("CARGO_BIN_EXE_tidegate");
        let mut command = Command::new(wrapper.first().unwrap_or(&program));
        if let [_, arguments @ ..] = wrapper {
            command.args(arguments).arg(program);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEGATE_") {
                command.env_remove(name);
            }
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
        command.args(["run", "-c"]).arg(config).env("TIDEGATE_PORTS_FILE", dir.join("ports"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command
    }

    /// Starts such a command.
    pub fn start(mut command: Command, dir: &Path) -> Self {
        let _ = std::fs::remove_file(dir.join("ports"));
        Process { child: Some(command.spawn().unwrap()), dir: dir.to_owned() }
    }

    /// Whether it listens; waits until it does, or has ended.
    pub fn listens(&mut self) -> bool {
        let (child, ports) = (self.child.as_mut().unwrap(), self.dir.join("ports"));
        until("the process to listen or to end", || match ports.exists() {
            true => Some(true),
            false => child.try_wait().unwrap().map(|_| false),
        })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// The first address of a listener.
    pub fn address(&self, listener: &str) -> SocketAddr {
        let ports = until("the file with the ports", || std::fs::read(self.dir.join("ports")).ok());
        let ports: Value = serde_json::from_slice(&ports).unwrap();
        ports[listener][0].as_str().unwrap().parse().unwrap()
    }

    /// The whole answer to a GET.
    pub fn get(&self, listener: &str, path: &str) -> String {
        request(self.address(listener), &format!("GET {path}"), &[], "")
    }

    /// The whole answer to a publish over HTTP.
    pub fn publish(&self, body: &str) -> String {
        request(self.address("feed"), "POST /v1/publish", &[], body)
    }

    /// Waits for the end: exit code and what all processes of this directory logged.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut child = self.child.take().unwrap();
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begun.elapsed() > DEADLINE {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("the process does not end: {}", log(&self.dir));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let code = child.wait().unwrap().code();
        let said = log(&self.dir);
        assert!(!said.contains("panicked"), "{said}");
        (code, said)
    }
}

fn log(dir: &Path) -> String {
    let bytes = std::fs::read(dir.join("log")).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
