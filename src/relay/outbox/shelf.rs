//! Which messages are in memory, and which are read from the disk: memory stays bounded whatever waits.
//!
//! Whatever is being accepted, sent or ended is in memory. Of the rest at most `outbox.in_memory` are, and at most
//! `outbox.in_memory_bytes` of them; beyond that the one held longest goes. What has to be sent, ended or shown and is not
//! in memory is asked for ([`Outbox::take_load`]), outcomes too (`outcomes`); one question is out at a time.
//!
//! Invariants: only what is durable is given up to the disk; an answer is never larger than what may be held, but for one
//! message, so what was read is still there when its turn comes at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Outbox;
use super::lanes::Row;
use super::message::Phase;
use super::staging::COMMIT_OPERATIONS;
use crate::relay::record::{MessageId, Stored, Wanted};

/// Messages that are read at once.
pub(super) const READ: usize = 256;
/// Their bytes, unless one alone has more.
const READ_BYTES: u64 = 1 << 20;

/// What is held, and what is asked for.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// Messages that are in memory for no other reason than that their turn may be near, by age.
    held: BTreeMap<u64, MessageId>,
    /// Their bytes.
    bytes: u64,
    /// The age of the youngest.
    youngest: u64,
    /// Messages whose next attempt is not due yet.
    pub(super) backoffs: usize,
    /// Messages that are to end or to be shown, and outcomes that are to be shown; they are on disk.
    wanted: VecDeque<MessageId>,
    /// Rows whose next message is on disk.
    starved: BTreeSet<Row>,
    /// Records that the store was asked for and has not given yet.
    asked: usize,
    /// Messages that were wanted and need not be read, or cannot be any more.
    unasked: Vec<MessageId>,
}

impl Shelf {
    /// Whether more may end of which the message must be read first.
    pub(super) fn is_behind(&self) -> bool {
        self.wanted.len() >= READ
    }

    /// The row's next message is on disk.
    pub(super) fn starve(&mut self, row: Row) {
        self.starved.insert(row);
    }

    /// The message has to be read.
    pub(super) fn want(&mut self, id: MessageId) {
        self.wanted.push_back(id);
    }

    /// How many are held, and their bytes.
    pub(super) fn held(&self) -> (usize, u64) {
        (self.held.len(), self.bytes)
    }

    /// Nothing is asked of the disk, or waits for it.
    pub(super) fn is_idle(&self) -> bool {
        self.asked == 0 && self.wanted.is_empty()
    }
}

impl Outbox {
    /// What has to be read from the disk now; answered by [`Outbox::loaded`], one by one.
    pub fn take_load(&mut self) -> Option<Vec<Wanted>> {
        // What was read to be ended waits for the disk next: not too much of it.
        if self.failed.is_some() || self.shelf.asked > 0 || self.staging.len() > COMMIT_OPERATIONS {
            return None;
        }
        let (mut wanted, mut bytes) = (Vec::new(), 0);
        while wanted.len() < READ && bytes < READ_BYTES {
            let Some(id) = self.shelf.wanted.pop_front() else { break };
            // What was read or forgotten meanwhile may be gone from the disk.
            if let Some(pending) = self.messages.get(id).filter(|pending| pending.message().is_none()) {
                wanted.push(Wanted::Message(pending.sequence));
                bytes += u64::from(pending.bytes);
            } else if self.outcomes.is_on_disk(id) {
                wanted.push(Wanted::Outcome(id));
            } else {
                self.shelf.unasked.push(id);
            }
        }
        if let Some(row) = self.shelf.starved.pop_first() {
            self.add_heads(row, &mut wanted, bytes);
        }
        self.shelf.asked = wanted.len();
        (!wanted.is_empty()).then_some(wanted)
    }

    /// What [`Outbox::take_load`] did not ask for though it was to be fetched: it is at hand, or forgotten.
    pub fn take_unasked(&mut self) -> Vec<MessageId> {
        std::mem::take(&mut self.shelf.unasked)
    }

