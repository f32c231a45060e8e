//! Which message leaves when.

use super::*;

#[test]
fn first_attempts_leave_in_the_order_of_acceptance_up_to_the_window() {
    let mut bench = Bench::new();
    let ids: Vec<MessageId> = (0..6).map(|n| bench.accept(message(&n.to_string()))).collect();
    assert_eq!(bench.send_all(), ids[..4]);
    assert!(!bench.outbox.has_next(false));
    bench.ack(ids[2]);
    assert_eq!(bench.send_all(), ids[4..5], "an answer opens the window, durable or not");
}

#[test]
fn a_message_that_was_shown_and_not_sent_is_shown_again() {
    let mut bench = Bench::new();
    let id = bench.accept(message("1"));
    for _ in 0..3 {
        assert_eq!(bench.outbox.next(bench.now, false).unwrap().id, id);
    }
}

#[test]
fn higher_lanes_leave_first_and_only_the_critical_one_before_subscribes() {
    let mut bench = Bench::new();
    let low = bench.accept(Publish { lane: Lane::Low, ..message("1") });
    let high = bench.accept(Publish { lane: Lane::High, ..message("2") });
    assert_eq!(bench.outbox.next(bench.now, true), None);
    let critical = bench.accept(Publish { lane: Lane::Critical, ..message("3") });
    assert_eq!(bench.outbox.next(bench.now, true).unwrap().id, critical);
    assert_eq!(bench.send_all(), [critical, high, low]);
}

#[test]
fn a_low_lane_is_not_starved() {
    let mut bench = Bench::with(OutboxConfig { window: 100, ..config() });
    let low = bench.accept(Publish { lane: Lane::Low, ..message("low") });
    for n in 0..50 {
        bench.accept(Publish { lane: Lane::Critical, ..message(&n.to_string()) });
    }
    let place = bench.send_all().iter().position(|id| *id == low).unwrap();
    assert_eq!(place, 8);
}

#[test]
fn an_order_key_goes_one_by_one_and_holds_only_itself() {
    let mut bench = Bench::new();
    let a: Vec<MessageId> = (0..3).map(|n| bench.accept(ordered(&n.to_string(), "a", Lane::Medium))).collect();
    let b = bench.accept(ordered("b", "b", Lane::Medium));
    let free = bench.accept(message("free"));
    assert_eq!(bench.send_all(), [a[0], b, free]);
    bench.nack(a[0], Nack { then: Some(Then::Retry), ..Nack::default() });
    assert_eq!(bench.send_all(), [], "a retry holds its key");
    bench.pass(SECOND);
    assert_eq!(bench.send_all(), a[..1]);
    bench.ack(a[0]);
    assert_eq!(bench.send_all(), [], "its end is not durable yet");
    bench.commit();
    assert_eq!(bench.send_all(), a[1..2]);
}

#[test]
fn a_key_moves_in_the_highest_lane_of_its_messages() {
    let mut bench = Bench::with(OutboxConfig { window: 1, ..config() });
    let first = bench.accept(ordered("1", "k", Lane::Low));
    let medium = bench.accept(message("m"));
    let second = bench.accept(ordered("2", "k", Lane::Critical));
    assert_eq!(bench.send(), Some(first), "it stands in the way of a critical one");
    bench.ack(first);
    bench.commit();
    assert_eq!(bench.send(), Some(second));
    bench.ack(second);
    bench.commit();
    assert_eq!(bench.send(), Some(medium));
}

#[test]
fn a_key_goes_back_to_its_lane_when_the_urgent_message_is_cancelled() {
    let mut bench = Bench::new();
    let low = bench.accept(ordered("1", "k", Lane::Low));
    let medium = bench.accept(message("m"));
    let urgent = bench.accept(ordered("2", "k", Lane::Critical));
    bench.outbox.cancel(bench.now, "local", urgent).unwrap();
    bench.commit();
    assert_eq!(bench.send_all(), [medium, low]);
}

#[test]
fn without_a_key_a_retry_holds_nobody() {
    let mut bench = Bench::new();
    let first = bench.accept(message("1"));
    let second = bench.accept(message("2"));
    bench.send();
    bench.nack(first, Nack { then: Some(Then::Retry), ..Nack::default() });
    assert_eq!(bench.send_all(), [second]);
}

