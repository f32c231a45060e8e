//! `kill -9` while many publish: what was accepted arrives, and who got no answer may ask again.
//!
//! Deliberately not here: whether the disk keeps it over a power cut, about which a killed process says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use crate::client::Client;
use crate::common::until;
use crate::load::Run;
use crate::rig::{Place, Relay};
use crate::upstream::{Gate, Upstream, plain_answer};

const PUBLISHERS: u64 = 4;
const EACH: u64 = 2_500;
/// Requests of one publisher without an answer.
const OUTSTANDING: usize = 200;
/// Upstream acknowledges so many, then nothing any more until the relay is back.
const ACKNOWLEDGED: usize = 500;
/// The relay is killed once so many are accepted …
const KILL_AT: usize = 3_000;
/// … while each publisher holds so many back, so that it is in the midst on the slowest machine, too.
const HELD_BACK: u64 = 50;

/// Short lives of one run.
const LIVES: usize = 50;

/// What the relay named the messages that it accepted: by publisher and number.
type Accepted = BTreeMap<(u64, u64), String>;

/// Publishes one publisher's messages that are not in `known`. With nothing known it is the first time: then it holds some
/// back and stays until the relay is gone.
fn publish(mut client: Client, publisher: u64, known: &Accepted, count: &AtomicUsize) -> Accepted {
    let first = known.is_empty();
    let mut waiting =
        (0..if first { EACH - HELD_BACK } else { EACH }).filter(|n| !known.contains_key(&(publisher, *n))).peekable();
    let mut outstanding = 0;
    let mut accepted = Accepted::new();
    while first || waiting.peek().is_some() || outstanding > 0 {
        while outstanding < OUTSTANDING
            && let Some(n) = waiting.next()
        {
            let key = format!("{publisher}-{n}");
            let data = json!([publisher, n]);
            let request = json!({"op": "publish", "ref": n, "channel": "orders", "data": data, "idempotency_key": key});
            if client.try_send(&request.to_string()).is_none() {
                return accepted;
            }
            outstanding += 1;
        }
        let Some(frame) = client.try_next() else { return accepted };
        assert_ne!(frame["kind"], "error", "{frame}");
        if frame["kind"] == "accepted" {
            let n = frame["ref"].as_u64().unwrap();
            accepted.insert((publisher, n), frame["message"].as_str().unwrap().to_owned());
            outstanding -= 1;
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    accepted
}

/// All publishers at once; `meanwhile` runs beside them.
fn publish_all(
    relay: Relay,
    known: &Accepted,
    meanwhile: impl FnOnce(Relay, &AtomicUsize) -> Option<Relay>,
) -> Accepted {
    let count = AtomicUsize::new(0);
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let (client, count) = (relay.client(), &count);
                scope.spawn(move || publish(client, publisher, known, count))
            })
            .collect();
        let kept = meanwhile(relay, &count);
        let accepted = publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect();
        if let Some(relay) = kept {
            relay.wait_settled();
            relay.stop();
        }
        accepted
    })
}

#[test]
fn a_kill_in_the_midst_of_ten_thousand_publishes_loses_nothing_accepted() {
    let seen: Arc<Mutex<BTreeSet<(u64, u64)>>> = Arc::default();
    let (arrived, back) = (seen.clone(), Arc::new(AtomicBool::new(false)));
    let is_back = back.clone();
    let answered = AtomicUsize::new(0);
    let upstream = Upstream::answering(move |got| {
        if !got.is("publish") {
            return plain_answer(&got.json);
        }
        let number = |at: usize| got.json["data"][at].as_u64().unwrap();
        arrived.lock().unwrap().insert((number(0), number(1)));
        let answer = is_back.load(Ordering::Relaxed) || answered.fetch_add(1, Ordering::Relaxed) < ACKNOWLEDGED;
        if answer { plain_answer(&got.json) } else { Vec::new() }
    });
    let mut place = Place::new(&upstream);
    place.set("feed.session_requests", "1000000").set("outbox.ack_timeout", r#""10m""#);

    let accepted = publish_all(place.start_live(), &Accepted::new(), |relay, count| {
        until("the messages before the kill", || (count.load(Ordering::Relaxed) >= KILL_AT).then_some(()));
        relay.kill();
        None
    });
    let all = (PUBLISHERS * EACH) as usize;
    assert!((KILL_AT..all).contains(&accepted.len()), "killed in the midst: {}", accepted.len());
    let arrived = |key: &(u64, u64)| seen.lock().unwrap().contains(key);
    assert!(!accepted.keys().all(arrived), "something accepted has not left yet");

    back.store(true, Ordering::Relaxed);
    let relay = place.start_live();
    assert!(relay.metric("tidegate_outbox_restored_total") > 0.0);
    assert_eq!(relay.metric("tidegate_store_lost_records_total"), 0.0);
    until("every accepted message to arrive", || accepted.keys().all(arrived).then_some(()));
    relay.wait_settled();

    // Who got no answer repeats; what was accepted without its publisher knowing is the same message.
    let known: BTreeSet<&str> = accepted.values().map(String::as_str).collect();
    let rest = publish_all(relay, &accepted, |relay, _| Some(relay));
    assert_eq!(rest.len() + accepted.len(), all);
    assert!(rest.values().all(|id| !known.contains(id.as_str())), "a message per key");
    assert_eq!(seen.lock().unwrap().len(), all);
}

#[test]
fn fifty_kills_in_short_lives_under_load_break_no_promise() {
    let run = Run::new("fifty_kills", 3);
    for life in 0..LIVES {
        // In some lives nothing leaves, and times to live run out.
        let shut = life % 7 == 3;
        run.upstream.gate(if shut { Gate::Shut } else { Gate::Open });
        let relay = run.start();
        run.load(relay, |relay, progress| {
            // From the first answers to some hundreds of them.
            progress.wait_accepted(1 + life * 37 % 150);
            if life % 5 == 4 && !shut {
                run.cut(&relay);
                progress.wait_accepted(progress.accepted() + 50);
            }
            relay.kill();
            None
        });
        if shut {
            run.open();
        }
    }
    let ends = run.finish();
    println!("{LIVES} lives: {ends:?}");
    // Else the run was too tame.
    let wished = ["rejected(cancelled)", "rejected(superseded)"];
    for end in ["delivered", "rejected(no)", "expired(ttl)", "dead_lettered(outcome_unknown)"].iter().chain(&wished) {
        assert!(ends.get(*end).is_some_and(|count| *count >= 10), "{end}: {ends:?}");
    }
}
