//! A session over WebSocket, and what every session may demand of the feed.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

use crate::common::DEADLINE;
use crate::contract::checked;

/// A WebSocket client.
pub struct Client {
    socket: WebSocket<TcpStream>,
    next_ref: u64,
}

impl Client {
    /// Connects; the relay's `hello` is still to be read. `headers` as `Name: value`.
    pub fn connect(address: SocketAddr, path: &str, headers: &[&str]) -> Self {
        Client::try_connect(address, path, headers).unwrap()
    }

    /// Connects, if it may.
    pub fn try_connect(address: SocketAddr, path: &str, headers: &[&str]) -> Result<Self, String> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap();
            let name: tokio_tungstenite::tungstenite::http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        match client(request, stream) {
            Ok((socket, _)) => Ok(Client { socket, next_ref: 0 }),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Sends a text.
    pub fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// Sends a request with a `ref` of its own; gives that.
    pub fn request(&mut self, mut request: Value) -> u64 {
        self.next_ref += 1;
        request["ref"] = json!(self.next_ref);
        self.send(&request.to_string());
        self.next_ref
    }

    /// Sends any frame.
    pub fn message(&mut self, message: Message) {
        self.socket.send(message).unwrap();
    }

    /// The stream below, for bytes that no client library would send.
    pub fn stream(&self) -> TcpStream {
        self.socket.get_ref().try_clone().unwrap()
    }

    /// Sends a text to a relay that may be gone: `None` if it is.
    pub fn try_send(&mut self, text: &str) -> Option<()> {
        self.socket.send(Message::text(text)).ok()
    }

    /// The next frame of a relay that may be gone: `None` if it is.
    pub fn try_next(&mut self) -> Option<Value> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Some(checked(serde_json::from_str(text.as_str()).unwrap())),
                Ok(Message::Close(_)) => return None,
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => panic!("no frame comes"),
                Err(_) => return None,
            }
        }
    }

    /// The next frame.
    pub fn next(&mut self) -> Value {
        checked(serde_json::from_str(&self.next_frame()).unwrap())
    }

    /// The next frame of a kind, as its bytes came.
    pub fn next_text(&mut self, kind: &str) -> String {
        loop {
            // A payload may hold what the reader of this test cannot.
            let text = self.next_frame();
            if text.starts_with(&format!("{{\"kind\":\"{kind}\"")) {
                return text;
            }
        }
    }

    fn next_frame(&mut self) -> String {
        let begun = Instant::now();
        loop {
            // The relay's pings would keep a silent session reading for ever.
            assert!(begun.elapsed() < DEADLINE, "no frame comes");
            match self.socket.read() {
                Ok(Message::Text(text)) => return text.as_str().to_owned(),
                Ok(Message::Close(frame)) => panic!("closed: {frame:?}"),
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => panic!("no frame comes"),
                Err(error) => panic!("no frame comes: {error}"),
            }
        }
    }

    /// The next frame of a kind; what comes before it is passed over.
    pub fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next();
            if frame["kind"] == kind {
                return frame;
            }
        }
    }

    /// Reads on until the connection ends: its close code, if there is one.
    pub fn close_code(&mut self) -> Option<u16> {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < DEADLINE, "the relay does not close");
            match self.socket.read() {
                Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
                Ok(_) => {}
                Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_)) => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Sends a ping of the feed and reads its pong: everything before is answered.
    pub fn barrier(&mut self) -> Vec<Value> {
        let mark = self.request(json!({"op": "ping"}));
        let mut before = Vec::new();
        loop {
            let frame = self.next();
            if frame["kind"] == "pong" && frame["ref"] == mark {
                return before;
            }
            before.push(frame);
        }
    }

    /// Subscribes a channel; gives what the relay says to that.
    pub fn subscribe(&mut self, channel: &str) -> Value {
        self.request(json!({"op": "subscribe", "channels": [channel]}));
        self.next_of("subscribed")
    }

    /// Subscribes channels from a cursor on.
    pub fn resume(&mut self, channels: &[&str], since: &str) {
        self.request(json!({"op": "subscribe", "channels": channels, "since": since}));
    }

    /// Publishes; gives the id of the message, which is accepted.
    pub fn publish(&mut self, message: Value) -> String {
        let mut request = message;
        request["op"] = json!("publish");
        let mark = self.request(request);
        let answer = self.next_of("accepted");
        assert_eq!(answer["ref"], mark, "{answer}");
        answer["message"].as_str().unwrap().to_owned()
    }
}

/// Holds by `prev` that a reader got every entry of its channels, in order and once.
#[derive(Debug, Default)]
pub struct Continuity {
    last: BTreeMap<String, u64>,
    /// Payloads of the events, in order.
    pub data: Vec<Value>,
    /// The newest position.
    pub cursor: String,
}

impl Continuity {
    /// Reads a frame. What has no offset is passed over, but for a gap of this session: that says up to where it misses.
    pub fn observe(&mut self, frame: &Value) {
        let channel = frame["channel"].as_str().unwrap_or_default();
        let Some(id) = frame["id"].as_str() else {
            if frame["kind"] == "gap" {
                self.last.insert(channel.to_owned(), frame["to"].as_u64().unwrap());
            }
            return;
        };
        let offset: u64 = id.rsplit_once('-').unwrap().1.parse().unwrap();
        if let Some(last) = self.last.insert(channel.to_owned(), offset) {
            assert_eq!(frame["prev"].as_u64(), Some(last), "entries are missing before {frame}");
            assert!(offset > last, "{frame} repeats");
        }
        id.clone_into(&mut self.cursor);
        if frame["kind"] == "event" {
            self.data.push(frame["data"].clone());
        }
    }

    /// Reads frames until so many events came.
    pub fn read(&mut self, events: usize, mut next: impl FnMut() -> Value) {
        while self.data.len() < events {
            self.observe(&next());
        }
    }
}
