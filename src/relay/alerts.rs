//! Alerts: which fire, and what must still be told to whom.
//!
//! An alert fires when its condition has held for its `for`, and is resolved when it has not held for `resolve_after`; one
//! message each, and again every `repeat` while it fires. What cannot be measured changes nothing. Each place of an alert has a
//! line of messages: one is out at a time, a failure is tried again a few times, and a line that is full loses its oldest.
//!
//! Invariants: at most one delivery of a line is out; a message ends as delivered, failed or dropped, and each end is counted.
//! An alert that a new configuration no longer has, or has with another condition, is resolved if it fires.
//! Deliberately not here: how quantities are measured, and how a message reaches anybody.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::pairs::DeliveryId;
use super::time::{Mono, Time, Wall};
use crate::config::alerts::{AlertConfig, AlertTarget, Quantity};

/// How often conditions are looked at.
pub const EVERY: Duration = Duration::from_secs(1);
/// Messages that wait for one place.
const LINE_MAX: usize = 16;
/// Tries of one message, and the pause before each further one.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(25)];

/// Whether an alert begins, goes on or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It fires; also said again at each `repeat`.
    Firing,
    /// It does not any more.
    Resolved,
}

impl Status {
    /// The word of a message.
    pub fn text(self) -> &'static str {
        match self {
            Status::Firing => "firing",
            Status::Resolved => "resolved",
        }
    }
}

/// Something to be told of an alert.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// Which alert.
    pub alert: Arc<AlertConfig>,
    /// What.
    pub status: Status,
    /// The quantity, if it is known.
    pub value: Option<f64>,
    /// Since when it fires.
    pub since: Wall,
}

/// How an alert stands, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing<'a> {
    /// Which alert.
    pub alert: &'a AlertConfig,
    /// `quiet`, `pending` (its `for` runs) or `firing`.
    pub state: &'static str,
    /// The quantity, if it is known.
    pub value: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Quiet,
    Pending { since: Mono },
    Firing { since: Wall, told: Mono, clear: Option<Mono> },
}

#[derive(Debug)]
struct Alert {
    config: Arc<AlertConfig>,
    phase: Phase,
    value: Option<f64>,
}

/// The messages for one place.
#[derive(Debug)]
struct Line {
    target: AlertTarget,
    waiting: VecDeque<Arc<[u8]>>,
    out: Option<DeliveryId>,
    tries: usize,
    next: Mono,
}

/// How a delivery went on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Went {
    /// It arrived.
    Delivered,
    /// It will be tried again.
    Retried,
    /// It was tried often enough, or trying again is useless.
    Failed,
    /// Nobody waits for this answer.
    Unknown,
}

/// All alerts and what must still be told.
#[derive(Debug, Default)]
pub struct Alerts {
    alerts: Vec<Alert>,
    /// By the alert's name and the number of the place.
    lines: BTreeMap<(String, usize), Line>,
    next: Mono,
    last_delivery: u64,
}

impl Alerts {
    /// These alerts from now on. Gives what is resolved because it is gone.
    pub fn configure(&mut self, now: Mono, configs: &[AlertConfig]) -> Vec<News> {
        let mut before = std::mem::take(&mut self.alerts);
        for config in configs {
            let same = |alert: &Alert| alert.config.name == config.name && alert.config.when == config.when;
            let kept = before.iter().position(same).map(|at| before.remove(at));
            let (phase, value) = kept.map_or((Phase::Quiet, None), |alert| (alert.phase, alert.value));
            self.alerts.push(Alert { config: Arc::new(config.clone()), phase, value });
        }
        self.next = now;
        let gone = before.into_iter().filter_map(|alert| match alert.phase {
            Phase::Firing { since, .. } => {
                Some(News { alert: alert.config, status: Status::Resolved, value: None, since })
            }
            Phase::Quiet | Phase::Pending { .. } => None,
        });
        gone.collect()
    }

    /// Looks at every condition. `measure` gives what a quantity is now.
    pub fn judge(&mut self, now: Time, mut measure: impl FnMut(Quantity) -> Option<f64>) -> Vec<News> {
        self.next = now.mono + EVERY;
        let mut out = Vec::new();
        for alert in &mut self.alerts {
            alert.value = measure(alert.config.when.quantity);
            let Some(value) = alert.value else { continue };
            let news = alert.step(now, alert.config.when.holds(value));
            out.extend(news.map(|(status, since)| News {
                alert: Arc::clone(&alert.config),
                status,
                value: Some(value),
                since,
            }));
        }
        out
    }

