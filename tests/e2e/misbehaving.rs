//! Services that do everything wrong, without end: each against a relay of its own, all at the same time. Whatever they do, the
//! relay lives, serves its apps, says what is wrong, keeps to the provider's limits, and sleeps while there is nothing to do.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use crate::client::Client;
use crate::common::DEADLINE;
use crate::rig::{Place, Relay};
use crate::upstream::frame;

/// How long all of them go on, once all relays run.
const RUN: Duration = Duration::from_secs(12);
/// What the provider allows: connections in any ten seconds, and frames a second, which is the burst as well.
const CONNECTS: usize = 10;
const WINDOW: Duration = Duration::from_secs(10);
const RATE: usize = 20;
/// What is taken for a flood where the provider names no limit: connections in all the time, and requests for each time that
/// the app asked for something, and for each connection.
const BACKED_OFF: usize = 25;
const WORTH: usize = 15;
/// Of the time that passes, a relay may compute so much; one that spins takes a whole core, or what is left of it here.
const CPU_SHARE: f64 = 0.15;
/// Lines of the log in all that time: what happens again and again is not told each time.
const LOG_MAX: u64 = 64 << 10;

/// A service that misbehaves.
struct Mischief {
    what: &'static str,
    /// Keys of the configuration besides the common ones.
    keys: &'static [(&'static str, &'static str)],
    /// What it does with a connection; it ends with it.
    play: fn(&mut Talk) -> Option<()>,
    /// The metric that says what is wrong.
    shows: &'static str,
}

/// What a service saw.
#[derive(Default)]
struct Tally {
    connects: AtomicUsize,
    requests: AtomicUsize,
}

/// A connection as the service sees it.
struct Talk {
    stream: TcpStream,
    socket: Option<WebSocket<TcpStream>>,
    tally: Arc<Tally>,
}

