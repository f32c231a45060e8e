//! HTTP requests: what they ask of the parts, as JSON.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::config::ReadyUpstream;
use crate::protocol::codes::ErrorCode;
use crate::protocol::duration::millis;
use crate::protocol::request::ChannelRequest;
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::feed::ring::Ring;
use crate::relay::link::rotation::Why;
use crate::relay::meet::messages::letters::LetterCall;
use crate::relay::meet::messages::publishing::Published;
use crate::relay::meet::messages::waiting::Asker;
use crate::relay::naming;
use crate::relay::pairs::{CallId, CallRequest, Output, Reply};
use crate::relay::sample::Seen;
use crate::relay::stats::{Histogram, Stats};
use crate::relay::time::Time;

use super::following::is_of_message;

impl Relay {
    pub(in crate::relay) fn called(
        &mut self,
        now: Time,
        call: CallId,
        principal: &Arc<Principal>,
        request: CallRequest,
    ) {
        match request {
            CallRequest::Publish { messages, atomic, wait } => {
                let published = Published { messages, atomic, wait };
                self.publish(now, Asker::Call(call), principal, published);
            }
            CallRequest::Refresh { channel, key } => self.refresh(now, Asker::Call(call), principal, &channel, key),
            CallRequest::Cancel(message) => self.cancel(now, Asker::Call(call), principal, &message),
            CallRequest::Message(message) => self.message_state(now, call, principal, &message),
            CallRequest::Snapshot(channel) => {
                let reply = self.snapshot(principal, &channel);
                self.answer(call, reply);
            }
            CallRequest::Status => {
                let status = self.status_json(now);
                self.answer_json(call, 200, &status);
            }
            CallRequest::Subscriptions => {
                let subscriptions = self.subscriptions_json(now);
                self.answer_json(call, 200, &subscriptions);
            }
            CallRequest::Sessions => self.answer_json(call, 200, &self.sessions_json(now)),
            CallRequest::Outbox => self.outbox_listing(now, call),
            CallRequest::DeadLetters { after } => self.list_letters(call, after.as_deref()),
            CallRequest::DeadLetter(id) => self.one_letter(now, call, &id, LetterCall::Show),
            CallRequest::Redrive { id: Some(id), edit } => {
                self.one_letter(now, call, &id, LetterCall::Redrive { edit })
            }
            CallRequest::Redrive { id: None, edit } => self.redrive_letters(now, call, &edit),
            CallRequest::Purge(id) => self.purge_letters(call, id.as_deref()),
            CallRequest::Reconnect => {
                self.reconnect_upstream(now);
                self.answer_json(call, 202, &json!({"link": self.link_word()}));
            }
            CallRequest::Rotate => {
                self.rotate_upstream(now.mono, Why::Asked);
                self.answer_json(call, 202, &json!({"link": self.link_word()}));
            }
            CallRequest::Pause => {
                self.pause_upstream(now);
                self.answer_json(call, 202, &json!({"link": self.link_word()}));
            }
            CallRequest::Resume => {
                self.resume_upstream(now);
                self.answer_json(call, 202, &json!({"link": self.link_word()}));
            }
            CallRequest::Drain => {
                self.drain(now, false, false);
                self.answer_json(call, 202, &json!({"draining": true}));
            }
            CallRequest::Ready => {
                let reply = self.readiness(now);
                self.answer(call, reply);
            }
            CallRequest::Stats => {
                let stats = Box::new(self.fresh_stats(now));
                self.answer(call, Reply::Stats(stats));
            }
        }
    }

    pub(in crate::relay) fn answer(&mut self, call: CallId, reply: Reply) {
        if let Reply::Problem { code, .. } = &reply {
            self.stats.sessions.errors.bump(code.text());
        }
        self.outputs.push_back(Output::Answer { call, reply });
    }

    pub(in crate::relay) fn answer_json(&mut self, call: CallId, status: u16, body: &Value) {
        let body = Bytes::from(body.to_string());
        self.answer(call, Reply::Json { status, body, location: None });
    }

