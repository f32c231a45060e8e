//! Upstream that falls silent or slow, and a clock that jumps; and what must hold then.
//!
//! W1: a channel that is live and on which nothing came is stale within its limit and a bound. W2: one on which something came
//! within its limit is not. W3: silence makes few connections. W4: a slow answer within the deadline is no death.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tidegate::relay::access::Principal;
use tidegate::relay::pairs::{CallId, CallRequest, Input};
use tidegate::relay::stats::{StaleAction, Stats};
use tidegate::relay::time::Mono;

use crate::world::{CHANNELS, World};

/// `stale_after` of the simulated configuration.
pub const STALE_AFTER: Duration = Duration::from_millis(600);
/// Steps of the world are shorter than this.
const BOUND: Duration = Duration::from_millis(60);
/// The number of the call that asks how channels stand.
pub const LOOK: CallId = CallId(77);
/// The number of the call that asks for the statistics.
pub const COUNT: CallId = CallId(78);

/// What the world does to upstream, and what it remembers of the channels.
#[derive(Default)]
pub struct Quiet {
    pub hushed: BTreeSet<String>,
    pub all: bool,
    pub slow: bool,
    /// When something last came of a channel, or it may have come live.
    heard: BTreeMap<String, Mono>,
    /// When anything may have come live.
    changed: Mono,
    looks: u32,
}

impl Quiet {
    /// Whether upstream says nothing on a channel.
    pub fn is_silent(&self, channel: &str) -> bool {
        self.all || self.hushed.contains(channel)
    }

    /// A frame reached the relay.
    pub fn frame(&mut self, now: Mono, text: &str) {
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        match (frame["type"].as_str(), frame["channel"].as_str()) {
            (Some("event"), Some(channel)) => {
                self.heard.insert(channel.to_owned(), now);
            }
            (Some("subscribed"), _) => self.changed = now,
            _ => {}
        }
    }

    /// A connection came about or ended, or the relay began anew.
    pub fn changed(&mut self, now: Mono) {
        self.changed = now;
    }
}

impl World {
    /// One of the disturbances begins or ends.
    pub fn disturb(&mut self) {
        match self.rng.below(9) {
            0..=3 => {
                let channel = self.any_channel().to_owned();
                if !self.quiet.hushed.remove(&channel) {
                    self.quiet.hushed.insert(channel);
                }
            }
            4 | 5 => {
                self.quiet.all = !self.quiet.all;
                // Long enough that marking is not all that is done about it.
                for _ in 0..if self.quiet.all { 120 } else { 0 } {
                    self.pass_time();
                    self.turn();
                }
            }
            6 => self.quiet.slow = !self.quiet.slow,
            7 => self.long_silence(),
            _ => {
                let hour = 3_600_000_000_000;
                let wall = &mut self.now.wall.0;
                *wall = if self.rng.below(2) == 0 { *wall + hour } else { *wall - hour };
                self.covered("the clock jumped");
            }
        }
    }

    /// Upstream answers and says nothing, for so long that everything is done about it.
    fn long_silence(&mut self) {
        let before = std::mem::replace(&mut self.quiet.all, true);
        for _ in 0..300 {
            self.upstream_answers();
            self.pass_time();
            self.turn();
        }
        self.quiet.all = before;
    }

    /// How much later a pong comes.
    pub fn slowness(&mut self) -> Duration {
        // Two pings of the shortest deadline, a quarter of the interval, are the least that is waited for.
        if self.quiet.slow { Duration::from_millis(self.rng.below(450)) } else { Duration::ZERO }
    }

    /// Now and then looks at how the relay says that its channels stand.
    pub fn look(&mut self) {
        self.quiet.looks += 1;
        if self.quiet.looks.is_multiple_of(10) {
            self.call(LOOK, CallRequest::Subscriptions);
        }
        if self.quiet.looks.is_multiple_of(100) {
            self.call(COUNT, CallRequest::Stats);
        }
    }

    pub fn call(&mut self, call: CallId, request: CallRequest) {
        let principal = Arc::new(Principal::local());
        self.relay.handle_input(self.now, Input::Call { call, principal, request });
        self.turn();
    }

    /// W1 and W2.
    pub fn judge_silence(&mut self, shown: &Value) {
        if self.upstream.connections.len() != 1 {
            return;
        }
        for channel in shown["channels"].as_array().into_iter().flatten() {
            let name = channel["channel"].as_str().unwrap_or_default();
            if !CHANNELS.contains(&name) || name.contains(':') || channel["state"] != "live" {
                continue;
            }
            let heard = self.quiet.heard.get(name).copied().unwrap_or_default();
            let silent = self.now.mono.since(heard.max(self.quiet.changed));
            let stale = !channel["stale_for_ms"].is_null();
            if silent > STALE_AFTER + BOUND && !stale {
                self.violation = Some(format!("W1: {name} is silent for {silent:?} and not stale: {channel}"));
            }
            if self.now.mono.since(heard) < STALE_AFTER && stale {
                self.violation = Some(format!("W2: {name} is stale, and was heard just now: {channel}"));
            }
        }
    }

    /// W3 and W4.
    pub fn judge_counts(&mut self, stats: &Stats) {
        for action in StaleAction::ALL {
            if stats.watch.actions.get(action) > 0 {
                self.covered(&format!("stale {}", action.text()));
            }
        }
        let ten_minutes = self.now.mono.0 / 600_000_000_000 + 1;
        if stats.watch.actions.get(&StaleAction::Reconnect) > ten_minutes {
            self.violation = Some("W3: silence made too many connections".to_owned());
        }
        if stats.link.disconnects.get(&"heartbeat") > 0 {
            self.violation = Some("W4: a slow answer was taken for a death".to_owned());
        }
    }
}
