//! What is measured meets the judge: quality now and then, told when its band changes.

use serde_json::{Map, Value, json};

use crate::relay::Relay;
use crate::relay::quality::{Quality, Reading};
use crate::relay::time::{Mono, Time};

impl Relay {
    pub(in crate::relay) fn judging_due(&self) -> Option<Mono> {
        Some(self.quality.due())
    }

    pub(in crate::relay) fn judging_timeout(&mut self, now: Time) {
        if self.quality.due() > now.mono {
            return;
        }
        let reading = self.reading(now);
        let changed = self.quality.judge(now, &reading);
        self.stats.quality.score = self.quality.score();
        self.stats.quality.band = self.quality.band();
        self.stats.quality.clock_skew = self.quality.clock_skew();
        self.stats.quality.clock_jumps = self.quality.jumps();
        if changed.is_some() {
            let data = quality_json(&self.quality).to_string().into_bytes();
            self.tell_status(now, Some("quality"), "quality", data);
        }
    }

    fn reading(&self, now: Time) -> Reading {
        let (dialect, outbox, interest) = (&self.stats.dialect, &self.stats.outbox, &self.stats.interest);
        let refused = outbox.nacks + outbox.ack_timeouts + interest.refused.total() + interest.timeouts;
        let errors = dialect.unmatched + dialect.unextracted + dialect.malformed + refused;
        let (watched, stale) = self.watch.counts();
        Reading {
            down_for: self.link_down_for(now),
            rtt: self.round_trips.p99(),
            jitter: self.round_trips.jitter(),
            least_rtt: self.round_trips.least(),
            lost: self.stats.link.lost,
            heard: dialect.events + interest.subscribes + outbox.attempts + errors,
            errors,
            events: dialect.events,
            bytes: self.stats.link.bytes_in,
            watched,
            stale,
        }
    }
}

/// The quality with what it is made of, for `GET /v1/status` and `$status`.
pub(in crate::relay) fn quality_json(quality: &Quality) -> Value {
    let round = |value: f64| (value * 1_000.0).round() / 1_000.0;
    let terms: Map<String, Value> = quality
        .terms()
        .map(|term| {
            let (value, score) = (term.value.map(round), term.score.map(round));
            (term.name.to_owned(), json!({"value": value, "unit": term.unit, "weight": term.weight, "score": score}))
        })
        .collect();
    let (events, bytes) = quality.rates();
    json!({
        "score": quality.score().map(|score| score.round() as u64),
        "band": quality.band().map(|band| band.text()),
        "terms": terms,
        "events_per_second": round(events),
        "bytes_per_second": round(bytes),
    })
}
