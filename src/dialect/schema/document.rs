//! A TOML file with the place of every key and value, and a collector of everything that is wrong with it.
//!
//! Invariant: reading never stops at the first fault; each key that nobody asked for is a fault.
//! Deliberately not here: what the keys mean.

use toml_edit::{Item, Table, TableLike, Value};

use super::LoadError;

/// Collects faults by byte offset.
#[derive(Debug, Default)]
pub(super) struct Faults {
    list: Vec<(usize, String)>,
}

impl Faults {
    pub(super) fn add(&mut self, at: usize, reason: impl Into<String>) {
        self.list.push((at, reason.into()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// In the order of their places.
    pub(super) fn into_errors(mut self, origin: &str, text: &str) -> Vec<LoadError> {
        self.list.sort_by_key(|(at, _)| *at);
        let error = |(at, reason): (usize, String)| {
            let before = text.get(..at).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            LoadError {
                origin: origin.into(),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                reason,
            }
        };
        self.list.into_iter().map(error).collect()
    }
}

/// A value in the file.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// Where it begins.
    pub(super) at: usize,
    file: &'a str,
    node: Node<'a>,
}

#[derive(Clone, Copy)]
enum Node<'a> {
    Item(&'a Item),
    Value(&'a Value),
    Table(&'a Table),
}

/// A text in the file.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) value: &'a str,
    /// Where the value begins, quote included.
    pub(super) at: usize,
    /// Where its content begins, if it stands in the file without escapes.
    content: Option<usize>,
}

impl Text<'_> {
    /// The place of the content's byte `offset`; the value's where escapes make that unknown.
    pub(super) fn place(&self, offset: usize) -> usize {
        self.content.map_or(self.at, |content| content + offset)
    }
}

impl<'a> Place<'a> {
    /// The whole file.
    pub(super) fn root(file: &'a str, table: &'a Table) -> Self {
        Place { at: 0, file, node: Node::Table(table) }
    }

    fn value(&self) -> Option<&'a Value> {
        match self.node {
            Node::Item(item) => item.as_value(),
            Node::Value(value) => Some(value),
            Node::Table(_) => None,
        }
    }

    fn table(&self) -> Option<&'a dyn TableLike> {
        match self.node {
            Node::Item(item) => item.as_table_like(),
            Node::Value(value) => value.as_inline_table().map(|table| table as &dyn TableLike),
            Node::Table(table) => Some(table),
        }
    }

    pub(super) fn is_table(&self) -> bool {
        self.table().is_some()
    }

    pub(super) fn text(&self) -> Option<Text<'a>> {
        let value = self.value()?;
        Some(Text { value: value.as_str()?, at: self.at, content: content_start(self.file, value) })
    }

    pub(super) fn integer(&self) -> Option<i64> {
        self.value()?.as_integer()
    }

    pub(super) fn float(&self) -> Option<f64> {
        self.value()?.as_float()
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        self.value()?.as_bool()
    }

    /// The elements of an array, or the tables of `[[name]]`.
    pub(super) fn elements(&self) -> Option<Vec<Place<'a>>> {
        let file = self.file;
        if let Node::Item(Item::ArrayOfTables(tables)) = self.node {
            let place = |table: &'a Table| Place { at: start(table.span(), self.at), file, node: Node::Table(table) };
            return Some(tables.iter().map(place).collect());
        }
        let place = |value: &'a Value| Place { at: start(value.span(), self.at), file, node: Node::Value(value) };
        Some(self.value()?.as_array()?.iter().map(place).collect())
    }

    /// Its keys with their places and values, in the order of the file.
    pub(super) fn entries(&self) -> Vec<(&'a str, usize, Place<'a>)> {
        let Some(table) = self.table() else { return Vec::new() };
        let entry = |(key, item): (&'a str, &'a Item)| {
            let key_at = start(table.key(key).and_then(toml_edit::Key::span), self.at);
            (key, key_at, Place { at: start(item.span(), key_at), file: self.file, node: Node::Item(item) })
        };
        table.iter().map(entry).collect()
    }
}

