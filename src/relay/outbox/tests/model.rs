//! Random histories against a small reference: publishers, an upstream and a disk that remember everything, and at every
//! step the promises about it. Crashes lose whatever was not durable; a commit that was out may or may not have been.

mod steps;

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::protocol::codes::ErrorCode;
use crate::relay::outbox::departure::NOTE_AFTER;

use steps::{Spec, Step, step, to_publish};

/// What is known of a message from outside.
#[derive(Debug, Clone)]
struct Known {
    stored: Arc<StoredMessage>,
    /// Told to the publisher.
    end: Option<Outcome>,
    /// Attempts since the process started.
    attempts: u32,
    /// Attempts in all.
    ever: u32,
    /// Attempts that the disk knew of when the process started.
    before: u32,
    in_flight: bool,
    /// When the last attempt left.
    left: Mono,
    /// An attempt left whose fate is not known.
    uncertain: bool,
    /// The process knows of such an attempt that it does not wait for any more; the disk does.
    unknown: bool,
    noted: bool,
    acked: bool,
    /// Why it may be passed over: parked, postponed, cancelled, refused.
    aside: bool,
    parked: bool,
    /// A newer one took its place.
    replaced: bool,
}

impl Known {
    /// No restart from now on may take it for one that never left.
    fn must_be_noted(&self, now: Mono) -> bool {
        self.end.is_none() && (self.unknown || self.in_flight && self.left + NOTE_AFTER <= now)
    }
}

struct World {
    bench: Bench,
    known: BTreeMap<MessageId, Known>,
    keys: BTreeMap<(String, String), (MessageId, String)>,
    /// Admitted and not accepted yet.
    admitted: BTreeMap<MessageId, (String, Option<String>, String)>,
    /// Those of them that take the place of others.
    coalescing: BTreeSet<MessageId>,
    out: Option<Vec<Operation>>,
    /// Messages whose attempts are on disk once `out` is.
    noting: BTreeSet<MessageId>,
    asked: Option<Vec<Stored>>,
    failed: bool,
}

impl World {
    /// So many messages may be held in memory besides those that are on their way, and so many in flight.
    fn new(in_memory: usize, window: usize) -> Self {
        let limits = OutboxConfig { max_messages: 1000, keep_outcomes_max: 1000, max_dead_letters: 1000, ..config() };
        let config = OutboxConfig { in_memory, window, ..limits };
        World {
            bench: Bench::with(config),
            known: BTreeMap::new(),
            keys: BTreeMap::new(),
            admitted: BTreeMap::new(),
            coalescing: BTreeSet::new(),
            out: None,
            noting: BTreeSet::new(),
            asked: None,
            failed: false,
        }
    }

    fn publish(&mut self, specs: &[Spec]) {
        let principal = format!("p{}", specs[0].principal);
        let publishes: Vec<Publish> = specs.iter().map(to_publish).collect();
        // What the batch must come to, key by key.
        let (mut expected, mut keys) = (Vec::new(), self.keys.clone());
        for (at, publish) in publishes.iter().enumerate() {
            let body = format!("{}{:?}", publish.data, publish.order_key);
            let key = publish.idempotency_key.as_ref().map(|key| (principal.clone(), key.to_string()));
            match key.clone().and_then(|key| keys.get(&key)) {
                Some((_, earlier)) if *earlier != body => expected.push(None),
                Some((id, _)) => expected.push(Some(Some(*id))),
                None => expected.push(Some(None)),
            }
            if let (Some(key), Some(Some(None))) = (key, expected.last()) {
                keys.insert(key, (MessageId(at as u128), body));
            }
        }
        match self.bench.publish_by(&principal, publishes.clone()) {
            Ok(admitted) => {
                assert!(!self.failed || admitted.iter().all(|one| matches!(one, Admitted::Known(_))), "S16");
                let ids: Vec<MessageId> = admitted.iter().map(|one| one.id()).collect();
                for ((at, one), publish) in admitted.iter().enumerate().zip(&publishes) {
                    let body = format!("{}{:?}", publish.data, publish.order_key);
                    let key = publish.idempotency_key.as_ref().map(|key| key.to_string());
                    match (expected[at], one) {
                        (Some(Some(id)), Admitted::Known(found)) => {
                            let id = usize::try_from(id.0).ok().and_then(|at| ids.get(at).copied()).unwrap_or(id);
                            assert_eq!(id, *found, "S15: the key finds its own message");
                        }
                        (Some(None), Admitted::New(id)) => {
                            if let Some(key) = &key {
                                self.keys.insert((principal.clone(), key.clone()), (*id, body.clone()));
                            }
                            self.admitted.insert(*id, (principal.clone(), key, body));
                            self.coalescing.extend(publish.coalesce.then_some(*id));
                        }
                        other => panic!("S15: {other:?}"),
                    }
                }
            }
            Err(refusal) if refusal.code == ErrorCode::Conflict => assert!(expected.contains(&None)),
            Err(refusal) => assert!(self.failed && refusal.code == ErrorCode::StoreFailed, "{refusal:?}"),
        }
    }