impl Talk {
    /// Reads a request's head.
    fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        self.tally.requests.fetch_add(1, Relaxed);
        String::from_utf8(head).ok()
    }

    fn raw(&mut self, bytes: impl AsRef<[u8]>) -> Option<()> {
        self.stream.write_all(bytes.as_ref()).ok()
    }

    fn say(&mut self, message: &Value) -> Option<()> {
        self.raw(frame(0x81, message.to_string().as_bytes()))
    }

    /// Answers the upgrade as it should be.
    fn upgrade(&mut self) -> Option<()> {
        let head = self.head()?;
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-Websocket-Key: "))?;
        let accept = derive_accept_key(key.as_bytes());
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
        self.raw(format!("{answer}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"))?;
        self.socket = Some(WebSocket::from_raw_socket(self.stream.try_clone().ok()?, Role::Server, None));
        Some(())
    }

    /// The next request over the WebSocket.
    fn next(&mut self) -> Option<Value> {
        loop {
            match self.socket.as_mut()?.read() {
                Ok(Message::Text(text)) => {
                    self.tally.requests.fetch_add(1, Relaxed);
                    return serde_json::from_str(text.as_str()).ok();
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Says something again and again, and takes what comes meanwhile.
    fn keep_saying(&mut self, every: Duration, mut bytes: impl FnMut(u64) -> Vec<u8>) -> Option<()> {
        self.stream.set_read_timeout(Some(every)).ok()?;
        for n in 0.. {
            let bytes = bytes(n);
            self.raw(bytes)?;
            match self.socket.as_mut().map(WebSocket::read) {
                None => thread::sleep(every),
                Some(Ok(Message::Text(_))) => {
                    self.tally.requests.fetch_add(1, Relaxed);
                }
                Some(Ok(_)) => {}
                Some(Err(Error::Io(e))) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Some(Err(_)) => return None,
            }
        }
        None
    }

    /// Answers each request.
    fn answer(&mut self, mut answers: impl FnMut(&Value) -> Vec<Value>) -> Option<()> {
        self.upgrade()?;
        loop {
            let asked = self.next()?;
            for answer in answers(&asked) {
                self.say(&answer)?;
            }
        }
    }

    /// Answers each HTTP request in the same way.
    fn repeat(&mut self, answer: &str) -> Option<()> {
        loop {
            self.head()?;
            self.raw(answer)?;
        }
    }

    /// Listens and says nothing.
    fn linger(&mut self) -> Option<()> {
        let mut rest = [0; 1024];
        while self.stream.read(&mut rest).ok()? > 0 {}
        None
    }
}

const MILLI: Duration = Duration::from_millis(1);

const BEFORE: [Mischief; 12] = [
    Mischief {
        what: "hangs up at once",
        keys: &[],
        play: |_| None,
        shows: "tidegate_link_disconnects_total{reason=\"reset\"}",
    },
    Mischief {
        what: "resets",
        keys: &[],
        play: |talk| {
            talk.head()?;
            socket2::SockRef::from(&talk.stream).set_linger(Some(Duration::ZERO)).ok()
        },
        shows: "tidegate_link_disconnects_total{reason=\"reset\"}",
    },
    Mischief {
        what: "never answers",
        keys: &[],
        play: Talk::linger,
        shows: "tidegate_link_disconnects_total{reason=\"handshake_timeout\"}",
    },
    Mischief {
        what: "answers a byte now and then",
        keys: &[],
        play: |talk| {
            talk.head()?;
            let head = b"HTTP/1.1 101 Switching Protocols\r\n";
            talk.keep_saying(Duration::from_millis(200), |n| vec![*head.get(n as usize).unwrap_or(&b'x')])
        },
        shows: "tidegate_link_disconnects_total{reason=\"handshake_timeout\"}",
    },
    Mischief {
        what: "answers with a head without end",
        keys: &[],
        play: |talk| {
            talk.head()?;
            talk.raw("HTTP/1.1 101 Switching Protocols\r\n")?;
            talk.keep_saying(MILLI, |n| format!("X-{n}: {}\r\n", "x".repeat(2_000)).into_bytes())
        },
        shows: "tidegate_link_disconnects_total{reason=\"bad_upgrade\"}",
    },
    Mischief {
        what: "is no HTTP",
        keys: &[],
        play: |talk| {
            talk.head()?;
            talk.raw("220 mail.example ESMTP\r\n\r\n")?;
            talk.linger()
        },
        shows: "tidegate_link_disconnects_total{reason=\"bad_upgrade\"}",
    },
    Mischief {
        what: "is a login page",
        keys: &[],
        play: |talk| talk.repeat("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"),
        shows: "tidegate_link_disconnects_total{reason=\"bad_status\"}",
    },
    Mischief {
        what: "redirects to itself",
        keys: &[],
        play: |talk| talk.repeat("HTTP/1.1 307 Here\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
        shows: "tidegate_link_disconnects_total{reason=\"redirect\"}",
    },
    Mischief {
        what: "denies",
        keys: &[],
        play: |talk| talk.repeat("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
        shows: "tidegate_link_disconnects_total{reason=\"denied\"}",
    },
    Mischief {
        what: "wants us back at once",
        keys: &[],
        play: |talk| talk.repeat("HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"),
        shows: "tidegate_link_disconnects_total{reason=\"rate_limited\"}",
    },
    Mischief {
        what: "denies the token",
        keys: &[("upstream.token", "\"t\"")],
        play: |talk| talk.answer(|_| vec![json!({"type": "auth_error", "message": "no"})]),
        shows: "tidegate_link_disconnects_total{reason=\"denied\"}",
    },
    Mischief {
        what: "never says whether the token is good",
        keys: &[("upstream.token", "\"t\"")],
        play: |talk| talk.answer(|_| Vec::new()),
        shows: "tidegate_link_disconnects_total{reason=\"handshake_timeout\"}",
    },
];

/// An acknowledgement.
fn ack(asked: &Value) -> Value {
    json!({"type": "ack", "id": asked["id"]})
}

const LIVE: [Mischief; 14] = [
    Mischief {
        what: "talks garbage",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.raw([0xff; 4096])?;
            talk.linger()
        },
        shows: "tidegate_link_disconnects_total{reason=\"protocol\"}",
    },
    Mischief {
        what: "closes when it is asked for something",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.next()?;
            talk.raw(frame(0x88, &1011_u16.to_be_bytes()))
        },
        shows: "tidegate_link_closes_total{code=\"1011\"}",
    },
    Mischief {
        what: "breaks off within a frame",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.next()?;
            talk.raw(b"\x81\x7e\x10\x00only this much")?;
            socket2::SockRef::from(&talk.stream).set_linger(Some(Duration::ZERO)).ok()
        },
        shows: "tidegate_link_disconnects_total{reason=\"reset\"}",
    },
    Mischief {
        what: "wants another connection, always",
        keys: &[],
        play: |talk| talk.answer(|asked| vec![ack(asked), json!({"type": "moved"})]),
        shows: "tidegate_link_disconnects_total{reason=\"told\"}",
    },
    Mischief {
        what: "refuses everything",
        keys: &[],
        play: |talk| talk.answer(|asked| vec![json!({"type": "error", "id": asked["id"], "message": "no"})]),
        shows: "tidegate_interest_refused_total{code=\"upstream_refused\"}",
    },
    Mischief {
        what: "refuses everything for the moment",
        keys: &[],
        play: |talk| {
            talk.answer(|asked| vec![json!({"type": "error", "id": asked["id"], "message": "no", "retry_after": 0})])
        },
        shows: "tidegate_outbox_retries_total",
    },
    Mischief {
        what: "ends every subscription",
        keys: &[],
        play: |talk| talk.answer(|asked| vec![ack(asked), json!({"type": "gone", "channel": asked["channel"]})]),
        shows: "tidegate_feed_gaps_total{reason=\"reconnect\"}",
    },
    Mischief {
        what: "acknowledges nothing",
        keys: &[("interest.ack_timeout", "\"100ms\""), ("outbox.ack_timeout", "\"100ms\"")],
        play: |talk| talk.answer(|_| Vec::new()),
        shows: "tidegate_interest_refused_total{code=\"upstream_timeout\"}",
    },
    Mischief {
        what: "pings without end",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.keep_saying(MILLI, |_| [frame(0x89, b"a"), frame(0x81, b"{\"type\":\"ping\",\"id\":1}")].concat())
        },
        shows: "tidegate_link_frames_in_total",
    },
    Mischief {
        what: "never ends a message",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.raw(frame(0x01, b"{"))?;
            // It does not read pings either.
            talk.socket = None;
            talk.keep_saying(MILLI, |_| frame(0x00, b"").repeat(20))
        },
        shows: "tidegate_link_disconnects_total{reason=\"heartbeat\"}",
    },
    Mischief {
        what: "hears nothing and says nothing",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.linger()
        },
        shows: "tidegate_link_disconnects_total{reason=\"heartbeat\"}",
    },
    Mischief {
        what: "speaks another language",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.keep_saying(MILLI, |n| frame(0x81, format!("{{\"news{}\":{n}}}", n % 50).as_bytes()))
        },
        shows: "tidegate_dialect_unmatched_total",
    },
    Mischief {
        what: "counts with holes",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            let first = talk.next()?;
            talk.say(&ack(&first))?;
            talk.keep_saying(Duration::from_millis(5), |n| {
                let event = json!({"type": "event", "channel": "a", "seq": n * 10, "data": n});
                frame(0x81, event.to_string().as_bytes())
            })
        },
        shows: "tidegate_feed_gaps_total{reason=\"upstream_seq\"}",
    },
    Mischief {
        what: "sends messages that are too large",
        keys: &[("upstream.max_frame", "\"64KiB\"")],
        play: |talk| {
            talk.upgrade()?;
            talk.next()?;
            talk.raw(frame(0x81, &vec![b' '; 100_000]))?;
            talk.linger()
        },
        shows: "tidegate_link_disconnects_total{reason=\"oversize\"}",
    },
];

