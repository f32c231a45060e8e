//! What upstream says and nobody understands: told to people now and then, and to whoever reads `$unmatched`.

use crate::dialect::{Heard, WireFrame};
use crate::relay::Relay;
use crate::relay::pairs::{Notice, Output};
use crate::relay::time::Time;

use super::events::UNMATCHED_CHANNEL;

impl Relay {
    /// A message was not understood: people are told now and then, and whoever reads `$unmatched`.
    pub(in crate::relay) fn tell_strange(&mut self, now: Time, why: &'static str, frame: &WireFrame) {
        let Some((sample, left_out)) = self.samples.take(now, why, frame, &self.redactor) else { return };
        let data = serde_json::json!({"why": why, "sample": sample, "left_out": left_out}).to_string();
        self.tell_own(now, UNMATCHED_CHANNEL, None, why, data.into_bytes());
        self.outputs.push_back(Output::Notify(Notice::NotUnderstood { why, sample, left_out }));
    }
}

/// Why a message was not understood, if it was not.
pub(in crate::relay) fn not_understood(heard: &Heard<'_>) -> Option<&'static str> {
    match heard {
        Heard::Unmatched => Some("unmatched"),
        Heard::Unextracted(_) => Some("unextracted"),
        Heard::Malformed | Heard::Broken(_) => Some("malformed"),
        _ => None,
    }
}