    fn commit(&mut self) {
        if self.out.is_none() {
            self.out = self.bench.outbox.take_commit(None);
            assert!(self.out.is_none() || !self.failed, "S16");
            let now = self.bench.now.mono;
            let noting = self.known.iter().filter(|(_, known)| known.must_be_noted(now));
            self.noting = noting.map(|(id, _)| *id).collect();
            let late = self.noting.iter().find(|id| self.out.is_none() && !self.failed && !self.known[*id].noted);
            assert_eq!(late, None, "an attempt is noted in time");
        }
    }

    /// What was out is on the disk.
    fn write(&mut self, operations: &[Operation]) {
        operations.iter().for_each(|operation| self.bench.disk.apply(operation));
        for id in std::mem::take(&mut self.noting) {
            let held = self.bench.disk.messages.iter().find(|(message, _)| message.id == id);
            assert!(held.is_none_or(|(_, attempts)| *attempts > 0), "an attempt is noted in time");
            self.known.get_mut(&id).unwrap().noted = true;
        }
    }

    fn committed(&mut self) {
        let Some(operations) = self.out.take() else { return };
        self.write(&operations);
        for durable in self.bench.outbox.committed(self.bench.now, &mut self.bench.stats) {
            match durable {
                Durable::Accepted(id) => {
                    self.learn(id);
                    self.replace_by(id);
                }
                Durable::Settled { outcome, .. } => self.ended(&outcome),
            }
        }
    }

    fn load(&mut self) {
        if self.asked.is_none() {
            // The store does what it is asked in order: no later commit takes away what was asked for before.
            self.asked = self.bench.outbox.take_load().map(|wanted| self.bench.disk.load(&wanted));
            assert!(self.asked.is_none() || !self.failed, "S16");
        }
    }

    fn loaded(&mut self) {
        for record in self.asked.take().into_iter().flatten() {
            self.bench.outbox.loaded(record);
        }
    }

    /// The message is accepted: it must be on the disk.
    fn learn(&mut self, id: MessageId) {
        self.admitted.remove(&id);
        let held = self.bench.disk.messages.iter().find(|(message, _)| message.id == id);
        let (stored, _) = held.expect("S8: what is accepted is durable");
        let known = Known {
            stored: Arc::clone(stored),
            end: None,
            attempts: 0,
            ever: 0,
            before: 0,
            in_flight: false,
            left: Mono(0),
            uncertain: false,
            unknown: false,
            noted: false,
            acked: false,
            aside: false,
            parked: false,
            replaced: false,
        };
        assert!(self.known.insert(id, known).is_none(), "accepted is told once");
    }

    /// If it coalesces, nothing leaves any more that waits for the same.
    fn replace_by(&mut self, id: MessageId) {
        if self.coalescing.remove(&id) {
            let by = Arc::clone(&self.known[&id].stored);
            let same = |other: &Known| other.stored.order_key == by.order_key && other.stored.principal == by.principal;
            let before = self.known.range_mut(..id).map(|(_, other)| other);
            for other in before.filter(|other| other.end.is_none() && !other.in_flight && same(other)) {
                (other.replaced, other.aside) = (true, true);
            }
        }
    }

    fn ended(&mut self, outcome: &StoredOutcome) {
        assert!(self.bench.disk.outcomes.iter().any(|kept| kept.id == outcome.id), "S8: an end is durable");
        let known = self.known.get_mut(&outcome.id).expect("only what was accepted ends");
        assert_eq!(known.end, None, "S9: one end");
        let reason = &*outcome.outcome.reason;
        if known.unknown || known.noted {
            let words = ["ttl", "cancelled", "superseded", "not_supported"];
            assert!(!words.contains(&reason), "upstream may have it: {reason}");
        } else if outcome.outcome.state != OutcomeState::DeadLettered {
            assert!(reason != OUTCOME_UNKNOWN || known.ever > 0, "it never left");
        }
        match outcome.outcome.state {
            OutcomeState::Delivered => assert!(known.acked, "S13: delivered only if acked"),
            OutcomeState::Expired => {
                assert!(known.stored.expires.is_some_and(|at| at <= self.bench.now.wall), "expired in time");
            }
            OutcomeState::Rejected => assert!(known.aside, "nobody refused it"),
            OutcomeState::DeadLettered => {}
        }
        known.end = Some(outcome.outcome.clone());
        known.in_flight = false;
    }

