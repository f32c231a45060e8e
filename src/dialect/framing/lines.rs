//! Frames that hold JSON texts and nothing else: one, one a line, or records ended by 0x1E; arrays whole or element by
//! element.

use std::borrow::Cow;

use crate::dialect::scan::{PointerSet, Spans, elements};
use crate::dialect::template::write_string;

/// What ends a record, and parts the packets of a polled payload.
pub(crate) const RECORD_END: u8 = 0x1E;

/// Calls `each` with every message that stands between separators; empty ones are none.
pub(super) fn parts(separator: u8, split: bool, frame: &[u8], each: &mut dyn FnMut(Option<&[u8]>)) {
    for part in frame.split(|byte| *byte == separator) {
        if !part.trim_ascii().is_empty() {
            message(split, part, each);
        }
    }
}

/// Calls `each` with the message, or with the elements of an array; `None` stands for a message that is not valid.
pub(super) fn message(split: bool, text: &[u8], each: &mut dyn FnMut(Option<&[u8]>)) {
    if !(split && text.trim_ascii_start().first() == Some(&b'[')) {
        return each(Some(text));
    }
    if PointerSet::new().scan(text, &mut Spans::new()).is_err() {
        return each(None);
    }
    elements(text).for_each(|element| each(Some(element)));
}

/// The data of an event: JSON as it is; plain text, as many event streams have it, as a JSON string. What begins like JSON's
/// objects, arrays and strings is never taken for text.
pub(super) fn text_or_json(data: &[u8]) -> Cow<'_, [u8]> {
    let json = match data.trim_ascii_start().first() {
        Some(b'{' | b'[' | b'"') => true,
        _ => PointerSet::new().scan(data, &mut Spans::new()).is_ok(),
    };
    match std::str::from_utf8(data) {
        Ok(text) if !json => {
            let mut string = String::with_capacity(text.len() + 2);
            write_string(text, &mut string);
            Cow::Owned(string.into_bytes())
        }
        _ => Cow::Borrowed(data),
    }
}
