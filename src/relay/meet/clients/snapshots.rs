//! Snapshots of a channel's state, as frames and as one JSON text: references to the entries that make it up.

use bytes::Bytes;

use crate::protocol::control::Object;
use crate::protocol::frame::{Entry, Item, push_json_string};
use crate::protocol::position::Position;
use crate::relay::feed::ring::Ring;

/// Bytes of values in one part.
const PART_BYTES: usize = 256 * 1024;

/// The `snapshot` frames of a ring, in parts if large; none if there is no state.
pub(in crate::relay) fn frames(ring: &Ring, position: Position, stale: bool) -> Vec<Item> {
    let stale = stale || ring.silent || is_outdated(ring);
    let parts = values(ring, position, PART_BYTES);
    let count = parts.len();
    let frame = |(at, values): (usize, Vec<u8>)| {
        let part = (at as u64 + 1, at + 1 == count);
        Item::Control("snapshot", Bytes::from(text(ring, position, stale, part, &values)))
    };
    parts.into_iter().enumerate().map(frame).collect()
}

/// The whole state as one text, for HTTP; `None` if there is no state.
pub(in crate::relay) fn whole(ring: &Ring, position: Position, stale: bool) -> Option<Vec<u8>> {
    let values = values(ring, position, usize::MAX).pop()?;
    let stale = stale || ring.silent || is_outdated(ring);
    Some(text(ring, position, stale, (1, true), &values))
}

/// Whether some value is from before a hole: upstream may have changed it since, and nobody told.
fn is_outdated(ring: &Ring) -> bool {
    ring.values.snapshot().is_some_and(|entries| entries.iter().any(|entry| entry.offset < ring.hole))
}

/// The values as JSON lists, each of them about `part_bytes` long.
fn values(ring: &Ring, position: Position, part_bytes: usize) -> Vec<Vec<u8>> {
    let Some(entries) = ring.values.snapshot() else { return Vec::new() };
    let mut parts: Vec<Vec<u8>> = vec![Vec::new()];
    for entry in entries {
        if parts.last().is_some_and(|part| part.len() > part_bytes) {
            parts.push(Vec::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push(if part.is_empty() { b'[' } else { b',' });
            push_value(part, position, entry);
        }
    }
    for part in &mut parts {
        part.extend_from_slice(if part.is_empty() { b"[]" } else { b"]" });
    }
    parts
}

fn text(ring: &Ring, position: Position, stale: bool, (part, last): (u64, bool), values: &[u8]) -> Vec<u8> {
    Object::kind("snapshot")
        .text("channel", &ring.name)
        .text("position", &position.to_string())
        .text_if("as_of", ring.last_event.map(|(_, wall)| wall.rfc3339()).as_deref())
        .flag("stale", stale)
        .number("part", part)
        .flag("last", last)
        .raw("values", values)
        .raw("pending", b"[]")
        .end()
}

fn push_value(out: &mut Vec<u8>, position: Position, entry: &Entry) {
    out.push(b'{');
    if let Some(key) = &entry.key {
        out.extend_from_slice(b"\"key\":");
        push_json_string(out, key);
        out.push(b',');
    }
    let id = Position { epoch: position.epoch, offset: entry.offset };
    out.extend_from_slice(format!("\"id\":\"{id}\",\"data\":").as_bytes());
    out.extend_from_slice(entry.data());
    out.push(b'}');
}
