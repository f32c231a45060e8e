//! Slowness and silence meet the connection and its channels: how long an answer may take, which channels are watched, what is
//! told of them, and what is done.

use std::sync::Arc;
use std::time::Duration;

use crate::dialect::Then;
use crate::relay::Relay;
use crate::relay::attempt::Ending;
use crate::relay::attempt::heartbeat::Patience;
use crate::relay::feed::RingId;
use crate::relay::interest::InterestState;
use crate::relay::naming;
use crate::relay::pairs::AttemptId;
use crate::relay::stats::{GapReason, StaleAction};
use crate::relay::time::{Mono, Time, Wall};
use crate::relay::watch::{Means, Policy};

/// Steps in one turn; whatever else is due comes next.
const TURN_STEPS: usize = 1024;

impl Relay {
    /// A ping was answered: the deadlines of the next ones follow.
    pub(in crate::relay) fn round_trip(&mut self, attempt: AttemptId, trip: Duration) {
        self.stats.link.rtt.observe(trip);
        self.round_trips.observe(trip);
        let patience = self.patience();
        if let Some(active) = self.attempt_mut(attempt) {
            active.heartbeat.set_patience(patience);
        }
    }

    /// How long answers to pings usually take.
    pub(in crate::relay) fn patience(&self) -> Patience {
        Patience { trip: self.round_trips.p99(), doublings: self.round_trips.doublings() }
    }

    /// A channel begins to be carried, or the policies changed: it is watched as they say.
    pub(in crate::relay) fn watch_ring(&mut self, now: Time, ring: RingId, name: &str) {
        let policy = naming::policy_of_carried(&self.config, name).filter(|_| !name.starts_with('$'));
        match policy {
            Some(policy) => {
                let policy = Policy { after: policy.stale_after, most: policy.stale_action };
                self.watch.follow(now.mono, ring, policy);
            }
            None => self.watch.forget(ring),
        }
    }

    /// Something came for a channel.
    pub(in crate::relay) fn watch_event(&mut self, at: Time, ring: RingId) {
        if self.watch.event(at.mono, ring) {
            self.stats.watch.recovered += 1;
        }
    }

    /// The policies may have changed.
    pub(in crate::relay) fn watch_again(&mut self, now: Time) {
        let rings: Vec<(RingId, Arc<str>)> = self.feed.iter().map(|(id, ring)| (id, Arc::clone(&ring.name))).collect();
        for (ring, name) in rings {
            self.watch_ring(now, ring, &name);
        }
    }

    /// Upstream sends everything without being asked, from here on.
    pub(in crate::relay) fn all_came_live(&mut self, now: Time) {
        for ring in self.carried_rings() {
            self.watch.live(now.mono, ring);
        }
    }

    pub(in crate::relay) fn watch_due(&self) -> Option<Mono> {
        self.watch.due()
    }

    pub(in crate::relay) fn watch_timeout(&mut self, now: Time) {
        for _ in 0..TURN_STEPS {
            let Some(ring) = self.watch.expired(now.mono) else { return };
            if self.upstream_word(ring) != "live" {
                self.watch.suspend(ring);
                continue;
            }
            let means = self.means(ring);
            if let Some(action) = self.watch.step(now.mono, ring, means) {
                self.silent(now, ring, action);
            }
        }
    }

    /// What can be done for a channel that is live. One that is part of another may be silent though nothing is wrong upstream.
    fn means(&self, ring: RingId) -> Means {
        if self.feed.ring(ring).is_some_and(|ring| !ring.direct) {
            return Means { resubscribe: false, reconnect: false };
        }
        let channel = self.feed.ring(ring).and_then(|ring| ring.upstream);
        let wanted = channel.is_some_and(|channel| self.interest.state(channel) == InterestState::Live);
        let reconnect = self.attempts.active().is_some() && !self.draining.is_draining();
        Means { resubscribe: wanted && self.dialect.subscribes() && reconnect, reconnect }
    }

    /// Tells that a channel is silent and carries the step out.
    fn silent(&mut self, now: Time, ring: RingId, action: StaleAction) {
        let silent_for = self.watch.stale_since(ring).map(|since| now.mono.since(since)).unwrap_or_default();
        let since = Wall(now.wall.0.saturating_sub(u64::try_from(silent_for.as_nanos()).unwrap_or(u64::MAX)));
        for ring in self.parts_of(ring).into_iter().chain([ring]) {
            self.feed.admit_stale(ring, now, since, action, &mut self.stats.feed);
        }
        self.stats.watch.actions.bump(action);
        let Some(attempt) = self.attempts.active().map(|active| active.id()) else { return };
        match action {
            StaleAction::Mark => {}
            StaleAction::Resubscribe => {
                if let Some(channel) = self.feed.ring(ring).and_then(|ring| ring.upstream) {
                    // What came since it fell silent, and comes until it is subscribed again, nobody knows.
                    self.channel_lost(now, channel, GapReason::Silence);
                    self.resubscribe(attempt, channel);
                }
            }
            StaleAction::Reconnect => {
                let message = "channels are silent though the connection lives".to_owned();
                self.abandon(now, attempt, Ending::Told { then: Then::Reconnect, retry_after: None, message });
            }
        }
    }
}
