//! Interest against a plain model: what is subscribed upstream is what is wanted, once each.

use proptest::prelude::{Strategy, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;

const LINGER: Duration = Duration::from_secs(5);
const UPSTREAM: Upstream = Upstream { subscribes: true, tells_params: false, channels: None };

fn at(seconds: u64) -> Mono {
    Mono(seconds * 1_000_000_000)
}

fn interest(max_channels: usize, upstream: Upstream) -> Interest {
    let config = InterestConfig {
        refresh_ttl: std::time::Duration::ZERO,
        linger: LINGER,
        ack_timeout: Duration::from_secs(10),
        ack_attempts: 3,
        audit_interval: None,
        refused_for: Duration::from_secs(300),
        max_channels,
    };
    Interest::new(&config, 100, upstream)
}

fn want<'a>(identity: &'a str, priority: Lane) -> Want<'a> {
    let name = identity.split('?').next().unwrap_or_default();
    Want { identity, name, params: identity.split_once('?').map(|(_, params)| params), priority, linger: LINGER }
}

fn hold(interest: &mut Interest, now: u64, identity: &str) -> ChannelId {
    interest.want(at(now), want(identity, Lane::Medium)).unwrap()
}

fn changes(interest: &mut Interest) -> Vec<Change> {
    std::iter::from_fn(|| interest.next_change()).collect()
}

fn dropped(id: ChannelId, name: &str) -> Change {
    Change::Dropped(Dropped { id, name: name.into(), params: None })
}

#[test]
fn many_holders_are_one_channel_and_the_last_one_leaves_it_lingering() {
    let mut interest = interest(0, UPSTREAM);
    let id = hold(&mut interest, 0, "a");
    for _ in 0..99 {
        assert_eq!(hold(&mut interest, 0, "a"), id);
    }
    assert_eq!(changes(&mut interest), [Change::Admitted(id)]);
    for _ in 0..99 {
        interest.release(at(1), id);
    }
    assert_eq!(interest.due(), None);
    interest.release(at(1), id);
    assert_eq!((interest.state(id), interest.due()), (InterestState::Lingering, Some(at(6))));
    assert_eq!(hold(&mut interest, 5, "a"), id);
    assert_eq!((interest.state(id), interest.due()), (InterestState::Wanted, None));
    interest.release(at(5), id);
    interest.expire(at(9));
    assert_eq!(changes(&mut interest), []);
    interest.expire(at(10));
    interest.expire(at(11));
    assert_eq!(changes(&mut interest), [dropped(id, "a")]);
    assert_eq!((interest.state(id), interest.find("a"), interest.identity(id)), (InterestState::Unwanted, None, ""));
    assert_ne!(hold(&mut interest, 12, "a"), id, "numbers are never reused");
}

#[test]
fn one_base_has_one_set_of_params_at_a_time() {
    let mut interest = interest(0, UPSTREAM);
    let nine = hold(&mut interest, 0, "orders?9");
    let error = interest.want(at(0), want("orders?10", Lane::Medium)).unwrap_err();
    assert_eq!(error, WantError::Conflict { with: "orders?9".to_owned() });
    assert_eq!(interest.find("orders"), Some(nine));
    interest.release(at(0), nine);
    let ten = hold(&mut interest, 1, "orders?10");
    let gone = Dropped { id: nine, name: "orders".into(), params: Some("9".into()) };
    assert_eq!(changes(&mut interest), [Change::Admitted(nine), Change::Dropped(gone), Change::Admitted(ten)]);
    assert_eq!(interest.spec(ten).and_then(|spec| spec.params), Some("10"));
}

#[test]
fn params_that_upstream_tells_apart_do_not_conflict() {
    let mut interest = interest(0, Upstream { tells_params: true, ..UPSTREAM });
    let nine = hold(&mut interest, 0, "orders?9");
    let ten = hold(&mut interest, 0, "orders?10");
    assert_eq!(interest.find("orders"), Some(nine));
    interest.refuse(at(0), nine, ErrorCode::UpstreamRefused, "no");
    assert_eq!(interest.find("orders"), Some(ten));
}

