//! What may leave for upstream, when and in which order: one bucket for every frame, whatever attempt sends it, because
//! providers count by address or account and not by connection.
//!
//! Invariants: in any window no more leaves than the dialect's `[limits]` allow; the classes go in their order, but each is
//! asked at least at every 8th token, so that none starves; nothing leaves during a pause.
//! Deliberately not here: the frames.

use std::time::Duration;

use super::super::limiter::Bucket;
use super::super::time::Mono;
use super::reserve::Reserve;
use crate::dialect::Limits;

/// What a frame is for, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Pongs, receipts and pings: without them the connection ends.
    Beat,
    /// Authentication.
    Auth,
    /// Messages of the critical lane.
    Critical,
    /// Unsubscribes and subscribes.
    Control,
    /// Messages of the other lanes.
    Message,
}

impl Class {
    /// Every class, in order.
    pub const ALL: [Class; 5] = [Class::Beat, Class::Auth, Class::Critical, Class::Control, Class::Message];
}

/// Each class is asked at least at every so many tokens.
const GUARD: u64 = 8;

/// The bucket and the turns.
#[derive(Debug)]
pub struct Pacing {
    /// `None`: upstream names no limit.
    reserve: Option<Reserve>,
    /// WebSocket pings and pongs cost tokens too.
    counts_control: bool,
    held_until: Option<Mono>,
    /// Frames that left.
    count: u64,
    /// Per class: at which frame it must be asked at the latest.
    latest: [u64; Class::ALL.len()],
    /// Somebody may be waiting for a token.
    blocked: bool,
}

impl Pacing {
    /// By what the provider allows.
    pub fn new(limits: &Limits) -> Self {
        Pacing {
            reserve: limits.rate.map(|rate| Reserve::new(Bucket::new(rate.tokens, rate.per, rate.burst))),
            counts_control: limits.counts_control,
            held_until: None,
            count: 0,
            latest: [GUARD; Class::ALL.len()],
            blocked: false,
        }
    }

    /// Nothing leaves before `until`.
    pub fn hold(&mut self, until: Mono) {
        self.held_until = Some(self.held_until.map_or(until, |held| held.max(until)));
    }

    /// Until when nothing leaves, if so.
    pub fn held_until(&self) -> Option<Mono> {
        self.held_until
    }

    /// The bucket and what the store knows of it.
    pub fn reserve(&self) -> Option<&Reserve> {
        self.reserve.as_ref()
    }

    /// The bucket and what the store knows of it.
    pub fn reserve_mut(&mut self) -> Option<&mut Reserve> {
        self.reserve.as_mut()
    }

    /// Whether the dialect's pause lasts.
    pub fn held(&self, now: Mono) -> bool {
        self.held_until.is_some_and(|until| until > now)
    }

    /// Whether a frame may leave now. If not, [`Pacing::due`] says when to ask again.
    pub fn open(&mut self, now: Mono) -> bool {
        let open = !self.held(now) && self.next(now) <= now;
        self.blocked |= !open;
        if let Some(reserve) = self.reserve.as_mut().filter(|_| !open) {
            reserve.want(now);
        }
        open
    }

    /// Whether so many frames and one more may leave now.
    pub fn has_room(&self, now: Mono, before: usize) -> bool {
        !self.held(now) && self.reserve.as_ref().is_none_or(|reserve| reserve.bucket().left(now) as usize > before)
    }

    /// Whether WebSocket pings and pongs leave without a token.
    pub fn control_is_free(&self) -> bool {
        self.reserve.is_none() || !self.counts_control
    }

    /// The order in which to ask the classes for the next frame. One that must be asked soon, or else another one would
    /// miss its turn too, comes before its time.
    pub fn order(&self) -> [Class; Class::ALL.len()] {
        let mut order = Class::ALL;
        // None of them can be late, whatever comes first.
        if self.latest.iter().all(|latest| *latest > self.count + order.len() as u64) {
            return order;
        }
        let mut by_turn = Class::ALL;
        by_turn.sort_by_key(|class| (self.latest[*class as usize], *class));
        // The n-th of those that must be asked can be asked at the n-th frame from here.
        let slack = |(n, class): (usize, &Class)| self.latest[*class as usize] <= self.count + 1 + n as u64;
        if by_turn.iter().enumerate().any(slack) {
            order.sort_by_key(|class| (*class != by_turn[0], *class));
        }
        order
    }

    /// The class was asked and had nothing.
    pub fn empty(&mut self, class: Class) {
        self.latest[class as usize] = self.count + GUARD;
    }

    /// A frame of this class leaves. Whether frames had to wait for it to be allowed.
    pub fn spend(&mut self, now: Mono, class: Class) -> bool {
        self.count += 1;
        self.latest[class as usize] = self.count + GUARD;
        if let Some(reserve) = &mut self.reserve {
            reserve.spend(now, 1);
        }
        std::mem::take(&mut self.blocked)
    }

