//! A service that repeats what it is told to repeat, wherever it has something to say: in statuses, headers and bodies that
//! refuse, in redirects, close reasons, error messages, and in messages that nobody understands. It speaks HTTP and
//! WebSocket, and writes down every byte that it reads: a secret that never arrived was not tested.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Role, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Message, WebSocket};

/// What is done with the next connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The call before the connection is refused.
    Call,
    /// The upgrade gets this status, the words in a header and in the body.
    Status(u16),
    /// The upgrade gets a subprotocol that nobody asked for.
    Subprotocol,
    /// It is closed with the words as the reason.
    Close,
    /// Authentication is refused.
    Denied,
    /// It is live; what is asked over it is refused, and what comes is not understood.
    Live,
}

/// Every way by which a connection does not come about.
pub const REFUSALS: [Way; 7] =
    [Way::Call, Way::Status(401), Way::Status(500), Way::Status(302), Way::Subprotocol, Way::Close, Way::Denied];

struct State {
    way: Way,
    words: String,
    heard: String,
}

/// The service. Its threads end with their connections.
pub struct Parrot {
    /// Where it is.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Parrot {
    /// One that says nothing yet.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { way: Way::Live, words: String::new(), heard: String::new() }));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Parrot { address, state }
    }

    /// What it says from now on, and how.
    pub fn repeat(&self, way: Way, words: &str) {
        let mut state = self.state.lock().unwrap();
        (state.way, state.words) = (way, words.to_owned());
    }

    /// Everything that it read.
    pub fn heard(&self) -> String {
        self.state.lock().unwrap().heard.clone()
    }
}

fn note(shared: &Mutex<State>, text: &str) {
    let mut state = shared.lock().unwrap();
    state.heard.push_str(text);
    state.heard.push('\n');
}

/// As much of a text as a header's value may hold.
fn header(words: &str) -> String {
    words.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect()
}

fn serve(mut stream: TcpStream, shared: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut head, mut length, mut key) = (String::new(), 0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok()?,
            Some((name, value)) if name.eq_ignore_ascii_case("sec-websocket-key") => key = Some(value.to_owned()),
            _ => {}
        }
        head.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    note(shared, &head);
    note(shared, &String::from_utf8_lossy(&body));
    let (way, words) = {
        let state = shared.lock().unwrap();
        (state.way, state.words.clone())
    };
    let answer = |status: &str, body: &str| {
        let words = header(&words);
        let target = words.replacen(' ', "/", 1);
        let words =
            format!("WWW-Authenticate: Bearer error=\"{words}\"\r\nLocation: https://else.example/{target}?to={words}");
        format!("HTTP/1.1 {status} No\r\n{words}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    };
    let text = match (head.split(' ').nth(1)?, &key) {
        (path, None) if path.starts_with("/ticket") && way == Way::Call => {
            answer("403", &json!({ "error": words }).to_string())
        }
        (path, None) if path.starts_with("/ticket") => {
            let body = json!({"ticket": "c4nARy-fetched/ticket~1", "other": 1}).to_string();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
        }
        // An alert that nobody takes.
        (path, None) if path.starts_with("/hook") => answer("500", &words),
        (_, Some(key)) => {
            let accept = derive_accept_key(key.as_bytes());
            let open = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
            let open = format!("{open}\r\nSec-WebSocket-Accept: {accept}\r\n");
            match way {
                Way::Status(status) => answer(&status.to_string(), &words),
                Way::Subprotocol => format!("{open}Sec-WebSocket-Protocol: {}\r\n\r\n", header(&words)),
                _ => {
                    stream.write_all(format!("{open}\r\n").as_bytes()).ok()?;
                    return talk(WebSocket::from_raw_socket(stream, Role::Server, None), shared, way, &words);
                }
            }
        }
        _ => answer("404", &words),
    };
    stream.write_all(text.as_bytes()).ok()
}

fn talk(mut socket: WebSocket<TcpStream>, shared: &Mutex<State>, way: Way, words: &str) -> Option<()> {
    loop {
        let message = socket.read().ok()?;
        let Message::Text(text) = message else { continue };
        note(shared, text.as_str());
        let frame: Value = serde_json::from_str(text.as_str()).ok()?;
        if way == Way::Close {
            let mut reason = words.to_owned();
            reason.truncate(reason.floor_char_boundary(120));
            let _ = socket.close(Some(CloseFrame { code: CloseCode::Policy, reason: reason.into() }));
            continue;
        }
        let words = shared.lock().unwrap().words.clone();
        let answers = match (frame["type"].as_str()?, way) {
            ("auth", Way::Denied) => vec![json!({"type": "denied", "message": words})],
            ("auth", _) => vec![json!({"type": "ready"}), json!({ "strange": words, words.as_str(): 1 }), json!(words)],
            _ => vec![json!({"type": "error", "id": frame["id"], "code": words, "message": words})],
        };
        for answer in answers {
            socket.send(Message::text(answer.to_string())).ok()?;
        }
    }
}
