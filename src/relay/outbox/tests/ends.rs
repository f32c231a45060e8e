//! How messages end.

use super::*;
use crate::protocol::codes::ErrorCode;

use OutcomeState::{DeadLettered, Delivered, Expired, Rejected};

fn end(id: MessageId, state: OutcomeState, reason: &str) -> (MessageId, OutcomeState, String) {
    (id, state, reason.to_owned())
}

#[test]
fn an_end_is_durable_before_it_is_told_and_told_to_its_publishers() {
    let mut bench = Bench::new();
    let id = bench.accept(keyed("1", "k"));
    let from = Publisher { principal: &Arc::from("local"), session: Some(session(2)), redrive_of: None };
    bench.outbox.admit(bench.now, from, vec![keyed("1", "k")], &mut bench.rng, &mut bench.stats).unwrap();
    bench.send();
    bench.outbox.acked(bench.now, id, Confirm::Ack, Some("{\"ok\":1.0}"), &mut bench.stats);
    assert_eq!(bench.state(id)["state"], "accepted");
    let operations = bench.outbox.take_commit(None).unwrap();
    assert!(matches!(&operations[..], [Operation::Settle { sequence: 0, .. }]));
    let durable = bench.outbox.committed(bench.now, &mut bench.stats);
    let [Durable::Settled { outcome, publishers }] = &durable[..] else { panic!("{durable:?}") };
    assert_eq!(outcome.outcome, Outcome::delivered(Confirm::Ack, Some("{\"ok\":1.0}".into())));
    assert_eq!((outcome.attempts, &publishers[..]), (1, &[session(1), session(2)][..]));
    let shown = bench.state(id);
    assert_eq!((&shown["state"], &shown["confirmed_by"]), (&"delivered".into(), &"ack".into()));
    assert_eq!(bench.stats.outcomes.get(&Delivered), 1);
    assert_eq!(bench.stats.lane(Lane::Medium).depth, 0);
}

#[test]
fn upstreams_refusal_is_final_unless_it_says_otherwise() {
    let mut bench = Bench::new();
    let ids: Vec<MessageId> = (0..3).map(|n| bench.accept(message(&n.to_string()))).collect();
    bench.send_all();
    bench.nack(ids[0], Nack { then: Some(Then::Reject), code: "E9", text: "no \"funds\"", ..Nack::default() });
    bench.nack(ids[1], Nack::default());
    bench.nack(ids[2], Nack { then: Some(Then::Pause(5 * SECOND)), ..Nack::default() });
    assert_eq!(bench.ends(), [end(ids[0], Rejected, "E9"), end(ids[1], Rejected, "refused")]);
    assert_eq!(bench.state(ids[0])["reply"], "no \"funds\"");
    assert!(bench.outbox.due().unwrap().since(bench.now.mono) >= 5 * SECOND);
    assert_eq!(bench.stats.nacks, 3);
}

#[test]
fn attempts_end_in_a_dead_letter() {
    let mut bench = Bench::new();
    let id = bench.accept(message("1"));
    for _ in 0..3 {
        assert_eq!(bench.send(), Some(id));
        assert_eq!(bench.ends(), []);
        bench.pass(10 * SECOND + 60 * SECOND);
    }
    assert_eq!(bench.ends(), [end(id, DeadLettered, "max_attempts")]);
    assert_eq!((bench.stats.attempts, bench.stats.retries, bench.stats.ack_timeouts), (3, 2, 3));
}

#[test]
fn what_cannot_be_made_into_a_frame_does_not_try_for_ever() {
    let mut bench = Bench::new();
    let id = bench.accept(message("1"));
    for _ in 0..3 {
        assert_eq!(bench.outbox.next(bench.now, false).unwrap().id, id);
        bench.outbox.postpone(bench.now, id, &mut bench.rng, &mut bench.stats);
        assert_eq!(bench.send(), None);
        bench.pass(60 * SECOND);
    }
    assert_eq!(bench.ends(), [end(id, DeadLettered, "max_attempts")]);
    assert_eq!(bench.stats.attempts, 0);
}

#[test]
fn an_unanswered_attempt_is_repeated_or_given_up_as_the_publisher_chose() {
    for lose in [true, false] {
        let mut bench = Bench::new();
        let again = bench.accept(message("1"));
        let once = bench.accept(at_most_once("2"));
        bench.send_all();
        bench.commit();
        assert_eq!(bench.send_all(), [once]);
        if lose {
            bench.lose()
        } else {
            bench.pass(10 * SECOND)
        }
        assert_eq!(bench.ends(), [end(once, DeadLettered, "outcome_unknown")]);
        bench.pass(SECOND);
        assert_eq!(bench.send_all(), [again], "the same message again");
    }
}

