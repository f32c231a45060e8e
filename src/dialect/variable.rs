//! Names of variables: which exist in a dialect, and where each may stand.
//!
//! Invariant: a [`Variable`] that exists was known when the dialect was loaded; nothing is looked up by name later.
//! Deliberately not here: values (`variables`, `fill`).

use super::composition::Composition;
use super::pointer::Pointer;
use super::scan::{PointerId, PointerSet};
use super::sign::Needs;

/// What a hole or a comparison names.
#[derive(Debug, Clone)]
pub(crate) enum Variable {
    /// The request's number.
    Id,
    /// A new random id for each frame.
    Uuid,
    /// The outbound message's id, the same over all its attempts.
    Message,
    /// The publisher's idempotency key, else the message's id.
    IdempotencyKey,
    /// Wall clock, RFC 3339.
    Now,
    /// Wall clock, seconds.
    NowSeconds,
    /// Wall clock, milliseconds.
    NowMillis,
    /// The upstream token.
    Token,
    /// The channel's upstream name.
    Channel,
    /// A part of a composed channel name.
    Part(usize),
    /// The item within the channel.
    Key,
    /// The first number that is missing.
    MissingFrom,
    /// The last number that is missing.
    MissingTo,
    /// Another variable's text in capital letters.
    Upper(Box<Variable>),
    /// The channel's params, or a value in them.
    Params(Inside),
    /// The connection's params, or a value in them.
    Connect(Inside),
    /// The outbound payload.
    Data,
    /// The outbound message's type.
    Type,
    /// The channel's current subscription id.
    Sub,
    /// Stored by `set`, plain.
    Session(usize),
    /// Stored by `set`, `channel.x`.
    OfChannel(usize),
    /// Stored by `set`, `in.x`.
    Incoming(usize),
    /// Where the next connection or poll goes on.
    Cursor,
    /// One of the configuration's `[secrets]`.
    Secret(Box<str>),
    /// A `[sign.NAME]`, and what it needs.
    Sign(usize, Needs),
    /// `a|b`: the first that has a value.
    First(Box<[Variable]>),
}

/// A place inside an object's text.
#[derive(Debug, Clone)]
pub(crate) struct Inside {
    pub(crate) pointers: PointerSet,
    pub(crate) pointer: PointerId,
    /// The object itself.
    pub(crate) whole: bool,
}

impl Inside {
    /// Of a JSON Pointer's text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Pointer::parse(text).map(|pointer| Inside::new(&pointer)).map_err(|error| error.to_string())
    }

    fn new(pointer: &Pointer) -> Self {
        let mut pointers = PointerSet::new();
        let id = pointers.add(pointer);
        Inside { pointers, pointer: id, whole: pointer.tokens().is_empty() }
    }
}

/// Where a variable is used: decides which ones have a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// `[connect]`.
    Connect,
    /// `auth`, `resume`, `renew`.
    Auth,
    /// `subscribe`, `resubscribe`, `unsubscribe`.
    Channel,
    /// `publish`.
    Publish,
    /// `ping`.
    Ping,
    /// `pong`, `receipt`.
    Reply,
    /// Receive rules.
    Rule,
    /// `state`, `[repair]`.
    Wish,
    /// `[fetch.NAME]` before connecting.
    Fetch,
    /// `[fetch.NAME]` for a channel.
    ChannelFetch,
    /// `[sign.NAME]`, wherever it is used.
    Sign,
}

/// Slots of `channel.x` that the engine fills by itself.
pub(crate) const LAST_ID: usize = 0;
/// See [`LAST_ID`].
pub(crate) const LAST_SEQ: usize = 1;

/// The names that a dialect's rules and its composed channel define.
#[derive(Debug, Default, Clone)]
pub(crate) struct Names {
    pub(crate) session: Vec<Box<str>>,
    pub(crate) of_channel: Vec<Box<str>>,
    pub(crate) incoming: Vec<Box<str>>,
    pub(crate) composition: Option<Composition>,
    /// Signatures and what each needs, in the order of `Dialect::signs`.
    pub(crate) signs: Vec<(Box<str>, Needs)>,
}

/// Why a name is no variable here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unresolved {
    /// There is no such variable.
    Unknown,
    /// It has no value in this place.
    NotHere,
    /// The part after `/` is no JSON Pointer.
    Pointer(String),
}

