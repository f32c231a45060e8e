//! What a frame would mean in a dialect, for people: which rule decides, and what it takes out.
//!
//! Deliberately not here: what the conversation makes of it. Nothing is pending and no variable is set, so parts that come
//! from those are missing, and a comparison with a variable is false.

use super::WireFrame;
use super::field::Field;
use super::fill::Context;
use super::framing::Part;
use super::message::Message;
use super::rule::{Class, Fields, Rule};
use super::scan::Spans;
use super::schema::Dialect;
use super::value::Value;
use super::variables::Variables;
use crate::relay::time::Time;

/// One message of a frame, explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The message is valid in the dialect's framing.
    pub valid: bool,
    /// The message's text.
    pub text: Box<[u8]>,
    /// What the frame says about it.
    pub of_frame: Vec<Field<'static>>,
    /// The rule that decides, counted from 0 in the file, and what it says the message is; `None`: no rule matches.
    pub rule: Option<(usize, Class)>,
    /// What the rule takes out, by its keys: `channel`, `type`, `data`, …
    pub fields: Vec<(&'static str, String)>,
    /// What `each` takes out of each element.
    pub elements: Vec<Vec<(&'static str, String)>>,
}

impl Dialect {
    /// Explains every message of a frame. Control frames hold none.
    pub fn explain(&self, frame: &WireFrame) -> Vec<Explained> {
        let mut all = Vec::new();
        self.framing.read(&mut None, frame, &mut |part| match part {
            Part::Message { fields, text } => all.push(self.explain_message(fields, text)),
            Part::Malformed | Part::Broken(_) => all.push(self.explain_message(&[], &[])),
            _ => {}
        });
        all
    }

    fn explain_message(&self, of_frame: &[Field<'_>], bytes: &[u8]) -> Explained {
        let mut explained = Explained {
            valid: false,
            text: bytes.into(),
            of_frame: of_frame.iter().map(Field::owned).collect(),
            rule: None,
            fields: Vec::new(),
            elements: Vec::new(),
        };
        let mut spans = Spans::new();
        if self.pointers.scan(bytes, &mut spans).is_err() {
            return explained;
        }
        self.pointers.note(of_frame, &mut spans);
        explained.valid = true;
        let message = Message { bytes, spans: &spans };
        let mut variables = Variables::default();
        variables.fit(&self.names);
        let context = Context {
            variables: &variables,
            connection: "{}",
            token: None,
            id: 0,
            uuid: 0,
            now: Time::default(),
            channel: None,
            message: None,
            wish: super::Wish::default(),
            batch: &[],
            join: "",
            cursor: None,
            signs: &[],
            secrets: &[],
        };
        let Some(index) = self.rules.iter().position(|rule| rule.matches(&message, &context)) else { return explained };
        let rule = &self.rules[index];
        explained.rule = Some((index, rule.class));
        explained.fields = named_values(rule, &message, &context);
        explained.fields.extend(field_values(&rule.fields, &message, &context, rule.decode));
        if let Some(each) = &rule.each {
            let mut spans = Spans::new();
            for bytes in each.elements(&message) {
                if each.pointers.scan(bytes, &mut spans).is_err() {
                    continue;
                }
                each.pointers.note(of_frame, &mut spans);
                let element = Message { bytes, spans: &spans };
                let channel = each.channel.as_ref().and_then(|channel| channel.text(&element, &context));
                let mut fields: Vec<_> = channel.map(|channel| ("channel", channel.into_owned())).into_iter().collect();
                fields.extend(field_values(&each.fields, &element, &context, rule.decode));
                explained.elements.push(fields);
            }
        }
        explained
    }
}

fn named_values(rule: &Rule, message: &Message<'_>, context: &Context<'_>) -> Vec<(&'static str, String)> {
    let mut fields = Vec::new();
    let values: [(&'static str, &Option<Value>); 6] = [
        ("channel", &rule.channel),
        ("sub", &rule.sub),
        ("req", &rule.req),
        ("bind", &rule.bind),
        ("code", &rule.code),
        ("message", &rule.message),
    ];
    for (key, value) in values {
        if let Some(text) = value.as_ref().and_then(|value| value.words(message, context)) {
            fields.push((key, text.into_owned()));
        }
    }
    let checked = rule.checksum.and_then(|pointer| message.words(pointer));
    fields.extend(checked.map(|text| ("checksum", text.into_owned())));
    let retry_after = rule.retry_after.and_then(|pointer| message.text(pointer));
    fields.extend(retry_after.map(|text| ("retry_after", text.into_owned())));
    for (key, when) in [("lost", &rule.lost), ("resumed", &rule.resumed), ("forget", &rule.forget)] {
        if when.holds(message, context) {
            fields.push((key, "true".to_owned()));
        }
    }
    fields
}

fn field_values(
    fields: &Fields,
    message: &Message<'_>,
    context: &Context<'_>,
    decode: bool,
) -> Vec<(&'static str, String)> {
    let taken = fields.take(message, context, decode);
    let seq = taken.seq.map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    let values = [
        ("key", taken.key.map(|text| text.into_owned())),
        ("type", taken.kind.map(|text| text.into_owned())),
        ("id", taken.id.map(|text| text.into_owned())),
        ("seq", seq),
        ("ts", taken.ts.map(|ts| ts.rfc3339())),
        ("data", taken.data.map(|data| String::from_utf8_lossy(&data).into_owned())),
    ];
    values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}
