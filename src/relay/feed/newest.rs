//! What a reader gets of the entries after its place that does not want all of them as they are: the newest event of each
//! key, which stands for all others (conflation); some members of their payloads.
//!
//! Invariants: what is kept keeps its order; every entry up to the reader's new place is kept, counted as left out, or not of
//! the types that it wants. Only events are ever left out. What the ring holds no more is made up for by the channel's last
//! values, as long as nothing but events was evicted. Deliberately not here: where events add up, none may stand for another.

use std::collections::HashSet;
use std::sync::Arc;

use super::ring::Ring;
use super::views::Sight;
use crate::protocol::frame::{Entry, EntryKind};

/// What a reader wants.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its place; not before [`Ring::told`].
    pub after: u64,
    /// [`Ring::pushed`] at that place.
    pub seen: u64,
    /// Only these event types; empty: all.
    pub types: &'a [Box<str>],
    /// How events are seen, if not as they are.
    pub sight: Option<&'a Sight>,
    /// From this offset on it has every event that it was to get, except what was conflated since.
    pub whole_from: u64,
    /// Only the newest event of each key.
    pub conflated: bool,
    /// It never gets an event in place of one that equals it: nothing of it was ever conflated.
    pub exact: bool,
    /// Bytes, beyond which the rest waits; one entry is always kept.
    pub bytes: usize,
    /// Events, beyond which the rest waits; at least 1.
    pub events: u32,
}

/// What it gets.
#[derive(Debug, Default)]
pub struct Newest {
    /// In their order.
    pub entries: Vec<Arc<Entry>>,
    /// How many of them are events.
    pub events: u32,
    /// Its new place.
    pub to: u64,
    /// [`Ring::pushed`] there.
    pub seen: u64,
    /// What was left out: from, to, how many. Where an end is not held any more, the outermost that it can be; of what is not
    /// held any more, whatever its type.
    pub left_out: Option<(u64, u64, u64)>,
}

impl Newest {
    fn leave_out(&mut self, from: u64, to: u64, count: u64) {
        if count > 0 {
            let (_, last, sum) = self.left_out.get_or_insert((from, to, 0));
            (*last, *sum) = (to.max(*last), *sum + count);
        }
    }
}

/// Whether an entry passes a reader's `types`. What is not an event always does.
pub fn is_wanted(types: &[Box<str>], entry: &Entry) -> bool {
    types.is_empty()
        || !matches!(entry.kind, EntryKind::Event | EntryKind::Snapshot)
        || types.iter().any(|wanted| wanted.as_bytes() == entry.event_type())
}

/// Chooses of what stands after a reader's place.
pub fn newest(ring: &Ring, wanted: Wanted<'_>) -> Newest {
    let passes = |entry: &&Arc<Entry>| is_wanted(wanted.types, entry);
    let evicted = ring.values.between(wanted.after, ring.complete_from);
    let held = ring.after(wanted.after.max(ring.complete_from));
    let candidates: Vec<&Arc<Entry>> = evicted.iter().copied().chain(held).filter(passes).collect();
    let mut seen: Vec<Option<Arc<Entry>>> = candidates.iter().map(|entry| see(ring, wanted, entry)).collect();
    if wanted.conflated {
        stand_for_others(&mut seen);
    }

    let mut out = Newest { to: wanted.after, ..Newest::default() };
    let gone = ring.pushed_at(0).saturating_sub(wanted.seen);
    out.leave_out(wanted.after + 1, ring.complete_from, gone.saturating_sub(evicted.len() as u64));
    let mut bytes = 0;
    let mut later = false;
    for (entry, seen) in candidates.iter().zip(seen) {
        let is_event = matches!(entry.kind, EntryKind::Event | EntryKind::Snapshot);
        if let Some(seen) = seen {
            bytes += seen.text.len();
            later = is_event && out.events == wanted.events || bytes > wanted.bytes && !out.entries.is_empty();
            if later {
                break;
            }
            out.events += u32::from(is_event);
            out.entries.push(seen);
        } else {
            out.leave_out(entry.offset, entry.offset, 1);
        }
        out.to = entry.offset;
    }
    if !later {
        out.to = ring.last.unwrap_or(out.to).max(out.to);
    }
    // Values that wait are not lost yet: they count as not seen.
    let waiting = evicted.iter().filter(|entry| entry.offset > out.to).count() as u64;
    out.seen = ring.pushed_at(out.to) - waiting;
    out
}

fn see(ring: &Ring, wanted: Wanted<'_>, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
    // Of what is conflated now, only the last event of a key is sent, so none of it is a base.
    let has = |base: u64, itself: bool| {
        base >= wanted.whole_from && (base <= wanted.after || !wanted.conflated) && (wanted.exact || !itself)
    };
    match wanted.sight {
        Some(sight) => ring.views.see(sight, entry, has),
        None => Some(Arc::clone(entry)),
    }
}

/// Keeps of events the newest of each key; one of which nothing is seen stands for none. Upstream's statement of the whole
/// channel stands for all older events.
fn stand_for_others(seen: &mut [Option<Arc<Entry>>]) {
    let mut keys: HashSet<Option<Arc<str>>> = HashSet::new();
    let mut stated = false;
    for place in seen.iter_mut().rev() {
        let Some(entry) = place else { continue };
        let keep = match entry.kind {
            EntryKind::Event => !stated && keys.insert(entry.key.clone()),
            EntryKind::Snapshot => !std::mem::replace(&mut stated, true),
            _ => true,
        };
        if !keep {
            *place = None;
        }
    }
}