    fn snapshot(&mut self, principal: &Principal, channel: &ChannelRequest) -> Reply {
        let snapshot = |body: Vec<u8>| Reply::Json { status: 200, body: Bytes::from(body), location: None };
        let not_carried =
            || problem(ErrorCode::NotFound, "not carried now: subscribe it, then its state becomes known");
        if !self.may_read(principal, &channel.name) {
            if is_of_message(&channel.name) {
                // Whoever may not follow it cannot tell whether there is one.
                return not_carried();
            }
            return problem(ErrorCode::Forbidden, "not among the channels that this principal may read");
        }
        let named = match naming::resolve(&self.config, self.dialect.secret_params(), channel) {
            Ok(named) => named,
            Err(message) => return problem(ErrorCode::Invalid, &message),
        };
        let found = self.feed.find(&named.local);
        let Some((id, ring)) = found.and_then(|id| Some((id, self.feed.ring(id)?))) else {
            let pending = super::snapshots::not_carried(&self.feed, &named.local);
            return pending.map_or_else(not_carried, snapshot);
        };
        let stale = self.upstream_word(id) != "live";
        match super::snapshots::whole(&self.feed, ring, stale) {
            Some(body) => snapshot(body),
            None => problem(ErrorCode::NotFound, "no state is known of it yet"),
        }
    }

    fn readiness(&self, now: Time) -> Reply {
        let mut reasons = Vec::new();
        if self.draining.is_draining() {
            reasons.push("draining");
        }
        if self.stats.outbox.store_failed {
            reasons.push("store_failed");
        }
        if self.disk_low {
            reasons.push("store_full");
        }
        let down = self.link_down_for(now);
        match self.config.ready {
            ReadyUpstream::Ignore => {}
            ReadyUpstream::Grace(grace) if down.is_none_or(|down| down < grace) => {}
            ReadyUpstream::Required if down.is_none() => {}
            ReadyUpstream::Grace(_) | ReadyUpstream::Required => reasons.push("upstream"),
        }
        let status = if reasons.is_empty() { 200 } else { 503 };
        let body = json!({"ready": reasons.is_empty(), "not_ready_because": reasons}).to_string();
        Reply::Json { status, body: Bytes::from(body), location: None }
    }

    /// The statistics with the gauges that are counted only when somebody looks.
    fn fresh_stats(&mut self, now: Time) -> Stats {
        self.feed.gauges(&mut self.stats.feed);
        let firing = self.alerts.standings().map(|one| (one.alert.name.clone(), one.state == "firing"));
        self.stats.alerts.firing = firing.collect();
        let (watched, stale) = self.watch.counts();
        (self.stats.watch.watched, self.stats.watch.stale) = (watched as u64, stale as u64);
        self.stats.sessions.open = self.sessions.len() as u64;
        self.stats.sessions.blocked = self.sessions.iter().filter(|session| session.in_flight.is_some()).count() as u64;
        self.refresh_upstream_stats(now);
        self.refresh_repair_stats(now.mono);
        self.refresh_outbox_stats();
        self.stats.clone()
    }

