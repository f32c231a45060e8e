//! A session over SSE, read as the WHATWG specification says, HTTP/1.1 chunks included.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::Value;

use crate::common::DEADLINE;

/// One event of the stream.
#[derive(Debug)]
pub struct Sent {
    /// `id:`, if this event has one.
    pub id: Option<String>,
    /// `event:`; empty means a message.
    pub name: String,
    /// The frame.
    pub frame: Value,
}

/// An open stream.
pub struct Stream {
    stream: BufReader<TcpStream>,
    /// Decoded, not yet read.
    text: Vec<u8>,
    /// Last `id:`, as a browser keeps it.
    pub last_id: String,
}

impl Stream {
    /// Connects to `/v1/sse?` and this query.
    pub fn connect(address: SocketAddr, query: &str, headers: &[&str]) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut head = format!("GET /v1/sse?{query} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n");
        headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).unwrap();
        }
        Stream { stream, text: Vec::new(), last_id: String::new() }
    }

    /// The next event; `None` at the end of the stream.
    pub fn next(&mut self) -> Option<Sent> {
        let mut sent = Sent { id: None, name: String::new(), frame: Value::Null };
        let mut data = String::new();
        let begun = Instant::now();
        loop {
            // The relay's comments would keep a silent stream reading for ever.
            assert!(begun.elapsed() < DEADLINE, "no event comes");
            let line = self.line()?;
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => data.push_str(value),
                "id" => sent.id = Some(value.to_owned()),
                "event" => value.clone_into(&mut sent.name),
                // Nothing to dispatch: a comment or `retry:` alone.
                _ if line.is_empty() && data.is_empty() => {}
                _ if line.is_empty() => {
                    if let Some(id) = &sent.id {
                        self.last_id.clone_from(id);
                    }
                    sent.frame = serde_json::from_str(&data).unwrap();
                    return Some(sent);
                }
                _ => {}
            }
        }
    }

    /// The next event of a kind; what comes before it is passed over.
    pub fn next_of(&mut self, kind: &str) -> Sent {
        loop {
            let sent = self.next().expect("another event");
            if sent.frame["kind"] == kind {
                return sent;
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let mut size = String::new();
            if self.stream.read_line(&mut size).unwrap() == 0 {
                return None;
            }
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            self.stream.read_exact(&mut chunk).unwrap();
            if size == 0 {
                return None;
            }
            self.text.extend_from_slice(&chunk[..size]);
        }
    }
}