impl Names {
    /// With the names that every dialect has.
    pub(crate) fn new(composition: Option<Composition>) -> Self {
        let of_channel = vec!["last_id".into(), "seq".into()];
        Names { session: Vec::new(), of_channel, incoming: Vec::new(), composition, signs: Vec::new() }
    }

    /// Notes a name that `set` stores to; `Err`: the engine fills a variable of that name.
    pub(crate) fn define(&mut self, target: &str) -> Result<Variable, String> {
        let (list, name, make): (_, _, fn(usize) -> Variable) = if let Some(name) = target.strip_prefix("channel.") {
            (&mut self.of_channel, name, Variable::OfChannel)
        } else if let Some(name) = target.strip_prefix("in.") {
            (&mut self.incoming, name, Variable::Incoming)
        } else if base(target).is_some()
            || ["params", "secret", "sign", "connect"].contains(&target)
            || self.part(target).is_some()
        {
            return Err(format!("{{{target}}} is filled by the engine and cannot be set"));
        } else {
            (&mut self.session, target, Variable::Session)
        };
        if !super::composition::is_name(name) {
            return Err(format!("`{target}` is not a variable name (letters, digits and _)"));
        }
        let slot = list.iter().position(|known| **known == *name).unwrap_or_else(|| {
            list.push(name.into());
            list.len() - 1
        });
        Ok(make(slot))
    }

    fn part(&self, name: &str) -> Option<usize> {
        self.composition.as_ref()?.parts().iter().position(|part| **part == *name)
    }

    /// The variable of that name.
    pub(crate) fn resolve(&self, name: &str, scope: Scope) -> Result<Variable, Unresolved> {
        if name.contains('|') {
            let all: Result<Vec<Variable>, Unresolved> =
                name.split('|').map(|name| self.resolve(name, scope)).collect();
            return Ok(Variable::First(all?.into()));
        }
        use Scope::{Auth, Channel, ChannelFetch, Connect, Fetch, Ping, Publish, Reply, Rule, Sign, Wish};
        let (word, path) = name.split_at(name.find('/').unwrap_or(name.len()));
        if word == "params" {
            let pointer = Pointer::parse(path).map_err(|error| Unresolved::Pointer(error.to_string()))?;
            return match scope {
                Channel | Publish | Wish | ChannelFetch | Sign => Ok(Variable::Params(Inside::new(&pointer))),
                Connect | Auth | Ping | Fetch => Ok(Variable::Connect(Inside::new(&pointer))),
                Reply | Rule => Err(Unresolved::NotHere),
            };
        }
        if !path.is_empty() {
            return Err(Unresolved::Unknown);
        }
        if let Some(name) = word.strip_prefix("connect.") {
            let pointer =
                Pointer::parse(&format!("/{name}")).map_err(|error| Unresolved::Pointer(error.to_string()))?;
            return Ok(Variable::Connect(Inside::new(&pointer)));
        }
        if let Some(name) = word.strip_prefix("secret.") {
            let known = super::composition::is_name(name).then(|| Variable::Secret(name.into()));
            return known.ok_or(Unresolved::Unknown).and_then(|secret| match scope {
                Reply | Rule => Err(Unresolved::NotHere),
                _ => Ok(secret),
            });
        }
        if let Some(name) = word.strip_prefix("sign.") {
            let index = self.signs.iter().position(|(known, _)| **known == *name).ok_or(Unresolved::Unknown)?;
            let needs = self.signs[index].1;
            let has = match scope {
                Publish | Sign => true,
                Channel | ChannelFetch | Wish => !needs.message,
                Connect | Auth | Ping | Fetch => !needs.channel,
                Reply | Rule => false,
            };
            return if has { Ok(Variable::Sign(index, needs)) } else { Err(Unresolved::NotHere) };
        }
        let slot = |list: &[Box<str>], name: &str| list.iter().position(|known| **known == *name);
        let (variable, scopes): (_, &[Scope]) = if let Some(name) = word.strip_prefix("channel.") {
            (
                slot(&self.of_channel, name).map(Variable::OfChannel),
                &[Channel, Publish, Wish, Connect, ChannelFetch, Sign],
            )
        } else if let Some(name) = word.strip_prefix("in.") {
            (slot(&self.incoming, name).map(Variable::Incoming), &[Reply, Rule])
        } else if let Some(part) = self.part(word) {
            (Some(Variable::Part(part)), &[Channel, Publish, Rule, Wish, Connect, ChannelFetch, Sign])
        } else if let Some((variable, scopes)) = base(word) {
            (Some(variable), scopes)
        } else {
            let all: &[Scope] = &[Connect, Auth, Channel, Publish, Ping, Reply, Rule, Wish, Fetch, ChannelFetch, Sign];
            (slot(&self.session, word).map(Variable::Session), all)
        };
        let variable = variable.ok_or(Unresolved::Unknown)?;
        if scopes.contains(&scope) { Ok(variable) } else { Err(Unresolved::NotHere) }
    }
}