#[test]
fn a_refusal_ends_all_holds_and_is_remembered_for_a_while() {
    let mut interest = interest(0, UPSTREAM);
    let id = hold(&mut interest, 0, "a");
    hold(&mut interest, 0, "a");
    interest.stand(id, Standing::Live);
    interest.refuse(at(1), id, ErrorCode::UpstreamRefused, "no such channel");
    interest.release(at(1), id);
    assert_eq!(interest.state(id), InterestState::Refused);
    assert_eq!(interest.counts(), Counts { wanted: 0, live: 0, waiting: 0, refused: 1 });
    let refused =
        WantError::Refused { code: ErrorCode::UpstreamRefused, message: "no such channel".to_owned(), until: at(301) };
    assert_eq!(interest.want(at(300), want("a", Lane::Medium)), Err(refused));
    assert_eq!(interest.due(), Some(at(301)));
    let again = hold(&mut interest, 301, "a");
    assert_eq!(interest.state(again), InterestState::Wanted);
    assert_eq!(changes(&mut interest), [Change::Admitted(id), Change::Admitted(again)]);
}

#[test]
fn beyond_the_cap_the_newest_of_the_lowest_priority_wait() {
    let mut interest = interest(2, Upstream { channels: Some(3), ..UPSTREAM });
    let low = interest.want(at(0), want("low", Lane::Low)).unwrap();
    let first = hold(&mut interest, 0, "first");
    let second = hold(&mut interest, 0, "second");
    assert_eq!(interest.state(low), InterestState::Waiting);
    let expected = [Change::Admitted(low), Change::Admitted(first), Change::Displaced(low), Change::Admitted(second)];
    assert_eq!(changes(&mut interest), expected);
    interest.stand(first, Standing::Sent);
    interest.stand(second, Standing::Live);
    let high = interest.want(at(0), want("high", Lane::High)).unwrap();
    assert_eq!(interest.state(high), InterestState::Waiting, "what was sent keeps its place");
    interest.release(at(0), first);
    assert_eq!(changes(&mut interest), [dropped(first, "first"), Change::Admitted(high)]);
    assert_eq!(interest.state(second), InterestState::Live);
    interest.attempt_lost();
    assert_eq!(interest.attempt_ready(), [(second, true), (high, false)]);
    let critical = interest.want(at(0), want("critical", Lane::Critical)).unwrap();
    assert_eq!(changes(&mut interest), [Change::Displaced(second), Change::Admitted(critical)]);
}

#[test]
fn a_lingering_channel_makes_room() {
    let mut interest = interest(1, UPSTREAM);
    let old = hold(&mut interest, 0, "old");
    interest.stand(old, Standing::Live);
    interest.release(at(0), old);
    let new = hold(&mut interest, 1, "new");
    assert_eq!(changes(&mut interest), [Change::Admitted(old), dropped(old, "old"), Change::Admitted(new)]);
}

#[test]
fn urgency_rises_with_the_most_urgent_holder() {
    let mut interest = interest(1, UPSTREAM);
    let held = hold(&mut interest, 0, "held");
    let waiting = interest.want(at(0), want("waiting", Lane::Low)).unwrap();
    let other = interest.want(at(0), want("other", Lane::Low)).unwrap();
    interest.want(at(0), want("other", Lane::High)).unwrap();
    interest.stand(held, Standing::Live);
    interest.release(at(0), held);
    assert_eq!((interest.state(other), interest.state(waiting)), (InterestState::Wanted, InterestState::Waiting));
    assert_eq!(interest.priority(other), Lane::High);
}

#[test]
fn without_subscribes_every_channel_is_live_once_ready() {
    let mut interest = interest(0, Upstream { subscribes: false, ..UPSTREAM });
    let id = hold(&mut interest, 0, "a");
    assert_eq!(interest.state(id), InterestState::Wanted);
    interest.attempt_ready();
    assert_eq!((interest.state(id), interest.counts().live), (InterestState::Live, 1));
    interest.attempt_lost();
    assert_eq!(interest.state(id), InterestState::Wanted);
}

#[test]
fn wanting_is_limited_and_old_refusals_make_room() {
    let mut interest = interest(0, UPSTREAM);
    let first = hold(&mut interest, 0, "0");
    for n in 1..100 {
        hold(&mut interest, 0, &n.to_string());
    }
    assert_eq!(interest.want(at(0), want("more", Lane::Critical)), Err(WantError::Limit));
    interest.refuse(at(0), first, ErrorCode::UpstreamRefused, "no");
    hold(&mut interest, 0, "more");
    assert_eq!(interest.state(first), InterestState::Unwanted);
}

