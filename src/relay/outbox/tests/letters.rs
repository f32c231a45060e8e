//! Dead letters: kept whole, published again once, purged.

use super::*;
use crate::protocol::codes::ErrorCode;

/// A message that ends dead-lettered because nobody knows what became of it.
fn dead(bench: &mut Bench, publish: Publish) -> MessageId {
    let id = bench.accept(Publish { on_unknown: Some(OnUnknown::DeadLetter), ..publish });
    assert_eq!(bench.send(), None, "its attempt is to be durable first");
    bench.commit();
    assert_eq!(bench.send(), Some(id));
    bench.lose();
    assert_eq!(bench.ends(), [(id, OutcomeState::DeadLettered, "outcome_unknown".to_owned())]);
    id
}

fn shown(bench: &mut Bench, id: MessageId) -> serde_json::Value {
    bench.look_up(id);
    serde_json::from_slice(&bench.outbox.letter_shown(id, str::to_owned).expect("a dead letter")).unwrap()
}

fn again(bench: &mut Bench, id: MessageId, data: &str) -> Result<MessageId, Refusal> {
    bench.look_up(id);
    bench.outbox.redrive(bench.now, id, message(data), &mut bench.rng, &mut bench.stats)
}

#[test]
fn a_dead_letter_is_kept_whole_beyond_the_time_of_outcomes_and_over_a_restart() {
    let mut bench = Bench::new();
    let id = dead(&mut bench, Publish { order_key: Some("a".into()), ..keyed("{\"n\":1.10}", "k") });
    bench.pass(100 * 3600 * SECOND);
    bench.restart();
    let letter = shown(&mut bench, id);
    assert_eq!((&letter["reason"], &letter["attempts"]), (&"outcome_unknown".into(), &1.into()));
    assert_eq!(letter["history"][0]["reason"], "unanswered: connection_lost");
    assert_eq!(letter["publish"]["order_key"], "a");
    let text = String::from_utf8(bench.outbox.letter_shown(id, str::to_owned).unwrap()).unwrap();
    assert!(text.contains("{\"n\":1.10}"), "payload bytes stay as they are: {text}");
    let list: serde_json::Value = serde_json::from_slice(&bench.outbox.letters_listing(None, 10)).unwrap();
    assert_eq!((&list["count"], &list["dead_letters"][0]["message"]), (&1.into(), &id.to_string().into()));
}

fn history(bench: &mut Bench, id: MessageId) -> Vec<String> {
    let letter = shown(bench, id);
    let reason = |failure: &serde_json::Value| failure["reason"].as_str().unwrap().to_owned();
    letter["history"].as_array().unwrap().iter().map(reason).collect()
}

#[test]
fn its_history_says_what_was_answered_and_what_was_not() {
    let mut bench = Bench::with(OutboxConfig { max_attempts: 5, ..config() });
    let id = bench.accept(message("1"));
    bench.send();
    bench.pass(80 * SECOND);
    bench.send();
    bench.nack(id, Nack { then: Some(Then::Retry), code: "ack_timeout", ..Nack::default() });
    bench.pass(80 * SECOND);
    bench.send();
    bench.nack(id, Nack { then: Some(Then::Retry), ..Nack::default() });
    bench.pass(80 * SECOND);
    bench.outbox.postpone(bench.now, id, &mut bench.rng, &mut bench.stats);
    bench.pass(80 * SECOND);
    bench.send();
    bench.lose();
    assert_eq!(bench.ends().len(), 1);
    let told = [
        "unanswered: ack_timeout",
        "refused: ack_timeout",
        "refused",
        "not_sendable_yet",
        "unanswered: connection_lost",
    ];
    assert_eq!(history(&mut bench, id), told);
}

