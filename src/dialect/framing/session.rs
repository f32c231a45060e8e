//! What one connection's frames have said so far. A Socket.IO session: from frames to packets of our namespace, with
//! their attachments in them.
//!
//! Engine.IO's own packets (open, ping, close, noop) are dealt with here; rules never see them. Packets of other namespaces
//! are passed over and counted.
//! Invariant: at most one packet waits for its attachments. What is no packet, or does not belong where it comes, may have been
//! an event of any channel: it breaks the session, as it does with Socket.IO's own clients. A ping that is too long, and an
//! empty answer to a poll, hold no event: they are counted and that is all.
//! Deliberately not here: who authenticates how (the dialect), and deadlines (the relay's).

use std::time::Duration;

use bytes::Bytes;

use super::attachments::Gathering;
use super::engine::{self, Open, Piece};
use super::inflate::{Broken, Stream};
use super::socketio::{Kind, Packet};
use super::{Part, Skipped};
use crate::dialect::field::Field;
use crate::dialect::pointer::Pointer;
use crate::dialect::scan::{Kind as Json, PointerSet, Spans, elements};

/// Bytes of a ping's own text that are given back.
const LARGEST_PING: usize = 125;
/// Bytes of an offset. The reference server's have 7 in memory, and up to 40 over Redis or MongoDB.
const LARGEST_OFFSET: usize = 64;

/// What is known of the session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Session {
    open: Option<Open>,
    /// The service keeps what a lost connection misses, and where we are in it. Not every event says so.
    place: Option<Place>,
    gathering: Option<Gathering>,
    /// Of `frame.inflate = "zlib-stream"`.
    inflating: Stream,
}

/// A place in what a service keeps for us.
#[derive(Debug, Clone, Default)]
struct Place {
    /// The last one that was told; empty: none yet.
    offset: String,
}

impl Session {
    /// Takes a piece of the connection's zlib stream; the message, if it ends here.
    pub(crate) fn inflates(&mut self, piece: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        self.inflating.feed(piece)
    }

    /// Silence of a healthy connection, once the service has said it.
    pub(crate) fn silence(&self) -> Option<Duration> {
        self.open.as_ref().map(|open| open.silence)
    }

    /// What was asked (`asked`) while a frame was read, added to what reading it brought.
    pub(crate) fn rejoin(mut read: Option<Box<Session>>, asked: Option<Box<Session>>) -> Option<Box<Session>> {
        if let (Some(read), Some(asked)) = (&mut read, &asked)
            && let Some(place) = &asked.place
        {
            read.place = Some(place.clone());
        }
        read.or(asked)
    }

    /// Bytes that the service takes at once, if it has said so.
    pub(crate) fn takes(&self) -> Option<usize> {
        self.open.as_ref()?.takes
    }

