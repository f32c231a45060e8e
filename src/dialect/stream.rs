//! Event streams (WHATWG HTML section 9.2.6): from bytes, however they are cut, to events.
//!
//! Invariants: any cutting of the same bytes gives the same events; what is held is at most one line and one event, each
//! with a limit; an event whose line came in one piece is a slice of what was received.
//! One step beyond the standard: an id or a reconnection time that stands in a block without data is told at once (an event
//! without data), because the next connection needs them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::StreamEvent;

/// Bytes of one line.
pub const MAX_LINE: usize = 1 << 20;
/// Reconnection times that a stream sets are kept within these.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);
/// See [`SHORTEST_RETRY`].
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// A line or an event above its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oversize;

/// The state of a stream between two reads.
#[derive(Debug)]
pub struct Parser {
    max_line: usize,
    max_event: usize,
    /// The start of the stream, as far as it may still be a byte order mark.
    start: Option<usize>,
    /// A line that is not ended yet.
    line: BytesMut,
    /// The last byte was a CR: a LF after it belongs to the same end of line.
    after_cr: bool,
    data: Data,
    kind: Option<Box<str>>,
    /// The id of the block at hand, if it gave one.
    id: Option<Box<str>>,
    /// The id of the last block that gave one.
    last_id: Option<Box<str>>,
    /// What the block at hand says about it.
    retry: Option<Duration>,
}

/// Lines of data.
#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    One(Bytes),
    Many(BytesMut),
}

const MARK: &[u8] = b"\xEF\xBB\xBF";

impl Parser {
    /// For a new stream whose events hold at most `max_event` bytes of data.
    pub fn new(max_event: usize) -> Self {
        Parser {
            max_line: max_event.min(MAX_LINE),
            max_event,
            start: Some(0),
            line: BytesMut::new(),
            after_cr: false,
            data: Data::None,
            kind: None,
            id: None,
            last_id: None,
            retry: None,
        }
    }

    /// Takes what was received; appends the events that it completes.
    pub fn take(&mut self, mut chunk: Bytes, events: &mut Vec<StreamEvent>) -> Result<(), Oversize> {
        self.skip_mark(&mut chunk);
        if self.after_cr && !chunk.is_empty() {
            self.after_cr = false;
            if chunk[0] == b'\n' {
                chunk = chunk.slice(1..);
            }
        }
        while let Some(end) = chunk.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let ended_by_cr = chunk[end] == b'\r';
            let piece = chunk.split_to(end + 1).slice(..end);
            if ended_by_cr {
                match chunk.first() {
                    Some(b'\n') => drop(chunk.split_to(1)),
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            let line = if self.line.is_empty() {
                piece
            } else {
                self.hold(&piece)?;
                std::mem::take(&mut self.line).freeze()
            };
            self.line(line, events)?;
        }
        self.hold(&chunk)
    }

    /// One byte order mark at the very start is no part of the stream.
    fn skip_mark(&mut self, chunk: &mut Bytes) {
        while let Some(seen) = self.start {
            match chunk.first() {
                Some(byte) if *byte == MARK[seen] => {
                    *chunk = chunk.slice(1..);
                    self.start = (seen + 1 < MARK.len()).then_some(seen + 1);
                }
                Some(_) => {
                    self.line.extend_from_slice(&MARK[..seen]);
                    self.start = None;
                }
                None => return,
            }
        }
    }

    fn hold(&mut self, piece: &[u8]) -> Result<(), Oversize> {
        if self.line.len() + piece.len() > self.max_line {
            return Err(Oversize);
        }
        self.line.extend_from_slice(piece);
        Ok(())
    }

    fn line(&mut self, line: Bytes, events: &mut Vec<StreamEvent>) -> Result<(), Oversize> {
        if line.len() > self.max_line {
            return Err(Oversize);
        }
        if line.is_empty() {
            self.dispatch(events);
            return Ok(());
        }
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            // A comment.
            Some(0) => return Ok(()),
            Some(colon) => {
                let from = if line.get(colon + 1) == Some(&b' ') { colon + 2 } else { colon + 1 };
                (line.slice(..colon), line.slice(from..))
            }
            None => (line.clone(), Bytes::new()),
        };
        match &name[..] {
            b"data" => self.add(value)?,
            b"event" => self.kind = Some(text(&value)).filter(|kind| !kind.is_empty()),
            b"id" if !value.contains(&0) => self.id = Some(text(&value)),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let millis = std::str::from_utf8(&value).ok().and_then(|digits| digits.parse().ok());
                let wait = millis.map_or(LONGEST_RETRY, Duration::from_millis);
                self.retry = Some(wait.clamp(SHORTEST_RETRY, LONGEST_RETRY));
            }
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, value: Bytes) -> Result<(), Oversize> {
        let held = match &self.data {
            Data::None => 0,
            Data::One(first) => first.len() + 1,
            Data::Many(lines) => lines.len() + 1,
        };
        if held + value.len() > self.max_event {
            return Err(Oversize);
        }
        self.data = match std::mem::take(&mut self.data) {
            Data::None => Data::One(value),
            Data::One(first) => {
                let mut lines = BytesMut::with_capacity(first.len() + 1 + value.len());
                lines.extend_from_slice(&first);
                lines.extend_from_slice(b"\n");
                lines.extend_from_slice(&value);
                Data::Many(lines)
            }
            Data::Many(mut lines) => {
                lines.extend_from_slice(b"\n");
                lines.extend_from_slice(&value);
                Data::Many(lines)
            }
        };
        Ok(())
    }

