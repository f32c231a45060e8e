//! What is measured meets the judge: quality now and then, alerts each second; told when something changes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::config::alerts::{AlertTarget, Quantity, Unit};
use crate::protocol::duration;
use crate::relay::Relay;
use crate::relay::alerts::{News, Standing, Status, Went};
use crate::relay::lately::Lately;
use crate::relay::outbox::OutcomeState;
use crate::relay::pairs::{AlertFailure, DeliveryId, Notice, Output};
use crate::relay::quality::{Quality, Reading};
use crate::relay::stats::Stats;
use crate::relay::time::{Mono, Time};

const HOUR: Duration = Duration::from_secs(3_600);

/// Counters whose rise in the last hour alerts look at.
#[derive(Debug)]
pub(in crate::relay) struct Hourly([(Quantity, Lately); 6]);

impl Hourly {
    pub(in crate::relay) fn new(now: Mono) -> Self {
        use Quantity::{ClockJumps, DeadLetters, Denied, Gaps, NotUnderstood, ProtocolErrors};
        let counted = [Denied, ProtocolErrors, NotUnderstood, Gaps, DeadLetters, ClockJumps];
        Hourly(counted.map(|quantity| (quantity, Lately::new(now, HOUR))))
    }

    fn observe(&mut self, now: Mono, stats: &Stats) {
        for (quantity, lately) in &mut self.0 {
            lately.rise(now, count(stats, *quantity));
        }
    }

    fn rise(&mut self, now: Mono, stats: &Stats, quantity: Quantity) -> Option<f64> {
        let (_, lately) = self.0.iter_mut().find(|(counted, _)| *counted == quantity)?;
        Some(lately.rise(now, count(stats, quantity)) as f64)
    }
}

/// The counter behind a quantity that is counted.
fn count(stats: &Stats, quantity: Quantity) -> u64 {
    match quantity {
        Quantity::Denied => stats.auth.failures,
        Quantity::ProtocolErrors => stats.link.protocol_errors,
        Quantity::NotUnderstood => stats.dialect.unmatched + stats.dialect.unextracted + stats.dialect.malformed,
        Quantity::Gaps => stats.feed.gaps.total(),
        Quantity::DeadLetters => stats.outbox.outcomes.get(&OutcomeState::DeadLettered),
        Quantity::ClockJumps => stats.quality.clock_jumps,
        _ => 0,
    }
}

impl Relay {
    pub(in crate::relay) fn judging_due(&self) -> Option<Mono> {
        [Some(self.quality.due()), self.alerts.due()].into_iter().flatten().min()
    }

    pub(in crate::relay) fn judging_timeout(&mut self, now: Time) {
        if self.quality.due() <= now.mono {
            self.judge_quality(now);
        }
        if self.alerts.judging_due().is_some_and(|due| due <= now.mono) {
            self.judge_alerts(now);
        }
        self.begin_deliveries(now);
    }

    fn begin_deliveries(&mut self, now: Time) {
        while let Some((delivery, target, body)) = self.alerts.next_delivery(now.mono) {
            self.outputs.push_back(Output::Alert { delivery, target, body });
        }
    }

    fn judge_alerts(&mut self, now: Time) {
        let mut alerts = std::mem::take(&mut self.alerts);
        let news = alerts.judge(now, |quantity| self.measure(now, quantity));
        self.alerts = alerts;
        for news in news {
            self.tell_alert(now, &news);
        }
    }

    /// The alerts of a new configuration.
    pub(in crate::relay) fn alerts_again(&mut self, now: Time) {
        let config = Arc::clone(&self.config);
        for news in self.alerts.configure(now.mono, &config.alerts) {
            self.tell_alert(now, &news);
        }
    }

