//! Where and how the relay connects: endpoints, transports, the provider's budget, and what close codes say.

use super::*;
use crate::config::EndpointConfig;
use crate::dialect::Transport;

fn refuse(service: &mut Service) {
    service.attempt = service.connects.pop_front().unwrap();
    service.lose(Disconnect::Refused);
}

#[test]
fn another_endpoint_is_tried_at_once_and_all_are_backed_off() {
    let endpoint = |n: &str| EndpointConfig { url: format!("wss://{n}.example/"), weight: 1 };
    let mut service = Service::new("", |config| config.upstream.endpoints = vec![endpoint("a"), endpoint("b")]);
    refuse(&mut service);
    assert_eq!(service.until_connect(), Duration::ZERO, "the other one");
    let urls: Vec<&String> = service.ways.iter().map(|(_, url, _)| url).collect();
    assert_ne!(urls[0], urls[1]);
    let before = service.now.mono;
    for _ in 0..10 {
        refuse(&mut service);
        service.until_connect();
    }
    assert!(service.now.mono.since(before) > Duration::from_secs(2), "not in a hurry for ever");
    let status = String::from_utf8(service.relay.link_json(service.now)).unwrap();
    assert!(status.contains("\"last_reason\":\"refused\"") && status.contains("wss://b.example/"), "{status}");
}

#[test]
fn no_window_sees_more_connects_than_the_provider_allows() {
    let mut service = Service::new("[limits]\nconnects = \"6/60s\"", |config| {
        config.upstream.backoff.max = Duration::from_secs(1);
    });
    for n in 0..60 {
        if n % 2 == 0 {
            refuse(&mut service);
        } else {
            service.connect();
            service.relay.reconnect_upstream(service.now);
            service.turn();
            service.lose(Disconnect::Asked);
        }
        service.until_connect();
    }
    let times: Vec<Mono> = service.ways.iter().map(|(at, ..)| *at).collect();
    for (n, first) in times.iter().enumerate() {
        let within = times[n..].iter().filter(|at| at.since(*first) < Duration::from_secs(60)).count();
        assert!(within <= 6, "{within} connects in one window");
    }
    assert!(times.len() > 50);
}

#[test]
fn a_transport_that_does_not_get_through_gives_way_to_the_next() {
    let dialect = DIALECT.replace("HELLO", "").replace("LIMITS", "");
    let mut service = Service::speaking(&dialect, |config| {
        config.upstream.transports = vec![Transport::WebSocket, Transport::Sse];
    });
    for _ in 0..3 {
        service.attempt = service.connects.pop_front().unwrap();
        service.lose(Disconnect::BadStatus { status: 404, retry_after: None, detail: String::new() });
        service.until_connect();
    }
    let transports: Vec<Transport> = service.ways.iter().map(|(_, _, transport)| *transport).collect();
    assert_eq!(transports, [Transport::WebSocket, Transport::WebSocket, Transport::WebSocket, Transport::Sse]);
    service.connect();
    assert_eq!(service.relay.link_word(), "live");
    let status = String::from_utf8(service.relay.link_json(service.now)).unwrap();
    assert!(status.contains("\"transport\":\"sse\""), "{status}");
    assert_eq!(service.relay.stats.link.transport_switches, 1, "from the best one, which never served");
}

#[test]
fn a_message_that_upstream_finds_too_large_is_not_sent_for_ever() {
    let mut service = plain();
    let client = service.join(0);
    service.publish(client, "a", Lane::Medium);
    service.told(client);
    service.heard();
    service.close(1009);
    let told = service.told(client);
    assert!(told.iter().any(|frame| frame.contains("too_large")), "{told:?}");
    service.until_connect();
    service.connect();
    service.pass_seconds(10);
    assert!(service.heard().iter().all(|message| message["op"] != "publish"), "once is enough");
}

#[test]
fn a_message_that_may_have_arrived_before_is_not_called_too_large() {
    let mut service = plain();
    let client = service.join(0);
    service.publish(client, "a", Lane::Medium);
    service.told(client);
    service.heard();
    service.close(1006);
    service.until_connect();
    service.connect();
    service.heard();
    service.close(1009);
    let told = service.told(client);
    assert!(told.iter().any(|frame| frame.contains("outcome_unknown")), "{told:?}");
}

#[test]
fn people_are_told_of_faults_and_of_flapping() {
    let mut service = plain();
    for n in 0..5 {
        service.close(1002);
        let told = service.notices.iter().filter(|notice| matches!(notice, Notice::Faults { .. })).count();
        assert_eq!(told, usize::from(n >= 2), "after the third");
        service.until_connect();
        service.connect();
    }
    assert!(service.notices.iter().any(|notice| matches!(notice, Notice::Flapping { times: 5, .. })));
    let closes: Vec<(String, u64)> =
        service.relay.stats.link.closes.iter().map(|(class, n)| (class.text(), n)).collect();
    assert_eq!(closes, [("1002".to_owned(), 5)]);
    assert_eq!(service.relay.stats.link.flaps, 5);
}
