//! The machine, PURE: all state and every decision. `pairs` says what goes in and out; read it first.
//!
//! Each part is a struct with a few verbs and knows no other part; each says in its first lines what it holds to:
//! - upstream: `link` and `attempt` (which connection when, and its life), `overlap` (two at once), `credentials`, `interest`
//!   (what we want of upstream), `limiter`, `backoff`, `tally` (what of that the store knows);
//! - what it said: `sequence`, `reorder`, `unsettled`, `repair`, `refresh`, `budget`, `watch`, `roundtrip`, `quality`,
//!   `alerts`;
//! - clients: `feed` (channels as rings), `session` (cursors over the feed), `access`, `naming`, `mapping`;
//! - what leaves: `outbox`, `syncing` (how far it has come after an outage).
//!
//! Where two parts meet stands in `meet/`, and only there.
//!
//! Contract (sans-IO): call [`Relay::handle_input`] for everything that happens, then [`Relay::poll_output`] until it gives
//! `None`, then sleep until [`Relay::poll_timeout`] or the next input. Time and chance are arguments. The relay never waits:
//! a sink (attempt, store, session) has at most one request out, and its answer is an input.

pub mod access;
pub mod alerts;
pub mod attempt;
pub mod backoff;
pub mod budget;
pub mod credentials;
pub mod feed;
pub mod held;
pub mod interest;
pub mod lately;
pub mod limiter;
pub mod link;
pub mod mapping;
mod meet;
pub mod naming;
pub mod outbox;
pub mod overlap;
pub mod pairs;
pub mod quality;
pub mod record;
pub mod redact;
pub mod refresh;
pub mod reorder;
pub mod repair;
pub mod rests;
pub mod rng;
pub mod roundtrip;
pub mod sample;
pub mod sequence;
pub mod session;
pub mod stats;
pub mod syncing;
pub mod tally;
pub mod time;
pub mod unsettled;
pub mod watch;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::config::Config;
use crate::dialect::Dialect;

use access::Access;
use alerts::Alerts;
use attempt::attempts::Attempts;
use budget::Budget;
use credentials::Credentials;
use feed::{Feed, RingId};
use interest::Interest;
use link::Link;
use mapping::Mapping;
use meet::clients::cutting::Pass;
use meet::connections::addressing::Addressing;
use meet::connections::fetches::Fetches;
use meet::connections::handover::Handover;
use meet::connections::limits;
use meet::draining::Draining;
use meet::heard::events::STATUS_CHANNEL;
use meet::heard::judging::Hourly;
use meet::messages::outbound::Outbound;
use meet::messages::waiting::Asker;
use outbox::Outbox;
use overlap::Overlap;
use pairs::{Input, Output};
use quality::Quality;
use record::Restored;
use redact::Redactor;
use refresh::Refreshes;
use reorder::Reorder;
use repair::Repairs;
use rests::Rests;
use rng::Rng;
use roundtrip::RoundTrips;
use sample::Samples;
use sequence::Sequence;
use session::Sessions;
use stats::Stats;
use tally::Tally;
use time::{Mono, Time};
use unsettled::Unsettled;
use watch::Watch;

/// The machine. See the module's documentation for its contract.
pub struct Relay {
    config: Arc<Config>,
    dialect: Arc<Dialect>,
    rng: Rng,
    outputs: VecDeque<Output>,
    stats: Stats,
    link: Link,
    /// The connection that serves and, on its way to take over, one beside it. All that belongs to a connection is in it, and
    /// every input names its attempt.
    attempts: Attempts,
    fetches: Fetches,
    credentials: Credentials,
    /// What is known to be secret.
    redactor: Redactor,
    handover: Handover,
    overlap: Overlap,
    interest: Interest,
    /// Channels that stand in the address.
    addressing: Addressing,
    feed: Feed,
    mapping: Mapping,
    sequence: Sequence,
    unsettled: Unsettled,
    reorder: Reorder,
    repairs: Repairs,
    refreshes: Refreshes<Asker>,
    budget: Budget,
    tally: Tally,
    sessions: Sessions,
    rests: Rests,
    outbox: Outbox,
    outbound: Outbound,
    access: Access,
    draining: Draining,
    samples: Samples,
    /// How long upstream takes to answer, over all connections.
    round_trips: RoundTrips,
    watch: Watch,
    quality: Quality,
    alerts: Alerts,
    /// What alerts count over an hour.
    hourly: Hourly,
    /// The file system under the store has less room than `outbox.min_free`.
    disk_low: bool,
    /// Free bytes there; `None` before it was said.
    disk_bytes: Option<u64>,
    /// Counts deliveries for the gap rule.
    pass: Pass,
    /// When the rings are next looked through for what is too old.
    next_sweep: Mono,
    /// Something happened since the pumps last ran.
    stirred: bool,
    /// A list that is filled and emptied within one call; kept for its memory.
    scratch_rings: Vec<RingId>,
    /// The same for a name.
    scratch_name: String,
}