    /// Whether a session that is polled may go on over a WebSocket.
    pub(crate) fn upgrades(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.upgrades)
    }

    /// We ask to go on with a session: its events come before the answer.
    pub(crate) fn asks(&mut self, connect: &str) {
        let [pid, offset] = members(connect.as_bytes(), ["/pid", "/offset"]);
        self.place = pid.map(|_| Place { offset: offset.unwrap_or_default() });
    }

    /// A text frame came in.
    pub(crate) fn text(&mut self, namespace: &str, text: &[u8], each: &mut dyn FnMut(Part<'_>)) {
        match engine::packet(text) {
            Some(engine::Packet::Open(json)) => match Open::read(json) {
                Some(open) if self.open.is_none() => each(Part::Open(&self.open.insert(open).sid)),
                Some(_) => each(Part::Broken("a second open packet")),
                None => each(Part::Broken("an open packet does not say what it must")),
            },
            Some(engine::Packet::Ping(data)) if data.len() <= LARGEST_PING => {
                // `3` and what the ping says: all of it is ASCII in practice, and text in any case.
                each(Part::Answer(format!("3{}", String::from_utf8_lossy(data))));
            }
            Some(engine::Packet::Close) => each(Part::Closed),
            Some(engine::Packet::Pong(_) | engine::Packet::Noop) => each(Part::Quiet),
            Some(engine::Packet::Message(message)) => self.message(namespace, message, each),
            Some(engine::Packet::Ping(_)) => each(Part::Malformed),
            None => each(Part::Broken("not a packet of Engine.IO")),
        }
    }

    /// The answer to a poll came in: packets, binary ones as base64.
    pub(crate) fn payload(&mut self, namespace: &str, payload: &[u8], each: &mut dyn FnMut(Part<'_>)) {
        if payload.is_empty() {
            return each(Part::Malformed);
        }
        for piece in engine::pieces(payload) {
            match piece {
                Piece::Text(packet) => self.text(namespace, packet, each),
                Piece::Binary(data) => self.binary(&data, each),
                Piece::Garbled(_) => each(Part::Broken("a binary packet is not base64")),
            }
        }
    }

    fn message(&mut self, namespace: &str, message: &[u8], each: &mut dyn FnMut(Part<'_>)) {
        if self.gathering.take().is_some() {
            return each(Part::Broken("a packet came before the attachments of the one before it"));
        }
        let Some(packet) = Packet::read(message) else { return each(Part::Broken("not a packet of Socket.IO")) };
        if packet.attachments > 0 {
            // Also of another namespace: its attachments have to be passed over.
            let ours = packet.namespace == namespace.as_bytes();
            self.gathering = Some(Gathering::new(&packet, ours));
            return;
        }
        if packet.namespace != namespace.as_bytes() {
            return each(Part::Skipped(Skipped::Namespace, 1));
        }
        if packet.kind == Kind::Connect {
            let [pid] = members(packet.payload, ["/pid"]);
            let place = self.place.take();
            // Another session than the one that we asked for has other places; the next event tells one.
            self.place = pid.map(|_| place.unwrap_or_default());
        }
        self.tell(packet.kind, packet.ack, packet.payload, each);
    }

    /// A binary frame came in: an attachment.
    pub(crate) fn binary(&mut self, data: &Bytes, each: &mut dyn FnMut(Part<'_>)) {
        let Some(gathering) = &mut self.gathering else {
            return each(Part::Broken("an attachment that no packet announced"));
        };
        gathering.add(data);
        let Some(complete) = self.gathering.take_if(|gathering| gathering.is_complete()) else { return };
        if !complete.ours {
            return each(Part::Skipped(Skipped::Namespace, 1));
        }
        let left_out = complete.left_out();
        if left_out > 0 {
            each(Part::Skipped(Skipped::Attachment, left_out));
        }
        let (kind, ack) = (complete.kind, complete.ack);
        self.tell(kind, ack, &complete.into_text(), each);
    }

    fn tell(&mut self, kind: Kind, ack: Option<u64>, text: &[u8], each: &mut dyn FnMut(Part<'_>)) {
        // An event that wants an answer is not kept by the service and has no place.
        if let (Some(place), Kind::Event, None) = (&mut self.place, kind, ack)
            && let Some(offset) = offset(text)
        {
            place.offset.clear();
            place.offset.push_str(offset);
        }
        let packet = Field::text("packet", kind.word());
        let place = self.place.as_ref().filter(|place| kind == Kind::Event && !place.offset.is_empty());
        let place = place.map(|place| Field::text("offset", &*place.offset));
        match (ack.map(|ack| Field::number("ack", ack)), place) {
            (Some(ack), Some(place)) => each(Part::Message { fields: &[packet, ack, place], text }),
            (Some(more), None) | (None, Some(more)) => each(Part::Message { fields: &[packet, more], text }),
            (None, None) => each(Part::Message { fields: &[packet], text }),
        }
    }
}

/// An event's last element, if it may be an offset: not the event's name, and one word. The official server's have dots, too.
fn offset(event: &[u8]) -> Option<&str> {
    let last = elements(event).skip(1).last()?;
    let word = last.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let fits = (1..=LARGEST_OFFSET).contains(&word.len())
        && word.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    std::str::from_utf8(word).ok().filter(|_| fits)
}

/// These members of a JSON object, where they are strings.
fn members<const N: usize>(json: &[u8], pointers: [&str; N]) -> [Option<String>; N] {
    let mut set = PointerSet::new();
    let ids = pointers.map(|pointer| Pointer::parse(pointer).ok().map(|pointer| set.add(&pointer)));
    let mut spans = Spans::new();
    if set.scan(json, &mut spans).is_err() {
        return [const { None }; N];
    }
    ids.map(|id| {
        let span = spans.get(id?).filter(|span| span.kind == Json::String)?;
        Some(spans.text(json, span).into_owned())
    })
}