#[test]
fn after_a_lost_connection_messages_go_again_at_once() {
    let mut bench = Bench::new();
    let ids: Vec<MessageId> = (0..4).map(|n| bench.accept(ordered(&n.to_string(), "k", Lane::Medium))).collect();
    bench.send_all();
    bench.lose();
    assert_eq!(bench.send_all(), ids[..1], "the head of its key");
}

#[test]
fn a_crash_after_the_attempt_was_durable_ends_it() {
    let mut bench = Bench::new();
    let once = bench.accept(Publish { idempotency_key: Some("k".into()), ..at_most_once("1") });
    let again = bench.accept(message("2"));
    bench.send();
    bench.commit();
    assert_eq!(bench.send_all(), [once, again]);
    bench.restart();
    assert_eq!(bench.outbox.state_text(once), "accepted", "told only when durable");
    assert_eq!(bench.ends(), [end(once, DeadLettered, "outcome_unknown")]);
    assert_eq!(bench.send_all(), [again]);
    assert_eq!(bench.disk.outcomes[0].attempts, 1);
    assert!(matches!(
        bench.publish(Publish { idempotency_key: Some("k".into()), ..at_most_once("1") }),
        Ok(Admitted::Known(_))
    ));
    assert_eq!(bench.stats.conservation_error(), 0);
}

#[test]
fn the_first_answer_wins_and_late_ones_are_counted() {
    let mut bench = Bench::new();
    let id = bench.accept(message("1"));
    bench.send();
    bench.pass(10 * SECOND);
    bench.ack(id);
    assert_eq!(bench.stats.late_acks, 1, "late, but it is the truth");
    bench.nack(id, Nack { then: Some(Then::Reject), ..Nack::default() });
    assert_eq!(bench.ends(), [end(id, Delivered, "")]);
    bench.pass(100 * SECOND);
    assert_eq!(bench.send(), None);
    bench.ack(id);
    assert_eq!((bench.stats.late_acks, bench.stats.nacks), (3, 0));
}

#[test]
fn an_answer_to_what_was_never_sent_is_no_answer() {
    let mut bench = Bench::new();
    let id = bench.accept(message("1"));
    let accepting = bench.publish(message("2")).unwrap().id();
    for stranger in [id, accepting, MessageId(1)] {
        bench.ack(stranger);
        bench.nack(stranger, Nack::default());
    }
    assert_eq!((bench.stats.unknown_acks, bench.ends()), (6, vec![]));
}

#[test]
fn what_has_no_answer_is_delivered_once_written() {
    let mut bench = Bench::new();
    let id = bench.accept(message("1"));
    bench.outbox.sent(bench.now, id, Confirm::Written, &mut bench.stats);
    let acked = bench.accept(message("2"));
    bench.send();
    bench.pass(3600 * SECOND);
    assert_eq!(bench.stats.ack_timeouts, 1, "only of the one that is answered");
    bench.outbox.written(bench.now, &[id, acked], &mut bench.stats);
    assert_eq!(bench.ends(), [end(id, Delivered, "")]);
    assert_eq!(bench.state(id)["confirmed_by"], "written");
}

#[test]
fn a_barrier_proves_what_left_before_it_and_nothing_later() {
    let mut bench = Bench::new();
    let first = bench.accept(message("1"));
    let second = bench.accept(message("2"));
    assert!(!bench.outbox.wants_barrier());
    bench.outbox.sent(bench.now, first, Confirm::Barrier, &mut bench.stats);
    assert!(bench.outbox.wants_barrier());
    bench.outbox.barrier_sent();
    bench.outbox.sent(bench.now, second, Confirm::Echo, &mut bench.stats);
    assert!(!bench.outbox.wants_barrier(), "one is out");
    bench.outbox.barrier_passed(bench.now, &mut bench.stats);
    assert_eq!(bench.ends(), [end(first, Delivered, "")]);
    assert_eq!(bench.state(first)["confirmed_by"], "barrier");
    bench.outbox.barrier_passed(bench.now, &mut bench.stats);
    assert_eq!(bench.ends(), []);
    bench.outbox.barrier_sent();
    bench.lose();
    bench.outbox.barrier_passed(bench.now, &mut bench.stats);
    assert_eq!(bench.ends(), [], "a barrier of a lost connection proves nothing");
}

