//! Sessions and feed together, in virtual time: what a client is told, and in which order.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::config::{AccessMode, Config, TokenGrant};
use crate::dialect::{Dialect, Event, Fold, Role, Target};
use crate::protocol::codes::CloseCode;
use crate::protocol::frame::{Batch, Format};
use crate::protocol::request::options::Options;
use crate::protocol::request::{ChannelRequest, Request, Secret, Subscribe};
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::pairs::{AttemptId, Input, LeftReason, Output, SessionId};
use crate::relay::record::Restored;
use crate::relay::time::{Mono, Time, Wall};

const DIALECT: &str = r#"
dialect = 1
name = "test"
[[on]]
match = { "/ignore" = true }
is = "ignore"
"#;

mod delta;
mod options;

/// A relay whose dialect subscribes nothing, and clients that read as long as they are not stuck.
struct House {
    relay: Relay,
    now: Time,
    next: u32,
    stuck: BTreeSet<SessionId>,
    batches: Vec<(SessionId, Arc<Batch>)>,
    closed: Vec<(SessionId, CloseCode)>,
}

impl House {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let dialect = Dialect::parse("test", DIALECT).unwrap();
        let now = Time { mono: Mono(1_000_000_000), wall: Wall(1_795_231_888_000_000_000) };
        let relay = Relay::new(Arc::new(config), Arc::new(dialect), Restored::default(), 1, now);
        House { relay, now, next: 0, stuck: BTreeSet::new(), batches: Vec::new(), closed: Vec::new() }
    }

    fn input(&mut self, input: Input) {
        self.relay.handle_input(self.now, input);
        self.turn();
    }

    fn turn(&mut self) {
        while let Some(output) = self.relay.poll_output(self.now) {
            match output {
                Output::Deliver { session, batch } => {
                    self.batches.push((session, batch));
                    if !self.stuck.contains(&session) {
                        self.relay.handle_input(self.now, Input::Delivered { session, at: self.now.mono });
                    }
                }
                Output::Close { session, code } => {
                    self.closed.push((session, code));
                    let reason = LeftReason::Client;
                    self.relay.handle_input(self.now, Input::Left { session, reason });
                }
                _ => {}
            }
        }
    }

    fn wait(&mut self, d: Duration) {
        self.now = self.now.after(d);
        self.relay.handle_timeout(self.now);
        self.turn();
    }

    fn join(&mut self) -> SessionId {
        self.join_as(Principal::local())
    }

    fn join_as(&mut self, principal: Principal) -> SessionId {
        let session = SessionId { index: self.next, generation: 1 };
        self.next += 1;
        let principal = Arc::new(principal);
        self.input(Input::Joined { session, principal, format: Format::WebSocket, subscribe: None });
        session
    }

    fn ask(&mut self, session: SessionId, request: Request) {
        self.input(Input::Request { session, request: Ok(request) });
    }

    fn subscribe(&mut self, session: SessionId, channels: &[&str]) {
        self.ask(session, Request::Subscribe(subscribe(channels)));
    }

    fn resume(&mut self, session: SessionId, channels: &[&str], since: &str) {
        let request = Subscribe { since: Some(since.into()), ..subscribe(channels) };
        self.ask(session, Request::Subscribe(request));
    }

    /// An event without a turn after it.
    fn event(&mut self, channel: &str, data: &str) {
        self.typed_event(channel, None, data);
    }

    fn typed_event(&mut self, channel: &str, kind: Option<&str>, data: &str) {
        self.any_event(channel, None, kind, data, (Role::Event, Fold::Replace));
    }

    fn keyed_event(&mut self, channel: &str, key: &str, data: &str) {
        self.any_event(channel, Some(key), None, data, (Role::Event, Fold::Replace));
    }

    fn any_event(
        &mut self,
        channel: &str,
        key: Option<&str>,
        kind: Option<&str>,
        data: &str,
        (role, fold): (Role, Fold),
    ) {
        let event = Event {
            target: Target::Name(channel),
            key: key.map(Cow::Borrowed),
            kind: kind.map(Cow::Borrowed),
            id: None,
            sequence: None,
            source_time: None,
            data: Cow::Borrowed(data.as_bytes()),
            role,
            fold,
        };
        self.relay.admit(self.now, AttemptId(1), &event);
    }

    /// The frames a session got since the last look.
    fn frames(&mut self, session: SessionId) -> Vec<Value> {
        let (mine, rest) = std::mem::take(&mut self.batches).into_iter().partition(|(id, _)| *id == session);
        self.batches = rest;
        let mine: Vec<(SessionId, Arc<Batch>)> = mine;
        let texts = mine.iter().flat_map(|(_, batch)| batch.items());
        texts.map(|item| serde_json::from_slice(item.text()).unwrap()).collect()
    }

    /// The same in short: kind, and data or reason or verdict.
    fn short(&mut self, session: SessionId) -> Vec<String> {
        self.frames(session).iter().map(short).collect()
    }

    fn position(&self) -> String {
        self.relay.feed.position().to_string()
    }
}

