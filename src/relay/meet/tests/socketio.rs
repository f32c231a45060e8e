//! Socket.IO's own rhythm: a ping each interval, and how late it may come.

use super::*;
use crate::dialect::Dialect;
use crate::protocol::request::parse::{RequestLimits, parse};
use crate::relay::pairs::SessionId;

fn text(service: &mut Service, text: &str) {
    service.say_frame(WireFrame::Text(bytes::Bytes::copy_from_slice(text.as_bytes())));
}

/// Publishes this JSON text, as an app would.
pub(super) fn publish_data(service: &mut Service, session: SessionId, data: &str) {
    let request = format!(r#"{{"op":"publish","channel":"orders","data":{data}}}"#);
    let request = parse(&request, &RequestLimits::new(&service.relay.config));
    service.input(Input::Request { session, request });
}

/// The frames sent since the last look.
fn sent(service: &mut Service) -> Vec<String> {
    let texts = std::mem::take(&mut service.sent).into_iter().filter_map(|(_, frame)| match frame {
        WireFrame::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
        _ => None,
    });
    texts.collect()
}

#[test]
fn a_service_that_stops_pinging_is_dead_after_interval_and_timeout() {
    let mut service = Service::speaking(Dialect::builtin_text("socketio").unwrap(), |_| {});
    service.connect();
    text(&mut service, r#"0{"sid":"a","upgrades":[],"pingInterval":3000,"pingTimeout":2000,"maxPayload":1000000}"#);
    assert_eq!(sent(&mut service), ["40{}"]);
    text(&mut service, r#"40{"sid":"s"}"#);
    assert_eq!(service.relay.link_word(), "live");
    for _ in 0..10 {
        service.pass_seconds(3);
        text(&mut service, "2");
        assert_eq!(sent(&mut service), ["3"]);
    }
    let attempt = service.attempt;
    service.pass(Duration::from_millis(4_999));
    assert!(!service.closed.contains(&attempt), "a ping may be as late as that");
    service.pass(Duration::from_millis(1));
    assert!(service.closed.contains(&attempt));
    assert_eq!(service.relay.stats.link.disconnects.get(&"idle"), 1);
}

#[test]
fn a_ping_is_answered_at_once_however_much_waits() {
    let mut service = Service::speaking(Dialect::builtin_text("socketio").unwrap(), |_| {});
    service.connect();
    text(&mut service, r#"0{"sid":"a","pingInterval":25000,"pingTimeout":20000}"#);
    text(&mut service, r#"40{"sid":"s"}"#);
    let one = service.join(0);
    service.stuck = true;
    service.subscribe(one, &["a"]);
    service.subscribe(one, &["b", "c"]);
    sent(&mut service);
    text(&mut service, "2");
    service.stuck = false;
    service.outstanding = 0;
    service.input(Input::Transmitted { attempt: service.attempt });
    assert_eq!(sent(&mut service)[0], "3");
}

#[test]
fn attachments_follow_their_packet_whatever_else_waits() {
    let mut service = Service::speaking(Dialect::builtin_text("socketio").unwrap(), |_| {});
    service.connect();
    text(&mut service, r#"0{"sid":"a","pingInterval":25000,"pingTimeout":20000}"#);
    text(&mut service, r#"40{"sid":"s"}"#);
    let one = service.join(0);
    sent(&mut service);
    service.stuck = true;
    service.subscribe(one, &["a"]);
    let data = r#"[{"$binary":"AQID"},{"$binary":"BAU="}]"#;
    for _ in 0..3 {
        publish_data(&mut service, one, data);
    }
    service.subscribe(one, &["b", "c"]);
    sent(&mut service);
    text(&mut service, "2");
    service.stuck = false;
    service.outstanding = 0;
    service.input(Input::Transmitted { attempt: service.attempt });
    let frames: Vec<WireFrame> = std::mem::take(&mut service.sent).into_iter().map(|(_, frame)| frame).collect();
    let binary = |frame: &WireFrame| matches!(frame, WireFrame::Binary(_));
    let packets: Vec<usize> = (0..frames.len()).filter(|at| frames[*at].body().starts_with(b"452-")).collect();
    assert_eq!(packets.len(), 3, "{frames:?}");
    for at in packets {
        assert_eq!((&frames[at + 1].body()[..], &frames[at + 2].body()[..]), (&[1, 2, 3][..], &[4, 5][..]));
    }
    assert_eq!(frames.iter().filter(|frame| binary(frame)).count(), 6);
}

#[test]
fn a_packet_costs_one_token_with_its_attachments() {
    let left = |data: &str| {
        let limits = "[limits]\nrate = \"6/60s\"\nburst = 6\n";
        let dialect = format!("{}\n{limits}", Dialect::builtin_text("socketio").unwrap());
        let mut service = Service::speaking(&dialect, |_| {});
        service.connect();
        text(&mut service, r#"0{"sid":"a","pingInterval":25000,"pingTimeout":20000}"#);
        text(&mut service, r#"40{"sid":"s"}"#);
        let one = service.join(0);
        for _ in 0..10 {
            publish_data(&mut service, one, data);
        }
        sent(&mut service).iter().filter(|packet| packet.contains("publish")).count()
    };
    let alone = left("1");
    assert!((2..10).contains(&alone), "{alone} have left, the others wait for tokens");
    assert_eq!(left(r#"[{"$binary":"AQID"},{"$binary":"BAU="}]"#), alone);
}

#[test]
fn attachments_that_cannot_be_sent_are_refused_at_once_with_their_place() {
    let mut service = Service::speaking(Dialect::builtin_text("socketio").unwrap(), |_| {});
    let one = service.join(0);
    let many = format!("[{}]", [r#"{"$binary":"AQ=="}"#; 11].join(","));
    for (data, code, place) in [
        (r#"{"pic":{"$binary":"%"}}"#, "invalid", "data/pic: $binary must be bytes in base64"),
        (&many, "too_large", "data/10 is one attachment ($binary) too many"),
        (r#"[{"_placeholder":1},{"$binary":""}]"#, "invalid", "data/0 has a member \"_placeholder\""),
    ] {
        publish_data(&mut service, one, data);
        let (_, error) = service.told.pop().unwrap();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].as_str().unwrap().contains(place), "{error}");
    }
}
