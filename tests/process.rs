//! The life of the process, with the real binary: readiness and watchdog for a service manager, signals, reload, exit codes.
//!
//! Every wait is for a datagram, a frame or the end of the process; the deadlines are only there so that a broken build
//! fails instead of hanging.

#[expect(dead_code, reason = "each test binary needs a part of it")]
mod common;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use common::{DEADLINE, Process};
use rustix::process::Signal;
use tokio_tungstenite::tungstenite::{Message, accept};

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
        let mut command = Process::command(self.dir.path(), &self.path("tidegate.toml"));
        command.env("NOTIFY_SOCKET", self.path("notify"));
        command
    }

    fn spawn(&self, command: Command) -> Process {
        Process::start(command, self.dir.path())
    }

    /// Starts the relay and waits until it says that it is ready.
    fn start(&self) -> Process {
        let running = self.spawn(self.command());
        self.told("READY=1");
        running
    }

    /// The next datagram for the service manager.
    fn news(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.notify.recv(&mut buffer).expect("the process says something");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Waits until the service manager is told this.
    fn told(&self, word: &str) {
        while !self.news().lines().any(|line| line == word) {}
    }
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
    place.told("STOPPING=1");
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("stopped"), "{said}");
}

#[test]
fn it_feeds_the_watchdog_while_nothing_happens() {
    let (upstream, _held) = nobody();
    let place = Place::new(&upstream);
    let mut command = place.command();
    command.env("WATCHDOG_USEC", "4000000");
    let running = place.spawn(command);
    place.told("WATCHDOG=1");
    place.told("WATCHDOG=1");
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
    let (code, said) = place.spawn(Process::command(place.dir.path(), &place.path("tidegate.toml"))).end();
    assert_eq!(code, Some(73), "{said}");
    let first = running.id().to_string();
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
    let mut command = place.command();
    command.args(["--set", &set]);
    let (code, said) = place.spawn(command).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("set admin.listen to another port"), "{said}");
}

#[test]
fn a_configuration_that_is_wrong_ends_the_start_with_all_errors() {
    let (upstream, _held) = nobody();
    let place = Place::new(&upstream);
    place.configure("ftp://wrong.example/", "window = \"many\"\n");
    let (code, said) = place.spawn(place.command()).end();
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
    place.told("RELOADING=1");
    place.told("READY=1");
    assert!(running.get("admin", "/metrics").contains("tidegate_config_last_reload_successful 0\n"));
    place.configure("ws://elsewhere.example/", "max_messages = 4321\n");
    running.signal(Signal::HUP);
    place.told("RELOADING=1");
    place.told("READY=1");
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
    place.told("STOPPING=1");
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
    place.told("STOPPING=1");
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