#[test]
fn its_history_names_the_attempts_of_an_earlier_run() {
    let mut bench = Bench::new();
    let again = bench.accept(message("1"));
    assert_eq!(bench.send_all(), [again]);
    bench.lose();
    assert_eq!(bench.send_all(), [again]);
    let once = bench.accept(at_most_once("2"));
    bench.send();
    bench.outbox.note_in_flight();
    bench.commit();
    assert_eq!(bench.send_all(), [once]);
    bench.now = bench.now.after(SECOND);
    bench.restart();
    bench.commit();
    assert_eq!(history(&mut bench, once), ["unknown: 1 attempt on record from before a restart"]);
    assert_eq!(shown(&mut bench, once)["history"][0]["at"], bench.now.wall.rfc3339());
    assert_eq!(bench.send_all(), [again]);
    bench.lose();
    bench.commit();
    let told = ["unknown: 2 attempts on record from before a restart", "unanswered: connection_lost"];
    assert_eq!(history(&mut bench, again), told);
}

#[test]
fn it_is_published_again_once_in_one_commit_with_the_word_of_it() {
    let mut bench = Bench::new();
    let id = dead(&mut bench, keyed("1", "k"));
    let new = again(&mut bench, id, "2").unwrap();
    assert_ne!(new, id);
    let operations = bench.outbox.take_commit(None).unwrap();
    assert!(
        matches!(&operations[..], [Operation::Accept(message), Operation::Amend { .. }] if message.redrive_of == Some(id))
    );
    operations.iter().for_each(|operation| bench.disk.apply(operation));
    bench.outbox.committed(bench.now, &mut bench.stats);
    bench.restart();
    assert_eq!(again(&mut bench, id, "3").unwrap_err().code, ErrorCode::Conflict, "also after a restart");
    assert_eq!(shown(&mut bench, id)["redriven_as"], new.to_string());
    assert_eq!(bench.state(id)["state"], "dead_lettered", "its own end is what it was");
    assert_eq!(bench.publish(keyed("1", "k")), Ok(Admitted::Known(id)), "its key goes on to name it");
    assert_eq!(bench.send(), Some(new));
    bench.ack(new);
    assert_eq!(bench.ends(), [(new, OutcomeState::Delivered, String::new())]);
    bench.pass(3600 * SECOND);
    bench.commit();
    assert!(bench.disk.outcomes.is_empty(), "published again, it is kept as long as any outcome");
    assert_eq!(again(&mut bench, id, "3").unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn a_refused_redrive_leaves_the_letter() {
    let mut bench = Bench::with(OutboxConfig { max_messages: 1, ..config() });
    let id = dead(&mut bench, message("1"));
    bench.accept(message("2"));
    assert_eq!(again(&mut bench, id, "3").unwrap_err().code, ErrorCode::StoreFull);
    assert_eq!(bench.outbox.letter(id).map(|letter| letter.data.to_string()), Ok("1".to_owned()));
    assert_eq!(bench.outbox.take_commit(None), None);
}

#[test]
fn beyond_the_limits_the_oldest_go_and_are_counted() {
    let mut bench = Bench::new();
    let ids: Vec<MessageId> = (0..5).map(|n| dead(&mut bench, keyed(&n.to_string(), &n.to_string()))).collect();
    bench.commit();
    assert_eq!((bench.outbox.letters(None, 10), bench.stats.dead_letters_dropped), (ids[2..].to_vec(), 2));
    assert_eq!(bench.outbox.letters(Some(ids[2]), 1), [ids[3]]);
    assert_eq!(bench.publish(keyed("0", "0")), Ok(Admitted::Known(ids[0])), "its outcome and its key stay");
    bench.restart();
    assert_eq!(bench.outbox.letters(None, 10), ids[2..]);
    assert_eq!(bench.state(ids[0])["state"], "dead_lettered");
    let big = dead(&mut bench, message(&format!("\"{}\"", "x".repeat(998))));
    bench.commit();
    assert_eq!(bench.outbox.letters(None, 10), [big], "more than max_dead_letter_bytes");
}

#[test]
fn what_is_purged_is_gone_from_disk_with_its_key() {
    let mut bench = Bench::new();
    let id = dead(&mut bench, keyed("1", "k"));
    bench.outbox.purge(id).unwrap();
    assert_eq!(bench.outbox.purge(id).unwrap_err().code, ErrorCode::NotFound);
    bench.commit();
    assert!(bench.disk.outcomes.is_empty());
    assert!(matches!(bench.publish(keyed("2", "k")), Ok(Admitted::New(_))));
    assert_eq!(bench.stats.conservation_error(), 0);
}
