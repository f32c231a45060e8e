//! A JSON object taken apart one level deep, its values left as text.
//!
//! Invariant: no field is lost. What nobody took is still there to be named in a refusal; a field that stands twice is
//! refused, because no two readers agree which one counts.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Most fields of one object.
const MOST: usize = 256;

/// The fields of an object in their order.
pub(in crate::protocol) struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// Takes an object apart, or says why it cannot.
    pub(in crate::protocol) fn read(text: &'a str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    /// All fields.
    pub(in crate::protocol) fn into_list(self) -> Vec<(String, &'a RawValue)> {
        self.0
    }

    /// Takes a field's text out; `None` if it is missing.
    pub(super) fn take_any(&mut self, name: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.swap_remove(at).1.get())
    }

    /// Takes a field's text out; `None` if it is missing or null.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a str> {
        self.take_any(name).filter(|text| *text != "null")
    }

    /// A field that nobody took.
    pub(super) fn left(&self) -> Option<&str> {
        self.0.first().map(|(name, _)| name.as_str())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Collect).map(Fields)
    }
}

struct Collect;

impl<'de> Visitor<'de> for Collect {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut list: Vec<(String, &RawValue)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            if list.len() == MOST {
                return Err(A::Error::custom(format_args!("more than {MOST} fields in one object")));
            }
            if list.iter().any(|(n, _)| *n == name) {
                return Err(A::Error::custom(format_args!(
                    "give the field `{}` once, it stands twice",
                    name.escape_debug()
                )));
            }
            list.push((name, value));
        }
        Ok(list)
    }
}
