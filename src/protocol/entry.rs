//! The JSON text of ring entries: made once, at admission, by copying upstream's payload bytes into the frame.

use std::sync::Arc;

use super::frame::{Entry, EntryKind, push_json_string};
use super::position::Epoch;
use crate::relay::stats::GapReason;
use crate::relay::time::{Time, Wall};

/// What stands before an event's payload, which is its last member.
const DATA: &[u8] = b",\"data\":";

/// Whether something is known to be missing (`lost`), or only that nobody can tell (`unknown`).
fn continuity(reason: GapReason) -> &'static str {
    match reason {
        // A message was too large, and nobody knows of which channel it was; a channel was silent, and maybe rightly so.
        GapReason::Reconnect | GapReason::TransportSwitch | GapReason::Oversize | GapReason::Silence => "unknown",
        GapReason::UpstreamSeq | GapReason::Checksum | GapReason::Slow => "lost",
    }
}

/// Where an entry stands: the same for every kind.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The history.
    pub epoch: Epoch,
    /// Its offset.
    pub offset: u64,
    /// The offset of the entry before it on its channel.
    pub prev: Option<u64>,
    /// The channel's name as a JSON string with quotes.
    pub channel_json: &'a [u8],
    /// When the frame was received.
    pub at: Time,
}

/// What an event says, as the dialect extracted it.
#[derive(Debug, Clone, Copy)]
pub struct EventText<'a> {
    /// Change or upstream's snapshot.
    pub kind: EntryKind,
    /// The item it is about.
    pub key: Option<&'a Arc<str>>,
    /// Its type.
    pub event_type: Option<&'a str>,
    /// Upstream's time.
    pub source_time: Option<Wall>,
    /// Upstream's sequence, first and last.
    pub sequence: Option<(u64, u64)>,
    /// Upstream's id.
    pub source_id: Option<&'a str>,
    /// The payload's JSON text.
    pub data: &'a [u8],
}

/// Makes an event's entry.
pub fn event(place: Place<'_>, of: EventText<'_>) -> Entry {
    let mut out = Vec::with_capacity(200 + place.channel_json.len() + of.data.len());
    start(&mut out, of.kind, place);
    if let Some(key) = of.key {
        out.extend_from_slice(b",\"key\":");
        push_json_string(&mut out, key);
    }
    let mut type_at = 0..0;
    if let Some(text) = of.event_type {
        out.extend_from_slice(b",\"type\":");
        let from = out.len() + 1;
        push_json_string(&mut out, text);
        type_at = span(from, out.len() - 1);
    }
    push_time(&mut out, "time", place.at.wall);
    if let Some(time) = of.source_time {
        push_time(&mut out, "source_time", time);
    }
    if let Some(id) = of.source_id {
        out.extend_from_slice(b",\"source_id\":");
        push_json_string(&mut out, id);
    }
    if let Some((first, last)) = of.sequence {
        push_number(&mut out, "seq", last);
        if first != last {
            push_number(&mut out, "seq_first", first);
        }
    }
    if of.kind == EntryKind::Snapshot {
        out.extend_from_slice(b",\"snapshot\":true");
    }
    push_prev(&mut out, place.prev);
    out.extend_from_slice(DATA);
    let from = out.len();
    out.extend_from_slice(of.data);
    let data_at = span(from, out.len());
    out.push(b'}');
    finish(place, of.kind, of.key.cloned(), out, type_at, data_at)
}

/// The same event as a merge patch onto the event of its key at `base`.
pub fn with_patch(event: &Entry, base: u64, patch: &[u8]) -> Entry {
    let before = event.text[..event.data_at.start as usize].strip_suffix(DATA).unwrap_or_default();
    let mut out = Vec::with_capacity(before.len() + patch.len() + 48);
    out.extend_from_slice(before);
    out.extend_from_slice(b",\"patch\":true");
    push_number(&mut out, "base", base);
    out.extend_from_slice(DATA);
    let from = out.len();
    out.extend_from_slice(patch);
    let data_at = span(from, out.len());
    out.push(b'}');
    Entry { text: out.into_boxed_slice(), key: event.key.clone(), type_at: event.type_at.clone(), data_at, ..*event }
}