    /// The next of the row that are not in memory.
    fn add_heads(&self, row: Row, wanted: &mut Vec<Wanted>, mut bytes: u64) {
        let most = READ.min(self.config.in_memory / 2).max(1);
        let most_bytes = READ_BYTES.min(self.config.in_memory_bytes / 2);
        let ready = self.lanes.ready(row).take(most * 2).filter_map(|id| self.messages.get(id));
        for pending in ready.filter(|pending| pending.message().is_none()).take(most) {
            bytes += u64::from(pending.bytes);
            if bytes > most_bytes && !wanted.is_empty() {
                break;
            }
            wanted.push(Wanted::Message(pending.sequence));
        }
    }

    /// Something of the row left: what comes soon is read before its turn. Looked at now and then only.
    pub(super) fn read_ahead(&mut self, row: Row) {
        let ahead = (self.config.in_memory / 4).min(READ / 4);
        if !self.departures.is_multiple_of((ahead as u64 / 2).max(1)) {
            return;
        }
        let next = self.lanes.ready(row).nth(ahead).and_then(|id| self.messages.get(id));
        if next.is_some_and(|pending| pending.message().is_none()) {
            self.shelf.starve(row);
        }
    }

    /// One record of those that were asked for.
    pub fn loaded(&mut self, record: Stored) {
        self.shelf.asked = self.shelf.asked.saturating_sub(1);
        if self.failed.is_some() {
            return;
        }
        let message = match record {
            Stored::Message(message) => message,
            Stored::Outcome(outcome) => return self.outcomes.loaded(outcome, &self.config),
        };
        let id = message.id;
        let Some(pending) = self.messages.get_mut(id) else { return };
        pending.live_mut().message = Some(message);
        if pending.live().end.is_some() {
            self.settle(id);
        } else {
            self.keep(id);
        }
    }

    /// Whether everything about the message, or about its end, is in memory. There is nothing about one that is unknown.
    pub fn is_at_hand(&self, id: MessageId) -> bool {
        match self.messages.get(id) {
            Some(pending) => pending.message().is_some(),
            None => !self.outcomes.is_on_disk(id),
        }
    }

    /// Asks for what is not at hand of a message.
    pub fn fetch(&mut self, id: MessageId) {
        self.shelf.want(id);
    }

    /// The message need not be in memory: it is held as long as there is room. Others go for it.
    pub(super) fn keep(&mut self, id: MessageId) {
        let Some(pending) = self.messages.get_mut(id) else { return };
        let idle = matches!(pending.phase(), Phase::Waiting | Phase::Backoff { .. } | Phase::Parked);
        if !idle || pending.message().is_none() || pending.live().held != 0 {
            return;
        }
        self.shelf.youngest += 1;
        pending.live_mut().held = self.shelf.youngest;
        self.shelf.bytes += u64::from(pending.bytes);
        self.shelf.held.insert(self.shelf.youngest, id);
        while self.is_over() && self.shelf.held.len() > 1 {
            let Some((_, oldest)) = self.shelf.held.first_key_value().map(|(age, id)| (*age, *id)) else { break };
            self.release_held(oldest);
            if let Some(pending) = self.messages.get_mut(oldest) {
                pending.shelve();
            }
        }
    }

    /// The same for one that was just accepted: others that were there before have their turn before.
    pub(super) fn keep_if_room(&mut self, id: MessageId) {
        let (held, bytes) = self.shelf.held();
        let Some(pending) = self.messages.get_mut(id) else { return };
        let room = held < self.config.in_memory && bytes + u64::from(pending.bytes) <= self.config.in_memory_bytes;
        if room {
            self.keep(id);
        } else {
            pending.shelve();
        }
    }

    /// The message is needed, or is gone: it is not held for its turn any more.
    pub(super) fn release_held(&mut self, id: MessageId) {
        let Some(pending) = self.messages.get_mut(id).filter(|pending| pending.live().held != 0) else { return };
        let age = std::mem::take(&mut pending.live_mut().held);
        self.shelf.bytes = self.shelf.bytes.saturating_sub(u64::from(pending.bytes));
        self.shelf.held.remove(&age);
    }

    fn is_over(&self) -> bool {
        let (held, bytes) = self.shelf.held();
        held > self.config.in_memory || bytes > self.config.in_memory_bytes
    }
}
