//! Every frame that a client can get (`tidegate.v1`), and the batches in which they travel.
//!
//! Two kinds: an [`Entry`] has an offset, stands in a ring and is shared by all its readers; its JSON text is made once, at
//! admission, by copying upstream's payload bytes. A control frame has no offset and belongs to one session.
//! A [`Batch`] is what one write carries; its wire bytes are joined once per format however many sessions share it.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::position::Epoch;
use crate::relay::time::Mono;

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Something happened upstream.
    Event,
    /// Upstream's own statement of the whole channel: replaces all keys. On the wire an `event` with `"snapshot":true`.
    Snapshot,
    /// Something is missing on this channel.
    Gap,
    /// Start again from here.
    Reset,
    /// Upstream is silent on this channel, though the connection lives.
    Stale,
    /// A value that a message which has not ended will make of the channel. No part of its state.
    Pending,
    /// That message was delivered.
    Confirmed,
    /// It was not, or nobody knows.
    RolledBack,
}

impl EntryKind {
    /// All of them.
    pub const ALL: [EntryKind; 8] = [
        EntryKind::Event,
        EntryKind::Snapshot,
        EntryKind::Gap,
        EntryKind::Reset,
        EntryKind::Stale,
        EntryKind::Pending,
        EntryKind::Confirmed,
        EntryKind::RolledBack,
    ];

    /// The frame's `kind`.
    pub fn text(self) -> &'static str {
        match self {
            EntryKind::Event | EntryKind::Snapshot => "event",
            EntryKind::Gap => "gap",
            EntryKind::Reset => "reset",
            EntryKind::Stale => "stale",
            EntryKind::Pending => "pending",
            EntryKind::Confirmed => "confirmed",
            EntryKind::RolledBack => "rolled_back",
        }
    }
}

/// Anything with an offset in a ring.
#[derive(Debug)]
pub struct Entry {
    /// Its place in the one order over all channels.
    pub offset: u64,
    /// The offset of the entry before it on its channel; `None` right after `complete_from`.
    pub prev: Option<u64>,
    /// What it says.
    pub kind: EntryKind,
    /// When the frame that carried it was received from upstream.
    pub received: Mono,
    /// The item within the channel that it is about.
    pub key: Option<Arc<str>>,
    /// The whole frame's JSON text.
    pub text: Box<[u8]>,
    /// Where `type`'s text (without quotes) stands in `text`; empty if there is none.
    pub type_at: Range<u32>,
    /// Where upstream's payload stands in `text`; empty if there is none.
    pub data_at: Range<u32>,
}

impl Entry {
    /// Upstream's payload bytes.
    pub fn data(&self) -> &[u8] {
        &self.text[self.data_at.start as usize..self.data_at.end as usize]
    }

    /// The event's type (its JSON string without quotes, escapes kept).
    pub fn event_type(&self) -> &[u8] {
        &self.text[self.type_at.start as usize..self.type_at.end as usize]
    }
}

/// One frame within a batch.
#[derive(Debug, Clone)]
pub enum Item {
    /// Shared, with an offset.
    Entry(Arc<Entry>),
    /// Of one session: its kind and JSON text.
    Control(&'static str, Bytes),
}

/// The wire formats that a batch can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Unmasked WebSocket text frames (RFC 6455).
    WebSocket,
    /// Server-sent events (WHATWG HTML section 9.2), in HTTP/1.1 chunks.
    Sse,
}

/// What one write carries: frames in order, encoded once per format.
#[derive(Debug)]
pub struct Batch {
    epoch: Epoch,
    items: Vec<Item>,
    /// Entries beyond this do not carry their position as an id of SSE: something before them is still to come.
    cursor: u64,
    websocket: OnceLock<Bytes>,
    sse: OnceLock<Bytes>,
}

impl Batch {
    /// A batch of these frames; `epoch` makes the ids of SSE.
    pub fn new(epoch: Epoch, items: Vec<Item>) -> Self {
        Batch { epoch, items, cursor: u64::MAX, websocket: OnceLock::new(), sse: OnceLock::new() }
    }

    /// A batch in which only entries up to `cursor` carry an id of SSE: who returns with it misses nothing.
    pub fn with_cursor(self, cursor: u64) -> Self {
        Batch { cursor, ..self }
    }

