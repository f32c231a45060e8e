//! Plain numbers about everything the relay does; `metrics.rs` gives them names and renders them.
//!
//! Invariant: counters only rise; gauges are what is true at the end of a turn. Each part of the relay owns one struct
//! here and counts in it; nothing here decides or is read back by a decision.
//! Deliberately not here: names of channels, clients or keys (a label per channel would grow without bound).

use std::collections::BTreeMap;
use std::time::Duration;

use super::outbox::{Lane, OutcomeState};
use super::pairs::LeftReason;
use super::time::Wall;
use crate::dialect::Skipped;

/// A counter per reason. Reasons are closed sets, so the map is bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts<K: Ord>(BTreeMap<K, u64>);

impl<K: Ord> Default for Counts<K> {
    fn default() -> Self {
        Counts(BTreeMap::new())
    }
}

impl<K: Ord> Counts<K> {
    /// One more.
    pub fn bump(&mut self, reason: K) {
        self.add(reason, 1);
    }

    /// So many more.
    pub fn add(&mut self, reason: K, count: u64) {
        *self.0.entry(reason).or_insert(0) += count;
    }

    /// How many so far.
    pub fn get(&self, reason: &K) -> u64 {
        self.0.get(reason).copied().unwrap_or(0)
    }

    /// How many over all reasons.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// What was counted, in the order of the reasons.
    pub fn iter(&self) -> impl Iterator<Item = (&K, u64)> {
        self.0.iter().map(|(reason, count)| (reason, *count))
    }
}

/// Buckets of every latency histogram, as upper bounds in microseconds: 50 us to 30 s.
pub const LATENCY_BOUNDS_US: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];

/// Latencies counted in the fixed buckets of [`LATENCY_BOUNDS_US`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    buckets: [u64; LATENCY_BOUNDS_US.len()],
    count: u64,
    sum_us: u64,
}

impl Histogram {
    /// Counts one latency.
    pub fn observe(&mut self, latency: Duration) {
        self.observe_many(latency, 1);
    }

    /// Counts `times` equal latencies: a batch of entries written at once.
    pub fn observe_many(&mut self, latency: Duration, times: u64) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        // The bounds are inclusive (Prometheus' `le`); what lies above the last is in `count` only.
        if let Some(bucket) = self.buckets.get_mut(LATENCY_BOUNDS_US.partition_point(|bound| *bound < us)) {
            *bucket += times;
        }
        self.count += times;
        self.sum_us = self.sum_us.saturating_add(us.saturating_mul(times));
    }

    /// Latencies counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum in seconds.
    pub fn sum_seconds(&self) -> f64 {
        Duration::from_micros(self.sum_us).as_secs_f64()
    }

    /// `(upper bound in seconds, latencies at or below it)`, rising.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut below = 0;
        LATENCY_BOUNDS_US.iter().zip(&self.buckets).map(move |(bound, bucket)| {
            below += bucket;
            (Duration::from_micros(*bound).as_secs_f64(), below)
        })
    }
}

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)* }
        impl $name {
            /// Every one, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// The word that people, frames and metrics use.
            pub fn text(self) -> &'static str { match self { $($name::$variant => $text,)* } }
        }
    };
}

words! {
    /// Where the link stands.
    LinkState {
        /// Not started.
        Idle = "idle";
        /// An attempt is dialing, shaking hands or authenticating.
        Connecting = "connecting";
        /// An attempt is ready.
        Live = "live";
        /// Waiting until the next attempt.
        BackingOff = "backing_off";
        /// Closed on request until `resume`.
        Paused = "paused";
        /// `upstream.max_attempts` were used up, or the dialect said fatal.
        GivenUp = "given_up";
    }
}

words! {
    /// Which limit held something back.
    ThrottlePlace {
        /// Connects to upstream.
        Connect = "connect";
        /// Subscribes and unsubscribes to upstream.
        Control = "control";
        /// Messages to upstream.
        Publish = "publish";
        /// Requests of one session.
        Request = "request";
        /// The dialect's `pause`.
        Pause = "pause";
    }
}

words! {
    /// What came of asking upstream what it believes to be subscribed.
    AuditEnd {
        /// The same as we do.
        Agreed = "agreed";
        /// Something else: it is being mended.
        Mended = "mended";
        /// It did not say, or refused to.
        Unanswered = "unanswered";
        /// Its names have nothing in common with ours, so that nothing can be mended by them.
        Unreadable = "unreadable";
    }
}

