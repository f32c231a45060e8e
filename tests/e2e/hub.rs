//! A service that speaks HTTP: it keeps every event, and brings them by event stream, long-poll or poll from where a client
//! says it ended, or else from now on, also by WebSocket; it takes messages by POST. Connections can be cut, and
//! refused for a while, and single transports be refused.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use crate::common::until;

/// How it is spoken: subscription by URL, any of the three transports.
pub const DIALECT: &str = r##"
dialect = 1
name = "hub"
[frame]
array = "split"
[connect]
websocket = false
[transport.sse]
path = "/sse/{channel*}"
resumes = true
[transport.long-poll]
path = "/long-poll/{channel*}"
resumes = true
[transport.poll]
path = "/poll/{channel*}"
interval = "50ms"
resumes = true
[send]
publish = { json = '{data}', post = "/publish/{channel}" }
[[on]]
match = { "/id" = { exists = true } }
is = "event"
channel = "/channel"
id = "/id"
data = "/n"
"##;

/// The same service over WebSocket as well.
pub fn with_websocket() -> String {
    let dialect = DIALECT.replace("websocket = false", "path = \"/ws/{channel*}\"");
    assert_ne!(dialect, DIALECT);
    dialect
}

/// And goes on over all of them where the last connection ended, whatever its transport was.
pub fn anywhere() -> String {
    let places = "[connect]\nresumes = true\nheaders = { last-event-id = \"{cursor?}\" }\n";
    with_websocket().replace("[connect]\n", places)
}

/// And with numbers that have no holes.
pub fn numbered() -> String {
    format!("{}seq = \"/n\"\n[gap]\nscope = \"channel\"\n", with_websocket())
}

/// How long a long-poll is held.
const HELD: Duration = Duration::from_millis(300);

#[derive(Default)]
struct State {
    events: Vec<Value>,
    requests: Vec<String>,
    posts: Vec<Value>,
    connections: Vec<TcpStream>,
    shut: bool,
    refused: &'static [&'static str],
}

/// The service. Its threads end with their connections.
pub struct Hub {
    address: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Hub {
    /// A service without events.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let own = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = own.clone();
                {
                    let mut state = own.0.lock().unwrap();
                    if state.shut {
                        continue;
                    }
                    state.connections.push(stream.try_clone().unwrap());
                }
                thread::spawn(move || serve(stream, &own));
            }
        });
        Hub { address, shared }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Something happened on a channel: the next number of all events is its id.
    pub fn event(&self, channel: &str, n: u64) {
        let mut state = self.shared.0.lock().unwrap();
        let id = (state.events.len() + 1).to_string();
        state.events.push(json!({"id": id, "channel": channel, "n": n}));
        self.shared.1.notify_all();
    }

    /// Cuts all connections. `shut`: and takes no new ones until it is opened.
    pub fn cut(&self, shut: bool) {
        let mut state = self.shared.0.lock().unwrap();
        state.shut = shut;
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Takes connections again.
    pub fn open(&self) {
        self.shared.0.lock().unwrap().shut = false;
    }

    /// Answers requests with 404 from now on whose path begins so.
    pub fn refuse(&self, kinds: &'static [&'static str]) {
        self.shared.0.lock().unwrap().refused = kinds;
    }

    /// What came by POST.
    pub fn posts(&self) -> Vec<Value> {
        self.shared.0.lock().unwrap().posts.clone()
    }

    /// Waits for a request that begins so.
    pub fn wait_for(&self, start: &str) {
        until(&format!("a request {start}"), || {
            let state = self.shared.0.lock().unwrap();
            state.requests.iter().any(|line| line.starts_with(start)).then_some(())
        });
    }

    /// How many requests began so.
    pub fn asked(&self, start: &str) -> usize {
        self.shared.0.lock().unwrap().requests.iter().filter(|line| line.starts_with(start)).count()
    }
}

