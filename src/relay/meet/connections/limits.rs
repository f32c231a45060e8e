//! The limits of upstream meet the store: what is spent of them is kept, so that no number of restarts, however quick, spends
//! more than one process would.
//!
//! Invariants: a connection is begun only after the store knows of it, where upstream limits them. If the store does not answer
//! within [`PATIENCE`], or has failed, it is begun all the same, and counted: a relay without a disk still serves.
//! What is said of a restart is said of clocks, too: while the system runs its monotonic clock tells how long it took; over a
//! reboot the wall clock does, and one that went back counts as no time.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::dialect::Dialect;
use crate::protocol::duration::millis;
use crate::relay::Relay;
use crate::relay::budget::Budget;
use crate::relay::limiter::Bucket;
use crate::relay::link::Link;
use crate::relay::pairs::{AttemptId, Notice, Output};
use crate::relay::record::{KeptTally, Operation, StoredTally};
use crate::relay::redact::address;
use crate::relay::stats::Cost;
use crate::relay::time::{Mono, Time};

/// How long a connection waits for the store.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// What was spent of the budget is recorded so much later at the most.
const LAZY: Duration = Duration::from_secs(5);

/// Which service limits us: an upstream of another name or at another place has limits of its own.
pub(in crate::relay) fn service(config: &Config, dialect: &Dialect) -> u64 {
    let mut digest = Sha256::new();
    digest.update(dialect.name());
    digest.update([0]);
    digest.update(address(&config.upstream.url));
    let digest = digest.finalize();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Begins where the last process ended.
pub(in crate::relay) fn go_on(link: &mut Link, budget: &mut Budget, kept: &KeptTally, service: u64, now: Time) {
    let none = StoredTally { at: now, service, ..StoredTally::default() };
    let all = StoredTally { connects: u64::MAX, frames: u64::MAX, ..none.clone() };
    let (tally, same_boot) = match kept {
        KeptTally::New => return,
        KeptTally::Absent => (&none, true),
        KeptTally::Damaged => (&all, true),
        KeptTally::Found { tally, same_boot } => (&**tally, *same_boot),
    };
    if tally.service != service {
        return;
    }
    let passed = if same_boot { now.mono.since(tally.at.mono) } else { now.wall.since(tally.at.wall) };
    if let Some(connects) = &mut link.connects {
        connects.go_on(now.mono, tally.connects, passed);
    }
    if let Some(reserve) = link.pacing.reserve_mut() {
        reserve.go_on(now.mono, tally.frames, passed);
    }
    link.hold(now.mono + tally.connects_held.saturating_sub(passed));
    let held = tally.frames_held.saturating_sub(passed);
    if !held.is_zero() {
        link.pacing.pause(now.mono, held);
    }
    budget.go_on(now.mono, passed, &tally.costs);
}

impl Relay {
    /// The record of what is spent, if one is to be made and the store takes it.
    pub(in crate::relay) fn next_tally(&mut self, now: Time) -> Option<Operation> {
        if self.link.pacing.reserve().is_some_and(|reserve| reserve.is_wanting()) {
            self.tally.touch();
        }
        let due = self.tally.due()?;
        let along = self.outbox.may_commit()?;
        if due > now.mono && !along {
            return None;
        }
        self.tally.make();
        let left = |until: Option<Mono>| until.map_or(Duration::ZERO, |until| until.since(now.mono));
        Some(Operation::Tally(Arc::new(StoredTally {
            service: self.tally.service(),
            at: now,
            connects: self.link.connects.as_ref().map_or(0, |bucket| bucket.lacks(now.mono, bucket.full_at())),
            connects_held: left(self.link.held_until()),
            frames_held: left(self.link.pacing.held_until()),
            frames: self.link.pacing.reserve_mut().map_or(0, |reserve| reserve.ask(now.mono)),
            costs: self.budget.steps(now.mono),
        })))
    }

    /// When a record is to be made, if the store takes one.
    pub(in crate::relay) fn tally_due(&self) -> Option<Mono> {
        self.tally.due().filter(|_| self.outbox.may_commit().is_some())
    }

    /// Spends one of `[budget]`, for a principal or for the relay itself; `Err`: nothing is spent, and how long until
    /// it may be.
    pub(in crate::relay) fn spend(
        &mut self,
        now: Mono,
        cost: Cost,
        principal: Option<&Arc<str>>,
    ) -> Result<(), Duration> {
        self.budget.spend(now, cost, principal)?;
        self.tally.touch_by(now + LAZY);
        Ok(())
    }

    /// A commit is durable.
    pub(in crate::relay) fn tally_committed(&mut self, now: Time) {
        if !self.tally.committed() {
            return;
        }
        if let Some(reserve) = self.link.pacing.reserve_mut() {
            reserve.keep();
        }
        for id in self.attempts.ids() {
            let covered = |counted: u64| self.tally.covers(counted);
            if self.attempts.get_mut(id).is_some_and(|attempt| attempt.is_counted_by(covered)) {
                self.dial(now, id);
            }
        }
    }

    /// The store failed: what waits for it goes on without.
    pub(in crate::relay) fn tally_failed(&mut self, now: Time) {
        self.tally.fail();
        for id in self.attempts.ids() {
            if self.attempts.get_mut(id).is_some_and(|attempt| attempt.is_counted_by(|_| true)) {
                self.dial_uncounted(now, id);
            }
        }
    }

    /// Connects as soon as the store knows of it.
    pub(super) fn dial_counted(&mut self, now: Time, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        if self.tally.covers(attempt.counted) {
            self.dial(now, id);
        } else if self.tally.has_failed() {
            self.dial_uncounted(now, id);
        } else {
            attempt.wait_for_count(now.mono + PATIENCE);
        }
    }

    /// Connects though the store does not know of it.
    pub(super) fn dial_uncounted(&mut self, now: Time, id: AttemptId) {
        self.stats.link.uncounted += 1;
        if self.tally.uncounted() {
            self.outputs.push_back(Output::Notify(Notice::Uncounted));
        }
        self.dial(now, id);
    }

    /// Nothing is spent any more: what was reserved is given back. Whether the store knows it.
    pub(in crate::relay) fn tally_is_closed(&mut self) -> bool {
        if self.tally.close() {
            if let Some(reserve) = self.link.pacing.reserve_mut() {
                reserve.give_back();
            }
            self.stirred = true;
        }
        self.tally.is_settled()
    }

    /// What is left of upstream's limits, for `GET /v1/status`.
    pub(in crate::relay) fn upstream_limits_json(&self, now: Mono) -> Value {
        let bucket = |bucket: &Bucket| json!({"left": bucket.left(now), "of": bucket.burst(), "next_ms": millis(bucket.next(now, 1).since(now))});
        let held = |until: Option<Mono>| until.map(|until| until.since(now)).filter(|held| !held.is_zero()).map(millis);
        json!({
            "connects": self.link.connects.as_ref().map(bucket),
            "connects_held_ms": held(self.link.held_until()),
            "frames": self.link.pacing.reserve().map(|reserve| bucket(reserve.bucket())),
            "frames_held_ms": held(self.link.pacing.held_until()),
            "uncounted_connects": self.stats.link.uncounted,
        })
    }
}
