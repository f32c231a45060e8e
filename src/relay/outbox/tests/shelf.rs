//! What waits on disk: it leaves in order, ends, is shown and withdrawn as if it were in memory.

use super::*;

/// Few in memory.
fn small() -> Bench {
    Bench::with(OutboxConfig { in_memory: 4, ..config() })
}

fn held(bench: &mut Bench) -> u64 {
    bench.outbox.gauges(&mut bench.stats);
    bench.stats.in_memory
}

#[test]
fn memory_holds_a_few_and_all_leave_in_order() {
    let mut bench = small();
    let ids: Vec<MessageId> = (0..40).map(|n| bench.accept(message(&n.to_string()))).collect();
    assert_eq!(held(&mut bench), 4);
    for id in ids {
        assert_eq!(bench.send(), Some(id));
        bench.ack(id);
        assert_eq!(bench.ends(), [(id, OutcomeState::Delivered, String::new())]);
        assert!(held(&mut bench) <= 4);
    }
}

#[test]
fn bytes_bound_what_is_held_and_one_is_always() {
    let mut bench = Bench::with(OutboxConfig { in_memory_bytes: 1, ..config() });
    let ids: Vec<MessageId> = (0..3).map(|_| bench.accept(message(&"x".repeat(900)))).collect();
    assert_eq!(held(&mut bench), 0);
    assert_eq!(bench.send_all(), ids);
}

#[test]
fn each_lane_is_read_by_itself() {
    let mut bench = small();
    let low: Vec<MessageId> =
        (0..8).map(|n| bench.accept(Publish { lane: Lane::Low, ..message(&n.to_string()) })).collect();
    let high: Vec<MessageId> =
        (0..8).map(|n| bench.accept(Publish { lane: Lane::Critical, ..message(&n.to_string()) })).collect();
    let mut left = Vec::new();
    while let Some(id) = bench.send() {
        bench.ack(id);
        bench.commit();
        left.push(id);
    }
    assert_eq!(left, [high, low].concat());
}

#[test]
fn lanes_mean_the_same_on_disk_as_in_memory() {
    for in_memory in [1, 4, 16, 1000] {
        let mut bench = Bench::with(OutboxConfig { in_memory, window: 100, ..config() });
        let ids: Vec<MessageId> = (0..60)
            .map(|n| bench.accept(Publish { lane: Lane::ALL[n % Lane::COUNT], ..message(&n.to_string()) }))
            .collect();
        bench.restart();
        let mut left: Vec<usize> = Vec::new();
        while let Some(id) = bench.send() {
            left.push(ids.iter().position(|other| *other == id).unwrap() % Lane::COUNT);
            bench.load();
        }
        assert_eq!(left.len(), 60);
        for lane in 1..Lane::COUNT {
            let before_higher =
                |place: &usize| left[*place] == lane && left[*place..].iter().any(|other| *other < lane);
            let places: Vec<usize> = (0..60).filter(before_higher).collect();
            assert!(places[0] >= 8 && places.windows(2).all(|pair| pair[1] - pair[0] > 8), "{in_memory}: {left:?}");
            assert!(places.windows(2).all(|pair| pair[1] - pair[0] < 14), "nor do they starve: {in_memory}: {left:?}");
        }
    }
}

#[test]
fn a_higher_lane_does_not_wait_for_a_lower_one_to_be_read() {
    let mut bench = Bench::with(OutboxConfig { in_memory: 20, window: 100, ..config() });
    let high: Vec<MessageId> =
        (0..20).map(|n| bench.accept(Publish { lane: Lane::Critical, ..message(&n.to_string()) })).collect();
    let low = bench.accept(Publish { lane: Lane::Low, ..message("low") });
    for id in &high[..12] {
        assert_eq!(bench.outbox.next(bench.now, false).unwrap().id, *id, "the lower one is starved, but not there");
        bench.outbox.sent(bench.now, *id, Confirm::Ack, &mut bench.stats);
    }
    bench.load();
    assert_eq!(bench.send(), Some(low));
}

