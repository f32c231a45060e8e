//! The relay against a service, in virtual time: what leaves, in which order and when, and what each ending leads to.

mod alarms;
mod answering;
mod auditing;
mod checking;
mod credentials;
mod handover;
mod leaving;
mod limits;
mod liveness;
mod mapping;
mod numbers;
mod refreshing;
mod resuming;
mod routes;
mod service;
mod silence;
mod socketio;
mod strange;
mod switching;
mod upgrading;

use serde_json::{Value, json};

use self::service::{DIALECT, HELLO, Service};
use std::sync::Arc;
use std::time::Duration;

use crate::dialect::WireFrame;
use crate::protocol::request::Secret;
use crate::protocol::request::options::Options;
use crate::protocol::request::{ChannelRequest, Subscribe};
use crate::relay::interest::Want;
use crate::relay::outbox::Lane;
use crate::relay::pairs::{AttemptId, Disconnect, Input, Notice};
use crate::relay::time::Mono;

fn subscribe(channels: &[&str]) -> Subscribe {
    let channels = channels.iter().map(|name| ChannelRequest { name: (*name).into(), params: None }).collect();
    Subscribe { reference: None, channels, since: None, snapshot: true, options: Options::default() }
}

fn ready(limits: &str, change: impl FnOnce(&mut crate::config::Config)) -> Service {
    let mut service = Service::new(limits, change);
    service.connect();
    service
}

fn plain() -> Service {
    ready("", |_| {})
}

/// The operations and channels of messages, in order.
fn short(messages: &[Value]) -> Vec<String> {
    let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let channels = |message: &Value| match message["channels"].as_array() {
        Some(list) => list.iter().map(name).collect::<Vec<_>>().join(" "),
        None => name(&message["channel"]),
    };
    messages.iter().map(|message| format!("{} {}", name(&message["op"]), channels(message))).collect()
}

#[test]
fn everything_wanted_is_subscribed_in_one_frame_and_again_after_a_loss() {
    let mut service = Service::new("", |_| {});
    let (one, two) = (service.join(0), service.join(1));
    service.subscribe(one, &["a", "b"]);
    service.subscribe(two, &["b"]);
    assert!(service.sent.is_empty(), "nothing leaves before the connection is open");
    service.connect();
    assert_eq!(short(&service.ack_all()), ["subscribe a b"]);
    assert_eq!(service.relay.link_word(), "live");
    service.told(two);
    service.say(&json!({"event": "b", "data": 7}));
    assert_eq!(service.told(two), ["event b 7"]);
    service.close(1006);
    assert_eq!(service.told(two), ["gap b reconnect"]);
    assert_eq!(service.relay.link_word(), "backing_off");
    service.until_connect();
    service.connect();
    assert_eq!(short(&service.heard()), ["subscribe a b"]);
    assert_eq!(service.fetches, 2, "the token is read anew at each connect");
    assert_eq!(service.relay.stats.link.disconnects.get(&"closed"), 1);
}

#[test]
fn a_message_too_large_is_told_as_such() {
    let mut service = plain();
    let one = service.join(0);
    service.subscribe(one, &["a"]);
    service.ack_all();
    service.told(one);
    service.lose(Disconnect::Oversize);
    assert_eq!(service.told(one), ["gap a oversize"]);
}

#[test]
fn a_channel_that_was_never_live_has_no_gap() {
    let mut service = plain();
    let client = service.join(0);
    service.subscribe(client, &["a"]);
    service.told(client);
    service.close(1006);
    assert_eq!(service.told(client), Vec::<String>::new());
}

#[test]
fn the_next_transmit_waits_for_the_last_one() {
    let mut service = plain();
    let client = service.join(0);
    service.stuck = true;
    service.subscribe(client, &["a"]);
    service.subscribe(client, &["b"]);
    service.subscribe(client, &["c"]);
    assert_eq!(short(&service.heard()), ["subscribe a"]);
    service.stuck = false;
    service.outstanding = 0;
    service.input(Input::Transmitted { attempt: service.attempt });
    assert_eq!(short(&service.heard()), ["subscribe b c"]);
}

