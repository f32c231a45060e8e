//! What is accepted, when it is told, what is refused.

use super::*;
use crate::protocol::codes::ErrorCode;
use crate::protocol::request::Optimistic;

fn code(result: Result<Admitted, Refusal>) -> ErrorCode {
    result.expect_err("refused").code
}

#[test]
fn nothing_is_accepted_or_sent_before_it_is_durable() {
    let mut bench = Bench::new();
    let id = bench.publish(message("1")).unwrap().id();
    assert!(!bench.outbox.is_accepted(id) && bench.send().is_none());
    assert_eq!(bench.outbox.message_state(bench.now, "local", id), None);
    let operations = bench.outbox.take_commit(None).unwrap();
    assert!(matches!(&operations[..], [Operation::Accept(stored)] if stored.id == id && &*stored.data == "1"));
    assert!(!bench.outbox.is_accepted(id) && bench.send().is_none(), "asked for, not answered");
    assert_eq!(bench.outbox.committed(bench.now, &mut bench.stats), [Durable::Accepted(id)]);
    assert!(bench.outbox.is_accepted(id));
    assert_eq!(bench.send(), Some(id));
}

#[test]
fn publishes_while_a_commit_is_out_share_the_next_one() {
    let mut bench = Bench::new();
    bench.publish(message("1")).unwrap();
    assert_eq!(bench.outbox.take_commit(None).unwrap().len(), 1);
    bench.publish(message("2")).unwrap();
    bench.publish(message("3")).unwrap();
    assert_eq!(bench.outbox.take_commit(None), None, "one commit is out at most");
    bench.outbox.committed(bench.now, &mut bench.stats);
    assert_eq!(bench.outbox.take_commit(None).unwrap().len(), 2);
}

#[test]
fn ids_and_sequences_rise_also_when_the_clock_goes_back_and_over_a_restart() {
    let mut bench = Bench::new();
    let first = bench.accept(message("1"));
    bench.now.wall = Wall(bench.now.wall.0 - 7_200_000_000_000);
    let second = bench.accept(message("2"));
    bench.restart();
    let third = bench.accept(message("3"));
    assert!(first < second && second < third);
    let sequences: Vec<u64> = bench.disk.messages.iter().map(|(message, _)| message.sequence).collect();
    assert_eq!(sequences, [0, 1, 2]);
}

#[test]
fn limits_refuse_before_acceptance_and_leave_accepted_messages_alone() {
    let mut bench = Bench::with(OutboxConfig { max_messages: 2, ..config() });
    let first = bench.accept(message("1"));
    bench.accept(message("2"));
    assert_eq!(code(bench.publish(message("3"))), ErrorCode::StoreFull);
    assert_eq!(code(bench.publish(message(&"x".repeat(1001)))), ErrorCode::TooLarge);
    bench.send();
    bench.ack(first);
    assert_eq!(code(bench.publish(message("3"))), ErrorCode::StoreFull, "its end is not durable yet");
    bench.commit();
    bench.accept(message("3"));
    assert_eq!(bench.disk.messages.len(), 2);

    let mut bench = Bench::with(OutboxConfig { max_bytes: 1500, ..config() });
    bench.accept(message(&"x".repeat(900)));
    assert_eq!(code(bench.publish(message(&"x".repeat(900)))), ErrorCode::StoreFull);
    bench.accept(message("small"));
}

#[test]
fn what_can_never_fit_is_too_large_and_not_to_be_tried_again() {
    let large = || message(&"x".repeat(900));
    let cases = [
        (OutboxConfig { principal_bytes: Some(1000), ..config() }, "local may take 1000 (outbox.principal_bytes)"),
        (OutboxConfig { max_bytes: 1000, ..config() }, "may take 1000 (outbox.max_bytes)"),
        (OutboxConfig { max_bytes: 1200, reserve: 50, ..config() }, "may take 600 (outbox.max_bytes; the rest is kept"),
    ];
    for (config, words) in cases {
        let mut bench = Bench::with(config);
        let refusal = bench.publish(large()).unwrap_err();
        assert_eq!((refusal.code, refusal.code.retryable()), (ErrorCode::TooLarge, false));
        assert!(refusal.message.contains(words), "{}", refusal.message);
        bench.accept(message("1"));
        bench.outbox.disk(0, 0);
        assert_eq!(code(bench.publish(large())), ErrorCode::TooLarge, "whatever else is in its way");
    }
    let mut bench = Bench::with(OutboxConfig { max_bytes: 1200, reserve: 50, ..config() });
    bench.accept(Publish { lane: Lane::Critical, ..large() });
}

#[test]
fn a_short_disk_refuses_until_there_is_room_again() {
    let mut bench = Bench::new();
    bench.outbox.disk((1 << 20) - 1, 0);
    assert_eq!(code(bench.publish(message("1"))), ErrorCode::StoreFull);
    bench.outbox.disk(1 << 20, 1 << 30);
    let refusal = bench.publish(message("1")).unwrap_err();
    assert!(refusal.message.contains("outbox.max_disk"), "the store takes all that it may: {}", refusal.message);
    bench.outbox.disk(1 << 20, (1 << 30) - 1);
    bench.accept(message("1"));
    let refusal = bench.publish(message("2")).unwrap_err();
    assert!(refusal.message.contains("outbox.max_disk"), "what was admitted since counts: {}", refusal.message);
}

