//! What waits on disk, as a start finds it: there may be a million messages, so of each little is taken over, and in parts
//! whose memory is free again one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Known, MessageId, Order, Provisional};
use crate::relay::outbox::{Lane, OnUnknown};
use crate::relay::time::Wall;

/// Messages in one part.
const PART: usize = 4_096;

/// What is kept in memory of a message that waits on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Its id.
    pub id: MessageId,
    /// Its place in the order of acceptance.
    pub sequence: u64,
    /// About what it takes on disk.
    pub bytes: u32,
    /// Who published it, by the number of the name.
    pub(super) principal: u32,
    /// How urgent.
    pub lane: Lane,
    /// What a lost connection between sending and ack means.
    pub on_unknown: OnUnknown,
    /// What most have not.
    pub more: Option<Box<More>>,
}

/// What only some messages have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct More {
    /// When it expires unless an attempt began.
    pub expires: Option<Wall>,
    /// Its order key.
    pub order: Option<Order>,
    /// Its idempotency key.
    pub known: Option<Known>,
    /// What it will make of a channel.
    pub optimistic: Option<Arc<Provisional>>,
    /// The attempts that were committed.
    pub attempts: u32,
}

impl Queued {
    /// One that belongs to no backlog.
    pub fn new(id: MessageId, sequence: u64, bytes: u32, (lane, on_unknown): (Lane, OnUnknown), more: More) -> Self {
        let more = (more != More::default()).then(|| Box::new(more));
        Queued { id, sequence, bytes, principal: 0, lane, on_unknown, more }
    }

    /// What it will make of a channel.
    pub fn optimistic(&self) -> Option<&Arc<Provisional>> {
        self.more.as_ref()?.optimistic.as_ref()
    }

    /// The attempts that were committed.
    pub fn attempts(&self) -> u32 {
        self.more.as_ref().map_or(0, |more| more.attempts)
    }
}

/// Messages that wait, in the order of acceptance.
#[derive(Debug, Default)]
pub struct Backlog {
    parts: Vec<Vec<Queued>>,
    principals: Vec<Arc<str>>,
    numbers: BTreeMap<Arc<str>, u32>,
}

impl Backlog {
    /// Adds one behind the others.
    pub fn push(&mut self, principal: &Arc<str>, mut queued: Queued) {
        queued.principal = self.number(principal);
        match self.parts.last_mut().filter(|part| part.len() < PART) {
            Some(part) => part.push(queued),
            None => {
                let mut part = Vec::with_capacity(PART);
                part.push(queued);
                self.parts.push(part);
            }
        }
    }

    fn number(&mut self, principal: &Arc<str>) -> u32 {
        if let Some(number) = self.numbers.get(principal) {
            return *number;
        }
        let number = u32::try_from(self.principals.len()).unwrap_or(u32::MAX);
        self.numbers.insert(Arc::clone(principal), number);
        self.principals.push(Arc::clone(principal));
        number
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Queued> {
        self.parts.iter().flatten()
    }

    /// Takes every message that must not leave twice as one that was tried; says how many were not known to be.
    pub fn suspect(&mut self) -> usize {
        let untried = |queued: &&mut Queued| queued.on_unknown == OnUnknown::DeadLetter && queued.attempts() == 0;
        let tried = self.parts.iter_mut().flatten().filter(untried);
        tried.map(|queued| queued.more.get_or_insert_default().attempts = 1).count()
    }

    /// Keeps only these.
    pub fn retain(&mut self, mut keep: impl FnMut(&Queued) -> bool) {
        self.parts.iter_mut().for_each(|part| part.retain(&mut keep));
    }

    /// Gives all of them with their principals' names; what was given takes no memory any more, a part at a time.
    pub fn drain(self) -> impl Iterator<Item = (Queued, Arc<str>)> {
        let Backlog { parts, principals, .. } = self;
        parts.into_iter().flatten().filter_map(move |queued| {
            let principal = principals.get(usize::try_from(queued.principal).ok()?)?;
            let principal = Arc::clone(principal);
            Some((queued, principal))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_takes_48_bytes_and_all_come_in_order_with_their_names() {
        assert_eq!(size_of::<Queued>(), 48);
        let mut backlog = Backlog::default();
        let names: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).into();
        for n in 0..10_000u64 {
            let queued = Queued::new(MessageId(n.into()), n, 1, (Lane::Medium, OnUnknown::Retry), More::default());
            backlog.push(&names[n as usize % 3], queued);
        }
        backlog.retain(|queued| queued.sequence != 5_000);
        assert_eq!((backlog.len(), backlog.iter().next_back().map(|last| last.sequence)), (9_999, Some(9_999)));
        for (place, (queued, name)) in backlog.drain().enumerate() {
            let n = if place < 5_000 { place } else { place + 1 };
            assert_eq!((queued.sequence, name), (n as u64, Arc::clone(&names[n % 3])));
        }
    }
}