fn subscribe(channels: &[&str]) -> Subscribe {
    let channels = channels.iter().map(|name| ChannelRequest { name: (*name).into(), params: None }).collect();
    Subscribe { reference: None, channels, since: None, snapshot: true, options: Options::default() }
}

fn short(frame: &Value) -> String {
    let text = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
    match frame["kind"].as_str().unwrap() {
        "event" => format!("{}={}", text("channel"), frame["data"]),
        "subscribed" if frame["resumed"] == true => format!("resumed {}", text("channel")),
        "subscribed" => format!("subscribed {}", text("channel")),
        "snapshot" => format!("snapshot {} {}", text("channel"), frame["values"].as_array().unwrap().len()),
        "gap" => format!("gap {} {} {}", text("reason"), frame["from"], frame["to"]),
        "conflated" => format!("conflated {}", frame["count"]),
        kind @ ("reset" | "closing") => format!("{kind} {}", text("reason")),
        "error" => format!("error {}", text("code")),
        kind => kind.to_owned(),
    }
}

#[test]
fn hello_comes_first_then_a_snapshot_then_everything_after_it() {
    let mut house = House::new(|_| {});
    house.event("c", "1");
    let client = house.join();
    house.subscribe(client, &["c", "d"]);
    house.event("c", "2");
    house.event("d", "3");
    house.turn();
    assert_eq!(
        house.short(client),
        ["hello", "subscribed c", "snapshot c 1", "subscribed d", "c=2", "d=3"],
        "d has no state yet, so no snapshot"
    );
}

#[test]
fn sessions_at_the_same_place_share_one_batch() {
    let mut house = House::new(|_| {});
    let clients: Vec<SessionId> = (0..3).map(|_| house.join()).collect();
    for client in &clients {
        house.subscribe(*client, &["c"]);
    }
    house.batches.clear();
    house.event("c", "1");
    house.event("c", "2");
    house.turn();
    assert_eq!(house.batches.len(), 3);
    assert!(house.batches.iter().all(|(_, batch)| Arc::ptr_eq(batch, &house.batches[0].1)));
    assert_eq!(house.batches[0].1.items().len(), 2);
}

#[test]
fn prev_chains_what_a_session_sees_on_a_channel() {
    let mut house = House::new(|_| {});
    let client = house.join();
    house.subscribe(client, &["a", "b"]);
    house.frames(client);
    for (channel, data) in [("a", "1"), ("b", "2"), ("a", "3")] {
        house.event(channel, data);
    }
    house.turn();
    let frames = house.frames(client);
    let offset = |frame: &Value| frame["id"].as_str().unwrap().split('-').next_back().unwrap().parse::<u64>().unwrap();
    assert_eq!(frames[0]["prev"], Value::Null);
    assert_eq!(frames[2]["prev"], offset(&frames[0]));
}

#[test]
fn a_cursor_is_resumed_with_every_entry_after_it() {
    let mut house = House::new(|_| {});
    house.event("c", "1");
    let cursor = house.position();
    house.event("d", "2");
    house.event("c", "3");
    let client = house.join();
    house.frames(client);
    house.resume(client, &["c"], &cursor);
    house.event("c", "4");
    house.turn();
    assert_eq!(house.short(client), ["resumed c", "c=3", "c=4"]);
}

