//! The reading half of a WebSocket server, without a socket: bytes in, messages out. tungstenite knows RFC 6455; this file
//! only sees to it that a silent session holds no buffer.
//!
//! Invariant: between two messages there is no context. It is made at the first byte of a message and dropped at its end;
//! [`Boundary`] counts along to know where that is.

use std::io::{self, Read, Write};

use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use crate::protocol::codes::CloseCode;

/// First size of a context's buffer, which it fills with zeros before every read.
const READ_BUFFER: usize = 512;

/// What the client said.
#[derive(Debug)]
pub(super) enum Heard {
    /// A text message.
    Text(Utf8Bytes),
    /// It pinged; here is the pong.
    Ping(Vec<u8>),
    /// It answered a ping.
    Pong,
    /// It closes; here is the answer.
    Close(Vec<u8>),
    /// Not `tidegate.v1`: close with this code.
    Wrong(CloseCode),
}

/// One session's incoming side.
#[derive(Default)]
pub(super) struct Incoming {
    context: Option<Box<WebSocketContext>>,
    boundary: Boundary,
}

impl Incoming {
    /// Reads on in `bytes` and shortens them by what it took; `None` when they are used up. After [`Heard::Close`] or
    /// [`Heard::Wrong`] there is nothing more to hear.
    pub(super) fn hear(&mut self, bytes: &mut &[u8], message_max: usize) -> Option<Heard> {
        let context = self.context.get_or_insert_with(|| Box::new(context(message_max)));
        let mut pipe = Pipe { bytes, boundary: &mut self.boundary, out: Vec::new() };
        loop {
            let heard = match context.read(&mut pipe) {
                Ok(Message::Text(text)) => Heard::Text(text),
                Ok(Message::Ping(_)) => {
                    // Writing into memory cannot fail; the pong is in `out`.
                    let _ = context.flush(&mut pipe);
                    Heard::Ping(pipe.out)
                }
                Ok(Message::Close(_)) => {
                    // Reports that the connection is closed once the answer is in `out`.
                    let _ = context.flush(&mut pipe);
                    Heard::Close(pipe.out)
                }
                Ok(Message::Pong(_)) => Heard::Pong,
                Ok(Message::Frame(_)) => continue,
                Ok(Message::Binary(_)) => Heard::Wrong(CloseCode::Protocol),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.boundary.is_between_messages() {
                        self.context = None;
                    }
                    return None;
                }
                Err(Error::Capacity(_)) => Heard::Wrong(CloseCode::TooLarge),
                Err(_) => Heard::Wrong(CloseCode::Protocol),
            };
            return Some(heard);
        }
    }
}

fn context(message_max: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(message_max))
        .max_frame_size(Some(message_max));
    WebSocketContext::new(Role::Server, Some(config))
}

/// What tungstenite takes for the connection: one slice to read, memory to write to.
struct Pipe<'a, 'b> {
    bytes: &'a mut &'b [u8],
    boundary: &'a mut Boundary,
    out: Vec<u8>,
}

impl Read for Pipe<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = self.bytes.read(buffer)?;
        self.boundary.pass(&buffer[..count]);
        Ok(count)
    }
}

impl Write for Pipe<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Longest frame header: two bytes, eight of length, four of mask (RFC 6455 section 5.2).
const HEADER_MAX: usize = 14;

/// Where frames and messages end in the bytes that went by. Knows headers only; whether they are right is tungstenite's.
#[derive(Default)]
struct Boundary {
    header: [u8; HEADER_MAX],
    have: u8,
    left: u64,
    in_message: bool,
}

impl Boundary {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let count = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= count as u64;
                bytes = &bytes[count..];
                continue;
            }
            self.header[usize::from(self.have)] = *first;
            self.have += 1;
            bytes = rest;
            if self.have >= 2 && usize::from(self.have) == self.header_length() {
                self.header_ends();
            }
        }
    }

    fn header_length(&self) -> usize {
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        match self.header[1] & 0x7F {
            126 => 4 + mask,
            127 => 10 + mask,
            _ => 2 + mask,
        }
    }

    fn header_ends(&mut self) {
        let h = &self.header;
        self.left = match h[1] & 0x7F {
            126 => u64::from(u16::from_be_bytes([h[2], h[3]])),
            127 => u64::from_be_bytes([h[2], h[3], h[4], h[5], h[6], h[7], h[8], h[9]]),
            small => u64::from(small),
        };
        let (last, control) = (h[0] & 0x80 != 0, h[0] & 0x08 != 0);
        if !control {
            self.in_message = !last;
        }
        self.have = 0;
    }

    fn is_between_messages(&self) -> bool {
        self.have == 0 && self.left == 0 && !self.in_message
    }
}