impl Relay {
    /// A relay that begins to connect at its first timeout, with what the store held.
    pub fn new(config: Arc<Config>, dialect: Arc<Dialect>, restored: Restored, seed: u64, now: Time) -> Self {
        let mut rng = Rng::new(seed);
        let mut alerts = Alerts::default();
        alerts.configure(now.mono, &config.alerts);
        let mut stats = Stats::default();
        let epoch = crate::protocol::position::Epoch::new(rng.next_u64());
        let mut feed = Feed::new(epoch, &config);
        if let Some(status) = feed.carry(STATUS_CHANNEL, config.feed.ring, now) {
            feed.interest_again(status); // never evicted for want of readers
        }
        let upstream = interest::Upstream {
            subscribes: dialect.subscribes(),
            tells_params: dialect.tells_params(),
            channels: dialect.limits().channels,
        };
        meet::messages::overlaying::restore(&mut feed.overlays, &restored);
        let service = limits::service(&config, &dialect);
        let mut link = Link::new(&config.upstream, dialect.limits(), now.mono);
        let mut budget = Budget::new(config.budget);
        limits::go_on(&mut link, &mut budget, &restored.tally, service, now);
        Relay {
            outbox: Outbox::new(&config.outbox, restored, now, &mut stats.outbox),
            outbound: Outbound::new(&dialect, &config.upstream),
            stats,
            link,
            attempts: Attempts::default(),
            fetches: Fetches::default(),
            credentials: Credentials::new(&config.upstream, &dialect),
            redactor: Redactor::of(&config, dialect.secret_params()),
            handover: Handover::default(),
            overlap: Overlap::default(),
            addressing: Addressing::default(),
            interest: Interest::new(&config.interest, config.feed.max_channels, upstream),
            feed,
            mapping: meet::heard::mapping::compile(&config, &dialect),
            sequence: Sequence::new(dialect.gap()),
            unsettled: Unsettled::default(),
            reorder: Reorder::new(dialect.gap().and_then(|policy| policy.reorder).unwrap_or_default()),
            repairs: Repairs::new(config.repair),
            refreshes: Refreshes::default(),
            budget,
            tally: Tally::new(service),
            sessions: Sessions::new(),
            rests: Rests::default(),
            access: Access::new(&config.access),
            draining: Draining::default(),
            samples: Samples::default(),
            round_trips: RoundTrips::default(),
            watch: Watch::default(),
            quality: Quality::new(now),
            alerts,
            hourly: Hourly::new(now.mono),
            disk_low: false,
            disk_bytes: None,
            pass: Pass::default(),
            next_sweep: now.mono + meet::SWEEP_EVERY,
            stirred: true,
            scratch_rings: Vec::new(),
            scratch_name: String::new(),
            outputs: VecDeque::new(),
            rng,
            config,
            dialect,
        }
    }

    /// Takes one input. Its consequences wait in [`Relay::poll_output`].
    pub fn handle_input(&mut self, now: Time, input: Input) {
        if let Input::Delivered { session, at } = input {
            // By far the most frequent input; it can only make the session's next batch due.
            self.delivered(session, at);
            return;
        }
        self.stirred = true;
        match input {
            Input::Connected { attempt, peer } => self.connected(now, attempt, peer),
            Input::Disconnected { attempt, reason } => self.disconnected(now, attempt, reason),
            Input::Transmitted { attempt } => self.transmitted(now, attempt),
            Input::Upgraded { attempt } => self.upgraded(attempt),
            Input::NotUpgraded { attempt, reason } => self.not_upgraded(now, attempt, &reason),
            Input::Received { attempt, at, frames } => self.received(now, attempt, at, &frames),
            Input::Fetched { call, result } => self.fetched(now, call, result),
            Input::Alerted { delivery, result } => self.alerted(now, delivery, result),
            Input::Committed => self.committed(now),
            Input::Loaded(records) => self.loaded(now, records),
            Input::CommitFailed { reason } => self.commit_failed(now, &reason),
            Input::Joined { session, principal, format, subscribe } => {
                self.joined(now, session, principal, format, subscribe);
            }
            Input::Request { session, request } => self.requested(now, session, request),
            Input::Delivered { .. } => {}
            Input::Left { session, reason } => self.left(now, session, reason),
            Input::Call { call, principal, request } => self.called(now, call, &principal, request),
            Input::Disk { free, used } => self.disk(free, used),
            Input::Stop { now: at_once } => self.stop(now, at_once),
            Input::Reload(config) => self.reload(now, config),
        }
    }

    /// The next thing to do, or `None` when the turn is over. Drain it after every turn.
    pub fn poll_output(&mut self, now: Time) -> Option<Output> {
        while self.stirred && self.outputs.is_empty() {
            self.stirred = false;
            self.advance_handover(now);
            self.pump_upstream(now);
            self.pump_store(now);
            self.draining_timeout(now);
        }
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        self.next_delivery(now)
    }

    /// When [`Relay::handle_timeout`] is due at the latest.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let due = [
            self.upstream_due(),
            self.reorder_due(),
            self.repairs_due(),
            self.refreshes_due(),
            self.audits_due(),
            self.outbound_due(),
            self.sessions_due(),
            self.draining.due(),
            self.watch_due(),
            self.judging_due(),
            self.tally_due(),
        ];
        due.into_iter().flatten().min()
    }

    /// Does whatever is due by now; harmless if nothing is.
    pub fn handle_timeout(&mut self, now: Time) {
        self.stirred = true;
        self.reorder_timeout(Some(now.mono));
        self.repairs_timeout(now);
        self.refreshes_timeout(Some(now.mono));
        self.upstream_timeout(now);
        self.audits_timeout(now);
        self.outbound_timeout(now);
        self.sessions_timeout(now);
        self.watch_timeout(now);
        self.judging_timeout(now);
        self.draining_timeout(now);
    }

    /// The link as it stands, for the log.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// What is known to be secret, for whoever shows what went over a connection.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Plain numbers for the metrics and the status.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}