    fn status_json(&mut self, now: Time) -> Value {
        let budget = self.budget_json(now.mono);
        let link: Value = serde_json::from_slice(&self.link_json(now)).unwrap_or(Value::Null);
        let lanes = self.outbox.lanes(&self.stats.outbox);
        let depth = self.stats.outbox.depth();
        let oldest = lanes.iter().filter_map(|lane| lane.oldest).min();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "upstream": link,
            "quality": crate::relay::meet::heard::judging::quality_json(&self.quality),
            "clock": {"skew_seconds": self.quality.clock_skew(), "jumps": self.quality.jumps()},
            "alerts": self.alerts_json(),
            "dialect": self.dialect.name(),
            "not_understood": self.not_understood_json(),
            "feed": {
                "position": self.feed.position().to_string(),
                "channels": self.feed.iter().count(),
                "sessions": self.sessions.len(),
                "delivery": percentiles(&self.stats.sessions.latency),
            },
            "outbox": {
                "depth": depth,
                "oldest_age_ms": oldest.map(|oldest| millis(now.wall.since(oldest))),
                "in_flight": self.outbox.in_flight(),
                "store_failed": self.stats.outbox.store_failed,
                "sync": self.sync_status(now),
            },
            "repairs": self.repairs_json(),
            "budget": budget,
            "limits": self.upstream_limits_json(now.mono),
            "draining": self.draining.is_draining(),
        })
    }

    /// What upstream said that the dialect does not know: counts, and the shapes that were seen.
    fn not_understood_json(&self) -> Value {
        let counts = &self.stats.dialect;
        let shape = |seen: &Seen| {
            json!({
                "why": seen.why,
                "sample": seen.sample,
                "sampled": seen.count,
                "first": seen.first.rfc3339(),
                "last": seen.last.rfc3339(),
            })
        };
        json!({
            "unmatched": counts.unmatched,
            "unextracted": counts.unextracted,
            "malformed": counts.malformed,
            "shapes": self.samples.seen().iter().map(shape).collect::<Vec<_>>(),
            "sampled_of_other_shapes": self.samples.others(),
        })
    }

    fn subscriptions_json(&mut self, now: Time) -> Value {
        let principals = self.principals_json(now.mono);
        let rings: Vec<Value> = self
            .feed
            .iter()
            .map(|(id, ring)| {
                let interest = ring.upstream.map(|channel| (self.interest.state(channel), channel));
                json!({
                    "channel": &*ring.name,
                    "upstream": interest.map(|(_, channel)| self.interest.identity(channel).to_owned()),
                    "state": interest.map_or(self.upstream_word(id), |(state, _)| state.text()),
                    "subscribers": ring.readers.len(),
                    "readers": self.readers_json(ring),
                    "repairing": self.repairs.is_open(id),
                    "since": ring.since.rfc3339(),
                    "events": ring.events,
                    "entries": ring.len(),
                    "bytes": ring.bytes,
                    "stale_for_ms": self.watch.stale_since(id).map(|since| millis(now.mono.since(since))),
                    "stale_after_ms": self.watch.limit(id).map(millis),
                    "last_event_age_ms": ring.last_event.map(|(at, _)| millis(now.mono.since(at))),
                    "duplicates": ring.duplicates,
                    "gaps": ring.gaps,
                    "complete_from": self.position_text(ring),
                })
            })
            .collect();
        let wanted: Vec<Value> = self
            .interest
            .entries()
            .map(|entry| {
                json!({
                    "channel": entry.identity,
                    "state": entry.state.text(),
                    "references": entry.references,
                    "wanted_for_ms": millis(now.mono.since(entry.since)),
                    "last_error": entry.last_error,
                })
            })
            .collect();
        let (watched, stale) = self.watch.counts();
        json!({"channels": rings, "interest": wanted, "watched": watched, "stale": stale, "principals": principals})
    }

    fn position_text(&self, ring: &Ring) -> String {
        format!("{}-{}", self.feed.epoch(), ring.complete_from)
    }

    fn sessions_json(&self, now: Time) -> Value {
        let list: Vec<Value> = self
            .sessions
            .iter()
            .map(|session| {
                let patterns: Vec<String> =
                    session.patterns.iter().map(|pattern| format!("{}*", pattern.prefix)).collect();
                json!({
                    "session": format!("{:x}-{:x}", session.id.index, session.id.generation),
                    "principal": &*session.principal.name,
                    "format": match session.format {
                        crate::protocol::frame::Format::WebSocket => "websocket",
                        crate::protocol::frame::Format::Sse => "sse",
                    },
                    "channels": session.channels(),
                    "patterns": patterns,
                    "age_ms": millis(now.mono.since(session.joined.mono)),
                    "blocked": session.in_flight.is_some(),
                    "errors": session.errors,
                })
            })
            .collect();
        json!({"sessions": list})
    }
}

/// Upper bounds of the median and the 99th percentile, in milliseconds, as far as the buckets tell.
fn percentiles(histogram: &Histogram) -> Value {
    let at = |share: f64| {
        let wanted = histogram.count() as f64 * share;
        histogram.cumulative().find(|(_, below)| *below as f64 >= wanted).map(|(bound, _)| bound * 1_000.0)
    };
    if histogram.count() == 0 {
        return Value::Null;
    }
    json!({"p50_ms_at_most": at(0.50), "p99_ms_at_most": at(0.99)})
}

pub(in crate::relay) fn problem(code: ErrorCode, message: &str) -> Reply {
    Reply::Problem { code, message: message.to_owned(), retry_after: None }
}
