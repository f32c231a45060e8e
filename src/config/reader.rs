//! Reads one key after another out of the merged sources, each in the form that its owner wants, and collects what is wrong.
//!
//! Invariant: a read never fails; it takes the default and leaves a complaint with place and cure. Every key that is asked
//! for is known from then on; what nobody asked for is an unknown key.
//! Deliberately not here: what the keys are (`sections`) and what fits together (`validate`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use figment::value::{Dict, Num, Value};

use super::places::{Place, Places};
use super::{BackoffConfig, size};
use crate::protocol::duration;

/// What is wrong with the configuration, where, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where the value came from.
    pub place: Place,
    /// What is wrong, beginning with the key.
    pub message: String,
    /// How to mend it.
    pub cure: String,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.message, self.cure)
    }
}

/// A value that did not come from the file.
#[derive(Debug, Clone)]
pub(super) struct Override {
    /// Its text before it was read as a number or list: secrets and names keep it.
    pub raw: String,
    /// Which variable or argument.
    pub place: Place,
}

/// The merged sources, and what was found wrong in them so far.
pub(super) struct Reader {
    pub root: Dict,
    pub path: String,
    pub places: Places,
    pub overrides: BTreeMap<String, Override>,
    pub known: BTreeSet<String>,
    pub errors: Vec<ConfigError>,
    pub warnings: Vec<ConfigError>,
}

impl Reader {
    /// Where the value of a key came from, or where it should have stood.
    pub fn place(&self, key: &str) -> Place {
        let mut around = key;
        loop {
            if let Some(found) = self.overrides.get(around) {
                return found.place.clone();
            }
            match around.rfind(['.', '[']) {
                Some(at) => around = &around[..at],
                None => break,
            }
        }
        match self.places.nearest(key) {
            Some((line, column)) => Place::File { path: self.path.clone(), line, column },
            None if self.path.is_empty() => Place::Nowhere,
            None => Place::File { path: self.path.clone(), line: 1, column: 1 },
        }
    }

    /// Leaves a complaint about a key.
    pub fn complain(&mut self, key: &str, message: impl std::fmt::Display, cure: impl Into<String>) {
        let error = ConfigError { place: self.place(key), message: format!("{key}: {message}"), cure: cure.into() };
        self.errors.push(error);
    }

    /// Leaves a warning about a key.
    pub fn warn(&mut self, key: &str, message: impl std::fmt::Display, cure: impl Into<String>) {
        let warning = ConfigError { place: self.place(key), message: format!("{key}: {message}"), cure: cure.into() };
        self.warnings.push(warning);
    }

    /// The value of a key, which is known from now on.
    pub fn value(&mut self, key: &str) -> Option<Value> {
        self.known.insert(without_indices(key));
        look_up(&self.root, key).cloned()
    }