words! {
    /// What became of a provisional value.
    OverlayEnd {
        /// Its message was delivered.
        Confirmed = "confirmed";
        /// It was not, or nobody knows.
        RolledBack = "rolled_back";
    }
}

words! {
    /// What became of a volatile message.
    VolatileEnd {
        /// Its bytes are with the kernel.
        Sent = "sent";
        /// It could not leave at once.
        Refused = "refused";
        /// The connection was lost while it left.
        Lost = "lost";
    }
}

words! {
    /// Why something is missing on a channel: the `reason` of `gap`.
    GapReason {
        /// A number is missing in upstream's sequence, or upstream said that it lost something.
        UpstreamSeq = "upstream_seq";
        /// The connection was lost, another one took over, or polls followed each other, and upstream proves no continuity.
        Reconnect = "reconnect";
        /// Another transport took over.
        TransportSwitch = "transport_switch";
        /// This session fell behind.
        Slow = "slow";
        /// A message was larger than a limit.
        Oversize = "oversize";
        /// Upstream stopped talking about the channel.
        Silence = "silence";
        /// Upstream's checksum over the channel's state is another one than ours.
        Checksum = "checksum";
    }
}

words! {
    /// What is done about a channel that is silent: the `action` of `stale`, each one more than the one before.
    StaleAction {
        /// Say so.
        Mark = "mark";
        /// Subscribe it anew.
        Resubscribe = "resubscribe";
        /// Make the connection anew.
        Reconnect = "reconnect";
    }
}

words! {
    /// Why a subscriber has to start again: the `reason` of `reset`.
    ResetReason {
        /// The ring does not reach back that far.
        Evicted = "evicted";
        /// The channel was not carried in between.
        NotCarried = "not_carried";
        /// Another history.
        Epoch = "epoch";
        /// A position that was never given out.
        Future = "future";
        /// No position at all.
        Malformed = "malformed";
        /// Upstream started again.
        Upstream = "upstream";
        /// A gap was repaired.
        Repaired = "repaired";
    }
}

words! {
    /// What asking upstream costs.
    Cost {
        /// An HTTP request to the provider.
        Fetch = "fetch";
        /// A repair of a channel.
        Repair = "repair";
        /// A refresh that a client asked for.
        Refresh = "refresh";
        /// A channel subscribed.
        Subscribe = "subscribe";
    }
}

words! {
    /// How a repair ended.
    RepairEnd {
        /// Nothing is missing any more, or the state is known again.
        Repaired = "repaired";
        /// It was tried often enough, or there was no room to wait.
        GivenUp = "given_up";
        /// `[budget]` allows no more.
        Budget = "budget";
    }
}

words! {
    /// Why an event was dropped.
    DropReason {
        /// Upstream sent it twice.
        Duplicate = "duplicate";
        /// Two connections brought its channel, and the other one speaks for it.
        Overlap = "overlap";
        /// Nobody wants its channel.
        Unwanted = "unwanted";
        /// `feed.max_channels` are carried already.
        ChannelLimit = "channel_limit";
        /// A last value went because its channel has more keys than `feed.channel_keys`.
        KeyLimit = "key_limit";
        /// An increment without the state that it changes; that state is being asked for.
        NoBase = "no_base";
        /// Larger than a ring.
        Oversize = "oversize";
        /// A session fell behind the ring; told by `gap`.
        Slow = "slow";
    }
}

/// A close code of upstream's: those of RFC 6455 by themselves, the others by their range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CloseClass(u16);

impl CloseClass {
    /// That of a code.
    pub fn of(code: u16) -> Self {
        CloseClass(match code {
            1000..=1015 => code,
            3000..=3999 => 3000,
            4000..=4999 => 4000,
            _ => 0,
        })
    }

    /// Its word.
    pub fn text(self) -> String {
        match self.0 {
            0 => "other".to_owned(),
            3000 => "3xxx".to_owned(),
            4000 => "4xxx".to_owned(),
            code => code.to_string(),
        }
    }
}