#[test]
fn retries_wait_longer_each_time_and_at_least_as_long_as_asked() {
    let mut bench = Bench::with(OutboxConfig { max_attempts: 20, ..config() });
    let id = bench.accept(message("1"));
    let mut longest = Duration::ZERO;
    for failures in 0..10u32 {
        assert_eq!(bench.send(), Some(id));
        bench.nack(id, Nack { then: Some(Then::Retry), ..Nack::default() });
        let wait = bench.outbox.due().unwrap().since(bench.now.mono);
        assert!(wait <= (SECOND * 2u32.pow(failures)).min(60 * SECOND));
        longest = longest.max(wait);
        bench.pass(wait);
    }
    assert!(longest > 10 * SECOND, "it grows");
    bench.send();
    bench.nack(id, Nack { then: None, retry_after: Some(100 * SECOND), ..Nack::default() });
    let shown = bench.state(id);
    assert!(shown["next_retry"].as_str().unwrap() > bench.now.after(100 * SECOND).wall.rfc3339().as_str());
    assert_eq!((&shown["state"], &shown["attempts"]), (&"accepted".into(), &11.into()));
    bench.pass(99 * SECOND);
    assert_eq!(bench.send(), None);
    bench.pass(70 * SECOND);
    assert_eq!(bench.send(), Some(id));
}

#[test]
fn what_must_not_be_sent_twice_leaves_only_when_its_attempt_is_durable() {
    let mut bench = Bench::new();
    let careful = bench.accept(at_most_once("1"));
    let other = bench.accept(message("2"));
    assert_eq!(bench.send(), None, "and those behind it wait, in order");
    let operations = bench.outbox.take_commit(None).unwrap();
    assert_eq!(operations, [Operation::Attempt { sequence: 0, attempts: 1 }]);
    assert_eq!(bench.send(), None);
    bench.outbox.committed(bench.now, &mut bench.stats);
    assert_eq!(bench.send_all(), [careful, other]);
    assert_eq!(bench.outbox.take_commit(None), None, "nothing is committed twice");
}

#[test]
fn another_lane_does_not_wait_for_an_attempt_to_be_durable() {
    let mut bench = Bench::new();
    bench.accept(at_most_once("1"));
    let low = bench.accept(Publish { lane: Lane::Low, ..message("2") });
    assert_eq!(bench.send_all(), [low]);
}

#[test]
fn attempts_are_made_durable_together() {
    let mut bench = Bench::with(OutboxConfig { window: 100, ..config() });
    let ids: Vec<MessageId> = (0..20).map(|n| bench.accept(at_most_once(&n.to_string()))).collect();
    assert_eq!(bench.send(), None);
    assert_eq!(bench.outbox.take_commit(None).unwrap().len(), 8);
    bench.outbox.committed(bench.now, &mut bench.stats);
    assert_eq!(bench.send_all(), ids[..8]);
}

#[test]
fn an_attempt_that_was_made_durable_and_did_not_leave_is_taken_back() {
    let mut bench = Bench::new();
    let id = bench.accept(at_most_once("1"));
    bench.send();
    bench.commit();
    assert_eq!(bench.disk.messages[0].1, 1);
    bench.lose();
    assert_eq!(bench.send(), None, "not until that is durable: else it would leave unrecorded");
    bench.commit();
    assert_eq!(bench.disk.messages[0].1, 0);
    bench.restart();
    bench.send();
    bench.commit();
    assert_eq!(bench.send(), Some(id), "it never left before, so it may now");
}

#[test]
fn a_parked_message_holds_its_key_and_nobody_else() {
    let mut bench = Bench::new();
    let parked = bench.accept(ordered("1", "k", Lane::Medium));
    let behind = bench.accept(ordered("2", "k", Lane::Medium));
    let free = bench.accept(message("3"));
    bench.outbox.park(parked);
    assert_eq!(bench.send_all(), [free]);
    bench.outbox.unpark(parked);
    assert_eq!(bench.send_all(), [parked]);
    bench.outbox.unpark(parked);
    assert_eq!(bench.send_all(), []);
    bench.ack(parked);
    bench.commit();
    bench.outbox.park(behind);
    bench.outbox.reject(bench.now, behind, "upstream_refused");
    assert_eq!(bench.ends(), [(behind, OutcomeState::Rejected, "upstream_refused".to_owned())]);
}

