//! A transcript as it is written: JSON lines (`dialect::rehearsal::transcript` reads them), redacted before they are written,
//! with limits.
//!
//! Invariant: the file is new, its owner's alone, and every line of it is whole.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use base64::Engine;
use serde_json::{Value, json};

use crate::dialect::{Answer, Ask, AskFor, ConnectRequest, Method, StreamEvent, WireFrame};
use crate::relay::pairs::{AttemptId, Disconnect};
use crate::relay::redact::{HIDDEN, Redactor};

/// Header fields whose values are shown, as far as they are not known to be secret: what a request asks for, and from where
/// an answer goes on.
const SHOWN: [&str; 8] = [
    "accept",
    "content-type",
    "etag",
    "if-modified-since",
    "if-none-match",
    "last-event-id",
    "last-modified",
    "retry-after",
];

/// How much is written at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the file.
    pub bytes: u64,
    /// Frames, both ways.
    pub frames: u64,
}

/// Which way something went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the service.
    In,
    /// To the service.
    Out,
}

impl Way {
    fn text(self) -> &'static str {
        match self {
            Way::In => "in",
            Way::Out => "out",
        }
    }
}

/// The file.
pub struct Tape {
    file: BufWriter<File>,
    begun: Instant,
    limits: Limits,
    /// Members of addresses' queries whose values are shown.
    open_members: BTreeSet<String>,
    /// A line came that would have made it too large; none is written after it.
    full: bool,
    /// Bytes written.
    pub bytes: u64,
    /// Frames written.
    pub frames: u64,
}

impl Tape {
    /// A new file that begins with these facts about itself. Of addresses' queries the values of `open_members` are shown.
    pub fn create(path: &Path, limits: Limits, meta: &Value, open_members: BTreeSet<String>) -> std::io::Result<Self> {
        let first = json!({ "meta": meta }).to_string();
        if first.len() as u64 >= limits.bytes {
            let told = format!("the first line alone takes {} bytes: allow more", first.len() + 1);
            return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, told));
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let file = BufWriter::new(file);
        let mut tape = Tape { file, begun: Instant::now(), limits, open_members, full: false, bytes: 0, frames: 0 };
        tape.line(&first)?;
        Ok(tape)
    }

    /// Whether a limit is reached.
    pub fn is_full(&self) -> bool {
        self.full || self.bytes >= self.limits.bytes || self.frames >= self.limits.frames
    }

    fn line(&mut self, text: &str) -> std::io::Result<()> {
        let bytes = self.bytes + text.len() as u64 + 1;
        self.full |= bytes > self.limits.bytes;
        if self.full {
            return Ok(());
        }
        self.bytes = bytes;
        writeln!(self.file, "{text}")?;
        // Whoever stops the process by force has what was written so far.
        self.file.flush()
    }

    fn step(&mut self, connection: &str, way: &str, op: &str, more: &[(&str, Value)]) -> std::io::Result<()> {
        let elapsed = self.begun.elapsed().as_millis();
        let mut line = format!("{{\"t\":{elapsed},\"conn\":\"{connection}\",\"dir\":\"{way}\",\"op\":\"{op}\"");
        for (name, value) in more {
            line.push_str(&format!(",\"{name}\":{value}"));
        }
        line.push('}');
        self.line(&line)
    }

    /// A connection is begun. Most header fields are named and not shown.
    pub fn connect(&mut self, attempt: AttemptId, request: &ConnectRequest, secrets: &Redactor) -> std::io::Result<()> {
        let more = [
            ("url", json!(secrets.url_with(&request.url, &self.open_members))),
            ("transport", json!(request.transport.text())),
            ("protocols", json!(request.subprotocols)),
            ("headers", fields(&request.headers, secrets)),
        ];
        self.step(&name(attempt), "out", "connect", &more)
    }

    /// The connection is open.
    pub fn open(&mut self, attempt: AttemptId) -> std::io::Result<()> {
        self.step(&name(attempt), "in", "open", &[])
    }

    /// A frame passed.
    pub fn frame(
        &mut self,
        attempt: AttemptId,
        way: Way,
        frame: &WireFrame,
        secrets: &Redactor,
    ) -> std::io::Result<()> {
        let text = |bytes: &[u8]| secrets.text(&String::from_utf8_lossy(bytes));
        let (op, more) = match frame {
            WireFrame::Text(body) => ("text", vec![("data", json!(text(body)))]),
            WireFrame::Binary(body) => {
                let base64 = base64::engine::general_purpose::STANDARD.encode(secrets.bytes(body));
                ("bin", vec![("data", json!(base64))])
            }
            WireFrame::Ping(body) => ("ping", vec![("data", json!(text(body)))]),
            WireFrame::Pong(body) => ("pong", vec![("data", json!(text(body)))]),
            WireFrame::Life => return Ok(()),
            WireFrame::Event(event) => ("chunk", vec![("data", json!(secrets.text(&chunk(event))))]),
            WireFrame::Ask(ask) => ("http", self.ask(ask, secrets)),
            WireFrame::Answer(answer) => ("http", reply(answer, secrets)),
        };
        self.step(&name(attempt), way.text(), op, &more)?;
        self.frames += u64::from(!self.full);
        Ok(())
    }

    fn ask(&self, ask: &Ask, secrets: &Redactor) -> Vec<(&'static str, Value)> {
        let mut more = vec![
            ("method", json!(ask.method.text())),
            ("url", json!(secrets.url_with(&ask.url, &self.open_members))),
            ("headers", fields(&ask.headers, secrets)),
        ];
        if !ask.body.is_empty() {
            more.push(("data", json!(secrets.text(&String::from_utf8_lossy(&ask.body)))));
        }
        more
    }

    /// We close the connection.
    pub fn close(&mut self, attempt: AttemptId, code: u16) -> std::io::Result<()> {
        self.step(&name(attempt), "out", "close", &[("code", json!(code))])
    }

    /// The connection ended, or never came about, other than by our close.
    pub fn ended(&mut self, attempt: AttemptId, reason: &Disconnect, secrets: &Redactor) -> std::io::Result<()> {
        match reason {
            Disconnect::Asked => Ok(()),
            Disconnect::Closed { code, reason } => {
                let reason = secrets.text(reason);
                self.step(&name(attempt), "in", "close", &[("code", json!(code)), ("reason", json!(reason))])
            }
            Disconnect::BadStatus { status, detail, .. } => {
                let detail = secrets.text(detail);
                self.step(&name(attempt), "in", "reject", &[("status", json!(status)), ("data", json!(detail))])
            }
            other => {
                let words = secrets.text(&format!("{}: {}", other.reason(), other.detail()));
                self.step(&name(attempt), "in", "drop", &[("data", json!(words))])
            }
        }
    }
}