    /// What a quantity is now; `None`: not known.
    pub(in crate::relay) fn measure(&mut self, now: Time, quantity: Quantity) -> Option<f64> {
        let seconds = |d: Duration| d.as_secs_f64();
        let (watched, stale) = self.watch.counts();
        match quantity {
            Quantity::UpstreamDown => Some(self.link_down_for(now).map_or(0.0, seconds)),
            Quantity::Quality => self.quality.score(),
            Quantity::Reconnects => Some(self.quality.lost()),
            Quantity::Rtt => self.round_trips.p99().map(seconds),
            Quantity::ClockSkew => self.quality.clock_skew().map(f64::abs),
            Quantity::WriteStall => Some(seconds(self.write_stall(now))),
            Quantity::StaleChannels => Some(stale as f64),
            Quantity::StaleShare => Some(stale as f64 / watched.max(1) as f64),
            Quantity::OutboxAge => {
                let lanes = self.outbox.lanes(&self.stats.outbox);
                let oldest = lanes.iter().filter_map(|lane| lane.oldest).min();
                Some(oldest.map_or(0.0, |oldest| seconds(now.wall.since(oldest))))
            }
            Quantity::OutboxDepth => {
                Some(self.outbox.lanes(&self.stats.outbox).iter().map(|lane| lane.depth).sum::<u64>() as f64)
            }
            Quantity::StoreFailed => Some(f64::from(self.stats.outbox.store_failed)),
            Quantity::DiskFree => self.disk_bytes.map(|bytes| bytes as f64),
            Quantity::BudgetSpent => Some(self.budget.fullest(now.mono)),
            Quantity::Sessions => Some(self.sessions.len() as f64),
            Quantity::Denied
            | Quantity::ProtocolErrors
            | Quantity::NotUnderstood
            | Quantity::Gaps
            | Quantity::DeadLetters
            | Quantity::ClockJumps => self.hourly.rise(now.mono, &self.stats, quantity),
        }
    }

    /// Tells one piece of news: in the log, on `$status`, and to every place of the alert.
    fn tell_alert(&mut self, now: Time, news: &News) {
        let message = self.alert_json(now, news).to_string();
        let key = format!("alert/{}", news.alert.name);
        self.tell_status(now, Some(&key), "alert", message.clone().into_bytes());
        if news.alert.to.contains(&AlertTarget::Log) {
            self.outputs.push_back(Output::Notify(Notice::Alert {
                name: news.alert.name.clone(),
                firing: news.status == Status::Firing,
                when: news.alert.when.text.clone(),
                value: shown(news.alert.when.quantity.unit(), news.value),
            }));
        }
        let dropped = self.alerts.tell(&news.alert, &Arc::from(message.into_bytes()));
        self.stats.alerts.deliveries.add("dropped", dropped as u64);
    }

    /// The message of an alert. Its form is documented in `docs/alerting.md`.
    fn alert_json(&self, now: Time, news: &News) -> Value {
        let since = news.since.rfc3339();
        json!({
            "version": 1,
            "status": news.status.text(),
            "alert": news.alert.name,
            "id": format!("{}@{since}", news.alert.name),
            "when": news.alert.when.text,
            "value": news.value,
            "unit": news.alert.when.quantity.unit().text(),
            "since": since,
            "at": now.wall.rfc3339(),
            "dialect": self.dialect.name(),
            "upstream": self.endpoint_shown(),
        })
    }

    pub(in crate::relay) fn alerted(&mut self, now: Time, delivery: DeliveryId, result: Result<(), AlertFailure>) {
        let again = result.as_ref().err().map(|failure| failure.again);
        let word = match self.alerts.delivered(now.mono, delivery, again) {
            Went::Delivered => "delivered",
            Went::Retried => "retried",
            Went::Failed => "failed",
            Went::Unknown => return,
        };
        self.stats.alerts.deliveries.bump(word);
        if let Err(failure) = result {
            let detail = self.redactor.text(&failure.detail);
            let notice = Notice::AlertUntold { again: word == "retried", detail };
            self.outputs.push_back(Output::Notify(notice));
        }
        self.begin_deliveries(now);
    }

    /// How the alerts stand, for `GET /v1/status`.
    pub(in crate::relay) fn alerts_json(&self) -> Value {
        let one = |standing: Standing<'_>| {
            let when = &standing.alert.when;
            let unit = when.quantity.unit().text();
            let (name, state, value) = (&standing.alert.name, standing.state, standing.value);
            json!({"name": name, "state": state, "when": when.text, "value": value, "unit": unit})
        };
        self.alerts.standings().map(one).collect()
    }

    fn judge_quality(&mut self, now: Time) {
        self.hourly.observe(now.mono, &self.stats);
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

/// A value in words.
fn shown(unit: Unit, value: Option<f64>) -> String {
    match (unit, value) {
        (_, None) => "unknown".to_owned(),
        (Unit::Time, Some(seconds)) => duration::write(Duration::from_millis((seconds * 1_000.0) as u64)),
        (Unit::Share, Some(share)) => format!("{:.1}%", share * 100.0),
        (Unit::Bytes | Unit::Number, Some(number)) => format!("{number:.0}"),
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
