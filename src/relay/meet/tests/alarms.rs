//! Alerts of the whole relay: measured, told once, delivered until it arrives, resolved.

use std::time::Duration;

use super::*;
use crate::config::alerts::{AlertConfig, AlertTarget, Condition};
use crate::protocol::request::Secret;
use crate::relay::pairs::AlertFailure;

fn alert(when: &str) -> AlertConfig {
    let url = Secret::new("https://hook.example/canary-secret");
    AlertConfig {
        name: when.split(' ').next().unwrap().to_owned(),
        when: Condition::parse(when).unwrap(),
        hold: Duration::ZERO,
        resolve_after: Duration::from_secs(30),
        repeat: None,
        to: vec![AlertTarget::Log, AlertTarget::Webhook { url, headers: Vec::new() }],
    }
}

fn alarmed(conditions: &[&str]) -> Service {
    ready("", |config| {
        config.alerts = conditions.iter().map(|when| alert(when)).collect();
        config.upstream.ping_interval = Duration::from_secs(100_000);
    })
}

#[test]
fn a_principal_that_has_spent_its_allowance_fires_until_an_hour_is_over() {
    let mut service = ready("", |config| {
        config.alerts = vec![alert("budget_spent > 90%")];
        config.budget.principal_subscribes.hour = 2;
        config.upstream.ping_interval = Duration::from_secs(100_000);
    });
    let client = service.join(0);
    service.subscribe(client, &["a"]);
    service.ack_all();
    service.pass_seconds(5);
    assert!(service.alerts.is_empty(), "half of it is spent");
    service.subscribe(client, &["b"]);
    service.ack_all();
    service.pass_seconds(5);
    assert_eq!(service.alerts[0].1["value"], json!(1.0));
    assert_eq!(messages(&mut service, &Ok(())), ["budget_spent firing"]);
    service.pass_seconds(2 * 3_600);
    assert_eq!(messages(&mut service, &Ok(())), ["budget_spent resolved"]);
}

/// The messages that left since the last look, as `alert status`; each is answered.
fn messages(service: &mut Service, result: &Result<(), AlertFailure>) -> Vec<String> {
    let mut out = Vec::new();
    while !service.alerts.is_empty() {
        let (delivery, message) = service.alerts.remove(0);
        let word = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        out.push(format!("{} {}", word("alert"), word("status")));
        service.input(Input::Alerted { delivery, result: result.clone() });
    }
    out
}

#[test]
fn a_link_that_is_down_fires_once_everywhere_and_is_resolved_once() {
    let mut service = alarmed(&["upstream_down > 30s"]);
    let client = service.join(0);
    service.subscribe(client, &["$status"]);
    service.close(1006);
    service.pass_seconds(30);
    assert!(service.alerts.is_empty());
    service.pass_seconds(2);
    let (_, message) = service.alerts[0].clone();
    assert_eq!((&message["when"], &message["unit"]), (&json!("upstream_down > 30s"), &json!("seconds")));
    assert!(message["value"].as_f64().unwrap() > 30.0);
    assert_eq!(messages(&mut service, &Ok(())), ["upstream_down firing"]);
    service.pass_seconds(600);
    assert_eq!(messages(&mut service, &Ok(())), Vec::<String>::new(), "once");
    service.connects.clear();
    service.until_connect();
    service.connect();
    service.pass_seconds(29);
    assert_eq!(messages(&mut service, &Ok(())), Vec::<String>::new());
    service.pass_seconds(3);
    assert_eq!(messages(&mut service, &Ok(())), ["upstream_down resolved"]);
    let logged = service.notices.iter().filter(|notice| matches!(notice, Notice::Alert { .. })).count();
    let told = service.told.iter().filter(|(_, frame)| frame["type"] == "alert");
    let status: Vec<&Value> = told.map(|(_, frame)| &frame["data"]["status"]).collect();
    assert_eq!((logged, status), (2, vec![&json!("firing"), &json!("resolved")]));
    assert_eq!(service.relay.stats.alerts.deliveries.get(&"delivered"), 2);
    assert!(!format!("{:?}{:?}", service.notices, service.told).contains("canary"), "no address is told anywhere");
}

#[test]
fn a_message_that_does_not_arrive_is_tried_again_and_then_given_up() {
    let mut service = alarmed(&["sessions > 0"]);
    service.join(0);
    let failure = Err(AlertFailure { again: true, detail: "the webhook answered 503".into() });
    let mut tries = 0;
    for _ in 0..100 {
        service.pass_seconds(1);
        tries += messages(&mut service, &failure).len();
    }
    let deliveries = &service.relay.stats.alerts.deliveries;
    assert_eq!((tries, deliveries.get(&"retried"), deliveries.get(&"failed")), (4, 3, 1));
    let untold = service.notices.iter().filter(|notice| matches!(notice, Notice::AlertUntold { .. })).count();
    assert_eq!(untold, 4);
}

#[test]
fn every_quantity_is_measured_where_it_can_be() {
    use crate::config::alerts::Quantity;
    let mut service = alarmed(&[]);
    service.input(Input::Disk { free: 7, used: 0 });
    service.pass_seconds(10);
    let now = service.now;
    for quantity in Quantity::ALL {
        let unknown = matches!(quantity, Quantity::Rtt | Quantity::ClockSkew);
        assert_eq!(service.relay.measure(now, *quantity).is_none(), unknown, "{quantity:?}");
    }
    assert_eq!(service.relay.measure(now, Quantity::DiskFree), Some(7.0));
    assert_eq!(service.relay.measure(now, Quantity::ProtocolErrors), Some(0.0));
    service.close(1002);
    service.say(&json!({"what": "nobody knows"}));
    assert_eq!(service.relay.measure(service.now, Quantity::ProtocolErrors), Some(1.0));
    assert_eq!(service.relay.measure(service.now, Quantity::Gaps), Some(0.0));
    assert!(service.relay.measure(service.now, Quantity::UpstreamDown).is_some());
}

#[test]
fn a_reload_resolves_what_is_gone() {
    let mut service = alarmed(&["sessions > 0", "quality < 101"]);
    service.join(0);
    service.pass_seconds(10);
    let mut fired = messages(&mut service, &Ok(()));
    fired.sort();
    assert_eq!(fired, ["quality firing", "sessions firing"]);
    let mut config = (*service.relay.config).clone();
    config.alerts.remove(0);
    service.input(Input::Reload(Arc::new(config)));
    service.pass_seconds(10);
    assert_eq!(messages(&mut service, &Ok(())), ["sessions resolved"]);
}