/// The variables of every dialect, and where they have a value.
fn base(name: &str) -> Option<(Variable, &'static [Scope])> {
    use Scope::{Auth, Channel, ChannelFetch, Connect, Fetch, Ping, Publish, Reply, Sign, Wish};
    const SENT: &[Scope] = &[Auth, Channel, Publish, Ping, Reply, Wish];
    const ANY: &[Scope] = &[Connect, Auth, Channel, Publish, Ping, Reply, Wish, Fetch, ChannelFetch, Sign];
    Some(match name {
        "id" => (Variable::Id, SENT),
        "uuid" => (Variable::Uuid, &[Auth, Channel, Publish, Ping, Reply, Wish, Sign]),
        "now" => (Variable::Now, ANY),
        "now_s" => (Variable::NowSeconds, ANY),
        "now_ms" => (Variable::NowMillis, ANY),
        "token" => (Variable::Token, ANY),
        "channel" => (Variable::Channel, &[Channel, Publish, Wish, Connect, ChannelFetch, Sign]),
        "cursor" => (Variable::Cursor, &[Connect]),
        "sub" => (Variable::Sub, &[Channel, Publish, Wish]),
        "key" => (Variable::Key, &[Publish, Wish, Sign]),
        "missing_from" => (Variable::MissingFrom, &[Wish]),
        "missing_to" => (Variable::MissingTo, &[Wish]),
        "message" => (Variable::Message, &[Publish, Sign]),
        "idempotency_key" => (Variable::IdempotencyKey, &[Publish, Sign]),
        "data" => (Variable::Data, &[Publish, Sign]),
        "type" => (Variable::Type, &[Publish, Sign]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_resolve_where_they_have_a_value() {
        let mut names = Names::new(Some(Composition::parse("{feed}:{symbol}").unwrap()));
        assert!(matches!(names.define("pid"), Ok(Variable::Session(0))));
        assert!(matches!(names.define("channel.epoch"), Ok(Variable::OfChannel(2))));
        assert!(matches!(names.define("channel.seq"), Ok(Variable::OfChannel(LAST_SEQ))));
        assert!(matches!(names.define("in.x"), Ok(Variable::Incoming(0))));
        for taken in ["id", "token", "feed", "params", "a b", "channel.", "in.a/b"] {
            assert!(names.define(taken).is_err(), "{taken}");
        }
        assert!(matches!(names.resolve("symbol", Scope::Channel), Ok(Variable::Part(1))));
        assert!(matches!(names.resolve("params/a", Scope::Channel), Ok(Variable::Params(_))));
        assert!(matches!(names.resolve("params", Scope::Auth), Ok(Variable::Connect(_))));
        assert!(matches!(names.resolve("connect.room", Scope::Rule), Ok(Variable::Connect(_))));
        assert!(matches!(names.resolve("channel.last_id", Scope::Channel), Ok(Variable::OfChannel(LAST_ID))));
        assert_eq!(names.resolve("in.x", Scope::Channel).unwrap_err(), Unresolved::NotHere);
        assert_eq!(names.resolve("data", Scope::Channel).unwrap_err(), Unresolved::NotHere);
        assert_eq!(names.resolve("chanel", Scope::Channel).unwrap_err(), Unresolved::Unknown);
        assert_eq!(names.resolve("token/a", Scope::Channel).unwrap_err(), Unresolved::Unknown);
    }
}