/// What we show upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthStats {
    /// Attempts that ended because upstream did not take it.
    pub failures: u64,
    /// Tokens and answers of calls that could not be renewed in time.
    pub refresh_failures: u64,
    /// When the token of the connection that serves runs out, if it is known.
    pub token_until: Option<Wall>,
}

/// The link and its attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Where it stands; `None` before the first turn.
    pub state: Option<LinkState>,
    /// Attempts begun.
    pub attempts: u64,
    /// Attempts that connected before the store knew of them.
    pub uncounted: u64,
    /// Connections that may be begun at once; `None`: upstream names no limit.
    pub connects_left: Option<u32>,
    /// Frames that may leave at once; `None`: upstream names no limit.
    pub frames_left: Option<u32>,
    /// Attempts that became ready.
    pub ready: u64,
    /// Connections that were live and did not become stable.
    pub flaps: u64,
    /// Times that another transport served than before.
    pub transport_switches: u64,
    /// Sessions that were polled and went on over a WebSocket.
    pub upgrades: u64,
    /// Those that were to, and were polled on.
    pub upgrades_failed: u64,
    /// Connections that upstream closed, by code.
    pub closes: Counts<CloseClass>,
    /// Connections that took over from one that still served.
    pub rotations: u64,
    /// Connections that ended because one side broke the protocol, by its close code or by ours.
    pub protocol_errors: u64,
    /// Ready connections that were lost, and not because somebody asked for it.
    pub lost: u64,
    /// Attempts ended, by `pairs::Disconnect::reason`.
    pub disconnects: Counts<&'static str>,
    /// Heartbeats: from ping to pong.
    pub rtt: Histogram,
    /// From `Connect` to ready.
    pub connect: Histogram,
    /// From `Transmit` until its frames were with the kernel.
    pub write: Histogram,
    /// How long the `Transmit` that is out has waited so far.
    pub write_stall: Duration,
    /// Polls that came back at once with nothing and made the next one wait.
    pub hasty_polls: u64,
    /// Frames received.
    pub frames_in: u64,
    /// Their payload bytes.
    pub bytes_in: u64,
    /// Frames transmitted.
    pub frames_out: u64,
    /// Their payload bytes.
    pub bytes_out: u64,
    /// When a frame was last received.
    pub last_frame: Option<Wall>,
}

/// What the dialect made of the frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DialectStats {
    /// Events extracted.
    pub events: u64,
    /// Messages that no rule matched.
    pub unmatched: u64,
    /// Messages whose rule matched but whose channel, or what it needs, was missing.
    pub unextracted: u64,
    /// Frames that are not valid in the dialect's framing.
    pub malformed: u64,
    /// Acks and refusals that belong to no pending request.
    pub unexpected: u64,
    /// What is passed over on purpose.
    pub skipped: Counts<Skipped>,
}

/// Interest: wanted against acked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterestStats {
    /// Channels wanted now.
    pub wanted: u64,
    /// Channels live upstream now.
    pub active: u64,
    /// Channels waiting for room under the cap now.
    pub waiting: u64,
    /// Channels whose refusal is remembered now.
    pub failed: u64,
    /// Subscribes sent.
    pub subscribes: u64,
    /// Unsubscribes sent.
    pub unsubscribes: u64,
    /// Subscribes that upstream did not answer in time.
    pub timeouts: u64,
    /// Refusals, by `protocol::codes::ErrorCode::text`.
    pub refused: Counts<&'static str>,
    /// Questions what upstream believes to be subscribed.
    pub audits: Counts<AuditEnd>,
    /// Channels that upstream's list lacked.
    pub audit_missing: u64,
    /// Channels that it had too many.
    pub audit_extra: u64,
}

/// The rings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedStats {
    /// Channels carried now.
    pub channels: u64,
    /// Entries in all rings now.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Last values held now.
    pub values: u64,
    /// Entries admitted.
    pub admitted: u64,
    /// Entries that left a ring for a bound.
    pub evicted: u64,
    /// Events dropped.
    pub dropped: Counts<DropReason>,
    /// Events that sessions did not get since newer ones stood for them.
    pub conflated: u64,
    /// Events that came before their turn and waited.
    pub reordered: u64,
    /// Checksums of upstream's that were not those of the state.
    pub mismatched: u64,
    /// Gaps told, upstream's and sessions'.
    pub gaps: Counts<GapReason>,
    /// Resets told.
    pub resets: Counts<ResetReason>,
    /// Resumes that were answered with every missed entry, counted per channel.
    pub resumed: u64,
    /// Provisional values now.
    pub overlays_laid: u64,
    /// What became of them.
    pub overlays: Counts<OverlayEnd>,
}

