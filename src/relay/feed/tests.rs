//! The feed: offsets, bounds, verdicts, state.

use std::borrow::Cow;
use std::time::Duration;

use proptest::prelude::*;

use super::ring::Verdict;
use super::*;
use crate::dialect::{Fold, Target};
use crate::relay::stats::ResetReason;
use crate::relay::time::Wall;

fn feed(change: impl FnOnce(&mut Config)) -> Feed {
    let mut config = Config::default();
    change(&mut config);
    Feed::new(Epoch::new(7), &config)
}

fn at(ms: u64) -> Time {
    Time { mono: Mono(ms * 1_000_000), wall: Wall(ms * 1_000_000) }
}

fn limits(events: usize) -> RingConfig {
    RingConfig { events, bytes: 1 << 20, age: Duration::from_secs(600) }
}

fn event<'a>(key: Option<&'a str>, data: &'a str, role: Role, fold: Fold) -> Event<'a> {
    Event {
        target: Target::Name("c"),
        key: key.map(Cow::Borrowed),
        kind: None,
        id: None,
        sequence: None,
        source_time: None,
        data: Cow::Borrowed(data.as_bytes()),
        role,
        fold,
    }
}

fn admit(feed: &mut Feed, id: RingId, ms: u64, data: &str) {
    feed.admit(id, at(ms), &event(None, data, Role::Event, Fold::Replace), &mut FeedStats::default());
    offer(feed);
}

/// Every reader had its turn: what is over the bounds may go.
fn offer(feed: &mut Feed) {
    let mut rings = Vec::new();
    feed.take_dirty(&mut rings);
    for id in rings {
        let ring = feed.ring_mut(id).unwrap();
        ring.offered = ring.last.unwrap();
    }
}

fn state(feed: &Feed, id: RingId) -> Option<Vec<String>> {
    let entries = feed.ring(id)?.values.snapshot()?;
    Some(entries.iter().map(|entry| String::from_utf8_lossy(entry.data()).into_owned()).collect())
}

#[test]
fn a_cursor_is_resumed_only_if_nothing_after_it_is_gone() {
    let mut feed = feed(|_| {});
    let ring = feed.carry("c", limits(3), at(0)).unwrap();
    let begin = feed.head();
    for n in 0..5 {
        admit(&mut feed, ring, n, "1");
    }
    let (head, held) = (feed.head(), feed.ring(ring).unwrap());
    assert_eq!(held.len(), 3);
    assert_eq!(held.verdict(begin, head), Verdict::Reset(ResetReason::Evicted));
    assert_eq!(held.verdict(begin + 1, head), Verdict::Reset(ResetReason::Evicted));
    assert_eq!(held.verdict(begin + 2, head), Verdict::Resumed, "the first missing entry is still held");
    assert_eq!(held.verdict(head, head), Verdict::Resumed);
    assert_eq!(held.verdict(head + 1, head), Verdict::Reset(ResetReason::Future));
}

#[test]
fn nothing_is_evicted_before_it_was_offered() {
    let mut feed = feed(|_| {});
    let ring = feed.carry("c", limits(3), at(0)).unwrap();
    let mut put = || feed.admit(ring, at(0), &event(None, "1", Role::Event, Fold::Replace), &mut FeedStats::default());
    for _ in 0..10 {
        put();
    }
    assert_eq!(feed.ring(ring).unwrap().len(), 10);
    offer(&mut feed);
    admit(&mut feed, ring, 0, "2");
    assert_eq!(feed.ring(ring).unwrap().len(), 3);
}

#[test]
fn prev_chains_the_entries_of_a_channel() {
    let mut feed = feed(|_| {});
    let (a, b) = (feed.carry("a", limits(9), at(0)).unwrap(), feed.carry("b", limits(9), at(0)).unwrap());
    admit(&mut feed, a, 1, "1");
    let first = feed.head();
    admit(&mut feed, b, 1, "1");
    admit(&mut feed, a, 1, "2");
    let ring = feed.ring(a).unwrap();
    assert_eq!(ring.get(0).unwrap().prev, None);
    assert_eq!(ring.get(1).unwrap().prev, Some(first));
}