#[test]
fn an_atomic_batch_is_one_commit_or_nothing() {
    let mut bench = Bench::with(OutboxConfig { max_messages: 3, ..config() });
    bench.accept(message("0"));
    let three = vec![keyed("1", "a"), message("2"), message("3")];
    assert_eq!(bench.publish_by("local", three).unwrap_err().code, ErrorCode::StoreFull);
    assert_eq!(bench.outbox.take_commit(None), None, "nothing of it is staged");
    let two = bench.publish_by("local", vec![keyed("other", "a"), message("2")]).unwrap();
    assert!(matches!(two[..], [Admitted::New(_), Admitted::New(_)]), "the key of the refused batch is free");
    let operations = bench.outbox.take_commit(None).unwrap();
    let sequences: Vec<u64> = operations
        .iter()
        .map(|operation| match operation {
            Operation::Accept(stored) => stored.sequence,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sequences, [1, 2], "no number was lost to the refused batch");
    let many = (0..1025).map(|_| message("x")).collect();
    assert_eq!(bench.publish_by("local", many).unwrap_err().code, ErrorCode::Invalid);
}

#[test]
fn a_repeated_publish_finds_the_first_one_in_every_state() {
    let mut bench = Bench::new();
    let id = bench.publish(keyed("1", "k")).unwrap().id();
    assert_eq!(bench.publish(keyed("1", "k")), Ok(Admitted::Known(id)), "while it is being accepted");
    assert!(!bench.outbox.is_accepted(id));
    bench.commit();
    assert_eq!(bench.publish(keyed("1", "k")), Ok(Admitted::Known(id)));
    bench.send();
    assert_eq!((bench.publish(keyed("1", "k")), bench.outbox.state_text(id)), (Ok(Admitted::Known(id)), "in_flight"));
    bench.ack(id);
    assert_eq!(bench.outbox.state_text(id), "accepted", "an end that is not durable is not told");
    bench.commit();
    assert_eq!((bench.publish(keyed("1", "k")), bench.outbox.state_text(id)), (Ok(Admitted::Known(id)), "delivered"));
    bench.restart();
    assert_eq!(bench.publish(keyed("1", "k")), Ok(Admitted::Known(id)), "after a restart");
    assert_eq!(bench.stats.idempotent_hits, 1);
    bench.commit();
    assert_eq!(bench.disk.next_sequence, 1, "one message in all");
}

#[test]
fn a_key_finds_a_waiting_message_after_a_restart() {
    let mut bench = Bench::new();
    let id = bench.accept(keyed("1", "k"));
    bench.restart();
    assert_eq!(bench.publish(keyed("1", "k")), Ok(Admitted::Known(id)));
    assert_eq!(code(bench.publish(keyed("2", "k"))), ErrorCode::Conflict);
}

#[test]
fn another_body_conflicts_and_another_principal_does_not() {
    let mut bench = Bench::new();
    let id = bench.accept(keyed("1", "k"));
    assert_eq!(code(bench.publish(keyed("2", "k"))), ErrorCode::Conflict);
    for other in [
        Publish { kind: Some("t".into()), ..keyed("1", "k") },
        Publish { key: Some("t".into()), ..keyed("1", "k") },
        Publish { order_key: Some("t".into()), ..keyed("1", "k") },
        Publish { channel: ChannelRequest { name: "orders".into(), params: Some("{}".into()) }, ..keyed("1", "k") },
    ] {
        assert_eq!(code(bench.publish(other)), ErrorCode::Conflict);
    }
    let same = Publish { lane: Lane::High, ttl: Some(SECOND), ..keyed("1", "k") };
    assert_eq!(bench.publish(same), Ok(Admitted::Known(id)), "how urgent it is makes no other message");
    assert!(matches!(bench.publish_by("other", vec![keyed("2", "k")]).unwrap()[..], [Admitted::New(_)]));
}

#[test]
fn within_a_batch_a_key_counts_once() {
    let mut bench = Bench::new();
    let both = bench.publish_by("local", vec![keyed("1", "k"), keyed("1", "k")]).unwrap();
    assert_eq!(both[1], Admitted::Known(both[0].id()));
    let conflict = bench.publish_by("local", vec![keyed("1", "n"), keyed("2", "n")]);
    assert_eq!(conflict.unwrap_err().code, ErrorCode::Conflict);
    assert!(matches!(bench.publish(keyed("3", "n")), Ok(Admitted::New(_))));
}

#[test]
fn after_the_store_failed_nothing_is_accepted_sent_or_ended() {
    let mut bench = Bench::new();
    let known = bench.accept(keyed("1", "k"));
    let waiting = bench.accept(message("2"));
    assert_eq!(bench.send(), Some(known));
    let (out, staged) = (bench.publish(keyed("3", "lost")).unwrap(), ());
    bench.outbox.take_commit(None).unwrap();
    let behind = bench.publish(message("4")).unwrap();
    let unaccepted = bench.outbox.commit_failed("disk on fire", &mut bench.stats);
    assert_eq!((unaccepted, staged), (vec![out.id(), behind.id()], ()));
    assert!(bench.stats.store_failed);
    assert_eq!(code(bench.publish(message("5"))), ErrorCode::StoreFailed);
    assert_eq!(code(bench.publish(keyed("3", "lost"))), ErrorCode::StoreFailed, "it is not known as accepted");
    assert_eq!(bench.publish(keyed("1", "k")), Ok(Admitted::Known(known)), "what was durable before is still true");
    bench.ack(known);
    bench.nack(known, Nack::default());
    bench.lose();
    bench.outbox.timeout(bench.now.after(3600 * SECOND), &mut bench.rng, &mut bench.stats);
    assert_eq!(bench.outbox.cancel(bench.now, "local", waiting).unwrap_err().code, ErrorCode::StoreFailed);
    assert_eq!((bench.send(), bench.outbox.due()), (None, None));
    assert_eq!(bench.outbox.take_commit(None), None);
    assert_eq!(bench.stats.outcomes.total(), 0);
    assert_eq!(bench.stats.conservation_error(), 0);
}

#[test]
fn a_principal_has_its_share_and_gets_it_back() {
    let mut bench = Bench::with(OutboxConfig { principal_messages: Some(2), principal_bytes: Some(1000), ..config() });
    let by = |bench: &mut Bench, principal: &str, data: &str| {
        let admitted = bench.publish_by(principal, vec![message(data)]).map(|admitted| admitted[0]);
        bench.commit();
        admitted
    };
    let first = by(&mut bench, "a", "1").unwrap().id();
    by(&mut bench, "a", "2").unwrap();
    let refused = by(&mut bench, "a", "3").unwrap_err();
    assert_eq!(refused.code, ErrorCode::LimitExceeded);
    assert!(refused.message.contains("outbox.principal_messages"), "{}", refused.message);
    by(&mut bench, "b", &"x".repeat(700)).unwrap();
    let refused = by(&mut bench, "b", &"x".repeat(700)).unwrap_err();
    assert!(refused.message.contains("outbox.principal_bytes"), "{}", refused.message);

    bench.restart();
    assert_eq!(code(by(&mut bench, "a", "3")), ErrorCode::LimitExceeded, "what waits was counted again");
    bench.send();
    bench.ack(first);
    bench.commit();
    by(&mut bench, "a", "3").unwrap();
}

#[test]
fn the_last_part_of_the_room_is_for_urgent_messages() {
    let mut bench = Bench::with(OutboxConfig { max_messages: 20, reserve: 20, ..config() });
    let fill = |bench: &mut Bench, lane: Lane| {
        let mut count = 0;
        let refused = loop {
            match bench.publish(Publish { lane, ..message("1") }) {
                Ok(_) => count += 1,
                Err(refusal) => break refusal,
            }
        };
        assert_eq!(refused.code, ErrorCode::StoreFull);
        (count, refused.message.contains("outbox.reserve"))
    };
    assert_eq!(fill(&mut bench, Lane::Low), (16, true));
    assert_eq!(fill(&mut bench, Lane::Medium), (0, true));
    assert_eq!(fill(&mut bench, Lane::High), (2, true));
    assert_eq!(fill(&mut bench, Lane::Critical), (2, false));

    let mut bench = Bench::with(OutboxConfig { max_bytes: 1000, reserve: 50, ..config() });
    bench.accept(message(&"x".repeat(200)));
    assert_eq!(code(bench.publish(message(&"x".repeat(200)))), ErrorCode::StoreFull);
    bench.accept(Publish { lane: Lane::Critical, ..message(&"x".repeat(200)) });
}

#[test]
fn an_id_tells_whether_a_message_is_of_a_batch_also_after_a_restart() {
    let mut bench = Bench::new();
    let (mut batches, mut ids) = (Vec::new(), Vec::new());
    for round in 0..20 {
        let channel = ChannelRequest { name: "favourites".into(), params: None };
        let optimistic = Some(Optimistic { channel, key: None, value: "1".into() });
        let publishes = vec![Publish { optimistic, ..message("1") }, message("2")];
        let of_batch = bench.publish_by("p", publishes).unwrap();
        let batch = bench.outbox.message(of_batch[0].id()).unwrap().optimistic.as_ref().unwrap().batch.unwrap();
        batches.push(batch);
        ids.extend(of_batch.iter().map(|one| (one.id(), Some(batch))));
        bench.commit();
        // Whether within one process or not: the clock stands still.
        if round % 2 == 0 {
            bench.restart();
        }
        ids.push((bench.publish(message("3")).unwrap().id(), None));
        bench.commit();
    }
    for (id, of) in ids {
        let known: Vec<MessageId> = batches.iter().copied().filter(|batch| is_of_batch(id, *batch)).collect();
        assert_eq!(known, of.into_iter().collect::<Vec<_>>(), "{id}");
    }
}
