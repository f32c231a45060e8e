//! Filling a compiled template.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{Body, Hole, Member, Node, Piece, Template};
use crate::dialect::SendError;
use crate::dialect::fill::{Context, Filled, string_content};
use crate::dialect::variable::Variable;

impl Template {
    /// The template's text with its holes filled.
    pub(crate) fn render<'a>(&'a self, context: &Context<'a>) -> Result<String, SendError> {
        self.render_with(context, str::to_owned)
    }

    /// The same; in plain text every value passes through `escape`.
    pub(crate) fn render_with<'a>(
        &'a self,
        context: &Context<'a>,
        escape: impl Fn(&str) -> String,
    ) -> Result<String, SendError> {
        let mut out = String::new();
        match &self.body {
            Body::Json(node) => {
                if !write_node(node, context, &mut out)? {
                    out.push_str("null");
                }
            }
            Body::Text(pieces) => {
                for piece in pieces {
                    match piece {
                        Piece::Literal(text) => out.push_str(text),
                        Piece::Hole(hole) => {
                            if let Some(value) = filled(hole, context)? {
                                out.push_str(&escape(&value.into_text()));
                            }
                        }
                        Piece::List(hole) => {
                            for (at, channel) in context.batch.iter().enumerate() {
                                if at > 0 {
                                    out.push_str(context.join);
                                }
                                if let Some(value) = filled(hole, &Context { channel: Some(channel), ..*context })? {
                                    out.push_str(&escape(&value.into_text()));
                                }
                            }
                        }
                    }
                }
            }
        }
        Ok(out)
    }

    /// Plain text as bytes; what `raw` gives for a variable goes in as it is.
    pub(crate) fn render_bytes<'a>(
        &'a self,
        context: &Context<'a>,
        raw: &dyn Fn(&'a Variable) -> Option<Vec<u8>>,
    ) -> Result<Vec<u8>, SendError> {
        let Body::Text(pieces) = &self.body else { return self.render(context).map(String::into_bytes) };
        let mut out = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
                // Lists stand in addresses and subscribes only.
                Piece::List(_) => {}
                Piece::Hole(hole) => match raw(&hole.variable) {
                    Some(bytes) => out.extend_from_slice(&bytes),
                    None => {
                        let value = filled(hole, context)?.map(Filled::into_text).unwrap_or_default();
                        out.extend_from_slice(value.as_bytes());
                    }
                },
            }
        }
        Ok(out)
    }

    /// An address: every value passes through `escape`, but for one at its very beginning, which is an address itself.
    pub(crate) fn render_address<'a>(
        &'a self,
        context: &Context<'a>,
        escape: impl Fn(&str) -> String,
    ) -> Result<String, SendError> {
        let begins = matches!(&self.body, Body::Text(pieces) if matches!(pieces.first(), Some(Piece::Hole(_))));
        let first = std::cell::Cell::new(begins);
        self.render_with(context, |value| if first.replace(false) { value.to_owned() } else { escape(value) })
    }

    /// Whether it has holes and none of them has a value: what is left is no value, but the frame of one (`Bearer `).
    pub(crate) fn is_unset(&self, context: &Context<'_>) -> bool {
        let holes = self.holes();
        !holes.is_empty() && holes.iter().all(|(variable, _, _)| context.fill(variable).is_none())
    }
}

/// The hole's value; `None`: it may be unset and is.
fn filled<'a>(hole: &'a Hole, context: &Context<'a>) -> Result<Option<Filled<'a>>, SendError> {
    match context.fill(&hole.variable) {
        None if !hole.optional => Err(SendError::Unset(hole.name.to_string())),
        value => Ok(value),
    }
}

