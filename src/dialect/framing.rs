//! How messages stand in frames: one JSON text, one a line, or records ended by 0x1E; arrays whole or element by element.
//!
//! Text and binary frames count alike: some services send their text in binary ones.
//! Invariant: what one frame holds is found in one pass over it; an invalid array yields one fault, not half its elements.

use super::scan::{PointerSet, Spans, elements};

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
}

/// `[frame]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Framing {
    pub(crate) kind: FrameKind,
    /// `array = "split"`: the elements of an array are messages.
    pub(crate) split: bool,
}

const RECORD_END: u8 = 0x1E;

impl Framing {
    /// Calls `each` with every message of the frame; `None` stands for a message that is not valid.
    pub(crate) fn messages(&self, frame: &[u8], each: &mut dyn FnMut(Option<&[u8]>)) {
        let separator = match self.kind {
            FrameKind::Json => return self.message(frame, each),
            FrameKind::Ndjson => b'\n',
            FrameKind::Records => RECORD_END,
        };
        for part in frame.split(|byte| *byte == separator) {
            if !part.trim_ascii().is_empty() {
                self.message(part, each);
            }
        }
    }

    fn message(&self, text: &[u8], each: &mut dyn FnMut(Option<&[u8]>)) {
        if !(self.split && text.trim_ascii_start().first() == Some(&b'[')) {
            return each(Some(text));
        }
        if PointerSet::new().scan(text, &mut Spans::new()).is_err() {
            return each(None);
        }
        elements(text).for_each(|element| each(Some(element)));
    }

    /// Makes a rendered JSON text a frame's content. JSON has line breaks only between its tokens, so replacing them by
    /// spaces changes nothing but keeps it one message.
    pub(crate) fn wrap(&self, mut text: String) -> String {
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: FrameKind, split: bool, frame: &str) -> Vec<Option<String>> {
        let mut all = Vec::new();
        Framing { kind, split }.messages(frame.as_bytes(), &mut |message| {
            all.push(message.map(|message| String::from_utf8_lossy(message).into_owned()));
        });
        all
    }

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).to_owned())).collect()
    }

    #[test]
    fn each_kind_finds_its_messages() {
        assert_eq!(read(FrameKind::Json, false, "[1,2]"), some(&["[1,2]"]));
        assert_eq!(read(FrameKind::Json, true, " [1, {\"a\":2}]"), some(&["1", "{\"a\":2}"]));
        assert_eq!(read(FrameKind::Json, true, "{}"), some(&["{}"]));
        assert_eq!(read(FrameKind::Json, true, "[]"), some(&[]));
        assert_eq!(read(FrameKind::Json, true, "[1,2"), vec![None]);
        assert_eq!(read(FrameKind::Ndjson, false, "{}\r\n\n1\n"), some(&["{}\r", "1"]));
        assert_eq!(read(FrameKind::Ndjson, true, "[1]\n[2"), vec![Some("1".to_owned()), None]);
        assert_eq!(read(FrameKind::Records, false, "{}\u{1e}1\u{1e}"), some(&["{}", "1"]));
    }

    #[test]
    fn a_payload_with_line_breaks_stays_one_message() {
        let ndjson = Framing { kind: FrameKind::Ndjson, split: false };
        assert_eq!(ndjson.wrap("{\"data\":{\n\"a\":1}\r\n}".to_owned()), "{\"data\":{ \"a\":1}  }");
        let records = Framing { kind: FrameKind::Records, split: false };
        assert_eq!(records.wrap("{}".to_owned()), "{}\u{1e}");
    }
}