#[test]
fn a_channel_that_was_not_carried_in_between_resumes_nobody() {
    let mut feed = feed(|_| {});
    let upstream = ChannelId(1);
    let ring = feed.carry("c", limits(9), at(0)).unwrap();
    feed.bind(ring, upstream, true);
    admit(&mut feed, ring, 1, "1");
    let cursor = feed.head();
    feed.dropped(upstream);
    assert_eq!(feed.find("c"), None, "nobody reads it: it goes");
    let again = feed.carry("c", limits(9), at(2)).unwrap();
    let head = feed.head();
    assert_eq!(feed.ring(again).unwrap().verdict(cursor, head), Verdict::Reset(ResetReason::NotCarried));
    assert_eq!(feed.ring(again).unwrap().verdict(head, head), Verdict::Resumed);
}

#[test]
fn a_ring_with_readers_survives_the_drop_but_its_history_does_not() {
    let mut feed = feed(|_| {});
    let ring = feed.carry("c", limits(9), at(0)).unwrap();
    feed.bind(ring, ChannelId(1), true);
    feed.ring_mut(ring).unwrap().readers.push(super::ring::Reader { session: 0, subscription: 0 });
    admit(&mut feed, ring, 1, "1");
    let cursor = feed.head();
    feed.dropped(ChannelId(1));
    let head = feed.head();
    assert_eq!(feed.ring(ring).unwrap().verdict(cursor, head), Verdict::Reset(ResetReason::NotCarried));
    assert_eq!(state(&feed, ring), Some(vec!["1".into()]), "the last value stays");
}

#[test]
fn age_evicts_at_the_sweep_and_keeps_the_newest() {
    let mut feed = feed(|_| {});
    let ring = feed.carry("c", limits(9), at(0)).unwrap();
    admit(&mut feed, ring, 0, "1");
    admit(&mut feed, ring, 0, "2");
    let mut stats = FeedStats::default();
    feed.sweep(at(599_000).mono, &mut stats);
    assert_eq!(stats.evicted, 0);
    feed.sweep(at(601_000).mono, &mut stats);
    assert_eq!((stats.evicted, feed.ring(ring).unwrap().len()), (1, 1));
}

#[test]
fn over_the_total_the_channel_longest_without_interest_loses_its_history_first() {
    let mut feed = feed(|config| config.feed.ring_bytes_total = 2_000);
    let old = feed.carry("old", limits(99), at(0)).unwrap();
    let young = feed.carry("young", limits(99), at(5)).unwrap();
    let read = feed.carry("read", limits(99), at(0)).unwrap();
    feed.interest_again(read);
    for ring in [old, young, read] {
        for _ in 0..4 {
            admit(&mut feed, ring, 9, "123456789");
        }
    }
    let held = |feed: &Feed, id| feed.ring(id).unwrap().len();
    while held(&feed, old) > 1 {
        assert_eq!((held(&feed, young), held(&feed, read) >= 4), (4, true));
        admit(&mut feed, read, 9, "123456789");
    }
    admit(&mut feed, read, 9, "123456789");
    admit(&mut feed, read, 9, "123456789");
    assert!(held(&feed, young) < 4, "then the next one");
    assert_eq!(state(&feed, old), Some(vec!["123456789".into()]), "last values stay");
}

#[test]
fn a_new_channel_takes_the_place_of_one_without_interest_and_of_no_other() {
    let mut feed = feed(|config| config.feed.max_channels = 2);
    let a = feed.carry("a", limits(9), at(0)).unwrap();
    let b = feed.carry("b", limits(9), at(1)).unwrap();
    feed.interest_again(a);
    assert!(feed.carry("c", limits(9), at(2)).is_some());
    assert_eq!((feed.find("a"), feed.find("b")), (Some(a), None));
    feed.interest_again(b);
    assert!(feed.carry("d", limits(9), at(3)).is_none(), "c took b's slot and number, and both are read");
}

