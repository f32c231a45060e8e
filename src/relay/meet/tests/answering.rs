//! Answers to subscribes that come after their time, when the channel was asked for again.

use super::*;

/// Answers name requests, or channels.
fn answering(by: &str) -> Service {
    let numbered = DIALECT.replace("LIMITS", "").replace("HELLO", "");
    let dialect = match by {
        "name" => ["ok", "no", "busy"].iter().fold(numbered, |text, word| {
            text.replace(&format!("req = \"/{word}\""), &format!("channel = \"/{word}\""))
        }),
        _ => numbered,
    };
    let dialect =
        dialect.replace("is = \"error\"\nchannel = \"/no\"", "is = \"error\"\nthen = \"reject\"\nchannel = \"/no\"");
    let mut service = Service::speaking(&dialect, |_| {});
    service.connect();
    service
}

/// Subscribes a channel and lets its time to be answered pass so often; gives what each answer has to name.
fn asked_again(service: &mut Service, by: &str, times: u64) -> Vec<Value> {
    let client = service.join(0);
    service.subscribe(client, &["a"]);
    let mut names = Vec::new();
    for asked in 0..=times {
        let heard = service.heard();
        assert_eq!(short(&heard), ["subscribe a"]);
        names.push(if by == "name" { json!("a") } else { heard[0]["id"].clone() });
        if asked < times {
            service.pass_seconds(10);
        }
    }
    service.told(client);
    names
}

fn live(service: &mut Service) -> u64 {
    service.relay.refresh_upstream_stats(service.now);
    service.relay.stats.interest.active
}

const CLIENT: crate::relay::pairs::SessionId = crate::relay::pairs::SessionId { index: 0, generation: 1 };

#[test]
fn a_late_grant_makes_the_channel_live_and_no_refusal_of_a_repetition_ends_it() {
    for by in ["number", "name"] {
        let mut service = answering(by);
        let named = asked_again(&mut service, by, 2);
        service.say(&json!({"ok": named[0]}));
        assert_eq!(live(&mut service), 1, "{by}");
        for repeated in &named[1..] {
            service.say(&json!({"no": repeated, "why": "already subscribed"}));
        }
        service.say(&json!({"event": "a", "data": 1}));
        assert_eq!((service.told(CLIENT), live(&mut service)), (vec!["event a 1".to_owned()], 1), "{by}");
        service.pass_seconds(60);
        assert_eq!(short(&service.heard()), Vec::<String>::new(), "nothing is asked for a third time: {by}");
        assert_eq!(service.relay.stats.dialect.unexpected, 0, "{by}");
    }
}

#[test]
fn a_late_grant_spares_the_repetition_that_has_not_left() {
    let mut service = ready("[limits]\nrate = \"1/20s\"\nburst = 1", |_| {});
    let client = service.join(0);
    service.subscribe(client, &["a"]);
    let first = service.heard();
    service.pass_seconds(11);
    assert_eq!(service.heard().len(), 0, "the rate allows none yet");
    service.say(&json!({"ok": first[0]["id"]}));
    service.pass_seconds(15);
    assert_eq!((service.heard().len(), live(&mut service)), (0, 1));
}

#[test]
fn a_late_refusal_is_told_and_what_is_granted_after_it_is_left() {
    for by in ["number", "name"] {
        let mut service = answering(by);
        let named = asked_again(&mut service, by, 1);
        service.say(&json!({"no": named[0], "why": "no such channel"}));
        assert_eq!(service.told(CLIENT), ["error a upstream_refused"], "{by}");
        if by == "number" {
            assert_eq!(service.heard().len(), 0, "the repetition may be refused as well");
            service.say(&json!({"ok": named[1]}));
            assert_eq!(short(&service.ack_all()), ["unsubscribe a"]);
        }
        service.pass_seconds(60);
        assert_eq!((service.heard().len(), live(&mut service)), (0, 0), "{by}");
    }
}

