//! A second connection takes over from the one that serves: when, how, and what the feed sees of it.

use super::*;
use crate::relay::link::rotation::Why;
use crate::relay::pairs::{AttemptId, SessionId};
use crate::relay::stats::DropReason;

/// What tells the service's events apart.
const NUMBERS: (&str, &str) = ("[gap]", "data = \"/data\"\nseq = \"/n\"");
const IDS: (&str, &str) = ("", "data = \"/data\"\nid = \"/n\"");
const NOTHING: (&str, &str) = ("", "data = \"/data\"");

/// A relay that is live with channels `a` and `b`, one session that hears them, and events of `a` up to 2.
fn live((gap, data): (&str, &str)) -> (Service, SessionId, AttemptId) {
    let dialect = DIALECT.replace("LIMITS", gap).replace("HELLO", "").replacen("data = \"/data\"", data, 1);
    let mut service = Service::speaking(&dialect, |_| {});
    service.connect();
    let one = service.join(0);
    service.subscribe(one, &["a", "b"]);
    service.ack_all();
    let old = service.attempt;
    event(&mut service, old, "a", &[1, 2]);
    service.told(one);
    (service, one, old)
}

fn event(service: &mut Service, attempt: AttemptId, channel: &str, numbers: &[u64]) {
    for n in numbers {
        service.say_on(attempt, &json!({"event": channel, "data": n, "n": n}));
    }
}

/// Another connection is asked for, opened, and has subscribed everything; it has not taken over.
fn beside(service: &mut Service) -> AttemptId {
    service.relay.rotate_upstream(service.now.mono, Why::Asked);
    service.pass(Duration::ZERO);
    let old = service.attempt;
    service.connect();
    let new = std::mem::replace(&mut service.attempt, old);
    // What left on it while the rig took it for the one that serves.
    for (_, frame) in std::mem::take(&mut service.sent) {
        answer(service, new, &frame);
    }
    new
}

/// Acks a request, answers a ping.
fn answer(service: &mut Service, attempt: AttemptId, frame: &WireFrame) {
    match frame {
        WireFrame::Text(text) => {
            let message: Value = serde_json::from_slice(text).unwrap();
            service.say_on(attempt, &json!({"ok": message["id"]}));
        }
        WireFrame::Ping(payload) => service.say_frame_on(attempt, WireFrame::Pong(payload.clone())),
        _ => {}
    }
}

/// Lets the time of overlap pass; both connections answer what they are asked.
fn overlap(service: &mut Service) {
    for _ in 0..11 {
        for (_, frame) in std::mem::take(&mut service.sent) {
            answer(service, service.attempt, &frame);
        }
        for (attempt, frame) in std::mem::take(&mut service.aside) {
            answer(service, attempt, &frame);
        }
        service.pass(Duration::from_millis(100));
    }
}

#[test]
fn numbers_make_one_stream_of_two_connections() {
    let (mut service, one, old) = live(NUMBERS);
    let new = beside(&mut service);
    event(&mut service, old, "a", &[3]);
    event(&mut service, new, "a", &[3, 4]);
    event(&mut service, old, "a", &[4, 5]);
    assert_eq!(service.told(one), ["event a 3", "event a 4", "event a 5"]);
    assert_eq!(service.closed, [], "both are open");
    overlap(&mut service);
    assert_eq!(service.closed, [old]);
    assert_eq!((service.relay.stats.link.rotations, service.relay.link_word()), (1, "live"));
    event(&mut service, new, "a", &[5, 6]);
    event(&mut service, new, "b", &[1]);
    assert_eq!(service.told(one), ["event a 6", "event b 1"]);
    assert_eq!(service.notices, [Notice::TookOver { why: "asked" }]);
}

#[test]
fn what_the_newer_one_brings_first_is_waited_for_on_the_older_one() {
    let (mut service, one, old) = live(NUMBERS);
    let new = beside(&mut service);
    event(&mut service, new, "a", &[5]);
    overlap(&mut service);
    assert_eq!((service.told(one), service.closed.len()), (vec![], 0), "3 and 4 are still to come");
    event(&mut service, old, "a", &[3, 4, 5]);
    assert_eq!(service.told(one), ["event a 3", "event a 4", "event a 5"]);
    overlap(&mut service);
    assert_eq!(service.closed, [old]);
}

#[test]
fn an_older_one_that_is_stuck_is_not_waited_for_for_ever() {
    let (mut service, one, old) = live(NUMBERS);
    let new = beside(&mut service);
    event(&mut service, new, "a", &[5]);
    service.pass_seconds(10);
    assert_eq!(service.closed, [old]);
    event(&mut service, new, "a", &[6]);
    assert_eq!(service.told(one), ["gap a upstream_seq", "event a 5", "event a 6"], "3 and 4 came on neither");
}

