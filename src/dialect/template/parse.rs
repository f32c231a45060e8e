//! From a template's text to its compiled form. Unknown variables are collected; a broken form ends the reading.

use super::{Body, Faults, Hole, Member, Names, Need, Node, Piece, Scope, Template, Variable};
use crate::dialect::variable::Unresolved;

/// How many arrays and objects of a template may stand within each other.
const DEPTH: usize = 32;

pub(super) fn json(text: &str, names: &Names, scope: Scope, place: &str) -> Result<Template, Faults> {
    let mut parser = Parser::new(text, names, scope, place);
    let node = parser.value(0).and_then(|node| {
        parser.space();
        if parser.at < text.len() { parser.broken("something follows the JSON value") } else { Ok(node) }
    });
    parser.end(node.map(Body::Json))
}

pub(super) fn text(text: &str, names: &Names, scope: Scope, place: &str) -> Result<Template, Faults> {
    let mut parser = Parser::new(text, names, scope, place);
    let pieces = parser.pieces();
    parser.end(pieces.map(Body::Text))
}

/// The form is broken; the fault is noted.
struct Broken;

struct Parser<'a> {
    text: &'a str,
    at: usize,
    names: &'a Names,
    scope: Scope,
    place: &'a str,
    faults: Faults,
    holes: Vec<(Variable, Box<str>, Need)>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, names: &'a Names, scope: Scope, place: &'a str) -> Self {
        Parser { text, at: 0, names, scope, place, faults: Vec::new(), holes: Vec::new() }
    }

    fn end(self, body: Result<Body, Broken>) -> Result<Template, Faults> {
        match body {
            Ok(body) if self.faults.is_empty() => Ok(Template { body, holes: self.holes }),
            _ => Err(self.faults),
        }
    }

    fn fault(&mut self, at: usize, reason: impl std::fmt::Display) {
        self.faults.push((at, reason.to_string()));
    }

    fn broken<T>(&mut self, reason: &str) -> Result<T, Broken> {
        let reason = format!("{}: not JSON: {reason}", self.place);
        self.fault(self.at, reason);
        Err(Broken)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, Broken> {
        if depth > DEPTH {
            return self.broken("too many arrays and objects within each other");
        }
        self.space();
        if self.at_hole() {
            let (hole, need) = self.hole()?;
            return Ok(if need == Need::Listed { Node::List(hole) } else { Node::Hole(hole) });
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string(),
            Some(_) => self.scalar(),
            None => self.broken("expected a value"),
        }
    }

    /// `{` and a letter.
    fn at_hole(&self) -> bool {
        let bytes = &self.text.as_bytes()[self.at..];
        matches!(bytes, [b'{', letter, ..] if letter.is_ascii_alphabetic())
    }

    /// Reads the hole at hand. An unknown variable is noted and reading goes on.
    fn hole(&mut self) -> Result<(Hole, Need), Broken> {
        let at = self.at;
        let Some(length) = self.text[at..].find('}') else { return self.broken("`{` without `}`") };
        let inner = &self.text[at + 1..at + length];
        self.at += length + 1;
        let (name, need) = if let Some(name) = inner.strip_suffix('?') {
            (name, Need::Optional)
        } else if let Some(name) = inner.strip_suffix('*') {
            (name, Need::Listed)
        } else {
            (inner, Need::Required)
        };
        let (name, upper) = name.strip_suffix("|upper").map_or((name, false), |name| (name, true));
        let variable = match self.names.resolve(name, self.scope) {
            Ok(variable) if upper => Variable::Upper(Box::new(variable)),
            Ok(variable) => variable,
            Err(unresolved) => {
                let place = self.place;
                self.fault(
                    at,
                    match unresolved {
                        Unresolved::Unknown => format!("unknown variable {{{name}}} in {place}"),
                        Unresolved::NotHere => format!("variable {{{name}}} has no value in {place}"),
                        Unresolved::Pointer(reason) => format!("{{{name}}}: {reason}"),
                    },
                );
                Variable::Id // Stands in until the faults are reported.
            }
        };
        let lists = matches!(self.scope, Scope::Channel | Scope::Connect);
        if need == Need::Listed && !(lists && is_listable(&variable)) && self.faults.is_empty() {
            self.fault(
                at,
                format!(
                    "{{{name}*}}: only {{channel*}} and parts of its name can be listed, in subscribes and addresses"
                ),
            );
        }
        self.holes.push((variable.clone(), name.into(), need));
        Ok((Hole { variable, name: name.into(), optional: need == Need::Optional }, need))
    }

    /// A hole that is no list.
    fn single(&mut self) -> Result<Hole, Broken> {
        let at = self.at;
        let (hole, need) = self.hole()?;
        if need == Need::Listed {
            self.fault(at, format!("{{{}*}} cannot stand here: a list is a JSON value of its own", hole.name));
        }
        Ok(hole)
    }

    fn object(&mut self, depth: usize) -> Result<Node, Broken> {
        self.at += 1;
        let mut members = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Node::Raw("{}".into()));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return self.broken("expected a member's name in quotes");
            }
            let start = self.at;
            let Node::Raw(raw) = self.string()? else {
                self.at = start;
                return self.broken("a member's name cannot have holes");
            };
            // `string` gives valid JSON strings only.
            let name: String = serde_json::from_str(&raw).unwrap_or_default();
            self.space();
            if self.peek() != Some(b':') {
                return self.broken("expected `:`");
            }
            self.at += 1;
            self.space();
            members.push(if name == "*" && self.at_hole() {
                Member::Merge(self.single()?)
            } else {
                Member::Named { name: name.into(), raw, value: self.value(depth + 1)? }
            });
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return self.broken("expected `,` or `}`"),
            }
        }
        self.at += 1;
        Ok(fold_object(members))
    }

    fn array(&mut self, depth: usize) -> Result<Node, Broken> {
        self.at += 1;
        let mut elements = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Node::Raw("[]".into()));
        }
        loop {
            elements.push(self.value(depth + 1)?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return self.broken("expected `,` or `]`"),
            }
        }
        self.at += 1;
        Ok(fold_array(elements))
    }

    /// A string; without holes it is raw.
    fn string(&mut self) -> Result<Node, Broken> {
        let open = self.at;
        self.at += 1;
        let mut pieces = Vec::new();
        let mut literal = self.at;
        loop {
            match self.peek() {
                None => return self.broken("a string without its closing quote"),
                Some(b'\\') => {
                    let escaped = self.text[self.at + 1..].chars().next().map_or(0, char::len_utf8);
                    self.at += 1 + escaped;
                }
                Some(b'"') => break,
                Some(b'{') if self.at_hole() => {
                    self.literal(literal, &mut pieces)?;
                    pieces.push(Piece::Hole(self.single()?));
                    literal = self.at;
                }
                Some(_) => self.at += 1,
            }
        }
        self.literal(literal, &mut pieces)?;
        self.at += 1;
        if pieces.iter().any(|piece| matches!(piece, Piece::Hole(_))) {
            return Ok(Node::Text(pieces.into()));
        }
        Ok(Node::Raw(self.text[open..self.at].into()))
    }

    /// Takes the string content since `from`, which must be valid inside quotes.
    fn literal(&mut self, from: usize, pieces: &mut Vec<Piece>) -> Result<(), Broken> {
        let content = &self.text[from..self.at];
        if let Err(error) = serde_json::from_str::<String>(&format!("\"{content}\"")) {
            let reason = error.to_string();
            return self.broken(reason.split(" at line").next().unwrap_or(&reason));
        }
        if !content.is_empty() {
            pieces.push(Piece::Literal(content.into()));
        }
        Ok(())
    }

    fn scalar(&mut self) -> Result<Node, Broken> {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).unwrap_or(rest.len());
        let raw = &rest[..end];
        if serde_json::from_str::<serde_json::Value>(raw).is_err() {
            return self.broken("expected a value");
        }
        self.at += end;
        Ok(Node::Raw(raw.into()))
    }

    /// Plain text with holes, to its end.
    fn pieces(&mut self) -> Result<Box<[Piece]>, Broken> {
        let mut pieces = Vec::new();
        let mut literal = 0;
        while self.at < self.text.len() {
            if self.at_hole() {
                if literal < self.at {
                    pieces.push(Piece::Literal(self.text[literal..self.at].into()));
                }
                pieces.push(match self.scope {
                    Scope::Connect => match self.hole()? {
                        (hole, Need::Listed) => Piece::List(hole),
                        (hole, _) => Piece::Hole(hole),
                    },
                    _ => Piece::Hole(self.single()?),
                });
                literal = self.at;
            } else {
                self.at += 1;
            }
        }
        if literal < self.at {
            pieces.push(Piece::Literal(self.text[literal..].into()));
        }
        Ok(pieces.into())
    }
}

fn is_listable(variable: &Variable) -> bool {
    matches!(variable, Variable::Channel | Variable::Part(_))
}

/// An object without holes is raw.
fn fold_object(members: Vec<Member>) -> Node {
    let mut raw = String::from("{");
    for member in &members {
        let Member::Named { raw: name, value: Node::Raw(value), .. } = member else {
            return Node::Object(members.into());
        };
        let comma = if raw.len() > 1 { "," } else { "" };
        raw.extend([comma, name, ":", value]);
    }
    raw.push('}');
    Node::Raw(raw.into())
}

/// An array without holes is raw.
fn fold_array(elements: Vec<Node>) -> Node {
    let mut raw = String::from("[");
    for element in &elements {
        let Node::Raw(value) = element else { return Node::Array(elements.into()) };
        let comma = if raw.len() > 1 { "," } else { "" };
        raw.extend([comma, value]);
    }
    raw.push(']');
    Node::Raw(raw.into())
}
