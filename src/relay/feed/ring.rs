//! One local channel: a bounded history with positions, the state it adds up to, and who reads it.
//!
//! Invariants: offsets rise; every admitted entry after `complete_from` is held; `prev` chains them.
//! A reader that stands at or after `complete_from` has missed nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use super::values::Values;
use super::views::Views;
use crate::config::RingConfig;
use crate::dialect::ChannelId;
use crate::protocol::frame::{Batch, Entry, EntryKind};
use crate::relay::stats::ResetReason;
use crate::relay::time::{Mono, Wall};

/// A subscription as the ring sees it: which session, and which of its subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// The session's slot.
    pub session: u32,
    /// The subscription's place in the session.
    pub subscription: u32,
}

/// The last cut of a ring: every session that stands at `from` gets the same batch.
#[derive(Debug, Clone)]
pub struct Cut {
    /// Entries after this offset,
    pub from: u64,
    /// up to and with this one.
    pub to: u64,
    /// Encoded once.
    pub batch: Arc<Batch>,
    /// Its entries,
    pub entries: u32,
    /// the bytes of their text,
    pub bytes: u32,
    /// and when the first of them was received.
    pub oldest: Option<Mono>,
}

/// One local channel.
#[derive(Debug)]
pub struct Ring {
    /// Its name (with params).
    pub name: Arc<str>,
    /// The name as a JSON string.
    pub name_json: Box<[u8]>,
    /// The upstream channel that carries it; `None` for the relay's own and where everything arrives unasked.
    pub upstream: Option<ChannelId>,
    /// Whether all events of the upstream channel are this ring's; else only those of its name or key.
    pub direct: bool,
    /// Whether others get all events of the same upstream channel, too.
    pub siblings: bool,
    /// The number of the mapping by which others are parts of it: they get its events by key. Kept as long as it is bound.
    pub parts: Option<u32>,
    /// Entries ever taken.
    pub pushed: u64,
    /// The newest entry that is no event, or was lost with all others, among those that are not held any more: its offset,
    /// and how many had been taken with it.
    pub told: (u64, u64),
    /// Entries in the order of offsets.
    entries: VecDeque<Arc<Entry>>,
    /// Bytes of their text.
    pub bytes: usize,
    /// A cursor at or after this has missed nothing of this channel.
    pub complete_from: u64,
    /// Before this the channel was not carried; what `complete_from` is beyond it was evicted.
    carried_from: u64,
    /// The newest hole: values from before it may be outdated, and are called stale.
    pub hole: u64,
    /// The hole before it.
    hole_before: u64,
    /// The newest entry's offset, as long as it is after `complete_from`.
    pub last: Option<u64>,
    /// The state.
    pub values: Values,
    /// Its events as some readers see them.
    pub views: Views,
    /// Entries up to here were offered to all readers that keep up; later ones are not evicted yet, so that no burst of
    /// upstream's takes them away from such a reader.
    pub offered: u64,
    /// Sessions that read it.
    pub readers: Vec<Reader>,
    /// Whether it stands in the feed's list of channels with news.
    pub dirty: bool,
    /// The last cut.
    pub cut: Option<Cut>,
    /// Bounds.
    limits: RingConfig,
    /// Events admitted.
    pub events: u64,
    /// Duplicates dropped.
    pub duplicates: u64,
    /// Gaps told.
    pub gaps: u64,
    /// When the last event came.
    pub last_event: Option<(Mono, Wall)>,
    /// Whether its events have upstream's ids.
    pub named: bool,
    /// When it was carried first.
    pub since: Wall,
    /// Upstream was silent for longer than the channel's limit, and said nothing since.
    pub silent: bool,
}

/// What a cursor gets on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every entry after it.
    Resumed,
    /// A new start, for this reason.
    Reset(ResetReason),
}

impl Ring {
    /// An empty ring; nothing before `complete_from` is known.
    pub fn new(name: Arc<str>, complete_from: u64, limits: RingConfig, since: Wall) -> Self {
        let mut name_json = Vec::with_capacity(name.len() + 2);
        crate::protocol::frame::push_json_string(&mut name_json, &name);
        Ring {
            name,
            name_json: name_json.into_boxed_slice(),
            upstream: None,
            direct: true,
            siblings: false,
            parts: None,
            pushed: 0,
            told: (0, 0),
            entries: VecDeque::new(),
            bytes: 0,
            complete_from,
            carried_from: complete_from,
            hole: 0,
            hole_before: 0,
            last: None,
            values: Values::default(),
            views: Views::default(),
            offered: 0,
            readers: Vec::new(),
            dirty: false,
            cut: None,
            limits,
            events: 0,
            duplicates: 0,
            gaps: 0,
            last_event: None,
            named: false,
            since,
            silent: false,
        }
    }

    /// Other bounds from now on.
    pub fn set_limits(&mut self, limits: RingConfig) {
        self.limits = limits;
    }

