//! What travels between the relay and a carrier: transports, addresses, frames.
//!
//! One connection of any transport is a [`ConnectRequest`] and then frames both ways. A WebSocket moves messages. An event
//! stream (SSE) brings events with fields. Polling is asked for: each poll is an [`Ask`] that leaves and an [`Answer`] that
//! comes, and so is whatever is sent by POST beside a transport that has no way up.
//!
//! Invariant: a frame is a few words, whatever it holds; what it holds is shared, not copied.
//! Deliberately not here: what a frame means (`conversation`), and how it is carried (`upstream`).

use std::time::Duration;

use bytes::Bytes;

use super::RequestId;

/// How a connection to upstream is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Transport {
    /// RFC 6455.
    #[default]
    WebSocket,
    /// An event stream over HTTP (WHATWG HTML, "Server-sent events").
    Sse,
    /// One HTTP request after the other, each answered when there is something to tell.
    LongPoll,
    /// One HTTP request after the other, each answered at once.
    Poll,
}

impl Transport {
    /// All of them, the better one first.
    pub const ALL: [Transport; 4] = [Transport::WebSocket, Transport::Sse, Transport::LongPoll, Transport::Poll];

    /// The word in configuration, dialects, status and metrics.
    pub fn text(self) -> &'static str {
        match self {
            Transport::WebSocket => "websocket",
            Transport::Sse => "sse",
            Transport::LongPoll => "long-poll",
            Transport::Poll => "poll",
        }
    }

    /// The transport of that word.
    pub fn parse(word: &str) -> Option<Transport> {
        Transport::ALL.into_iter().find(|transport| transport.text() == word)
    }

    /// Whether what is received has to be asked for, poll by poll.
    pub fn polls(self) -> bool {
        matches!(self, Transport::LongPoll | Transport::Poll)
    }
}

/// Where and how to connect, with all templates filled in.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// How the connection is carried. Polling connects (TCP and TLS) and then waits for an [`Ask`].
    pub transport: Transport,
    /// `ws://` or `wss://`, and `http://` or `https://` for the others, with path and query. May hold secrets.
    pub url: String,
    /// Extra headers of the upgrade, or of the stream's request. May hold secrets.
    pub headers: Vec<(String, String)>,
    /// Offered subprotocols (WebSocket).
    pub subprotocols: Vec<String>,
}

impl std::fmt::Debug for ConnectRequest {
    /// Transport, host and path only: query and headers may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = self.url.split('?').next();
        f.debug_struct("ConnectRequest").field("transport", &self.transport).field("url", &url).finish_non_exhaustive()
    }
}

/// One unit on the wire as a carrier moves it. Close frames are `Disconnect`, not frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireFrame {
    /// UTF-8 text (checked by the carrier).
    Text(Bytes),
    /// Binary; some services send their text so.
    Binary(Bytes),
    /// A WebSocket ping; the carrier answers those that come in.
    Ping(Bytes),
    /// A WebSocket pong.
    Pong(Bytes),
    /// An event of an event stream.
    Event(Box<StreamEvent>),
    /// Something came in that holds no message: a comment of an event stream, a part of an event. A sign of life.
    Life,
    /// An HTTP request to send: a poll, or something for upstream. Only leaves.
    Ask(Box<Ask>),
    /// The answer to an [`Ask`]. Only comes.
    Answer(Box<Answer>),
}

impl WireFrame {
    /// The payload; empty where there is none.
    pub fn body(&self) -> &Bytes {
        static NOTHING: Bytes = Bytes::new();
        match self {
            WireFrame::Text(body) | WireFrame::Binary(body) | WireFrame::Ping(body) | WireFrame::Pong(body) => body,
            WireFrame::Event(event) => event.data.as_ref().unwrap_or(&NOTHING),
            WireFrame::Life => &NOTHING,
            WireFrame::Ask(ask) => &ask.body,
            WireFrame::Answer(answer) => &answer.body,
        }
    }

    /// Whether a conversation has to hear of it; the others are signs of life.
    pub fn speaks(&self) -> bool {
        match self {
            WireFrame::Text(_) | WireFrame::Binary(_) | WireFrame::Event(_) | WireFrame::Answer(_) => true,
            WireFrame::Ping(_) | WireFrame::Pong(_) | WireFrame::Life | WireFrame::Ask(_) => false,
        }
    }
}

/// An event of an event stream as its fields stood when it was dispatched (WHATWG HTML section 9.2.6).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamEvent {
    /// The stream's last event id; `None`: it never gave one.
    pub id: Option<Box<str>>,
    /// The event's type; `None`: it has none, which a browser calls `message`.
    pub event: Option<Box<str>>,
    /// The lines of its data, joined by line feeds; `None`: it only tells the others.
    pub data: Option<Bytes>,
    /// How long the stream wants to be left alone before it is connected again, clamped by the carrier.
    pub retry: Option<Duration>,
}

/// What an HTTP request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AskFor {
    /// The next messages. At most one is out.
    Poll,
    /// The request of this number. At most one is out; a poll may be out beside it.
    Request(RequestId),
}

/// An HTTP method that this program uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// POST
    Post,
    /// PUT
    Put,
}

impl Method {
    /// The word on the wire.
    pub fn text(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
        }
    }
}

/// An HTTP request, to the connection's own origin.
#[derive(Clone, PartialEq, Eq)]
pub struct Ask {
    /// Comes back in the answer.
    pub of: AskFor,
    /// How.
    pub method: Method,
    /// Where, with path and query. May hold secrets.
    pub url: String,
    /// Its header fields. May hold secrets.
    pub headers: Vec<(String, String)>,
    /// Its content; empty: none.
    pub body: Bytes,
    /// How long the answer may take, to its last byte.
    pub timeout: Duration,
    /// Asked again where its answer broke off: asking changes nothing there.
    pub repeats: bool,
}

impl std::fmt::Debug for Ask {
    /// Without query, headers and content: they may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = self.url.split('?').next();
        f.debug_struct("Ask").field("of", &self.of).field("url", &url).finish_non_exhaustive()
    }
}

/// An HTTP answer. Redirects are not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it answers.
    pub of: AskFor,
    /// HTTP status; 0: none came in time, or the connection broke, with the reason in `body`.
    pub status: u16,
    /// `ETag`, as it stood.
    pub etag: Option<Box<str>>,
    /// `Last-Modified`, as it stood.
    pub last_modified: Option<Box<str>>,
    /// `Retry-After` from now (RFC 9110 section 10.2.3), clamped to 1 s..1 h.
    pub retry_after: Option<Duration>,
    /// The content, at most `upstream.max_frame`.
    pub body: Bytes,
}