#[test]
fn undelivered_messages_are_sent_in_order_after_a_restart() {
    let mut bench = Bench::new();
    let ids: Vec<MessageId> = (0..4).map(|n| bench.accept(ordered(&n.to_string(), "k", Lane::Medium))).collect();
    bench.send();
    bench.restart();
    assert_eq!((bench.stats.restored, bench.stats.lane(Lane::Medium).depth), (4, 4));
    for id in ids {
        assert_eq!(bench.send_all(), [id]);
        bench.ack(id);
        bench.commit();
    }
    assert_eq!(bench.stats.conservation_error(), 0);
}

fn many(bench: &mut Bench, count: usize, of: impl Fn(&str) -> Publish) -> Vec<MessageId> {
    (0..count).map(|n| bench.accept(of(&n.to_string()))).collect()
}

#[test]
fn those_that_are_never_answered_leave_half_of_the_window_to_those_not_tried_yet() {
    let mut bench = Bench::new();
    let silent = many(&mut bench, 4, message);
    assert_eq!(bench.send_all(), silent);
    let others = many(&mut bench, 6, message);
    bench.pass(80 * SECOND);
    assert_eq!(bench.send_all(), [silent[0], silent[1], others[0], others[1]]);
    for n in 0..4 {
        bench.ack(others[n]);
        assert_eq!(bench.send_all(), [others[n + 2]], "half is taken");
    }
    bench.ack(others[4]);
    assert_eq!(bench.send_all(), [silent[2]], "nobody else waits any more");
    bench.ack(silent[0]);
    assert_eq!(bench.send_all(), [silent[3]]);
    bench.ack(others[5]);
    let late = bench.accept(message("late"));
    assert_eq!(bench.send_all(), [late]);
}

#[test]
fn those_that_are_never_answered_leave_a_part_of_the_window_to_those_to_come() {
    let mut bench = Bench::with(OutboxConfig { window: 16, ..config() });
    let silent = many(&mut bench, 20, message);
    assert_eq!(bench.send_all(), silent[..16], "nobody knows yet that they are not answered");
    bench.pass(80 * SECOND);
    assert_eq!(bench.send_all().len(), 16, "half, the four that were not tried yet, and four more of the others");
    bench.pass(80 * SECOND);
    assert_eq!(bench.send_all().len(), 14, "an eighth stays free, though nobody waits");
    for n in 0..4 {
        let late = bench.accept(message(&n.to_string()));
        assert_eq!(bench.send_all(), [late], "at once");
        bench.ack(late);
    }
    let repeated = silent.iter().find(|id| bench.outbox.state_text(**id) == "in_flight").copied().unwrap();
    bench.ack(repeated);
    assert_eq!(bench.send_all().len(), 1, "one of those tried, for the one that was answered");
}

#[test]
fn what_was_in_flight_goes_again_at_once_and_lets_others_go_beside_it() {
    for restart in [false, true] {
        let mut bench = Bench::new();
        let unknown = many(&mut bench, 4, message);
        let others = many(&mut bench, 4, message);
        assert_eq!(bench.send_all(), unknown);
        bench.outbox.note_in_flight();
        bench.commit();
        if restart {
            bench.restart()
        } else {
            bench.lose()
        }
        assert_eq!(bench.send_all(), [unknown[0], unknown[1], others[0], others[1]], "{restart}");
        bench.ack(unknown[1]);
        assert_eq!(bench.send_all(), unknown[2..3], "as soon as one of them is answered, in their order");
        bench.ack(others[1]);
        assert_eq!(bench.send_all(), others[2..3]);
    }
}

#[test]
fn in_a_window_of_one_what_was_tried_still_leaves() {
    let mut bench = Bench::with(OutboxConfig { window: 1, ..config() });
    let (first, second) = (bench.accept(message("1")), bench.accept(message("2")));
    assert_eq!(bench.send_all(), [first]);
    bench.lose();
    assert_eq!(bench.send_all(), [first]);
    bench.ack(first);
    assert_eq!(bench.send_all(), [second]);
}