    fn send(&mut self) {
        let Some(message) = self.bench.outbox.next(self.bench.now, false) else { return };
        let id = message.id;
        assert!(!self.failed, "nothing leaves after the store failed");
        let now = self.bench.now;
        let known = self.known.get(&id).expect("G-O1: only what is accepted leaves").clone();
        assert_eq!(known.end, None, "S14: no attempt after the end");
        assert!(!known.in_flight && !known.acked && !known.parked, "one attempt at a time, none after an ack");
        assert!(!known.replaced, "a newer one took its place");
        assert!(message.expires.is_none_or(|at| at > now.wall), "S14: no attempt after expiry");
        if let Some(key) = &message.order_key {
            let before = self.known.range(..id).map(|(_, other)| other);
            let open =
                before.filter(|other| other.stored.order_key.as_ref() == Some(key) && other.end.is_none()).count();
            assert_eq!(open, 0, "S11: the one before has not ended");
        } else if known.attempts == 0 {
            let jumped = self.known.range(..id).find(|(_, other)| {
                other.stored.order_key.is_none()
                    && other.stored.lane == message.lane
                    && other.end.is_none()
                    && other.attempts == 0
                    && !other.aside
                    && other.stored.expires.is_none_or(|at| at > now.wall)
            });
            assert_eq!(jumped.map(|(id, _)| id), None, "G-O5: first attempts in the order of acceptance");
        }
        if message.on_unknown == OnUnknown::DeadLetter {
            assert!(!known.uncertain, "G-O4: it may have left before");
            let held = self.bench.disk.messages.iter().find(|(held, _)| held.id == id).unwrap();
            assert!(held.1 > known.attempts, "G-O4: the attempt is durable before it leaves");
        }
        self.expect_room(id);
        let confirm = if id.0.is_multiple_of(5) { Confirm::Written } else { Confirm::Ack };
        self.bench.outbox.sent(now, id, confirm, &mut self.bench.stats);
        let known = self.known.get_mut(&id).unwrap();
        known.attempts += 1;
        known.ever += 1;
        known.in_flight = true;
        known.left = now.mono;
        known.uncertain = true;
        known.noted |= message.on_unknown == OnUnknown::DeadLetter;
        assert!(known.before + known.attempts <= self.bench.config.max_attempts, "S12");
        let in_flight = self.known.values().filter(|known| known.in_flight).count();
        assert!(in_flight <= self.bench.config.window, "the window holds: {in_flight}");
    }

    /// It was never tried, or it leaves half of the window to those that were not, and an eighth to those to come.
    fn expect_room(&self, id: MessageId) {
        let tried = |known: &Known| known.before + known.attempts > 0;
        let now = self.bench.now.wall;
        let waits = |known: &Known| {
            let open = known.end.is_none() && !known.in_flight && !known.aside && !tried(known);
            open && known.stored.order_key.is_none() && known.stored.expires.is_none_or(|at| at > now)
        };
        let crowded = self.bench.outbox.shelf.backoffs >= self.bench.config.in_memory;
        if tried(&self.known[&id]) && !crowded {
            let again = |known: &&Known| known.in_flight && known.before + known.attempts > 1;
            let window = self.bench.outbox.window();
            let most = if self.known.values().any(waits) { window / 2 } else { window - window / 8 };
            let repeated = self.known.values().filter(again).count();
            assert!(repeated < most.max(1), "{repeated} of those tried before are in flight");
        }
    }

    /// One of those that fit.
    fn pick(&self, at: usize, fits: impl Fn(&Known) -> bool) -> Option<MessageId> {
        let all: Vec<MessageId> = self.known.iter().filter(|(_, known)| fits(known)).map(|(id, _)| *id).collect();
        all.get(at.checked_rem(all.len())?).copied()
    }

    fn ack(&mut self, id: MessageId) {
        let known = self.known.get_mut(&id).unwrap();
        known.acked |= !self.failed;
        known.in_flight = false;
        self.bench.ack(id);
    }

