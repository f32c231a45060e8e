//! What a variable's value is at one moment: the context that templates and rules are filled from.
//!
//! Invariant: filling changes nothing and invents nothing; a variable without a value is `None`.

use std::borrow::Cow;

use super::bindings::Sub;
use super::scan::{Kind, Spans, unescape};
use super::sign::Sign;
use super::variable::{Inside, Variable};
use super::variables::Variables;
use super::{ChannelId, MessageSpec, Wish};
use crate::protocol::request::Secret;
use crate::relay::time::Time;

/// A variable's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Filled<'a> {
    /// Plain text.
    Text(Cow<'a, str>),
    /// A JSON value's text. Inside quotes a string counts by its content.
    Json(Cow<'a, str>),
    /// A JSON document: inside quotes it stays JSON, escaped.
    Document(Cow<'a, str>),
}

/// A channel as templates see it.
#[derive(Debug, Clone)]
pub(crate) struct ChannelView<'a> {
    /// Its number, if it is one that the relay subscribes.
    pub(crate) id: Option<ChannelId>,
    pub(crate) name: &'a str,
    /// The parts of a composed name.
    pub(crate) parts: Vec<&'a str>,
    /// The params' JSON object text.
    pub(crate) params: Option<&'a str>,
    /// Its current subscription id.
    pub(crate) sub: Option<Sub<'a>>,
}

/// Everything that variables take their values from.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) variables: &'a Variables,
    /// The connection's params as a JSON object's text.
    pub(crate) connection: &'a str,
    pub(crate) token: Option<&'a Secret>,
    pub(crate) id: u64,
    pub(crate) uuid: u128,
    pub(crate) now: Time,
    pub(crate) channel: Option<&'a ChannelView<'a>>,
    pub(crate) message: Option<&'a MessageSpec<'a>>,
    /// What is asked for beside the stream.
    pub(crate) wish: Wish<'a>,
    /// What `{x*}` lists.
    pub(crate) batch: &'a [ChannelView<'a>],
    /// What stands between them in an address.
    pub(crate) join: &'a str,
    /// Where the next connection or poll goes on.
    pub(crate) cursor: Option<&'a str>,
    /// The dialect's signatures.
    pub(crate) signs: &'a [Sign],
    /// The configuration's secrets by name.
    pub(crate) secrets: &'a [(Box<str>, Secret)],
}

impl<'a> Context<'a> {
    /// The variable's value.
    pub(crate) fn fill(&self, variable: &'a Variable) -> Option<Filled<'a>> {
        let text = |text: &'a str| Filled::Text(Cow::Borrowed(text));
        let json = |json: &'a str| Filled::Json(Cow::Borrowed(json));
        let number = |number: u64| Filled::Json(Cow::Owned(number.to_string()));
        Some(match variable {
            Variable::Id => number(self.id),
            Variable::Uuid => Filled::Text(Cow::Owned(uuid(self.uuid))),
            Variable::Message => Filled::Text(Cow::Owned(self.message?.id.to_string())),
            Variable::IdempotencyKey => match self.message?.idempotency_key {
                Some(key) => text(key),
                None => Filled::Text(Cow::Owned(self.message?.id.to_string())),
            },
            Variable::Now => Filled::Text(Cow::Owned(self.now.wall.rfc3339())),
            Variable::NowSeconds => number(self.now.wall.millis() / 1000),
            Variable::NowMillis => number(self.now.wall.millis()),
            Variable::Token => text(self.token?.expose()),
            Variable::Channel => text(self.channel?.name),
            Variable::Part(part) => text(self.channel?.parts.get(*part)?),
            Variable::Key => text(self.message.map_or(self.wish.key, |message| message.key)?),
            Variable::MissingFrom => number(self.wish.missing?.0),
            Variable::MissingTo => number(self.wish.missing?.1),
            Variable::Upper(of) => Filled::Text(Cow::Owned(self.text(of)?.to_uppercase())),
            Variable::Params(inside) => within(inside, self.channel?.params.unwrap_or("{}"))?,
            Variable::Connect(inside) => within(inside, self.connection)?,
            Variable::Data => Filled::Document(Cow::Borrowed(self.message?.data)),
            Variable::Type => text(self.message?.kind?),
            Variable::Sub => match self.channel?.sub? {
                Sub { text: number, number: true } => json(number),
                Sub { text: id, number: false } => text(id),
            },
            Variable::Session(slot) => json(self.variables.session(*slot)?),
            Variable::OfChannel(slot) => json(self.variables.of_channel(self.channel?.id?, *slot)?),
            Variable::Incoming(slot) => json(self.variables.incoming(*slot)?),
            Variable::Cursor => text(self.cursor?),
            Variable::Secret(name) => text(self.secrets.iter().find(|(known, _)| known == name)?.1.expose()),
            Variable::Sign(index, _) => Filled::Text(Cow::Owned(self.signs.get(*index)?.value(self)?)),
            Variable::First(list) => list.iter().find_map(|variable| self.fill(variable))?,
        })
    }

    /// The variable's value as plain text.
    pub(crate) fn text(&self, variable: &'a Variable) -> Option<Cow<'a, str>> {
        self.fill(variable).map(Filled::into_text)
    }
}

impl<'a> Filled<'a> {
    /// A JSON string counts by its content; other JSON as it is.
    pub(crate) fn into_text(self) -> Cow<'a, str> {
        match self {
            Filled::Text(text) | Filled::Document(text) => text,
            Filled::Json(json) => match string_content(&json) {
                Some(content) => Cow::Owned(unescape(content.as_bytes()).into_owned()),
                None => json,
            },
        }
    }
}

/// What stands between a JSON string's quotes.
pub(crate) fn string_content(json: &str) -> Option<&str> {
    json.strip_prefix('"')?.strip_suffix('"')
}

pub(crate) fn within<'a>(inside: &Inside, object: &'a str) -> Option<Filled<'a>> {
    if inside.whole {
        return Some(Filled::Document(Cow::Borrowed(object)));
    }
    let mut spans = Spans::new();
    inside.pointers.scan(object.as_bytes(), &mut spans).ok()?;
    let span = spans.get(inside.pointer)?;
    let text = std::str::from_utf8(spans.bytes(object.as_bytes(), span)).ok()?;
    match span.kind {
        Kind::Array | Kind::Object => Some(Filled::Document(Cow::Owned(text.to_owned()))),
        _ => Some(Filled::Json(Cow::Owned(text.to_owned()))),
    }
}

/// RFC 9562 version 4 form of random bits.
fn uuid(random: u128) -> String {
    let bits = (random & !(0xF << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_its_version_and_variant() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn json_becomes_text_by_content() {
        let text = |json: &'static str| Filled::Json(Cow::Borrowed(json)).into_text();
        assert_eq!(text(r#""a\"b""#), "a\"b");
        assert_eq!(text("12"), "12");
        assert_eq!(text("\""), "\"");
    }
}