    /// The frames.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Payload bytes of all frames, without framing.
    pub fn text_bytes(&self) -> usize {
        self.items.iter().map(Item::len).sum()
    }

    /// The bytes to write. Made at first use, then shared.
    pub fn wire(&self, format: Format) -> &Bytes {
        match format {
            Format::WebSocket => self.websocket.get_or_init(|| self.join_websocket()),
            Format::Sse => self.sse.get_or_init(|| self.join_sse()),
        }
    }

    fn join_websocket(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.text_bytes() + self.items.len() * 10);
        for item in &self.items {
            push_websocket_text(&mut out, item.text());
        }
        out.into()
    }

    fn join_sse(&self) -> Bytes {
        let mut body = Vec::with_capacity(self.text_bytes() + self.items.len() * 48);
        for item in &self.items {
            match item {
                Item::Entry(entry) => {
                    let id = (entry.offset <= self.cursor).then_some((self.epoch, entry.offset));
                    push_sse(&mut body, id, entry.kind.text(), &entry.text);
                }
                Item::Control(kind, text) => push_sse(&mut body, None, kind, text),
            }
        }
        chunk(&body).into()
    }
}

impl Item {
    /// The frame's JSON text.
    pub fn text(&self) -> &[u8] {
        match self {
            Item::Entry(entry) => &entry.text,
            Item::Control(_, text) => text,
        }
    }

    fn len(&self) -> usize {
        self.text().len()
    }
}

/// Appends one unmasked, final text frame (RFC 6455 section 5.2).
pub fn push_websocket_text(out: &mut Vec<u8>, text: &[u8]) {
    const FINAL_TEXT: u8 = 0x81;
    out.push(FINAL_TEXT);
    match text.len() {
        len @ 0..=125 => out.push(len.to_le_bytes()[0]),
        len @ 126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        }
        len => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(text);
}

/// Appends one server-sent event. Events use the default type so that `onmessage` works; other kinds name themselves.
/// JSON may hold raw line ends between tokens: each line becomes a `data:` line.
fn push_sse(out: &mut Vec<u8>, id: Option<(Epoch, u64)>, kind: &str, text: &[u8]) {
    if let Some((epoch, offset)) = id {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(&epoch.text());
        out.push(b'-');
        out.extend_from_slice(offset.to_string().as_bytes());
        out.push(b'\n');
    }
    if kind != EntryKind::Event.text() {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'\n');
    }
    for line in text.split(|b| matches!(b, b'\n' | b'\r')) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// One chunk of HTTP/1.1 chunked transfer coding (RFC 9112 section 7.1).
pub fn chunk(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 12);
    out.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
    out
}

/// Appends `text` as a JSON string with its quotes.
pub fn push_json_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..=0x1F => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: u64, text: &str) -> Item {
        Item::Entry(Arc::new(Entry {
            offset,
            prev: None,
            kind: EntryKind::Event,
            received: Mono(0),
            key: None,
            text: text.as_bytes().into(),
            type_at: 0..0,
            data_at: 0..0,
        }))
    }

    #[test]
    fn a_batch_is_joined_once_and_shared() {
        let batch = Batch::new(Epoch::new(1), vec![entry(7, "{}"), entry(8, &"x".repeat(200))]);
        let wire = batch.wire(Format::WebSocket);
        assert_eq!(&wire[..4], b"\x81\x02{}");
        assert_eq!(&wire[4..8], b"\x81\x7e\x00\xc8");
        assert_eq!(wire.as_ptr(), batch.wire(Format::WebSocket).as_ptr());
    }

    #[test]
    fn sse_carries_the_position_only_on_entries_and_survives_line_ends() {
        let control = Item::Control("hello", Bytes::from_static(b"{\"kind\":\"hello\"}"));
        let batch = Batch::new(Epoch::new(0), vec![control, entry(9, "{\"a\":\n1}")]);
        let body = "event: hello\ndata: {\"kind\":\"hello\"}\n\nid: 000000-9\ndata: {\"a\":\ndata: 1}\n\n";
        assert_eq!(batch.wire(Format::Sse)[..], *format!("{:x}\r\n{body}\r\n", body.len()).as_bytes());
    }

    #[test]
    fn strings_are_escaped_as_serde_json_would_read_them() {
        let text = "a\"\\\n\r\t\u{1}\u{7f}é";
        let mut out = Vec::new();
        push_json_string(&mut out, text);
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }
}
