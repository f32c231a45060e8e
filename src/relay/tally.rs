//! What the store knows of what is spent: when a record has to be made, and what waits for it.
//!
//! Invariants: [`Tally::covers`] is said only of what a durable record counts; at most one record is on its way.
//! Deliberately not here: what is counted (the link's buckets, the budget), and the store.

use super::time::Mono;

/// The records of this process, by number.
#[derive(Debug, Default)]
pub struct Tally {
    service: u64,
    /// When the next record is to be made, if one is.
    due: Option<Mono>,
    /// Records made so far; the newest may be on its way.
    made: u64,
    /// The newest one is on its way to the store.
    out: bool,
    /// Records that are durable.
    durable: u64,
    /// The store failed: no record will be durable any more.
    failed: bool,
    /// Something was used that no durable record counts, and that was told.
    told: bool,
    /// Nothing will be spent any more.
    closed: bool,
}

impl Tally {
    /// Nothing is counted yet.
    pub fn new(service: u64) -> Self {
        Tally { service, ..Tally::default() }
    }

    /// Whose limits these are: a digest.
    pub fn service(&self) -> u64 {
        self.service
    }

    /// Something was spent: a record is to be made at once.
    pub fn touch(&mut self) {
        self.touch_by(Mono(0));
    }

    /// The same by then.
    pub fn touch_by(&mut self, at: Mono) {
        if !self.failed {
            self.due = Some(self.due.map_or(at, |due| due.min(at)));
        }
    }

    /// Something was spent, and must be durable before it is used: the number of the record that counts it.
    pub fn ticket(&mut self) -> u64 {
        self.touch();
        self.made + 1
    }

    /// Whether the record of this number is durable.
    pub fn covers(&self, ticket: u64) -> bool {
        self.durable >= ticket
    }

    /// Whether no further record will be durable.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// When a record is to be made.
    pub fn due(&self) -> Option<Mono> {
        self.due.filter(|_| !self.out)
    }

    /// A record is made, of everything that is spent now.
    pub fn make(&mut self) {
        self.due = None;
        self.made += 1;
        self.out = true;
    }

    /// A commit is durable. Whether a record was in it.
    pub fn committed(&mut self) -> bool {
        let was_out = std::mem::take(&mut self.out);
        if was_out {
            self.durable = self.made;
            self.told = false;
        }
        was_out
    }

    /// The store failed.
    pub fn fail(&mut self) {
        self.failed = true;
        self.out = false;
        self.due = None;
    }

    /// Something is used that no durable record counts. Whether that is to be told: once until a record is durable again.
    pub fn uncounted(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }

    /// Nothing will be spent any more. Whether that is new and a last record is worth making.
    pub fn close(&mut self) -> bool {
        let worth = self.made > 0 || self.due.is_some();
        let new = !std::mem::replace(&mut self.closed, true) && worth;
        if new {
            self.touch();
        }
        new
    }

    /// Whether everything that was to be recorded is durable, or never will be.
    pub fn is_settled(&self) -> bool {
        self.due.is_none() && !self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_covered_by_the_first_record_made_after_it() {
        let mut tally = Tally::new(7);
        assert!(tally.is_settled() && tally.covers(0) && !tally.close());
        let mut lazy = Tally::new(7);
        lazy.touch_by(Mono(90));
        assert!(lazy.close() && lazy.due() == Some(Mono(0)), "nothing is left for later");
        let mut tally = Tally::new(7);
        tally.touch_by(Mono(90));
        tally.make();
        let ticket = tally.ticket();
        assert_eq!(tally.due(), None, "one record is on its way");
        assert!(tally.committed());
        assert!(!tally.covers(ticket), "that record was made before");
        assert_eq!(tally.due(), Some(Mono(0)));
        tally.make();
        assert!(!tally.covers(ticket));
        assert!(tally.committed() && tally.covers(ticket) && tally.is_settled());
        assert!(!tally.committed(), "a commit without a record");
        assert!(tally.uncounted() && !tally.uncounted(), "told once");
    }

    #[test]
    fn the_last_record_is_made_once() {
        let mut tally = Tally::new(7);
        tally.touch();
        tally.make();
        assert!(tally.committed() && tally.close() && !tally.is_settled());
        tally.make();
        assert!(tally.committed() && !tally.close() && tally.is_settled());
    }

    #[test]
    fn after_a_failure_nothing_is_recorded() {
        let mut tally = Tally::new(7);
        let ticket = tally.ticket();
        tally.make();
        tally.fail();
        assert!(!tally.covers(ticket) && tally.has_failed() && tally.is_settled());
        tally.touch();
        assert_eq!(tally.due(), None);
    }
}