    fn written(&mut self, id: MessageId) {
        if id.0.is_multiple_of(5) {
            let known = self.known.get_mut(&id).unwrap();
            known.acked |= !self.failed;
            known.in_flight = false;
        }
        self.bench.outbox.written(self.bench.now, &[id], &mut self.bench.stats);
    }

    fn nack(&mut self, id: MessageId, again: bool) {
        self.bench.nack(id, Nack { then: Some(if again { Then::Retry } else { Then::Reject }), ..Nack::default() });
        let known = self.known.get_mut(&id).unwrap();
        known.in_flight = false;
        known.uncertain = false;
        known.aside = true;
        if !known.unknown {
            // The disk need not know that upstream has it not: after a restart that is unknown, in either sense.
            known.noted = false;
            self.noting.remove(&id);
        }
    }

    fn lose(&mut self) {
        self.bench.lose();
        for known in self.known.values_mut() {
            known.unknown |= std::mem::take(&mut known.in_flight);
        }
    }

    fn pass(&mut self, time: Duration) {
        let before = self.bench.stats.ack_timeouts;
        self.bench.pass(time);
        // Which ones were given up: ask, one by one.
        if self.bench.stats.ack_timeouts > before {
            for (id, known) in self.known.iter_mut().filter(|(_, known)| known.in_flight) {
                known.in_flight = self.bench.outbox.state_text(*id) == "in_flight";
                known.unknown |= !known.in_flight;
            }
        }
    }

    fn crash(&mut self, commit_survives: bool) {
        if let Some(operations) = self.out.take().filter(|_| commit_survives) {
            self.write(&operations);
        }
        self.noting.clear();
        self.coalescing.clear();
        self.failed = false;
        self.asked = None;
        self.bench.restart();
        // What was durable and never told is true all the same.
        let disk = self.bench.disk.clone();
        for (message, _) in &disk.messages {
            if !self.known.contains_key(&message.id) {
                self.learn(message.id);
            }
        }
        for outcome in &disk.outcomes {
            if self.known.get(&outcome.id).is_some_and(|known| known.end.is_none()) {
                self.ended(outcome);
            }
        }
        for (id, known) in &mut self.known {
            let held = disk.messages.iter().find(|(message, _)| message.id == *id);
            let kept = disk.outcomes.iter().find(|outcome| outcome.id == *id);
            assert_eq!(kept.map(|outcome| &outcome.outcome), known.end.as_ref(), "S9: the end stays what it was");
            assert!(held.is_some() != known.end.is_some(), "S8: what was accepted is there");
            (known.attempts, known.in_flight, known.acked, known.parked) = (0, false, false, false);
            (known.unknown, known.replaced) = (known.noted, false);
            known.before = held.map_or(0, |(_, attempts)| *attempts);
            // An attempt that may have left before the crash: it ends, and is passed over until that is durable.
            known.aside = known.before > 0;
        }
        // Keys of what was never durable are free again.
        let known = &self.known;
        self.keys.retain(|_, (id, _)| known.contains_key(id));
        self.admitted.clear();
    }