#[test]
fn what_expires_on_disk_is_read_a_part_at_a_time() {
    let config = OutboxConfig { in_memory: 4, max_messages: 5_000, keep_outcomes_max: 5_000, ..config() };
    let mut bench = Bench::with(config);
    for n in 0..2_000 {
        bench.publish(Publish { ttl: Some(SECOND), ..message(&n.to_string()) }).unwrap();
    }
    bench.commit();
    bench.now = bench.now.after(2 * SECOND);
    let mut ended = 0;
    while let Some(due) = bench.outbox.due().filter(|due| *due <= bench.now.mono) {
        assert!(due <= bench.now.mono);
        bench.outbox.timeout(bench.now, &mut bench.rng, &mut bench.stats);
        // Until they were read no more of them are due.
        let waits = bench.outbox.due().is_none_or(|due| due > bench.now.mono);
        let ends = bench.ends();
        assert!(waits && ends.len() <= super::super::shelf::READ + 4, "{}", ends.len());
        ended += ends.iter().filter(|(_, state, _)| *state == OutcomeState::Expired).count();
    }
    assert_eq!(ended, 2_000);
}

#[test]
fn what_is_on_disk_is_withdrawn_and_found_by_its_key() {
    let mut bench = small();
    let ids: Vec<MessageId> = (0..10).map(|n| bench.accept(keyed(&n.to_string(), &n.to_string()))).collect();
    assert!(!bench.outbox.is_at_hand(ids[9]));
    assert_eq!(bench.publish(keyed("9", "9")).unwrap(), Admitted::Known(ids[9]));
    assert!(bench.publish(keyed("8", "9")).is_err());
    assert_eq!(bench.state(ids[9])["channel"], "orders");
    bench.outbox.fetch(ids[8]);
    assert_eq!(bench.load(), 1);
    assert!(bench.outbox.cancel(bench.now, "stranger", ids[8]).is_err());
    bench.outbox.cancel(bench.now, "local", ids[8]).unwrap();
    assert_eq!(bench.ends(), [(ids[8], OutcomeState::Rejected, "cancelled".into())]);
    bench.restart();
    assert_eq!(bench.publish(keyed("9", "9")).unwrap(), Admitted::Known(ids[9]));
    assert_eq!(bench.publish(keyed("8", "8")).unwrap(), Admitted::Known(ids[8]));
    assert!(bench.publish(keyed("9", "8")).is_err());
}

#[test]
fn many_that_wait_for_a_retry_hold_up_those_not_tried_yet() {
    let mut bench = Bench::with(OutboxConfig { in_memory: 16, ..config() });
    for n in 0..40 {
        bench.accept(message(&n.to_string()));
    }
    let again = Nack { then: Some(Then::Retry), ..Nack::default() };
    let mut tried = 0;
    while let Some(id) = bench.send() {
        bench.nack(id, again);
        tried += 1;
    }
    assert_eq!(tried, 16);
    bench.pass(60 * SECOND);
    assert!(bench.send().is_some());
}

#[test]
fn those_not_tried_yet_are_read_past_those_that_may_not_leave() {
    let mut bench = Bench::with(OutboxConfig { in_memory: 4, window: 16, ..config() });
    let tried: Vec<MessageId> = (0..16).map(|n| bench.accept(message(&n.to_string()))).collect();
    assert_eq!(bench.send_all(), tried);
    bench.lose();
    let untried: Vec<MessageId> = (0..16).map(|n| bench.accept(message(&n.to_string()))).collect();
    assert_eq!(bench.send_all(), [&tried[..8], &untried[..8]].concat());
}

#[test]
fn a_disk_that_is_slow_refuses_what_memory_cannot_hold() {
    let mut bench = Bench::with(OutboxConfig { in_memory_bytes: 2_000, ..config() });
    let refused = (0..10).find_map(|_| bench.publish(message(&"x".repeat(900))).err()).expect("one is refused");
    assert_eq!(refused.code, crate::protocol::codes::ErrorCode::StoreFull);
    assert!(refused.message.contains("in_memory_bytes"), "{}", refused.message);
    bench.commit();
    bench.publish(message("1")).unwrap();
}
