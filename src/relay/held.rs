//! Events that wait for others before they may enter the feed: copies of what upstream sent, in the order of its numbers.
//!
//! Invariant: [`Held`] gives back exactly what was put in, once; its owner bounds it by [`Held::len`] and [`Held::bytes`].
//! Deliberately not here: why something waits, and for how long.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::dialect::{ChannelId, Event, Fold, Role, Target};

use super::feed::RingId;
use super::pairs::AttemptId;
use super::time::{Time, Wall};

/// What an event costs besides its texts.
const OVERHEAD: usize = 160;

/// A copy of one event, and where it belongs.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldEvent {
    /// The ring that it was on its way to.
    pub ring: RingId,
    /// On which connection it came.
    pub attempt: AttemptId,
    /// When it was received.
    pub at: Time,
    /// Upstream's numbers, first and last.
    pub sequence: Option<(u64, u64)>,
    key: Option<Box<str>>,
    kind: Option<Box<str>>,
    id: Option<Box<str>>,
    source_time: Option<Wall>,
    data: Box<[u8]>,
    role: Role,
    fold: Fold,
}

impl HeldEvent {
    /// Copies an event out of the frame that it came in.
    pub fn new(ring: RingId, attempt: AttemptId, at: Time, event: &Event<'_>) -> Self {
        HeldEvent {
            ring,
            attempt,
            at,
            sequence: event.sequence,
            key: event.key.as_deref().map(Into::into),
            kind: event.kind.as_deref().map(Into::into),
            id: event.id.as_deref().map(Into::into),
            source_time: event.source_time,
            data: (*event.data).into(),
            role: event.role,
            fold: event.fold,
        }
    }

    /// The event again. Its ring is known, so its target says nothing.
    pub fn event(&self) -> Event<'_> {
        Event {
            target: Target::Channel(ChannelId(0)),
            key: self.key.as_deref().map(Cow::Borrowed),
            kind: self.kind.as_deref().map(Cow::Borrowed),
            id: self.id.as_deref().map(Cow::Borrowed),
            sequence: self.sequence,
            source_time: self.source_time,
            data: Cow::Borrowed(&self.data),
            role: self.role,
            fold: self.fold,
        }
    }

    /// What part of the channel's state it states.
    pub fn role(&self) -> Role {
        self.role
    }

    /// What it costs.
    pub fn bytes(&self) -> usize {
        let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        OVERHEAD + self.data.len() + text(&self.key) + text(&self.kind) + text(&self.id)
    }
}

/// Events in the order of their first numbers, equal ones in the order of arrival. One without a number stays behind those
/// that were there before it.
#[derive(Debug, Default)]
pub struct Held {
    events: BTreeMap<(u64, u64), HeldEvent>,
    arrivals: u64,
    bytes: usize,
}

impl Held {
    /// Puts one in.
    pub fn put(&mut self, event: HeldEvent) {
        let behind_all = || self.events.last_key_value().map_or(0, |((first, _), _)| *first);
        let first = event.sequence.map_or_else(behind_all, |(first, _)| first);
        self.arrivals += 1;
        self.bytes += event.bytes();
        self.events.insert((first, self.arrivals), event);
    }

    /// Takes the first one, if its number is at most `upto`.
    pub fn take_upto(&mut self, upto: u64) -> Option<HeldEvent> {
        let entry = self.events.first_entry().filter(|entry| entry.key().0 <= upto)?;
        let event = entry.remove();
        self.bytes -= event.bytes();
        Some(event)
    }

    /// Takes the first one.
    pub fn take(&mut self) -> Option<HeldEvent> {
        self.take_upto(u64::MAX)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &HeldEvent> {
        self.events.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// What they cost.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An event with this number and no more.
    pub(in crate::relay) fn numbered(ring: RingId, number: Option<u64>, at: Time) -> HeldEvent {
        let event = Event {
            target: Target::Channel(ChannelId(0)),
            key: None,
            kind: Some(Cow::Borrowed("tick")),
            id: None,
            sequence: number.map(|number| (number, number)),
            source_time: None,
            data: Cow::Borrowed(b"{}"),
            role: Role::Event,
            fold: Fold::Replace,
        };
        HeldEvent::new(ring, AttemptId(1), at, &event)
    }

    #[test]
    fn events_come_back_in_the_order_of_their_numbers() {
        let mut held = Held::default();
        for number in [Some(7), Some(5), None, Some(6)] {
            held.put(numbered(RingId(1), number, Time::default()));
        }
        assert_eq!(held.len(), 4);
        assert_eq!(held.take_upto(4), None);
        let order: Vec<_> = std::iter::from_fn(|| held.take()).map(|event| event.sequence).collect();
        assert_eq!(
            order,
            [Some((5, 5)), Some((6, 6)), Some((7, 7)), None],
            "what has no number stays behind what it followed"
        );
        assert_eq!((held.bytes(), held.is_empty()), (0, true));
    }

    #[test]
    fn a_copy_is_the_same_event() {
        let held = numbered(RingId(1), Some(3), Time::default());
        assert_eq!(HeldEvent::new(RingId(1), AttemptId(1), Time::default(), &held.event()), held);
    }
}