/// The same event with another payload.
pub fn with_data(event: &Entry, data: &[u8]) -> Entry {
    let before = &event.text[..event.data_at.start as usize];
    let mut out = Vec::with_capacity(before.len() + data.len() + 1);
    out.extend_from_slice(before);
    out.extend_from_slice(data);
    let data_at = span(before.len(), out.len());
    out.push(b'}');
    Entry { text: out.into_boxed_slice(), key: event.key.clone(), type_at: event.type_at.clone(), data_at, ..*event }
}

/// Makes the entry of a hole that upstream caused. `from` and `to` are upstream's sequence numbers for `upstream_seq`; for
/// every other reason `from` is the first offset whose completeness nobody vouches for, and `to` is unknown. `repair` says how
/// it is being mended, or that this failed.
pub fn gap(place: Place<'_>, from: u64, to: Option<u64>, reason: GapReason, repair: Option<&'static str>) -> Entry {
    let mut out = Vec::with_capacity(200 + place.channel_json.len());
    start(&mut out, EntryKind::Gap, place);
    push_time(&mut out, "time", place.at.wall);
    push_number(&mut out, "from", from);
    match to {
        Some(to) => push_number(&mut out, "to", to),
        None => out.extend_from_slice(b",\"to\":null"),
    }
    push_word(&mut out, "reason", reason.text());
    push_word(&mut out, "continuity", continuity(reason));
    if let Some(repair) = repair {
        push_word(&mut out, "repair", repair);
    }
    push_prev(&mut out, place.prev);
    out.push(b'}');
    finish(place, EntryKind::Gap, None, out, 0..0, 0..0)
}

/// Makes the entry that says: what stood before does not count any more. `repaired`: how many of the entries that follow close
/// the hole that was told before.
pub fn reset(place: Place<'_>, reason: &'static str, repaired: Option<u64>) -> Entry {
    let mut out = Vec::with_capacity(160 + place.channel_json.len());
    start(&mut out, EntryKind::Reset, place);
    push_time(&mut out, "time", place.at.wall);
    push_word(&mut out, "reason", reason);
    if let Some(repaired) = repaired {
        push_number(&mut out, "repaired", repaired);
    }
    push_prev(&mut out, place.prev);
    out.push(b'}');
    finish(place, EntryKind::Reset, None, out, 0..0, 0..0)
}

/// Makes the entry that says: nothing came on this channel since then; what is done about it.
pub fn stale(place: Place<'_>, since: Wall, action: &'static str) -> Entry {
    let mut out = Vec::with_capacity(200 + place.channel_json.len());
    start(&mut out, EntryKind::Stale, place);
    push_time(&mut out, "time", place.at.wall);
    push_time(&mut out, "since", since);
    push_word(&mut out, "action", action);
    push_prev(&mut out, place.prev);
    out.push(b'}');
    finish(place, EntryKind::Stale, None, out, 0..0, 0..0)
}

/// Makes an entry about a provisional value: pending, confirmed or rolled back. `data`: the value, or else what is true of the
/// item at this place, as far as that is known.
pub fn overlay(place: Place<'_>, kind: EntryKind, key: Option<Arc<str>>, message: &str, data: Option<&[u8]>) -> Entry {
    let mut out = Vec::with_capacity(200 + place.channel_json.len() + data.map_or(0, <[u8]>::len));
    start(&mut out, kind, place);
    if let Some(key) = &key {
        out.extend_from_slice(b",\"key\":");
        push_json_string(&mut out, key);
    }
    push_time(&mut out, "time", place.at.wall);
    out.extend_from_slice(b",\"message\":");
    push_json_string(&mut out, message);
    push_prev(&mut out, place.prev);
    if let Some(data) = data {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(data);
    }
    out.push(b'}');
    finish(place, kind, key, out, 0..0, 0..0)
}

