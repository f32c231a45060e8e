//! What is spent of upstream's limits is known to the store before it is used, and gone on with after a restart.

use super::*;
use crate::relay::record::{KeptTally, Restored, StoredTally};
use crate::relay::stats::Cost;
use crate::relay::time::{Time, Wall};

/// Three at once, then one in twenty seconds.
const CONNECTS: &str = "[limits]\nconnects = \"6/60s\"";
const SECOND: Duration = Duration::from_secs(1);

fn uncounted(service: &Service) -> (u64, usize) {
    let told = service.notices.iter().filter(|notice| **notice == Notice::Uncounted).count();
    (service.relay.stats().link.uncounted, told)
}

/// A relay whose store answers only when it is told to; it has a connection that the store knew in time.
fn waiting_for_the_store() -> Service {
    let mut service = ready(CONNECTS, |_| {});
    service.store_waits = true;
    service.relay.reconnect_upstream(service.now);
    service.turn();
    service.lose(Disconnect::Asked);
    service.pass(Duration::ZERO);
    assert!(service.connects.is_empty(), "not before the store knows of it");
    service
}

#[test]
fn a_connection_is_begun_once_the_store_knows_of_it() {
    let mut service = waiting_for_the_store();
    service.pass(SECOND);
    assert!(service.connects.is_empty());
    service.store_answers(Ok(()));
    assert_eq!((service.connects.len(), uncounted(&service)), (1, (0, 0)));
    let lacks = service.tally.as_ref().map(|tally| tally.connects);
    assert_eq!(lacks, Some(2_000), "both are counted");
}

#[test]
fn a_store_that_does_not_answer_or_fails_stops_no_connection() {
    let mut service = waiting_for_the_store();
    service.pass(Duration::from_millis(4_999));
    assert!(service.connects.is_empty());
    service.pass(SECOND);
    assert_eq!((service.connects.len(), uncounted(&service)), (1, (1, 1)));
    service.lose(Disconnect::Refused);
    service.store_answers(Ok(()));

    let mut service = waiting_for_the_store();
    service.store_answers(Err("no space"));
    assert_eq!((service.connects.len(), uncounted(&service)), (1, (1, 1)), "at once");
    service.connect();
    for n in 2..5 {
        service.relay.reconnect_upstream(service.now);
        service.turn();
        service.lose(Disconnect::Asked);
        service.until_connect();
        assert_eq!(uncounted(&service), (n, 1), "told once");
        service.connect();
    }
    let times: Vec<Mono> = service.ways.iter().map(|(at, ..)| *at).collect();
    assert!(times[3].since(times[0]) >= Duration::from_secs(20), "the limit of this process holds: {times:?}");
}

/// Each life connects and dies after so long; gives when connects were made.
fn crash_loop(life: Duration, boot: bool) -> Vec<u64> {
    let mut service = Service::new(CONNECTS, |_| {});
    let (begin, mut times) = (service.now.wall.0, Vec::new());
    let seconds = |service: &Service| (service.now.wall.0 - begin) / 1_000_000_000;
    for _ in 0..200 {
        let before = service.ways.len();
        service.pass(life);
        assert!(service.ways.len() <= before + 1);
        times.extend(service.ways.iter().map(|_| seconds(&service)));
        service = service.again(CONNECTS, Duration::ZERO, boot, |_| {});
    }
    times
}

#[test]
fn a_crash_loop_connects_no_more_than_one_process() {
    for (millis, boot) in [(900, false), (900, true), (250, false), (7_000, false)] {
        let times = crash_loop(Duration::from_millis(millis), boot);
        let most = |from: &u64| times.iter().filter(|at| (*from..from + 59).contains(at)).count();
        assert!(times.iter().all(|from| most(from) <= 6), "{millis} {boot}: {times:?}");
        let lasted = usize::try_from(200 * millis / 20_000).unwrap();
        assert!(times.len() >= lasted.min(200), "what comes back is used: {millis} {boot}: {times:?}");
    }
}

