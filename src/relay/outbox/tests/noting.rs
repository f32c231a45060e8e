//! What the store knows of attempts: nothing ends as never sent that upstream may have, also after a restart.

use super::*;
use crate::relay::outbox::departure::NOTE_AFTER;

use OutcomeState::{DeadLettered, Delivered, Expired, Rejected};

const UNKNOWN: &str = "outcome_unknown";

/// What the disk knows of the message's attempts.
fn on_disk(bench: &Bench, id: MessageId) -> u32 {
    bench.disk.messages.iter().find(|(message, _)| message.id == id).expect("it has not ended").1
}

fn end(id: MessageId, state: OutcomeState, reason: &str) -> (MessageId, OutcomeState, String) {
    (id, state, reason.to_owned())
}

/// A message with a time to live of which an attempt was lost.
fn lost(bench: &mut Bench) -> MessageId {
    let id = bench.accept(Publish { ttl: Some(5 * SECOND), ..message("1") });
    assert_eq!(bench.send(), Some(id));
    bench.lose();
    id
}

#[test]
fn a_quick_answer_costs_no_operation_of_its_own() {
    let mut bench = Bench::new();
    let [acked, refused] = ["1", "2"].map(|data| bench.accept(message(data)));
    bench.send_all();
    bench.pass(NOTE_AFTER - MS);
    bench.ack(acked);
    bench.nack(refused, Nack { then: Some(Then::Retry), retry_after: Some(SECOND), ..Nack::default() });
    bench.pass(NOTE_AFTER);
    let operations = bench.outbox.take_commit(None).unwrap();
    assert!(matches!(&operations[..], [Operation::Settle { sequence: 0, .. }]), "{operations:?}");
}

#[test]
fn an_attempt_that_stays_unanswered_is_noted_once_and_nothing_waits_for_it() {
    let mut bench = Bench::new();
    let id = bench.accept(message("1"));
    let written = bench.accept(message("2"));
    bench.send();
    bench.outbox.sent(bench.now, written, Confirm::Written, &mut bench.stats);
    bench.pass(NOTE_AFTER - MS);
    assert_eq!(bench.outbox.take_commit(None), None);
    bench.pass(MS);
    let noted = [0, 1].map(|sequence| Operation::Attempt { sequence, attempts: 1 });
    assert_eq!(bench.outbox.take_commit(None).unwrap(), noted);
    assert_eq!(bench.outbox.in_flight(), 2);
    bench.ack(id);
    bench.outbox.written(bench.now, &[written], &mut bench.stats);
    bench.outbox.committed(bench.now, &mut bench.stats);
    assert_eq!(bench.ends(), [end(id, Delivered, ""), end(written, Delivered, "")]);
    bench.pass(100 * SECOND);
    assert_eq!((bench.outbox.take_commit(None), bench.stats.ack_timeouts), (None, 0));
}

#[test]
fn the_answer_is_overdue_when_it_was_also_after_the_attempt_was_noted() {
    for ack_timeout in [10 * SECOND, NOTE_AFTER, MS] {
        let mut bench = Bench::with(OutboxConfig { ack_timeout, ..config() });
        let id = bench.accept(message("1"));
        bench.send();
        bench.pass(ack_timeout - Duration::from_nanos(1));
        assert_eq!(bench.stats.ack_timeouts, 0);
        bench.pass(Duration::from_nanos(1));
        assert_eq!(bench.stats.ack_timeouts, 1);
        bench.commit();
        assert_eq!(on_disk(&bench, id), 1);
    }
}

#[test]
fn after_a_restart_a_lost_attempt_is_known() {
    let mut bench = Bench::new();
    let id = lost(&mut bench);
    assert_eq!(bench.ends(), []);
    bench.restart();
    assert_eq!(bench.state(id)["attempts"], 1);
    bench.pass(5 * SECOND);
    assert_eq!(bench.ends(), [end(id, Expired, UNKNOWN)]);
    assert_eq!(bench.state(id)["attempts"], 1);
}

#[test]
fn after_a_restart_an_attempt_that_was_in_flight_is_known() {
    for stops in [false, true] {
        let mut bench = Bench::new();
        let id = bench.accept(Publish { ttl: Some(5 * SECOND), ..message("1") });
        bench.send();
        match stops {
            true => bench.outbox.note_in_flight(),
            false => bench.pass(NOTE_AFTER),
        }
        assert_eq!(bench.ends(), []);
        bench.restart();
        bench.pass(5 * SECOND);
        assert_eq!(bench.ends(), [end(id, Expired, UNKNOWN)], "{stops}");
    }
}

#[test]
fn a_message_that_was_sent_is_withdrawn_as_unknown() {
    for restarts in [false, true] {
        let mut bench = Bench::new();
        let id = lost(&mut bench);
        let waits = bench.accept(message("2"));
        if restarts {
            bench.restart();
            bench.state(id);
            bench.state(waits);
        }
        bench.outbox.cancel(bench.now, "local", id).unwrap();
        bench.outbox.cancel(bench.now, "local", waits).unwrap();
        assert_eq!(bench.ends(), [end(id, Rejected, UNKNOWN), end(waits, Rejected, "cancelled")], "{restarts}");
    }
}

#[test]
fn a_message_that_was_sent_is_replaced_as_unknown() {
    for restarts in [false, true] {
        let mut bench = Bench::new();
        let of = |data: &str| ordered(data, "a", Lane::Medium);
        let [sent, waits] = ["1", "2"].map(|data| bench.accept(of(data)));
        assert_eq!(bench.send_all(), [sent]);
        bench.lose();
        bench.commit();
        if restarts {
            bench.restart();
        }
        let newest = bench.accept(Publish { coalesce: true, ..of("3") });
        bench.commit();
        let kept: Vec<_> = bench.disk.outcomes.iter().map(|kept| (kept.id, kept.outcome.reason.to_string())).collect();
        assert_eq!(kept, [(sent, UNKNOWN.to_owned()), (waits, "superseded".to_owned())], "{restarts}");
        assert_eq!(bench.send_all(), [newest]);
    }
}

#[test]
fn a_refused_attempt_is_known_not_to_have_arrived() {
    let mut bench = Bench::new();
    let id = bench.accept(message("1"));
    bench.send();
    bench.pass(2 * NOTE_AFTER);
    bench.nack(id, Nack { then: Some(Then::Retry), ..Nack::default() });
    bench.outbox.cancel(bench.now, "local", id).unwrap();
    assert_eq!(bench.ends(), [end(id, Rejected, "cancelled")]);
}

#[test]
fn attempts_count_over_restarts() {
    let mut bench = Bench::new();
    let id = bench.accept(message("1"));
    for attempt in 1..=3 {
        assert_eq!(bench.send(), Some(id), "attempt {attempt}");
        if attempt == 2 {
            bench.lose();
        } else {
            bench.pass(NOTE_AFTER);
        }
        bench.commit();
        assert_eq!(on_disk(&bench, id), attempt);
        bench.restart();
    }
    assert_eq!(bench.send(), None);
    assert_eq!(bench.ends(), [end(id, DeadLettered, "max_attempts")]);
    assert_eq!((bench.state(id)["attempts"].clone(), bench.stats.conservation_error()), (3.into(), 0));
    assert!(bench.outbox.letter(id).is_ok(), "it can be published again");
}

#[test]
fn nothing_is_noted_after_the_store_failed() {
    let mut bench = Bench::new();
    bench.accept(message("1"));
    bench.send();
    bench.outbox.commit_failed("no space", &mut bench.stats);
    bench.outbox.note_in_flight();
    bench.lose();
    assert_eq!(bench.outbox.take_commit(None), None);
}
