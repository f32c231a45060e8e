//! How long the token that a connection was opened with holds: when another one is fetched, and when it has run out.
//!
//! Deliberately not here: where tokens come from, and what happens without one.

use std::time::Duration;

use super::super::backoff::early;
use super::super::rng::Rng;
use super::super::time::{Mono, Time, Wall};

/// The least time between two looks for another token.
const LOOK_MIN: Duration = Duration::from_secs(1);
/// The longest.
const LOOK_MAX: Duration = Duration::from_secs(300);

/// What is due about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseDue {
    /// Another one is to be fetched.
    Renew,
    /// It has run out.
    Over,
}

/// A token's life on one connection.
#[derive(Debug, Default)]
pub struct Lease {
    /// When another token is to be fetched; `None` also while one is being fetched.
    renew_at: Option<Mono>,
    until: Option<Mono>,
    over: bool,
}

impl Lease {
    /// The token is good for this long from now on; `None`: nobody says.
    pub fn lasts(&mut self, now: Mono, left: Option<Duration>, rng: &mut Rng) {
        self.renew_at = left.map(|left| now + early(left, rng));
        self.until = left.map(|left| now + left);
        self.over = false;
    }

    /// There was no other token: when to look again.
    pub fn look_again(&mut self, now: Mono) {
        let left = self.until.map_or(Duration::ZERO, |until| until.since(now));
        let wait = if self.over { LOOK_MAX / 10 } else { (left / 5).clamp(LOOK_MIN, LOOK_MAX) };
        self.renew_at = Some(now + wait);
    }

    /// Whether the token has run out.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// When it runs out or ran out, by the wall clock.
    pub fn ends(&self, now: Time) -> Option<Wall> {
        let until = self.until?;
        let ahead = Wall(now.wall.0.saturating_add(until.since(now.mono).as_nanos() as u64));
        let ago = Wall(now.wall.0.saturating_sub(now.mono.since(until).as_nanos() as u64));
        Some(if until > now.mono { ahead } else { ago })
    }

    /// What is due by now, one thing at a time.
    pub fn timeout(&mut self, now: Mono) -> Option<LeaseDue> {
        if !self.over && self.until.is_some_and(|until| until <= now) {
            self.over = true;
            self.renew_at.get_or_insert(now + LOOK_MAX / 10);
            return Some(LeaseDue::Over);
        }
        self.renew_at.take_if(|at| *at <= now).map(|_| LeaseDue::Renew)
    }

    /// When.
    pub fn due(&self) -> Option<Mono> {
        [self.until.filter(|_| !self.over), self.renew_at].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    #[test]
    fn another_token_is_looked_for_until_and_after_the_end() {
        let (mut lease, mut rng) = (Lease::default(), Rng::new(3));
        assert_eq!((lease.due(), lease.timeout(at(9))), (None, None));
        lease.lasts(at(0), Some(Duration::from_secs(100)), &mut rng);
        assert_eq!(lease.timeout(at(74)), None);
        assert_eq!(lease.timeout(at(80)), Some(LeaseDue::Renew));
        assert_eq!(lease.timeout(at(80)), None, "once");
        lease.look_again(at(80));
        assert_eq!(lease.due(), Some(at(84)), "a fifth of what is left");
        assert_eq!(lease.timeout(at(100)), Some(LeaseDue::Over));
        assert!(lease.is_over());
        assert_eq!(lease.timeout(at(100)), Some(LeaseDue::Renew));
        lease.look_again(at(100));
        assert_eq!(lease.due(), Some(at(130)));
        lease.lasts(at(130), None, &mut rng);
        assert!(!lease.is_over() && lease.due().is_none());
    }
}