fn finish(
    place: Place<'_>,
    kind: EntryKind,
    key: Option<Arc<str>>,
    text: Vec<u8>,
    type_at: std::ops::Range<u32>,
    data_at: std::ops::Range<u32>,
) -> Entry {
    Entry {
        offset: place.offset,
        prev: place.prev,
        kind,
        received: place.at.mono,
        key,
        text: text.into_boxed_slice(),
        type_at,
        data_at,
    }
}

fn start(out: &mut Vec<u8>, kind: EntryKind, place: Place<'_>) {
    out.extend_from_slice(b"{\"kind\":\"");
    out.extend_from_slice(kind.text().as_bytes());
    out.extend_from_slice(b"\",\"id\":\"");
    out.extend_from_slice(&place.epoch.text());
    out.push(b'-');
    push_digits(out, place.offset);
    out.extend_from_slice(b"\",\"channel\":");
    out.extend_from_slice(place.channel_json);
}

fn push_prev(out: &mut Vec<u8>, prev: Option<u64>) {
    match prev {
        Some(prev) => push_number(out, "prev", prev),
        None => out.extend_from_slice(b",\"prev\":null"),
    }
}

fn push_time(out: &mut Vec<u8>, name: &str, time: Wall) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    time.write_rfc3339(out);
    out.push(b'"');
}

fn push_word(out: &mut Vec<u8>, name: &str, word: &'static str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    out.extend_from_slice(word.as_bytes());
    out.push(b'"');
}

fn push_number(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    push_digits(out, value);
}

fn push_digits(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10).to_le_bytes()[0];
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Frames are bounded by `upstream.max_frame`, far below 4 GiB; a span beyond that would be empty rather than wrong.
fn span(from: usize, to: usize) -> std::ops::Range<u32> {
    match (u32::try_from(from), u32::try_from(to)) {
        (Ok(from), Ok(to)) => from..to,
        _ => 0..0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::time::Mono;

    fn place(channel_json: &[u8]) -> Place<'_> {
        let at = Time { mono: Mono(5), wall: Wall(1_795_231_888_123_456_000) };
        Place { epoch: Epoch::new(1), offset: 1042, prev: Some(1039), channel_json, at }
    }

    #[test]
    fn an_event_reads_as_the_contract_says() {
        let of = EventText {
            kind: EntryKind::Event,
            key: None,
            event_type: Some("trade"),
            source_time: None,
            sequence: Some((7, 9)),
            source_id: None,
            data: br#"{"e":"trade","p":"97000.10"}"#,
        };
        let entry = event(place(b"\"btcusdt@trade\""), of);
        assert_eq!(
            String::from_utf8_lossy(&entry.text),
            r#"{"kind":"event","id":"000001-1042","channel":"btcusdt@trade","type":"trade","time":"2026-11-21T03:31:28.123456Z","seq":9,"seq_first":7,"prev":1039,"data":{"e":"trade","p":"97000.10"}}"#
        );
        assert_eq!(entry.data(), br#"{"e":"trade","p":"97000.10"}"#);
        assert_eq!(entry.event_type(), b"trade");
    }

    #[test]
    fn silence_says_since_when_and_what_is_done() {
        let entry = stale(place(b"\"c\""), Wall(1_795_231_880_000_000_000), "resubscribe");
        assert_eq!(
            String::from_utf8_lossy(&entry.text),
            r#"{"kind":"stale","id":"000001-1042","channel":"c","time":"2026-11-21T03:31:28.123456Z","since":"2026-11-21T03:31:20.000000Z","action":"resubscribe","prev":1039}"#
        );
    }

    #[test]
    fn a_gap_says_what_it_knows() {
        let entry = gap(place(b"\"c\""), 1043, None, GapReason::Reconnect, None);
        assert_eq!(
            String::from_utf8_lossy(&entry.text),
            r#"{"kind":"gap","id":"000001-1042","channel":"c","time":"2026-11-21T03:31:28.123456Z","from":1043,"to":null,"reason":"reconnect","continuity":"unknown","prev":1039}"#
        );
    }
}
