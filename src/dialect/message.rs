//! One inbound message with the spans that its scan found.
//!
//! Invariant: reading a value copies nothing but strings with escapes.

use std::borrow::Cow;

use super::scan::{Kind, PointerId, Span, Spans};

/// A scanned message.
#[derive(Clone, Copy)]
pub(crate) struct Message<'m> {
    pub(crate) bytes: &'m [u8],
    pub(crate) spans: &'m Spans,
}

impl<'m> Message<'m> {
    pub(crate) fn span(&self, pointer: PointerId) -> Option<Span> {
        self.spans.get(pointer)
    }

    /// The value's JSON text.
    pub(crate) fn raw(&self, pointer: PointerId) -> Option<&'m [u8]> {
        Some(self.spans.bytes(self.bytes, self.spans.get(pointer)?))
    }

    /// A string's content, a number's or boolean's text. `null`, arrays and objects are no text.
    pub(crate) fn text(&self, pointer: PointerId) -> Option<Cow<'m, str>> {
        let span = self.spans.get(pointer)?;
        match span.kind {
            Kind::Null | Kind::Array | Kind::Object => None,
            Kind::Bool | Kind::Number | Kind::String => Some(self.spans.text(self.bytes, span)),
        }
    }

    /// The value in words for people: strings by their content, everything else as JSON.
    pub(crate) fn words(&self, pointer: PointerId) -> Option<Cow<'m, str>> {
        let span = self.spans.get(pointer).filter(|span| span.kind != Kind::Null)?;
        Some(self.spans.text(self.bytes, span))
    }

    /// A whole number, also in a string.
    pub(crate) fn number(&self, pointer: PointerId) -> Option<u64> {
        self.text(pointer)?.parse().ok()
    }
}
