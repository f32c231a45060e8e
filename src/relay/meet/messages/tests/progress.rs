//! The life of messages as it is told on `$outbox` and `$outbox/{message}`: to whom, in which order, and for how long.

mod histories;

use super::*;
use crate::config::{AccessMode, TokenGrant};
use crate::protocol::request::options::Options;
use crate::protocol::request::{Secret, Subscribe};
use crate::relay::record::{Backlog, MessageId};

fn grant(name: &str, read: &[&str]) -> TokenGrant {
    let read = read.iter().map(|pattern| (*pattern).to_owned()).collect();
    TokenGrant { name: name.into(), token: Secret::new(name), read, write: vec!["*".into()] }
}

/// A house with two publishers that may read all channels of upstream's, and an operator.
fn guarded(change: impl FnOnce(&mut Config)) -> House {
    House::with("plain", |config| {
        config.access.mode = AccessMode::Tokens;
        config.access.tokens = vec![grant("ann", &["*"]), grant("ben", &["*"]), grant("operator", &["$outbox"])];
        change(config);
    })
}

fn channel_of(message: &str) -> String {
    format!("$outbox/{message}")
}

impl House {
    fn join_as(&mut self, token: &str) -> SessionId {
        self.sessions += 1;
        let session = SessionId { index: self.sessions, generation: 1 };
        let principal = self.relay.access.authenticate(Some(token)).unwrap();
        self.input(Input::Joined { session, principal, format: Format::WebSocket, subscribe: None });
        self.told.clear();
        session
    }

    fn follow_since(&mut self, session: SessionId, channel: &str, since: Option<&str>) {
        let channels = vec![ChannelRequest { name: channel.into(), params: None }];
        let request = Subscribe {
            reference: Some(Ref("1".into())),
            channels,
            since: since.map(Into::into),
            snapshot: true,
            options: Options::default(),
        };
        self.input(Input::Request { session, request: Ok(Request::Subscribe(request)) });
    }

    fn follow(&mut self, session: SessionId, channel: &str) {
        self.follow_since(session, channel, None);
    }

    fn unfollow(&mut self, session: SessionId, channel: &str) {
        let channels = vec![ChannelRequest { name: channel.into(), params: None }];
        self.input(Input::Request { session, request: Ok(Request::Unsubscribe { reference: None, channels }) });
    }

    /// Publishes one message, whose acceptance is the last thing that was told of its channel; gives its id.
    fn publish_one(&mut self, session: SessionId, publish: Publish) -> String {
        self.publish(session, vec![publish], false);
        let accepted = self.told.iter().rfind(|(of, frame)| *of == session && frame["kind"] == "accepted");
        accepted.expect("it is accepted").1["message"].as_str().unwrap().to_owned()
    }

    /// What a session was told since the last look.
    fn frames(&mut self, session: SessionId) -> Vec<Value> {
        let (mine, rest) = std::mem::take(&mut self.told).into_iter().partition(|(of, _)| *of == session);
        self.told = rest;
        let mine: Vec<(SessionId, Value)> = mine;
        mine.into_iter().map(|(_, frame)| frame).collect()
    }

    /// The same in short.
    fn life(&mut self, session: SessionId) -> Vec<String> {
        self.frames(session).iter().map(short).collect()
    }

    /// Answers the newest message that upstream got.
    fn answer_upstream(&mut self, kind: &str, more: &Value) {
        let id =
            self.sent.iter().rfind(|sent| sent["type"] == "publish").expect("upstream got a message")["id"].clone();
        let mut frame = json!({"type": kind, "id": id});
        frame.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        self.receive(&frame);
    }

    /// Lets time pass until a message leaves.
    fn until_sent(&mut self) {
        self.sent.clear();
        while !self.sent.iter().any(|sent| sent["type"] == "publish") {
            let due = self.relay.poll_timeout().expect("something is due");
            self.wait(due.since(self.now.mono));
        }
    }

    fn followed_channels(&self) -> usize {
        self.relay.feed.iter().filter(|(_, ring)| ring.name.starts_with("$outbox")).count()
    }
}

fn word<'a>(of: &'a Value, name: &str) -> &'a str {
    of[name].as_str().unwrap_or_default()
}