    /// A message for every place of an alert but the log.
    pub fn tell(&mut self, alert: &AlertConfig, message: &Arc<[u8]>) -> usize {
        let mut dropped = 0;
        for (at, target) in alert.to.iter().enumerate().filter(|(_, target)| **target != AlertTarget::Log) {
            let line = self.lines.entry((alert.name.clone(), at)).or_insert_with(|| Line {
                target: target.clone(),
                waiting: VecDeque::new(),
                out: None,
                tries: 0,
                next: Mono(0),
            });
            if line.out.is_none() {
                line.target = target.clone();
            }
            if line.waiting.len() == LINE_MAX {
                // The front one may be on its way.
                line.waiting.remove(usize::from(line.out.is_some()));
                dropped += 1;
            }
            line.waiting.push_back(Arc::clone(message));
        }
        dropped
    }

    /// The next delivery to be begun.
    pub fn next_delivery(&mut self, now: Mono) -> Option<(DeliveryId, AlertTarget, Arc<[u8]>)> {
        let free = |line: &&mut Line| line.out.is_none() && line.next <= now && !line.waiting.is_empty();
        let line = self.lines.values_mut().find(free)?;
        self.last_delivery += 1;
        let delivery = DeliveryId(self.last_delivery);
        line.out = Some(delivery);
        Some((delivery, line.target.clone(), Arc::clone(line.waiting.front()?)))
    }

    /// A delivery ended. `again`: whether trying it again may help; `None`: it arrived.
    pub fn delivered(&mut self, now: Mono, delivery: DeliveryId, again: Option<bool>) -> Went {
        let found = self.lines.iter().find(|(_, line)| line.out == Some(delivery)).map(|(key, _)| key.clone());
        let Some((key, line)) = found.and_then(|key| Some((key.clone(), self.lines.get_mut(&key)?))) else {
            return Went::Unknown;
        };
        line.out = None;
        if again == Some(true)
            && let Some(pause) = PAUSES.get(line.tries)
        {
            line.tries += 1;
            line.next = now + *pause;
            return Went::Retried;
        }
        line.tries = 0;
        line.waiting.pop_front();
        if line.waiting.is_empty() {
            self.lines.remove(&key);
        }
        if again.is_none() { Went::Delivered } else { Went::Failed }
    }

    /// When conditions have to be looked at, or a delivery can be begun.
    pub fn due(&self) -> Option<Mono> {
        let judge = (!self.alerts.is_empty()).then_some(self.next);
        let line = self.lines.values().filter(|line| line.out.is_none() && !line.waiting.is_empty());
        judge.into_iter().chain(line.map(|line| line.next)).min()
    }

    /// When conditions have to be looked at; `None`: there are none.
    pub fn judging_due(&self) -> Option<Mono> {
        (!self.alerts.is_empty()).then_some(self.next)
    }

    /// How each stands, in the order of the configuration.
    pub fn standings(&self) -> impl Iterator<Item = Standing<'_>> {
        self.alerts.iter().map(|alert| Standing {
            alert: &alert.config,
            state: match alert.phase {
                Phase::Quiet => "quiet",
                Phase::Pending { .. } => "pending",
                Phase::Firing { .. } => "firing",
            },
            value: alert.value,
        })
    }
}

impl Alert {
    fn step(&mut self, now: Time, holds: bool) -> Option<(Status, Wall)> {
        match (self.phase, holds) {
            (Phase::Quiet, false) => {}
            (Phase::Quiet, true) if self.config.hold.is_zero() => return Some(self.fire(now)),
            (Phase::Quiet, true) => self.phase = Phase::Pending { since: now.mono },
            (Phase::Pending { .. }, false) => self.phase = Phase::Quiet,
            (Phase::Pending { since }, true) if now.mono.since(since) >= self.config.hold => {
                return Some(self.fire(now));
            }
            (Phase::Pending { .. }, true) => {}
            (Phase::Firing { since, told, .. }, true) => {
                let again = self.config.repeat.is_some_and(|repeat| now.mono.since(told) >= repeat);
                self.phase = Phase::Firing { since, told: if again { now.mono } else { told }, clear: None };
                return again.then_some((Status::Firing, since));
            }
            (Phase::Firing { since, told, clear }, false) => {
                let clear = clear.unwrap_or(now.mono);
                if now.mono.since(clear) >= self.config.resolve_after {
                    self.phase = Phase::Quiet;
                    return Some((Status::Resolved, since));
                }
                self.phase = Phase::Firing { since, told, clear: Some(clear) };
            }
        }
        None
    }

    fn fire(&mut self, now: Time) -> (Status, Wall) {
        self.phase = Phase::Firing { since: now.wall, told: now.mono, clear: None };
        (Status::Firing, now.wall)
    }
}