const HTTP: [Mischief; 5] = [
    Mischief {
        what: "ends its event stream at once",
        keys: &[("upstream.transports", "[\"sse\"]")],
        play: |talk| {
            talk.head()?;
            talk.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 0\n\n")
        },
        shows: "tidegate_link_disconnects_total{reason=\"ended\"}",
    },
    Mischief {
        what: "sends an event stream of one line",
        keys: &[("upstream.transports", "[\"sse\"]")],
        play: |talk| {
            talk.head()?;
            talk.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: ")?;
            talk.keep_saying(MILLI, |_| vec![b'x'; 4_096])
        },
        shows: "tidegate_link_disconnects_total{reason=\"oversize\"}",
    },
    Mischief {
        what: "holds no long-poll",
        keys: &[("upstream.transports", "[\"long-poll\"]")],
        play: |talk| talk.repeat("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"),
        shows: "tidegate_link_hasty_polls_total",
    },
    Mischief {
        what: "holds no long-poll and says something else each time",
        keys: &[("upstream.transports", "[\"long-poll\"]")],
        play: |talk| {
            for n in 100_000.. {
                talk.head()?;
                talk.raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{{\"now\":{n}}}"))?;
            }
            None
        },
        shows: "tidegate_link_hasty_polls_total",
    },
    Mischief {
        what: "fails every poll",
        keys: &[("upstream.transports", "[\"poll\"]")],
        play: |talk| talk.repeat("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"),
        shows: "tidegate_link_disconnects_total{reason=\"bad_status\"}",
    },
];