/// An event: its type, and the state with attempts, reason and confirmation. A frame: its kind, and what it says.
fn short(frame: &Value) -> String {
    let state = |of: &Value| {
        let words = [word(of, "state"), &of["attempts"].to_string(), word(of, "reason"), word(of, "confirmed_by")];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    };
    match word(frame, "kind") {
        "event" => format!("{}: {}", word(frame, "type"), state(&frame["data"])),
        "snapshot" => format!("snapshot: {}", state(&frame["values"][0]["data"])),
        kind => {
            let said = ["code", "state", "reason", "snapshot"].iter().find_map(|name| frame.get(name)?.as_str());
            format!("{kind} {}", said.unwrap_or_default()).trim_end().to_owned()
        }
    }
}

#[test]
fn a_publisher_sees_the_state_of_its_message_and_then_what_becomes_of_it() {
    let mut house = House::new("plain");
    let session = house.join();
    let publish = Publish { order_key: Some("k".into()), ..message("orders", "\"pay load\"") };
    let id = house.publish_one(session, publish);
    house.told.clear();
    house.follow(session, &channel_of(&id));
    let frames = house.frames(session);
    let accepted = &frames[1]["values"][0]["data"]["accepted"];
    assert_eq!(
        (&frames[0]["kind"], &frames[0]["snapshot"], &frames[0]["upstream"], &frames[0]["ref"]),
        (&json!("subscribed"), &json!("full"), &json!("live"), &json!(1))
    );
    assert_eq!(
        (&frames[1]["kind"], &frames[1]["stale"], &frames[1]["values"][0]["data"]),
        (
            &json!("snapshot"),
            &json!(false),
            &json!({
                "principal": "local", "message": id, "state": "in_flight", "attempts": 1,
                "channel": "orders", "accepted": accepted, "order_key": "k",
            })
        )
    );

    // The link is lost: the message goes again as soon as it can.
    house.cut();
    let retry = &house.frames(session)[0];
    assert_eq!((&retry["type"], &retry["data"]["reason"]), (&json!("retry"), &json!("connection_lost")));
    assert_eq!((&retry["data"]["next_retry"], &retry["data"]["state"]), (&Value::Null, &json!("accepted")));
    house.until_sent();
    assert_eq!(house.life(session), ["sent: in_flight 2"]);
    // Upstream wants it later: the time is told.
    house.answer_upstream("error", &json!({"code": "busy", "retry_after": 30}));
    let retry = &house.frames(session)[0];
    let next = house.now.after(30 * SECOND).wall.rfc3339();
    assert_eq!((&retry["type"], &retry["data"]["reason"]), (&json!("retry"), &json!("busy")));
    assert!(word(&retry["data"], "next_retry") >= next.as_str(), "{retry}");
    house.until_sent();
    assert_eq!(house.life(session), ["sent: in_flight 3"]);

    house.slow_store = true;
    house.answer_upstream("ack", &json!({"data": {"order": 5}}));
    assert_eq!(house.life(session), ["acked: in_flight 3 ack"], "the end is not durable yet");
    house.commit();
    let frames = house.frames(session);
    let ended = &frames[0]["data"]["ended"];
    assert_eq!(frames.iter().map(short).collect::<Vec<_>>(), ["outcome: delivered 3 ack", "outcome delivered"]);
    assert_eq!(
        frames[0]["data"],
        json!({
            "principal": "local", "message": id, "state": "delivered", "attempts": 3, "channel": "orders",
            "ended": ended, "confirmed_by": "ack",
        })
    );
    assert_eq!(frames[1]["reply"], json!({"order": 5}), "the reply is the publisher's");

    // Who comes later sees how it ended, and no more.
    let late = house.join();
    house.follow(late, &channel_of(&id));
    assert_eq!(house.life(late), ["subscribed full", "snapshot: delivered 3 ack"]);
    house.wait(60 * SECOND);
    assert_eq!((house.life(session).len(), house.life(late).len()), (0, 0));
}

