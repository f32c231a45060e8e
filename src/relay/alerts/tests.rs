//! When alerts fire, what is told how often, and how deliveries go on.

use super::*;
use crate::config::alerts::Condition;

fn at(seconds: u64) -> Time {
    Time { mono: Mono(seconds * 1_000_000_000), wall: Wall((1_795_231_888 + seconds) * 1_000_000_000) }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn webhook(name: &str, when: &str, hold: u64) -> AlertConfig {
    let url = crate::protocol::request::Secret::new("http://hook.example/");
    AlertConfig {
        name: name.to_owned(),
        when: Condition::parse(when).unwrap(),
        hold: seconds(hold),
        resolve_after: seconds(30),
        repeat: None,
        to: vec![AlertTarget::Log, AlertTarget::Webhook { url, headers: Vec::new() }],
    }
}

/// Judges once a second; `value` gives the quantity. What was told, with when.
fn run(alerts: &mut Alerts, range: std::ops::Range<u64>, value: impl Fn(u64) -> Option<f64>) -> Vec<(u64, Status)> {
    let mut out = Vec::new();
    for second in range {
        out.extend(alerts.judge(at(second), |_| value(second)).into_iter().map(|news| (second, news.status)));
    }
    out
}

fn one(config: AlertConfig) -> Alerts {
    let mut alerts = Alerts::default();
    alerts.configure(at(0).mono, &[config]);
    alerts
}

#[test]
fn an_alert_fires_once_after_its_time_and_is_resolved_once() {
    let mut alerts = one(webhook("down", "upstream_down > 30s", 0));
    let down = |second: u64| Some(if second < 100 { second as f64 } else { 0.0 });
    assert_eq!(run(&mut alerts, 0..300, down), [(31, Status::Firing), (130, Status::Resolved)]);
    let mut alerts = one(webhook("bad", "quality < 50", 20));
    let value = |second: u64| Some(if (10..25).contains(&second) || second >= 40 { 20.0 } else { 90.0 });
    assert_eq!(run(&mut alerts, 0..100, value), [(60, Status::Firing)], "fifteen seconds were too short");
}

#[test]
fn a_value_that_flaps_around_the_bound_is_one_firing() {
    let mut alerts = one(webhook("bad", "quality < 50", 0));
    let told = run(&mut alerts, 0..1_000, |second| Some(if second % 20 < 5 { 40.0 } else { 60.0 }));
    assert_eq!(told, [(0, Status::Firing)]);
}

#[test]
fn what_is_unknown_changes_nothing() {
    let mut alerts = one(webhook("bad", "quality < 50", 0));
    assert_eq!(run(&mut alerts, 0..100, |_| None), []);
    assert_eq!(run(&mut alerts, 100..101, |_| Some(1.0)), [(100, Status::Firing)]);
    assert_eq!(run(&mut alerts, 101..1_000, |_| None), [], "nobody knows that it is over");
}

#[test]
fn it_is_said_again_only_if_that_is_wished() {
    let mut alerts = one(AlertConfig { repeat: Some(seconds(60)), ..webhook("down", "upstream_down > 0s", 0) });
    let told = run(&mut alerts, 0..200, |_| Some(1.0));
    assert_eq!(told.iter().map(|(second, _)| *second).collect::<Vec<_>>(), [0, 60, 120, 180]);
}

#[test]
fn a_new_configuration_keeps_what_is_the_same_and_resolves_what_is_gone() {
    let (down, bad) = (webhook("down", "upstream_down > 0s", 0), webhook("bad", "quality < 50", 0));
    let mut alerts = Alerts::default();
    alerts.configure(at(0).mono, &[down.clone(), bad.clone()]);
    assert_eq!(run(&mut alerts, 0..2, |_| Some(1.0)).len(), 2);
    let gone = alerts.configure(at(2).mono, std::slice::from_ref(&bad));
    assert_eq!(
        gone.iter().map(|n| (n.alert.name.as_str(), n.status)).collect::<Vec<_>>(),
        [("down", Status::Resolved)]
    );
    assert_eq!(run(&mut alerts, 2..4, |_| Some(1.0)), [], "the other one fires on and is not told again");
    let changed = webhook("bad", "quality < 10", 0);
    assert_eq!(alerts.configure(at(4).mono, &[changed]).len(), 1, "another condition is another alert");
    assert_eq!(alerts.standings().map(|standing| standing.state).collect::<Vec<_>>(), ["quiet"]);
}

#[test]
fn a_delivery_is_tried_again_a_few_times_and_in_order() {
    let config = webhook("down", "upstream_down > 0s", 0);
    let mut alerts = one(config.clone());
    let (first, second): (Arc<[u8]>, Arc<[u8]>) = (Arc::from(*b"firing"), Arc::from(*b"resolved"));
    assert_eq!(alerts.tell(&config, &first) + alerts.tell(&config, &second), 0);
    let mut begun = Vec::new();
    let mut now = at(0).mono;
    for again in [true, true, true, true] {
        let (delivery, _, body) = alerts.next_delivery(now).expect("due");
        assert_eq!(&*body, b"firing");
        assert_eq!(alerts.next_delivery(now), None, "one of a line is out");
        begun.push(now.0 / 1_000_000_000);
        alerts.delivered(now, delivery, Some(again));
        now = alerts.lines.values().next().unwrap().next;
    }
    assert_eq!(begun, [0, 1, 6, 31]);
    let (delivery, _, body) = alerts.next_delivery(now).expect("the next one has its turn");
    assert_eq!(&*body, b"resolved");
    assert_eq!(alerts.delivered(now, DeliveryId(99), None), Went::Unknown);
    assert_eq!(alerts.delivered(now, delivery, None), Went::Delivered);
    assert_eq!(alerts.delivered(now, delivery, None), Went::Unknown, "a second answer is nobody's");
    assert!(alerts.lines.is_empty());
}

#[test]
fn a_line_is_bounded_and_what_is_useless_is_not_tried_again() {
    let config = webhook("down", "upstream_down > 0s", 0);
    let mut alerts = one(config.clone());
    let message = |n: u8| -> Arc<[u8]> { Arc::from([n]) };
    alerts.tell(&config, &message(0));
    let (delivery, ..) = alerts.next_delivery(Mono(0)).unwrap();
    let dropped: usize = (1..=20).map(|n| alerts.tell(&config, &message(n))).sum();
    assert_eq!(dropped, 5);
    assert_eq!(alerts.delivered(Mono(0), delivery, Some(false)), Went::Failed);
    let (_, _, body) = alerts.next_delivery(Mono(0)).unwrap();
    assert_eq!(*body, [6], "the oldest that were not on their way went");
}