/// Writes a value; `false`: it is unset and nothing is written.
fn write_node<'a>(node: &'a Node, context: &Context<'a>, out: &mut String) -> Result<bool, SendError> {
    match node {
        Node::Raw(raw) => out.push_str(raw),
        Node::Hole(hole) => match filled(hole, context)? {
            None => return Ok(false),
            Some(Filled::Text(text)) => write_string(&text, out),
            Some(Filled::Json(json) | Filled::Document(json)) => out.push_str(&json),
        },
        Node::List(hole) => write_list(hole, context, out)?,
        Node::Text(pieces) => return write_text(pieces, context, out),
        Node::Object(members) => write_object(members, context, out)?,
        Node::Array(elements) => write_array(elements, context, out)?,
    }
    Ok(true)
}

fn write_list<'a>(hole: &'a Hole, context: &Context<'a>, out: &mut String) -> Result<(), SendError> {
    out.push('[');
    for (at, channel) in context.batch.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        let value = filled(hole, &Context { channel: Some(channel), ..*context })?;
        write_string(&value.map(Filled::into_text).unwrap_or_default(), out);
    }
    out.push(']');
    Ok(())
}

/// A string that holds nothing but one unset hole is unset itself.
fn write_text<'a>(pieces: &'a [Piece], context: &Context<'a>, out: &mut String) -> Result<bool, SendError> {
    if let [Piece::Hole(hole)] = pieces
        && filled(hole, context)?.is_none()
    {
        return Ok(false);
    }
    out.push('"');
    for piece in pieces {
        match piece {
            Piece::Literal(escaped) => out.push_str(escaped),
            // Stands in plain text only.
            Piece::List(_) => {}
            Piece::Hole(hole) => match filled(hole, context)? {
                None => {}
                Some(Filled::Json(json)) => match string_content(&json) {
                    Some(escaped) => out.push_str(escaped),
                    None => write_escaped(&json, out),
                },
                Some(Filled::Text(text) | Filled::Document(text)) => write_escaped(&text, out),
            },
        }
    }
    out.push('"');
    Ok(true)
}

fn write_object<'a>(members: &'a [Member], context: &Context<'a>, out: &mut String) -> Result<(), SendError> {
    let open = out.len();
    out.push('{');
    let comma = |out: &mut String| {
        if out.len() > open + 1 {
            out.push(',');
        }
    };
    for member in members {
        let before = out.len();
        match member {
            Member::Named { raw, value, .. } => {
                comma(out);
                out.push_str(raw);
                out.push(':');
                if !write_node(value, context, out)? {
                    out.truncate(before);
                }
            }
            Member::Merge(hole) => {
                let Some(value) = filled(hole, context)? else { continue };
                let (Filled::Text(json) | Filled::Json(json) | Filled::Document(json)) = value;
                let merged: BTreeMap<String, &RawValue> = serde_json::from_str(&json)
                    .map_err(|_| SendError::Invalid(format!("{{{}}} must be a JSON object", hole.name)))?;
                for (name, value) in merged {
                    let named =
                        |member: &Member| matches!(member, Member::Named { name: known, .. } if **known == *name);
                    if !members.iter().any(named) {
                        comma(out);
                        write_string(&name, out);
                        out.push(':');
                        out.push_str(value.get());
                    }
                }
            }
        }
    }
    out.push('}');
    Ok(())
}

/// Unset elements become `null`, at the end they are left out.
fn write_array<'a>(elements: &'a [Node], context: &Context<'a>, out: &mut String) -> Result<(), SendError> {
    let open = out.len();
    out.push('[');
    let mut end = out.len();
    for element in elements {
        if out.len() > open + 1 {
            out.push(',');
        }
        if write_node(element, context, out)? {
            end = out.len();
        } else {
            out.push_str("null");
        }
    }
    out.truncate(end);
    out.push(']');
    Ok(())
}

/// A JSON string.
pub(crate) fn write_string(text: &str, out: &mut String) {
    out.push('"');
    write_escaped(text, out);
    out.push('"');
}

/// What stands between a JSON string's quotes.
fn write_escaped(text: &str, out: &mut String) {
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => {
                let code = u32::from(control);
                out.push_str("\\u00");
                out.extend([code >> 4, code & 0xF].iter().filter_map(|digit| char::from_digit(*digit, 16)));
            }
            char => out.push(char),
        }
    }
}
