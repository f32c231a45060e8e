//! What happens in the demo's little world: prices that wander, devices that report, the system that speaks.
//!
//! Every message carries the next sequence number of its channel, also while nobody listens: so the relay can tell what
//! it missed. Deliberately not here: sockets and timers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::relay::rng::Rng;
use crate::relay::time::Wall;

/// The symbols that have prices, in cents.
const PRICES: [(&str, i64); 4] =
    [("BTC-USD", 9_700_000), ("ETH-USD", 342_000), ("SOL-USD", 18_500), ("EUR-USD", 10_850)];
const DEVICES: [&str; 3] = ["thermostat", "door", "lamp"];
const SYSTEM_EVENTS: [&str; 5] =
    ["control-updated", "baseline-changed", "metrics-updated", "user-activity", "system-alert"];
/// Channels of events that are no state.
const PLAIN_CHANNELS: [&str; 2] = ["system", "orders"];
/// Turns between two reports of devices, and between two events of the system.
const DEVICE_EVERY: u64 = 5;
const SYSTEM_EVERY: u64 = 7;

/// One message on its way to whoever subscribed its channel.
pub struct Message {
    /// Which channel.
    pub channel: String,
    /// The plain dialect's JSON text.
    pub text: String,
}

/// All channels there are.
pub fn channels() -> Vec<String> {
    let prices = PRICES.iter().map(|(symbol, _)| format!("price:{symbol}"));
    let devices = DEVICES.iter().map(|device| format!("device:{device}"));
    prices.chain(devices).chain(PLAIN_CHANNELS.map(str::to_owned)).collect()
}

/// The world.
pub struct World {
    rng: Rng,
    turn: u64,
    prices: Vec<(String, i64)>,
    /// Sequence and last payload of each channel that has a state.
    channels: BTreeMap<String, (u64, Value)>,
}

impl World {
    /// A world that unfolds by this seed.
    pub fn new(seed: u64) -> Self {
        let prices: Vec<_> = PRICES.iter().map(|(symbol, cents)| (format!("price:{symbol}"), *cents)).collect();
        let mut channels = BTreeMap::new();
        for (channel, cents) in &prices {
            channels.insert(channel.clone(), (0, price(*cents, 0)));
        }
        for device in DEVICES {
            channels.insert(format!("device:{device}"), (0, json!({"device": device, "online": true})));
        }
        for channel in PLAIN_CHANNELS {
            channels.insert(channel.to_owned(), (0, Value::Null));
        }
        World { rng: Rng::new(seed), turn: 0, prices, channels }
    }

    /// Whether there is such a channel.
    pub fn has(&self, channel: &str) -> bool {
        self.channels.contains_key(channel)
    }

    /// What a fifth of a second brings.
    pub fn turn(&mut self, now: Wall) -> Vec<Message> {
        self.turn += 1;
        let mut messages = vec![self.price_moves(now)];
        if self.turn.is_multiple_of(DEVICE_EVERY) {
            messages.push(self.device_reports(now));
        }
        if self.turn.is_multiple_of(SYSTEM_EVERY) {
            messages.push(self.system_speaks(now));
        }
        messages
    }

    /// Many price moves at once.
    pub fn burst(&mut self, count: usize, now: Wall) -> Vec<Message> {
        (0..count).map(|_| self.price_moves(now)).collect()
    }

    /// A message on a channel that exists.
    pub fn event(&mut self, channel: &str, kind: &str, data: Value, now: Wall) -> Message {
        let state = self.channels.entry(channel.to_owned()).or_insert((0, Value::Null));
        state.0 += 1;
        let message = json!({
            "type": "event", "channel": channel, "event": kind, "seq": state.0, "ts": now.rfc3339(), "data": data,
        });
        // The last payload is state where one describes the whole channel.
        if !state.1.is_null() {
            state.1 = data;
        }
        Message { channel: channel.to_owned(), text: message.to_string() }
    }