#[test]
fn the_bucket_holds_over_reconnects_and_spaces_evenly() {
    let mut service = ready("[limits]\nrate = \"10/s\"\nper_frame = 1", |_| {});
    let client = service.join(0);
    let names: Vec<String> = (0..60).map(|n| format!("c{n}")).collect();
    service.subscribe(client, &names.iter().map(String::as_str).collect::<Vec<_>>());
    service.pass_seconds(3);
    let mut times: Vec<Mono> = service.sent.drain(..).map(|(at, _)| at).collect();
    assert_eq!(times.len(), 31);
    service.close(1006);
    service.until_connect();
    service.connect();
    service.pass_seconds(7);
    times.extend(service.sent.drain(..).map(|(at, _)| at));
    assert_eq!(times.len(), 31 + 60, "all sixty again, and each once");
    for pair in times.windows(2) {
        assert!(pair[1].since(pair[0]) >= Duration::from_millis(100), "{pair:?}");
    }
    assert!(service.relay.stats.throttled.total() > 0);
}

#[test]
fn classes_leave_in_their_order_and_none_starves() {
    let mut service = ready("[limits]\nrate = \"1/s\"\nper_frame = 1", |config| {
        config.upstream.ping_interval = Duration::from_secs(1000);
    });
    let client = service.join(0);
    let names: Vec<String> = (0..30).map(|n| format!("c{n}")).collect();
    service.publish(client, "first", Lane::Low);
    service.subscribe(client, &names.iter().map(String::as_str).collect::<Vec<_>>());
    service.publish(client, "low", Lane::Low);
    service.publish(client, "critical", Lane::Critical);
    service.pass_seconds(9);
    let heard = short(&service.heard());
    assert_eq!(heard[0], "publish first", "the bucket was full");
    assert_eq!(heard[1], "publish critical");
    assert_eq!(heard[2], "subscribe c0");
    let low = heard.iter().position(|message| message == "publish low").expect("it leaves");
    assert!((3..10).contains(&low), "{heard:?}");
}

#[test]
fn what_upstream_does_not_answer_is_asked_again_and_then_refused() {
    let mut service = plain();
    let (one, two) = (service.join(0), service.join(1));
    service.subscribe(one, &["silent"]);
    service.subscribe(two, &["other"]);
    let heard = service.heard();
    service.say(&json!({"ok": heard[1]["id"]}));
    service.told(one);
    service.told(two);
    for _ in 0..2 {
        service.pass(Duration::from_millis(9_999));
        assert_eq!(service.heard().len(), 0);
        service.pass(Duration::from_millis(1));
        assert_eq!(short(&service.heard()), ["subscribe silent"]);
        service.say_frame(WireFrame::Pong(bytes::Bytes::new()));
    }
    service.pass_seconds(10);
    assert_eq!(service.told(one), ["error silent upstream_timeout"]);
    assert_eq!(service.told(two), Vec::<String>::new(), "told only to whom it concerns");
    assert_eq!(short(&service.heard()), ["unsubscribe silent"], "it may be subscribed all the same");
    service.subscribe(one, &["silent"]);
    assert_eq!(service.told(one), ["error silent upstream_timeout"], "remembered");
    assert_eq!(service.heard().len(), 0);
}

#[test]
fn a_refused_batch_is_split_until_the_bad_channel_is_alone() {
    let mut service = plain();
    let (good, bad) = (service.join(0), service.join(1));
    service.input(Input::Disconnected { attempt: service.attempt, reason: Disconnect::Refused });
    service.subscribe(good, &["a", "b", "c", "d", "e"]);
    service.subscribe(bad, &["bad"]);
    service.until_connect();
    service.connect();
    service.told(good);
    service.told(bad);
    let mut frames = 0;
    loop {
        let heard = service.heard();
        if heard.is_empty() {
            break;
        }
        for message in heard {
            frames += 1;
            let refuse = message["channels"].as_array().unwrap().contains(&json!("bad"));
            let answer = if refuse { "no" } else { "ok" };
            service.say(&json!({answer: message["id"], "why": "no such channel"}));
        }
    }
    assert_eq!(frames, 5);
    assert_eq!(service.told(bad), ["error bad upstream_refused"]);
    assert_eq!(service.told(good), Vec::<String>::new());
    service.relay.refresh_upstream_stats(service.now);
    assert_eq!((service.relay.stats.interest.active, service.relay.stats.interest.failed), (5, 1));
}

