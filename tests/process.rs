//! The life of the process, with the real binary: readiness and watchdog for a service manager, signals, reload, exit codes.
//!
//! Every wait is for a datagram, a frame or the end of the process; the deadlines are only there so that a broken build
//! fails instead of hanging.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio_tungstenite::tungstenite::{Message, accept};

const DEADLINE: Duration = Duration::from_secs(60);

/// A directory with a configuration, and what a service manager would give.
struct Place {
    dir: tempfile::TempDir,
    notify: UnixDatagram,
}

impl Place {
    /// `upstream` may be an address where nobody listens.
    fn new(upstream: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(DEADLINE)).unwrap();
        let place = Place { dir, notify };
        place.configure(upstream, "");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, upstream: &str, more: &str) {
        let state = self.path("state");
        let text = format!(
            "[upstream]\nurl = \"{upstream}\"\n[feed]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = [\"127.0.0.1:0\"]\n\
             [drain]\ntimeout = \"10m\"\n[outbox]\npath = {state:?}\nmin_free = \"1MiB\"\n{more}"
        );
        std::fs::write(self.path("tidegate.toml"), text).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["run", "-c"])
            .arg(self.path("tidegate.toml"))
            .env("NOTIFY_SOCKET", self.path("notify"))
            .env("TIDEGATE_PORTS_FILE", self.path("ports"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts the relay and waits until it says that it is ready.
    fn start(&self) -> Running<'_> {
        let running = Running { child: Some(self.command().spawn().unwrap()), place: self };
        running.told("READY=1");
        running
    }

    /// The next datagram for the service manager.
    fn news(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.notify.recv(&mut buffer).expect("the process says something");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

/// A relay that runs; killed if a test fails.
struct Running<'a> {
    child: Option<Child>,
    place: &'a Place,
}

impl Running<'_> {
    fn told(&self, word: &str) {
        while !self.place.news().lines().any(|line| line == word) {}
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    fn address(&self, listener: &str) -> SocketAddr {
        let ports: Value = serde_json::from_slice(&std::fs::read(self.place.path("ports")).unwrap()).unwrap();
        ports[listener][0].as_str().unwrap().parse().unwrap()
    }

    fn get(&self, listener: &str, path: &str) -> String {
        let address = self.address(listener);
        request(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))
    }

    fn publish(&self, body: &str) -> String {
        let address = self.address("feed");
        let length = body.len();
        request(
            address,
            &format!(
                "POST /v1/publish HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            ),
        )
    }

    /// Waits for the end: exit code and what was logged.
    fn end(mut self) -> (Option<i32>, String) {
        ended(self.child.take().unwrap())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ended(mut child: Child) -> (Option<i32>, String) {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("the process does not end: {}", said(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), said(&output))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn request(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// An address where nobody listens for as long as the socket is held.
fn nobody() -> (String, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (format!("ws://{address}/"), socket)
}

#[test]
fn it_says_that_it_is_ready_and_that_it_stops() {
    let (upstream, _held) = nobody();
    let place = Place::new(&upstream);
    let running = place.start();
    assert!(running.get("admin", "/livez").starts_with("HTTP/1.1 200"));
    assert!(running.get("feed", "/v1/status").contains("\"upstream\""));
    running.signal(Signal::TERM);
    running.told("STOPPING=1");
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("stopped"), "{said}");
}

#[test]
fn it_feeds_the_watchdog_while_nothing_happens() {
    let (upstream, _held) = nobody();
    let place = Place::new(&upstream);
    let mut command = place.command();
    let child = command.env("WATCHDOG_USEC", "4000000").spawn().unwrap();
    let running = Running { child: Some(child), place: &place };
    running.told("WATCHDOG=1");
    running.told("WATCHDOG=1");
    running.signal(Signal::INT);
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn harmless_signals_do_no_harm() {
    let (upstream, _held) = nobody();
    let place = Place::new(&upstream);
    let running = place.start();
    for signal in [Signal::USR1, Signal::USR2, Signal::PIPE] {
        running.signal(signal);
    }
    assert!(running.get("admin", "/livez").starts_with("HTTP/1.1 200"));
    running.signal(Signal::TERM);
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn a_second_one_on_the_same_state_names_the_first() {
    let (upstream, _held) = nobody();
    let place = Place::new(&upstream);
    let running = place.start();
    let (code, said) = ended(place.command().env_remove("NOTIFY_SOCKET").spawn().unwrap());
    assert_eq!(code, Some(73), "{said}");
    let first = running.child.as_ref().unwrap().id().to_string();
    assert!(said.contains(&first) && said.contains("outbox.path"), "{said}");
    running.signal(Signal::TERM);
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn a_port_that_is_taken_is_a_failure_to_start() {
    let (upstream, _held) = nobody();
    let place = Place::new(&upstream);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let set = format!("admin.listen=[\"{}\"]", taken.local_addr().unwrap());
    let (code, said) = ended(place.command().args(["--set", &set]).spawn().unwrap());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("set admin.listen to another port"), "{said}");
}

#[test]
fn a_configuration_that_is_wrong_ends_the_start_with_all_errors() {
    let (upstream, _held) = nobody();
    let place = Place::new(&upstream);
    place.configure("http://wrong.example/", "window = \"many\"\n");
    let (code, said) = ended(place.command().spawn().unwrap());
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("upstream.url") && said.contains("outbox.window"), "{said}");
}

#[test]
fn a_reload_takes_what_is_good_and_keeps_the_old_where_it_is_bad() {
    let (upstream, _held) = nobody();
    let place = Place::new(&upstream);
    let running = place.start();
    place.configure(&upstream, "max_messages = \"nonsense\"\n");
    running.signal(Signal::HUP);
    running.told("RELOADING=1");
    running.told("READY=1");
    assert!(running.get("admin", "/metrics").contains("tidegate_config_last_reload_successful 0\n"));
    place.configure("ws://elsewhere.example/", "max_messages = 4321\n");
    running.signal(Signal::HUP);
    running.told("RELOADING=1");
    running.told("READY=1");
    let config = running.get("admin", "/v1/config");
    assert!(config.contains("4321"), "{config}");
    assert!(!config.contains("elsewhere.example"), "an address changes only by a restart: {config}");
    assert!(running.get("admin", "/metrics").contains("tidegate_config_last_reload_successful 1\n"));
    running.signal(Signal::TERM);
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("max_messages") && said.contains("old configuration stays"), "{said}");
    assert!(said.contains("upstream.url") && said.contains("restart"), "{said}");
}

/// An upstream that takes every connection and message and never answers; says when it got a publish.
fn mute_upstream() -> (String, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let (got, publishes) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut socket) = accept(stream.unwrap()) else { continue };
            while let Ok(message) = socket.read() {
                if let Message::Text(text) = message
                    && text.as_str().contains("publish")
                    && got.send(()).is_err()
                {
                    return;
                }
            }
        }
    });
    (url, publishes)
}