/// The connection's name in the transcript.
fn name(attempt: AttemptId) -> String {
    format!("c{}", attempt.0)
}

/// Header fields: all names, and the values that may be shown.
fn fields(headers: &[(String, String)], secrets: &Redactor) -> Value {
    let shown = |name: &str| SHOWN.iter().any(|shown| name.eq_ignore_ascii_case(shown));
    let value = |(name, value): &(String, String)| {
        let value = if shown(name) { secrets.text(value) } else { HIDDEN.to_owned() };
        (name.clone(), Value::from(value))
    };
    Value::Object(headers.iter().map(value).collect())
}

/// An answer, with the method of what it answers: a poll and something else may be out at once.
fn reply(answer: &Answer, secrets: &Redactor) -> Vec<(&'static str, Value)> {
    let method = match answer.of {
        AskFor::Poll => Method::Get,
        AskFor::Request(_) => Method::Post,
    };
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, value) in [("etag", &answer.etag), ("last-modified", &answer.last_modified)] {
        headers.extend(value.as_ref().map(|value| (name.to_owned(), value.to_string())));
    }
    headers.extend(answer.retry_after.map(|wait| ("retry-after".to_owned(), wait.as_secs().to_string())));
    vec![
        ("method", json!(method.text())),
        ("status", json!(answer.status)),
        ("headers", fields(&headers, secrets)),
        ("data", json!(secrets.text(&String::from_utf8_lossy(&answer.body)))),
    ]
}

/// An event as it stands in its stream.
fn chunk(event: &StreamEvent) -> String {
    let mut chunk = String::new();
    for (name, value) in [("id", &event.id), ("event", &event.event)] {
        if let Some(value) = value {
            chunk.push_str(&format!("{name}: {value}\n"));
        }
    }
    if let Some(retry) = event.retry {
        chunk.push_str(&format!("retry: {}\n", retry.as_millis()));
    }
    for line in event.data.iter().flat_map(|data| data.split(|byte| *byte == b'\n')) {
        chunk.push_str(&format!("data: {}\n", String::from_utf8_lossy(line)));
    }
    chunk.push('\n');
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_never_grows_beyond_its_limit_and_its_lines_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        for most in [200, 300, 301, 302, 303, 1_000] {
            let path = dir.path().join(most.to_string());
            let limits = Limits { bytes: most, frames: 1_000 };
            let mut tape = Tape::create(&path, limits, &json!({}), BTreeSet::new()).unwrap();
            let long = "x".repeat(150);
            while !tape.is_full() {
                for text in ["{}", &long] {
                    let frame = WireFrame::Text(text.to_owned().into());
                    tape.frame(AttemptId(1), Way::In, &frame, &Redactor::default()).unwrap();
                }
            }
            tape.close(AttemptId(1), 1000).unwrap();
            let written = std::fs::read_to_string(&path).unwrap();
            assert!(written.len() as u64 == tape.bytes && tape.bytes <= most, "{most}: {} bytes", written.len());
            assert_eq!(written.lines().count() as u64, 1 + tape.frames);
            assert!(written.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{written}");
        }
        let tiny = Limits { bytes: 10, frames: 1 };
        let path = dir.path().join("tiny");
        assert!(Tape::create(&path, tiny, &json!({}), BTreeSet::new()).is_err() && !path.exists());
    }
}
