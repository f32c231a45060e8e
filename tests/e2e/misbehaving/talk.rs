//! A connection as a service sees it that means no good.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use crate::upstream::frame;

/// What a service saw.
#[derive(Default)]
pub struct Tally {
    pub connects: AtomicUsize,
    pub requests: AtomicUsize,
}

/// The connection.
pub struct Talk {
    pub stream: TcpStream,
    pub socket: Option<WebSocket<TcpStream>>,
    pub tally: Arc<Tally>,
}

impl Talk {
    /// Reads a request's head.
    pub fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        self.tally.requests.fetch_add(1, Relaxed);
        String::from_utf8(head).ok()
    }

    /// Sends bytes.
    pub fn raw(&mut self, bytes: impl AsRef<[u8]>) -> Option<()> {
        self.stream.write_all(bytes.as_ref()).ok()
    }

    /// Sends a message.
    pub fn say(&mut self, message: &Value) -> Option<()> {
        self.raw(frame(0x81, message.to_string().as_bytes()))
    }

    /// Answers the upgrade as it should be.
    pub fn upgrade(&mut self) -> Option<()> {
        let head = self.head()?;
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-Websocket-Key: "))?;
        let accept = derive_accept_key(key.as_bytes());
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
        self.raw(format!("{answer}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"))?;
        self.socket = Some(WebSocket::from_raw_socket(self.stream.try_clone().ok()?, Role::Server, None));
        Some(())
    }

    /// The next request over the WebSocket.
    pub fn next(&mut self) -> Option<Value> {
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
    pub fn keep_saying(&mut self, every: Duration, mut bytes: impl FnMut(u64) -> Vec<u8>) -> Option<()> {
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
    pub fn answer(&mut self, mut answers: impl FnMut(&Value) -> Vec<Value>) -> Option<()> {
        self.upgrade()?;
        loop {
            let asked = self.next()?;
            for answer in answers(&asked) {
                self.say(&answer)?;
            }
        }
    }

    /// Answers each HTTP request in the same way.
    pub fn repeat(&mut self, answer: &str) -> Option<()> {
        loop {
            self.head()?;
            self.raw(answer)?;
        }
    }

    /// Listens and says nothing.
    pub fn linger(&mut self) -> Option<()> {
        let mut rest = [0; 1024];
        while self.stream.read(&mut rest).ok()? > 0 {}
        None
    }
}
