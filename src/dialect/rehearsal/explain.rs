//! A frame explained in words: which rule decides about each message in it, what it takes out, and what is heard.
//!
//! What is heard is what a fresh conversation hears: nothing was asked for before, no subscription id is bound, no variable
//! is set. Where no rule matches, every rule shows what stands at the places that it looks at.

use std::fmt::Write as _;
use std::sync::Arc;

use super::BEGIN;
use super::line::{Names, excerpt, heard};
use crate::dialect::scan::{PointerSet, Spans};
use crate::dialect::value;
use crate::dialect::{Carried, ChannelId, Conversation, Dialect, Explained, LoadError, WireFrame};

/// A fresh conversation knows no channels by number.
struct NoNames;

impl Names for NoNames {
    fn name(&self, _: ChannelId) -> &str {
        "?"
    }
}

/// Explains a frame to a person. `origin` names the dialect's file.
pub fn explain(origin: &str, text: &str, frame: &WireFrame) -> Result<String, Vec<LoadError>> {
    let dialect = Arc::new(Dialect::parse(origin, text)?);
    let rules = Rules::of(origin, text);
    let mut out = String::new();
    for (number, explained) in dialect.explain(frame).iter().enumerate() {
        message(&mut out, number + 1, explained, &rules);
    }
    let mut conversation = Conversation::new(dialect, Carried::new(0), serde_json::Map::new(), None);
    conversation.opened(BEGIN, &mut |_| {});
    let before = out.len();
    conversation.receive(BEGIN, frame, &mut |what| {
        line(&mut out, format_args!("heard: {}", heard(&what, &NoNames, &|_| true)))
    });
    if out.len() == before {
        out += "heard: nothing (yet: an event waits until its subscription id is known)\n";
    }
    Ok(out)
}

fn line(out: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{words}");
}

fn message(out: &mut String, number: usize, explained: &Explained, rules: &Rules<'_>) {
    if !explained.valid {
        let fault = PointerSet::new().scan(&explained.text, &mut Spans::new()).err();
        let fault = fault.map(|fault| format!(": {fault}")).unwrap_or_default();
        return line(out, format_args!("message {number} is malformed{fault}"));
    }
    match explained.rule {
        Some((rule, class)) => {
            line(out, format_args!("message {number}: rule {} ({}), {}", rule + 1, rules.place(rule), class.word()));
            rules.conditions(out, rule, explained);
            fields(out, "  ", &explained.fields);
            for (at, element) in explained.elements.iter().enumerate() {
                line(out, format_args!("  element {}", at + 1));
                fields(out, "    ", element);
            }
        }
        None => {
            line(out, format_args!("message {number}: no rule matches"));
            for rule in 0..rules.tables.len() {
                line(out, format_args!(" not rule {} ({}):", rule + 1, rules.place(rule)));
                rules.conditions(out, rule, explained);
            }
        }
    }
}

fn fields(out: &mut String, indent: &str, fields: &[(&'static str, String)]) {
    for (key, value) in fields {
        line(out, format_args!("{indent}{key:<12} {}", excerpt(value.as_bytes())));
    }
}

/// The rules as the file has them.
struct Rules<'a> {
    origin: &'a str,
    tables: Vec<toml::Value>,
    /// Where they begin.
    lines: Vec<usize>,
}

impl<'a> Rules<'a> {
    fn of(origin: &'a str, text: &str) -> Self {
        // What a dialect was loaded from is TOML.
        let mut file: toml::Table = text.parse().unwrap_or_default();
        let tables = match file.remove("on") {
            Some(toml::Value::Array(tables)) => tables,
            _ => Vec::new(),
        };
        let headers = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("[[on]]"));
        let lines = headers.map(|(number, _)| number + 1).collect();
        Self { origin, tables, lines }
    }

    fn place(&self, rule: usize) -> String {
        self.lines.get(rule).map_or_else(|| self.origin.to_owned(), |line| format!("{}:{line}", self.origin))
    }

    /// What stands where the rule's conditions look.
    fn conditions(&self, out: &mut String, rule: usize, explained: &Explained) {
        let conditions = self.tables.get(rule).and_then(|rule| rule.get("match")?.as_table());
        for pointer in conditions.into_iter().flat_map(|table| table.keys()) {
            let text = &*explained.text;
            let mut set = PointerSet::new();
            let Ok(id) = value::pointer(pointer, &mut set) else { continue };
            let mut spans = Spans::new();
            if set.scan(text, &mut spans).is_err() {
                continue;
            }
            set.note(&explained.of_frame, &mut spans);
            let found = spans.get(id).map_or_else(|| "(missing)".to_owned(), |span| excerpt(spans.bytes(text, span)));
            line(out, format_args!("  match {pointer:?} is {found}"));
        }
    }
}