/// A service at work, and what it does to a relay.
struct Scene {
    mischief: &'static Mischief,
    place: Place,
    relay: Relay,
    client: Client,
    tally: Arc<Tally>,
    begun: Instant,
    computed: f64,
    /// Whether the provider names limits.
    limited: bool,
    pressed: usize,
}

fn listen(play: fn(&mut Talk) -> Option<()>) -> (SocketAddr, Arc<Tally>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let tally = Arc::new(Tally::default());
    let shared = tally.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            shared.connects.fetch_add(1, Relaxed);
            let tally = shared.clone();
            thread::spawn(move || play(&mut Talk { stream, socket: None, tally }));
        }
    });
    (address, tally)
}

impl Scene {
    fn begin(mischief: &'static Mischief, dialect: &str, limited: bool) -> Self {
        let begun = Instant::now();
        let (address, tally) = listen(mischief.play);
        let scheme = if dialect.contains("websocket = false") { "http" } else { "ws" };
        let mut place = Place::at(&format!("{scheme}://{address}/"));
        std::fs::write(place.path("bad.toml"), dialect).unwrap();
        let path = format!("{:?}", place.path("bad.toml"));
        place.set("upstream.dialect", &path);
        place.set("upstream.handshake_timeout", "\"1s\"").set("upstream.ping_interval", "\"1s\"");
        if !limited {
            let default = tidegate::config::Config::default().upstream.backoff;
            let backoff =
                format!("{{ min = \"{}ms\", max = \"{}ms\" }}", default.min.as_millis(), default.max.as_millis());
            place.set("upstream.backoff", &backoff);
        }
        mischief.keys.iter().for_each(|(key, value)| {
            place.set(key, value);
        });
        let relay = place.start();
        let client = relay.client();
        let computed = processor_time(relay.id());
        Scene { mischief, place, relay, client, tally, begun, computed, limited, pressed: 0 }
    }

    /// An app that does not give up.
    fn press(&mut self) {
        self.client.request(json!({"op": "subscribe", "channels": ["a"]}));
        self.client.request(json!({"op": "publish", "channel": "orders", "data": 1}));
        self.client.barrier();
        self.pressed += 1;
    }