#[test]
fn snapshots_are_the_fold_of_what_was_admitted() {
    let mut feed = feed(|_| {});
    let ring = feed.carry("c", limits(99), at(0)).unwrap();
    let mut put = |key, data, role, fold| {
        feed.admit(ring, at(0), &event(key, data, role, fold), &mut FeedStats::default());
        state(&feed, ring)
    };
    let texts = |list: &[&str]| Some(list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    assert_eq!(put(None, "0", Role::Event, Fold::Append), None, "an increment without a base is no state");
    assert_eq!(put(None, "1", Role::Snapshot, Fold::Append), texts(&["1"]));
    assert_eq!(put(None, "2", Role::Event, Fold::Append), texts(&["1", "2"]));
    assert_eq!(put(Some("b"), "3", Role::Snapshot, Fold::Replace), texts(&["3"]));
    assert_eq!(put(Some("a"), "4", Role::SnapshotPart, Fold::Replace), texts(&["4", "3"]));
    assert_eq!(put(Some("b"), "5", Role::Event, Fold::Replace), texts(&["4", "5"]));
}

#[test]
fn a_hole_breaks_a_sum_and_leaves_whole_values() {
    let mut feed = feed(|_| {});
    let ring = feed.carry("c", limits(99), at(0)).unwrap();
    let mut stats = FeedStats::default();
    feed.admit(ring, at(0), &event(None, "1", Role::Snapshot, Fold::Append), &mut stats);
    feed.admit_gap(ring, at(0), Some((4, 5)), GapReason::UpstreamSeq, &mut stats);
    assert_eq!(state(&feed, ring), None);
    feed.admit(ring, at(0), &event(None, "2", Role::Event, Fold::Append), &mut stats);
    assert_eq!(state(&feed, ring), None, "still no base");
    feed.admit(ring, at(0), &event(None, "3", Role::Snapshot, Fold::Append), &mut stats);
    assert_eq!(state(&feed, ring), Some(vec!["3".into()]));
    let plain = feed.carry("p", limits(99), at(0)).unwrap();
    admit(&mut feed, plain, 0, "1");
    feed.admit_gap(plain, at(0), None, GapReason::Reconnect, &mut stats);
    assert_eq!(state(&feed, plain), Some(vec!["1".into()]));
    feed.admit(plain, at(0), &event(None, "2", Role::Event, Fold::Append), &mut stats);
    assert_eq!(state(&feed, plain), None, "a value from before a hole is no base");
}

#[test]
fn what_was_missing_makes_the_state_whole_again() {
    let mut feed = feed(|_| {});
    let ring = feed.carry("c", limits(99), at(0)).unwrap();
    let mut stats = FeedStats::default();
    for fold in [Fold::Append, Fold::Replace] {
        feed.admit(ring, at(0), &event(None, "1", Role::Snapshot, fold), &mut stats);
        feed.admit_gap(ring, at(0), Some((2, 2)), GapReason::UpstreamSeq, &mut stats);
        assert!(feed.ring(ring).is_some_and(|ring| ring.values.lacks_base()));
        feed.admit_repaired(ring, at(0), 2, true, &mut stats);
        feed.admit(ring, at(0), &event(None, "2", Role::Event, Fold::Append), &mut stats);
        assert_eq!(state(&feed, ring), Some(vec!["1".into(), "2".into()]));
        assert_eq!(feed.ring(ring).map(|ring| ring.hole), Some(0));
    }
    feed.admit_gap(ring, at(0), Some((3, 3)), GapReason::UpstreamSeq, &mut stats);
    feed.admit_gap(ring, at(0), Some((5, 5)), GapReason::UpstreamSeq, &mut stats);
    feed.admit_repaired(ring, at(0), 1, true, &mut stats);
    assert_eq!(state(&feed, ring), None, "one of two holes is still there");
}

#[test]
fn a_sum_never_holds_more_than_its_ring() {
    let mut feed = feed(|_| {});
    let ring = feed.carry("c", limits(3), at(0)).unwrap();
    let mut stats = FeedStats::default();
    feed.admit(ring, at(0), &event(None, "s", Role::Snapshot, Fold::Append), &mut stats);
    for _ in 0..3 {
        feed.admit(ring, at(0), &event(None, "d", Role::Event, Fold::Append), &mut stats);
    }
    offer(&mut feed);
    assert_eq!(state(&feed, ring).map(|state| state.len()), Some(4), "the base may be older than the ring");
    feed.admit(ring, at(0), &event(None, "d", Role::Event, Fold::Append), &mut stats);
    assert_eq!(state(&feed, ring), None, "its first increment was evicted");
}

#[test]
fn keys_are_capped_and_the_oldest_value_goes() {
    let mut feed = feed(|config| config.feed.channel_keys = 2);
    let ring = feed.carry("c", limits(99), at(0)).unwrap();
    let mut stats = FeedStats::default();
    for (key, data) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")] {
        feed.admit(ring, at(0), &event(Some(key), data, Role::Event, Fold::Replace), &mut stats);
    }
    assert_eq!(state(&feed, ring), Some(vec!["3".into(), "4".into()]));
}

