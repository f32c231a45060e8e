//! One upstream channel as many local ones: who is told what, and what is asked of upstream.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::service::Service;
use super::{short, subscribe};
use crate::config::{AccessConfig, AccessMode, ChannelPolicy, Config, StaleAfter, TokenGrant};
use crate::protocol::frame::Format;
use crate::protocol::request::{Publish, Request, Secret, Subscribe};
use crate::relay::access::Access;
use crate::relay::outbox::Lane;
use crate::relay::pairs::{Input, SessionId};

/// Events and snapshots whose elements have keys, numbered where `GAP` says so.
const DIALECT: &str = r#"
dialect = 1
name = "service"
GAP
[send]
subscribe = '{"op":"subscribe","channels":{channel*},"params":{params?},"id":{id}}'
unsubscribe = '{"op":"unsubscribe","channels":{channel*},"id":{id}}'
publish = '{"op":"publish","channel":{channel},"key":{key?},"data":{data},"id":{id}}'
[[on]]
match = { "/all" = { exists = true } }
is = "snapshot"
channel = "/all"
seq = "/n"
each = { at = "/list", key = "/id", data = "" }
[[on]]
match = { "/event" = { exists = true } }
is = "event"
channel = "/event"
key = "/id"
seq = "/n"
data = "/data"
[[on]]
match = { "/ok" = { exists = true } }
is = "ack"
req = "/ok"
[[on]]
match = { "/no" = { exists = true } }
is = "error"
req = "/no"
message = "/why"
[[on]]
match = { "/lost" = { exists = true } }
is = "event"
channel = "/lost"
key = "/id"
lost = true
"#;

fn mapping(pattern: &str, upstream: &str) -> ChannelPolicy {
    ChannelPolicy { pattern: pattern.into(), upstream: Some(upstream.into()), ..ChannelPolicy::default() }
}

fn services(config: &mut Config) {
    config.channels = vec![mapping("service:*", "status"), ChannelPolicy::default()];
}

fn speaking(gap: &str, change: impl FnOnce(&mut Config)) -> Service {
    let mut service = Service::speaking(&DIALECT.replace("GAP", gap), change);
    service.connect();
    service
}

fn all(list: &[(&str, i64)]) -> Value {
    json!({"all": "status", "list": list.iter().map(|(id, up)| json!({"id": id, "up": up})).collect::<Vec<_>>()})
}

fn one(id: &str, data: i64) -> Value {
    json!({"event": "status", "id": id, "data": data})
}

/// What was told so far does not matter.
fn forget(service: &mut Service, sessions: &[SessionId]) {
    for session in sessions {
        service.told(*session);
    }
}

#[test]
fn many_local_channels_are_one_subscription_held_while_any_is_wanted() {
    let mut service = speaking("", services);
    let (a, b) = (service.join(0), service.join(1));
    service.subscribe(a, &["service:a", "service:b"]);
    service.subscribe(b, &["service:b"]);
    assert_eq!(short(&service.ack_all()), ["subscribe status"]);
    service.unsubscribe(a, &["service:a", "service:b"]);
    service.pass_seconds(10);
    assert_eq!(short(&service.heard()), Vec::<String>::new(), "b wants it still");
    service.unsubscribe(b, &["service:b"]);
    service.pass_seconds(6);
    assert_eq!(short(&service.heard()), ["unsubscribe status"]);
}

#[test]
fn an_event_finds_its_local_channel_by_key_and_nobody_else_sees_it() {
    let mut service = speaking("", services);
    let (a, b, whole) = (service.join(0), service.join(1), service.join(2));
    service.subscribe(a, &["service:a"]);
    service.subscribe(b, &["service:b"]);
    service.subscribe(whole, &["status"]);
    service.ack_all();
    forget(&mut service, &[a, b, whole]);
    service.say(&one("a", 1));
    service.say(&one("b", 2));
    assert_eq!(service.told(a), ["event service:a 1"]);
    assert_eq!(service.told(b), ["event service:b 2"]);
    assert_eq!(service.told(whole), ["event status 1", "event status 2"]);
    assert_eq!(service.relay.stats.feed.dropped.total(), 0);
}

