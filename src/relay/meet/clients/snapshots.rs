//! Snapshots of a channel's state, as frames and as one JSON text: references to the entries that make it up.

use std::borrow::Cow;

use bytes::Bytes;

use crate::protocol::control::{List, Object};
use crate::protocol::frame::{Entry, Item, push_json_string};
use crate::protocol::position::Position;
use crate::protocol::selection::Selection;
use crate::relay::feed::Feed;
use crate::relay::feed::ring::Ring;

/// Bytes of values in one part.
const PART_BYTES: usize = 256 * 1024;

/// The `snapshot` frames of a ring, in parts if large; none if there is no state and nothing is laid over it. `fields`: only
/// these members of the values, and only the values that have some of them.
pub(in crate::relay) fn frames(feed: &Feed, ring: &Ring, stale: bool, fields: Option<&Selection>) -> Vec<Item> {
    let position = feed.position();
    let stale = stale || ring.silent || is_outdated(ring);
    let parts = values(feed, ring, PART_BYTES, fields);
    let count = parts.len();
    let pending = pending(feed, &ring.name);
    let frame = |(at, values): (usize, Vec<u8>)| {
        let last = at + 1 == count;
        let of = Part { number: at as u64 + 1, last, values: &values, pending: if last { &pending } else { b"[]" } };
        Item::Control("snapshot", Bytes::from(text(&ring.name, Some(ring), position, stale, &of)))
    };
    parts.into_iter().enumerate().map(frame).collect()
}

/// The whole state as one text, for HTTP; `None` if there is none and nothing is laid over it.
pub(in crate::relay) fn whole(feed: &Feed, ring: &Ring, stale: bool) -> Option<Vec<u8>> {
    let position = feed.position();
    let values = values(feed, ring, usize::MAX, None).pop()?;
    let stale = stale || ring.silent || is_outdated(ring);
    let of = Part { number: 1, last: true, values: &values, pending: &pending(feed, &ring.name) };
    Some(text(&ring.name, Some(ring), position, stale, &of))
}

/// What is laid over a channel that nobody carries, as the same text; `None` if nothing is.
pub(in crate::relay) fn not_carried(feed: &Feed, channel: &str) -> Option<Vec<u8>> {
    feed.overlays.pending(channel).next()?;
    let of = Part { number: 1, last: true, values: b"[]", pending: &pending(feed, channel) };
    Some(text(channel, None, feed.position(), true, &of))
}

/// What is laid over the state, as a JSON list in the order of acceptance.
fn pending(feed: &Feed, channel: &str) -> Vec<u8> {
    let mut list = List::new();
    for (message, value) in feed.overlays.pending(channel) {
        let object = Object::new().text_if("key", value.key.as_deref()).text("message", &message.to_string());
        list.push(&object.raw("data", value.value.as_bytes()).end());
    }
    list.end()
}

/// One of the frames that make up a snapshot.
struct Part<'a> {
    number: u64,
    last: bool,
    values: &'a [u8],
    pending: &'a [u8],
}

/// Whether some value is from before a hole: upstream may have changed it since, and nobody told. Where no state is known, an
/// empty list is no word of upstream's either.
fn is_outdated(ring: &Ring) -> bool {
    ring.values.snapshot().is_none_or(|entries| entries.iter().any(|entry| entry.offset < ring.hole))
}

/// The values as JSON lists, each of them about `part_bytes` long. Without a state there is an empty one if something is
/// pending, which would not be shown else.
fn values(feed: &Feed, ring: &Ring, part_bytes: usize, fields: Option<&Selection>) -> Vec<Vec<u8>> {
    let position = feed.position();
    let entries = match ring.values.snapshot() {
        Some(entries) => entries,
        None if feed.overlays.pending(&ring.name).next().is_some() => Vec::new(),
        None => return Vec::new(),
    };
    let mut parts: Vec<Vec<u8>> = vec![Vec::new()];
    for entry in entries {
        let data = match fields.map(|fields| fields.of(entry.data())) {
            None => Cow::Borrowed(entry.data()),
            Some(Some(data)) => Cow::Owned(data),
            Some(None) => continue,
        };
        if parts.last().is_some_and(|part| part.len() > part_bytes) {
            parts.push(Vec::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push(if part.is_empty() { b'[' } else { b',' });
            push_value(part, position, entry, &data);
        }
    }
    for part in &mut parts {
        part.extend_from_slice(if part.is_empty() { b"[]" } else { b"]" });
    }
    parts
}

fn text(channel: &str, ring: Option<&Ring>, position: Position, stale: bool, part: &Part<'_>) -> Vec<u8> {
    let last_event = ring.and_then(|ring| ring.last_event);
    Object::kind("snapshot")
        .text("channel", channel)
        .text("position", &position.to_string())
        .text_if("as_of", last_event.map(|(_, wall)| wall.rfc3339()).as_deref())
        .flag("stale", stale)
        .number("part", part.number)
        .flag("last", part.last)
        .raw("values", part.values)
        .raw("pending", part.pending)
        .end()
}

fn push_value(out: &mut Vec<u8>, position: Position, entry: &Entry, data: &[u8]) {
    out.push(b'{');
    if let Some(key) = &entry.key {
        out.extend_from_slice(b"\"key\":");
        push_json_string(out, key);
        out.push(b',');
    }
    let id = Position { epoch: position.epoch, offset: entry.offset };
    out.extend_from_slice(format!("\"id\":\"{id}\",\"data\":").as_bytes());
    out.extend_from_slice(data);
    out.push(b'}');
}
