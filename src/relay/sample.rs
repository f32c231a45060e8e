//! Samples of messages from upstream that were not understood: the first sign that a service changed its API.
//!
//! Invariants: at most one sample in [`EVERY`], what is left out is counted; a sample shows a message's shape and its short
//! words, never a long text, for that is where secrets and personal data stand.

use std::time::Duration;

use serde_json::Value;

use super::time::Mono;
use crate::dialect::WireFrame;

/// Between two samples.
const EVERY: Duration = Duration::from_secs(10);
/// Longest text that is shown as it is, if it looks like a word of the protocol.
const WORD_MAX: usize = 24;
/// Elements of an array that are shown.
const ELEMENTS_MAX: usize = 4;
/// Depth that is shown.
const DEPTH_MAX: usize = 6;
/// Bytes of a sample.
const SAMPLE_MAX: usize = 600;

/// Paces the samples.
#[derive(Debug, Default)]
pub struct Samples {
    next: Mono,
    left_out: u64,
}

impl Samples {
    /// A sample of the frame, and how many were left out since the last one; `None` if it is too soon.
    pub fn take(&mut self, now: Mono, frame: &WireFrame) -> Option<(String, u64)> {
        if now < self.next {
            self.left_out += 1;
            return None;
        }
        self.next = now + EVERY;
        Some((shape(frame), std::mem::take(&mut self.left_out)))
    }
}

/// The frame without what may be secret.
fn shape(frame: &WireFrame) -> String {
    let bytes = frame.body();
    let mut text = match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => veil(&value, 0).to_string(),
        Err(error) => format!("{} bytes, not one JSON text: {error}", bytes.len()),
    };
    if text.len() > SAMPLE_MAX {
        text.truncate(text.floor_char_boundary(SAMPLE_MAX));
        text.push('…');
    }
    text
}

fn veil(value: &Value, depth: usize) -> Value {
    match value {
        Value::String(text) if is_word(text) => value.clone(),
        Value::String(text) => Value::String(format!("<{} characters>", text.chars().count())),
        Value::Array(_) | Value::Object(_) if depth >= DEPTH_MAX => Value::String("<deeper>".into()),
        Value::Array(list) => Value::Array(list.iter().take(ELEMENTS_MAX).map(|item| veil(item, depth + 1)).collect()),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(name, item)| (name.clone(), veil(item, depth + 1))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
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

    #[test]
    fn a_sample_shows_the_shape_and_no_secret() {
        let frame = text(r#"{"type":"new_thing","token":"eyJhbGciOiJIUzI1NiJ9","name":"Jane Roe","n":[1,2,3,4,5]}"#);
        let (sample, left_out) = Samples::default().take(Mono(0), &frame).unwrap();
        assert_eq!(left_out, 0);
        assert!(sample.contains(r#""type":"new_thing""#) && sample.contains("[1,2,3,4]"), "{sample}");
        assert!(!sample.contains("eyJ") && !sample.contains("Jane"), "{sample}");
    }

    #[test]
    fn samples_are_rare_and_the_rest_is_counted() {
        let mut samples = Samples::default();
        let frame = text("{}");
        assert!(samples.take(Mono(0), &frame).is_some());
        assert!(samples.take(Mono(1), &frame).is_none());
        assert!(samples.take(Mono(0) + EVERY - Duration::from_nanos(1), &frame).is_none());
        assert_eq!(samples.take(Mono(0) + EVERY, &frame).map(|(_, left_out)| left_out), Some(2));
    }

    #[test]
    fn what_is_no_json_is_not_shown_and_what_is_long_is_cut() {
        let mut samples = Samples::default();
        let (sample, _) = samples.take(Mono(0), &text("secret-secret")).unwrap();
        assert!(sample.starts_with("13 bytes") && !sample.contains("secret"), "{sample}");
        let wide = format!("{{{}}}", (0..200).map(|n| format!("\"key{n}\":{n}")).collect::<Vec<_>>().join(","));
        let (sample, _) = samples.take(Mono(0) + EVERY, &text(&wide)).unwrap();
        assert!(sample.len() <= SAMPLE_MAX + 3, "{}", sample.len());
    }
}
