//! Channels that fall silent: what is told, what is asked of upstream, and that it ends.

use std::time::Duration;

use super::*;
use crate::config::{ChannelPolicy, StaleAfter};
use crate::relay::stats::StaleAction;

fn watched(after: u64, most: StaleAction) -> Service {
    ready("", |config| {
        let stale_after = StaleAfter::After(Duration::from_secs(after));
        config.channels = vec![ChannelPolicy { stale_after, stale_action: most, ..ChannelPolicy::default() }];
        config.interest.linger = Duration::ZERO;
        config.upstream.ping_interval = Duration::from_secs(100_000);
    })
}

/// Subscribes channels and lets upstream answer; nothing is left to be looked at.
fn begin(service: &mut Service, channels: &[&str]) -> crate::relay::pairs::SessionId {
    let client = service.join(0);
    service.subscribe(client, channels);
    service.ack_all();
    service.told(client);
    client
}

#[test]
fn one_silent_channel_is_told_resubscribed_and_ended_by_an_event() {
    let mut service = watched(10, StaleAction::Reconnect);
    let client = begin(&mut service, &["a", "b", "c"]);
    for _ in 0..3 {
        service.pass_seconds(9);
        service.say(&json!({"event": "b", "data": 1}));
        service.say(&json!({"event": "c", "data": 1}));
    }
    assert_eq!(
        service.told(client),
        [
            "event b 1",
            "event c 1",
            "stale a mark",
            "event b 1",
            "event c 1",
            "stale a resubscribe",
            "gap a silence",
            "event b 1",
            "event c 1"
        ]
    );
    assert_eq!(short(&service.ack_all()), ["unsubscribe a"]);
    assert_eq!(short(&service.ack_all()), ["subscribe a"]);
    service.say(&json!({"event": "a", "data": 7}));
    assert_eq!(service.told(client), ["event a 7"]);
    assert_eq!(service.relay.stats.watch.recovered, 1);
    assert_eq!(service.relay.stats.link.disconnects.total(), 0);
}

#[test]
fn a_snapshot_of_a_silent_channel_is_stale_until_the_next_event() {
    let mut service = watched(10, StaleAction::Mark);
    begin(&mut service, &["a"]);
    service.say(&json!({"event": "a", "data": 1}));
    let stale = |service: &mut Service| {
        let client = service.join(1);
        service.subscribe(client, &["a"]);
        let frames = std::mem::take(&mut service.told);
        service.unsubscribe(client, &["a"]);
        frames.iter().find(|(_, frame)| frame["kind"] == "snapshot").map(|(_, frame)| frame["stale"].clone())
    };
    assert_eq!(stale(&mut service), Some(json!(false)));
    service.pass_seconds(10);
    assert_eq!(stale(&mut service), Some(json!(true)));
    service.say(&json!({"event": "a", "data": 2}));
    assert_eq!(stale(&mut service), Some(json!(false)));
}

#[test]
fn when_all_are_silent_the_connection_is_made_anew_and_rarely() {
    let mut service = watched(10, StaleAction::Reconnect);
    let client = begin(&mut service, &["a", "b", "c", "d"]);
    service.pass_seconds(10);
    assert_eq!(service.told(client), ["stale a mark", "stale b mark", "stale c mark", "stale d mark"]);
    service.pass_seconds(10);
    let told = service.told(client);
    assert_eq!(told[0], "stale a reconnect");
    assert_eq!(
        told.iter().filter(|told| told.ends_with("reconnect") && told.starts_with("gap")).count(),
        4,
        "{told:?}"
    );
    assert_eq!(service.relay.stats.link.disconnects.get(&"told"), 1);
    let mut connects = 1;
    for _ in 0..3_600 {
        service.pass_seconds(1);
        if !service.connects.is_empty() {
            connects += 1;
            service.connect();
        }
        service.ack_all();
    }
    assert!(connects <= 6, "{connects} connections in an hour");
    assert_eq!(service.relay.stats.watch.actions.get(&StaleAction::Resubscribe), 0, "no burst of subscribes");
}

#[test]
fn a_channel_that_nobody_carries_or_that_waits_for_upstream_is_not_judged() {
    let mut service = watched(10, StaleAction::Reconnect);
    let client = begin(&mut service, &["a"]);
    service.close(1006);
    service.told(client);
    service.pass_seconds(100);
    assert_eq!(service.told(client), Vec::<String>::new(), "the link is down, and that is told elsewhere");
    service.connects.clear();
    service.until_connect();
    service.connect();
    service.ack_all();
    service.pass_seconds(9);
    assert_eq!(service.told(client), Vec::<String>::new());
    service.pass_seconds(1);
    assert_eq!(service.told(client), ["stale a mark"]);
    service.unsubscribe(client, &["a"]);
    service.ack_all();
    assert_eq!(service.relay.watch.counts(), (0, 0));
    service.pass_seconds(1_000);
    assert_eq!(service.relay.stats.watch.actions.total(), 1);
}

#[test]
fn a_reload_changes_what_is_watched() {
    let mut service = watched(10, StaleAction::Mark);
    let client = begin(&mut service, &["a"]);
    let mut config = (*service.relay.config).clone();
    config.channels = vec![ChannelPolicy::default()];
    service.input(Input::Reload(Arc::new(config.clone())));
    service.pass_seconds(100);
    assert_eq!(service.told(client), Vec::<String>::new());
    config.channels[0].stale_after = StaleAfter::After(Duration::from_secs(30));
    service.input(Input::Reload(Arc::new(config)));
    service.pass_seconds(30);
    assert_eq!(service.told(client), ["stale a mark"]);
}
