//! Values of receive rules: a pointer into the message, a frame field, or text with holes.
//!
//! Invariant: a value that misses any of its parts is missing as a whole.

use std::borrow::Cow;

use super::field;
use super::fill::Context;
use super::message::Message;
use super::pointer::Pointer;
use super::scan::{Kind, PointerId, PointerSet};
use super::variable::{Names, Scope, Unresolved, Variable};

/// Where a rule takes a text from.
#[derive(Debug)]
pub(crate) enum Value {
    /// `/a/b`, empty for the whole message, or `#field`.
    Pointer(PointerId),
    /// `text {/pointer} {variable}`.
    Text(Box<[Part]>),
}

/// A piece of a text.
#[derive(Debug)]
pub(crate) enum Part {
    Literal(Box<str>),
    Pointer(PointerId),
    Variable(Variable),
}

impl Value {
    /// Compiles the value syntax. Errors: byte and reason.
    pub(crate) fn parse(text: &str, names: &Names, pointers: &mut PointerSet) -> Result<Self, Vec<(usize, String)>> {
        if text.is_empty() || text.starts_with(['/', '#']) {
            return Ok(Value::Pointer(pointer(text, pointers).map_err(|reason| vec![(0, reason)])?));
        }
        let mut parts = Vec::new();
        let mut faults = Vec::new();
        let mut at = 0;
        while let Some(open) = text[at..].find('{').map(|open| at + open) {
            let Some(close) = text[open..].find('}').map(|close| open + close) else {
                faults.push((open, "`{` without `}`".to_owned()));
                break;
            };
            if at < open {
                parts.push(Part::Literal(text[at..open].into()));
            }
            match part(&text[open + 1..close], names, pointers) {
                Ok(part) => parts.push(part),
                Err(reason) => faults.push((open, reason)),
            }
            at = close + 1;
        }
        if at < text.len() {
            parts.push(Part::Literal(text[at..].into()));
        }
        if faults.is_empty() { Ok(Value::Text(parts.into())) } else { Err(faults) }
    }

    /// The value as text, for matching and names.
    #[inline]
    pub(crate) fn text<'m>(&'m self, message: &Message<'m>, context: &Context<'_>) -> Option<Cow<'m, str>> {
        match self {
            Value::Pointer(pointer) => message.text(*pointer),
            Value::Text(parts) => join(parts, message, context),
        }
    }

    /// Whether the value is a JSON number.
    pub(crate) fn is_number(&self, message: &Message<'_>) -> bool {
        matches!(self, Value::Pointer(pointer) if message.span(*pointer).is_some_and(|span| span.kind == Kind::Number))
    }

    /// The value for people: arrays and objects as JSON.
    pub(crate) fn words<'m>(&'m self, message: &Message<'m>, context: &Context<'_>) -> Option<Cow<'m, str>> {
        match self {
            Value::Pointer(pointer) => message.words(*pointer),
            Value::Text(parts) => join(parts, message, context),
        }
    }
}

/// Compiles a pointer or the name of a frame field and adds it to the set.
pub(crate) fn pointer(text: &str, pointers: &mut PointerSet) -> Result<PointerId, String> {
    if text.starts_with('#') {
        return field::known(text).map(|name| pointers.add_field(name));
    }
    Pointer::parse(text).map(|pointer| pointers.add(&pointer)).map_err(|error| error.to_string())
}

/// Compiles the name of a variable in a rule.
pub(crate) fn variable(name: &str, names: &Names) -> Result<Variable, String> {
    names.resolve(name, Scope::Rule).map_err(|unresolved| match unresolved {
        Unresolved::Unknown => format!("unknown variable {{{name}}} in a rule"),
        Unresolved::NotHere => format!("variable {{{name}}} has no value in a rule"),
        Unresolved::Pointer(reason) => reason,
    })
}

fn part(hole: &str, names: &Names, pointers: &mut PointerSet) -> Result<Part, String> {
    if hole.starts_with(['/', '#']) {
        pointer(hole, pointers).map(Part::Pointer)
    } else {
        variable(hole, names).map(Part::Variable)
    }
}

fn join<'m>(parts: &'m [Part], message: &Message<'m>, context: &Context<'_>) -> Option<Cow<'m, str>> {
    if let [Part::Literal(literal)] = parts {
        return Some(Cow::Borrowed(literal));
    }
    let mut joined = String::new();
    for part in parts {
        match part {
            Part::Literal(literal) => joined.push_str(literal),
            Part::Pointer(pointer) => joined.push_str(&message.text(*pointer)?),
            Part::Variable(variable) => joined.push_str(&context.text(variable)?),
        }
    }
    Some(Cow::Owned(joined))
}
