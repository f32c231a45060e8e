//! When channels are stale, and what is done, in which order and how often.

use super::*;
use crate::relay::rng::Rng;

const MEANS: Means = Means { resubscribe: true, reconnect: true };

fn at(seconds: u64) -> Mono {
    Mono(seconds * 1_000_000_000)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn after(n: u64) -> Policy {
    Policy { after: StaleAfter::After(seconds(n)), most: StaleAction::Reconnect }
}

fn watch(policies: &[Policy]) -> Watch {
    let mut watch = Watch::default();
    for (ring, policy) in (0..).zip(policies) {
        watch.follow(at(0), RingId(ring), *policy);
    }
    watch
}

/// Lets time pass; gives when what was done for which channel.
fn run(watch: &mut Watch, until: u64, means: Means) -> Vec<(u64, u32, StaleAction)> {
    let mut out = Vec::new();
    while let Some(due) = watch.due().filter(|due| *due <= at(until)) {
        while let Some(ring) = watch.expired(due) {
            let action = watch.step(due, ring, means);
            out.extend(action.map(|action| (due.0 / 1_000_000_000, ring.0, action)));
        }
        assert!(watch.due().is_none_or(|next| next > due), "no busy loop");
    }
    out
}

#[test]
fn a_silent_channel_goes_up_the_ladder_and_an_event_ends_it() {
    use StaleAction::{Mark, Reconnect, Resubscribe};
    let mut watch = watch(&[after(10), after(100_000)]);
    assert!(!watch.event(at(5), RingId(0)));
    let ladder = run(&mut watch, 100, MEANS);
    assert_eq!(ladder, [(15, 0, Mark), (25, 0, Resubscribe), (45, 0, Resubscribe), (85, 0, Reconnect)]);
    assert_eq!((watch.counts(), watch.stale_since(RingId(0))), ((2, 1), Some(at(5))));
    assert!(watch.event(at(101), RingId(0)), "an event ends it");
    assert_eq!((watch.counts(), watch.stale_since(RingId(0))), ((2, 0), None));
    let again = run(&mut watch, 200, MEANS);
    assert_eq!(again, [(111, 0, Mark), (165, 0, Resubscribe)], "soon after, the steps stay far apart");
}

#[test]
fn the_ladder_ends_where_the_policy_says() {
    let policy = |most| Policy { after: StaleAfter::After(seconds(10)), most };
    let mut marked = watch(&[policy(StaleAction::Mark)]);
    assert_eq!(run(&mut marked, 100_000, MEANS).len(), 1);
    assert_eq!(marked.due(), None);
    assert!(marked.event(at(100_001), RingId(0)));
    assert_eq!(run(&mut marked, 200_000, MEANS).len(), 1, "and it begins anew after an event");
    let mut resubscribed = watch(&[policy(StaleAction::Resubscribe), after(1_000_000)]);
    let actions = run(&mut resubscribed, 24 * 3_600, MEANS);
    assert!(actions.iter().all(|(.., action)| *action < StaleAction::Reconnect));
    assert!((24..40).contains(&actions.len()), "once an hour at last: {}", actions.len());
}

#[test]
fn many_stale_channels_are_one_reconnect_and_not_a_burst_of_subscribes() {
    let mut watch = watch(&[after(10); 100]);
    let actions = run(&mut watch, 25, MEANS);
    let count = |wanted| actions.iter().filter(|(.., action)| *action == wanted).count();
    assert_eq!((count(StaleAction::Mark), count(StaleAction::Reconnect), count(StaleAction::Resubscribe)), (100, 1, 0));
}

#[test]
fn reconnects_are_rare_whatever_is_silent() {
    let mut watch = watch(&[after(1); 100]);
    let mut reconnects: Vec<u64> = Vec::new();
    for second in 1..12 * 3_600 {
        for (when, _, action) in run(&mut watch, second, MEANS) {
            if action == StaleAction::Reconnect {
                reconnects.push(when);
                (0..100).for_each(|ring| watch.live(at(second), RingId(ring)));
            }
        }
    }
    assert!(reconnects.windows(2).all(|pair| pair[1] - pair[0] >= 600), "{reconnects:?}");
    assert!(reconnects.len() <= 12, "rarer while it does not help: {}", reconnects.len());
}

#[test]
fn a_channel_that_is_quiet_and_answers_a_subscribe_with_its_state_is_left_in_peace() {
    let mut watch = watch(&[after(30), after(1_000_000)]);
    let mut resubscribes = 0;
    for second in 1..24 * 3_600 {
        for (_, ring, action) in run(&mut watch, second, MEANS) {
            assert_ne!(action, StaleAction::Reconnect, "each subscribe brought an event");
            if action == StaleAction::Resubscribe {
                resubscribes += 1;
                watch.live(at(second), RingId(ring));
                watch.event(at(second), RingId(ring));
            }
        }
    }
    assert!(resubscribes <= 36, "{resubscribes} in a day");
}

#[test]
fn what_cannot_be_subscribed_anew_is_only_reconnected_and_what_cannot_be_reconnected_waits() {
    let none = Means { resubscribe: false, reconnect: false };
    let mut watch = watch(&[after(10), after(1_000_000)]);
    assert_eq!(run(&mut watch, 100, none), [(10, 0, StaleAction::Mark)]);
    let means = Means { resubscribe: false, reconnect: true };
    assert_eq!(run(&mut watch, 110, means), [(110, 0, StaleAction::Reconnect)]);
}

#[test]
fn a_channel_that_is_not_live_is_not_judged_and_counts_from_when_it_is() {
    let mut watch = watch(&[after(10)]);
    assert_eq!(watch.expired(at(10)), Some(RingId(0)));
    watch.suspend(RingId(0));
    assert_eq!((watch.due(), watch.counts()), (None, (1, 0)));
    assert!(!watch.event(at(20), RingId(0)), "a late event of it arms nothing");
    assert_eq!(watch.due(), None);
    watch.live(at(100), RingId(0));
    assert_eq!(run(&mut watch, 111, MEANS), [(110, 0, StaleAction::Mark)]);
    watch.forget(RingId(0));
    assert_eq!((watch.due(), watch.counts()), (None, (0, 0)));
}

#[test]
fn a_policy_may_change_and_off_forgets() {
    let mut watch = watch(&[after(1_000)]);
    watch.follow(at(5), RingId(0), after(10));
    assert_eq!(watch.due(), Some(at(10)));
    watch.follow(at(6), RingId(0), Policy { after: StaleAfter::Off, most: StaleAction::Mark });
    assert_eq!((watch.due(), watch.counts()), (None, (0, 0)));
}

const LEARN: Policy = Policy { after: StaleAfter::Learn, most: StaleAction::Mark };

/// A source of independent events, `mean` apart on average.
fn poisson(rng: &mut Rng, mean: Duration) -> Duration {
    let uniform = (rng.below(1 << 53) as f64 + 1.0) / (1u64 << 53) as f64;
    mean.mul_f64(-uniform.ln())
}

#[test]
fn a_learnt_limit_has_no_false_alarm_on_independent_events_and_sees_a_real_silence() {
    for (seed, mean) in (1..).zip([1, 20, 100, 1_000, 60_000, 600_000].map(Duration::from_millis)) {
        let mut rng = Rng::new(seed);
        let mut watch = watch(&[LEARN]);
        let mut now = at(0);
        let learning = (LEARN_TIME.as_nanos() / mean.as_nanos()) as u64;
        for event in 0..learning * 2 + 5_000 {
            now = now + poisson(&mut rng, mean);
            let stale = watch.expired(now);
            assert_eq!(stale, None, "a false alarm at event {event} with {mean:?} between events");
            watch.event(now, RingId(0));
        }
        let limit = watch.limit(RingId(0)).unwrap();
        assert!(limit <= (mean * 60).max(LEARN_LEAST), "{limit:?} is of no use with {mean:?} between events");
        // The deadline in the set may be one from a longer limit: twice the limit is the bound.
        assert_eq!(watch.expired(now + limit * 2), Some(RingId(0)));
    }
}

#[test]
fn bursts_are_judged_by_the_pauses_between_them() {
    let mut watch = watch(&[LEARN]);
    for minute in 0..600 {
        for event in 0..100 {
            assert_eq!(watch.expired(at(minute * 60) + Duration::from_millis(event)), None);
            watch.event(at(minute * 60) + Duration::from_millis(event), RingId(0));
        }
    }
    let limit = watch.limit(RingId(0)).unwrap();
    assert!((200..=400).contains(&limit.as_secs()), "{limit:?}");
}

#[test]
fn nothing_is_judged_before_enough_is_known_and_a_pause_of_the_connection_teaches_nothing() {
    let mut watch = watch(&[LEARN]);
    for second in 0..=LEARN_TIME.as_secs() {
        assert_eq!(watch.due(), None);
        watch.event(at(second), RingId(0));
    }
    assert_eq!(watch.limit(RingId(0)), Some(seconds(20)));
    assert_eq!(watch.due(), Some(at(620)));
    watch.suspend(RingId(0));
    watch.live(at(5_000), RingId(0));
    watch.event(at(5_001), RingId(0));
    assert_eq!(watch.limit(RingId(0)), Some(seconds(20)), "the time without a connection is nobody's silence");
}
