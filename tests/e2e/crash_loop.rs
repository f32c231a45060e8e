//! A relay that dies as soon as it lives, again and again: the provider sees no more than it allows.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::until;
use crate::rig::{Place, Relay};
use crate::upstream::Upstream;

/// A place whose dialect has these limits.
fn limited(upstream: &Upstream, limits: &str) -> Place {
    let mut place = Place::new(upstream);
    let dialect = include_str!("../../config/dialects/plain.toml").replace("name = \"plain\"", "name = \"limited\"");
    std::fs::write(place.path("limited.toml"), format!("{dialect}\n[limits]\n{limits}\n")).unwrap();
    let path = format!("{:?}", place.path("limited.toml"));
    place.set("upstream.dialect", &path);
    place
}

/// What comes back in `per` for each token may have come back; nothing beyond it. Counted from before the first start: a slow
/// machine can only allow more.
fn allowed(burst: usize, per: Duration, since: Instant) -> usize {
    burst + usize::try_from(since.elapsed().as_nanos() / per.as_nanos()).unwrap()
}

/// What the relay says is left of a limit.
fn left(relay: &Relay, bucket: &str) -> Option<u64> {
    relay.status()["limits"][bucket]["left"].as_u64()
}

#[test]
fn no_number_of_kills_makes_more_connects() {
    const LIVES: usize = 10;
    let upstream = Upstream::plain();
    // Five at once, then one in two minutes.
    let place = limited(&upstream, "connects = \"10/10m\"");
    let begin = Instant::now();
    for life in 1..=LIVES {
        let relay = place.start();
        // It connects, or has nothing left to connect with.
        until("a connect, or none left", || {
            let made = relay.status()["upstream"]["state"] == "live";
            (made || (left(&relay, "connects") == Some(0) && life > 5)).then_some(())
        });
        assert_eq!(relay.metric("tidegate_link_uncounted_total"), 0.0);
        relay.kill();
        let most = allowed(5, Duration::from_secs(120), begin);
        assert!(upstream.tried() <= most, "{} connects in {life} lives, {most} are allowed", upstream.tried());
    }
    assert!(upstream.tried() >= 5, "what is allowed is used: {}", upstream.tried());
}

#[test]
fn no_number_of_kills_makes_more_frames_and_an_orderly_stop_costs_none() {
    let upstream = Upstream::plain();
    // Eight at once, then one in a minute.
    let place = limited(&upstream, "rate = \"10/10m\"\nburst = 8");
    let sent = || upstream.frames("subscribe").len() + upstream.frames("ping").len();
    let begin = Instant::now();
    let mut most = 0;
    for life in 0..5 {
        let relay = place.start_live();
        let mut client = relay.client();
        let before = sent();
        client.request(json!({"op": "subscribe", "channels": ["a", "b", "c"]}));
        if life == 0 {
            upstream.wait_for("subscribe", 3);
            relay.stop();
            continue;
        }
        until("three frames, or none left", || {
            (sent() >= before + 3 || left(&relay, "frames") == Some(0)).then_some(())
        });
        if life == 1 {
            assert!(sent() > 3, "after an orderly stop there is more than nothing");
        }
        relay.kill();
        most = allowed(8, Duration::from_secs(60), begin);
        assert!(sent() <= most, "{} frames in {life} lives, {most} are allowed", sent());
    }
    assert!(sent() >= 6, "what is allowed is used: {} of {most}", sent());
}