#[test]
fn urgent_ones_that_are_never_answered_leave_room_for_low_ones_and_go_before_low_ones_tried_before() {
    let mut bench = Bench::new();
    let low = many(&mut bench, 2, |data| Publish { lane: Lane::Low, ..message(data) });
    let critical = many(&mut bench, 2, |data| ordered(data, data, Lane::Critical));
    assert_eq!(bench.send_all(), [&critical[..], &low].concat());
    bench.lose();
    let untried = many(&mut bench, 3, |data| Publish { lane: Lane::Low, ..message(data) });
    assert_eq!(bench.outbox.next(bench.now, true).unwrap().id, critical[0]);
    assert_eq!(bench.send_all(), [&critical[..], &untried[..2]].concat());
    bench.ack(untried[0]);
    assert_eq!((bench.outbox.next(bench.now, true), bench.send_all()), (None, untried[2..].to_vec()));
    bench.ack(untried[1]);
    assert_eq!(bench.send_all(), low[..1]);
}

#[test]
fn a_key_that_is_tried_again_is_not_overtaken_by_itself() {
    let mut bench = Bench::with(OutboxConfig { window: 2, ..config() });
    let keys = [0, 1].map(|key| many(&mut bench, 2, |data| ordered(data, &key.to_string(), Lane::Medium)));
    assert_eq!(bench.send_all(), [keys[0][0], keys[1][0]]);
    bench.lose();
    let other = bench.accept(message("other"));
    assert_eq!(bench.send_all(), [keys[0][0], other]);
    bench.ack(other);
    assert_eq!(bench.send_all(), [keys[1][0]], "what comes after it in its key does not wait for room");
}

#[test]
fn no_more_attempts_are_made_durable_than_may_leave() {
    let mut bench = Bench::new();
    let careful = many(&mut bench, 4, at_most_once);
    bench.send();
    bench.commit();
    assert_eq!(bench.send_all(), careful);
    careful.iter().for_each(|id| bench.nack(*id, Nack { then: Some(Then::Retry), ..Nack::default() }));
    bench.pass(SECOND);
    let others = many(&mut bench, 4, message);
    assert_eq!(bench.send(), None);
    assert_eq!(bench.outbox.take_commit(None).unwrap().len(), 2);
    bench.outbox.committed(bench.now, &mut bench.stats);
    assert_eq!(bench.send_all(), [careful[0], careful[1], others[0], others[1]]);
}

#[test]
fn less_is_in_flight_while_upstream_asks_for_pauses() {
    let mut bench = Bench::new();
    let ids: Vec<MessageId> = (0..40).map(|n| bench.accept(message(&n.to_string()))).collect();
    assert_eq!(bench.send_all(), ids[..4], "the window of the configuration");
    let pause = Nack { then: Some(Then::Pause(SECOND)), ..Nack::default() };
    bench.nack(ids[0], pause);
    bench.nack(ids[1], pause);
    assert_eq!((bench.outbox.window(), bench.send_all()), (2, vec![]), "two are in flight still");
    bench.ack(ids[2]);
    bench.ack(ids[3]);
    assert_eq!((bench.outbox.window(), bench.send_all().len()), (3, 3), "upstream takes them again");
    bench.pass(10 * SECOND);
    assert_eq!(bench.outbox.window(), 3, "what is never answered says nothing about the others");
    bench.outbox.gauges(&mut bench.stats);
    assert_eq!(bench.stats.window, 3);
}

#[test]
fn an_error_of_one_message_says_nothing_about_the_others() {
    let mut bench = Bench::new();
    let ids: Vec<MessageId> = (0..4).map(|n| bench.accept(message(&n.to_string()))).collect();
    bench.send_all();
    bench.nack(ids[0], Nack { then: Some(Then::Retry), ..Nack::default() });
    bench.nack(ids[1], Nack { then: Some(Then::Reject), ..Nack::default() });
    assert_eq!(bench.outbox.window(), 4);
}
