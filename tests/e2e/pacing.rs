//! What a provider allows is not exceeded, least of all when everything comes back at once.

use std::time::Duration;

use serde_json::json;

use crate::rig::Place;
use crate::upstream::{Got, Upstream};

const CHANNELS: usize = 500;
const RATE: f64 = 250.0;
const BURST: f64 = 20.0;

/// Whether no more came by any moment than the bucket allows from `since` on. What was received by then was sent before, so a
/// slow machine can only make the numbers smaller; a window that begins at a receipt would not have that property.
fn within_bucket(frames: &[Got], since: std::time::Instant) {
    for (n, got) in frames.iter().enumerate() {
        let elapsed: Duration = got.at.duration_since(since);
        let allowed = BURST + RATE * elapsed.as_secs_f64();
        assert!((n + 1) as f64 <= allowed, "{} frames after {elapsed:?}, {allowed} are allowed", n + 1);
    }
}

#[test]
fn five_hundred_channels_come_back_within_the_bucket() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let dialect = include_str!("../../config/dialects/plain.toml").replace("name = \"plain\"", "name = \"limited\"");
    std::fs::write(place.path("limited.toml"), format!("{dialect}\n[limits]\nrate = \"{RATE}/s\"\nburst = {BURST}\n"))
        .unwrap();
    let path = format!("{:?}", place.path("limited.toml"));
    let relay = place.set("upstream.dialect", &path).start_live();
    let names: Vec<String> = (0..CHANNELS).map(|n| format!("c{n}")).collect();
    let mut client = relay.client();
    client.request(json!({"op": "subscribe", "channels": names}));
    upstream.wait_for("subscribe", CHANNELS);
    upstream.cut();
    let all = upstream.wait_for("subscribe", 2 * CHANNELS);

    within_bucket(&all, upstream.opened_at(0));
    let again: Vec<Got> = all.into_iter().filter(|got| got.connection == 1).collect();
    assert_eq!(again.len(), CHANNELS);
    within_bucket(&again, upstream.opened_at(1));
    let mut channels: Vec<_> = again.iter().map(|got| got.json["channel"].as_str().unwrap()).collect();
    channels.sort_unstable();
    channels.dedup();
    assert_eq!(channels.len(), CHANNELS, "each once");
    relay.wait_metric("tidegate_interest_channels{state=\"active\"}", CHANNELS as f64);
    let throttled = relay.metric("tidegate_throttled_total{place=\"control\"}");
    assert!(throttled > 0.0, "and it is counted");
    relay.stop();
}