#[test]
fn a_busy_service_is_asked_again_after_a_while() {
    let mut service = plain();
    let client = service.join(0);
    service.subscribe(client, &["a"]);
    service.told(client);
    for _ in 0..2 {
        let heard = service.heard();
        service.say(&json!({"busy": heard[0]["id"], "why": "later"}));
        assert_eq!(service.heard().len(), 0);
        service.pass_seconds(2);
    }
    let heard = service.heard();
    service.say(&json!({"busy": heard[0]["id"], "why": "later"}));
    assert_eq!(service.told(client), ["error a upstream_refused"], "ack_attempts were made");
}

#[test]
fn a_subscription_that_upstream_ends_is_made_again_and_the_gap_told() {
    let mut service = plain();
    let client = service.join(0);
    service.subscribe(client, &["a"]);
    service.ack_all();
    service.told(client);
    service.pass_seconds(11);
    service.say(&json!({"gone": "a"}));
    assert_eq!(service.told(client), ["gap a reconnect"]);
    service.pass_seconds(1);
    assert_eq!(short(&service.ack_all()), ["subscribe a"]);
    service.say(&json!({"gone": "unknown"}));
    assert_eq!(service.relay.link_word(), "live");
}

#[test]
fn a_pause_lets_nothing_out_until_it_is_over() {
    let mut service = plain();
    let client = service.join(0);
    service.say(&json!({"slower": true, "why": "too many requests"}));
    service.subscribe(client, &["a"]);
    service.pass(Duration::from_millis(29_999));
    assert!(service.sent.is_empty(), "no ping either");
    service.pass(Duration::from_millis(1));
    assert_eq!(short(&service.heard()), ["subscribe a"]);
    assert_eq!(service.relay.link_word(), "live", "pings that could not leave were not missed");
}

#[test]
fn a_dead_connection_is_found_by_its_pings() {
    let mut service = plain();
    let client = service.join(0);
    service.subscribe(client, &["a"]);
    service.ack_all();
    service.told(client);
    service.pass_seconds(20);
    let Some((_, WireFrame::Ping(body))) = service.sent.pop() else { panic!("a ping") };
    service.pass(Duration::from_millis(40));
    service.say_frame(WireFrame::Pong(body));
    assert_eq!(service.relay.stats.link.rtt.count(), 1);
    // The next ping leaves 20 s after this one; a path this fast is given two quarters of the interval.
    service.pass(Duration::from_millis(29_959));
    assert_eq!(service.relay.link_word(), "live");
    service.pass(Duration::from_millis(1));
    assert_eq!(service.closed, [service.attempt]);
    assert_eq!(service.told(client), ["gap a reconnect"]);
    assert_eq!(service.relay.stats.link.disconnects.get(&"heartbeat"), 1);
    service.lose(Disconnect::Asked);
    assert_eq!(service.relay.stats.link.disconnects.total(), 1, "the late answer of its carrier is stale");
    service.until_connect();
}

#[test]
fn authentication_has_a_deadline() {
    let dialect = DIALECT.replace("LIMITS", "").replace("HELLO", HELLO);
    let mut service = Service::speaking(&dialect, |_| {});
    service.connect();
    service.pass_seconds(1);
    service.say(&json!({"hello": true}));
    assert_eq!(short(&service.heard()), ["auth "]);
    assert_eq!(service.relay.link_word(), "connecting");
    service.pass(Duration::from_millis(8_999));
    assert_eq!(service.relay.link_word(), "connecting");
    service.pass(Duration::from_millis(1));
    assert_eq!(service.relay.stats.link.disconnects.get(&"handshake_timeout"), 1);
    service.until_connect();
    service.connect();
    service.say(&json!({"hello": true}));
    service.say(&json!({"ready": true}));
    assert_eq!(service.relay.link_word(), "live");
}

