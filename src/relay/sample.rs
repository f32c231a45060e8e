//! Samples of messages from upstream that were not understood: the first sign that a service changed its API.
//!
//! Invariants: at most one sample in [`EVERY`], what is left out is counted; a bounded number of shapes is remembered, and how
//! much work they make is bounded, too; a sample is one JSON text that a dialect can be held against, and shows a
//! message's shape and its short words, never a long text, for that is where secrets and personal data stand.

use std::time::Duration;

use serde_json::Value;

use super::redact::{Redactor, TELLING};
use super::time::{Mono, Time, Wall};
use crate::dialect::WireFrame;

/// Between two samples.
const EVERY: Duration = Duration::from_secs(10);
/// Messages that are looked at in one [`WINDOW`]; the rest is counted.
const LOOKS: u32 = 8;
/// See [`LOOKS`].
const WINDOW: Duration = Duration::from_secs(1);
/// Shapes that are remembered.
const SHAPES_MAX: usize = 16;
/// Longest text that is shown as it is, if it looks like a word of the protocol.
const WORD_MAX: usize = 24;
/// Elements of an array that are shown.
const ELEMENTS_MAX: usize = 4;
/// Depth that is shown.
const DEPTH_MAX: usize = 6;
/// Bytes of a sample.
const SAMPLE_MAX: usize = 600;

/// Messages of one shape, as far as they were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Why they were not understood.
    pub why: &'static str,
    /// The first one.
    pub sample: String,
    /// How many were looked at.
    pub count: u64,
    /// When the first one came.
    pub first: Wall,
    /// When the last one came.
    pub last: Wall,
    /// What makes them alike.
    skeleton: String,
}

/// Paces the samples and remembers the shapes.
#[derive(Debug, Default)]
pub struct Samples {
    next: Mono,
    left_out: u64,
    seen: Vec<Seen>,
    /// Messages of shapes beyond those remembered.
    others: u64,
    window: Mono,
    looked: u32,
}

impl Samples {
    /// Takes a message that was not understood. Gives a sample of it, and how many were left out since the last one; `None` if
    /// it is too soon.
    pub fn take(
        &mut self,
        now: Time,
        why: &'static str,
        frame: &WireFrame,
        secrets: &Redactor,
    ) -> Option<(String, u64)> {
        if now.mono >= self.window {
            (self.window, self.looked) = (now.mono + WINDOW, 0);
        }
        self.looked = self.looked.saturating_add(1);
        let told = now.mono >= self.next;
        if self.looked > LOOKS && !told {
            self.left_out += 1;
            return None;
        }
        let (sample, skeleton) = shape(frame);
        let sample = secrets.text(&sample);
        self.remember(now.wall, why, &sample, skeleton);
        if !told {
            self.left_out += 1;
            return None;
        }
        self.next = now.mono + EVERY;
        Some((sample, std::mem::take(&mut self.left_out)))
    }

    fn remember(&mut self, now: Wall, why: &'static str, sample: &str, skeleton: String) {
        let full = self.seen.len() >= SHAPES_MAX;
        let known = self.seen.iter_mut().find(|seen| seen.why == why && seen.skeleton == skeleton);
        match known {
            Some(seen) => {
                seen.count += 1;
                seen.last = now;
            }
            None if !full => {
                let sample = sample.to_owned();
                self.seen.push(Seen { why, sample, count: 1, first: now, last: now, skeleton });
            }
            None => self.others += 1,
        }
    }

    /// The shapes, in the order in which they came first.
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// How many messages had yet another shape.
    pub fn others(&self) -> u64 {
        self.others
    }
}

/// The message without what may be secret, and what it has in common with others of its kind.
fn shape(frame: &WireFrame) -> (String, String) {
    let bytes = frame.body();
    let value = match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => value,
        Err(error) => {
            let text = format!("{} bytes, not one JSON text: {error}", bytes.len());
            return (text, "not JSON".to_owned());
        }
    };
    // As much of it as there is room for, so that it stays one JSON text.
    let room = [(DEPTH_MAX, 64), (4, 24), (3, 12), (2, 8), (1, 4)];
    let mut texts = room.into_iter().map(|(depth, members)| veil(&value, depth, members).to_string());
    let fitting = texts.clone().find(|text| text.len() <= SAMPLE_MAX);
    let mut text = fitting.or_else(|| texts.next_back()).unwrap_or_default();
    if text.len() > SAMPLE_MAX {
        text.truncate(text.floor_char_boundary(SAMPLE_MAX));
        text.push('…');
    }
    (text, bare(&veil(&value, 3, 24)).to_string())
}