#[test]
fn all_messages_are_told_on_one_channel_after_what_their_publishers_are_told_of_acceptance() {
    let mut house = guarded(|_| {});
    let operator = house.join_as("operator");
    let ann = house.join_as("ann");
    house.follow(operator, "$outbox");
    assert_eq!(house.life(operator), ["subscribed none"], "it has no state of its own");
    house.slow_store = true;
    house.publish(ann, vec![message("orders", "\"pay load\"")], false);
    assert_eq!((house.life(operator), house.life(ann)), (vec![], vec![]), "nothing is accepted yet");
    house.commit();
    let id = word(&house.frames(ann)[0], "message").to_owned();
    house.answer_upstream("error", &json!({"code": "no", "message": "pay load"}));
    let frames = house.frames(operator);
    assert_eq!(
        frames.iter().map(short).collect::<Vec<_>>(),
        ["accepted: accepted 0", "sent: in_flight 1", "outcome: rejected 1 no"]
    );
    for frame in &frames {
        assert_eq!((word(frame, "channel"), word(frame, "key")), ("$outbox", id.as_str()));
        assert_eq!((word(&frame["data"], "principal"), word(&frame["data"], "message")), ("ann", id.as_str()));
        assert!(!frame.to_string().contains("pay load"), "{frame}");
    }
    let second = house.join_as("operator");
    house.follow(second, "$outbox");
    assert_eq!(house.life(second), ["subscribed none"], "the last steps are no state of the outbox");

    // One session that reads its own frames and the channel: the message is named first, the outcome frame comes last.
    let mut house = House::new("plain");
    let session = house.join();
    house.follow(session, "$outbox");
    house.publish(session, vec![message("orders", "1")], false);
    house.answer_upstream("ack", &json!({}));
    assert_eq!(
        house.life(session)[1..],
        [
            "accepted accepted",
            "accepted: accepted 0",
            "sent: in_flight 1",
            "acked: in_flight 1 ack",
            "outcome: delivered 1 ack",
            "outcome delivered"
        ]
    );
}

#[test]
fn only_its_publisher_and_who_may_read_all_follow_a_message() {
    let mut house = guarded(|config| config.access.tokens.push(grant("both", &["$outbox*"])));
    let (ann, ben) = (house.join_as("ann"), house.join_as("ben"));
    let own = channel_of(&house.publish_one(ann, message("orders", "1")));
    let unknown = channel_of("01ARZ3NDEKTSV4RRFFQ69G5FAV");
    for name in [own.as_str(), unknown.as_str(), "$outbox/x", "$outbox/", &own.to_lowercase(), "$outbox"] {
        house.follow(ben, name);
        let mut frames = house.frames(ben);
        assert_eq!(frames[0]["channel"].take(), name);
        let words = "not among the channels that this principal may read";
        let refusal = json!({
            "kind": "error", "ref": 1, "channel": null, "code": "forbidden", "message": words,
            "retryable": false, "retry_after_ms": null,
        });
        assert_eq!(frames, [refusal], "{name}");
    }
    assert_eq!(house.followed_channels(), 0);
    house.follow(ann, &own);
    assert_eq!(house.life(ann).last().unwrap(), "snapshot: in_flight 1");
    for token in ["operator", "both"] {
        let session = house.join_as(token);
        for name in [&own, "$outbox"] {
            house.follow(session, name);
            assert!(house.life(session)[0].starts_with("subscribed"), "{token} {name}");
        }
        for name in [unknown.as_str(), "$outbox/x"] {
            house.follow(session, name);
            assert_eq!(house.life(session), ["error not_found"], "{token} {name}");
        }
    }
    house.follow(ben, &own);
    assert_eq!(house.life(ben), ["error forbidden"], "also while others follow it");

    // As a snapshot over HTTP: whoever may not follow it is told what everybody is told of what nobody reads.
    let mut snapshot = |token: &str, name: &str| {
        house.calls += 1;
        let (call, principal) = (CallId(house.calls), house.relay.access.authenticate(Some(token)).unwrap());
        let request = CallRequest::Snapshot(ChannelRequest { name: name.into(), params: None });
        house.input(Input::Call { call, principal, request });
        house.answer(call).unwrap()
    };
    let (status, body) = snapshot("ann", &own);
    assert_eq!((status, &body["values"][0]["data"]["state"]), (Ok(200), &json!("in_flight")));
    assert_eq!(snapshot("ben", &own), snapshot("operator", &unknown));
    assert_eq!(snapshot("ben", &own).0, Err(ErrorCode::NotFound));
    assert_eq!(snapshot("ben", "$outbox").0, Err(ErrorCode::Forbidden));
}

#[test]
fn rights_that_are_taken_back_end_what_they_allowed() {
    let mut house = guarded(|_| {});
    let (ann, operator) = (house.join_as("ann"), house.join_as("operator"));
    let own = channel_of(&house.publish_one(ann, message("orders", "1")));
    house.told.clear();
    for session in [ann, operator] {
        house.follow(session, &own);
    }
    house.follow(operator, "$outbox");
    house.told.clear();
    let mut config = Config::clone(&house.relay.config);
    config.access.tokens[2].read.clear();
    house.input(Input::Reload(Arc::new(config.clone())));
    assert_eq!(house.life(operator), ["error forbidden", "error forbidden"]);
    assert_eq!((house.life(ann), house.followed_channels()), (vec![], 1), "a publisher needs no right to its own");
    // The same token is somebody else's from now on.
    config.access.tokens[0].name = "anna".into();
    house.input(Input::Reload(Arc::new(config)));
    assert_eq!((house.life(ann), house.followed_channels()), (vec!["error forbidden".to_owned()], 0));
}

