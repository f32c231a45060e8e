//! How messages stand in frames: JSON texts (`lines`), also compressed (`inflate`), or packets of Socket.IO (`engine`,
//! `socketio`, `attachments`, `detached`, `session`).
//!
//! Text and binary frames count alike, except in Socket.IO: some services send their text in binary ones.
//! Invariant: what one frame holds is found in one pass over it; an invalid array yields one fault, not half its elements.

mod attachments;
mod detached;
mod engine;
mod inflate;
mod lines;
mod session;
mod socketio;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;

use self::attachments::Gathering;
pub(crate) use self::detached::Detached;
pub(crate) use self::engine::{BINARY, Piece, SEPARATOR, pieces};
pub(crate) use self::inflate::Inflate;
use self::lines::RECORD_END;
pub(crate) use self::session::Session;
use self::socketio::{Kind, Packet};
pub(crate) use self::socketio::{MAIN, Sent};
use super::field::Field;
use super::timestamp;
use super::{SendError, WireFrame};

/// How messages are told apart in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FrameKind {
    /// A frame is a message.
    #[default]
    Json,
    /// A line is a message.
    Ndjson,
    /// Messages are ended by the record separator 0x1E.
    Records,
    /// Packets of Socket.IO 5 over Engine.IO 4.
    SocketIo,
}

/// `[frame]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Framing {
    pub(crate) kind: FrameKind,
    /// `array = "split"`: the elements of an array are messages.
    pub(crate) split: bool,
    /// Socket.IO: whose packets are ours. Empty in other framings.
    pub(crate) namespace: Box<str>,
    /// How binary frames are compressed.
    pub(crate) inflate: Option<Inflate>,
    /// A message on a WebSocket begins with lines that say something about it, and an empty one.
    pub(crate) head: bool,
}

/// What is passed over on purpose, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipped {
    /// A packet of another namespace.
    Namespace,
    /// An attachment beyond the limit; its placeholder stays in the event.
    Attachment,
    /// A channel's state that a checksum stands for and that could not be read, or kept: it goes unchecked.
    Checksum,
}

impl Skipped {
    /// All of them.
    pub const ALL: [Skipped; 3] = [Skipped::Namespace, Skipped::Attachment, Skipped::Checksum];

    /// As the metric's label says it.
    pub fn word(self) -> &'static str {
        match self {
            Skipped::Namespace => "namespace",
            Skipped::Attachment => "attachment",
            Skipped::Checksum => "checksum",
        }
    }
}