#[test]
fn a_token_is_renewed_before_it_runs_out() {
    let renew = format!("renew = '{{\"op\":\"renew\",\"token\":{{token}},\"id\":{{id}}}}'\n{HELLO}");
    let dialect = DIALECT.replace("LIMITS", "").replace("HELLO", &renew);
    let mut service = Service::speaking(&dialect, |_| {});
    service.token = Some(Secret::new("second"));
    service.connect();
    service.say(&json!({"hello": true}));
    service.say(&json!({"ready": true, "ttl": 20}));
    service.heard();
    service.pass(Duration::from_millis(14_999));
    assert_eq!(service.heard().len(), 0);
    service.pass(Duration::from_millis(1_001));
    let renewal = service.heard();
    assert_eq!((&renewal[0]["op"], &renewal[0]["token"]), (&json!("renew"), &json!("second")));
    service.say(&json!({"renewed": renewal[0]["id"], "ttl": 10}));
    service.pass_seconds(8);
    assert_eq!(service.heard().len(), 1);
    service.pass_seconds(10);
    assert_eq!(service.heard().len(), 0, "one at a time");
}

#[test]
fn a_token_that_cannot_be_renewed_is_taken_to_a_new_connection() {
    let dialect = DIALECT.replace("LIMITS", "").replace("HELLO", HELLO);
    let mut service = Service::speaking(&dialect, |_| {});
    service.token = Some(Secret::new("second"));
    service.connect();
    service.say(&json!({"hello": true}));
    service.say(&json!({"ready": true, "ttl": 20}));
    service.pass_seconds(16);
    assert_eq!((service.closed.len(), service.connects.len()), (0, 1), "beside the one that serves");
}

#[test]
fn a_carrier_that_never_answers_is_given_up() {
    let mut service = Service::new("", |_| {});
    let first = service.connects.pop_front().unwrap();
    service.pass_seconds(25);
    assert_eq!(service.closed, [first]);
    service.until_connect();
    service.input(Input::Connected { attempt: first, peer: String::new() });
    assert_eq!(service.relay.link_word(), "connecting", "what is said of an old attempt is stale");
}

#[test]
fn denied_credentials_are_read_anew_once_and_then_slowly() {
    let mut service = Service::new("", |_| {});
    for (slow, fetches) in [(false, 2), (true, 3), (true, 4)] {
        service.attempt = service.connects.pop_front().unwrap();
        service.lose(Disconnect::BadStatus { status: 401, retry_after: None, detail: String::new() });
        let wait = service.until_connect();
        assert_eq!(wait >= Duration::from_secs(30), slow, "{wait:?}");
        assert_eq!(service.fetches, fetches);
    }
    assert_eq!(service.relay.stats.link.disconnects.get(&"denied"), 3);
}

#[test]
fn a_message_that_denies_ends_the_attempt() {
    let mut service = plain();
    service.say(&json!({"denied": true}));
    assert_eq!((service.closed.len(), service.relay.link_word()), (1, "backing_off"));
}

#[test]
fn a_fatal_close_is_final_until_somebody_asks() {
    let mut service = plain();
    service.close(4001);
    assert_eq!(service.relay.link_word(), "given_up");
    assert_eq!(service.relay.upstream_due(), None);
    service.relay.reconnect_upstream(service.now);
    service.pass(Duration::ZERO);
    service.connect();
    assert_eq!(service.relay.link_word(), "live");
}

#[test]
fn upstream_may_ask_for_a_new_connection() {
    let mut service = ready("rotate = \"break_before_make\"", |_| {});
    service.pass_seconds(10);
    service.say(&json!({"bye": true}));
    assert_eq!(service.closed.len(), 1);
    assert_eq!(service.until_connect(), Duration::ZERO, "it was stable");
}