#[test]
fn a_message_expires_before_an_attempt_never_during_one() {
    let mut bench = Bench::with(OutboxConfig { ttl: Some(5 * SECOND), ..config() });
    let waits = bench.accept(Publish { ttl: Some(20 * SECOND), ..message("1") });
    let leaves = bench.accept(message("2"));
    bench.outbox.park(waits);
    assert_eq!(bench.send_all(), [leaves]);
    bench.pass(6 * SECOND);
    assert_eq!(bench.ends(), [], "in flight it does not expire");
    bench.ack(leaves);
    assert_eq!(bench.ends(), [end(leaves, Delivered, "")]);
    bench.pass(14 * SECOND);
    assert_eq!(bench.ends(), [end(waits, Expired, "ttl")]);
}

#[test]
fn time_that_ran_out_in_flight_ends_an_unanswered_or_retried_message() {
    let mut bench = Bench::new();
    let ttl = Some(5 * SECOND);
    let unanswered = bench.accept(Publish { ttl, ..message("1") });
    let refused = bench.accept(Publish { ttl, ..message("2") });
    let once = bench.accept(Publish { ttl, ..at_most_once("3") });
    bench.send_all();
    bench.commit();
    bench.send_all();
    bench.pass(6 * SECOND);
    bench.nack(refused, Nack { then: Some(Then::Retry), ..Nack::default() });
    bench.pass(MS);
    assert_eq!(bench.ends(), [end(refused, Expired, "ttl")]);
    bench.pass(10 * SECOND);
    let unknown = "outcome_unknown";
    assert_eq!(bench.ends(), [end(unanswered, Expired, unknown), end(once, DeadLettered, unknown)]);
}

#[test]
fn a_message_that_waits_for_its_turn_is_checked_before_it_leaves() {
    let mut bench = Bench::new();
    let stale = bench.accept(Publish { ttl: Some(SECOND), ..message("1") });
    let fresh = bench.accept(message("2"));
    bench.now = bench.now.after(SECOND);
    assert_eq!(bench.send_all(), [fresh]);
    assert_eq!(bench.ends(), [end(stale, Expired, "ttl")]);
}

#[test]
fn what_the_relay_refuses_after_an_attempt_that_was_not_answered_is_unknown() {
    let mut bench = Bench::new();
    let ids: Vec<MessageId> = (0..3).map(|n| bench.accept(message(&n.to_string()))).collect();
    bench.send();
    bench.lose();
    bench.send_all();
    bench.nack(ids[0], Nack { then: Some(Then::Retry), ..Nack::default() });
    bench.nack(ids[1], Nack { then: Some(Then::Retry), ..Nack::default() });
    bench.nack(ids[2], Nack { then: Some(Then::Retry), ..Nack::default() });
    bench.pass(SECOND);
    bench.outbox.park(ids[0]);
    ids.iter().for_each(|id| bench.outbox.reject(bench.now, *id, "too_large"));
    let unknown = end(ids[0], Rejected, "outcome_unknown");
    assert_eq!(bench.ends(), [unknown, end(ids[1], Rejected, "too_large"), end(ids[2], Rejected, "too_large")]);
}

#[test]
fn what_upstream_closes_over_is_rejected_unless_it_may_have_arrived_before() {
    let mut bench = Bench::new();
    let small = bench.accept(message("1"));
    let large = bench.accept(message("22222"));
    bench.send_all();
    bench.outbox.reject_largest(bench.now, "too_large");
    bench.lose();
    assert_eq!(bench.ends(), [end(large, Rejected, "too_large")]);
    assert_eq!((bench.send_all(), bench.stats.retries), (vec![small], 1));
    bench.outbox.reject_largest(bench.now, "too_large");
    bench.lose();
    assert_eq!(bench.ends(), [end(small, Rejected, "outcome_unknown")]);
    let once = bench.accept(at_most_once("3"));
    bench.send();
    bench.commit();
    bench.send();
    bench.outbox.reject_largest(bench.now, "too_large");
    bench.lose();
    assert_eq!(bench.ends(), [end(once, DeadLettered, "outcome_unknown")], "it is a guess which one it was");
    bench.outbox.reject_largest(bench.now, "too_large");
    assert_eq!(bench.ends(), []);
}