/// One request after the other.
fn serve(stream: TcpStream, shared: &(Mutex<State>, Condvar)) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let (mut line, mut after, mut version, mut length, mut key) = (String::new(), None, None, 0, None);
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        loop {
            let mut field = String::new();
            reader.read_line(&mut field).ok().filter(|read| *read > 0)?;
            let Some((name, value)) = field.trim_end().split_once(": ") else { break };
            match name.to_lowercase().as_str() {
                "last-event-id" => after = value.parse().ok(),
                "if-none-match" => version = value.trim_matches('"').parse().ok(),
                "content-length" => length = value.parse().ok()?,
                "sec-websocket-key" => key = Some(derive_accept_key(value.as_bytes())),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        shared.0.lock().unwrap().requests.push(line.trim_end().to_owned());
        let target = line.split(' ').nth(1)?;
        let (kind, channels) = target.trim_start_matches('/').split_once('/')?;
        let channels: Vec<&str> = channels.split(',').collect();
        let answer = match kind {
            kind if shared.0.lock().unwrap().refused.contains(&kind) => {
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned()
            }
            "ws" => return talk(stream, shared, &channels, after, &key?),
            "sse" => return stream_events(stream, shared, &channels, after),
            "publish" => {
                shared.0.lock().unwrap().posts.push(serde_json::from_slice(&body).ok()?);
                "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned()
            }
            kind => poll(shared, &channels, version.or(after), if kind == "poll" { Duration::ZERO } else { HELD }),
        };
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

/// Events of these channels behind a place, and the place where they end.
fn behind(state: &State, channels: &[&str], place: usize) -> (Vec<Value>, usize) {
    let new = state.events[place.min(state.events.len())..].iter();
    let new = new.filter(|event| channels.iter().any(|channel| event["channel"] == *channel));
    (new.cloned().collect(), state.events.len())
}

fn poll(shared: &(Mutex<State>, Condvar), channels: &[&str], after: Option<usize>, held: Duration) -> String {
    let mut state = shared.0.lock().unwrap();
    let Some(after) = after else {
        return format!("HTTP/1.1 204 No Content\r\nETag: \"{}\"\r\n\r\n", state.events.len());
    };
    let deadline = Instant::now() + held;
    loop {
        let (new, end) = behind(&state, channels, after);
        let left = deadline.saturating_duration_since(Instant::now());
        if !new.is_empty() {
            let body = Value::from(new).to_string();
            return format!("HTTP/1.1 200 OK\r\nETag: \"{end}\"\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
        if left.is_zero() {
            return format!("HTTP/1.1 304 Not Modified\r\nETag: \"{after}\"\r\n\r\n");
        }
        state = shared.1.wait_timeout(state, left).unwrap().0;
    }
}

fn stream_events(
    mut stream: TcpStream,
    shared: &(Mutex<State>, Condvar),
    channels: &[&str],
    after: Option<usize>,
) -> Option<()> {
    // Before the answer: what happens after it is brought.
    let mut place = after.unwrap_or(shared.0.lock().unwrap().events.len());
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 100\n\n").ok()?;
    let mut state = shared.0.lock().unwrap();
    loop {
        let (new, end) = behind(&state, channels, place);
        drop(state);
        let text: String =
            new.iter().map(|event| format!("id: {}\ndata: {event}\n\n", event["id"].as_str().unwrap_or(""))).collect();
        // A comment tells at once that nobody reads any more.
        stream.write_all(if text.is_empty() { ":\n".as_bytes() } else { text.as_bytes() }).ok()?;
        place = end;
        state = shared.1.wait_timeout(shared.0.lock().unwrap(), Duration::from_millis(50)).unwrap().0;
    }
}

fn talk(
    mut stream: TcpStream,
    shared: &(Mutex<State>, Condvar),
    channels: &[&str],
    after: Option<usize>,
    accept: &str,
) -> Option<()> {
    // Before the answer: what happens after it is brought.
    let mut place = after.unwrap_or(shared.0.lock().unwrap().events.len());
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
    stream.write_all(format!("{head}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n").as_bytes()).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(10))).ok()?;
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
    loop {
        match socket.read() {
            Ok(_) => {}
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return None,
        }
        let (new, end) = behind(&shared.0.lock().unwrap(), channels, place);
        for event in new {
            socket.send(Message::text(event.to_string())).ok()?;
        }
        place = end;
    }
}