/// A close frame of the server (RFC 6455 section 5.5.1).
pub(super) fn close_frame(code: CloseCode) -> Vec<u8> {
    const FINAL_CLOSE: u8 = 0x88;
    // Every reason of the closed table is far below the 123 bytes that a control frame has room for.
    let reason = code.reason().as_bytes();
    let mut frame = vec![FINAL_CLOSE, reason.len().to_le_bytes()[0] + 2];
    frame.extend_from_slice(&code.number().to_be_bytes());
    frame.extend_from_slice(reason);
    frame
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 70_000;

    /// A masked frame as a client sends it.
    pub(in crate::downstream) fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            len @ 0..=125 => out.push(0x80 | u8::try_from(len).unwrap()),
            len @ 126..=0xFFFF => {
                out.push(0x80 | 126);
                out.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
            }
            len => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        let mask = [7_u8, 77, 177, 3];
        out.extend_from_slice(&mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    fn hear_all(incoming: &mut Incoming, mut bytes: &[u8]) -> Vec<Heard> {
        std::iter::from_fn(|| incoming.hear(&mut bytes, MAX)).take(64).collect()
    }

    #[test]
    fn between_messages_there_is_no_context() {
        let mut incoming = Incoming::default();
        let frame = client_frame(0x81, b"{}");
        assert!(matches!(&hear_all(&mut incoming, &frame)[..], [Heard::Text(text)] if text.as_str() == "{}"));
        assert!(incoming.context.is_none());
        assert!(hear_all(&mut incoming, &frame[..3]).is_empty());
        assert!(incoming.context.is_some(), "half a frame is kept");
        assert_eq!(hear_all(&mut incoming, &frame[3..]).len(), 1);
        assert!(incoming.context.is_none());
        assert!(hear_all(&mut incoming, &client_frame(0x01, b"{")).is_empty());
        assert!(incoming.context.is_some(), "half a message is kept");
        assert!(
            matches!(&hear_all(&mut incoming, &client_frame(0x89, b"hi"))[..], [Heard::Ping(pong)] if pong == b"\x8a\x02hi")
        );
        assert!(incoming.context.is_some(), "a ping does not end the message around it");
        assert!(
            matches!(&hear_all(&mut incoming, &client_frame(0x80, b"}"))[..], [Heard::Text(text)] if text.as_str() == "{}")
        );
        assert!(incoming.context.is_none());
    }

    #[test]
    fn what_is_not_the_protocol_is_told_by_code() {
        let wrong = |bytes: &[u8]| match hear_all(&mut Incoming::default(), bytes).first() {
            Some(Heard::Wrong(code)) => code.number(),
            other => panic!("{other:?}"),
        };
        assert_eq!(wrong(&client_frame(0x82, b"binary")), 4501);
        assert_eq!(wrong(&client_frame(0x81, b"\xff\xfe")), 4501);
        assert_eq!(wrong(&client_frame(0x80, b"continues nothing")), 4501);
        assert_eq!(wrong(&client_frame(0xC1, b"reserved bit: compressed")), 4501);
        assert_eq!(wrong(b"\x81\x02{}"), 4501, "unmasked");
        assert_eq!(wrong(&client_frame(0x81, &vec![b'x'; MAX + 1])[..14]), 4503, "by its header alone");
        let mut fragments = client_frame(0x01, &vec![b'x'; MAX]);
        fragments.extend(client_frame(0x80, b"x"));
        assert_eq!(wrong(&fragments), 4503);
    }

    #[test]
    fn a_close_is_answered() {
        let heard = hear_all(&mut Incoming::default(), &client_frame(0x88, b"\x03\xe8bye"));
        assert!(matches!(&heard[0], Heard::Close(answer) if answer[..4] == [0x88, 5, 3, 0xe8]), "{heard:?}");
    }

    #[test]
    fn close_frames_carry_code_and_reason() {
        assert_eq!(close_frame(CloseCode::Restart), b"\x88\x09\x03\xf4restart");
        for code in CloseCode::ALL {
            assert_eq!(close_frame(*code).len(), 4 + code.reason().len());
            assert!(code.reason().len() <= 123);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn messages_survive_any_cutting(
            texts in prop::collection::vec(prop_oneof!["[a-z]{0,9}", "[a-z]{120,130}", (65_530..65_540_usize).prop_map(|n| "x".repeat(n))], 1..5),
            cuts in prop::collection::vec(1_usize..3000, 1..40),
        ) {
            let mut wire: Vec<u8> = texts.iter().flat_map(|text| client_frame(0x81, text.as_bytes())).collect();
            let mut incoming = Incoming::default();
            let mut heard = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            while !wire.is_empty() {
                let rest = wire.split_off(cuts.next().unwrap().min(wire.len()));
                heard.extend(hear_all(&mut incoming, &wire));
                wire = rest;
            }
            let heard: Vec<String> = heard.into_iter().map(|h| match h {
                Heard::Text(text) => text.to_string(),
                other => format!("{other:?}"),
            }).collect();
            prop_assert_eq!(heard, texts);
            prop_assert!(incoming.context.is_none());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            hear_all(&mut Incoming::default(), &bytes);
        }
    }
}