#[derive(Debug, Clone)]
enum Step {
    Want(u8, u8),
    Release(u8),
    Pass(u64),
    Refuse(u8),
    Flush(u8),
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0u8..6, 0u8..3).prop_map(|(name, lane)| Step::Want(name, lane)),
        4 => (0u8..6).prop_map(Step::Release),
        2 => (0u64..8).prop_map(Step::Pass),
        1 => (0u8..6).prop_map(Step::Refuse),
        4 => (0u8..4).prop_map(Step::Flush),
        1 => proptest::strategy::Just(Step::Lose),
    ]
}

/// An upstream that is told what the changes say, at its own pace.
#[derive(Default)]
struct Told {
    queued: BTreeSet<ChannelId>,
    subscribed: BTreeSet<ChannelId>,
}

impl Told {
    fn follow(&mut self, interest: &mut Interest) -> Result<(), proptest::test_runner::TestCaseError> {
        for change in changes(interest) {
            match change {
                Change::Admitted(id) if interest.spec(id).is_none() => {}
                Change::Admitted(id) => {
                    prop_assert!(!self.subscribed.contains(&id), "subscribed twice");
                    prop_assert!(self.queued.insert(id), "admitted twice");
                }
                Change::Displaced(id) => {
                    prop_assert!(!self.subscribed.contains(&id), "displaced after it was sent");
                    prop_assert!(self.queued.remove(&id));
                }
                Change::Dropped(gone) => {
                    self.queued.remove(&gone.id);
                    self.subscribed.remove(&gone.id);
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn upstream_carries_each_wanted_channel_once_and_never_more_than_the_cap(
        cap in 1usize..5, steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut interest = interest(cap, UPSTREAM);
        let mut told = Told::default();
        let mut holds: BTreeMap<u8, (ChannelId, u32)> = BTreeMap::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Want(name, lane) => {
                    let lane = [Lane::Critical, Lane::Medium, Lane::Low][usize::from(lane)];
                    if let Ok(id) = interest.want(at(now), want(&name.to_string(), lane)) {
                        let held = holds.entry(name).or_insert((id, 0));
                        prop_assert!(held.1 == 0 || held.0 == id, "a held channel keeps its number");
                        *held = (id, held.1 + 1);
                    }
                }
                Step::Release(name) => {
                    if let Some((id, count)) = holds.get_mut(&name).filter(|(_, count)| *count > 0) {
                        *count -= 1;
                        interest.release(at(now), *id);
                    }
                }
                Step::Pass(seconds) => {
                    now += seconds;
                    interest.expire(at(now));
                }
                Step::Refuse(name) => {
                    if let Some((id, _)) = holds.remove(&name) {
                        told.queued.remove(&id);
                        told.subscribed.remove(&id);
                        interest.refuse(at(now), id, ErrorCode::UpstreamRefused, "no");
                    }
                }
                Step::Flush(count) => {
                    told.follow(&mut interest)?;
                    for _ in 0..count {
                        let Some(id) = told.queued.pop_first() else { break };
                        told.subscribed.insert(id);
                        interest.stand(id, Standing::Live);
                    }
                }
                Step::Lose => {
                    told.follow(&mut interest)?;
                    told = Told::default();
                    interest.attempt_lost();
                    changes(&mut interest);
                    told.queued = interest.attempt_ready().into_iter().map(|(id, _)| id).collect();
                }
            }
            told.follow(&mut interest)?;
            prop_assert!(told.queued.len() + told.subscribed.len() <= cap);
            let held: Vec<ChannelId> = holds.values().filter(|(_, count)| *count > 0).map(|(id, _)| *id).collect();
            for id in &held {
                let carried = told.queued.contains(id) || told.subscribed.contains(id);
                prop_assert_eq!(carried, interest.state(*id) != InterestState::Waiting);
            }
            let carried = told.queued.len() + told.subscribed.len();
            prop_assert!(carried >= held.len().min(cap), "room is used: {} of {}", carried, held.len());
            prop_assert_eq!(interest.counts().live, told.subscribed.len());
        }
        // Everybody lets go: after the linger upstream carries nothing.
        for (id, count) in holds.into_values() {
            for _ in 0..count {
                interest.release(at(now), id);
            }
        }
        interest.expire(at(now) + LINGER);
        told.follow(&mut interest)?;
        prop_assert!(told.queued.is_empty() && told.subscribed.is_empty());
    }
}
