//! The loop with a real relay, a real store and real sockets; upstream is a port where nobody listens.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet};

use super::*;
use crate::dialect::Dialect;
use crate::inbox::{Adopted, Seats};
use crate::notify::Notifier;
use crate::protocol::frame::Format;
use crate::relay::access::Principal;
use crate::store::StoreConfig;

/// A running loop and the ways into it.
struct Bench {
    outside: mpsc::Sender<FromOutside>,
    course: watch::Receiver<Course>,
    running: JoinHandle<Store>,
    _state: tempfile::TempDir,
    _nobody: tokio::net::TcpSocket,
}

fn config() -> (Config, tokio::net::TcpSocket) {
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut config = Config::default();
    config.upstream.url = format!("ws://{}/", nobody.local_addr().unwrap());
    config.feed.session_requests = 1_000_000;
    (config, nobody)
}

fn principal() -> Arc<Principal> {
    Arc::new(Principal::local())
}

impl Bench {
    /// Inside a `LocalSet`.
    fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let (config, nobody) = config();
        let config = Arc::new(config);
        let (answers, store_answers) = mpsc::unbounded_channel();
        let answer = move |answer| drop(answers.send(answer));
        let (store, restored) = Store::open(&state.path().join("state"), StoreConfig::default(), answer).unwrap();
        let (outside, from_outside) = mpsc::channel(64);
        let inbox = Inbox::new();
        let (upstream, upstream_inputs) = Upstream::new(&config.upstream);
        let writers = Writers::new(&config.feed, RequestLimits::new(&config), inbox.clone());
        let dialect = Dialect::builtin("plain").unwrap();
        let relay = Relay::new(config.clone(), dialect, restored, 1, clock::now());
        let sources = Sources { inbox, upstream: upstream_inputs, store: store_answers, outside: from_outside };
        let sender = watch::Sender::new(Course { config, draining: false });
        let course = sender.subscribe();
        let notifier = Notifier::new(crate::upstream::Client::new(&course.borrow().config.upstream), outside.clone());
        let driver = Driver::new(relay, Carriers { upstream, writers, store, notifier }, sources, sender);
        let running = tokio::task::spawn_local(driver.run());
        Bench { outside, course, running, _state: state, _nobody: nobody }
    }

    async fn tell(&self, input: FromOutside) {
        assert!(self.outside.send(input).await.is_ok(), "the loop runs");
    }

    async fn call(&self, request: CallRequest) -> Reply {
        let (answer, answered) = oneshot::channel();
        self.tell(FromOutside::Call { principal: principal(), request, answer }).await;
        answered.await.expect("every call is answered")
    }

    /// A WebSocket session whose upgrade is behind it: the client's end.
    async fn join(&self, seats: &Seats) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer): (TcpStream, SocketAddr) = listener.accept().await.unwrap();
        let adopted = Adopted {
            stream: stream.into_std().unwrap(),
            leftover: Bytes::new(),
            principal: principal(),
            format: Format::WebSocket,
            subscribe: None,
            peer,
            seat: seats.take(100).unwrap(),
        };
        self.tell(FromOutside::Adopt(adopted)).await;
        client
    }

    /// Stops the loop and closes the store.
    async fn stop(self) {
        self.tell(FromOutside::Stop { now: false }).await;
        let store = self.running.await.unwrap();
        store.shutdown().unwrap();
    }
}

/// A masked text frame of at most 125 bytes; the mask is zero, which masks nothing.
fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// The next frame: its opcode and payload.
async fn read(client: &mut TcpStream) -> (u8, String) {
    let first = client.read_u8().await.unwrap();
    let length = match client.read_u8().await.unwrap() {
        126 => usize::from(client.read_u16().await.unwrap()),
        127 => usize::try_from(client.read_u64().await.unwrap()).unwrap(),
        length => usize::from(length),
    };
    let mut payload = vec![0; length];
    client.read_exact(&mut payload).await.unwrap();
    (first & 0x0f, String::from_utf8_lossy(&payload).into_owned())
}

async fn read_kind(client: &mut TcpStream, kind: &str) -> serde_json::Value {
    loop {
        let (opcode, text) = read(client).await;
        assert_eq!(opcode, 1, "{text}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        if json["kind"] == kind {
            return json;
        }
    }
}

#[tokio::test]
async fn requests_beyond_a_turn_are_all_answered_in_order() {
    const REQUESTS: usize = 2 * TURN_SESSIONS + 7;
    LocalSet::new()
        .run_until(async {
            let bench = Bench::start();
            let seats = Seats::default();
            let mut clients = [bench.join(&seats).await, bench.join(&seats).await];
            for client in &mut clients {
                let requests: Vec<u8> =
                    (0..REQUESTS).flat_map(|n| frame(&format!(r#"{{"op":"ping","ref":{n}}}"#))).collect();
                client.write_all(&requests).await.unwrap();
            }
            for client in &mut clients {
                for n in 0..REQUESTS {
                    assert_eq!(read_kind(client, "pong").await["ref"], n);
                }
            }
            bench.stop().await;
        })
        .await;
}

#[tokio::test]
async fn calls_are_answered_with_the_loops_own_numbers() {
    LocalSet::new()
        .run_until(async {
            let bench = Bench::start();
            match bench.call(CallRequest::Status).await {
                Reply::Json { status: 200, .. } => {}
                other => panic!("{other:?}"),
            }
            let Reply::Stats(stats) = bench.call(CallRequest::Stats).await else { panic!("statistics") };
            assert!(stats.turns.turns > 0);
            assert_eq!(stats.turns.turn.count(), stats.turns.turns);
            bench.stop().await;
        })
        .await;
}

#[tokio::test]
async fn a_stop_says_goodbye_and_gives_every_seat_back() {
    LocalSet::new()
        .run_until(async {
            let bench = Bench::start();
            let seats = Seats::default();
            let mut client = bench.join(&seats).await;
            read_kind(&mut client, "hello").await;
            let course = bench.course.clone();
            assert!(!course.borrow().draining);
            bench.stop().await;
            read_kind(&mut client, "closing").await;
            assert_eq!(read(&mut client).await.0, 8, "a close frame");
            assert!(course.has_changed().is_err(), "the course ends with the loop");
            assert!(course.borrow().draining);
            drop(client);
            while seats.taken() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
}

#[tokio::test]
async fn a_reload_changes_what_it_may_and_keeps_the_rest() {
    LocalSet::new()
        .run_until(async {
            let mut bench = Bench::start();
            let before = bench.course.borrow().config.clone();
            let mut new = Config::clone(&before);
            new.feed.max_sessions = 7;
            new.upstream.url = "ws://elsewhere.example/".to_owned();
            bench.tell(FromOutside::Reload(Arc::new(new))).await;
            bench.course.changed().await.unwrap();
            let after = bench.course.borrow_and_update().config.clone();
            assert_eq!(after.feed.max_sessions, 7);
            assert_eq!(after.upstream.url, before.upstream.url);
            bench.stop().await;
        })
        .await;
}
#[tokio::test]
async fn the_longest_wait_is_the_relays_next_timer() {
    LocalSet::new()
        .run_until(async {
            let bench = Bench::start();
            // Nobody listens upstream: attempts go on by the relay's timers alone.
            loop {
                let Reply::Stats(stats) = bench.call(CallRequest::Stats).await else { panic!("statistics") };
                if stats.link.attempts >= 2 {
                    assert!(stats.link.disconnects.get(&"refused") >= 1);
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            bench.stop().await;
        })
        .await;
}
