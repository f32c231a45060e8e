//! Frames that hold JSON texts and nothing else: one, one a line, or records ended by 0x1E; arrays whole or element by
//! element. And texts with a head.

use std::borrow::Cow;

use crate::dialect::scan::{PointerSet, Spans, elements};
use crate::dialect::template::write_string;

/// What ends a record.
pub(super) const RECORD_END: u8 = 0x1E;

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

/// A message whose head says something about it in lines of `name: value` that an empty line ends, as nchan's `ws+meta.nchan`
/// has it: its `id`, and what follows the head. A message without such a head is all content.
pub(super) fn head(message: &[u8]) -> (Option<&str>, &[u8]) {
    let (mut id, mut rest) = (None, message);
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        if line.is_empty() {
            return if rest.len() + 1 == message.len() { (None, message) } else { (id, rest) };
        }
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(": ")) else { break };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            break;
        }
        if name.eq_ignore_ascii_case("id") {
            id = Some(value);
        }
    }
    (None, message)
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
