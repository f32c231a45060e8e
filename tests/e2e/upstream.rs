//! An upstream on loopback that does what a test tells it, and writes down every frame it gets.
//!
//! It speaks plain WebSocket; what it answers is a function of the test, by default the plain dialect's acknowledgements. A
//! frame is written down after its answer was sent, so whoever sees it here knows that the answer is on its way. Frames
//! that a test pushes may be anything, also what RFC 6455 forbids.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, accept};

use crate::common::until;

/// A frame that came in.
#[derive(Debug, Clone)]
pub struct Got {
    /// When it was read.
    pub at: Instant,
    /// On which connection, counted from 0.
    pub connection: usize,
    /// What it says; `null` if it is no JSON.
    pub json: Value,
}

impl Got {
    /// The plain dialect's word for what it is.
    pub fn is(&self, kind: &str) -> bool {
        self.json["type"] == kind
    }
}

/// What happens to a new connection.
#[derive(Debug, Clone)]
pub enum Gate {
    /// It is upgraded.
    Open,
    /// It is cut at once.
    Shut,
    /// It gets this answer to its upgrade.
    Answer(String),
}

struct Connection {
    stream: Arc<Mutex<TcpStream>>,
    /// When the upgrade was answered: nothing of the conversation left the relay before.
    opened: Instant,
    over: bool,
    pongs: usize,
}

struct State {
    gate: Gate,
    tried: usize,
    connections: Vec<Connection>,
    frames: Vec<Got>,
}

type Answer = dyn Fn(&Got) -> Vec<String> + Send + Sync;

/// The upstream. Its threads end with their connections.
pub struct Upstream {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Upstream {
    /// One that acknowledges everything.
    pub fn plain() -> Self {
        Upstream::answering(|got| plain_answer(&got.json))
    }

    /// One that answers each frame with these texts.
    pub fn answering(answer: impl Fn(&Got) -> Vec<String> + Send + Sync + 'static) -> Self {
        Upstream::on(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    /// The same on this listener.
    pub fn on(listener: TcpListener, answer: impl Fn(&Got) -> Vec<String> + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let state = State { gate: Gate::Open, tried: 0, connections: Vec::new(), frames: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        let answer: Arc<Answer> = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, answer) = (shared.clone(), answer.clone());
                thread::spawn(move || serve(stream, &shared, &*answer));
            }
        });
        Upstream { address, state }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What happens to connections from now on.
    pub fn gate(&self, gate: Gate) {
        self.state().gate = gate;
    }

    /// Connections that were tried, whatever became of them.
    pub fn tried(&self) -> usize {
        self.state().tried
    }

    /// Connections that were upgraded.
    pub fn opened(&self) -> usize {
        self.state().connections.len()
    }

    /// When a connection was upgraded.
    pub fn opened_at(&self, connection: usize) -> Instant {
        self.state().connections[connection].opened
    }

    /// Pongs of the newest connection.
    pub fn pongs(&self) -> usize {
        self.state().connections.last().unwrap().pongs
    }

    /// All frames so far that say they are this.
    pub fn frames(&self, kind: &str) -> Vec<Got> {
        self.state().frames.iter().filter(|got| got.is(kind)).cloned().collect()
    }

    /// Waits for so many frames that say they are this; gives all of them.
    pub fn wait_for(&self, kind: &str, count: usize) -> Vec<Got> {
        until(&format!("{count} frames `{kind}` upstream"), || {
            Some(self.frames(kind)).filter(|frames| frames.len() >= count)
        })
    }

    /// Sends an event of a channel.
    pub fn event(&self, channel: &str, data: &Value) {
        self.push(&json!({"type": "event", "channel": channel, "data": data}).to_string());
    }

    /// Sends a text frame.
    pub fn push(&self, text: &str) {
        self.raw(&frame(0x81, text.as_bytes()));
    }

    /// Sends a text frame on one connection, if it stands.
    pub fn push_to(&self, connection: usize, text: &str) {
        let stream = self.state().connections[connection].stream.clone();
        let _ = stream.lock().unwrap().write_all(&frame(0x81, text.as_bytes()));
    }

    /// Whether a connection is at its end.
    pub fn is_over(&self, connection: usize) -> bool {
        self.state().connections[connection].over
    }

    /// Writes bytes to the newest connection. One that the relay left meanwhile takes nothing, which is no failure here. The relay may
    /// know of a connection before this end does.
    pub fn raw(&self, bytes: &[u8]) {
        let newest = || self.state().connections.last().map(|connection| connection.stream.clone());
        let stream = until("a connection", newest);
        let _ = stream.lock().unwrap().write_all(bytes);
    }

    /// Cuts all connections, without a close frame.
    pub fn cut(&self) {
        for connection in &self.state().connections {
            let _ = connection.stream.lock().unwrap().shutdown(Shutdown::Both);
        }
    }

    /// Waits until no connection is left.
    pub fn wait_alone(&self) {
        until("the end of all connections upstream", || {
            self.state().connections.iter().all(|connection| connection.over).then_some(())
        });
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.gate(Gate::Shut);
        self.cut();
    }
}

/// What the plain dialect's other side says to a frame.
pub fn plain_answer(frame: &Value) -> Vec<String> {
    let answer = match frame["type"].as_str() {
        Some("auth") => json!({"type": "auth_ok"}),
        Some("ping") => json!({"type": "pong", "id": frame["id"]}),
        Some("subscribe" | "unsubscribe" | "publish") => json!({"type": "ack", "id": frame["id"]}),
        _ => return Vec::new(),
    };
    vec![answer.to_string()]
}

/// A frame as a server sends it: this first byte, no mask.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length @ 0..126 => out.push(length as u8),
        length @ 126..65536 => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

/// Reads alone, writes in turn with the pushes of the test: a frame is one write.
struct Shared {
    read: TcpStream,
    write: Arc<Mutex<TcpStream>>,
}

impl Read for Shared {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.read.read(into)
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write.lock().unwrap().write_all(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, answer: &Answer) {
    let gate = {
        let mut state = state.lock().unwrap();
        state.tried += 1;
        state.gate.clone()
    };
    match gate {
        Gate::Open => {}
        Gate::Shut => return,
        Gate::Answer(text) => {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if !matches!(stream.read(&mut byte), Ok(1)) {
                    return;
                }
                head.push(byte[0]);
            }
            let _ = stream.write_all(text.as_bytes());
            return;
        }
    }
    let _ = stream.set_nodelay(true);
    let write = Arc::new(Mutex::new(stream.try_clone().unwrap()));
    // Before the answer to the upgrade, which is what the relay waits for.
    let opened = Instant::now();
    let Ok(mut socket) = accept(Shared { read: stream, write: write.clone() }) else { return };
    let number = {
        let mut state = state.lock().unwrap();
        state.connections.push(Connection { stream: write, opened, over: false, pongs: 0 });
        state.connections.len() - 1
    };
    while let Ok(message) = socket.read() {
        match message {
            Message::Text(text) => {
                let json = serde_json::from_str(text.as_str()).unwrap_or(Value::Null);
                let got = Got { at: Instant::now(), connection: number, json };
                for text in answer(&got) {
                    let _ = socket.send(Message::text(text));
                }
                state.lock().unwrap().frames.push(got);
            }
            Message::Pong(_) => state.lock().unwrap().connections[number].pongs += 1,
            _ => {}
        }
    }
    state.lock().unwrap().connections[number].over = true;
}
