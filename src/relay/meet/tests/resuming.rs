//! A service that goes on with a lost connection's session: what it sends first, and what it says last.

use bytes::Bytes;

use super::*;
use crate::dialect::{Answer, AskFor, Transport};
use crate::relay::link::rotation::Why;
use crate::relay::pairs::SessionId;

/// The service names its session; who names it again gets what was missed, and then the word that it goes on.
fn resumable() -> (Service, SessionId) {
    let rules = r#"
auth = '{"op":"auth","session":{session?}}'
[[on]]
match = { "/session" = "{session}" }
is = "ready"
resumed = true
[[on]]
match = { "/session" = { exists = true } }
is = "ready"
forget = true
set = { session = "/session" }
"#;
    let dialect =
        DIALECT.replace("LIMITS", "").replace("HELLO", rules).replace("\"fatal\" }", "\"fatal\" }\nforget = [3000]");
    let mut service = Service::speaking(&dialect, |_| {});
    service.connect();
    let one = service.join(0);
    service.subscribe(one, &["a", "b"]);
    service.say(&json!({"session": "s1"}));
    assert_eq!(short(&service.ack_all()), ["auth ", "subscribe a b"]);
    service.told(one);
    (service, one)
}

fn again(service: &mut Service) -> Vec<Value> {
    service.until_connect();
    service.connect();
    service.heard()
}

#[test]
fn what_was_missed_comes_before_the_verdict_and_there_is_no_gap() {
    let (mut service, one) = resumable();
    service.say(&json!({"event": "a", "data": 1}));
    service.close(1006);
    assert_eq!(service.told(one), ["event a 1"], "nobody knows yet whether there is a hole");
    assert_eq!(again(&mut service), [json!({"op": "auth", "session": "s1"})]);
    service.say(&json!({"event": "a", "data": 2}));
    service.say(&json!({"event": "b", "data": 1}));
    assert_eq!(service.told(one), ["event a 2", "event b 1"]);
    service.say(&json!({"session": "s1"}));
    service.say(&json!({"event": "a", "data": 3}));
    assert_eq!(service.told(one), ["event a 3"]);
    assert_eq!(short(&service.heard()), Vec::<String>::new(), "the subscriptions stand");
    assert_eq!(service.relay.stats.feed.gaps.total(), 0);
}

#[test]
fn another_session_means_a_gap_on_all_that_was_live() {
    let (mut service, one) = resumable();
    service.close(1006);
    // A connection that ends before the verdict leaves the question open.
    again(&mut service);
    service.close(1006);
    assert_eq!(service.told(one), Vec::<String>::new());
    again(&mut service);
    service.unsubscribe(one, &["b"]);
    service.told(one);
    service.say(&json!({"session": "s2"}));
    assert_eq!(service.told(one), ["gap a reconnect"]);
    assert_eq!(short(&service.ack_all())[0], "subscribe a b", "b lingers");
    service.close(1006);
    assert_eq!(again(&mut service), [json!({"op": "auth", "session": "s2"})]);
}

#[test]
fn a_session_that_is_over_means_a_gap_at_once() {
    for ending in [3000, 4000] {
        let (mut service, one) = resumable();
        service.close(ending);
        assert_eq!(service.told(one), ["gap a reconnect", "gap b reconnect"], "{ending}");
    }
    let (mut service, one) = resumable();
    service.lose(Disconnect::Oversize);
    assert_eq!(service.told(one), ["gap a oversize", "gap b oversize"]);
    assert_eq!(again(&mut service), [json!({"op": "auth"})], "the same message would come again");
    let (mut service, one) = resumable();
    service.close(1006);
    again(&mut service);
    service.close(3000);
    assert_eq!(service.told(one), ["gap a reconnect", "gap b reconnect"], "also before it was ready");
}

/// A relay that is live over long-polls, one session that hears `a` and `b`. The events' ids are places; the first poll has none.
fn polled(gap: &str) -> (Service, SessionId) {
    let dialect = format!(
        "dialect = 1\nname = \"polled\"\n{gap}\n[connect]\npath = \"/{{channel*}}\"\nwebsocket = false\nresumes = true\n\
         [transport.long-poll]\nquery = {{ after = \"{{cursor?}}\" }}\n[[on]]\nmatch = {{ \"/of\" = {{ exists = true }} }}\n\
         is = \"event\"\nchannel = \"/of\"\nid = \"/id\"\nseq = \"/id\"\ndata = \"/id\"\n"
    );
    let mut service = Service::speaking(&dialect, |config| config.upstream.transports = vec![Transport::LongPoll]);
    let one = service.join(0);
    service.subscribe(one, &["a", "b"]);
    service.until_connect();
    service.connect();
    service.told(one);
    (service, one)
}

/// How long a poll that waits is held, and one that may not take long.
const HELD: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_millis(300);

/// The poll that is out on this connection is answered after so long, and the next one leaves.
fn poll(service: &mut Service, attempt: AttemptId, held: Duration, status: u16, body: &str) {
    let (etag, last_modified, retry_after) = (None, None, None);
    let body = Bytes::copy_from_slice(body.as_bytes());
    service.pass(held);
    let answer = Answer { of: AskFor::Poll, status, etag, last_modified, retry_after, body };
    service.say_frame_on(attempt, WireFrame::Answer(Box::new(answer)));
    service.pass(Duration::ZERO);
}

#[test]
fn what_came_between_polls_without_a_place_is_one_gap_before_the_next_event() {
    let (mut service, one) = polled("");
    let attempt = service.attempt;
    for status in [408, 204, 304, 0] {
        poll(&mut service, attempt, HELD, status, "");
    }
    assert_eq!(service.told(one), [""; 0], "nothing is known to be missing while nothing comes");
    poll(&mut service, attempt, HELD, 200, r#"{"of":"a","id":"1"}"#);
    assert_eq!(service.told(one), ["gap a reconnect", "gap b reconnect", "event a 1"]);
    poll(&mut service, attempt, HELD, 408, "");
    poll(&mut service, attempt, HELD, 200, r#"{"of":"b","id":"2"}"#);
    assert_eq!(service.told(one), ["event b 2"]);
    assert_eq!(service.relay.stats.link.disconnects.total(), 0);
}

#[test]
fn numbers_say_what_came_between_polls_better_than_a_gap() {
    let (mut service, one) = polled("[gap]");
    let attempt = service.attempt;
    let mut say = |body: &str| poll(&mut service, attempt, HELD, 200, body);
    say(r#"{"of":"a","id":1}"#);
    // Without an id it is no place.
    say(r#"{"of":"a"}"#);
    say("");
    say(r#"{"of":"a","id":4}"#);
    let told = service.told(one);
    assert_eq!(told, ["event a 1", "event a null", "gap b reconnect", "gap a upstream_seq", "event a 4"]);
}

#[test]
fn polls_beside_those_that_serve_leave_no_hole() {
    let (mut service, one) = polled("");
    let old = service.attempt;
    poll(&mut service, old, HELD, 408, "");
    service.relay.rotate_upstream(service.now.mono, Why::Asked);
    service.pass(Duration::ZERO);
    service.connect();
    let new = std::mem::replace(&mut service.attempt, old);
    // Within the first second, in which it takes over nothing.
    poll(&mut service, new, SHORT, 408, "");
    poll(&mut service, new, SHORT, 200, r#"{"of":"a","id":"1"}"#);
    assert_eq!(service.told(one), [""; 0], "the older one leads");
    poll(&mut service, old, SHORT, 200, r#"{"of":"a","id":"1"}"#);
    assert_eq!(service.told(one), ["gap a reconnect", "gap b reconnect", "event a 1"]);
}
