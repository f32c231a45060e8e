//! Socket.IO's own rhythm: a ping each interval, and how late it may come.

use super::*;
use crate::dialect::Dialect;

fn text(service: &mut Service, text: &str) {
    service.say_frame(WireFrame::Text(bytes::Bytes::copy_from_slice(text.as_bytes())));
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
