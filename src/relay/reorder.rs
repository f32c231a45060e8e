//! Events that came before their turn wait a little for those that belong before them (`[gap] reorder`).
//!
//! Events wait per line: a channel, or the whole connection, whatever upstream's numbers count. Invariants: none waits longer
//! than the window after it was received; events and bytes have limits, beyond which a line stops waiting at once.
//! Deliberately not here: what numbers mean (`sequence`), and what happens when the wait was in vain.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::feed::RingId;
use super::held::{Held, HeldEvent};
use super::time::Mono;

/// Events of one line that may wait.
const EVENTS_MAX: usize = 1_024;
/// Their bytes, over all lines.
const BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// What numbers count: a channel's ring, or (`None`) the connection.
pub type Line = Option<RingId>;

#[derive(Debug, Default)]
struct Waiting {
    held: Held,
    due: Mono,
}

/// All events that wait for their turn.
#[derive(Debug)]
pub struct Reorder {
    window: Duration,
    lines: BTreeMap<Line, Waiting>,
    due: BTreeSet<(Mono, Line)>,
    bytes: usize,
}

impl Reorder {
    /// With this window.
    pub fn new(window: Duration) -> Self {
        Reorder { window, lines: BTreeMap::new(), due: BTreeSet::new(), bytes: 0 }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Lets an event wait. `false`: the line has no more room and is to be taken now.
    pub fn put(&mut self, line: Line, event: HeldEvent) -> bool {
        let due = event.at.mono + self.window;
        let waiting = self.lines.entry(line).or_default();
        if waiting.held.is_empty() {
            waiting.due = due;
            self.due.insert((due, line));
        }
        let before = waiting.held.bytes();
        waiting.held.put(event);
        self.bytes += waiting.held.bytes() - before;
        waiting.held.len() <= EVENTS_MAX && self.bytes <= BYTES_MAX
    }

    /// The next event of the line whose turn has come: its first number is at most `expected`.
    pub fn next(&mut self, line: Line, expected: u64) -> Option<HeldEvent> {
        let waiting = self.lines.get_mut(&line)?;
        let before = waiting.held.bytes();
        let event = waiting.held.take_upto(expected)?;
        self.bytes -= before - waiting.held.bytes();
        self.due.remove(&(waiting.due, line));
        match waiting.held.iter().map(|event| event.at.mono).min() {
            Some(oldest) => {
                waiting.due = oldest + self.window;
                self.due.insert((waiting.due, line));
            }
            None => {
                self.lines.remove(&line);
            }
        }
        Some(event)
    }

    /// Ends the wait of a line: all its events, in order.
    pub fn take(&mut self, line: Line) -> Held {
        let Some(waiting) = self.lines.remove(&line) else { return Held::default() };
        self.due.remove(&(waiting.due, line));
        self.bytes -= waiting.held.bytes();
        waiting.held
    }

    /// A line that waited long enough, or any line where `now` is `None`.
    pub fn overdue(&self, now: Option<Mono>) -> Option<Line> {
        self.due.first().filter(|(due, _)| now.is_none_or(|now| *due <= now)).map(|(_, line)| *line)
    }

    /// When [`Reorder::overdue`] has something to say.
    pub fn due(&self) -> Option<Mono> {
        self.due.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::super::held::tests::numbered;
    use super::super::time::{Time, Wall};
    use super::*;

    const RING: RingId = RingId(1);

    fn at(ms: u64) -> Time {
        Time { mono: Mono(ms * 1_000_000), wall: Wall(0) }
    }

    fn put(reorder: &mut Reorder, number: u64, ms: u64) -> bool {
        reorder.put(Some(RING), numbered(RING, Some(number), at(ms)))
    }

    #[test]
    fn the_window_of_a_line_is_that_of_its_oldest_event() {
        let mut reorder = Reorder::new(Duration::from_millis(50));
        assert!(put(&mut reorder, 5, 10) && put(&mut reorder, 4, 20) && put(&mut reorder, 9, 30));
        assert_eq!(reorder.due(), Some(at(60).mono));
        assert_eq!(reorder.next(Some(RING), 3), None);
        assert_eq!(reorder.next(Some(RING), 4).and_then(|event| event.sequence), Some((4, 4)));
        assert_eq!(reorder.next(Some(RING), 5).and_then(|event| event.sequence), Some((5, 5)));
        assert_eq!(reorder.overdue(Some(at(79).mono)), None);
        assert_eq!(reorder.overdue(Some(at(80).mono)), Some(Some(RING)));
        assert_eq!(reorder.take(Some(RING)).len(), 1);
        assert!(reorder.is_empty() && reorder.due().is_none() && reorder.bytes == 0);
    }

    #[test]
    fn a_line_has_room_for_so_many() {
        let mut reorder = Reorder::new(Duration::from_secs(1));
        let most = u64::try_from(EVENTS_MAX).unwrap();
        assert!((0..most).all(|number| put(&mut reorder, number, 0)));
        assert!(!put(&mut reorder, most, 0));
    }
}