#[test]
fn a_channel_lasts_as_long_as_somebody_reads_it_and_costs_nothing_before_and_after() {
    let mut house = House::new("plain");
    let (one, two) = (house.join(), house.join());
    let id = house.publish_one(one, message("orders", "1"));
    let own = channel_of(&id);
    assert_eq!(house.followed_channels(), 0);
    house.told.clear();
    house.follow(one, &own);
    house.follow(two, &own);
    house.follow(two, "$outbox");
    assert_eq!(house.followed_channels(), 2);
    let cursor = word(&house.frames(one)[0], "position").to_owned();
    house.cut();
    assert_eq!(house.life(one), ["retry: accepted 1 connection_lost"]);
    // Asked for again, from a place of its own: it goes on there.
    house.unfollow(two, &own);
    house.told.clear();
    house.follow_since(one, &own, Some(&cursor));
    assert_eq!(house.life(one), ["subscribed none", "retry: accepted 1 connection_lost"]);
    house.unfollow(one, &own);
    assert_eq!(house.life(one), ["unsubscribed"]);
    assert_eq!(house.followed_channels(), 1);
    house.follow_since(one, &own, Some(&cursor));
    assert_eq!(
        house.life(one),
        ["subscribed full", "reset not_carried", "snapshot: accepted 1 connection_lost"],
        "nobody kept what was told meanwhile"
    );
    for session in [one, two] {
        house.input(Input::Left { session, reason: LeftReason::Client });
    }
    assert_eq!(house.followed_channels(), 0);
    assert_eq!(house.relay.outbox.followed_publisher(MessageId::parse(&id).unwrap()), None);
    let three = house.join();
    house.publish(three, vec![message("orders", "2")], false);
    let (relay, waits) = (&mut house.relay, house.disk.messages[1].id);
    relay.outbox.postpone(house.now, waits, &mut relay.rng, &mut relay.stats.outbox);
    assert_eq!(relay.outbox.take_step(None), None, "nothing is reported for nobody");
}

#[test]
fn channels_of_messages_count_toward_the_limits_of_all_channels() {
    let mut house = House::with("plain", |config| {
        config.feed.session_channels = 2;
        config.feed.max_channels = 4; // of which $status is one
    });
    let (one, two) = (house.join(), house.join());
    let own: Vec<String> = (0..4).map(|_| channel_of(&house.publish_one(one, message("orders", "1")))).collect();
    house.told.clear();
    for (session, name) in [(one, 0), (one, 1), (one, 2), (two, 2), (two, 3)] {
        house.follow(session, &own[name]);
    }
    let verdicts = |frames: Vec<Value>| frames.iter().map(short).filter(|word| !word.starts_with("snap")).collect();
    let (of_one, of_two): (Vec<String>, Vec<String>) = (verdicts(house.frames(one)), verdicts(house.frames(two)));
    assert_eq!(of_one, ["subscribed full", "subscribed full", "error limit_exceeded"], "session_channels");
    assert_eq!(of_two, ["subscribed full", "error limit_exceeded"], "max_channels");
    house.unfollow(one, &own[0]);
    house.follow(two, &own[3]);
    assert_eq!(house.life(two), ["subscribed full", "snapshot: in_flight 1"]);
}