#[test]
fn ids_make_one_stream_of_two_connections() {
    let (mut service, one, old) = live(IDS);
    let new = beside(&mut service);
    event(&mut service, old, "a", &[3]);
    event(&mut service, new, "a", &[3, 4]);
    event(&mut service, old, "a", &[4, 5]);
    assert_eq!(service.told(one), ["event a 3", "event a 4", "event a 5"]);
    overlap(&mut service);
    assert_eq!(service.closed, [old]);
    event(&mut service, new, "a", &[5, 6]);
    assert_eq!(service.told(one), ["event a 6"]);
    assert_eq!(service.relay.stats.feed.dropped.get(&DropReason::Duplicate), 2);
}

#[test]
fn what_a_stuck_one_owes_the_newer_one_has_brought() {
    let (mut service, one, old) = live(IDS);
    let new = beside(&mut service);
    event(&mut service, new, "a", &[5]);
    service.pass_seconds(10);
    assert_eq!(service.closed, [old]);
    event(&mut service, new, "a", &[6]);
    assert_eq!(service.told(one), ["event a 5", "event a 6"], "5 was held, and entered when it was taken over");
}

#[test]
fn what_a_lost_one_owes_the_candidate_has_brought() {
    let (mut service, one, old) = live(IDS);
    let new = beside(&mut service);
    event(&mut service, new, "a", &[5, 6]);
    event(&mut service, old, "a", &[5]);
    service.input(Input::Disconnected { attempt: old, reason: Disconnect::Reset(String::new()) });
    event(&mut service, new, "a", &[7]);
    let told = service.told(one);
    assert_eq!(
        told.iter().filter(|told| told.starts_with("event")).collect::<Vec<_>>(),
        ["event a 5", "event a 6", "event a 7"],
        "{told:?}"
    );
}

#[test]
fn without_numbers_or_ids_each_channel_is_cut_once_and_told_so() {
    let (mut service, one, old) = live(NOTHING);
    let new = beside(&mut service);
    assert_eq!(service.told(one), ["gap a reconnect", "gap b reconnect"]);
    event(&mut service, old, "a", &[3]);
    event(&mut service, new, "a", &[3, 4]);
    assert_eq!(service.told(one), ["event a 3", "event a 4"], "one of them speaks for the channel");
    overlap(&mut service);
    event(&mut service, new, "a", &[5]);
    assert_eq!((service.told(one), service.closed), (vec!["event a 5".to_owned()], vec![old]));
    assert_eq!(service.relay.stats.feed.dropped.get(&DropReason::Overlap), 1);
}

#[test]
fn a_candidate_that_fails_leaves_the_one_that_serves_alone() {
    let (mut service, one, old) = live(NUMBERS);
    let new = beside(&mut service);
    service.input(Input::Disconnected { attempt: new, reason: Disconnect::Reset(String::new()) });
    event(&mut service, old, "a", &[3]);
    assert_eq!((service.told(one), service.relay.link_word()), (vec!["event a 3".to_owned()], "live"));
    assert!(service.connects.is_empty(), "the next try is backed off");
    service.until_connect();
    assert!(matches!(service.notices[..], [Notice::NotTakenOver { why: "asked", reason: "reset", .. }]));
}

#[test]
fn channels_that_were_cut_to_a_candidate_that_failed_are_cut_back() {
    let (mut service, one, old) = live(NOTHING);
    let new = beside(&mut service);
    service.told(one);
    service.input(Input::Disconnected { attempt: new, reason: Disconnect::Reset(String::new()) });
    event(&mut service, old, "a", &[3]);
    assert_eq!(service.told(one), ["gap a reconnect", "gap b reconnect", "event a 3"]);
}

#[test]
fn what_was_cut_to_the_candidate_is_not_lost_with_the_older_one() {
    let (mut service, one, old) = live(NOTHING);
    let new = beside(&mut service);
    assert_eq!(service.told(one), ["gap a reconnect", "gap b reconnect"]);
    service.input(Input::Disconnected { attempt: old, reason: Disconnect::Reset(String::new()) });
    event(&mut service, new, "a", &[3]);
    assert_eq!(service.told(one), ["event a 3"], "nothing of the older one counted any more");
    service.input(Input::Disconnected { attempt: new, reason: Disconnect::Reset(String::new()) });
    assert_eq!(service.told(one), ["gap a reconnect", "gap b reconnect"], "this one spoke for them");
}

#[test]
fn what_a_candidate_brought_that_failed_is_not_told_once_more() {
    let (mut service, one, old) = live(NUMBERS);
    let new = beside(&mut service);
    event(&mut service, new, "a", &[3, 4]);
    assert_eq!(service.told(one), ["event a 3", "event a 4"], "they follow what is known");
    service.input(Input::Disconnected { attempt: new, reason: Disconnect::Reset(String::new()) });
    event(&mut service, old, "a", &[3, 4, 5]);
    assert_eq!(service.told(one), ["event a 5"]);
}