#[test]
fn a_clock_that_jumps_gives_no_connection_away() {
    let spent = || {
        let mut service = Service::new(CONNECTS, |config| config.upstream.backoff.max = Duration::from_millis(100));
        for _ in 0..2 {
            service.attempt = service.connects.pop_front().unwrap();
            service.lose(Disconnect::Refused);
            service.until_connect();
        }
        assert_eq!(service.tally.as_ref().map(|tally| tally.connects.div_ceil(1_000)), Some(3));
        service
    };
    let wait = |service: Service, boot: bool, wall: fn(u64) -> u64| {
        let mut service = service;
        service.now.wall = Wall(wall(service.now.wall.0));
        let mut next = service.again(CONNECTS, SECOND, boot, |_| {});
        if next.connects.is_empty() { next.until_connect().as_secs() } else { 0 }
    };
    let hour = 3_600_000_000_000;
    assert!((18..20).contains(&wait(spent(), false, |wall| wall)));
    assert!((18..20).contains(&wait(spent(), false, |wall| wall + 3_600_000_000_000)), "the date does not count");
    assert!((18..20).contains(&wait(spent(), false, |wall| wall - 3_600_000_000_000)));
    assert!((18..20).contains(&wait(spent(), true, |wall| wall)), "over a reboot it does");
    assert!((19..=20).contains(&wait(spent(), true, |wall| wall - 3_600_000_000_000)), "back: no time passed");
    assert_eq!(wait(spent(), true, |wall| wall + 3_600_000_000_000), 0, "ahead: full");
    let far = spent();
    let mut next = far.again(CONNECTS, Duration::from_nanos(100 * hour), false, |_| {});
    let (mut made, begin) = (0, next.now.mono);
    while next.now.mono == begin {
        next.attempt = next.connects.pop_front().unwrap();
        next.relay.reconnect_upstream(next.now);
        next.lose(Disconnect::Asked);
        next.until_connect();
        made += 1;
    }
    assert_eq!(made, 3, "never more than it holds");
}

#[test]
fn waits_that_upstream_asked_for_go_on() {
    let mut service = Service::new("", |_| {});
    service.attempt = service.connects.pop_front().unwrap();
    let retry_after = Some(Duration::from_secs(600));
    service.lose(Disconnect::BadStatus { status: 429, retry_after, detail: String::new() });
    let mut next = service.again("", Duration::from_secs(100), false, |_| {});
    assert!((498..=502).contains(&next.until_connect().as_secs()), "of the ten minutes");
    let mut third = next.again("", Duration::from_secs(5), false, |_| {});
    assert_eq!(third.until_connect(), Duration::ZERO, "it is over");

    let mut service = ready("", |_| {});
    service.say(&json!({"slower": true, "why": "slower"}));
    let mut next = service.again("", Duration::from_secs(10), false, |_| {});
    next.connect();
    let one = next.join(0);
    next.subscribe(one, &["a"]);
    next.pass(Duration::from_millis(19_900));
    assert!(next.sent.is_empty(), "the pause lasts");
    next.pass(SECOND);
    assert!(!next.sent.is_empty());
}

#[test]
fn another_service_has_limits_of_its_own() {
    let mut service = Service::new(CONNECTS, |_| {});
    service.attempt = service.connects.pop_front().unwrap();
    let retry_after = Some(Duration::from_secs(600));
    service.lose(Disconnect::BadStatus { status: 429, retry_after, detail: String::new() });
    let elsewhere = |config: &mut crate::config::Config| config.upstream.url = "wss://elsewhere.example/".into();
    let mut next = service.again(CONNECTS, Duration::ZERO, false, elsewhere);
    assert_eq!(next.until_connect(), Duration::ZERO);
}

