//! The table of all metrics that are read from plain numbers. One line here is one metric.

use std::time::Duration;

use super::Read::{Counter, Counters, Gauge, Gauges, Histogram, Maybe};
use super::{Declared, Put, Shape, View};
use crate::dialect::Skipped;
use crate::protocol::codes::{CloseCode, ErrorCode};
use crate::relay::outbox::{Lane, OutcomeState};
use crate::relay::pairs::{CloseCodeOrd, LeftReason};
use crate::relay::stats::{
    AuditEnd, Band, Cost, Counts, DropReason, GapReason, LinkState, OverlayEnd, RepairEnd, ResetReason, StaleAction,
    ThrottlePlace, VolatileEnd,
};
use crate::relay::time::Wall;
use crate::store::{COMMIT_SECONDS, StoreStats};

const fn metric(name: &'static str, help: &'static str, read: super::Read) -> Declared {
    Declared { name, help, read }
}

/// All of them, grouped as in `relay::stats`.
#[rustfmt::skip]
pub(super) const METRICS: &[Declared] = &[
    metric("tidegate_build_info", "Constant 1, labelled with the program's version.",
        Gauges("version", |_, put| put(env!("CARGO_PKG_VERSION"), 1.0))),

    metric("tidegate_link_state", "1 for the state that the link to upstream is in, 0 for the others.",
        Gauges("state", |v, put| LinkState::ALL.iter().for_each(|s| put(s.text(), f64::from(v.stats.link.state == Some(*s)))))),
    metric("tidegate_link_attempts_total", "Connections to upstream that were begun.",
        Counter(|v| v.stats.link.attempts)),
    metric("tidegate_link_uncounted_total", "Connections to upstream that were begun before the store knew of them, because it failed or was slow.",
        Counter(|v| v.stats.link.uncounted)),
    metric("tidegate_link_tokens", "What may leave at once of what upstream allows; absent where it names no limit.",
        Gauges("bucket", |v, put| {
            v.stats.link.connects_left.into_iter().for_each(|left| put("connects", f64::from(left)));
            v.stats.link.frames_left.into_iter().for_each(|left| put("frames", f64::from(left)));
        })),
    metric("tidegate_link_ready_total", "Connections to upstream that became ready.",
        Counter(|v| v.stats.link.ready)),
    metric("tidegate_link_rotations_total", "Connections to upstream that took over from one that still served.",
        Counter(|v| v.stats.link.rotations)),
    metric("tidegate_link_transport_switches_total", "Times that another transport than before served; before the first connection that is the best one.",
        Counter(|v| v.stats.link.transport_switches)),
    metric("tidegate_link_upgrades_total", "Sessions that were polled and were to go on over a WebSocket, by result.",
        Counters("result", |v, put| { put("moved", v.stats.link.upgrades); put("failed", v.stats.link.upgrades_failed); })),
    metric("tidegate_link_flaps_total", "Connections to upstream that were live for less than upstream.stable_for.",
        Counter(|v| v.stats.link.flaps)),
    metric("tidegate_link_closes_total", "Connections that upstream closed, by close code; those above 1015 by their range.",
        Counters("code", |v, put| v.stats.link.closes.iter().for_each(|(class, n)| put(&class.text(), n)))),
    metric("tidegate_link_disconnects_total", "Connections to upstream that ended or never came about, by reason.",
        Counters("reason", |v, put| v.stats.link.disconnects.iter().for_each(|(reason, n)| put(reason, n)))),
    metric("tidegate_link_lost_total", "Connections to upstream that were ready and were lost, not on request.",
        Counter(|v| v.stats.link.lost)),
    metric("tidegate_link_rtt_seconds", "From a ping to upstream to its pong.",
        Histogram(|v| Shape::from(&v.stats.link.rtt))),
    metric("tidegate_link_connect_seconds", "From the start of a connection to upstream until it was ready.",
        Histogram(|v| Shape::from(&v.stats.link.connect))),
    metric("tidegate_link_write_seconds", "From the order to write frames to upstream until the kernel had them.",
        Histogram(|v| Shape::from(&v.stats.link.write))),
    metric("tidegate_link_write_stall_seconds", "How long the write to upstream that is under way has waited for the network.",
        Gauge(|v| v.stats.link.write_stall.as_secs_f64())),
    metric("tidegate_link_hasty_polls_total", "Polls that came back at once with nothing, so that the next one had to wait.",
        Counter(|v| v.stats.link.hasty_polls)),
    metric("tidegate_link_frames_in_total", "Frames received from upstream.",
        Counter(|v| v.stats.link.frames_in)),
    metric("tidegate_link_in_bytes_total", "Payload bytes of the frames received from upstream.",
        Counter(|v| v.stats.link.bytes_in)),
    metric("tidegate_link_frames_out_total", "Frames transmitted to upstream.",
        Counter(|v| v.stats.link.frames_out)),
    metric("tidegate_link_out_bytes_total", "Payload bytes of the frames transmitted to upstream.",
        Counter(|v| v.stats.link.bytes_out)),
    metric("tidegate_link_last_frame_age_seconds", "Time since the last frame from upstream; absent before the first.",
        Maybe(|v| v.stats.link.last_frame.map(|at| age(v.now, at)))),

    metric("tidegate_upstream_quality", "How good upstream is, from 0 to 100; /v1/status shows what it is made of. Absent before it was judged.",
        Maybe(|v| v.stats.quality.score)),
    metric("tidegate_upstream_quality_band", "1 for the band that the quality is in, 0 for the others.",
        Gauges("band", |v, put| Band::ALL.iter().for_each(|b| put(b.text(), f64::from(v.stats.quality.band == Some(*b)))))),
    metric("tidegate_upstream_clock_skew_seconds", "How far our clock is ahead of upstream's, by the times in its events; absent without such.",
        Maybe(|v| v.stats.quality.clock_skew)),
    metric("tidegate_clock_jumps_total", "Jumps of our wall clock of more than half a second.",
        Counter(|v| v.stats.quality.clock_jumps)),

    metric("tidegate_alerts_firing", "1 for each alert of the configuration that fires, 0 for the others.",
        Gauges("alert", |v, put| v.stats.alerts.firing.iter().for_each(|(name, firing)| put(name, f64::from(*firing))))),
    metric("tidegate_alert_deliveries_total", "Messages of alerts to webhooks and commands, by result.",
        Counters("result", |v, put| {
            ["delivered", "retried", "failed", "dropped"].iter().for_each(|r| put(r, v.stats.alerts.deliveries.get(r)));
        })),

    metric("tidegate_upstream_auth_failures_total", "Attempts that ended because upstream did not take our credentials.",
        Counter(|v| v.stats.auth.failures)),
    metric("tidegate_token_refresh_failures_total", "Tokens and answers of calls that could not be renewed in time.",
        Counter(|v| v.stats.auth.refresh_failures)),
    metric("tidegate_token_expires_in_seconds", "Until the token of the connection that serves runs out, negative afterwards; absent if nobody says.",
        Maybe(|v| v.stats.auth.token_until.map(|until| age(until, v.now) - age(v.now, until)))),

    metric("tidegate_dialect_events_total", "Events that the dialect extracted.",
        Counter(|v| v.stats.dialect.events)),
    metric("tidegate_dialect_unmatched_total", "Messages from upstream that no rule of the dialect matched.",
        Counter(|v| v.stats.dialect.unmatched)),
    metric("tidegate_dialect_unextracted_total", "Messages that a rule matched but that lacked what the rule needs.",
        Counter(|v| v.stats.dialect.unextracted)),
    metric("tidegate_dialect_malformed_total", "Frames that are not valid in the dialect's framing.",
        Counter(|v| v.stats.dialect.malformed)),
    metric("tidegate_dialect_unexpected_total", "Acknowledgements and refusals that belong to no pending request.",
        Counter(|v| v.stats.dialect.unexpected)),
    metric("tidegate_dialect_skipped_total", "What is passed over on purpose: packets of other namespaces, attachments that are too large.",
        Counters("what", |v, put| Skipped::ALL.iter().for_each(|what| put(what.word(), v.stats.dialect.skipped.get(what))))),

    metric("tidegate_http_refused_total", "Requests to the feed's listener that were refused before the relay saw them, by error code.",
        Counters("code", |v, put| ErrorCode::ALL.iter().for_each(|c| put(c.text(), v.http.refused(*c))))),
    metric("tidegate_accept_errors_total", "Connections that could not be accepted for want of descriptors or memory.",
        Counter(|v| v.http.accept_errors())),

    metric("tidegate_throttled_total", "How often a limit held something back, by place.",
        Counters("place", |v, put| ThrottlePlace::ALL.iter().for_each(|p| put(p.text(), v.stats.throttled.get(p))))),

    metric("tidegate_interest_channels", "Channels by the state of their subscription upstream.",
        Gauges("state", |v, put| {
            put("wanted", v.stats.interest.wanted as f64);
            put("active", v.stats.interest.active as f64);
            put("waiting", v.stats.interest.waiting as f64);
            put("failed", v.stats.interest.failed as f64);
        })),
    metric("tidegate_interest_subscribes_total", "Subscribes sent to upstream.",
        Counter(|v| v.stats.interest.subscribes)),
    metric("tidegate_interest_unsubscribes_total", "Unsubscribes sent to upstream.",
        Counter(|v| v.stats.interest.unsubscribes)),
    metric("tidegate_interest_timeouts_total", "Subscribes that upstream did not answer in time.",
        Counter(|v| v.stats.interest.timeouts)),
    metric("tidegate_interest_audits_total", "Questions what upstream believes to be subscribed, by result.",
        Counters("result", |v, put| AuditEnd::ALL.iter().for_each(|r| put(r.text(), v.stats.interest.audits.get(r))))),
    metric("tidegate_interest_audit_differences_total", "Channels on one list only: missing on upstream's, or extra there.",
        Counters("kind", |v, put| {
            put("missing", v.stats.interest.audit_missing);
            put("extra", v.stats.interest.audit_extra);
        })),
    metric("tidegate_interest_refused_total", "Subscriptions that upstream refused or ended, by code.",
        Counters("code", |v, put| codes(&v.stats.interest.refused, put))),

    metric("tidegate_watch_channels", "Channels whose silence is watched.",
        Gauge(|v| v.stats.watch.watched as f64)),
    metric("tidegate_watch_stale_channels", "Channels on which upstream has been silent for longer than their limit.",
        Gauge(|v| v.stats.watch.stale as f64)),
    metric("tidegate_watch_actions_total", "What was done about silent channels, by action.",
        Counters("action", |v, put| StaleAction::ALL.iter().for_each(|a| put(a.text(), v.stats.watch.actions.get(a))))),
    metric("tidegate_watch_recovered_total", "Stale channels that spoke again.",
        Counter(|v| v.stats.watch.recovered)),

    metric("tidegate_feed_channels", "Channels carried.",
        Gauge(|v| v.stats.feed.channels as f64)),
    metric("tidegate_feed_ring_entries", "Entries held in all rings.",
        Gauge(|v| v.stats.feed.entries as f64)),
    metric("tidegate_feed_ring_bytes", "Bytes held in all rings.",
        Gauge(|v| v.stats.feed.bytes as f64)),
    metric("tidegate_feed_last_values", "Last values held.",
        Gauge(|v| v.stats.feed.values as f64)),
    metric("tidegate_feed_admitted_total", "Entries admitted to a ring.",
        Counter(|v| v.stats.feed.admitted)),
    metric("tidegate_feed_evicted_total", "Entries that left a ring for one of its bounds.",
        Counter(|v| v.stats.feed.evicted)),
    metric("tidegate_feed_reordered_total", "Events that came before their turn and waited for those before them.",
        Counter(|v| v.stats.feed.reordered)),
    metric("tidegate_repairs_open", "Repairs of channels that are under way.",
        Gauge(|v| v.stats.repair.open as f64)),
    metric("tidegate_repair_held_events", "Events that wait for the repair of their channel.",
        Gauge(|v| v.stats.repair.held as f64)),
    metric("tidegate_repairs_begun_total", "Repairs of channels that were begun.",
        Counter(|v| v.stats.repair.begun)),
    metric("tidegate_repair_tries_total", "How often upstream was asked for a repair.",
        Counter(|v| v.stats.repair.tries)),
    metric("tidegate_repairs_total", "Repairs of channels that ended, by result.",
        Counters("result", |v, put| RepairEnd::ALL.iter().for_each(|r| put(r.text(), v.stats.repair.ended.get(r))))),
    metric("tidegate_repair_seconds", "From a hole to its repair, where it was repaired.",
        Histogram(|v| Shape::from(&v.stats.repair.took))),
    metric("tidegate_budget_hour", "What was spent in the last hour, by cost.",
        Gauges("cost", |v, put| v.stats.repair.spent.iter().for_each(|(cost, spent)| put(cost.text(), spent.0 as f64)))),
    metric("tidegate_budget_day", "What was spent in the last day, by cost.",
        Gauges("cost", |v, put| v.stats.repair.spent.iter().for_each(|(cost, spent)| put(cost.text(), spent.1 as f64)))),
    metric("tidegate_budget_refused_total", "What the budget refused, by cost.",
        Counters("cost", |v, put| Cost::ALL.iter().for_each(|c| put(c.text(), v.stats.repair.refused.get(c))))),

    metric("tidegate_feed_dropped_total", "Events dropped, by reason; `slow` counts per session and is told to it.",
        Counters("reason", |v, put| DropReason::ALL.iter().for_each(|r| put(r.text(), v.stats.feed.dropped.get(r))))),
    metric("tidegate_feed_conflated_total", "Events that sessions did not get because newer ones stood for them, as they had asked.",
        Counter(|v| v.stats.feed.conflated)),
    metric("tidegate_feed_checksum_mismatches_total", "Upstream's checksums that were not those of the channel's state.",
        Counter(|v| v.stats.feed.mismatched)),
    metric("tidegate_feed_gaps_total", "Gaps told, by reason.",
        Counters("reason", |v, put| GapReason::ALL.iter().for_each(|r| put(r.text(), v.stats.feed.gaps.get(r))))),
    metric("tidegate_feed_resets_total", "Resets told, by reason.",
        Counters("reason", |v, put| ResetReason::ALL.iter().for_each(|r| put(r.text(), v.stats.feed.resets.get(r))))),
    metric("tidegate_feed_resumed_total", "Channels resumed without a hole.",
        Counter(|v| v.stats.feed.resumed)),
    metric("tidegate_feed_overlays", "Provisional values that are pending, or about to be.",
        Gauge(|v| v.stats.feed.overlays_laid as f64)),
    metric("tidegate_feed_overlays_total", "Provisional values that ended, by how.",
        Counters("result", |v, put| OverlayEnd::ALL.iter().for_each(|r| put(r.text(), v.stats.feed.overlays.get(r))))),

    metric("tidegate_sessions_open", "Sessions connected.",
        Gauge(|v| v.stats.sessions.open as f64)),
    metric("tidegate_sessions_subscriptions", "Subscriptions of all sessions.",
        Gauge(|v| v.stats.sessions.subscriptions as f64)),
    metric("tidegate_sessions_blocked", "Sessions whose socket is full.",
        Gauge(|v| v.stats.sessions.blocked as f64)),
    metric("tidegate_sessions_joined_total", "Sessions that connected.",
        Counter(|v| v.stats.sessions.joined)),
    metric("tidegate_sessions_closed_total", "Sessions that ended, by reason.",
        Counters("reason", |v, put| closed(&v.stats.sessions.left, put))),
    metric("tidegate_sessions_requests_total", "Requests read from sessions.",
        Counter(|v| v.stats.sessions.requests)),
    metric("tidegate_sessions_errors_total", "Errors told to clients, by code.",
        Counters("code", |v, put| codes(&v.stats.sessions.errors, put))),
    metric("tidegate_deliveries_total", "Entries written to sockets, once per session.",
        Counter(|v| v.stats.sessions.deliveries)),
    metric("tidegate_delivery_batches_total", "Batches written to sockets.",
        Counter(|v| v.stats.sessions.batches)),
    metric("tidegate_delivery_bytes_total", "Bytes written to sockets, framing included.",
        Counter(|v| v.stats.sessions.bytes)),
    metric("tidegate_delivery_latency_seconds", "From a frame's receipt from upstream to the end of the write to a local socket.",
        Histogram(|v| Shape::from(&v.stats.sessions.latency))),

    metric("tidegate_outbox_messages", "Accepted messages that are not settled, by lane.",
        Gauges("lane", |v, put| lanes(v, |lane, _| lane.depth as f64, put))),
    metric("tidegate_outbox_oldest_age_seconds", "Age of the oldest accepted message that is not settled, by lane; 0 if there is none.",
        Gauges("lane", |v, put| lanes(v, |lane, now| lane.oldest.map_or(0.0, |at| age(now, at)), put))),
    metric("tidegate_outbox_bytes", "Bytes of the accepted messages that are not settled.",
        Gauge(|v| v.stats.outbox.bytes as f64)),
    metric("tidegate_outbox_in_memory", "Waiting messages held in memory; the others are on disk and are read when their turn is near.",
        Gauge(|v| v.stats.outbox.in_memory as f64)),
    metric("tidegate_outbox_in_memory_bytes", "Bytes of the waiting messages held in memory.",
        Gauge(|v| v.stats.outbox.in_memory_bytes as f64)),
    metric("tidegate_outbox_in_flight", "Messages in flight to upstream.",
        Gauge(|v| v.stats.outbox.in_flight as f64)),
    metric("tidegate_outbox_window", "Messages that may be in flight: outbox.window, or fewer while upstream asks for pauses.",
        Gauge(|v| v.stats.outbox.window as f64)),
    metric("tidegate_outbox_outcomes_kept", "Outcomes and idempotency keys kept.",
        Gauge(|v| v.stats.outbox.outcomes_kept as f64)),
    metric("tidegate_outbox_accepted_total", "Messages accepted.",
        Counter(|v| v.stats.outbox.accepted)),
    metric("tidegate_outbox_restored_total", "Messages found undelivered at start.",
        Counter(|v| v.stats.outbox.restored)),
    metric("tidegate_outbox_refused_total", "Messages refused before acceptance, by code.",
        Counters("code", |v, put| codes(&v.stats.outbox.refused, put))),
    metric("tidegate_outbox_volatile_total", "Volatile messages, by what became of them.",
        Counters("result", |v, put| VolatileEnd::ALL.iter().for_each(|r| put(r.text(), v.stats.outbox.volatile.get(r))))),
    metric("tidegate_outbox_idempotent_hits_total", "Publishes that found their earlier message by its idempotency key.",
        Counter(|v| v.stats.outbox.idempotent_hits)),
    metric("tidegate_outbox_attempts_total", "Attempts transmitted to upstream.",
        Counter(|v| v.stats.outbox.attempts)),
    metric("tidegate_outbox_retries_total", "Attempts that failed and will be repeated.",
        Counter(|v| v.stats.outbox.retries)),
    metric("tidegate_outbox_ack_timeouts_total", "Attempts that upstream did not answer in time.",
        Counter(|v| v.stats.outbox.ack_timeouts)),
    metric("tidegate_outbox_late_acks_total", "Answers to attempts that were already given up.",
        Counter(|v| v.stats.outbox.late_acks)),
    metric("tidegate_outbox_unknown_acks_total", "Answers to messages that are not known or were never sent.",
        Counter(|v| v.stats.outbox.unknown_acks)),
    metric("tidegate_outbox_nacks_total", "Refusals of messages by upstream.",
        Counter(|v| v.stats.outbox.nacks)),
    metric("tidegate_outbox_clock_jumps_total", "Jumps of the wall clock that suspended expiry.",
        Counter(|v| v.stats.outbox.clock_jumps)),
    metric("tidegate_outbox_outcomes_total", "Messages settled, by outcome.",
        Counters("state", outcomes)),
    metric("tidegate_outbox_outcomes_dropped_total", "Outcomes forgotten early because too many were kept.",
        Counter(|v| v.stats.outbox.outcomes_dropped)),
    metric("tidegate_outbox_dead_letters", "Dead letters kept, to be published again or purged.",
        Gauge(|v| v.stats.outbox.dead_letters as f64)),
    metric("tidegate_outbox_dead_letters_dropped_total", "Dead letters dropped because too many were kept.",
        Counter(|v| v.stats.outbox.dead_letters_dropped)),
    metric("tidegate_outbox_redriven_total", "Dead letters published again.",
        Counter(|v| v.stats.outbox.redriven)),
    metric("tidegate_outbox_conservation_error", "Messages that are neither settled nor pending; not 0 means a bug.",
        Gauge(|v| v.stats.outbox.conservation_error() as f64)),

    metric("tidegate_buffer_received_events_total", "Messages accepted into the outbox or found there at start, under the name that dashboards for buffers know.",
        Counter(|v| v.stats.outbox.accepted + v.stats.outbox.restored)),
    metric("tidegate_buffer_sent_events_total", "Messages delivered from the outbox, under that name.",
        Counter(|v| v.stats.outbox.outcomes.get(&OutcomeState::Delivered))),
    metric("tidegate_buffer_discarded_events_total", "Messages that left the outbox undelivered, by outcome.",
        Counters("reason", |v, put| outcomes(v, &mut |state, count| if state != "delivered" { put(state, count) }))),
    metric("tidegate_buffer_size_events", "Messages in the outbox.",
        Gauge(|v| v.stats.outbox.depth() as f64)),
    metric("tidegate_buffer_size_bytes", "Their bytes.",
        Gauge(|v| v.stats.outbox.bytes as f64)),
    metric("tidegate_buffer_max_size_events", "Messages that the outbox may hold (outbox.max_messages).",
        Gauge(|v| v.stats.outbox.max_messages as f64)),
    metric("tidegate_buffer_max_size_bytes", "Bytes that it may hold (outbox.max_bytes).",
        Gauge(|v| v.stats.outbox.max_bytes as f64)),

    metric("tidegate_store_commit_seconds", "From the hand-over of a commit to stable storage.",
        Histogram(|v| commits(v.store))),
    metric("tidegate_store_operations_total", "Operations made durable.",
        Counter(|v| v.store.operations)),
    metric("tidegate_store_disk_bytes", "Bytes that the store's files occupy.",
        Gauge(|v| v.store.disk_bytes as f64)),
    metric("tidegate_store_free_bytes", "Free bytes of the file system below the store.",
        Gauge(|v| v.store.free_bytes as f64)),
    metric("tidegate_store_rotations_total", "Times that the store was written anew because its file was much larger than what was in it.",
        Counter(|v| v.store.rotations)),
    metric("tidegate_store_lost_records_total", "Records that were committed once and not found at start.",
        Counter(|v| v.store.lost)),
    metric("tidegate_store_failed", "1 once the store failed: nothing is accepted until a restart.",
        Gauge(|v| f64::from(v.store.failure.is_some() || v.stats.outbox.store_failed))),

    metric("tidegate_loop_turns_total", "Turns of the event loop.",
        Counter(|v| v.stats.turns.turns)),
    metric("tidegate_loop_turn_seconds", "How long the turns of the event loop take.",
        Histogram(|v| (&v.stats.turns.turn).into())),
    metric("tidegate_loop_lag_seconds", "How late the event loop wakes for its timers.",
        Histogram(|v| (&v.stats.turns.lag).into())),

    metric("tidegate_log_dropped_total", "Log lines dropped because the reader of the log did not keep up.",
        Counter(|v| v.log_dropped)),
];