fn veil(value: &Value, depth: usize, members: usize) -> Value {
    match value {
        Value::String(text) if is_word(text) => value.clone(),
        Value::String(text) => Value::String(format!("<{} characters>", text.chars().count())),
        Value::Array(_) | Value::Object(_) if depth == 0 => Value::String("<deeper>".into()),
        Value::Array(list) => {
            Value::Array(list.iter().take(ELEMENTS_MAX).map(|item| veil(item, depth - 1, members)).collect())
        }
        Value::Object(map) => {
            let veiled = |(name, item): (&String, &Value)| {
                let secret = item.is_string() && TELLING.contains(&name.to_ascii_lowercase().as_str());
                let item = if secret { Value::String("***".into()) } else { veil(item, depth - 1, members) };
                (name.clone(), item)
            };
            Value::Object(map.iter().take(members).map(veiled).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// The same for every message of a kind: numbers, truth values and texts that are no words do not count.
fn bare(value: &Value) -> Value {
    match value {
        Value::Array(list) => Value::Array(list.iter().take(1).map(bare).collect()),
        Value::Object(map) => Value::Object(map.iter().map(|(name, item)| (name.clone(), bare(item))).collect()),
        Value::String(text) if text.starts_with('<') => Value::String("<>".into()),
        Value::Number(_) => Value::from(0),
        Value::Bool(_) => Value::Bool(false),
        Value::String(_) | Value::Null => value.clone(),
    }
}

/// Types and channel names are short and plain; tokens are long or mixed.
fn is_word(text: &str) -> bool {
    text.len() <= WORD_MAX
        && text.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'-' | b':' | b'.' | b'@'))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn text(text: &str) -> WireFrame {
        WireFrame::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn at(after: Duration) -> Time {
        Time { mono: Mono(0) + after, wall: Wall(0) + after }
    }

    fn take(samples: &mut Samples, after: Duration, json: &str) -> Option<(String, u64)> {
        samples.take(at(after), "unmatched", &text(json), &Redactor::default())
    }

    #[test]
    fn a_sample_shows_the_shape_and_no_secret() {
        let frame =
            r#"{"type":"new_thing","x":"eyJhbGciOiJIUzI1NiJ9","name":"Jane Roe","Password":"hunter","n":[1,2,3,4,5]}"#;
        let (sample, left_out) = take(&mut Samples::default(), Duration::ZERO, frame).unwrap();
        assert_eq!(left_out, 0);
        assert!(sample.contains(r#""type":"new_thing""#) && sample.contains("[1,2,3,4]"), "{sample}");
        assert!(!sample.contains("eyJ") && !sample.contains("Jane") && !sample.contains("hunter"), "{sample}");
    }

    #[test]
    fn samples_are_rare_and_the_rest_is_counted() {
        let mut samples = Samples::default();
        assert!(take(&mut samples, Duration::ZERO, "{}").is_some());
        assert!(take(&mut samples, Duration::from_nanos(1), "{}").is_none());
        assert!(take(&mut samples, EVERY - Duration::from_nanos(1), "{}").is_none());
        assert_eq!(take(&mut samples, EVERY, "{}").map(|(_, left_out)| left_out), Some(2));
    }

    #[test]
    fn what_is_no_json_is_not_shown_and_what_is_large_stays_one_json_text() {
        let mut samples = Samples::default();
        let (sample, _) = take(&mut samples, Duration::ZERO, "secret-secret").unwrap();
        assert!(sample.starts_with("13 bytes") && !sample.contains("secret"), "{sample}");
        let wide = format!("{{{}}}", (0..200).map(|n| format!("\"key{n}\":{n}")).collect::<Vec<_>>().join(","));
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        for large in [wide, deep, format!("{{\"a\":{{\"{}\":1}}}}", "k".repeat(700))] {
            let (sample, _) = take(&mut Samples::default(), Duration::ZERO, &large).unwrap();
            assert!(sample.len() <= SAMPLE_MAX + 3, "{}", sample.len());
            assert!(serde_json::from_str::<Value>(&sample).is_ok(), "{sample}");
        }
    }

    #[test]
    fn messages_of_one_kind_are_one_shape_and_shapes_are_bounded() {
        let mut samples = Samples::default();
        for n in 0..3 {
            take(&mut samples, Duration::from_secs(n), &format!(r#"{{"type":"new","n":{n},"who":"Some One {n}"}}"#));
        }
        let seen = samples.seen();
        assert_eq!((seen.len(), seen[0].count), (1, 3));
        assert_eq!((seen[0].first, seen[0].last), (Wall(0), Wall(0) + Duration::from_secs(2)));
        for n in 0..40 {
            take(&mut samples, Duration::from_secs(10 + n), &format!(r#"{{"member{n}":1}}"#));
        }
        assert_eq!((samples.seen().len(), samples.others()), (SHAPES_MAX, 25));
    }

    #[test]
    fn a_flood_is_counted_and_not_looked_at() {
        let mut samples = Samples::default();
        for _ in 0..1_000 {
            take(&mut samples, Duration::ZERO, "{}");
        }
        assert_eq!(samples.seen()[0].count, u64::from(LOOKS));
        assert_eq!(take(&mut samples, EVERY, "{}").map(|(_, left_out)| left_out), Some(999));
    }
}