#[test]
fn a_clock_that_jumps_expires_nothing_until_it_is_confirmed() {
    let mut bench = Bench::new();
    let id = bench.accept(Publish { ttl: Some(600 * SECOND), ..message("1") });
    bench.outbox.park(id);
    bench.now.wall = bench.now.wall + 3600 * SECOND;
    bench.outbox.timeout(bench.now, &mut bench.rng, &mut bench.stats);
    bench.pass(299 * SECOND);
    assert_eq!(bench.ends(), []);
    bench.outbox.gauges(&mut bench.stats);
    assert_eq!(bench.stats.clock_jumps, 1);
    bench.pass(SECOND);
    assert_eq!(bench.ends(), [end(id, Expired, "ttl")]);
}

#[test]
fn cancelling_works_unless_it_is_in_flight_and_only_for_its_principal() {
    let mut bench = Bench::new();
    let first = bench.accept(message("1"));
    let second = bench.accept(message("2"));
    let refused =
        |bench: &mut Bench, principal: &str, id| bench.outbox.cancel(bench.now, principal, id).unwrap_err().code;
    assert_eq!(refused(&mut bench, "other", first), ErrorCode::NotFound);
    assert_eq!(refused(&mut bench, "local", MessageId(5)), ErrorCode::NotFound);
    bench.send();
    assert_eq!(refused(&mut bench, "local", first), ErrorCode::Conflict);
    bench.outbox.cancel(bench.now, "local", second).unwrap();
    assert_eq!(refused(&mut bench, "local", second), ErrorCode::Conflict);
    assert_eq!(bench.send(), None);
    assert_eq!(bench.ends(), [end(second, Rejected, "cancelled")]);
    assert_eq!(refused(&mut bench, "local", second), ErrorCode::Conflict);
    assert_eq!(refused(&mut bench, "other", second), ErrorCode::NotFound);
    assert_eq!(bench.outbox.message_state(bench.now, "other", second), None);
    assert_eq!(bench.outbox.message_state(bench.now, "other", first), None);
}

#[test]
fn a_large_answer_is_left_out() {
    let mut bench = Bench::new();
    let id = bench.accept(message("1"));
    bench.send();
    bench.outbox.acked(bench.now, id, Confirm::Ack, Some(&format!("\"{}\"", "x".repeat(5000))), &mut bench.stats);
    bench.commit();
    assert!(bench.state(id).get("reply").is_none());
    let refused = bench.accept(message("2"));
    bench.send();
    bench.nack(refused, Nack { code: &"é".repeat(200), ..Nack::default() });
    assert_eq!(bench.ends()[0].2.len(), 256);
}

#[test]
fn a_message_that_coalesces_replaces_what_waits_for_the_same_once_it_is_durable() {
    for in_memory in [1, 1000] {
        let mut bench = Bench::with(OutboxConfig { in_memory, ..config() });
        let of = |data: &str| ordered(data, "a", Lane::Medium);
        let first = bench.accept(of("1"));
        assert_eq!(bench.send(), Some(first));
        let replaced = [bench.accept(of("2")), bench.accept(Publish { lane: Lane::High, ..of("3") })];
        // Of another key, another order key, another principal: not the same.
        let item = bench.accept(Publish { key: Some("x".into()), ..of("4") });
        let elsewhere = bench.accept(ordered("5", "b", Lane::Low));
        let theirs = bench.publish_by("other", vec![of("6")]).unwrap()[0].id();
        bench.commit();
        bench.restart();
        bench.lose();

        let newest = bench.publish(Publish { coalesce: true, ..of("7") }).unwrap().id();
        assert_eq!(bench.state(replaced[0])["state"], "accepted", "not before the new one is durable");
        let mut ends = bench.ends();
        ends.sort();
        assert_eq!(ends, [first, replaced[0], replaced[1]].map(|id| end(id, Rejected, "superseded")), "{in_memory}");
        let mut left = Vec::new();
        while let Some(id) = bench.send() {
            bench.ack(id);
            bench.commit();
            left.push(id);
        }
        assert!(left.contains(&elsewhere));
        left.retain(|id| *id != elsewhere);
        assert_eq!(left, [item, theirs, newest], "{in_memory}");
    }
}

#[test]
fn what_is_in_flight_is_not_replaced_and_goes_first() {
    let mut bench = Bench::new();
    let newest = |data: &str| Publish { coalesce: true, ..ordered(data, "a", Lane::Medium) };
    let first = bench.accept(newest("1"));
    bench.send();
    let second = bench.accept(newest("2"));
    assert_eq!(bench.ends(), []);
    let third = bench.accept(newest("3"));
    assert_eq!(bench.send(), None, "the key has one in flight");
    bench.ack(first);
    assert_eq!(bench.state(second)["reason"], "superseded");
    bench.commit();
    assert_eq!(bench.send_all(), [third]);
}
