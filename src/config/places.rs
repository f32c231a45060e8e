//! Where each key of a TOML text stands, so that a complaint can name line and column.
//!
//! Figment, which merges the sources, forgets the places; so the text is read a second time for them alone.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

/// Where a value came from. Places of a file are ordered as they stand in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line and column of a file, both from 1, columns in characters.
    File {
        /// The file, as it was named.
        path: String,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A `--set` argument.
    Set(String),
    /// Nothing said it, and there is no file that could.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line, column } => write!(f, "{path}:{line}:{column}"),
            Place::Environment(name) => write!(f, "environment {name}"),
            Place::Set(key) => write!(f, "--set {key}"),
            Place::Nowhere => f.write_str("no configuration file (-c FILE)"),
        }
    }
}

/// The places of all keys of one text, by path: `feed.ring.events`, `channels[0].match`.
#[derive(Debug, Default)]
pub struct Places(BTreeMap<String, (usize, usize)>);

impl Places {
    /// Finds them. A text that is no TOML has no places; its syntax error names its own.
    pub fn find(text: &str) -> Self {
        let mut places = BTreeMap::new();
        if let Ok(root) = toml::from_str::<Node>(text) {
            root.walk("", text, &mut places);
        }
        Places(places)
    }

    /// Line and column of a key, or of the nearest table around it that stands somewhere.
    pub fn nearest(&self, path: &str) -> Option<(usize, usize)> {
        let mut path = path;
        loop {
            if let Some(place) = self.0.get(path) {
                return Some(*place);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

/// Line and column, from 1, of a byte of `text`.
pub fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// A TOML value of which only the shape matters.
enum Node {
    Table(Vec<(Spanned<String>, Node)>),
    Array(Vec<Spanned<Node>>),
    Leaf,
}

impl Node {
    fn walk(&self, path: &str, text: &str, out: &mut BTreeMap<String, (usize, usize)>) {
        match self {
            Node::Table(members) => {
                for (key, value) in members {
                    let inner =
                        if path.is_empty() { key.get_ref().clone() } else { format!("{path}.{}", key.get_ref()) };
                    out.insert(inner.clone(), line_and_column(text, key.span().start));
                    value.walk(&inner, text, out);
                }
            }
            Node::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    let inner = format!("{path}[{index}]");
                    out.insert(inner.clone(), line_and_column(text, element.span().start));
                    element.get_ref().walk(&inner, text, out);
                }
            }
            Node::Leaf => {}
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a TOML value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            members.push((key, map.next_value()?));
        }
        Ok(Node::Table(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element()? {
            elements.push(element);
        }
        Ok(Node::Array(elements))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Node, D::Error> {
        IgnoredAny::deserialize(inner).map(|_| Node::Leaf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_line_and_column() {
        let text =
            "a = 1\n[feed]\n  ring = { events = 5 } # é\n[[channels]]\nmatch = \"x\"\n[[channels]]\nmatch = \"y\"\n";
        let places = Places::find(text);
        assert_eq!(places.nearest("a"), Some((1, 1)));
        assert_eq!(places.nearest("feed.ring"), Some((3, 3)));
        assert_eq!(places.nearest("feed.ring.events"), Some((3, 12)));
        assert_eq!(places.nearest("channels[1].match"), Some((7, 1)));
        assert_eq!(places.nearest("feed.listen"), Some((2, 2)), "the table around it");
        assert_eq!(places.nearest("nowhere"), None);
        assert_eq!(Places::find("a = ").nearest("a"), None);
    }

    #[test]
    fn columns_are_characters() {
        assert_eq!(line_and_column("é = \"x\"", 3), (1, 3));
        assert_eq!(line_and_column("a\nb", 2), (2, 1));
        assert_eq!(line_and_column("a", 99), (1, 2));
    }
}