    /// Whether somebody said something for this key.
    pub fn has(&mut self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// A table's members; `form` shows what it looks like. None if nothing is given, or with a complaint something else.
    pub fn table(&mut self, key: &str, form: &str) -> Option<Dict> {
        match self.value(key)? {
            Value::Dict(_, members) => Some(members),
            other => {
                self.complain(key, format!("must be a table, not {}", kind(&other)), format!("write {form}"));
                None
            }
        }
    }

    /// How many elements an array of tables has.
    pub fn tables(&mut self, key: &str) -> usize {
        match self.value(key) {
            None => 0,
            Some(Value::Array(_, elements)) => elements.len(),
            Some(_) => {
                self.complain(key, "is not a list of tables", format!("write [[{key}]] above each of them"));
                0
            }
        }
    }

    /// A text. Numbers given by environment or `--set` keep their digits.
    pub fn text(&mut self, key: &str) -> Option<String> {
        let value = self.value(key)?;
        match (&value, self.overrides.get(key)) {
            (Value::String(_, text), _) => Some(text.clone()),
            (Value::Char(_, c), _) => Some(c.to_string()),
            (Value::Num(..) | Value::Bool(..) | Value::Empty(..), Some(given)) => Some(given.raw.clone()),
            _ => {
                self.complain(key, format!("must be a text, not {}", kind(&value)), "put it into double quotes");
                None
            }
        }
    }

    /// A text that may be left empty for "none".
    pub fn optional_text(&mut self, key: &str) -> Option<String> {
        self.text(key).filter(|text| !text.is_empty())
    }

    /// A path; empty is none.
    pub fn optional_path(&mut self, key: &str) -> Option<PathBuf> {
        self.optional_text(key).map(PathBuf::from)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.value(key) {
            None => default,
            Some(Value::Bool(_, flag)) => flag,
            Some(other) => {
                self.complain(
                    key,
                    format!("must be true or false, not {}", kind(&other)),
                    "write true or false without quotes",
                );
                default
            }
        }
    }

    /// A whole number within `range`.
    pub fn count<T>(&mut self, key: &str, default: T, range: RangeInclusive<u64>) -> T
    where
        T: TryFrom<u64>,
    {
        let cure = format!("write a whole number from {} to {}", range.start(), range.end());
        match self.value(key) {
            None => default,
            Some(Value::Num(_, number)) => {
                let fits = whole(&number).filter(|n| range.contains(n)).and_then(|n| T::try_from(n).ok());
                if fits.is_none() {
                    self.complain(key, format!("{} is out of range", shown(&number)), cure);
                }
                fits.unwrap_or(default)
            }
            Some(other) => {
                self.complain(key, format!("must be a number, not {}", kind(&other)), cure);
                default
            }
        }
    }

    /// A duration within `range`.
    pub fn duration(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let (low, high) = (duration::write(*range.start()), duration::write(*range.end()));
        let cure = format!("write a whole number and its unit (ms, s, m, h, d), from \"{low}\" to \"{high}\"");
        let Some(value) = self.value(key) else { return default };
        let read = value.as_str().and_then(duration::parse);
        match read {
            Some(read) if range.contains(&read) => read,
            Some(read) => {
                self.complain(key, format!("{} is out of range", duration::write(read)), cure);
                default
            }
            None => {
                self.complain(key, format!("{} is not a duration", quoted(&value)), cure);
                default
            }
        }
    }

    /// A duration, or none if the text is empty or `off`.
    pub fn optional_duration(&mut self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        match self.value(key)?.as_str() {
            Some("" | "off") => None,
            _ => Some(self.duration(key, *range.start(), range)),
        }
    }

    /// A size in bytes within `range`.
    pub fn size<T>(&mut self, key: &str, default: T, range: RangeInclusive<u64>) -> T
    where
        T: TryFrom<u64>,
    {
        let (low, high) = (size::write(*range.start()), size::write(*range.end()));
        let cure = format!("write bytes, or a whole number and its unit (KiB, MiB, GiB), from \"{low}\" to \"{high}\"");
        let Some(value) = self.value(key) else { return default };
        let read = match &value {
            Value::Num(_, number) => whole(number),
            other => other.as_str().and_then(size::parse),
        };
        match read {
            Some(read) if range.contains(&read) => T::try_from(read).unwrap_or(default),
            Some(read) => {
                self.complain(key, format!("{} is out of range", size::write(read)), cure);
                default
            }
            None => {
                self.complain(key, format!("{} is not a size", quoted(&value)), cure);
                default
            }
        }
    }

    /// A part of something in whole percent, as `"10%"`.
    pub fn percent(&mut self, key: &str, default: u8, range: RangeInclusive<u8>) -> u8 {
        let Some(text) = self.text(key) else { return default };
        let read = text.strip_suffix('%').and_then(|number| number.parse().ok());
        read.filter(|percent| range.contains(percent)).unwrap_or_else(|| {
            let cure = format!("write whole percent from \"{}%\" to \"{}%\"", range.start(), range.end());
            self.complain(key, format!("\"{text}\" is no such part"), cure);
            default
        })
    }

    /// A list of texts; one text alone is a list of one.
    pub fn list(&mut self, key: &str, default: &[String]) -> Vec<String> {
        let Some(value) = self.value(key) else { return default.to_vec() };
        match &value {
            Value::String(..) => self.text(key).filter(|text| !text.is_empty()).into_iter().collect(),
            Value::Array(_, elements) => {
                let texts: Option<Vec<String>> = elements.iter().map(|e| e.as_str().map(str::to_owned)).collect();
                if texts.is_none() {
                    self.complain(key, "holds something that is no text", "put each element into double quotes");
                }
                texts.unwrap_or_else(|| default.to_vec())
            }
            other => {
                self.complain(key, format!("must be a list, not {}", kind(other)), "write [\"a\", \"b\"]");
                default.to_vec()
            }
        }
    }

    /// One of several words.
    pub fn word<T: Copy>(&mut self, key: &str, default: T, words: &[(&str, T)]) -> T {
        let Some(text) = self.text(key) else { return default };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.complain(key, format!("\"{text}\" is none of its words"), format!("write one of {}", all.join(", ")));
        default
    }

    /// `{ min = "…", max = "…" }`
    pub fn backoff(&mut self, key: &str, default: BackoffConfig) -> BackoffConfig {
        self.table(key, "{ min = \"500ms\", max = \"60s\" }");
        let range = Duration::from_millis(1)..=Duration::from_secs(86_400);
        let min = self.duration(&format!("{key}.min"), default.min, range.clone());
        let max = self.duration(&format!("{key}.max"), default.max, range);
        if min > max {
            let message = format!("min {} is above max {}", duration::write(min), duration::write(max));
            self.complain(key, message, "raise max or lower min");
            return default;
        }
        BackoffConfig { min, max }
    }
}

/// `channels[3].match` is known as `channels[].match`.
pub(super) fn without_indices(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut inside = false;
    for c in key.chars() {
        inside &= c != ']';
        if !inside {
            out.push(c);
        }
        inside |= c == '[';
    }
    out
}

fn look_up<'a>(root: &'a Dict, key: &str) -> Option<&'a Value> {
    let mut members = Some(root);
    let mut found: Option<&Value> = None;
    for segment in key.split('.') {
        let (name, index) = match segment.split_once('[') {
            Some((name, rest)) => (name, rest.strip_suffix(']')?.parse::<usize>().ok()),
            None => (segment, None),
        };
        let mut value = members?.get(name)?;
        if let Some(index) = index {
            value = value.as_array()?.get(index)?;
        }
        members = value.as_dict();
        found = Some(value);
    }
    found
}

fn whole(number: &Num) -> Option<u64> {
    number
        .to_u128()
        .or_else(|| number.to_i128().and_then(|n| u128::try_from(n).ok()))
        .and_then(|n| u64::try_from(n).ok())
}

fn shown(number: &Num) -> String {
    number
        .to_u128()
        .map(|n| n.to_string())
        .or_else(|| number.to_i128().map(|n| n.to_string()))
        .or_else(|| number.to_f64().map(|n| n.to_string()))
        .unwrap_or_default()
}

fn quoted(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("\"{text}\""),
        Value::Num(_, number) => shown(number),
        other => kind(other).to_owned(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(..) | Value::Char(..) => "a text",
        Value::Bool(..) => "true or false",
        Value::Num(..) => "a number",
        Value::Empty(..) => "nothing",
        Value::Dict(..) => "a table",
        Value::Array(..) => "a list",
    }
}