    /// Appends an entry whose `prev` is [`Ring::last`]. Returns how many entries were evicted for the ring's bounds.
    pub fn push(&mut self, entry: Arc<Entry>, now: Mono) -> usize {
        self.last = Some(entry.offset);
        self.pushed += 1;
        self.bytes += entry.text.len();
        self.entries.push_back(entry);
        self.enforce(now)
    }

    /// Evicts what is over the bounds. The newest entry always stays, and what was not offered yet.
    pub fn enforce(&mut self, now: Mono) -> usize {
        let mut evicted = 0;
        while self.entries.len() > 1 && self.over(now) && self.evict_oldest() {
            evicted += 1;
        }
        evicted
    }

    fn over(&self, now: Mono) -> bool {
        let aged = |entry: &Arc<Entry>| now.since(entry.received) > self.limits.age;
        self.entries.len() > self.limits.events
            || self.bytes > self.limits.bytes
            || self.entries.front().is_some_and(aged)
    }

    /// Evicts the oldest entry; `false` if there is none that was offered.
    pub fn evict_oldest(&mut self) -> bool {
        if self.entries.front().is_none_or(|entry| entry.offset > self.offered) {
            return false;
        }
        let Some(entry) = self.entries.pop_front() else { return false };
        self.bytes -= entry.text.len();
        self.complete_from = self.complete_from.max(entry.offset);
        if entry.kind != EntryKind::Event {
            self.told = (entry.offset, self.pushed - self.entries.len() as u64);
        }
        self.values.evicted_up_to(entry.offset);
        true
    }

    /// The channel was not carried up to `offset`: history and chain begin anew; the state stays, as the last known one.
    pub fn carried_from(&mut self, offset: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.last = None;
        self.cut = None;
        self.values.broken_by_hole();
        self.carried_from = offset;
        self.hole = offset;
        self.complete_from = offset;
        self.told = (offset, self.pushed);
    }

    /// Something is missing before the entry at `offset`.
    pub fn broken(&mut self, offset: u64) {
        self.hole_before = self.hole;
        self.hole = offset;
        self.values.broken_by_hole();
    }

    /// What was missing at the newest hole follows now.
    pub fn mended(&mut self) {
        self.hole = self.hole_before;
        self.values.mended();
    }

    /// What a cursor of this epoch gets; `head` is the newest offset of the feed.
    pub fn verdict(&self, since: u64, head: u64) -> Verdict {
        if since > head {
            Verdict::Reset(ResetReason::Future)
        } else if since < self.carried_from {
            Verdict::Reset(ResetReason::NotCarried)
        } else if since < self.complete_from {
            Verdict::Reset(ResetReason::Evicted)
        } else {
            Verdict::Resumed
        }
    }

    /// The place of the first entry after `offset`.
    pub fn index_after(&self, offset: u64) -> usize {
        // Readers are nearly always at the end or one step before it.
        match self.entries.back() {
            Some(last) if last.offset <= offset => self.entries.len(),
            _ => self.entries.partition_point(|entry| entry.offset <= offset),
        }
    }

    /// How many entries had been taken with the one at `offset`; of what is not held any more, with the last of it.
    pub fn pushed_at(&self, offset: u64) -> u64 {
        self.pushed - (self.entries.len() - self.index_after(offset)) as u64
    }

    /// The entries after `offset`.
    pub fn after(&self, offset: u64) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.range(self.index_after(offset)..)
    }

    /// The entry at a place.
    pub fn get(&self, index: usize) -> Option<&Arc<Entry>> {
        self.entries.get(index)
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether everything after `offset` is at most `limit` bytes.
    pub fn fits(&self, offset: u64, limit: usize) -> bool {
        let mut bytes = 0;
        let mut newest_first = self.entries.iter().rev().take_while(|entry| entry.offset > offset);
        self.bytes <= limit
            || newest_first.all(|entry| {
                bytes += entry.text.len();
                bytes <= limit
            })
    }

    /// The offset after which a reader that lags more than `bytes` goes on, so that at most half of that is left to send, or
    /// the newest entry; `None` if it does not lag that much.
    pub fn skip_target(&self, after: u64, lag_limit: usize) -> Option<u64> {
        if self.bytes <= lag_limit {
            return None;
        }
        let mut left = 0;
        let begin = self.index_after(after);
        let mut over = false;
        for index in (begin..self.entries.len()).rev() {
            left += self.entries[index].text.len();
            if left > lag_limit {
                over = true;
                break;
            }
        }
        if !over {
            return None;
        }
        let mut kept = 0;
        for index in (begin..self.entries.len()).rev() {
            kept += self.entries[index].text.len();
            if kept > lag_limit / 2 {
                // The newest entry is always worth sending, however large it is.
                return self.entries.get(index.min(self.entries.len().checked_sub(2)?)).map(|entry| entry.offset);
            }
        }
        None
    }
}