#[test]
fn a_late_refusal_for_the_moment_leaves_it_to_the_repetition() {
    let mut service = answering("number");
    let named = asked_again(&mut service, "number", 1);
    service.say(&json!({"busy": named[0], "why": "not now"}));
    assert_eq!((service.told(CLIENT), live(&mut service)), (Vec::new(), 0));
    service.say(&json!({"ok": named[1]}));
    assert_eq!(live(&mut service), 1);
}

#[test]
fn a_late_refusal_of_several_is_about_none_of_them() {
    let mut service = plain();
    let client = service.join(0);
    service.input(Input::Disconnected { attempt: service.attempt, reason: Disconnect::Refused });
    service.subscribe(client, &["a", "b"]);
    service.until_connect();
    service.connect();
    service.told(client);
    let first = service.heard();
    assert_eq!(short(&first), ["subscribe a b"]);
    service.pass_seconds(10);
    let second = service.heard();
    assert_eq!(short(&second), ["subscribe a b"]);
    service.say(&json!({"no": first[0]["id"], "why": "one of them is unknown"}));
    assert_eq!((service.told(client), service.heard().len()), (Vec::new(), 0));
    service.say(&json!({"ok": second[0]["id"]}));
    assert_eq!(live(&mut service), 2);
}

#[test]
fn a_channel_that_leaves_waits_for_its_last_subscribe_and_is_left_if_any_was_granted() {
    let mut service = answering("number");
    let named = asked_again(&mut service, "number", 1);
    service.unsubscribe(CLIENT, &["a"]);
    service.pass_seconds(5);
    service.say(&json!({"ok": named[0]}));
    assert_eq!(service.heard().len(), 0, "the repetition is not answered yet");
    service.say(&json!({"no": named[1], "why": "already subscribed"}));
    assert_eq!(short(&service.ack_all()), ["unsubscribe a"]);
    service.pass_seconds(60);
    assert_eq!((service.heard().len(), live(&mut service)), (0, 0));
}

#[test]
fn what_was_asked_before_a_channel_was_lost_is_no_word_about_it() {
    let mut service = answering("number");
    let named = asked_again(&mut service, "number", 1);
    service.say(&json!({"ok": named[1]}));
    assert_eq!(live(&mut service), 1);
    service.pass_seconds(11);
    service.say(&json!({"gone": "a"}));
    service.say(&json!({"ok": named[0]}));
    assert_eq!((service.told(CLIENT), live(&mut service)), (vec!["gap a reconnect".to_owned()], 0));
    service.pass_seconds(1);
    let third = service.heard();
    assert_eq!(short(&third), ["subscribe a"]);
    service.say(&json!({"no": named[0], "why": "already subscribed"}));
    service.say(&json!({"ok": third[0]["id"]}));
    assert_eq!((service.told(CLIENT), live(&mut service)), (Vec::new(), 1));
}

#[test]
fn answers_of_an_earlier_connection_count_for_nothing() {
    let mut service = answering("number");
    let named = asked_again(&mut service, "number", 1);
    let before = service.attempt;
    service.until_connect_after_loss();
    assert_eq!(short(&service.heard()), ["subscribe a"]);
    service.say_on(before, &json!({"ok": named[0]}));
    service.say(&json!({"ok": named[1]}));
    service.say(&json!({"no": named[1], "why": "already subscribed"}));
    assert_eq!((service.told(CLIENT), live(&mut service)), (Vec::new(), 0));
    service.say(&json!({"ok": named[0]}));
    assert_eq!(live(&mut service), 1, "numbers begin anew with the connection");
}

#[test]
fn what_came_before_the_answer_is_missed_like_all_else_when_the_connection_is_lost() {
    let mut service = answering("number");
    let client = service.join(0);
    service.subscribe(client, &["a", "b"]);
    service.heard();
    service.told(client);
    service.say(&json!({"event": "a", "data": 1}));
    service.until_connect_after_loss();
    service.heard();
    service.say(&json!({"event": "a", "data": 4}));
    service.say(&json!({"event": "b", "data": 1}));
    assert_eq!(service.told(client), ["event a 1", "gap a reconnect", "event a 4", "event b 1"], "b had no event yet");
}