#[test]
fn a_candidate_takes_the_place_of_one_that_is_lost() {
    let (mut service, one, old) = live(NUMBERS);
    let new = beside(&mut service);
    service.input(Input::Disconnected { attempt: old, reason: Disconnect::Reset(String::new()) });
    assert_eq!((service.relay.link_word(), service.connects.len()), ("live", 0));
    event(&mut service, new, "a", &[3]);
    assert_eq!(service.told(one), ["gap b reconnect", "event a 3"], "only b proves nothing");
    service.attempt = new;
    service.subscribe(one, &["c"]);
    assert_eq!(short(&service.heard()), ["subscribe c"]);
}

#[test]
fn a_candidate_that_is_not_there_yet_becomes_the_next_attempt() {
    let (mut service, one, old) = live(NUMBERS);
    service.relay.rotate_upstream(service.now.mono, Why::Asked);
    service.pass(Duration::ZERO);
    service.input(Input::Disconnected { attempt: old, reason: Disconnect::Reset(String::new()) });
    assert_eq!((service.relay.link_word(), service.connects.len()), ("connecting", 1));
    service.connect();
    assert_eq!(short(&service.ack_all()), ["subscribe a b"]);
    service.pass_seconds(10);
    assert_eq!((service.relay.link_word(), service.connects.len()), ("live", 0));
    event(&mut service, AttemptId(2), "a", &[3]);
    assert_eq!(service.told(one), ["gap b reconnect", "event a 3"]);
}

#[test]
fn messages_in_flight_are_waited_for_and_later_ones_leave_on_the_newer_one() {
    let (mut service, one, old) = live(NUMBERS);
    beside(&mut service);
    for (_, frame) in std::mem::take(&mut service.sent) {
        answer(&mut service, old, &frame);
    }
    service.publish(one, "a", Lane::Medium);
    let first = service.heard().remove(0);
    service.pass_seconds(3);
    assert_eq!(service.closed, [], "upstream has not answered it");
    service.publish(one, "a", Lane::Medium);
    assert_eq!(short(&service.heard()), Vec::<String>::new(), "nothing new leaves on a connection that goes");
    service.say(&json!({"ok": first["id"]}));
    assert_eq!(service.closed, [old]);
    let leaves: Vec<Value> = service
        .aside
        .iter()
        .filter_map(|(_, frame)| match frame {
            WireFrame::Text(text) => serde_json::from_slice(text).ok(),
            _ => None,
        })
        .collect();
    assert_eq!(short(&leaves), ["publish a"]);
    assert_eq!(service.relay.stats.outbox.attempts, 2, "nothing left twice");
}

#[test]
fn a_channel_that_is_refused_to_the_candidate_stays_where_it_is() {
    let (mut service, one, old) = live(NUMBERS);
    service.relay.rotate_upstream(service.now.mono, Why::Asked);
    service.pass(Duration::ZERO);
    service.connect();
    let new = std::mem::replace(&mut service.attempt, old);
    for n in 1..4 {
        service.say_on(new, &json!({"no": n, "why": "one connection may have it"}));
    }
    assert_eq!(service.closed, [new]);
    event(&mut service, old, "a", &[3]);
    assert_eq!(service.told(one), ["event a 3"]);
}

#[test]
fn what_upstream_wants_gone_is_replaced_first_and_given_up_if_that_fails() {
    let (mut service, _, old) = live(NUMBERS);
    service.pass_seconds(10);
    service.say(&json!({"bye": true}));
    service.pass(Duration::ZERO);
    assert_eq!((service.closed.len(), service.connects.len()), (0, 1), "another one first");
    let new = service.connects.pop_front().unwrap();
    service.input(Input::Disconnected { attempt: new, reason: Disconnect::Refused });
    assert_eq!(service.closed, [old]);
    assert_eq!(service.until_connect(), Duration::ZERO, "it was stable");
}

#[test]
fn a_connection_is_replaced_before_the_age_that_the_service_allows() {
    let mut service = ready("[limits]\nage = \"30s\"", |_| {});
    let wait = service.until_connect();
    assert!((24..=27).contains(&wait.as_secs()), "{wait:?}");
}

#[test]
fn where_one_session_is_allowed_the_old_one_goes_first() {
    let mut service = ready("rotate = \"break_before_make\"", |config| config.upstream.stable_for = Duration::ZERO);
    service.pass_seconds(10);
    service.relay.rotate_upstream(service.now.mono, Why::Asked);
    service.pass(Duration::from_millis(600));
    assert_eq!((service.closed.len(), service.connects.len()), (1, 1));
    assert_eq!(service.relay.stats.link.disconnects.get(&"rotated"), 1);
}

#[test]
fn pausing_ends_both() {
    let (mut service, _, old) = live(NUMBERS);
    let new = beside(&mut service);
    service.relay.pause_upstream(service.now);
    service.turn();
    assert_eq!(service.closed, [new, old]);
    service.input(Input::Disconnected { attempt: old, reason: Disconnect::Asked });
    service.pass_seconds(100);
    assert_eq!((service.relay.link_word(), service.connects.len()), ("paused", 0));
}