#[test]
fn last_values_are_bounded_in_bytes_and_the_newest_stays() {
    let mut feed = feed(|config| config.feed.value_bytes_total = 4_000);
    let idle = feed.carry("idle", limits(99), at(0)).unwrap();
    let read = feed.carry("read", limits(99), at(0)).unwrap();
    feed.interest_again(read);
    admit(&mut feed, idle, 0, "1");
    let large = format!("\"{}\"", "x".repeat(900));
    let mut gone = 0;
    for key in ["a", "b", "c", "d", "e", "f"] {
        let event = event(Some(key), &large, Role::Event, Fold::Replace);
        gone += feed.admit(read, at(0), &event, &mut FeedStats::default());
    }
    assert_eq!(state(&feed, idle), None, "the one without interest went first");
    let left = feed.ring(read).unwrap().values.len();
    assert!(left < 4 && gone == 7 - left, "{left} left, {gone} gone");
    let huge = format!("\"{}\"", "x".repeat(9_000));
    feed.admit(read, at(0), &event(Some("g"), &huge, Role::Event, Fold::Replace), &mut FeedStats::default());
    assert_eq!(state(&feed, read), Some(vec![huge]), "larger than all room, and still the newest");
}

proptest! {
    /// Snapshot plus everything after it equals the state: for any run of events, any place of the snapshot.
    #[test]
    fn snapshot_and_later_entries_fold_to_the_state(
        steps in proptest::collection::vec((0u8..4, 0u8..4, any::<u8>()), 1..60),
        cut in 0usize..60,
    ) {
        let mut feed = feed(|_| {});
        let ring = feed.carry("c", limits(1_000), at(0)).unwrap();
        let mut model: BTreeMap<String, String> = BTreeMap::new();
        let mut client: Option<BTreeMap<String, String>> = None;
        for (step, (kind, key, value)) in steps.iter().enumerate() {
            if step == cut {
                client = Some(model.clone());
            }
            let (key, value) = (format!("k{key}"), value.to_string());
            let role = if *kind == 0 { Role::Snapshot } else { Role::Event };
            feed.admit(ring, at(0), &event(Some(&key), &value, role, Fold::Replace), &mut FeedStats::default());
            let entry = feed.ring(ring).unwrap().get(step).unwrap().clone();
            for state in [Some(&mut model), client.as_mut()].into_iter().flatten() {
                if entry.kind == EntryKind::Snapshot {
                    state.clear();
                }
                state.insert(entry.key.as_deref().unwrap().to_owned(), String::from_utf8(entry.data().to_vec()).unwrap());
            }
        }
        prop_assert_eq!(state(&feed, ring), Some(model.values().cloned().collect::<Vec<_>>()));
        if let Some(client) = client {
            prop_assert_eq!(client, model);
        }
    }
}