words! {
    /// How good upstream is, best first.
    Band {
        /// Nothing to complain about.
        Good = "good";
        /// Worse than it should be.
        Degraded = "degraded";
        /// Of little use.
        Poor = "poor";
        /// Not live for a while.
        Down = "down";
    }
}

/// How good upstream is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QualityStats {
    /// From 0 to 100; `None` before it was judged first.
    pub score: Option<f64>,
    /// The same in words.
    pub band: Option<Band>,
    /// Seconds that our clock is ahead of upstream's, as far as its events tell.
    pub clock_skew: Option<f64>,
    /// How often our wall clock jumped.
    pub clock_jumps: u64,
}

/// The alerts of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlertStats {
    /// Each by its name, and whether it fires now.
    pub firing: Vec<(String, bool)>,
    /// Messages to places outside: `delivered`, `retried`, `failed`, `dropped`.
    pub deliveries: Counts<&'static str>,
}

/// Channels whose silence is watched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// Watched now.
    pub watched: u64,
    /// Silent for longer than their limit now.
    pub stale: u64,
    /// What was done about silent ones.
    pub actions: Counts<StaleAction>,
    /// Stale ones that spoke again.
    pub recovered: u64,
}

/// Holes that are mended, and what asking upstream costs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairStats {
    /// Repairs under way now.
    pub open: u64,
    /// Events held by them now.
    pub held: u64,
    /// Repairs begun.
    pub begun: u64,
    /// Tries: upstream was asked.
    pub tries: u64,
    /// Repairs ended.
    pub ended: Counts<RepairEnd>,
    /// From the hole to its end, of those that were mended.
    pub took: Histogram,
    /// By cost: in the last hour, in the last day.
    pub spent: BTreeMap<Cost, (u64, u64)>,
    /// What the budget refused.
    pub refused: Counts<Cost>,
}

/// The local clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Sessions now.
    pub open: u64,
    /// Subscriptions (session x channel) now.
    pub subscriptions: u64,
    /// Sessions whose socket is full now.
    pub blocked: u64,
    /// Sessions joined.
    pub joined: u64,
    /// Sessions left.
    pub left: Counts<LeftReason>,
    /// Requests read.
    pub requests: u64,
    /// `error` frames and problems sent, by `protocol::codes::ErrorCode::text`.
    pub errors: Counts<&'static str>,
    /// Entries written to sockets (an entry counts once per session).
    pub deliveries: u64,
    /// Batches written to sockets.
    pub batches: u64,
    /// Their bytes, framing included.
    pub bytes: u64,
    /// From the receipt of an upstream frame to the end of the write that carried its entry, per batch by its oldest
    /// live entry; replays and snapshots do not count.
    pub latency: Histogram,
}

/// One lane of the outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Accepted messages that are not settled.
    pub depth: u64,
    /// When the oldest of them was accepted.
    pub oldest: Option<Wall>,
}

/// Outbound messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutboxStats {
    /// By lane, in the order of [`Lane`].
    pub lanes: [LaneStats; 4],
    /// Their bytes.
    pub bytes: u64,
    /// How many of them are in memory because their turn may be near; the others are on disk, or on their way.
    pub in_memory: u64,
    /// Bytes of those.
    pub in_memory_bytes: u64,
    /// In flight to upstream now.
    pub in_flight: u64,
    /// How many may be: `outbox.window`, or fewer while upstream asks for pauses.
    pub window: u64,
    /// Outcomes and idempotency keys kept now.
    pub outcomes_kept: u64,
    /// `outbox.max_messages`.
    pub max_messages: u64,
    /// `outbox.max_bytes`.
    pub max_bytes: u64,
    /// Messages accepted by this process.
    pub accepted: u64,
    /// Messages found undelivered at start.
    pub restored: u64,
    /// What became of volatile messages.
    pub volatile: Counts<VolatileEnd>,
    /// Messages refused before acceptance, by `protocol::codes::ErrorCode::text`.
    pub refused: Counts<&'static str>,
    /// Publishes whose idempotency key found an earlier message.
    pub idempotent_hits: u64,
    /// Attempts transmitted.
    pub attempts: u64,
    /// Attempts that will be repeated.
    pub retries: u64,
    /// Attempts without an answer in time.
    pub ack_timeouts: u64,
    /// Answers to an attempt that was already given up or settled.
    pub late_acks: u64,
    /// Answers to a message that is not known, or was never sent.
    pub unknown_acks: u64,
    /// Refusals by upstream.
    pub nacks: u64,
    /// Messages settled.
    pub outcomes: Counts<OutcomeState>,
    /// Jumps of the wall clock that suspended expiry.
    pub clock_jumps: u64,
    /// Outcomes forgotten early for `outbox.keep_outcomes_max`.
    pub outcomes_dropped: u64,
    /// Dead letters kept now.
    pub dead_letters: u64,
    /// Dead letters dropped because too many were kept.
    pub dead_letters_dropped: u64,
    /// Dead letters published again.
    pub redriven: u64,
    /// Whether the store failed: nothing is accepted any more.
    pub store_failed: bool,
}