    /// The state of a channel, if it has one.
    pub fn snapshot(&self, channel: &str, now: Wall) -> Option<String> {
        let (sequence, data) = self.channels.get(channel).filter(|(_, data)| !data.is_null())?;
        let message =
            json!({"type": "snapshot", "channel": channel, "seq": sequence, "ts": now.rfc3339(), "data": data});
        Some(message.to_string())
    }

    fn price_moves(&mut self, now: Wall) -> Message {
        let which = self.pick(self.prices.len());
        let span = self.prices[which].1 / 500 + 1;
        let step = i64::try_from(self.rng.below(2 * span.unsigned_abs() + 1)).unwrap_or(0) - span;
        let (channel, cents) = &mut self.prices[which];
        *cents = (*cents + step).max(1);
        let (channel, data) = (channel.clone(), price(*cents, step));
        self.event(&channel, "price", data, now)
    }

    fn device_reports(&mut self, now: Wall) -> Message {
        let device = DEVICES[self.pick(DEVICES.len())];
        let data = match device {
            "thermostat" => json!({"device": device, "online": true, "celsius": 18 + self.rng.below(6)}),
            "door" => json!({"device": device, "online": true, "open": self.rng.below(2) == 1}),
            _ => json!({"device": device, "online": true, "on": self.rng.below(2) == 1}),
        };
        self.event(&format!("device:{device}"), "status", data, now)
    }

    fn system_speaks(&mut self, now: Wall) -> Message {
        let said = usize::try_from(self.turn / SYSTEM_EVERY).unwrap_or(0);
        let kind = SYSTEM_EVENTS[said % SYSTEM_EVENTS.len()];
        let data = match kind {
            "control-updated" => json!({"control": "C-17", "state": "passing"}),
            "baseline-changed" => json!({"baseline": "nightly", "drift": self.rng.below(5)}),
            "metrics-updated" => json!({"cpu": self.rng.below(100), "queue": self.rng.below(20)}),
            "user-activity" => json!({"user": "ada", "action": "sign-in"}),
            _ => json!({"severity": "warning", "text": "disk 81 % full"}),
        };
        self.event("system", kind, data, now)
    }

    fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.rng.below(count as u64)).unwrap_or(0)
    }
}

fn price(cents: i64, step: i64) -> Value {
    let decimal = |cents: i64| {
        let sign = if cents < 0 { "-" } else { "" };
        format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100)
    };
    json!({"price": decimal(cents), "change": decimal(step)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_rise_by_one_and_snapshots_state_the_last() {
        let mut world = World::new(1);
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        assert!(channels().iter().all(|channel| world.has(channel)));
        let mut kinds = std::collections::BTreeSet::new();
        for _ in 0..200 {
            for message in world.turn(Wall(0)) {
                let json: Value = serde_json::from_str(&message.text).unwrap();
                assert_eq!(json["channel"], message.channel.as_str());
                let sequence = last.entry(message.channel.clone()).or_default();
                *sequence += 1;
                assert_eq!(json["seq"], *sequence);
                kinds.insert(json["event"].as_str().unwrap().to_owned());
                if let Some(snapshot) = world.snapshot(&message.channel, Wall(0)) {
                    let snapshot: Value = serde_json::from_str(&snapshot).unwrap();
                    assert_eq!((&snapshot["data"], &snapshot["seq"]), (&json["data"], &json["seq"]));
                }
            }
        }
        assert!(SYSTEM_EVENTS.iter().all(|kind| kinds.contains(*kind)), "{kinds:?}");
        assert_eq!(world.snapshot("system", Wall(0)), None, "events are no state");
        assert_eq!(world.snapshot("nothing", Wall(0)), None);
    }

    #[test]
    fn prices_are_decimals_of_any_sign() {
        assert_eq!(price(9_700_005, -7)["price"], "97000.05");
        assert_eq!(price(1, -7)["change"], "-0.07");
    }
}
