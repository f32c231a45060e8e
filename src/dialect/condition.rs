//! Conditions of receive rules on the values of a message.
//!
//! Invariant: a condition about a missing value is false, except `exists = false` and `not`.

use serde_json::Value;

use super::fill::Context;
use super::message::Message;
use super::scan::{Kind, PointerId};
use super::variable::Variable;

/// A test of one value of the message.
#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) pointer: PointerId,
    pub(crate) test: Test,
}

/// What a value must be.
#[derive(Debug)]
pub(crate) enum Test {
    /// This string.
    Text(Box<str>),
    /// This number.
    Number(f64),
    /// `true` or `false`.
    Bool(bool),
    /// The same as this variable, as text.
    Variable(Variable),
    /// One of these.
    Any(Box<[Test]>),
    /// All of these.
    All(Box<[Test]>),
    /// There, or not there. `null` is there.
    Exists(bool),
    /// Of this type.
    Type(Type),
    /// A string that begins so.
    Prefix(Box<str>),
    /// Anything else, or nothing at all.
    Not(Box<Test>),
}

/// `{ type = "..." }`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    /// A JSON type.
    Kind(Kind),
    /// `{}`, `[]` or `""`.
    Empty,
}

/// The words for types.
pub(crate) const TYPES: [(&str, Type); 7] = [
    ("null", Type::Kind(Kind::Null)),
    ("bool", Type::Kind(Kind::Bool)),
    ("number", Type::Kind(Kind::Number)),
    ("string", Type::Kind(Kind::String)),
    ("array", Type::Kind(Kind::Array)),
    ("object", Type::Kind(Kind::Object)),
    ("empty", Type::Empty),
];

impl Test {
    /// How much work it is: cheap tests go first.
    pub(crate) fn cost(&self) -> u8 {
        match self {
            Test::Text(_) | Test::Bool(_) => 0,
            Test::Exists(_) | Test::Type(_) => 1,
            Test::Number(_) | Test::Prefix(_) => 2,
            Test::Any(_) | Test::All(_) | Test::Not(_) => 3,
            Test::Variable(_) => 4,
        }
    }
}

/// Whether a value of an answer meets a test; `None`: it is not there. Variables have no value here.
pub(crate) fn meets(test: &Test, value: Option<&Value>) -> bool {
    match (test, value) {
        (Test::Exists(exists), value) => *exists == value.is_some(),
        (Test::Not(test), value) => !meets(test, value),
        (Test::All(tests), value) => tests.iter().all(|test| meets(test, value)),
        (Test::Any(tests), value) => tests.iter().any(|test| meets(test, value)),
        (Test::Text(wanted), Some(Value::String(text))) => **wanted == **text,
        (Test::Prefix(prefix), Some(Value::String(text))) => text.starts_with(&**prefix),
        (Test::Number(wanted), Some(Value::Number(number))) => number.as_f64() == Some(*wanted),
        (Test::Bool(wanted), Some(Value::Bool(bool))) => wanted == bool,
        (Test::Type(wanted), Some(value)) => match value {
            Value::Null => *wanted == Type::Kind(Kind::Null),
            Value::Bool(_) => *wanted == Type::Kind(Kind::Bool),
            Value::Number(_) => *wanted == Type::Kind(Kind::Number),
            Value::String(text) => *wanted == Type::Kind(Kind::String) || *wanted == Type::Empty && text.is_empty(),
            Value::Array(list) => *wanted == Type::Kind(Kind::Array) || *wanted == Type::Empty && list.is_empty(),
            Value::Object(map) => *wanted == Type::Kind(Kind::Object) || *wanted == Type::Empty && map.is_empty(),
        },
        _ => false,
    }
}

impl Condition {
    /// Whether the message meets it.
    #[inline]
    pub(crate) fn holds<'m>(&'m self, message: &Message<'m>, context: &Context<'_>) -> bool {
        holds(&self.test, self.pointer, message, context)
    }
}

/// Whether the message meets all of them.
#[inline]
pub(crate) fn all_hold<'m>(conditions: &'m [Condition], message: &Message<'m>, context: &Context<'_>) -> bool {
    conditions.iter().all(|condition| condition.holds(message, context))
}

fn holds<'m>(test: &'m Test, pointer: PointerId, message: &Message<'m>, context: &Context<'_>) -> bool {
    let Some(span) = message.span(pointer) else {
        return match test {
            Test::Exists(exists) => !exists,
            Test::Not(test) => !holds(test, pointer, message, context),
            Test::All(tests) => tests.iter().all(|test| holds(test, pointer, message, context)),
            Test::Any(tests) => tests.iter().any(|test| holds(test, pointer, message, context)),
            _ => false,
        };
    };
    let string = |meets: &dyn Fn(&[u8]) -> bool| {
        span.kind == Kind::String
            && if span.escaped {
                meets(message.spans.text(message.bytes, span).as_bytes())
            } else {
                matches!(message.spans.bytes(message.bytes, span), [b'"', content @ .., b'"'] if meets(content))
            }
    };
    match test {
        Test::Text(text) => string(&|content| content == text.as_bytes()),
        Test::Prefix(prefix) => string(&|content| content.starts_with(prefix.as_bytes())),
        Test::Number(number) => {
            span.kind == Kind::Number
                && message.spans.text(message.bytes, span).parse::<f64>().is_ok_and(|value| value == *number)
        }
        Test::Bool(bool) => {
            span.kind == Kind::Bool && (message.spans.bytes(message.bytes, span).first() == Some(&b't')) == *bool
        }
        Test::Variable(variable) => match (message.text(pointer), context.text(variable)) {
            (Some(value), Some(variable)) => value == variable,
            _ => false,
        },
        Test::Any(tests) => tests.iter().any(|test| holds(test, pointer, message, context)),
        Test::All(tests) => tests.iter().all(|test| holds(test, pointer, message, context)),
        Test::Exists(exists) => *exists,
        Test::Type(Type::Kind(kind)) => span.kind == *kind,
        Test::Type(Type::Empty) => span.empty,
        Test::Not(test) => !holds(test, pointer, message, context),
    }
}