impl OutboxStats {
    /// The lane's numbers, to be changed.
    pub fn lane(&mut self, lane: Lane) -> &mut LaneStats {
        &mut self.lanes[place(lane)]
    }

    /// The lane's numbers.
    pub fn of_lane(&self, lane: Lane) -> &LaneStats {
        &self.lanes[place(lane)]
    }

    /// Messages accepted and not settled, over all lanes.
    pub fn depth(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.depth).sum()
    }

    /// Messages accepted or restored that are neither settled nor pending: 0 unless there is a bug.
    pub fn conservation_error(&self) -> i128 {
        let ended = i128::from(self.outcomes.total()) + i128::from(self.depth());
        i128::from(self.accepted) + i128::from(self.restored) - ended
    }
}

/// The event loop around the relay: the driver writes it into the copy that `CallRequest::Stats` asks for; the relay
/// itself leaves it empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoopStats {
    /// Turns of the event loop.
    pub turns: u64,
    /// How long they took.
    pub turn: Histogram,
    /// How late the event loop woke for a timer.
    pub lag: Histogram,
}

fn place(lane: Lane) -> usize {
    match lane {
        Lane::Critical => 0,
        Lane::High => 1,
        Lane::Medium => 2,
        Lane::Low => 3,
    }
}

/// All counters and gauges of the relay, one struct per part.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// The link and its attempts.
    pub link: LinkStats,
    /// Credentials.
    pub auth: AuthStats,
    /// The conversation.
    pub dialect: DialectStats,
    /// Wanted against acked.
    pub interest: InterestStats,
    /// The rings.
    pub feed: FeedStats,
    /// How good upstream is.
    pub quality: QualityStats,
    /// The alerts of the configuration.
    pub alerts: AlertStats,
    /// Channels whose silence is watched.
    pub watch: WatchStats,
    /// Repairs and costs.
    pub repair: RepairStats,
    /// The local clients.
    pub sessions: SessionStats,
    /// Outbound messages.
    pub outbox: OutboxStats,
    /// What limits held back.
    pub throttled: Counts<ThrottlePlace>,
    /// Around the relay.
    pub turns: LoopStats,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_at_or_below_each_bound() {
        let mut histogram = Histogram::default();
        histogram.observe(Duration::from_micros(50));
        histogram.observe(Duration::from_micros(51));
        histogram.observe_many(Duration::from_secs(31), 3);
        let below: Vec<(f64, u64)> = histogram.cumulative().collect();
        assert_eq!(below[0], (0.00005, 1));
        assert_eq!(below[1], (0.0001, 2));
        assert_eq!(below.last(), Some(&(30.0, 2)));
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum_seconds() - 93.000_101).abs() < 1e-9);
    }

    #[test]
    fn messages_are_conserved() {
        let mut outbox = OutboxStats { accepted: 5, restored: 1, ..OutboxStats::default() };
        outbox.outcomes.add(OutcomeState::Delivered, 3);
        outbox.lane(Lane::Low).depth = 2;
        assert_eq!(outbox.conservation_error(), 1);
        outbox.lane(Lane::Critical).depth = 1;
        assert_eq!(outbox.conservation_error(), 0);
    }
}