    /// What is wrong with the relay.
    fn judge(self) -> Vec<String> {
        let computed = processor_time(self.relay.id()) - self.computed;
        let (connects, requests) = (self.tally.connects.load(Relaxed), self.tally.requests.load(Relaxed));
        let passed = self.begun.elapsed().as_secs_f64();
        let log = std::fs::metadata(self.place.path("log")).unwrap().len();
        // A connect costs a request of its own, where the service lets it get so far.
        let (most, allowed) = if self.limited {
            let windows = (passed / WINDOW.as_secs_f64()).ceil() as usize;
            (CONNECTS * windows, RATE + (RATE as f64 * passed) as usize + connects)
        } else {
            (BACKED_OFF, WORTH * (self.pressed + connects))
        };
        let told = patiently(|| self.relay.find_metric(self.mischief.shows).is_some_and(|value| value >= 1.0));
        let complaints = [
            (connects == 0, "was never tried".to_owned()),
            (connects > most, format!("{connects} connects")),
            (requests > allowed, format!("{requests} requests")),
            (computed > CPU_SHARE * passed, format!("computed for {computed} s")),
            (log > LOG_MAX, format!("{log} bytes of log")),
            (!told, format!("nothing shows: {}", self.mischief.shows)),
        ];
        let what = self.mischief.what;
        let wrong = complaints.into_iter().filter(|(wrong, _)| *wrong);
        let wrong: Vec<String> = wrong.map(|(_, why)| format!("{what}, in {passed:.0} s: {why}")).collect();
        self.relay.client().barrier();
        assert!(self.relay.status()["upstream"]["state"].is_string(), "{what}");
        assert_eq!(self.relay.metric("tidegate_outbox_conservation_error"), 0.0, "{what}");
        self.relay.stop();
        wrong
    }
}

/// Whether something comes true.
fn patiently(mut what: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !what() {
        if begun.elapsed() > DEADLINE {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
    true
}

/// Seconds that a process has computed (`proc_pid_stat(5)`: a hundredth each, fields 14 and 15).
fn processor_time(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

fn stand(mischief: impl Iterator<Item = &'static Mischief>, dialect: &str, limited: bool) {
    let limits = format!("[limits]\nrate = \"{RATE}/s\"\nburst = {RATE}\nconnects = \"{CONNECTS}/10s\"\n");
    let dialect = format!("{dialect}\n{}", if limited { &limits } else { "" });
    let mut scenes: Vec<Scene> = mischief.map(|mischief| Scene::begin(mischief, &dialect, limited)).collect();
    let all = Instant::now();
    while all.elapsed() < RUN {
        scenes.iter_mut().for_each(Scene::press);
        thread::sleep(Duration::from_millis(200));
    }
    let wrong: Vec<String> = scenes.into_iter().flat_map(Scene::judge).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The plain dialect, whose service may ask for another connection and whose numbers have no holes.
fn plain() -> String {
    let plain = include_str!("../../config/dialects/plain.toml").replace("name = \"plain\"", "name = \"bad\"");
    let moved = "[[on]]\nmatch = { \"/type\" = \"moved\" }\nis = \"reconnect\"\n";
    format!("{plain}\n{moved}\n[gap]\nscope = \"channel\"\nthen = \"resubscribe\"\n")
}

/// The service of the hub, without messages: they would leave by connections of their own.
fn hub() -> String {
    let lines = crate::hub::DIALECT.lines().filter(|line| !line.starts_with("publish = "));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn what_goes_wrong_before_a_connection_stands() {
    stand(BEFORE.iter(), &plain(), true);
}

#[test]
fn what_goes_wrong_on_a_connection_that_stands() {
    stand(LIVE.iter(), &plain(), true);
}

#[test]
fn what_goes_wrong_over_http() {
    stand(HTTP.iter(), &hub(), true);
}

#[test]
fn a_provider_without_limits_is_not_flooded_either() {
    // Pings are answered, as many as there are.
    let live = LIVE.iter().filter(|mischief| mischief.what != "pings without end");
    stand(BEFORE.iter().chain(live), &plain(), false);
    stand(HTTP.iter(), &hub(), false);
}
