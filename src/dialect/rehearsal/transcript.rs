//! Transcripts: recorded conversations as JSON lines.
//!
//! The first line is `{"meta":{...}}`; every other one is a step
//! `{"t":ms,"conn":"c1","dir":"out|in|note","op":"connect|open|text|bin|ping|pong|close|drop|reject|http|http-open|chunk|eof",
//! "data":...}`, where `bin` carries base64. A `connect` that names another `transport` than WebSocket begins a connection
//! whose `http` and `chunk` steps are its requests, answers and events; those of other connections are calls beside the
//! conversation: [`Happening::Asked`] and [`Happening::Answered`] of a connection that never began.
//! Deliberately not here: reading files.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::dialect::{Transport, WireFrame};

/// A recorded conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// What happened, in order.
    pub steps: Vec<Step>,
}

/// One line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The line in the file, from 1.
    pub line: usize,
    /// Milliseconds since the recording began.
    pub at_ms: u64,
    /// Which connection.
    pub connection: String,
    /// What happened on it.
    pub happening: Happening,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// The recorder says something to the reader.
    Note(String),
    /// A connection of another transport than WebSocket is begun, by this request where it is an event stream.
    Connecting(Transport, Call),
    /// The WebSocket is open.
    Open,
    /// The answer to a request begins that does not end: an event stream.
    StreamOpen,
    /// We sent a frame.
    Sent(WireFrame),
    /// Upstream sent a frame.
    Came(WireFrame),
    /// We sent an HTTP request.
    Asked(Call),
    /// An HTTP request was answered.
    Answered(Reply),
    /// Bytes of an event stream.
    Chunk(Bytes),
    /// The connection ended; by us if `ours`.
    Closed {
        /// Whether we closed it.
        ours: bool,
        /// The close code; none where the connection was cut.
        code: Option<u16>,
    },
    /// The handshake was refused with this HTTP status.
    Rejected(u16),
    /// The carrier's affair.
    Elsewhere,
}

/// An HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `GET`, `POST`.
    pub method: String,
    /// The whole address.
    pub url: String,
    /// Its header fields, by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its content.
    pub body: Bytes,
}

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The method of the request that it answers, where the recording says so.
    pub method: Option<String>,
    /// HTTP status; 0: none came.
    pub status: u16,
    /// Its header fields, by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its content.
    pub body: Bytes,
}

/// Why a text is no transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TranscriptError {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for TranscriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.reason)
    }
}

impl std::error::Error for TranscriptError {}

#[derive(Deserialize)]
struct RawStep {
    #[serde(default)]
    t: u64,
    #[serde(default)]
    conn: String,
    dir: Direction,
    op: String,
    #[serde(default)]
    data: String,
    code: Option<u16>,
    status: Option<u16>,
    transport: Option<String>,
    method: Option<String>,
    #[serde(default)]
    url: String,
    #[serde(default)]
    headers: Map<String, Value>,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Direction {
    In,
    Out,
    Note,
}

impl Transcript {
    /// Reads the JSON lines.
    pub fn parse(text: &str) -> Result<Self, TranscriptError> {
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let error = |number: usize, reason: String| TranscriptError { line: number + 1, reason };
        let meta = lines.next().and_then(|(_, line)| serde_json::from_str::<serde_json::Value>(line).ok());
        if !meta.is_some_and(|meta| meta.get("meta").is_some_and(serde_json::Value::is_object)) {
            return Err(error(0, "a transcript begins with a line {\"meta\":{...}}".to_owned()));
        }
        let mut steps = Vec::new();
        for (number, line) in lines {
            let raw: RawStep = serde_json::from_str(line).map_err(|e| error(number, format!("no step: {e}")))?;
            let (at_ms, connection) = (raw.t, raw.conn.clone());
            let happening = raw.happening().map_err(|reason| error(number, reason))?;
            steps.push(Step { line: number + 1, at_ms, connection, happening });
        }
        Ok(Self { steps })
    }
}

impl RawStep {
    fn happening(self) -> Result<Happening, String> {
        let ours = self.dir == Direction::Out;
        let frame = match self.op.as_str() {
            "note" => return Ok(Happening::Note(self.data)),
            "open" => return Ok(Happening::Open),
            "close" => return Ok(Happening::Closed { ours, code: self.code }),
            "drop" => return Ok(Happening::Closed { ours, code: None }),
            "reject" => return Ok(Happening::Rejected(self.status.unwrap_or(0))),
            "text" => WireFrame::Text(Bytes::from(self.data)),
            "bin" => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(&self.data);
                WireFrame::Binary(bytes.map_err(|e| format!("data of a bin step is not base64: {e}"))?.into())
            }
            "connect" => return self.connecting(),
            "http" => return Ok(self.exchange(ours)),
            "http-open" => return Ok(Happening::StreamOpen),
            "chunk" => return Ok(Happening::Chunk(Bytes::from(self.data))),
            "eof" => return Ok(Happening::Closed { ours, code: None }),
            "ping" | "pong" => return Ok(Happening::Elsewhere),
            other => return Err(format!("unknown op {other:?}")),
        };
        Ok(if ours { Happening::Sent(frame) } else { Happening::Came(frame) })
    }

