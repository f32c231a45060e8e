//! What a frame says about a message beside the message's own text: `#packet`, `#ack`, … in rules.
//!
//! Invariant: the names are a closed set, known when a dialect is loaded. A field that a message does not have is missing,
//! as a pointer is that leads nowhere.
//! Deliberately not here: where fields come from (`framing`), and how rules find them (`scan`).

use std::borrow::Cow;

/// Every field's name, without its `#`, and what gives it.
pub(crate) const NAMES: [(&str, &str); 9] = [
    // `event`, `ack`, `connect`, `connect_error`, `disconnect`.
    ("packet", "frame.kind = \"socket.io\""),
    // The number by which an event wants to be answered, or that an ack answers.
    ("ack", "frame.kind = \"socket.io\""),
    // Where a lost connection goes on, if connection state recovery is on.
    ("offset", "frame.kind = \"socket.io\""),
    // An event's id and type.
    ("id", "an event stream, or a message with a head"),
    ("event", "an event stream"),
    // HTTP's status, and the fields that name a version of what is polled.
    ("status", "a poll"),
    ("etag", "a poll"),
    ("last_modified", "a poll"),
    // The last one in seconds since 1970.
    ("last_modified_s", "a poll"),
];

/// One field of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    /// Without its `#`; one of [`NAMES`].
    pub name: &'static str,
    /// What it says.
    pub value: FieldValue<'a>,
}

/// What a field says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldValue<'a> {
    /// As a JSON string says it.
    Text(Cow<'a, str>),
    /// As a JSON number does.
    Number(u64),
}

impl<'a> Field<'a> {
    pub(crate) fn text(name: &'static str, text: impl Into<Cow<'a, str>>) -> Self {
        Field { name, value: FieldValue::Text(text.into()) }
    }

    pub(crate) fn number(name: &'static str, number: u64) -> Self {
        Field { name, value: FieldValue::Number(number) }
    }

    /// The same, owning what it says.
    pub(crate) fn owned(&self) -> Field<'static> {
        let value = match &self.value {
            FieldValue::Text(text) => FieldValue::Text(Cow::Owned(text.clone().into_owned())),
            FieldValue::Number(number) => FieldValue::Number(*number),
        };
        Field { name: self.name, value }
    }
}

/// The name without its `#`; `Err`: there is no such field, and what there is.
pub(crate) fn known(text: &str) -> Result<&'static str, String> {
    let name = text.strip_prefix('#').unwrap_or(text);
    NAMES.iter().find(|(known, _)| *known == name).map(|(known, _)| *known).ok_or_else(|| {
        let all: Vec<String> = NAMES.iter().map(|(known, _)| format!("`#{known}`")).collect();
        format!("unknown frame field `#{name}`, expected one of {}", all.join(", "))
    })
}