    /// The end of a block. The id stands for all that follows, with or without data.
    fn dispatch(&mut self, events: &mut Vec<StreamEvent>) {
        let kind = self.kind.take();
        let renamed = self.id.take().map(|id| self.last_id = Some(id)).is_some();
        let data = match std::mem::take(&mut self.data) {
            Data::None => None,
            Data::One(data) => Some(data),
            Data::Many(lines) => Some(lines.freeze()),
        };
        let retry = self.retry.take();
        if data.is_some() || renamed || retry.is_some() {
            events.push(StreamEvent { id: self.last_id.clone(), event: kind, data, retry });
        }
    }

    /// The block at hand is given up as too large: what is known of its id, so that it is not asked for again and again.
    pub fn abandoned(self) -> Option<StreamEvent> {
        self.id.map(|id| StreamEvent { id: Some(id), ..StreamEvent::default() })
    }
}

/// A field's value as text; what is no UTF-8 in it is replaced, as the standard says.
fn text(value: &[u8]) -> Box<str> {
    String::from_utf8_lossy(value).into()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec as many;
    use proptest::prelude::*;

    use super::*;

    fn event(id: Option<&str>, kind: Option<&str>, data: Option<&str>) -> StreamEvent {
        let data = data.map(|data| Bytes::copy_from_slice(data.as_bytes()));
        StreamEvent { id: id.map(Into::into), event: kind.map(Into::into), data, retry: None }
    }

    fn said(data: &str) -> StreamEvent {
        event(None, None, Some(data))
    }

    fn all(stream: &[u8]) -> Vec<StreamEvent> {
        let mut parser = Parser::new(MAX_LINE);
        let mut events = Vec::new();
        parser.take(Bytes::copy_from_slice(stream), &mut events).unwrap();
        events
    }

    #[test]
    fn the_examples_of_the_standard() {
        assert_eq!(all(b"data: YHOO\ndata: +2\ndata: 10\n\n"), [said("YHOO\n+2\n10")]);
        let stream = b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        let expected = [
            event(Some("1"), None, Some("first event")),
            event(Some(""), None, Some("second event")),
            event(Some(""), None, Some(" third event")),
        ];
        assert_eq!(all(stream), expected);
        assert_eq!(all(b"data\n\ndata\ndata\n\ndata:"), [said(""), said("\n")]);
        assert_eq!(all(b"data:test\n\ndata: test\n\n"), [said("test"), said("test")]);
    }

    #[test]
    fn every_end_of_line_and_the_mark() {
        for stream in [
            &b"\xEF\xBB\xBFdata: a\ndata: b\n\ndata: c\n\n"[..],
            b"data: a\rdata: b\r\rdata: c\r\r",
            b"data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n",
            b"data: a\rdata: b\n\r\ndata: c\r\n\n",
        ] {
            assert_eq!(all(stream), [said("a\nb"), said("c")], "{}", stream.escape_ascii());
        }
        // A second mark is part of the field's name, and a piece of one is too.
        assert_eq!(all(b"\xEF\xBB\xBF\xEF\xBB\xBFdata: a\n\n"), []);
        assert_eq!(all(b"\xEF\xBBdata: a\n\n"), []);
    }

    #[test]
    fn fields() {
        assert_eq!(all(b"event: tick\ndata: 1\n\ndata: 2\n\n"), [event(None, Some("tick"), Some("1")), said("2")]);
        assert_eq!(all(b"event: tick\n\ndata: 2\n\n"), [said("2")], "a type without data is forgotten");
        assert_eq!(all(b"id: a\n\ndata: x\n\n"), [event(Some("a"), None, None), event(Some("a"), None, Some("x"))]);
        assert_eq!(all(b"id: a\x00b\ndata: x\n\n"), [said("x")], "an id with NUL is none");
        assert_eq!(all(b"Data: x\nwhat: y\ndata : z\n\n"), []);
        assert_eq!(all("data: g\u{fc}n\n\n".as_bytes()), [said("g\u{fc}n")]);
        assert_eq!(all(b"data: unfinished\n"), []);
    }

    #[test]
    fn the_time_to_reconnect_is_clamped() {
        let retry = |line: &str| {
            let events = all(format!("{line}\n\n").as_bytes());
            events.first().map(|event| event.retry.unwrap().as_millis())
        };
        assert_eq!(retry("retry: soon"), None);
        assert_eq!(retry("retry"), None);
        assert_eq!(retry("retry: -5"), None);
        assert_eq!(retry("retry: 3000"), Some(3000));
        assert_eq!(retry("retry: 0"), Some(100));
        // One more than 64 bits hold, the most that they hold, and far more.
        for large in ["18446744073709551616", "18446744073709551615", &"9".repeat(5_000)] {
            assert_eq!(retry(&format!("retry: {large}")), Some(300_000), "{large}");
        }
    }

    #[test]
    fn lines_and_events_have_limits() {
        let mut parser = Parser::new(16);
        let mut events = Vec::new();
        assert_eq!(parser.take(Bytes::from_static(b"data: 01234567\n"), &mut events), Ok(()));
        assert_eq!(parser.take(Bytes::from_static(b"data: 0123456\n"), &mut events), Ok(()));
        assert_eq!(parser.take(Bytes::from_static(b"data: 8\n"), &mut events), Err(Oversize));
        for whole in [true, false] {
            let mut parser = Parser::new(16);
            assert_eq!(parser.take(Bytes::from_static(b"id: 7\ndata: 0123"), &mut events), Ok(()));
            let rest: &[u8] = if whole { b"4567890123456789\n" } else { b"4567890123456789" };
            assert_eq!(parser.take(Bytes::from_static(rest), &mut events), Err(Oversize));
            assert_eq!(parser.abandoned(), Some(event(Some("7"), None, None)));
        }
        assert!(events.is_empty());
    }

    #[test]
    fn an_event_in_one_piece_is_not_copied() {
        let stream = Bytes::from_static(b"data: payload\n\n");
        let mut events = Vec::new();
        Parser::new(MAX_LINE).take(stream.clone(), &mut events).unwrap();
        let data = events[0].data.as_ref().unwrap();
        assert_eq!(data.as_ptr(), stream[6..].as_ptr());
    }

    /// Pieces that are likely to meet at awkward places.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece: Vec<&[u8]> = vec![
            b"data",
            b"id",
            b"event",
            b"retry: 12",
            b":",
            b" ",
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"\xEF\xBB\xBF",
            b"\xEF",
            b"\xBB",
            "\u{1f600}".as_bytes(),
            b"\x00",
            b"data: x\n\n",
        ];
        let piece = prop::sample::select(piece);
        many(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_cutting_gives_the_same_events(stream in pieces(), cuts in many(1usize..9, 1..40)) {
            let whole = all(&stream);
            let mut parser = Parser::new(MAX_LINE);
            let mut events = Vec::new();
            let (mut rest, mut cuts) = (&stream[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, left) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                parser.take(Bytes::copy_from_slice(piece), &mut events).unwrap();
                rest = left;
            }
            prop_assert_eq!(events, whole);
        }

        #[test]
        fn no_bytes_panic_and_nothing_grows(stream in many(any::<u8>(), 0..400), max in 3usize..64) {
            let mut parser = Parser::new(max);
            let mut events = Vec::new();
            for byte in &stream {
                if parser.take(Bytes::copy_from_slice(&[*byte]), &mut events).is_err() {
                    break;
                }
                prop_assert!(parser.line.len() <= max);
            }
            for event in events {
                prop_assert!(event.data.is_none_or(|data| data.len() <= max));
            }
        }
    }
}