#[test]
fn frames_are_reserved_ahead_and_shown() {
    let limits = "[limits]\nrate = \"1/s\"\nburst = 40\nper_frame = 1";
    let mut service = ready(limits, |_| {});
    let one = service.join(0);
    let names: Vec<String> = (0..30).map(|n| format!("c{n}")).collect();
    for name in &names {
        service.subscribe(one, &[name]);
    }
    assert_eq!(service.sent.len(), 30, "the store answers at once");
    let shown = service.relay.upstream_limits_json(service.now.mono);
    assert_eq!(shown["frames"], json!({"left": 10, "of": 40, "next_ms": 0}));
    let next = service.again(limits, SECOND, false, |_| {});
    let left = next.relay.upstream_limits_json(next.now.mono)["frames"]["left"].as_u64().unwrap();
    assert!(left <= 11, "what was reserved counts as spent: {left}");

    let mut service = ready(limits, |_| {});
    service.store_waits = true;
    let one = service.join(0);
    for name in &names {
        service.subscribe(one, &[name]);
    }
    assert_eq!(service.sent.len(), 1, "a second's tokens, and no more before the store knows");
    service.pass(Duration::from_secs(10));
    assert_eq!(service.sent.len(), 11, "without the store it is a bucket of one second");
    service.store_answers(Ok(()));
    assert_eq!(service.sent.len(), 11, "what was reserved has come back meanwhile");
    service.store_answers(Ok(()));
    assert_eq!(service.sent.len(), 15);
}

#[test]
fn an_orderly_end_gives_back_what_was_reserved() {
    let limits = "[limits]\nrate = \"1/m\"\nburst = 40";
    let mut service = ready(limits, |_| {});
    let one = service.join(0);
    for name in ["a", "b", "c"] {
        service.subscribe(one, &[name]);
    }
    service.input(Input::Stop { now: true });
    service.lose(Disconnect::Asked);
    service.pass(Duration::from_secs(10));
    let next = service.again(limits, Duration::ZERO, false, |_| {});
    let shown = next.relay.upstream_limits_json(next.now.mono);
    assert_eq!(shown["frames"]["left"], 37);
}

#[test]
fn what_cannot_be_read_is_taken_for_spent_and_what_never_was_is_not() {
    let limits = "[limits]\nconnects = \"6/60s\"\nrate = \"4/s\"\nburst = 40";
    let dialect = DIALECT.replace("LIMITS", limits).replace("HELLO", "");
    let now = Time { mono: Mono(9_000_000_000), wall: Wall(1_795_231_888_000_000_000) };
    let left = |tally: KeptTally| {
        let service = Service::starting(&dialect, Restored { tally, ..Restored::default() }, now, |_| {});
        let shown = service.relay.upstream_limits_json(now.mono);
        (shown["connects"]["left"].as_u64().unwrap(), shown["frames"]["left"].as_u64().unwrap())
    };
    // One connect is spent at once, if it may be.
    assert_eq!(left(KeptTally::New), (2, 40));
    assert_eq!(left(KeptTally::Absent), (2, 36));
    assert_eq!(left(KeptTally::Damaged), (0, 0));
    let other = Arc::new(StoredTally { service: 1, connects: 9_000, frames: 90_000, ..StoredTally::default() });
    assert_eq!(left(KeptTally::Found { tally: other, same_boot: true }), (2, 40));
}

#[test]
fn the_budget_goes_on() {
    let allow = |config: &mut crate::config::Config| config.budget.subscribes.hour = 2;
    let mut service = ready("", allow);
    let one = service.join(0);
    service.subscribe(one, &["a"]);
    service.subscribe(one, &["b"]);
    service.pass(Duration::from_secs(6));
    let mut next = service.again("", SECOND, false, allow);
    next.connect();
    let one = next.join(0);
    next.subscribe(one, &["c"]);
    assert_eq!(next.relay.stats().repair.refused.get(&Cost::Subscribe), 1);
    let mut later = next.again("", Duration::from_secs(4_000), false, allow);
    later.connect();
    let one = later.join(0);
    later.subscribe(one, &["c"]);
    assert_eq!(later.relay.stats().repair.refused.get(&Cost::Subscribe), 0);
}