#[test]
fn a_replay_waits_for_its_subscribed_and_overtakes_nothing() {
    let mut house = House::new(|_| {});
    house.event("c", "1");
    let cursor = house.position();
    house.event("c", "2");
    let client = house.join();
    house.subscribe(client, &["d"]);
    house.frames(client);
    house.event("d", "3");
    // No turn between: the session still owes d=3 when it resumes c.
    house.relay.handle_input(
        house.now,
        Input::Request {
            session: client,
            request: Ok(Request::Subscribe(Subscribe { since: Some(cursor.as_str().into()), ..subscribe(&["c"]) })),
        },
    );
    house.turn();
    assert_eq!(house.short(client), ["d=3", "resumed c", "c=2"]);
}

#[test]
fn replays_of_several_channels_leave_in_one_order_behind_every_verdict() {
    let mut house = House::new(|config| config.feed.ring.events = 3);
    let keeper = house.join();
    house.subscribe(keeper, &["a", "b", "c"]);
    house.event("a", "1");
    house.turn();
    let cursor = house.position();
    for (channel, data) in [("a", "2"), ("b", "3"), ("a", "4"), ("b", "5")] {
        house.event(channel, data);
    }
    for _ in 0..4 {
        house.turn();
        house.event("c", "0");
    }
    house.turn();
    let client = house.join();
    house.frames(client);
    // Cut off after any of these, the newest offset is a cursor under which nothing is missing.
    house.resume(client, &["a", "c", "$outbox2", "b"], &cursor);
    let verdicts = ["resumed a", "subscribed c", "reset evicted", "snapshot c 1", "error forbidden", "resumed b"];
    assert_eq!(house.short(client), [&verdicts[..], &["a=2", "b=3", "a=4", "b=5"]].concat());
}

#[test]
fn what_cannot_be_resumed_is_reset_with_its_reason() {
    let mut house = House::new(|config| config.feed.ring.events = 2);
    let before = house.position();
    for n in 0..4 {
        house.event("c", &n.to_string());
        house.turn();
    }
    let epoch = before.split('-').next().unwrap().to_owned();
    let cases = [
        (before.as_str(), "reset not_carried"),
        ("zzzzzz-1", "reset epoch"),
        (&format!("{epoch}-999"), "reset future"),
        ("nonsense", "reset malformed"),
    ];
    for (since, verdict) in cases {
        let client = house.join();
        house.resume(client, &["c"], since);
        assert_eq!(house.short(client), ["hello", "subscribed c", verdict, "snapshot c 1"], "{since}");
    }
    let client = house.join();
    let evicted = house.relay.feed.head() - 3;
    house.resume(client, &["c"], &format!("{epoch}-{evicted}"));
    assert_eq!(house.short(client)[2], "reset evicted");
}

#[test]
fn a_slow_session_loses_the_oldest_and_is_told_exactly_what() {
    let mut house = House::new(|config| config.feed.session_lag = 2_000);
    let (slow, quick) = (house.join(), house.join());
    house.subscribe(slow, &["c"]);
    house.subscribe(quick, &["c"]);
    house.frames(slow);
    house.frames(quick);
    house.stuck.insert(slow);
    let first = house.relay.feed.head() + 1;
    for n in 0..40 {
        house.event("c", &n.to_string());
        house.turn();
    }
    assert_eq!(house.short(slow), ["c=0"], "one batch is on its way");
    assert_eq!(house.short(quick).len(), 40, "nobody else notices");
    house.stuck.clear();
    house.input(Input::Delivered { session: slow, at: house.now.mono });
    let frames = house.frames(slow);
    let gap = &frames[0];
    assert_eq!((gap["kind"].as_str(), gap["reason"].as_str()), (Some("gap"), Some("slow")));
    assert_eq!(gap["from"], first + 1);
    let resumed_at = frames[1]["prev"].as_u64().unwrap();
    assert_eq!(gap["to"], resumed_at, "the gap ends where the chain goes on");
    assert_eq!(frames.last().unwrap()["data"], 39);
    let bytes: usize = frames[1..].iter().map(|frame| frame.to_string().len()).sum();
    assert!(bytes <= 2_000, "{bytes}");
}