#[test]
fn a_message_on_disk_is_read_before_it_is_followed() {
    let mut house = guarded(|config| config.outbox.in_memory = 1);
    house.down = true;
    house.cut();
    let (ann, ben, operator) = (house.join_as("ann"), house.join_as("ben"), house.join_as("operator"));
    let ids: Vec<String> = (0..10).map(|n| house.publish_one(ann, message("orders", &n.to_string()))).collect();
    house.told.clear();
    // Two of them at once, of which one is in memory afterwards.
    let channels = [7, 8].map(|n| ChannelRequest { name: channel_of(&ids[n]).into(), params: None });
    for session in [ann, ben, operator] {
        let request = Subscribe {
            reference: None,
            channels: channels.to_vec(),
            since: None,
            snapshot: true,
            options: Options::default(),
        };
        house.input(Input::Request { session, request: Ok(Request::Subscribe(request)) });
    }
    for session in [ann, operator] {
        let frames = house.frames(session);
        assert_eq!(
            frames.iter().map(short).collect::<Vec<_>>(),
            ["subscribed full", "snapshot: accepted 0", "subscribed full", "snapshot: accepted 0"]
        );
        assert_eq!(word(&frames[1]["values"][0]["data"], "principal"), "ann");
    }
    assert_eq!(house.life(ben), ["error forbidden", "error forbidden"]);
    house.down = false;
    house.until_sent();
    let sent: Vec<String> = house.life(ann).into_iter().filter(|step| step.starts_with("sent")).collect();
    assert_eq!(sent.len(), 2, "both leave: {sent:?}");

    let mut house = guarded(|config| config.outbox.in_memory = 1);
    house.down = true;
    house.cut();
    let ann = house.join_as("ann");
    let ids: Vec<String> = (0..10).map(|n| house.publish_one(ann, message("orders", &n.to_string()))).collect();
    house.told.clear();
    house.broken_store = true;
    house.follow(ann, &channel_of(&ids[8]));
    assert_eq!(house.life(ann), ["error store_failed"]);
}

#[test]
fn a_subscription_that_waits_for_the_disk_can_be_taken_back() {
    let mut house = guarded(|config| config.outbox.in_memory = 1);
    house.down = true;
    house.cut();
    let ann = house.join_as("ann");
    let ids: Vec<String> = (0..10).map(|n| house.publish_one(ann, message("orders", &n.to_string()))).collect();
    house.told.clear();
    let own = channel_of(&ids[8]);
    let request = |house: &mut House, request: Request| {
        house.relay.handle_input(house.now, Input::Request { session: ann, request: Ok(request) });
    };
    let channels = vec![ChannelRequest { name: own.as_str().into(), params: None }];
    let of = |reference: &str| Some(Ref(reference.into()));
    let subscribe = |reference: &str| Subscribe {
        reference: of(reference),
        channels: channels.clone(),
        since: None,
        snapshot: true,
        options: Options::default(),
    };
    request(&mut house, Request::Subscribe(subscribe("1")));
    request(&mut house, Request::Subscribe(subscribe("2")));
    request(&mut house, Request::Unsubscribe { reference: of("3"), channels: channels.clone() });
    request(&mut house, Request::Unsubscribe { reference: of("4"), channels: channels.clone() });
    house.turn();
    let answers = |frames: Vec<Value>| -> Vec<String> {
        frames.iter().map(|frame| format!("{} {}", frame["ref"], short(frame))).collect()
    };
    let told = answers(house.frames(ann));
    let each_once = ["1 error conflict", "2 error conflict", "3 unsubscribed", "4 error not_found"];
    assert_eq!((told, house.followed_channels()), (each_once.map(str::to_owned).to_vec(), 0));

    // One stands and is asked for again, when its message is on disk only: both are taken back.
    house.follow(ann, &own);
    house.follow(ann, &channel_of(&ids[9]));
    house.told.clear();
    request(&mut house, Request::Subscribe(subscribe("5")));
    request(&mut house, Request::Unsubscribe { reference: of("6"), channels: channels.clone() });
    house.turn();
    let told = answers(house.frames(ann));
    assert_eq!((told, house.followed_channels()), (vec!["5 error conflict".into(), "6 unsubscribed".into()], 1));
}

#[test]
fn a_restart_goes_on_telling_where_the_message_stands() {
    let mut house = House::new("plain");
    let session = house.join();
    house.publish_one(session, message("orders", "1"));
    let mut messages = Backlog::default();
    messages.add(&house.disk.messages[0], 1);
    let own = channel_of(&house.disk.messages[0].id.to_string());

    let mut again = House::new("plain");
    let restored = Restored { messages, next_sequence: 2, ..Restored::default() };
    let config = Arc::clone(&again.relay.config);
    again.relay = Relay::new(config, Dialect::builtin("plain").unwrap(), restored, 2, again.now);
    again.disk = std::mem::take(&mut house.disk);
    again.down = true;
    again.wait(Duration::ZERO);
    let session = again.join();
    again.follow(session, &own);
    assert_eq!(again.life(session), ["subscribed full", "snapshot: accepted 1"]);
    again.down = false;
    again.until_sent();
    again.answer_upstream("ack", &json!({}));
    let life = again.life(session);
    assert_eq!((life[0].as_str(), life.last().unwrap().as_str()), ("sent: in_flight 2", "outcome: delivered 2 ack"));
}