    /// The carrier answered pings by itself.
    pub fn ponged(&mut self, now: Mono, pongs: u32) {
        if let Some(reserve) = self.reserve.as_mut().filter(|_| self.counts_control) {
            reserve.spend(now, pongs);
        }
    }

    /// Everybody was asked: nobody waits for a token.
    pub fn satisfied(&mut self) {
        self.blocked = false;
    }

    /// When somebody who waits may ask again.
    pub fn due(&self) -> Option<Mono> {
        self.blocked.then(|| self.next(Mono(0)))
    }

    /// Nothing leaves for this long from now on: the dialect's `pause`.
    pub fn pause(&mut self, now: Mono, length: Duration) {
        self.hold(now + length);
    }

    fn next(&self, now: Mono) -> Mono {
        let token = self.reserve.as_ref().map_or(now, |reserve| reserve.next(now));
        self.held_until.map_or(token, |until| token.max(until))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, prop_assert, proptest};

    use super::*;
    use crate::dialect::Rate;

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    fn paced(tokens: u32, burst: u32) -> Pacing {
        let rate = Rate { tokens, per: Duration::from_secs(1), burst };
        Pacing::new(&Limits { rate: Some(rate), ..Limits::default() })
    }

    /// Serves the first class in order that has something; gives it.
    fn serve(pacing: &mut Pacing, now: Mono, has: impl Fn(Class) -> bool) -> Option<Class> {
        for class in pacing.order() {
            if has(class) {
                pacing.spend(now, class);
                return Some(class);
            }
            pacing.empty(class);
        }
        pacing.satisfied();
        None
    }

    #[test]
    fn the_urgent_go_first_but_nobody_starves() {
        let mut pacing = Pacing::new(&Limits::default());
        let served: Vec<Class> = (0..16).filter_map(|_| serve(&mut pacing, at(0), |_| true)).collect();
        for window in served.windows(8) {
            for class in Class::ALL {
                assert!(window.contains(&class), "{class:?} is missing in {window:?}");
            }
        }
        assert_eq!(served[..3], [Class::Beat; 3], "no earlier than it must be: {served:?}");
    }

    #[test]
    fn a_pause_holds_everything_and_the_longer_one_counts() {
        let mut pacing = paced(10, 1);
        pacing.pause(at(0), Duration::from_secs(30));
        pacing.pause(at(0), Duration::from_secs(5));
        assert!(!pacing.open(at(29_999)));
        assert_eq!(pacing.due(), Some(at(30_000)));
        assert!(pacing.open(at(30_000)));
    }

    #[test]
    fn who_waits_for_a_token_is_woken_once() {
        let mut pacing = paced(4, 1);
        assert!(pacing.open(at(0)));
        assert!(!pacing.spend(at(0), Class::Control));
        assert_eq!(pacing.due(), None, "nobody asked since");
        assert!(!pacing.open(at(1)));
        assert_eq!(pacing.due(), Some(at(250)));
        assert!(pacing.open(at(250)));
        assert_eq!(serve(&mut pacing, at(250), |_| false), None);
        assert_eq!(pacing.due(), None, "they had nothing");
        assert!(!pacing.spend(at(250), Class::Control));
        assert!(!pacing.open(at(300)));
        assert!(pacing.open(at(500)));
        assert!(pacing.spend(at(500), Class::Control), "this one had to wait");
    }

    #[test]
    fn pongs_that_the_carrier_sends_cost_tokens_where_the_provider_counts_them() {
        let mut pacing = paced(4, 1);
        pacing.ponged(at(0), 1);
        assert!(!pacing.open(at(249)) && pacing.open(at(250)));
        let rate = Rate { tokens: 4, per: Duration::from_secs(1), burst: 1 };
        let mut free = Pacing::new(&Limits { rate: Some(rate), counts_control: false, ..Limits::default() });
        free.ponged(at(0), 1);
        assert!(free.open(at(0)) && free.control_is_free() && !pacing.control_is_free());
    }

    proptest! {
        #[test]
        fn every_class_that_waits_is_served_at_every_8th_token(waits in prop::collection::vec(0u8..32, 1..300)) {
            let mut pacing = Pacing::new(&Limits::default());
            let mut waited = [0; 5];
            let mut have = [false; 5];
            for mask in waits {
                for (n, have) in have.iter_mut().enumerate() {
                    *have |= mask & (1 << n) != 0;
                }
                let Some(served) = serve(&mut pacing, at(0), |class| have[class as usize]) else { continue };
                for class in Class::ALL {
                    let n = class as usize;
                    waited[n] = if class == served || !have[n] { 0 } else { waited[n] + 1 };
                    prop_assert!(waited[n] < 8, "{class:?} waits in vain");
                }
                // It goes on having something in half of the cases.
                have[served as usize] = mask & 1 == 0;
            }
        }
    }
}