#[test]
fn a_burst_or_a_large_event_makes_nobody_slow() {
    let mut house = House::new(|config| {
        config.feed.session_lag = 1_024;
        config.feed.ring.events = 10;
        config.feed.ring.bytes = 4_096;
    });
    let client = house.join();
    house.subscribe(client, &["c"]);
    house.frames(client);
    let large = format!("\"{}\"", "x".repeat(300_000));
    for n in 0..100 {
        house.event("c", &n.to_string());
    }
    house.event("c", &large);
    assert!(house.relay.is_serving(), "upstream waits until the sessions have had theirs");
    house.turn();
    assert!(!house.relay.is_serving());
    let frames = house.frames(client);
    assert_eq!(frames.len(), 101, "everything, though it is more than ring and lag allow");
    assert!(frames.iter().all(|frame| frame["kind"] == "event"));
    house.stuck.insert(client);
    for n in 0..50 {
        house.event("c", &n.to_string());
        house.turn();
    }
    house.event("c", &large);
    house.stuck.clear();
    house.input(Input::Delivered { session: client, at: house.now.mono });
    let short = house.short(client);
    assert!(short[1].starts_with("gap slow"), "{:?}", &short[1]);
    assert_eq!(short.last().unwrap().len(), "c=".len() + large.len(), "the newest is sent, however large");
}

#[test]
fn eviction_under_a_stuck_session_is_told_too() {
    let mut house = House::new(|config| config.feed.ring.events = 5);
    let client = house.join();
    house.subscribe(client, &["c"]);
    house.frames(client);
    house.stuck.insert(client);
    for n in 0..20 {
        house.event("c", &n.to_string());
        house.turn();
    }
    house.stuck.clear();
    house.input(Input::Delivered { session: client, at: house.now.mono });
    let short = house.short(client);
    assert!(short[1].starts_with("gap slow"), "{short:?}");
    assert_eq!(short[2..], ["c=15", "c=16", "c=17", "c=18", "c=19"]);
}

#[test]
fn a_pattern_joins_what_is_carried_now_and_later() {
    let mut house = House::new(|_| {});
    house.event("p:a", "1");
    let client = house.join();
    house.subscribe(client, &["p:*"]);
    house.event("p:b", "2");
    house.event("q:c", "3");
    house.turn();
    assert_eq!(house.short(client), ["hello", "subscribed p:*", "subscribed p:a", "snapshot p:a 1", "p:b=2"]);
    let channels = vec![ChannelRequest { name: "p:*".into(), params: None }];
    house.ask(client, Request::Unsubscribe { reference: None, channels });
    house.event("p:a", "4");
    house.turn();
    assert_eq!(house.short(client), ["unsubscribed"]);
}

#[test]
fn control_frames_overtake_no_entry() {
    let mut house = House::new(|_| {});
    let client = house.join();
    house.subscribe(client, &["c"]);
    house.frames(client);
    house.event("c", "1");
    house
        .relay
        .handle_input(house.now, Input::Request { session: client, request: Ok(Request::Ping { reference: None }) });
    house.event("c", "2");
    house.turn();
    assert_eq!(house.short(client), ["c=1", "pong", "c=2"]);
}

#[test]
fn after_unsubscribed_nothing_of_the_channel_comes() {
    let mut house = House::new(|_| {});
    let client = house.join();
    house.subscribe(client, &["c"]);
    house.frames(client);
    house.event("c", "1");
    let channels = vec![ChannelRequest { name: "c".into(), params: None }];
    house.relay.handle_input(
        house.now,
        Input::Request { session: client, request: Ok(Request::Unsubscribe { reference: None, channels }) },
    );
    house.event("c", "2");
    house.turn();
    let short = house.short(client);
    assert_eq!(short, ["unsubscribed"], "what had not left yet is not sent after it either");
    let channels = vec![ChannelRequest { name: "c".into(), params: None }];
    house.ask(client, Request::Unsubscribe { reference: None, channels });
    assert_eq!(house.short(client), ["error not_found"]);
}