#[test]
fn a_drain_waits_for_what_is_in_flight_and_a_second_signal_does_not() {
    let (upstream, publishes) = mute_upstream();
    let place = Place::new(&upstream);
    let running = place.start();
    let answer = running.publish(r#"{"channel":"orders","data":{"n":1}}"#);
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    publishes.recv_timeout(DEADLINE).expect("the message reaches upstream");
    running.signal(Signal::TERM);
    running.told("STOPPING=1");
    // The admin listener answers to the end of the drain, and the message is still waited for.
    assert!(running.get("admin", "/readyz").starts_with("HTTP/1.1 503"));
    assert!(running.get("admin", "/v1/outbox").contains("\"in_flight\":1"));
    running.signal(Signal::TERM);
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");

    let again = place.start();
    let outbox = again.get("admin", "/v1/outbox");
    assert!(outbox.contains("\"depth\":1"), "what was accepted survives: {outbox}");
    publishes.recv_timeout(DEADLINE).expect("and is sent again");
    again.signal(Signal::TERM);
    again.told("STOPPING=1");
    again.signal(Signal::TERM);
    assert_eq!(again.end().0, Some(0));
}

#[test]
fn the_state_directory_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let (upstream, _held) = nobody();
    let place = Place::new(&upstream);
    let running = place.start();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o077;
    assert_eq!(mode(&place.path("state")), 0);
    running.signal(Signal::TERM);
    assert_eq!(running.end().0, Some(0));
}