fn age(now: Wall, then: Wall) -> f64 {
    now.since(then).as_secs_f64()
}

/// Every code of the closed table, also those that never occurred.
fn codes(counts: &Counts<&'static str>, put: Put<'_, u64>) {
    ErrorCode::ALL.iter().for_each(|code| put(code.text(), counts.get(&code.text())));
}

fn closed(left: &Counts<LeftReason>, put: Put<'_, u64>) {
    put("client", left.get(&LeftReason::Client));
    for code in CloseCode::ALL {
        put(code.reason(), left.get(&LeftReason::Closed(CloseCodeOrd(code.number()))));
    }
}

fn lanes(v: &View<'_>, read: fn(&crate::relay::stats::LaneStats, Wall) -> f64, put: Put<'_, f64>) {
    for lane in Lane::ALL {
        put(lane.text(), read(v.stats.outbox.of_lane(lane), v.now));
    }
}

fn outcomes(v: &View<'_>, put: Put<'_, u64>) {
    let states = [
        (OutcomeState::Delivered, "delivered"),
        (OutcomeState::Rejected, "rejected"),
        (OutcomeState::Expired, "expired"),
        (OutcomeState::DeadLettered, "dead_lettered"),
    ];
    states.iter().for_each(|(state, name)| put(name, v.stats.outbox.outcomes.get(state)));
}

fn commits(store: &StoreStats) -> Shape {
    let mut below = 0;
    let cumulative = COMMIT_SECONDS.iter().zip(&store.commit_buckets).map(|(bound, count)| {
        below += count;
        (*bound, below)
    });
    let below = cumulative.collect();
    Shape { below, count: store.commits, sum: Duration::from_nanos(store.commit_nanos).as_secs_f64() }
}