#[test]
fn floods_and_errors_have_limits() {
    let mut house = House::new(|config| {
        config.feed.session_requests = 5;
        config.feed.session_errors = 3;
    });
    let client = house.join();
    house.frames(client);
    for _ in 0..13 {
        house.ask(client, Request::Ping { reference: None });
    }
    let short = house.short(client);
    assert_eq!(short.iter().filter(|frame| *frame == "pong").count(), 10, "a burst of twice the rate");
    assert_eq!(short.last().unwrap(), "closing too_many_errors");
    assert_eq!(house.closed, [(client, CloseCode::TooManyErrors)]);
}

#[test]
fn snapshots_that_nobody_reads_are_bounded() {
    let mut house = House::new(|config| {
        config.feed.session_lag = 10_000;
        config.feed.control_bytes_total = 50_000;
        config.feed.session_requests = 1_000;
    });
    house.event("c", &format!("\"{}\"", "x".repeat(4_000)));
    house.turn();
    let (greedy, reader) = (house.join(), house.join());
    house.stuck.insert(greedy);
    for _ in 0..40 {
        house.subscribe(greedy, &["c"]);
        house.subscribe(reader, &["c"]);
    }
    assert_eq!(house.closed, [(greedy, CloseCode::Slow)]);
    assert_eq!(house.relay.sessions.control_bytes, 0, "nothing waits for who left, nor for who reads");
    assert_eq!(house.frames(reader).iter().filter(|frame| frame["kind"] == "snapshot").count(), 40);
}

#[test]
fn without_a_token_only_auth_is_heard_and_only_for_five_seconds() {
    let mut house = House::new(|config| {
        config.access.mode = AccessMode::Tokens;
        config.access.tokens = vec![TokenGrant {
            name: "app".into(),
            token: Secret::new("t0ken"),
            read: vec!["p:*".into()],
            write: vec![],
        }];
    });
    let (quick, late) = (house.join_as(Principal::unauthenticated()), house.join_as(Principal::unauthenticated()));
    house.subscribe(quick, &["p:a"]);
    house.ask(quick, Request::Auth { reference: None, token: Secret::new("t0ken") });
    house.subscribe(quick, &["p:a", "q:b"]);
    assert_eq!(house.short(quick), ["hello", "error unauthenticated", "ok", "subscribed p:a", "error forbidden"]);
    house.wait(Duration::from_millis(4_999));
    assert!(house.closed.is_empty());
    house.wait(Duration::from_millis(2));
    assert_eq!(house.closed, [(late, CloseCode::AuthenticationRequired)]);
}

#[test]
fn after_a_large_pass_with_several_events_the_next_cut_waits_a_millisecond() {
    let mut house = House::new(|_| {});
    // The link begins to connect.
    house.wait(Duration::ZERO);
    for _ in 0..300 {
        let client = house.join();
        house.subscribe(client, &["c"]);
    }
    house.batches.clear();
    house.event("c", "1");
    house.turn();
    assert_eq!(house.batches.len(), 300);
    house.event("c", "2");
    house.event("c", "3");
    house.turn();
    assert_eq!(house.batches.len(), 600, "sparse load never waits");
    house.event("c", "4");
    house.turn();
    assert_eq!(house.batches.len(), 600, "after a pass with several events it does");
    assert_eq!(house.relay.poll_timeout(), Some(house.now.mono + Duration::from_millis(1)));
    house.wait(Duration::from_millis(1));
    assert_eq!(house.batches.len(), 900);
}

#[test]
fn a_stale_session_number_changes_nothing() {
    let mut house = House::new(|_| {});
    let client = house.join();
    let stale = SessionId { generation: 0, ..client };
    house.ask(stale, Request::Ping { reference: None });
    house.input(Input::Left { session: stale, reason: LeftReason::Client });
    house.input(Input::Delivered { session: stale, at: house.now.mono });
    house.ask(client, Request::Ping { reference: None });
    assert_eq!(house.short(client), ["hello", "pong"]);
}
