//! Unsubscribes: when they leave, what waits for them, and what comes after them.

use std::time::Duration;

use super::*;

#[test]
fn a_hundred_holders_are_one_subscribe_and_one_unsubscribe() {
    let mut service = plain();
    for n in 0..100 {
        let client = service.join(n);
        service.subscribe(client, &["a"]);
    }
    assert_eq!(short(&service.ack_all()), ["subscribe a"]);
    for index in 0..100 {
        service.unsubscribe(crate::relay::pairs::SessionId { index, generation: 1 }, &["a"]);
    }
    service.pass(Duration::from_millis(4_999));
    assert_eq!(short(&service.heard()), Vec::<String>::new());
    service.pass(Duration::from_millis(1));
    assert_eq!(short(&service.ack_all()), ["unsubscribe a"]);
    service.pass_seconds(60);
    assert_eq!(short(&service.heard()), Vec::<String>::new(), "once");
}

#[test]
fn a_channel_wanted_again_waits_for_its_unsubscribe() {
    let mut service = plain();
    let client = service.join(0);
    service.subscribe(client, &["a"]);
    let first = service.heard();
    service.unsubscribe(client, &["a"]);
    service.pass_seconds(5);
    service.subscribe(client, &["a"]);
    assert_eq!(short(&service.heard()), Vec::<String>::new(), "the first subscribe is not answered yet");
    service.say(&json!({"ok": first[0]["id"]}));
    let leave = service.heard();
    assert_eq!(short(&leave), ["unsubscribe a"]);
    service.say(&json!({"ok": leave[0]["id"]}));
    assert_eq!(short(&service.heard()), ["subscribe a"]);
}

#[test]
fn what_comes_after_an_unsubscribe_has_it_sent_once_more() {
    let mut service = plain();
    let client = service.join(0);
    service.subscribe(client, &["a"]);
    service.ack_all();
    service.unsubscribe(client, &["a"]);
    service.pass_seconds(5);
    let late = json!({"event": "a", "data": 1});
    let leave = service.heard();
    assert_eq!(short(&leave), ["unsubscribe a"]);
    service.say(&late);
    assert_eq!(short(&service.heard()), Vec::<String>::new(), "it may have left before upstream heard of it");
    service.say(&json!({"ok": leave[0]["id"]}));
    service.say(&json!({"event": "never wanted", "data": 1}));
    assert_eq!(short(&service.heard()), Vec::<String>::new(), "what was never subscribed is only counted");
    service.say(&late);
    assert_eq!(short(&service.ack_all()), ["unsubscribe a"]);
    for _ in 0..3 {
        service.say(&late);
        service.pass_seconds(1);
    }
    assert_eq!(short(&service.heard()), Vec::<String>::new(), "once more, and then it is only counted");
    assert_eq!(service.relay.stats.feed.dropped.get(&crate::relay::stats::DropReason::Unwanted), 6);
    service.subscribe(client, &["a"]);
    assert_eq!(short(&service.ack_all()), ["subscribe a"]);
    service.told(client);
    service.say(&late);
    assert_eq!(service.told(client), ["event a 1"]);
}