fn start(span: Option<std::ops::Range<usize>>, otherwise: usize) -> usize {
    span.map_or(otherwise, |span| span.start)
}

/// Where a string's content begins, if the file has it as it is.
fn content_start(file: &str, value: &Value) -> Option<usize> {
    let span = value.span()?;
    let raw = file.get(span.clone())?;
    let quotes = ["'''", "\"\"\"", "'", "\""].into_iter().find(|quotes| raw.starts_with(quotes))?;
    if quotes.starts_with('"') && raw.contains('\\') {
        return None;
    }
    let content = &raw[quotes.len()..];
    // A newline right after three quotes is no part of the text.
    let newline = match quotes.len() {
        3 if content.starts_with("\r\n") => 2,
        3 if content.starts_with('\n') => 1,
        _ => 0,
    };
    Some(span.start + quotes.len() + newline)
}

/// A table whose keys are asked for one by one.
pub(super) struct Section<'a> {
    /// Where it begins.
    pub(super) at: usize,
    entries: Vec<(&'a str, usize, Place<'a>)>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// Of a table; anything else is a fault, told by `name`, and reads as empty.
    pub(super) fn new(name: &'static str, place: Place<'a>, faults: &mut Faults) -> Self {
        if !place.is_table() {
            faults.add(place.at, format!("{name} must be a table"));
        }
        Section { at: place.at, entries: place.entries(), known: Vec::new() }
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<Place<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.entries.iter().find(|entry| entry.0 == key).map(|entry| entry.2)
    }

    /// Whether the key was asked for.
    pub(super) fn knows(&self, key: &str) -> bool {
        self.known.contains(&key)
    }

    pub(super) fn text(&mut self, key: &'static str, faults: &mut Faults) -> Option<Text<'a>> {
        let place = self.take(key)?;
        let text = place.text();
        if text.is_none() {
            faults.add(place.at, format!("`{key}` must be a text"));
        }
        text
    }

    pub(super) fn boolean(&mut self, key: &'static str, faults: &mut Faults) -> Option<bool> {
        let place = self.take(key)?;
        let value = place.boolean();
        if value.is_none() {
            faults.add(place.at, format!("`{key}` must be true or false"));
        }
        value
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number(&mut self, key: &'static str, least: u32, most: u32, faults: &mut Faults) -> Option<u32> {
        let place = self.take(key)?;
        let value = place.integer().and_then(|n| u32::try_from(n).ok()).filter(|n| (least..=most).contains(n));
        if value.is_none() {
            faults.add(place.at, format!("`{key}` must be a whole number from {least} to {most}"));
        }
        value
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, key: &'static str, faults: &mut Faults) -> Vec<Text<'a>> {
        let Some(place) = self.take(key) else { return Vec::new() };
        let Some(elements) = place.elements() else {
            faults.add(place.at, format!("`{key}` must be a list of texts"));
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(elements.len());
        for element in elements {
            match element.text() {
                Some(text) => texts.push(text),
                None => faults.add(element.at, format!("`{key}` must be a list of texts")),
            }
        }
        texts
    }

    /// A table within this one.
    pub(super) fn section(&mut self, key: &'static str, faults: &mut Faults) -> Option<Section<'a>> {
        let place = self.take(key)?;
        Some(Section::new(key, place, faults))
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
        faults: &mut Faults,
    ) -> Option<T> {
        let text = self.text(key, faults)?;
        let found = words.iter().find(|(word, _)| *word == text.value).map(|(_, value)| *value);
        if found.is_none() {
            let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            faults.add(text.at, format!("unknown variant `{}`, expected one of {}", text.value, quoted(&list)));
        }
        found
    }

    /// All keys were asked for: the others are faults.
    pub(super) fn finish(self, faults: &mut Faults) {
        for (key, key_at, _) in &self.entries {
            if !self.known.contains(key) {
                faults.add(*key_at, format!("unknown field `{key}`, expected one of {}", quoted(&self.known)));
            }
        }
    }
}

/// `` `a`, `b` ``
pub(super) fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
