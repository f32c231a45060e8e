//! Socket.IO 5: packets within the messages of Engine.IO.
//! Source: the Socket.IO protocol's page, <https://socket.io/docs/v4/socket-io-protocol/>.
//!
//! Invariant: any bytes are a packet or none; a packet's payload is a slice of them. Deliberately not here: whether the
//! payload is JSON (the scan says), attachments (`attachments`), and what a packet leads to (`session`).

/// Attachments of one packet. The reference parser has the same limit.
pub(crate) const MOST_ATTACHMENTS: usize = 10;
/// The namespace that is meant where a packet names none.
pub(crate) const MAIN: &str = "/";

/// What a packet is. Binary ones are their plain kind with attachments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Connect,
    Disconnect,
    Event,
    Ack,
    ConnectError,
}

impl Kind {
    /// As `#packet` says it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Connect => "connect",
            Kind::Disconnect => "disconnect",
            Kind::Event => "event",
            Kind::Ack => "ack",
            Kind::ConnectError => "connect_error",
        }
    }
}

/// One packet's head and its JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) kind: Kind,
    /// How many binary frames follow.
    pub(crate) attachments: usize,
    pub(crate) namespace: &'a [u8],
    pub(crate) ack: Option<u64>,
    /// `null` where the packet has none.
    pub(crate) payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads what follows the `4` of an Engine.IO message.
    pub(crate) fn read(text: &'a [u8]) -> Option<Packet<'a>> {
        let (digit, mut rest) = text.split_first()?;
        let (kind, binary) = match digit {
            b'0' => (Kind::Connect, false),
            b'1' => (Kind::Disconnect, false),
            b'2' => (Kind::Event, false),
            b'3' => (Kind::Ack, false),
            b'4' => (Kind::ConnectError, false),
            b'5' => (Kind::Event, true),
            b'6' => (Kind::Ack, true),
            _ => return None,
        };
        let mut attachments = 0;
        if binary {
            let (count, after) = number(rest)?;
            attachments = usize::try_from(count).ok().filter(|count| *count <= MOST_ATTACHMENTS)?;
            rest = after.strip_prefix(b"-")?;
        }
        let mut namespace = MAIN.as_bytes();
        if rest.first() == Some(&b'/') {
            let end = rest.iter().position(|byte| *byte == b',');
            namespace = &rest[..end.unwrap_or(rest.len())];
            rest = end.map_or(&[], |end| &rest[end + 1..]);
        }
        let mut ack = None;
        if rest.first().is_some_and(u8::is_ascii_digit) {
            let (id, after) = number(rest)?;
            (ack, rest) = (Some(id), after);
        }
        let fits = match kind {
            Kind::Event => rest.first() == Some(&b'['),
            Kind::Ack => rest.first() == Some(&b'[') && ack.is_some(),
            Kind::Connect | Kind::Disconnect | Kind::ConnectError => true,
        };
        let payload = if rest.is_empty() { b"null" } else { rest };
        fits.then_some(Packet { kind, attachments, namespace, ack, payload })
    }
}

/// A number at the start, and what follows it.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = text.split_at(digits);
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, rest))
}

/// What a rendered text is sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// CONNECT: who we are.
    Connect,
    /// EVENT, with the number by which it wants to be answered.
    Event(Option<u64>),
    /// ACK of the event with this number.
    Ack(u64),
}

/// The frame's text for a payload that so many attachments follow. CONNECT has none.
pub(crate) fn write(sent: Sent, attachments: usize, namespace: &str, payload: &str) -> String {
    let (digit, id) = match (sent, attachments) {
        (Sent::Connect, _) => ('0', None),
        (Sent::Event(id), 0) => ('2', id),
        (Sent::Event(id), _) => ('5', id),
        (Sent::Ack(id), 0) => ('3', Some(id)),
        (Sent::Ack(id), _) => ('6', Some(id)),
    };
    let mut text = String::with_capacity(payload.len() + namespace.len() + 24);
    text.push('4');
    text.push(digit);
    if matches!(digit, '5' | '6') {
        text.push_str(&attachments.to_string());
        text.push('-');
    }
    if namespace != MAIN {
        text.push_str(namespace);
        text.push(',');
    }
    if let Some(id) = id {
        text.push_str(&id.to_string());
    }
    text.push_str(payload);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(Kind, usize, &str, Option<u64>, &str)> {
        let show = |bytes| std::str::from_utf8(bytes).unwrap();
        let Packet { kind, attachments, namespace, ack, payload } = Packet::read(text.as_bytes())?;
        Some((kind, attachments, show(namespace), ack, show(payload)))
    }

    #[test]
    fn packets_are_read_as_the_protocols_page_writes_them() {
        assert_eq!(read("0"), Some((Kind::Connect, 0, "/", None, "null")));
        assert_eq!(read("0/admin,{\"sid\":\"a\"}"), Some((Kind::Connect, 0, "/admin", None, "{\"sid\":\"a\"}")));
        assert_eq!(read("1/admin,"), Some((Kind::Disconnect, 0, "/admin", None, "null")));
        assert_eq!(read("1/admin"), Some((Kind::Disconnect, 0, "/admin", None, "null")));
        assert_eq!(read("2[\"a\",1]"), Some((Kind::Event, 0, "/", None, "[\"a\",1]")));
        assert_eq!(read("2/a,12[\"a\"]"), Some((Kind::Event, 0, "/a", Some(12), "[\"a\"]")));
        assert_eq!(read("312[]"), Some((Kind::Ack, 0, "/", Some(12), "[]")));
        assert_eq!(read("4{\"message\":\"no\"}"), Some((Kind::ConnectError, 0, "/", None, "{\"message\":\"no\"}")));
        assert_eq!(read("51-[\"a\",{}]"), Some((Kind::Event, 1, "/", None, "[\"a\",{}]")));
        assert_eq!(read("610-/a,7[{}]"), Some((Kind::Ack, 10, "/a", Some(7), "[{}]")));
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        for wrong in ["", "7", "x", "2", "2{}", "3[]", "3", "5[]", "5-[]", "51[]", "511-[]", "51000000000-[\"a\"]"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(read("299999999999999999999[]"), None, "more than a number holds");
    }

    #[test]
    fn what_is_written_is_read_again() {
        for namespace in ["/", "/market"] {
            for attachments in [0, 1, 10] {
                let frame = write(Sent::Event(Some(7)), attachments, namespace, "[\"a\"]");
                assert_eq!(read(&frame[1..]), Some((Kind::Event, attachments, namespace, Some(7), "[\"a\"]")));
                let frame = write(Sent::Ack(7), attachments, namespace, "[]");
                assert_eq!(read(&frame[1..]), Some((Kind::Ack, attachments, namespace, Some(7), "[]")));
            }
            let frame = write(Sent::Connect, 0, namespace, "{}");
            assert_eq!(read(&frame[1..]), Some((Kind::Connect, 0, namespace, None, "{}")));
        }
        assert_eq!(write(Sent::Event(None), 0, "/", "[\"a\"]"), "42[\"a\"]");
        assert_eq!(write(Sent::Event(Some(3)), 2, "/m", "[\"a\"]"), "452-/m,3[\"a\"]");
        assert_eq!(write(Sent::Connect, 0, "/market", ""), "40/market,");
    }
}