    fn take(&mut self, step: &Step) {
        let sent = |known: &Known| known.attempts + known.before > 0 && known.end.is_none();
        let flying = |known: &Known| known.in_flight;
        let waiting = |known: &Known| known.attempts + known.before == 0 && known.end.is_none();
        match step {
            Step::Publish(specs) => self.publish(specs),
            Step::Commit => self.commit(),
            Step::Committed => self.committed(),
            Step::CommitFailed => {
                if self.out.take().is_some() {
                    self.bench.outbox.commit_failed("test", &mut self.bench.stats);
                    self.failed = true;
                    let lost = std::mem::take(&mut self.admitted);
                    self.keys.retain(|_, (id, _)| !lost.contains_key(id));
                }
            }
            Step::Load => self.load(),
            Step::Loaded => self.loaded(),
            Step::Send => self.send(),
            Step::Written(of) => self.pick(*of, flying).into_iter().for_each(|id| self.written(id)),
            Step::Ack(of) => self.pick(*of, sent).into_iter().for_each(|id| self.ack(id)),
            Step::StrayAck(of) => self.pick(*of, waiting).into_iter().for_each(|id| self.bench.ack(id)),
            Step::Nack(of, again) => self.pick(*of, flying).into_iter().for_each(|id| self.nack(id, *again)),
            Step::Park => {
                if let Some(id) = self.bench.outbox.next(self.bench.now, false).map(|message| message.id) {
                    self.bench.outbox.park(id);
                    let known = self.known.get_mut(&id).unwrap();
                    (known.parked, known.aside) = (true, true);
                }
            }
            Step::Unpark => {
                for (id, known) in self.known.iter_mut().filter(|(_, known)| known.parked) {
                    self.bench.outbox.unpark(*id);
                    known.parked = false;
                }
            }
            Step::Postpone => {
                if let Some(id) = self.bench.outbox.next(self.bench.now, false).map(|message| message.id) {
                    self.bench.outbox.postpone(self.bench.now, id, &mut self.bench.rng, &mut self.bench.stats);
                    self.known.get_mut(&id).unwrap().aside = true;
                }
            }
            Step::Cancel(of) => {
                let Some(id) = self.pick(*of, |known| known.end.is_none()) else { return };
                if !self.bench.outbox.is_at_hand(id) {
                    return self.bench.outbox.fetch(id);
                }
                let principal = Arc::clone(&self.known[&id].stored.principal);
                if self.bench.outbox.cancel(self.bench.now, &principal, id).is_ok() {
                    assert!(!self.known[&id].in_flight && !self.failed);
                    self.known.get_mut(&id).unwrap().aside = true;
                }
            }
            Step::Reject(of) => {
                let fits = |known: &Known| known.end.is_none() && !known.in_flight;
                let Some(id) = self.pick(*of, fits).filter(|_| !self.failed) else { return };
                self.bench.outbox.reject(self.bench.now, id, ErrorCode::NotSupported.text());
                self.known.get_mut(&id).unwrap().aside = true;
            }
            Step::Lose => self.lose(),
            Step::Pass(ms) => self.pass(MS * u32::try_from(*ms).unwrap()),
            Step::Crash { commit_survives } => self.crash(*commit_survives),
        }
        self.check();
    }

    /// What must be true after every step.
    fn check(&mut self) {
        self.bench.outbox.gauges(&mut self.bench.stats);
        let most = self.bench.config.in_memory.max(1) as u64;
        assert!(self.bench.stats.in_memory <= most, "S17: {} in memory", self.bench.stats.in_memory);
        assert_eq!(self.bench.stats.conservation_error(), 0, "S10");
        for id in self.admitted.keys() {
            assert!(!self.bench.outbox.is_accepted(*id), "G-O1: accepted before it was durable");
        }
        for (id, known) in &self.known {
            let outbox = &self.bench.outbox;
            assert_eq!(outbox.has_ended(*id), known.end.is_some(), "G-O6: an end is seen when it is durable");
            if let Some(shown) = outbox.outcome(*id) {
                assert_eq!(Some(&shown.outcome), known.end.as_ref(), "G-O6: it never changes");
            }
        }
    }

    /// How everything ended can be read.
    fn look_back(&mut self) {
        for (id, known) in &self.known {
            self.bench.look_up(*id);
            assert_eq!(self.bench.outbox.outcome(*id).map(|shown| &shown.outcome), known.end.as_ref(), "G-O6");
        }
    }

    /// Without further faults everything ends.
    fn drain(&mut self) {
        if self.failed {
            self.crash(false);
        }
        self.take(&Step::Unpark);
        for _ in 0..2000 {
            self.take(&Step::Commit);
            self.take(&Step::Committed);
            self.take(&Step::Load);
            self.take(&Step::Loaded);
            self.take(&Step::Send);
            // Only what is in flight is answered: what was forgotten must show.
            self.pick(0, |known| known.in_flight).into_iter().for_each(|id| self.ack(id));
            if self.known.values().all(|known| known.end.is_some()) && self.admitted.is_empty() {
                let depth: u64 = self.bench.stats.lanes.iter().map(|lane| lane.depth).sum();
                assert_eq!((depth, self.bench.outbox.in_flight()), (0, 0));
                return self.look_back();
            }
            self.take(&Step::Pass(500));
        }
        let left: Vec<_> = self.known.values().filter(|known| known.end.is_none()).collect();
        panic!("L2: never ended: {left:?}, {:?}", self.admitted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_promises(
        in_memory in prop_oneof![1usize..6, Just(1000)],
        window in prop_oneof![1usize..5, Just(8)],
        steps in vec(step(), 1..120),
    ) {
        let mut world = World::new(in_memory, window);
        for step in &steps {
            world.take(step);
        }
        world.drain();
    }
}
