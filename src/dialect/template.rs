//! Send templates: JSON text with `{holes}`, compiled when the dialect is loaded, filled when something is sent.
//!
//! A hole is `{` and a letter, which valid JSON never has together. Outside quotes it becomes a JSON value, inside quotes
//! escaped text. `{x?}`: its member is left out when unset (an array's last elements too; others become `null`); in a
//! longer text it is empty. `{x*}`: a list over the batch. `"*":{x}` merges an object; named members win over merged ones.
//!
//! Invariant: a compiled template fills to valid JSON, whatever the values (they are JSON or get escaped), so nobody can
//! break out of the place that the dialect gives them.
//! Deliberately not here: which template is used when (`conversation`).

mod parse;
mod render;
#[cfg(test)]
mod tests;

pub(crate) use self::render::write_string;
use super::variable::{Names, Scope, Variable};

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Template {
    body: Body,
    /// Every hole's variable with its name and whether it may be unset, in the order of the text.
    holes: Vec<(Variable, Box<str>, Need)>,
}

#[derive(Debug)]
enum Body {
    Json(Node),
    Text(Box<[Piece]>),
}

/// How a hole takes its variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// `{x}`
    Required,
    /// `{x?}`
    Optional,
    /// `{x*}`
    Listed,
}

#[derive(Debug)]
enum Node {
    /// JSON text without holes.
    Raw(Box<str>),
    Hole(Hole),
    List(Hole),
    /// A string with holes inside its quotes.
    Text(Box<[Piece]>),
    Object(Box<[Member]>),
    Array(Box<[Node]>),
}

#[derive(Debug)]
enum Member {
    Named {
        name: Box<str>,
        /// With quotes, as it is written.
        raw: Box<str>,
        value: Node,
    },
    Merge(Hole),
}

#[derive(Debug)]
enum Piece {
    /// In JSON: escaped as the template has it.
    Literal(Box<str>),
    Hole(Hole),
    /// In plain text: every channel's, joined.
    List(Hole),
}

#[derive(Debug, Clone)]
struct Hole {
    variable: Variable,
    name: Box<str>,
    optional: bool,
}

/// What is wrong in a template's text: byte and reason.
pub(crate) type Faults = Vec<(usize, String)>;

impl Template {
    /// Compiles JSON text with holes. `place` names it in errors (`send.subscribe`).
    pub(crate) fn json(text: &str, names: &Names, scope: Scope, place: &str) -> Result<Self, Faults> {
        parse::json(text, names, scope, place)
    }

    /// Compiles plain text with holes.
    pub(crate) fn text(text: &str, names: &Names, scope: Scope, place: &str) -> Result<Self, Faults> {
        parse::text(text, names, scope, place)
    }

    /// Every hole's variable, name and need.
    pub(crate) fn holes(&self) -> &[(Variable, Box<str>, Need)] {
        &self.holes
    }

    /// Whether some hole's variable is like that.
    pub(crate) fn uses(&self, like: impl Fn(&Variable) -> bool) -> bool {
        self.holes.iter().any(|(variable, _, _)| like(variable))
    }

    /// Whether it is plain text of nothing but a number of ours.
    pub(crate) fn is_number(&self) -> bool {
        matches!(&self.body, Body::Text(pieces)
            if matches!(&**pieces, [Piece::Hole(Hole { variable: Variable::Id, .. })]))
    }

    /// Whether it makes JSON.
    pub(crate) fn is_json(&self) -> bool {
        matches!(self.body, Body::Json(_))
    }

    /// Whether what it makes begins with this bracket.
    pub(crate) fn opens(&self, bracket: u8) -> bool {
        match &self.body {
            Body::Json(Node::Object(_)) => bracket == b'{',
            Body::Json(Node::Array(_)) => bracket == b'[',
            Body::Json(Node::Raw(text)) => text.trim_start().as_bytes().first() == Some(&bracket),
            Body::Json(_) | Body::Text(_) => false,
        }
    }

    /// What plain text begins with before its first hole.
    pub(crate) fn fixed_start(&self) -> &str {
        match &self.body {
            Body::Text(pieces) => match pieces.first() {
                Some(Piece::Literal(text)) => text,
                Some(Piece::Hole(_) | Piece::List(_)) | None => "",
            },
            Body::Json(_) => "",
        }
    }

    /// Whether it lists a batch.
    pub(crate) fn lists(&self) -> bool {
        self.holes.iter().any(|(_, _, need)| *need == Need::Listed)
    }
}