#[test]
fn pausing_closes_and_stays_closed_and_acks_on_the_way_out_count() {
    let mut service = plain();
    let client = service.join(0);
    service.publish(client, "a", Lane::Medium);
    let publish = service.heard();
    service.told(client);
    service.relay.pause_upstream(service.now);
    service.turn();
    assert_eq!((service.closed.len(), service.relay.link_word()), (1, "paused"));
    service.say(&json!({"ok": publish[0]["id"]}));
    assert_eq!(service.told(client), ["outcome delivered"]);
    service.lose(Disconnect::Closed { code: 1000, reason: String::new() });
    service.pass_seconds(1000);
    assert!(service.connects.is_empty());
    service.relay.reconnect_upstream(service.now);
    service.pass_seconds(1);
    assert!(service.connects.is_empty(), "the pause has to be ended first");
    service.relay.resume_upstream(service.now);
    service.pass(Duration::ZERO);
    assert_eq!(service.connects.len(), 1);
    assert_eq!(service.relay.stats.link.disconnects.get(&"asked"), 1);
}

#[test]
fn reconnecting_replaces_the_connection_at_once() {
    let mut service = plain();
    service.relay.reconnect_upstream(service.now);
    service.turn();
    assert_eq!(service.closed.len(), 1);
    assert!(service.connects.is_empty(), "one connection at a time");
    service.pass_seconds(6);
    assert_eq!(service.connects.len(), 1, "a carrier that does not close is not waited for");
}

#[test]
fn leaving_ends_in_nothing() {
    let mut service = plain();
    service.relay.leave_upstream(service.now);
    service.turn();
    assert!(!service.relay.upstream_is_gone());
    service.close(1000);
    assert!(service.relay.upstream_is_gone());
    assert_eq!((service.relay.link_word(), service.relay.upstream_due()), ("idle", None));
}

#[test]
fn beyond_the_cap_channels_wait_until_there_is_room() {
    let mut service = ready("[limits]\nchannels = 2", |_| {});
    let (one, two) = (service.join(0), service.join(1));
    service.subscribe(one, &["a", "b"]);
    service.ack_all();
    service.subscribe(two, &["c"]);
    assert_eq!(service.told(two)[1], "subscribed c waiting");
    assert_eq!(service.heard().len(), 0);
    service.unsubscribe(one, &["a"]);
    assert_eq!(short(&service.ack_all()), ["unsubscribe a", "subscribe c"], "nothing lingers while another one waits");
}

#[test]
fn an_unsubscribe_leaves_before_a_subscribe() {
    let mut service = ready("[limits]\nrate = \"1/s\"", |_| {});
    let client = service.join(0);
    service.subscribe(client, &["a"]);
    service.ack_all();
    service.unsubscribe(client, &["a"]);
    service.pass(Duration::from_millis(4_500));
    service.publish(client, "x", Lane::Medium);
    service.ack_all();
    service.pass(Duration::from_millis(500));
    service.subscribe(client, &["b"]);
    service.pass_seconds(3);
    assert_eq!(short(&service.heard()), ["unsubscribe a", "subscribe b"]);
}

#[test]
fn a_hundred_thousand_channels_come_live_in_full_frames() {
    let mut service = ready("[limits]\nper_frame = 1000", |config| config.feed.max_channels = 100_000);
    for n in 0..100_000 {
        let name = format!("c{n}");
        let want = Want { identity: &name, name: &name, params: None, priority: Lane::Medium, linger: Duration::ZERO };
        service.relay.interest.want(service.now.mono, want).unwrap();
    }
    service.relay.stirred = true;
    service.turn();
    assert_eq!(service.ack_all().len(), 100);
    service.relay.refresh_upstream_stats(service.now);
    assert_eq!(service.relay.stats.interest.active, 100_000);
    service.close(1006);
    service.until_connect();
    service.connect();
    assert_eq!(service.ack_all().len(), 100);
}

#[test]
fn the_link_is_shown_without_secrets() {
    let service = Service::new("", |config| {
        config.upstream.url = "wss://user:secret@service.example/stream?key=secret".to_owned();
    });
    let shown: Value = serde_json::from_slice(&service.relay.link_json(service.now)).unwrap();
    assert_eq!(shown["endpoint"], "wss://service.example/stream");
    assert_eq!(shown["state"], "connecting");
}
