//! A service that goes on with a lost connection's session: what it sends first, and what it says last.

use super::*;

/// The service names its session; who names it again gets what was missed, and then the word that it goes on.
fn resumable() -> (Service, crate::relay::pairs::SessionId) {
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
