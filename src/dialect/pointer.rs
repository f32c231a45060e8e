//! JSON Pointers (RFC 6901) as dialects write them.
//!
//! Invariant: a [`Pointer`] that exists is well formed and not deeper than [`MAX_TOKENS`].
//! Deliberately not here: looking values up (that is `scan`), and the URI fragment form (`#/a`).

use std::fmt;

/// Deepest pointer that is accepted. The scanner's recursion is as deep as the deepest pointer, so this bounds its stack.
pub const MAX_TOKENS: usize = 32;

/// A parsed pointer: the way from a message's root to one value. Empty: the whole message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer {
    tokens: Vec<String>,
}

/// Why a text is not a JSON Pointer. The text shown says what is wrong and quotes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PointerError {
    /// Neither empty nor beginning with `/`.
    NoSlash(String),
    /// A `~` that is not `~0` or `~1`.
    BadEscape(String),
    /// More than [`MAX_TOKENS`] tokens.
    TooDeep(String),
}

impl fmt::Display for PointerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSlash(text) => write!(f, "a JSON Pointer starts with '/': {text:?}"),
            Self::BadEscape(text) => write!(f, "bad '~' escape in JSON Pointer {text:?} (only ~0 and ~1)"),
            Self::TooDeep(text) => write!(f, "JSON Pointer {text:?} has more than {MAX_TOKENS} parts"),
        }
    }
}

impl std::error::Error for PointerError {}

impl Pointer {
    /// Parses `""` or `"/a/b~1c/0"`. A `/` inside a name is written `~1`, a `~` is written `~0` (RFC 6901, section 3).
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        if text.is_empty() {
            return Ok(Self { tokens: Vec::new() });
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(PointerError::NoSlash(text.to_owned()));
        };
        let mut tokens = Vec::new();
        for raw in rest.split('/') {
            if tokens.len() == MAX_TOKENS {
                return Err(PointerError::TooDeep(text.to_owned()));
            }
            tokens.push(unescape_token(raw).ok_or_else(|| PointerError::BadEscape(text.to_owned()))?);
        }
        Ok(Self { tokens })
    }

    /// The reference tokens, unescaped, from the root down.
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for token in &self.tokens {
            write!(f, "/{}", token.replace('~', "~0").replace('/', "~1"))?;
        }
        Ok(())
    }
}

/// The array index that a token means, if it can mean one: decimal digits without leading zeros (RFC 6901, section 4).
pub(super) fn array_index(token: &str) -> Option<usize> {
    let plain = token.bytes().all(|b| b.is_ascii_digit()) && (token == "0" || !token.starts_with('0'));
    if plain { token.parse().ok() } else { None }
}

fn unescape_token(raw: &str) -> Option<String> {
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match c {
            '~' => match chars.next() {
                Some('0') => out.push('~'),
                Some('1') => out.push('/'),
                _ => return None,
            },
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc_parse_and_print_back() {
        for (text, tokens) in [
            ("", vec![]),
            ("/foo", vec!["foo"]),
            ("/foo/0", vec!["foo", "0"]),
            ("/", vec![""]),
            ("/a~1b", vec!["a/b"]),
            ("/m~0n", vec!["m~n"]),
            ("/~01", vec!["~1"]),
            ("/ ", vec![" "]),
            ("//x/", vec!["", "x", ""]),
        ] {
            let pointer = Pointer::parse(text).unwrap();
            assert_eq!(pointer.tokens(), tokens, "{text}");
            assert_eq!(pointer.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_pointer_says_why() {
        let says = |text: &str| Pointer::parse(text).unwrap_err().to_string();
        assert_eq!(says("type"), r#"a JSON Pointer starts with '/': "type""#);
        assert_eq!(says("/c~2"), r#"bad '~' escape in JSON Pointer "/c~2" (only ~0 and ~1)"#);
        assert_eq!(says("/c~"), r#"bad '~' escape in JSON Pointer "/c~" (only ~0 and ~1)"#);
        assert!(Pointer::parse(&"/a".repeat(MAX_TOKENS)).is_ok());
        assert!(says(&"/a".repeat(MAX_TOKENS + 1)).ends_with("has more than 32 parts"));
    }

    #[test]
    fn an_index_has_no_sign_and_no_leading_zero() {
        for (token, index) in
            [("0", Some(0)), ("10", Some(10)), ("01", None), ("+1", None), ("-1", None), ("-", None), ("", None)]
        {
            assert_eq!(array_index(token), index, "{token}");
        }
        assert_eq!(array_index("99999999999999999999999"), None);
    }
}
