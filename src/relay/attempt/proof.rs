//! Whether a connection gets through. Where each poll is a request of its own, being connected says nothing: that the dialect
//! is ready counts once the first poll was answered or, as a long-poll may be, is held.
//!
//! Invariant: what had to wait is given back once.
//! Deliberately not here: which answers refuse (the dialect's).

use std::time::Duration;

/// A long-poll that was not refused for so long is held.
pub const HELD: Duration = Duration::from_secs(1);

/// What polls have shown.
#[derive(Debug, Default)]
pub struct Proof {
    given: bool,
    /// The dialect is ready, and whether the session was resumed.
    waits: Option<bool>,
}

impl Proof {
    /// The dialect is ready. Whether that has to wait.
    pub fn wait(&mut self, resumed: bool) -> bool {
        if !self.given {
            self.waits = Some(resumed);
        }
        !self.given
    }

    /// A poll was answered, or is held. Gives what waited for that.
    pub fn give(&mut self) -> Option<bool> {
        self.given = true;
        self.waits.take()
    }

    /// Whether something waits.
    pub fn is_awaited(&self) -> bool {
        self.waits.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_poll_is_given_back_once() {
        let mut proof = Proof::default();
        assert!(proof.wait(true) && proof.is_awaited());
        assert_eq!((proof.give(), proof.give(), proof.is_awaited()), (Some(true), None, false));
        assert!(!proof.wait(false), "nothing waits any more");
    }
}