    fn connecting(self) -> Result<Happening, String> {
        let transport = match &self.transport {
            Some(word) => Transport::parse(word).ok_or_else(|| format!("unknown transport {word:?}"))?,
            None => Transport::WebSocket,
        };
        Ok(match transport {
            Transport::WebSocket => Happening::Elsewhere,
            transport => Happening::Connecting(transport, self.call()),
        })
    }

    fn exchange(self, ours: bool) -> Happening {
        if ours {
            return Happening::Asked(self.call());
        }
        let (headers, status) = (fields(self.headers), self.status.unwrap_or(0));
        Happening::Answered(Reply { method: self.method, status, headers, body: Bytes::from(self.data) })
    }

    fn call(self) -> Call {
        let method = self.method.unwrap_or_else(|| "GET".to_owned());
        Call { method, url: self.url, headers: fields(self.headers), body: Bytes::from(self.data) }
    }
}

fn fields(headers: Map<String, Value>) -> BTreeMap<String, String> {
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), text(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(steps: &str) -> Result<Vec<Happening>, String> {
        let transcript = Transcript::parse(&format!("{{\"meta\":{{}}}}\n{steps}")).map_err(|e| e.to_string())?;
        Ok(transcript.steps.into_iter().map(|step| step.happening).collect())
    }

    #[test]
    fn every_op_is_known() {
        let steps = r#"{"t":1,"dir":"note","op":"note","data":"n"}
{"t":2,"conn":"c","dir":"out","op":"connect","url":"ws://x","headers":{}}
{"t":3,"conn":"c","dir":"in","op":"open","protocol":""}
{"t":4,"conn":"c","dir":"in","op":"bin","data":"AAEC"}
{"t":5,"conn":"c","dir":"out","op":"text","data":"{}"}

{"t":6,"conn":"c","dir":"in","op":"close","code":4000,"reason":"r"}
{"t":7,"conn":"c","dir":"out","op":"drop"}
{"t":8,"conn":"c","dir":"in","op":"reject","status":403}"#;
        let expected = [
            Happening::Note("n".into()),
            Happening::Elsewhere,
            Happening::Open,
            Happening::Came(WireFrame::Binary(Bytes::from_static(&[0, 1, 2]))),
            Happening::Sent(WireFrame::Text(Bytes::from_static(b"{}"))),
            Happening::Closed { ours: false, code: Some(4000) },
            Happening::Closed { ours: true, code: None },
            Happening::Rejected(403),
        ];
        assert_eq!(parse(steps).unwrap(), expected);
    }

    #[test]
    fn what_passes_by_http_is_told_with_its_fields() {
        let steps = r#"{"conn":"p","dir":"out","op":"connect","url":"http://x/a","transport":"long-poll","headers":{"X-K":"***"}}
{"conn":"p","dir":"out","op":"http","method":"POST","url":"http://x/b","data":"{}"}
{"conn":"p","dir":"in","op":"http","method":"POST","status":201,"headers":{"ETag":"7"},"data":"ok"}
{"conn":"s","dir":"in","op":"http-open","status":200}
{"conn":"s","dir":"in","op":"chunk","data":"data: 1\n\n"}
{"conn":"s","dir":"in","op":"eof"}"#;
        let fields = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let call = |method: &str, url: &str, headers, body: &'static str| Call {
            method: method.to_owned(),
            url: url.to_owned(),
            headers,
            body: Bytes::from(body),
        };
        let reply = Reply {
            method: Some("POST".to_owned()),
            status: 201,
            headers: fields("etag", "7"),
            body: Bytes::from_static(b"ok"),
        };
        let expected = [
            Happening::Connecting(Transport::LongPoll, call("GET", "http://x/a", fields("x-k", "***"), "")),
            Happening::Asked(call("POST", "http://x/b", BTreeMap::new(), "{}")),
            Happening::Answered(reply),
            Happening::StreamOpen,
            Happening::Chunk(Bytes::from_static(b"data: 1\n\n")),
            Happening::Closed { ours: false, code: None },
        ];
        assert_eq!(parse(steps).unwrap(), expected);
        assert_eq!(
            parse(r#"{"dir":"out","op":"connect","transport":"pigeon"}"#).unwrap_err(),
            "2: unknown transport \"pigeon\""
        );
    }

    #[test]
    fn errors_name_the_line() {
        assert!(parse(r#"{"dir":"in","op":"open"}"#).is_ok());
        assert_eq!(
            parse("{\"dir\":\"in\",\"op\":\"open\"}\n{\"dir\":\"in\",\"op\":\"opn\"}").unwrap_err(),
            "3: unknown op \"opn\""
        );
        assert!(parse(r#"{"dir":"up","op":"open"}"#).unwrap_err().starts_with("2: no step: unknown variant `up`"));
        assert!(parse(r#"{"dir":"in","op":"bin","data":"%"}"#).unwrap_err().contains("not base64"));
        assert!(Transcript::parse("{}").unwrap_err().to_string().starts_with("1: a transcript begins with"));
        assert!(Transcript::parse("").is_err());
    }
}
