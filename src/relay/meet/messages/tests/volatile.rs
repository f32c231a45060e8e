//! Messages that leave now or never.

use super::*;
use crate::relay::stats::VolatileEnd;

fn volatile(data: &str) -> Publish {
    Publish { volatile: true, ..message("orders", data) }
}

fn ends(house: &House) -> [u64; 3] {
    [VolatileEnd::Sent, VolatileEnd::Refused, VolatileEnd::Lost].map(|end| house.relay.stats.outbox.volatile.get(&end))
}

#[test]
fn it_leaves_at_once_is_told_once_and_never_stored() {
    let mut house = House::new("plain");
    let session = house.join();
    house.stuck = true;
    house.publish(session, vec![volatile("1")], false);
    let sent = house.sent();
    assert_eq!((sent.len(), &sent[0]["data"]), (1, &1.into()));
    assert_eq!(house.told(session), Vec::<String>::new(), "its bytes are not with the kernel yet");
    house.stuck = false;
    let attempt = house.attempt.unwrap();
    house.input(Input::Transmitted { attempt });
    assert_eq!(house.told(session), ["ok "]);
    // What upstream says to it concerns nobody.
    house.receive(&json!({"type": "ack", "id": sent[0]["id"]}));
    house.receive(&json!({"type": "ack", "id": sent[0]["id"]}));
    assert_eq!((house.told(session), house.disk.messages.len()), (vec![], 0));
    assert_eq!(house.relay.stats.outbox.unknown_acks, 0);
    assert_eq!(ends(&house), [1, 0, 0]);
}

#[test]
fn over_http_a_list_says_of_each_what_became_of_it() {
    let mut house = House::new("plain");
    let of = |messages| CallRequest::Publish { messages, atomic: false, wait: Duration::ZERO };
    let call = house.call(of(vec![volatile("1")]));
    assert_eq!(house.answer(call).unwrap(), (Ok(200), json!({"state": "sent"})));
    let call = house.call(of(vec![volatile("2"), message("orders", "3")]));
    let (status, body) = house.answer(call).unwrap();
    let states = [&body["messages"][0]["state"], &body["messages"][1]["state"]];
    assert_eq!((status, states), (Ok(202), [&"sent".into(), &"accepted".into()]));
}

#[test]
fn without_a_connection_it_is_refused_and_nothing_waits_for_one() {
    let mut house = House::new("plain");
    let session = house.join();
    house.down = true;
    house.cut();
    house.publish(session, vec![volatile("1")], false);
    assert_eq!(house.told(session), ["error unavailable"]);
    house.down = false;
    house.wait(120 * SECOND);
    assert!(house.attempt.is_some());
    assert!(house.sent().iter().all(|sent| sent["type"] != "publish"));
    assert_eq!(ends(&house), [0, 1, 0]);
}

#[test]
fn a_connection_that_is_lost_meanwhile_is_told_of_what_left_and_of_what_did_not() {
    let mut house = House::new("plain");
    let session = house.join();
    house.stuck = true;
    house.publish(session, vec![volatile("1")], false);
    house.publish(session, vec![volatile("2")], false);
    assert_eq!(house.sent().len(), 1, "one Transmit at a time");
    house.cut();
    assert_eq!(house.told(session), ["error unavailable", "error unavailable"]);
    assert_eq!(ends(&house), [0, 1, 1]);
}

#[test]
fn what_cannot_leave_now_is_refused() {
    let mut house = House::new("binance");
    let session = house.join();
    house.publish(session, vec![volatile("1")], false);
    assert_eq!(house.told(session), ["error not_supported"], "checked as every message is");

    let mut house = House::new("plain");
    let session = house.join();
    house.stuck = true;
    house.publish(session, vec![volatile("0")], false);
    house.publish(session, (0..300).map(|n| volatile(&n.to_string())).collect(), false);
    let told = house.told(session);
    assert!(told.iter().all(|told| told == "error limit_exceeded"), "{told:?}");
    assert_eq!(told.len(), 300 - 256, "one is with the carrier, so many wait");
}

#[test]
fn what_the_bucket_has_no_token_for_is_refused_and_so_is_what_needs_a_subscription() {
    // One frame at a time, ten a second; who publishes has to be subscribed.
    let mut house = House::new("pusher");
    let session = house.join();
    house.receive(&json!({"event": "pusher:connection_established", "data": "{\"socket_id\":\"1.1\"}"}));
    let of = |n: u32| Publish { kind: Some("x".into()), ..volatile(&n.to_string()) };
    house.publish(session, (0..10).map(of).collect(), false);
    let told = house.told(session);
    assert_eq!(told[..9], vec!["error limit_exceeded"; 9]);
    assert_eq!(told[9..], ["error unavailable"], "the one that there was a token for");
    house.wait(60 * SECOND);
    assert!(house.sent().iter().all(|sent| sent["event"] != "client-x"), "and none of them later");
}
