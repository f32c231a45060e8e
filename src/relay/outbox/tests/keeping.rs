//! What is kept of messages that ended, and what operators see.

use super::*;
use crate::protocol::codes::ErrorCode;

fn deliver(bench: &mut Bench, publish: Publish) -> MessageId {
    let id = bench.accept(publish);
    assert_eq!(bench.send(), Some(id));
    bench.ack(id);
    bench.commit();
    id
}

#[test]
fn outcomes_are_kept_their_time_and_then_forgotten_also_on_disk() {
    let mut bench = Bench::new();
    let id = deliver(&mut bench, keyed("1", "k"));
    bench.pass(3599 * SECOND);
    assert_eq!(bench.publish(keyed("1", "k")), Ok(Admitted::Known(id)));
    bench.pass(SECOND);
    assert_eq!(bench.outbox.message_state(bench.now, "local", id), None);
    bench.commit();
    assert!(bench.disk.outcomes.is_empty());
    assert!(matches!(bench.publish(keyed("2", "k")), Ok(Admitted::New(_))), "the key is free again");
}

#[test]
fn at_the_cap_the_oldest_outcome_without_a_key_goes_and_new_keys_are_refused() {
    let mut bench = Bench::with(OutboxConfig { keep_outcomes_max: 2, ..config() });
    let keyed_one = deliver(&mut bench, keyed("1", "a"));
    let plain = deliver(&mut bench, message("2"));
    let last = deliver(&mut bench, message("3"));
    assert_eq!(bench.stats.outcomes_dropped, 1);
    assert_eq!(bench.outbox.message_state(bench.now, "local", plain), None);
    bench.state(keyed_one);
    bench.state(last);
    let waiting = bench.accept(keyed("4", "b"));
    assert_eq!(bench.publish(keyed("5", "c")).unwrap_err().code, ErrorCode::StoreFull, "no room for its outcome");
    assert_eq!(bench.publish(keyed("1", "a")), Ok(Admitted::Known(keyed_one)), "a known key is found at the cap");
    bench.accept(message("5"));
    bench.send_all();
    bench.ack(waiting);
    bench.commit();
    bench.state(keyed_one);
    bench.state(waiting);
    assert_eq!(bench.outbox.message_state(bench.now, "local", last), None);
    bench.commit();
    assert_eq!(bench.disk.outcomes.len(), 2);
}

#[test]
fn a_smaller_cap_holds_for_what_was_restored() {
    let mut bench = Bench::new();
    for n in 0..5 {
        deliver(&mut bench, message(&n.to_string()));
    }
    bench.config.keep_outcomes_max = 2;
    bench.restart();
    bench.commit();
    assert_eq!((bench.disk.outcomes.len(), bench.stats.outcomes_dropped), (2, 3));
}

#[test]
fn messages_are_conserved_over_a_restart() {
    let mut bench = Bench::new();
    deliver(&mut bench, message("1"));
    bench.accept(message("2"));
    bench.publish(message("3")).unwrap();
    assert_eq!(bench.stats.conservation_error(), 0, "what is not accepted does not count");
    bench.restart();
    assert_eq!((bench.stats.accepted, bench.stats.restored, bench.stats.conservation_error()), (0, 1, 0));
}

#[test]
fn operators_see_lanes_and_messages_without_payloads() {
    let mut bench = Bench::new();
    bench.accept(Publish { lane: Lane::Low, ..message("\"secret\"") });
    bench.pass(2 * SECOND);
    let high = bench.accept(Publish { lane: Lane::High, ..message("1") });
    bench.publish(message("not accepted yet")).unwrap();
    let text = bench.outbox.listing(bench.now, 1, &bench.stats);
    let shown: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(shown["depth"], 2);
    let lanes: Vec<_> = (0..4).map(|n| (&shown["lanes"][n]["depth"], &shown["lanes"][n]["oldest_age_ms"])).collect();
    let none = &serde_json::Value::Null;
    assert_eq!(lanes, [(&0.into(), none), (&1.into(), &0.into()), (&0.into(), none), (&1.into(), &2000.into())]);
    assert_eq!(shown["messages"].as_array().unwrap().len(), 1);
    assert_eq!(shown["messages"][0]["message"], high.to_string());
    assert!(!String::from_utf8(text).unwrap().contains("secret"));
    bench.outbox.gauges(&mut bench.stats);
    assert_eq!(bench.stats.lane(Lane::Medium).oldest, None);
    assert!(bench.stats.lane(Lane::Low).oldest.is_some());
}