#[test]
fn who_comes_later_gets_the_state_that_upstream_told_before() {
    let mut service = speaking("", services);
    let a = service.join(0);
    service.subscribe(a, &["service:a"]);
    service.ack_all();
    service.say(&all(&[("a", 1), ("b", 2)]));
    let b = service.join(1);
    service.subscribe(b, &["service:b"]);
    let told: Vec<Value> = service.told.iter().filter(|(to, _)| *to == b).map(|(_, frame)| frame.clone()).collect();
    let snapshot = told.iter().find(|frame| frame["kind"] == "snapshot").expect("its state is known");
    assert_eq!(snapshot["values"][0]["data"], json!({"id": "b", "up": 2}));
    assert!(snapshot["values"][0].get("key").is_none(), "the key became the channel: {snapshot}");
}

#[test]
fn a_snapshot_of_all_keys_changes_those_it_states_and_ends_those_it_does_not() {
    let mut service = speaking("", services);
    let (a, b, c) = (service.join(0), service.join(1), service.join(2));
    service.subscribe(a, &["service:a"]);
    service.subscribe(b, &["service:b"]);
    service.subscribe(c, &["service:c"]);
    service.ack_all();
    service.say(&all(&[("a", 1), ("b", 2)]));
    forget(&mut service, &[a, b, c]);
    service.say(&all(&[("a", 3), ("c", 4)]));
    assert_eq!(service.told(a), [r#"event service:a {"id":"a","up":3}"#]);
    assert_eq!(service.told(b), ["reset service:b upstream"], "it is gone upstream");
    assert_eq!(service.told(c), [r#"event service:c {"id":"c","up":4}"#]);
    service.say(&all(&[("a", 3)]));
    assert_eq!(service.told(b), Vec::<String>::new(), "told once");
    assert_eq!(service.told(c), ["reset service:c upstream"]);
    service.say(&all(&[]));
    assert_eq!(service.told(a).last().unwrap(), "reset service:a upstream");
    let late = service.join(3);
    service.subscribe(late, &["service:b"]);
    assert!(!service.told(late).iter().any(|frame| frame.starts_with("snapshot")), "nothing is known of it");
}

#[test]
fn a_loss_and_a_refusal_upstream_are_told_on_every_local_channel() {
    let mut service = speaking("", services);
    let (a, b) = (service.join(0), service.join(1));
    service.subscribe(a, &["service:a"]);
    service.subscribe(b, &["service:b"]);
    service.ack_all();
    forget(&mut service, &[a, b]);
    service.say(&json!({"lost": "status", "id": "a"}));
    assert_eq!(service.told(a)[0], "gap service:a upstream_seq");
    assert_eq!(service.told(b), ["gap service:b upstream_seq"]);
    service.close(1006);
    assert_eq!(service.told(a), ["gap service:a reconnect"]);
    assert_eq!(service.told(b), ["gap service:b reconnect"]);
    service.until_connect();
    service.connect();
    let sent = service.heard();
    assert_eq!(short(&sent), ["subscribe status"]);
    service.say(&json!({"no": sent[0]["id"], "why": "closed"}));
    assert_eq!(service.told(a), ["error service:a upstream_refused"]);
    assert_eq!(service.told(b), ["error service:b upstream_refused"]);
}

#[test]
fn numbers_count_the_upstream_channel_and_a_hole_may_be_anybodys() {
    let mut service = speaking("[gap]\nscope = \"channel\"\nthen = \"report\"", services);
    let (a, b) = (service.join(0), service.join(1));
    service.subscribe(a, &["service:a"]);
    service.subscribe(b, &["service:b"]);
    service.ack_all();
    forget(&mut service, &[a, b]);
    let numbered = |id: &str, n: u64| json!({"event": "status", "id": id, "n": n, "data": n});
    service.say(&json!({"all": "status", "n": 1, "list": [{"id": "a"}, {"id": "b"}]}));
    assert_eq!((service.told(a).len(), service.told(b).len()), (1, 1), "one number for all elements");
    service.say(&numbered("a", 2));
    service.say(&numbered("b", 3));
    assert_eq!(
        (service.told(a), service.told(b)),
        (vec!["event service:a 2".into()], vec!["event service:b 3".into()])
    );
    service.say(&numbered("b", 3));
    assert_eq!(service.told(b), Vec::<String>::new(), "a duplicate");
    service.say(&numbered("a", 6));
    assert_eq!(service.told(a), ["gap service:a upstream_seq", "event service:a 6"]);
    assert_eq!(service.told(b), ["gap service:b upstream_seq"]);
    service.close(1006);
    service.until_connect();
    service.connect();
    service.ack_all();
    assert_eq!(service.told(a), Vec::<String>::new(), "the numbers will show what was missed");
    service.say(&numbered("b", 9));
    assert_eq!(service.told(a), ["gap service:a upstream_seq"]);
}

#[test]
fn the_policy_that_matches_first_decides_also_for_keys() {
    let mut service = speaking("", |config| {
        services(config);
        let own = ChannelPolicy { pattern: "service:own".into(), ..ChannelPolicy::default() };
        config.channels.insert(0, own);
    });
    let client = service.join(0);
    service.subscribe(client, &["service:own", "service:a"]);
    assert_eq!(short(&service.ack_all()), ["subscribe service:own status"]);
    service.told(client);
    service.say(&one("own", 1));
    assert_eq!(service.told(client), Vec::<String>::new(), "that name is a channel of its own");
}

#[test]
fn a_mapping_may_fix_params_and_an_alias_is_a_channel_by_another_name() {
    let mut service = speaking("", |config| {
        let mut fixed = mapping("service:*", "status");
        fixed.params = Some(r#"{"region":"eu"}"#.into());
        config.channels = vec![fixed, mapping("blocks", "newHeads"), ChannelPolicy::default()];
    });
    let client = service.join(0);
    service.subscribe(client, &["service:a", "blocks"]);
    let sent = service.ack_all();
    assert_eq!(sent[0]["params"], json!({"region": "eu"}));
    service.told(client);
    service.say(&one("a", 1));
    service.say(&json!({"event": "newHeads", "data": 2}));
    assert_eq!(service.told(client), ["event service:a 1", "event blocks 2"]);
}

#[test]
fn the_whole_is_silent_for_all_and_a_part_only_for_itself() {
    let mut service = speaking("", |config| {
        let watched = |pattern: &str, seconds: u64| ChannelPolicy {
            pattern: pattern.into(),
            stale_after: StaleAfter::After(Duration::from_secs(seconds)),
            ..ChannelPolicy::default()
        };
        let parts = ChannelPolicy { upstream: Some("status".into()), ..watched("service:*", 3) };
        config.channels = vec![parts, watched("status", 5), ChannelPolicy::default()];
    });
    let (a, b) = (service.join(0), service.join(1));
    service.subscribe(a, &["service:a"]);
    service.subscribe(b, &["service:b"]);
    service.ack_all();
    service.say(&all(&[("a", 1), ("b", 2)]));
    forget(&mut service, &[a, b]);
    for n in 0..3 {
        service.pass_seconds(2);
        service.say(&one("b", n));
    }
    assert_eq!(service.told(a), ["stale service:a mark"], "the others speak");
    assert_eq!(short(&service.heard()), Vec::<String>::new(), "nothing is wrong upstream");
    forget(&mut service, &[b]);
    service.pass(Duration::from_millis(5_100));
    assert_eq!(service.told(b), ["stale service:b mark", "stale service:b mark"], "itself, and then the whole");
    service.say(&one("a", 9));
    assert_eq!(service.told(a).last().unwrap(), "event service:a 9");
}

#[test]
fn two_names_of_one_upstream_channel_get_the_same() {
    let mut service = speaking("", |config| {
        config.channels = vec![mapping("blocks", "newHeads"), ChannelPolicy::default()];
    });
    let client = service.join(0);
    service.subscribe(client, &["blocks", "newHeads"]);
    assert_eq!(short(&service.ack_all()), ["subscribe newHeads"]);
    service.told(client);
    service.say(&json!({"event": "newHeads", "data": 1}));
    assert_eq!(service.told(client), ["event blocks 1", "event newHeads 1"]);
}

#[test]
fn what_stands_for_the_whole_is_not_evicted_under_its_parts() {
    let mut service = speaking("[gap]\nscope = \"channel\"", |config| {
        services(config);
        config.feed.max_channels = 4;
    });
    let client = service.join(0);
    service.subscribe(client, &["service:a"]);
    service.ack_all();
    for n in 1..9 {
        service.say(&json!({"event": "status", "id": format!("k{n}"), "n": n, "data": n}));
    }
    service.told(client);
    service.say(&json!({"event": "status", "id": "a", "n": 10, "data": 1}));
    assert_eq!(service.told(client), ["gap service:a upstream_seq", "event service:a 1"]);
}

fn publish(channel: &str, key: Option<&str>) -> Request {
    let Subscribe { mut channels, .. } = subscribe(&[channel]);
    let message = Publish {
        channel: channels.remove(0),
        key: key.map(Into::into),
        kind: None,
        data: "1".into(),
        idempotency_key: None,
        order_key: None,
        coalesce: false,
        volatile: false,
        optimistic: None,
        lane: Lane::Medium,
        ttl: None,
        on_unknown: None,
    };
    Request::Publish { reference: None, messages: vec![message], atomic: false }
}

#[test]
fn publishing_to_a_local_channel_names_its_key_and_no_other() {
    let mut service = speaking("", services);
    let client = service.join(0);
    service.told(client);
    service.input(Input::Request { session: client, request: Ok(publish("service:a", None)) });
    let sent = service.heard();
    assert_eq!((&sent[0]["channel"], &sent[0]["key"]), (&json!("status"), &json!("a")));
    service.told(client);
    service.input(Input::Request { session: client, request: Ok(publish("service:a", Some("b"))) });
    assert_eq!(service.told(client), ["error invalid"], "rights to one key are no rights to another");
    assert_eq!(service.heard(), Vec::<Value>::new());
}

fn refresh(service: &mut Service, client: SessionId, channel: &str, key: Option<&str>) {
    let Subscribe { mut channels, .. } = subscribe(&[channel]);
    let request = Request::Refresh { reference: None, channel: channels.remove(0), key: key.map(Into::into) };
    service.input(Input::Request { session: client, request: Ok(request) });
}

#[test]
fn refreshing_a_local_channel_asks_for_its_key_and_no_other() {
    let state = "[send]\nstate = '{\"op\":\"get\",\"channel\":{channel},\"key\":{key?},\"id\":{id}}'";
    let mut service = Service::speaking(&DIALECT.replace("GAP", "").replacen("[send]", state, 1), services);
    service.connect();
    let client = service.join(0);
    service.subscribe(client, &["service:a", "status"]);
    service.ack_all();
    service.told(client);
    refresh(&mut service, client, "service:a", Some("b"));
    assert_eq!(service.told(client), ["error invalid"], "rights to one key are no rights to another");
    assert_eq!(service.heard(), Vec::<Value>::new());
    for key in [None, Some("a")] {
        refresh(&mut service, client, "service:a", key);
        let asked = service.ack_all();
        assert_eq!((&asked[0]["channel"], &asked[0]["key"]), (&json!("status"), &json!("a")));
        assert_eq!(service.told(client), ["ok"]);
        service.pass_seconds(5);
    }
    refresh(&mut service, client, "status", Some("b"));
    assert_eq!(service.heard()[0]["key"], json!("b"), "the whole has all keys");
}

/// One principal per service.
fn access() -> AccessConfig {
    let grant = |name: &str| TokenGrant {
        name: name.into(),
        token: Secret::new(name),
        read: vec![format!("service:{name}")],
        write: vec![],
    };
    let config = Config::default().access;
    AccessConfig { mode: AccessMode::Tokens, tokens: vec![grant("a"), grant("b")], ..config }
}

#[test]
fn rights_to_one_local_channel_show_nothing_of_the_others() {
    let mut service = speaking("", |config| {
        services(config);
        config.access = access();
    });
    let rights = Access::new(&access());
    let mut join = |index: u32, name: &str| {
        let session = SessionId { index, generation: 1 };
        let principal = rights.authenticate(Some(name)).unwrap();
        let joined = Input::Joined { session, principal, format: Format::WebSocket, subscribe: None };
        service.input(joined);
        session
    };
    let (a, b) = (join(0, "a"), join(1, "b"));
    service.subscribe(a, &["service:a", "service:b", "status", "service:*"]);
    service.subscribe(b, &["service:b"]);
    service.ack_all();
    let refused = service.told(a);
    assert_eq!(refused.iter().filter(|frame| frame.ends_with("forbidden")).count(), 2, "{refused:?}");
    service.say(&all(&[("a", 1), ("b", 2), ("c", 3)]));
    service.say(&one("b", 4));
    service.say(&one("c", 5));
    service.close(1006);
    let told = service.told(a);
    assert!(told.iter().all(|frame| frame.contains("service:a")), "{told:?}");
    assert_eq!(told, [r#"event service:a {"id":"a","up":1}"#, "gap service:a reconnect"]);
}

#[test]
fn a_key_that_no_client_can_name_is_dropped_and_counted() {
    let mut service = speaking("", services);
    let client = service.join(0);
    service.subscribe(client, &["service:a"]);
    service.ack_all();
    service.say(&one(&"k".repeat(300), 1));
    assert_eq!(service.relay.stats.feed.dropped.total(), 1);
    assert_eq!(service.relay.feed.iter().count(), 3, "$status, status and service:a");
}

#[test]
fn a_reload_ends_what_is_mapped_otherwise_and_says_so() {
    let mut service = speaking("", services);
    let client = service.join(0);
    service.subscribe(client, &["service:a"]);
    service.ack_all();
    service.say(&one("a", 1));
    service.told(client);
    let mut same = Config::default();
    services(&mut same);
    service.input(Input::Reload(Arc::new(same)));
    service.say(&one("a", 2));
    assert_eq!(service.told(client), ["event service:a 2"], "the same mapping goes on");
    let channels = vec![mapping("service:*", "services"), ChannelPolicy::default()];
    let other = Config { channels, ..Config::default() };
    service.input(Input::Reload(Arc::new(other)));
    assert_eq!(service.told(client), ["error service:a unavailable"]);
    service.subscribe(client, &["service:a"]);
    assert_eq!(short(&service.ack_all()), ["subscribe services"]);
    service.pass_seconds(6);
    assert_eq!(short(&service.heard()), ["unsubscribe status"]);
}

#[test]
fn where_everything_arrives_unasked_keys_are_mapped_too() {
    let dialect = DIALECT.replace("GAP", "").replace("subscribe = '", "ping = '").replace("unping = '", "pong = '");
    let dialect =
        dialect.replace(r#""channels":{channel*},"params":{params?},"#, "").replace(r#""channels":{channel*},"#, "");
    let mut service = Service::speaking(&dialect, services);
    service.connect();
    let client = service.join(0);
    service.subscribe(client, &["service:a"]);
    service.told(client);
    service.say(&all(&[("a", 1), ("b", 2)]));
    service.say(&all(&[("b", 3)]));
    assert_eq!(service.told(client), [r#"event service:a {"id":"a","up":1}"#, "reset service:a upstream"]);
    let mut same = Config::default();
    services(&mut same);
    service.input(Input::Reload(Arc::new(same)));
    assert_eq!(service.told(client), Vec::<String>::new());
}
