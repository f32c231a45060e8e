//! Which members of a payload a subscription wants (JSON Pointers, RFC 6901), and the payload that has only these.
//!
//! Invariant: what is taken over are the payload's own bytes, so numbers keep their text. A pointer goes through objects only.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::frame::push_json_string;

/// Members of one selection.
const POINTERS_MAX: usize = 64;
/// Bytes of a pointer.
const POINTER_MAX: usize = 256;

/// Some members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection(Node);

/// What is wanted of one object. Children are sorted, so that equal selections are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    /// Everything below.
    whole: bool,
    children: Vec<(String, Node)>,
}

impl Selection {
    /// Reads pointers.
    ///
    /// # Errors
    /// Words for the client: which pointer is wrong, and how one looks.
    pub fn new(pointers: &[String]) -> Result<Self, String> {
        if pointers.is_empty() || pointers.len() > POINTERS_MAX {
            return Err(format!("`fields` names 1 to {POINTERS_MAX} members"));
        }
        let mut root = Node::default();
        for pointer in pointers {
            let names = names(pointer).ok_or_else(|| {
                let shown: String = pointer.chars().take(64).flat_map(char::escape_debug).collect();
                format!("`fields` are JSON pointers to members, like `/price`, of at most {POINTER_MAX} bytes, not `{shown}`")
            })?;
            names.into_iter().fold(&mut root, Node::child).whole = true;
        }
        root.settle();
        Ok(Selection(root))
    }

    /// The payload with these members alone; `None` if it has none of them.
    pub fn of(&self, data: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(data.len());
        out.push(b'{');
        let mut json = serde_json::Deserializer::from_slice(data);
        let any = Pick { node: &self.0, out: &mut out }.deserialize(&mut json).ok()?;
        out.push(b'}');
        any.then_some(out)
    }
}

impl Node {
    fn child(&mut self, name: String) -> &mut Node {
        let at = match self.children.binary_search_by(|(other, _)| other.cmp(&name)) {
            Ok(at) => at,
            Err(at) => {
                self.children.insert(at, (name, Node::default()));
                at
            }
        };
        &mut self.children[at].1
    }

    /// Below what is wanted whole nothing needs to be named.
    fn settle(&mut self) {
        if self.whole {
            self.children.clear();
        }
        self.children.iter_mut().for_each(|(_, child)| child.settle());
    }

    fn find(&self, name: &str) -> Option<&Node> {
        let at = self.children.binary_search_by(|(other, _)| other.as_str().cmp(name)).ok()?;
        Some(&self.children[at].1)
    }
}

/// The names on a pointer's way; `None` if it is none.
fn names(pointer: &str) -> Option<Vec<String>> {
    let rest = pointer.strip_prefix('/').filter(|_| pointer.len() <= POINTER_MAX)?;
    let name = |text: &str| {
        let right = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
        right.then(|| text.replace("~1", "/").replace("~0", "~"))
    };
    rest.split('/').map(name).collect()
}

/// Copies the wanted members of an object, without its braces; whether there were any.
struct Pick<'a> {
    node: &'a Node,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut any = false;
        while let Some(name) = map.next_key::<String>()? {
            let Some(node) = self.node.find(&name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value: &RawValue = map.next_value()?;
            any |= member(self.out, any, &name, node, value);
        }
        Ok(any)
    }
}

/// Appends a member, if anything of it is wanted.
fn member(out: &mut Vec<u8>, follows: bool, name: &str, node: &Node, value: &RawValue) -> bool {
    let before = out.len();
    if follows {
        out.push(b',');
    }
    push_json_string(out, name);
    out.push(b':');
    let any = if node.whole {
        out.extend_from_slice(value.get().as_bytes());
        true
    } else {
        out.push(b'{');
        let mut json = serde_json::Deserializer::from_str(value.get());
        let any = Pick { node, out }.deserialize(&mut json).unwrap_or(false);
        out.push(b'}');
        any
    };
    if !any {
        out.truncate(before);
    }
    any
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn selection(pointers: &[&str]) -> Selection {
        Selection::new(&pointers.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn picked(pointers: &[&str], data: &str) -> Option<String> {
        selection(pointers).of(data.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn members_are_taken_over_byte_for_byte_in_their_order() {
        let data = r#"{"q": 1e2 , "s":{"b":[1, 2.50],"c":null,"d":0}, "p":97000.10,"x":{"y":1}}"#;
        assert_eq!(picked(&["/p", "/q"], data).unwrap(), r#"{"q":1e2,"p":97000.10}"#);
        assert_eq!(picked(&["/s/b", "/s/c", "/none"], data).unwrap(), r#"{"s":{"b":[1, 2.50],"c":null}}"#);
        assert_eq!(picked(&["/s", "/s/b"], data).unwrap(), r#"{"s":{"b":[1, 2.50],"c":null,"d":0}}"#);
        assert_eq!(picked(&["/a~1b", "/m~0n"], r#"{"a/b":1,"m~n":2,"a":{"b":3}}"#).unwrap(), r#"{"a/b":1,"m~n":2}"#);
    }

    #[test]
    fn what_has_none_of_them_gives_nothing() {
        for data in [r#"{"a":1}"#, r#"{"p":[1]}"#, "[1]", "7", r#"{"p":{"r":1}}"#] {
            assert_eq!(picked(&["/p/q"], data), None, "{data}");
        }
    }

    #[test]
    fn equal_selections_are_equal_and_wrong_pointers_are_named() {
        assert_eq!(selection(&["/a", "/b"]), selection(&["/b", "/a", "/a/c"]));
        for wrong in ["p", "", "/a~2", "/~"] {
            let words = Selection::new(&[wrong.to_owned()]).unwrap_err();
            assert!(words.contains("`/price`"), "{words}");
        }
        assert!(Selection::new(&[]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_picked_is_what_the_pointer_finds(
            data in "\\{(\"(a|b|c)\":([0-9]|\"x\"|null|\\{\"(a|b)\":[0-9]\\})(,\"d\":1)?)?\\}",
        ) {
            let value: Value = serde_json::from_str(&data).unwrap();
            let pointers = ["/a", "/b/a", "/c/b"];
            let picked = picked(&pointers, &data).map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
            for pointer in pointers {
                prop_assert_eq!(picked.pointer(pointer), value.pointer(pointer));
            }
        }
    }
}