/// What a frame holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// A message for the rules.
    Message { fields: &'a [Field<'a>], text: &'a [u8] },
    /// Something that is no message.
    Malformed,
    /// What followed cannot be told apart any more, or what was lost may have been an event of any channel: why.
    Broken(&'static str),
    /// The framing's own business, with nothing to do.
    Quiet,
    /// So many that are no business of ours.
    Skipped(Skipped, usize),
    /// The framing is ready, in a session of this id: authenticate.
    Open(&'a str),
    /// The framing wants this sent.
    Answer(String),
    /// Upstream ends the session.
    Closed,
}

impl Framing {
    /// Whether the service speaks first, whatever the rules say.
    pub(crate) fn greets(&self) -> bool {
        self.kind == FrameKind::SocketIo
    }

    /// Calls `each` with everything that the frame holds. `session` is what this connection's earlier frames said; framings
    /// without one leave it empty.
    pub(crate) fn read(&self, session: &mut Option<Box<Session>>, frame: &WireFrame, each: &mut dyn FnMut(Part<'_>)) {
        if let (Some(inflate), WireFrame::Binary(bytes)) = (self.inflate, frame) {
            let text = match inflate {
                Inflate::Gzip => inflate::gzip(bytes).map(Some),
                Inflate::ZlibStream => session.get_or_insert_default().inflates(bytes),
            };
            return match text {
                Ok(Some(text)) => self.texts(&[], &text, each),
                Ok(None) => each(Part::Quiet),
                // What was in it is lost, and a stream cannot go on.
                Err(_) => each(Part::Broken("a compressed frame cannot be inflated")),
            };
        }
        match (self.kind, frame) {
            (FrameKind::SocketIo, WireFrame::Binary(bytes)) => session.get_or_insert_default().binary(bytes, each),
            (FrameKind::SocketIo, WireFrame::Answer(answer)) => {
                session.get_or_insert_default().payload(&self.namespace, &answer.body, each);
            }
            (FrameKind::SocketIo, frame) => {
                session.get_or_insert_default().text(&self.namespace, frame.body(), each);
            }
            (FrameKind::Json, WireFrame::Event(event)) => {
                let data = event.data.as_deref().unwrap_or_default();
                with_fields(frame, |fields| self.texts(fields, &lines::text_or_json(data), each));
            }
            (_, WireFrame::Text(bytes) | WireFrame::Binary(bytes)) if self.head => {
                let (id, body) = lines::head(bytes);
                let fields = [Field::text("id", id.unwrap_or_default())];
                self.texts(&fields[..usize::from(id.is_some())], &lines::text_or_json(body), each);
            }
            (_, frame) => with_fields(frame, |fields| self.texts(fields, frame.body(), each)),
        }
    }

    /// The JSON texts in a frame's content.
    fn texts(&self, fields: &[Field<'_>], bytes: &[u8], each: &mut dyn FnMut(Part<'_>)) {
        let mut message = |text: Option<&[u8]>| match text {
            Some(text) => each(Part::Message { fields, text }),
            None => each(Part::Malformed),
        };
        match self.kind {
            FrameKind::Json | FrameKind::SocketIo => lines::message(self.split, bytes, &mut message),
            FrameKind::Ndjson => lines::parts(b'\n', self.split, bytes, &mut message),
            FrameKind::Records => lines::parts(RECORD_END, self.split, bytes, &mut message),
        }
    }

    /// What is published, taken apart: its JSON text, and the attachments that follow it. `None`: it has none, or the
    /// framing knows none.
    pub(crate) fn detach(&self, text: &str) -> Result<Option<Detached>, SendError> {
        match self.kind {
            FrameKind::SocketIo => detached::detach(text),
            FrameKind::Json | FrameKind::Ndjson | FrameKind::Records => Ok(None),
        }
    }

    /// Makes a rendered JSON text, which so many attachments follow, a frame's content. JSON has line breaks only between
    /// its tokens, so replacing them by spaces changes nothing but keeps it one message.
    pub(crate) fn wrap(
        &self,
        session: &mut Option<Box<Session>>,
        sent: Sent,
        attachments: usize,
        mut text: String,
    ) -> String {
        match self.kind {
            FrameKind::Json => text,
            FrameKind::Ndjson => {
                if text.contains(['\n', '\r']) {
                    text = text.replace(['\n', '\r'], " ");
                }
                text
            }
            FrameKind::Records => {
                text.push(char::from(RECORD_END));
                text
            }
            FrameKind::SocketIo => {
                if sent == Sent::Connect {
                    session.get_or_insert_default().asks(&text);
                }
                socketio::write(sent, attachments, &self.namespace, &text)
            }
        }
    }

    /// How many attachments follow this frame.
    pub(crate) fn announces(&self, frame: &WireFrame) -> usize {
        self.packet(frame).map_or(0, |packet| packet.attachments)
    }

    /// The packet of Socket.IO in this frame.
    fn packet<'a>(&self, frame: &'a WireFrame) -> Option<Packet<'a>> {
        match (self.kind, frame) {
            (FrameKind::SocketIo, WireFrame::Binary(_)) => None,
            (FrameKind::SocketIo, frame) => match engine::packet(frame.body())? {
                engine::Packet::Message(message) => Packet::read(message),
                _ => None,
            },
            _ => None,
        }
    }

    /// What `wrap` was given to make this frame, which these attachments follow, and what `detach` was; a text that stands
    /// for itself counts as an unnumbered event. `None`: it is none of those.
    pub(crate) fn unwrap<'a>(&self, frame: &'a WireFrame, attachments: &[Bytes]) -> Option<(Sent, Cow<'a, [u8]>)> {
        let bytes = frame.body();
        let bytes = match self.kind {
            FrameKind::Json | FrameKind::Ndjson => &bytes[..],
            FrameKind::Records => bytes.strip_suffix(&[RECORD_END]).unwrap_or(bytes),
            FrameKind::SocketIo => {
                let packet = self.packet(frame).filter(|packet| packet.namespace == self.namespace.as_bytes())?;
                let sent = match (packet.kind, packet.ack) {
                    (Kind::Connect, _) => Sent::Connect,
                    (Kind::Event, id) => Sent::Event(id),
                    (Kind::Ack, Some(id)) => Sent::Ack(id),
                    _ => return None,
                };
                if packet.attachments == 0 {
                    return Some((sent, packet.payload.into()));
                }
                let mut gathering = Gathering::new(&packet, true);
                attachments.iter().for_each(|attachment| gathering.add(attachment));
                return gathering.is_complete().then(|| (sent, gathering.into_marked().into()));
            }
        };
        Some((Sent::Event(None), bytes.into()))
    }
}

/// What a frame says about all of its messages.
fn with_fields<T>(frame: &WireFrame, then: impl FnOnce(&[Field<'_>]) -> T) -> T {
    let (texts, status) = match frame {
        WireFrame::Event(event) => ([("id", &event.id), ("event", &event.event)], None),
        WireFrame::Answer(answer) => {
            ([("etag", &answer.etag), ("last_modified", &answer.last_modified)], Some(answer.status))
        }
        _ => return then(&[]),
    };
    let date = match frame {
        WireFrame::Answer(answer) => answer.last_modified.as_deref().and_then(timestamp::http_date),
        _ => None,
    };
    let texts = texts.into_iter().filter_map(|(name, value)| Some(Field::text(name, value.as_deref()?)));
    let status = status.map(|status| Field::number("status", u64::from(status)));
    let date = date.map(|seconds| Field::number("last_modified_s", seconds));
    let fields: Vec<Field<'_>> = texts.chain(status).chain(date).collect();
    then(&fields)
}
