//! Composed channel names: `channel = "{feed}:{symbol}"` makes one local name of several of upstream's words.
//!
//! Invariant: a name splits in one way, at the leftmost separator; the last part takes the rest; no part is empty, but
//! for a last one that is written `{part?}`.

/// A pattern of literals and named parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Composition {
    parts: Vec<Box<str>>,
    /// One more than parts: before, between and after them.
    literals: Vec<Box<str>>,
    /// The last part may be empty: it is written `{name?}`.
    open: bool,
}

impl Composition {
    /// Reads the pattern; an error is the byte where it stands and what it is.
    pub(crate) fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut parts: Vec<Box<str>> = Vec::new();
        let mut literals: Vec<Box<str>> = Vec::new();
        let mut at = 0;
        let mut open_part = false;
        while let Some(open) = text[at..].find('{').map(|open| at + open) {
            let close = text[open..].find('}').map(|close| open + close).ok_or((open, "`{` without `}`".to_owned()))?;
            let name = &text[open + 1..close];
            if open_part {
                return Err((open, "only the last part may be left out".to_owned()));
            }
            open_part = name.ends_with('?');
            let name = name.strip_suffix('?').unwrap_or(name);
            if !is_name(name) {
                return Err((open, format!("{{{name}}} is not a name of letters, digits and _")));
            }
            if parts.iter().any(|part| **part == *name) {
                return Err((open, format!("{{{name}}} stands here twice")));
            }
            if open == at && !parts.is_empty() {
                return Err((open, format!("a separator must stand before {{{name}}}")));
            }
            literals.push(text[at..open].into());
            parts.push(name.into());
            at = close + 1;
        }
        if parts.is_empty() {
            return Err((0, "a composed channel has at least one {part}".to_owned()));
        }
        literals.push(text[at..].into());
        Ok(Composition { parts, literals, open: open_part })
    }

    /// The parts' names.
    pub(crate) fn parts(&self) -> &[Box<str>] {
        &self.parts
    }

    /// The parts of a channel's name, in order.
    pub(crate) fn split<'n>(&self, name: &'n str) -> Option<Vec<&'n str>> {
        let mut rest = name.strip_prefix(&*self.literals[0])?;
        let mut found = Vec::with_capacity(self.parts.len());
        for literal in &self.literals[1..self.parts.len()] {
            let (part, after) = rest.split_once(&**literal)?;
            found.push(part);
            rest = after;
        }
        found.push(rest.strip_suffix(&*self.literals[self.parts.len()])?);
        let filled = found.iter().filter(|part| !part.is_empty()).count();
        (filled + usize::from(self.open && found.last() == Some(&"")) == found.len()).then_some(found)
    }
}

/// Letters, digits and `_`, beginning with a letter.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_at_the_leftmost_separator_and_the_last_part_takes_the_rest() {
        let composed = Composition::parse("{feed}:{symbol}").unwrap();
        assert_eq!(composed.split("book:BTC/USD"), Some(vec!["book", "BTC/USD"]));
        assert_eq!(composed.split("a:b:c"), Some(vec!["a", "b:c"]));
        for name in ["book", ":x", "book:", "", ":"] {
            assert_eq!(composed.split(name), None, "{name}");
        }
        let wrapped = Composition::parse("x/{a}-{b}!").unwrap();
        assert_eq!(wrapped.split("x/1-2-3!"), Some(vec!["1", "2-3"]));
        assert_eq!(wrapped.split("x/1-2"), None);
    }

    #[test]
    fn wrong_patterns_say_where() {
        let open = Composition::parse("{a}@b{c?}").unwrap();
        assert_eq!((open.split("x@b"), open.split("x@b@1")), (Some(vec!["x", ""]), Some(vec!["x", "@1"])));
        assert_eq!((open.split("@b"), open.split("x@c")), (None, None));
        for (text, at) in
            [("{a?}-{b}", 5), ("{a}{b}", 3), ("plain", 0), ("{a}:{a}", 4), ("{a}:{", 4), ("{9}", 0), ("", 0)]
        {
            assert_eq!(Composition::parse(text).unwrap_err().0, at, "{text}");
        }
    }
}
