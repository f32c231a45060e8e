//! Engine.IO 4: the packets under Socket.IO.
//! Source: the Engine.IO protocol's page, <https://socket.io/docs/v4/engine-io-protocol/>.
//!
//! Invariant: any bytes are a packet or none; no text is copied. Deliberately not here: what a packet leads to (`session`).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::dialect::pointer::Pointer;
use crate::dialect::scan::{PointerSet, Spans, elements};

/// Bytes of a session id that are believed.
const LARGEST_SID: usize = 256;
/// Intervals that the service names are kept within these.
const SHORTEST: Duration = Duration::from_millis(100);
/// See [`SHORTEST`].
const LONGEST: Duration = Duration::from_secs(86_400);

/// What parts the packets of a payload, polled or posted.
pub(crate) const SEPARATOR: u8 = 0x1E;
/// What a binary packet begins with there; base64 follows.
pub(crate) const BINARY: u8 = b'b';

/// What stands between two separators of a payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A packet as on a WebSocket.
    Text(&'a [u8]),
    /// An attachment.
    Binary(Bytes),
    /// It should be an attachment and is no base64.
    Garbled(&'a [u8]),
}

/// A payload, taken apart.
pub(crate) fn pieces(payload: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    payload.split(|byte| *byte == SEPARATOR).map(|piece| match piece.strip_prefix(&[BINARY]) {
        Some(base64) => STANDARD.decode(base64).map_or(Piece::Garbled(piece), |data| Piece::Binary(data.into())),
        None => Piece::Text(piece),
    })
}

/// One packet in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Open(&'a [u8]),
    Close,
    /// What has to be given back.
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    Message(&'a [u8]),
    Noop,
}

/// The packet that a text frame, or a part of a polled payload, is.
pub(crate) fn packet(text: &[u8]) -> Option<Packet<'_>> {
    let (kind, rest) = text.split_first()?;
    Some(match kind {
        b'0' => Packet::Open(rest),
        b'1' => Packet::Close,
        b'2' => Packet::Ping(rest),
        b'3' => Packet::Pong(rest),
        b'4' => Packet::Message(rest),
        b'6' => Packet::Noop,
        // `5` (upgrade) is a client's to send.
        _ => return None,
    })
}

/// What the service says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) sid: Box<str>,
    /// Silence of a healthy connection: a ping each interval, and how late it may come.
    pub(crate) silence: Duration,
    /// Bytes that it takes at once: of one packet, or of all packets in one POST.
    pub(crate) takes: Option<usize>,
    /// A session that is polled may go on over a WebSocket.
    pub(crate) upgrades: bool,
}

impl Open {
    /// Reads an open packet's JSON; `None`: it says not what it must.
    pub(crate) fn read(json: &[u8]) -> Option<Open> {
        let mut set = PointerSet::new();
        let pointers = ["/sid", "/pingInterval", "/pingTimeout", "/maxPayload", "/upgrades"];
        let [sid, interval, timeout, takes, upgrades] =
            pointers.map(|text| Pointer::parse(text).ok().map(|at| set.add(&at)));
        let mut spans = Spans::new();
        set.scan(json, &mut spans).ok()?;
        let text = |id| Some(spans.text(json, spans.get(id?)?));
        let millis = |id| text(id)?.parse().ok().map(Duration::from_millis);
        let sid = text(sid)?;
        let silence = millis(interval)?.checked_add(millis(timeout)?)?.clamp(SHORTEST, LONGEST);
        let takes = text(takes).and_then(|text| text.parse().ok()).filter(|bytes| *bytes > 0);
        let list = upgrades.and_then(|id| Some(spans.bytes(json, spans.get(id)?))).unwrap_or_default();
        let upgrades = elements(list).any(|name| name == b"\"websocket\"");
        (sid.len() <= LARGEST_SID).then(|| Open { sid: sid.as_ref().into(), silence, takes, upgrades })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_packet_says_who_and_how_often() {
        let open = Open::read(br#"{"sid":"a","upgrades":[],"pingInterval":3000,"pingTimeout":2000,"maxPayload":1}"#);
        let silence = Duration::from_secs(5);
        assert_eq!(open, Some(Open { sid: "a".into(), silence, takes: Some(1), upgrades: false }));
        let offers = |list: &str| {
            let text = format!(r#"{{"sid":"a","pingInterval":1,"pingTimeout":1,"maxPayload":0,"upgrades":{list}}}"#);
            let open = Open::read(text.as_bytes()).unwrap();
            assert_eq!(open.takes, None, "nobody takes nothing");
            open.upgrades
        };
        assert!(offers(r#"["webtransport", "websocket"]"#));
        assert!(!offers(r#"["webtransport"]"#) && !offers("7") && !offers(r#""websocket""#) && !offers("{}"));
        let silence = |text: &str| Open::read(text.as_bytes()).map(|open| open.silence);
        assert_eq!(silence(r#"{"sid":"a","pingInterval":0,"pingTimeout":0}"#), Some(SHORTEST));
        assert_eq!(silence(r#"{"sid":"a","pingInterval":18446744073709551615,"pingTimeout":1}"#), Some(LONGEST));
        for wrong in ["", "{}", r#"{"sid":"a","pingInterval":-1,"pingTimeout":0}"#, r#"{"sid":["#] {
            assert_eq!(silence(wrong), None, "{wrong}");
        }
        let long = format!(r#"{{"sid":"{}","pingInterval":1,"pingTimeout":1}}"#, "x".repeat(LARGEST_SID + 1));
        assert_eq!(silence(&long), None);
    }

    #[test]
    fn a_payload_is_taken_apart() {
        let of = |payload: &'static [u8]| pieces(payload).collect::<Vec<_>>();
        let whole = [Piece::Text(b"451-[]"), Piece::Binary(Bytes::from_static(b"\x01\x02")), Piece::Text(b"2")];
        assert_eq!(of(b"451-[]\x1ebAQI=\x1e2"), whole);
        assert_eq!(of(b"b*"), [Piece::Garbled(b"b*")]);
        assert_eq!(of(b""), [Piece::Text(b"")]);
    }

    #[test]
    fn packets_are_told_by_their_first_character() {
        assert_eq!(packet(b"2probe"), Some(Packet::Ping(b"probe")));
        assert_eq!(packet(b"42[]"), Some(Packet::Message(b"2[]")));
        assert_eq!(packet(b"6"), Some(Packet::Noop));
        for wrong in [&b""[..], b"5", b"7", b"{}", b"\xff"] {
            assert_eq!(packet(wrong), None);
        }
    }
}
