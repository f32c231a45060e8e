//! Publishing through the whole relay, in virtual time: what publishers are told and what upstream gets, with built-in
//! dialects and a store that answers when it is told to.

mod disk;
mod joining;
mod letters;
mod lists;
mod overlaying;
mod progress;
mod reading;
mod stopping;
mod syncing;
mod volatile;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::config::{Config, TokenSource};
use crate::dialect::{Dialect, WireFrame};
use crate::protocol::codes::ErrorCode;
use crate::protocol::frame::Format;
use crate::protocol::request::{ChannelRequest, Publish, Ref, Request};
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::outbox::{Lane, OnUnknown};
use crate::relay::pairs::{
    AttemptId, CallId, CallRequest, Credentials, Disconnect, FetchAnswer, Input, LeftReason, Output, Reply, SessionId,
};
use crate::relay::record::{Restored, Stored};
use crate::relay::time::{Mono, Time, Wall};

use disk::Disk;

const SECOND: Duration = Duration::from_secs(1);

/// A relay with its carriers.
struct House {
    relay: Relay,
    now: Time,
    attempt: Option<AttemptId>,
    /// Connections are refused.
    down: bool,
    /// Commits wait for [`House::commit`].
    slow_store: bool,
    committing: bool,
    /// The way up takes nothing.
    stuck: bool,
    /// It cannot read.
    broken_store: bool,
    /// What was accepted.
    /// It does not answer what it is asked to read …
    stuck_store: bool,
    /// … which is this.
    stuck_loads: Vec<Stored>,
    disk: Disk,
    /// What upstream got, parsed.
    sent: Vec<Value>,
    told: Vec<(SessionId, Value)>,
    answers: Vec<(CallId, Reply)>,
    sessions: u32,
    calls: u64,
}

impl House {
    fn new(dialect: &str) -> Self {
        Self::with(dialect, |_| {})
    }

    fn with(dialect: &str, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.upstream.url = "ws://upstream.test/".into();
        config.upstream.token = TokenSource::None;
        change(&mut config);
        let dialect = Dialect::builtin(dialect).expect("a built-in dialect");
        let now = Time { mono: Mono(1_000_000_000), wall: Wall(1_795_231_888_000_000_000) };
        let mut house = House {
            relay: Relay::new(Arc::new(config), dialect, Restored::default(), 1, now),
            now,
            attempt: None,
            down: false,
            slow_store: false,
            committing: false,
            stuck: false,
            broken_store: false,
            stuck_store: false,
            stuck_loads: Vec::new(),
            disk: Disk::default(),
            sent: Vec::new(),
            told: Vec::new(),
            answers: Vec::new(),
            sessions: 0,
            calls: 0,
        };
        house.wait(Duration::ZERO);
        house
    }

    fn input(&mut self, input: Input) {
        self.relay.handle_input(self.now, input);
        self.turn();
    }

    fn turn(&mut self) {
        while let Some(output) = self.relay.poll_output(self.now) {
            let answer = self.carry(output);
            if let Some(answer) = answer {
                self.relay.handle_input(self.now, answer);
            }
        }
    }

    /// Does what the relay asks; gives the answer.
    fn carry(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Connect { attempt, .. } if self.down => {
                Some(Input::Disconnected { attempt, reason: Disconnect::Refused })
            }
            Output::Connect { attempt, .. } => {
                self.attempt = Some(attempt);
                Some(Input::Connected { attempt, peer: "test".into() })
            }
            Output::Transmit { attempt, frames } => {
                for frame in frames {
                    if let WireFrame::Text(text) = frame {
                        self.sent.push(serde_json::from_slice(&text).unwrap());
                    }
                }
                (!self.stuck).then_some(Input::Transmitted { attempt })
            }
            Output::Disconnect { attempt, .. } => Some(Input::Disconnected { attempt, reason: Disconnect::Asked }),
            Output::Upgrade { .. } | Output::KeepPolling { .. } => None,
            Output::Fetch { call, .. } => {
                Some(Input::Fetched { call, result: Ok(FetchAnswer::Credentials(Credentials::default())) })
            }
            Output::Commit(operations) => {
                self.committing = true;
                operations.into_iter().for_each(|operation| self.disk.apply(operation));
                (!self.slow_store).then_some(Input::Committed)
            }
            Output::Load(wanted) if self.stuck_store => {
                self.stuck_loads = wanted.into_iter().map(|wanted| self.disk.read(wanted)).collect();
                None
            }
            Output::Load(_) if self.broken_store => Some(Input::CommitFailed { reason: "no answer".into() }),
            Output::Load(wanted) => {
                Some(Input::Loaded(wanted.into_iter().map(|wanted| self.disk.read(wanted)).collect()))
            }
            Output::Deliver { session, batch } => {
                let texts = batch.items().iter().map(|item| serde_json::from_slice(item.text()).unwrap());
                self.told.extend(texts.map(|frame| (session, frame)));
                Some(Input::Delivered { session, at: self.now.mono })
            }
            Output::Answer { call, reply } => {
                self.answers.push((call, reply));
                None
            }
            Output::Close { session, .. } => Some(Input::Left { session, reason: LeftReason::Client }),
            Output::Notify(_) | Output::Alert { .. } | Output::Stopped => None,
        }
    }

    /// The store answers what it was asked, and is quick from now on.
    fn commit(&mut self) {
        self.slow_store = false;
        if std::mem::take(&mut self.committing) {
            self.input(Input::Committed);
        }
    }

    /// The store answers what it was asked to read, and is quick from now on.
    fn unstick(&mut self) {
        self.stuck_store = false;
        let records = std::mem::take(&mut self.stuck_loads);
        self.input(Input::Loaded(records));
    }

    /// Lets time pass, with every timer on the way.
    fn wait(&mut self, time: Duration) {
        let end = self.now.after(time);
        for _ in 0..10_000 {
            let Some(due) = self.relay.poll_timeout().filter(|due| *due <= end.mono) else { break };
            self.now = self.now.after(due.since(self.now.mono));
            self.relay.handle_timeout(self.now);
            self.turn();
        }
        self.now = end;
    }

    fn join(&mut self) -> SessionId {
        self.sessions += 1;
        let session = SessionId { index: self.sessions, generation: 1 };
        let principal = Arc::new(Principal::local());
        self.input(Input::Joined { session, principal, format: Format::WebSocket, subscribe: None });
        self.told.clear();
        session
    }

    fn publish(&mut self, session: SessionId, messages: Vec<Publish>, atomic: bool) {
        let request = Request::Publish { reference: Some(Ref("7".into())), messages, atomic };
        self.input(Input::Request { session, request: Ok(request) });
    }

    fn call(&mut self, request: CallRequest) -> CallId {
        self.calls += 1;
        let call = CallId(self.calls);
        self.input(Input::Call { call, principal: Arc::new(Principal::local()), request });
        call
    }

    /// The answer to a call: status, or the problem's code, and the body.
    fn answer(&mut self, call: CallId) -> Option<(Result<u16, ErrorCode>, Value)> {
        let at = self.answers.iter().position(|(of, _)| *of == call)?;
        match self.answers.remove(at).1 {
            Reply::Json { status, body, location } => {
                let mut body: Value = serde_json::from_slice(&body).unwrap();
                if let Some(location) = location {
                    body["location"] = location.into();
                }
                Some((Ok(status), body))
            }
            Reply::Problem { code, message, .. } => Some((Err(code), message.into())),
            Reply::Stats(_) => panic!("nobody asked for statistics"),
        }
    }

    /// What a session was told since the last look: kind, and state or code.
    fn told(&mut self, session: SessionId) -> Vec<String> {
        let frames = std::mem::take(&mut self.told).into_iter().filter(|(of, _)| *of == session);
        let word = |frame: &Value| frame.get("state").or(frame.get("code")).and_then(Value::as_str).map(str::to_owned);
        frames
            .map(|(_, frame)| format!("{} {}", frame["kind"].as_str().unwrap(), word(&frame).unwrap_or_default()))
            .collect()
    }

    /// What upstream got since the last look.
    fn sent(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.sent)
    }

    fn receive(&mut self, frame: &Value) {
        let frames = vec![WireFrame::Text(Bytes::from(frame.to_string()))];
        let attempt = self.attempt.expect("connected");
        self.input(Input::Received { attempt, at: self.now, frames });
    }

    fn cut(&mut self) {
        let attempt = self.attempt.take().expect("connected");
        self.input(Input::Disconnected { attempt, reason: Disconnect::Reset("test".into()) });
    }
}

fn message(channel: &str, data: &str) -> Publish {
    Publish {
        channel: ChannelRequest { name: channel.into(), params: None },
        key: None,
        kind: Some("place".into()),
        data: data.into(),
        idempotency_key: None,
        order_key: None,
        coalesce: false,
        volatile: false,
        optimistic: None,
        lane: Lane::Medium,
        ttl: None,
        on_unknown: None,
    }
}

fn keyed(data: &str) -> Publish {
    Publish { idempotency_key: Some("k".into()), ..message("orders", data) }
}

#[test]
fn accepted_after_the_store_outcome_after_upstream() {
    let mut house = House::new("plain");
    house.slow_store = true;
    let session = house.join();
    house.publish(session, vec![message("orders", "{\"price\":1.10}")], false);
    assert_eq!((house.told(session), house.sent()), (vec![], vec![]), "not durable yet");
    house.commit();
    assert_eq!(house.told(session), ["accepted accepted"]);
    let sent = house.sent();
    assert_eq!(
        (&sent[0]["type"], &sent[0]["channel"], &sent[0]["event"]),
        (&"publish".into(), &"orders".into(), &"place".into())
    );
    house.slow_store = true;
    house.receive(&json!({"type": "ack", "id": sent[0]["id"], "data": {"order": 5}}));
    assert_eq!(house.told(session), Vec::<String>::new(), "the end is not durable yet");
    house.commit();
    let (_, outcome) = house.told.pop().unwrap();
    assert_eq!((&outcome["state"], &outcome["confirmed_by"]), (&"delivered".into(), &"ack".into()));
    assert_eq!(outcome["reply"], json!({"order": 5}));
}

#[test]
fn over_http_the_answer_waits_for_the_store_and_names_the_message() {
    let mut house = House::new("plain");
    house.slow_store = true;
    let call = house.call(CallRequest::Publish {
        messages: vec![message("orders", "1")],
        atomic: false,
        wait: Duration::ZERO,
    });
    assert_eq!(house.answer(call), None);
    house.commit();
    let (status, body) = house.answer(call).unwrap();
    let id = body["message"].as_str().unwrap().to_owned();
    assert_eq!(
        (status, &body["state"], &body["location"]),
        (Ok(202), &"accepted".into(), &format!("/v1/messages/{id}").into())
    );
    let call = house.call(CallRequest::Message(id.as_str().into()));
    let (status, state) = house.answer(call).unwrap();
    assert_eq!((status, &state["state"], &state["attempts"]), (Ok(200), &"in_flight".into(), &1.into()));
    let call = house.call(CallRequest::Cancel(id.as_str().into()));
    assert_eq!(house.answer(call).unwrap().0, Err(ErrorCode::Conflict));
    for strange in ["", "x", "01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
        let call = house.call(CallRequest::Message(strange.into()));
        assert_eq!(house.answer(call).unwrap().0, Err(ErrorCode::NotFound));
    }
}

#[test]
fn a_request_that_prefers_to_wait_gets_the_outcome_or_the_state_of_then() {
    let mut house = House::new("plain");
    let publish = |messages: Vec<Publish>| CallRequest::Publish { messages, atomic: false, wait: 5 * SECOND };
    let call = house.call(publish(vec![message("orders", "1")]));
    let sent = house.sent();
    assert_eq!(house.answer(call), None, "accepted, and not ended");
    house.receive(&json!({"type": "ack", "id": sent[0]["id"], "data": {"order": 5}}));
    let (status, body) = house.answer(call).unwrap();
    assert_eq!((status, &body["state"], &body["confirmed_by"]), (Ok(200), &"delivered".into(), &"ack".into()));
    assert_eq!(body["reply"], json!({"order": 5}));

    // A list waits for all of it; what was refused is no reason to wait.
    let list = vec![message("orders", "2"), message("$status", "3"), message("orders", "4")];
    let call = house.call(publish(list));
    let sent = house.sent();
    house.receive(&json!({"type": "ack", "id": sent[0]["id"]}));
    assert_eq!(house.answer(call), None);
    house.receive(&json!({"type": "error", "id": sent[1]["id"], "code": "no"}));
    let (status, body) = house.answer(call).unwrap();
    let states: Vec<&Value> =
        (0..3).map(|n| body["messages"][n].get("state").unwrap_or(&body["messages"][n]["code"])).collect();
    assert_eq!((status, states), (Ok(200), vec![&json!("delivered"), &json!("forbidden"), &json!("rejected")]));

    let call = house.call(publish(vec![message("orders", "5")]));
    let sent = house.sent();
    house.wait(5 * SECOND - Duration::from_millis(1));
    assert_eq!(house.answer(call), None);
    house.wait(Duration::from_millis(1));
    let (status, body) = house.answer(call).unwrap();
    assert_eq!((status, &body["state"]), (Ok(202), &"in_flight".into()), "its time is over, the message goes on");
    assert!(body["location"].is_string());
    house.receive(&json!({"type": "ack", "id": sent[0]["id"]}));
    assert_eq!(house.answer(call), None, "answered once");

    // A drain that is over leaves nobody waiting.
    let call = house.call(publish(vec![message("orders", "6")]));
    house.sent();
    house.input(Input::Stop { now: true });
    assert_eq!(house.answer(call).unwrap().0, Ok(202));
}

#[test]
fn what_is_published_in_an_outage_leaves_after_it() {
    let mut house = House::new("plain");
    house.down = true;
    house.cut();
    let session = house.join();
    house.publish(session, vec![message("orders", "1"), message("orders", "2")], false);
    assert_eq!((house.told(session).len(), house.sent()), (2, vec![]));
    house.wait(30 * SECOND);
    house.down = false;
    house.wait(120 * SECOND);
    let data: Vec<Value> = house
        .sent()
        .into_iter()
        .filter(|frame| frame["type"] == "publish")
        .map(|frame| frame["data"].clone())
        .collect();
    assert_eq!(data[..2], [json!(1), json!(2)]);
}

#[test]
fn an_unanswered_message_goes_again_on_the_next_connection_or_ends() {
    let mut house = House::new("plain");
    let session = house.join();
    let once = Publish { on_unknown: Some(OnUnknown::DeadLetter), ..message("orders", "2") };
    house.publish(session, vec![message("orders", "1"), once], false);
    assert_eq!(house.sent().len(), 2);
    house.told.clear();
    house.cut();
    assert_eq!(house.told(session), ["outcome dead_lettered"]);
    house.wait(5 * SECOND);
    let sent = house.sent();
    assert_eq!((sent.len(), &sent[0]["data"]), (1, &json!(1)));
    house.receive(&json!({"type": "error", "id": sent[0]["id"], "code": "E1", "message": "no"}));
    let (_, outcome) = house.told.pop().unwrap();
    assert_eq!(
        (&outcome["state"], &outcome["reason"], &outcome["reply"]),
        (&"rejected".into(), &"E1".into(), &"no".into())
    );
    assert_eq!(house.relay.stats().outbox.conservation_error(), 0);
}

#[test]
fn a_repeated_publish_gets_the_first_message_and_its_end() {
    let mut house = House::new("plain");
    let first = house.join();
    house.publish(first, vec![keyed("1")], false);
    let second = house.join();
    house.publish(second, vec![keyed("1")], false);
    assert_eq!(house.told(second), ["accepted in_flight"]);
    let sent = house.sent();
    assert_eq!(sent.len(), 1);
    house.receive(&json!({"type": "ack", "id": sent[0]["id"]}));
    let told = std::mem::take(&mut house.told);
    let who: Vec<SessionId> = told.iter().map(|(session, _)| *session).collect();
    assert_eq!(who, [first, second], "both are told");
    house.publish(second, vec![keyed("1")], false);
    assert_eq!(house.told(second), ["accepted delivered", "outcome delivered"]);
    house.publish(second, vec![keyed("2")], false);
    assert_eq!(house.told(second), ["error conflict"]);
}

#[test]
fn a_cancelled_message_is_answered_once_it_has_ended() {
    let mut house = House::new("plain");
    house.down = true;
    house.cut();
    let session = house.join();
    house.publish(session, vec![message("orders", "1"), message("orders", "2")], false);
    let ids: Vec<Box<str>> = house.told.iter().map(|(_, frame)| frame["message"].as_str().unwrap().into()).collect();
    house.told.clear();
    house.slow_store = true;
    let reference = Some(Ref("\"c\"".into()));
    house.input(Input::Request { session, request: Ok(Request::Cancel { reference, message: ids[0].clone() }) });
    assert_eq!(house.told(session), Vec::<String>::new());
    house.commit();
    assert_eq!(house.told(session), ["outcome rejected", "ok "]);
    let call = house.call(CallRequest::Cancel(ids[1].clone()));
    let (status, state) = house.answer(call).unwrap();
    assert_eq!((status, &state["state"], &state["reason"]), (Ok(200), &"rejected".into(), &"cancelled".into()));
    house.down = false;
    house.wait(120 * SECOND);
    assert_eq!(house.sent().iter().filter(|frame| frame["type"] == "publish").count(), 0);
}

#[test]
fn what_may_not_or_cannot_be_published_is_refused_before_acceptance() {
    let mut house = House::new("plain");
    let session = house.join();
    house.publish(session, vec![message("$status", "1")], false);
    assert_eq!(house.told(session), ["error forbidden"]);
    house.relay.disk(0, 0);
    house.publish(session, vec![message("orders", "1")], false);
    assert_eq!(house.told(session), ["error store_full"]);
    let ready = house.call(CallRequest::Ready);
    assert!(format!("{:?}", house.answer(ready)).contains("store_full"), "nothing can be accepted: not ready");
    house.input(Input::Stop { now: false });
    house.told.clear();
    let call = house.call(CallRequest::Publish {
        messages: vec![message("orders", "1")],
        atomic: false,
        wait: Duration::ZERO,
    });
    assert_eq!(house.answer(call).unwrap().0, Err(ErrorCode::Draining));

    let mut house = House::new("binance");
    let session = house.join();
    house.publish(session, vec![message("btcusdt@trade", "1")], false);
    assert_eq!(house.told(session), ["error not_supported"]);

    let mut house = House::new("phoenix");
    let session = house.join();
    house.publish(session, vec![Publish { kind: None, ..message("room:lobby", "1") }], false);
    assert_eq!(house.told(session), ["error invalid"], "the template needs a type");
    assert_eq!(house.relay.stats().outbox.accepted, 0);
}

#[test]
fn a_drain_tells_what_is_still_to_become_durable_before_it_closes() {
    let mut house = House::new("plain");
    let session = house.join();
    house.publish(session, vec![message("orders", "1")], false);
    let sent = house.sent();
    house.told.clear();
    house.slow_store = true;
    house.publish(session, vec![message("orders", "2")], false);
    house.input(Input::Stop { now: false });
    house.receive(&json!({"type": "ack", "id": sent[0]["id"]}));
    assert_eq!(house.told(session), Vec::<String>::new());
    house.commit();
    let kinds: Vec<String> = house.told(session);
    assert_eq!(kinds, ["accepted accepted", "outcome delivered", "closing "]);
}

#[test]
fn a_failed_store_is_told_to_all_who_wait_and_ends_nothing_more() {
    let mut house = House::new("plain");
    let session = house.join();
    house.publish(session, vec![message("orders", "1")], false);
    let sent = house.sent();
    house.told.clear();
    house.slow_store = true;
    house.publish(session, vec![message("orders", "2")], false);
    let call = house.call(CallRequest::Publish {
        messages: vec![message("orders", "3")],
        atomic: false,
        wait: Duration::ZERO,
    });
    house.input(Input::CommitFailed { reason: "disk on fire".into() });
    assert_eq!(house.told(session), ["error store_failed"]);
    assert_eq!(house.answer(call).unwrap().0, Err(ErrorCode::StoreFailed));
    house.committing = false;
    house.receive(&json!({"type": "ack", "id": sent[0]["id"]}));
    house.wait(60 * SECOND);
    assert_eq!(house.told(session), Vec::<String>::new(), "its end cannot be durable");
    house.publish(session, vec![message("orders", "4")], false);
    assert_eq!(house.told(session), ["error store_failed"]);
    assert!(!house.committing && house.sent().iter().all(|frame| frame["type"] != "publish"));
}

#[test]
fn operators_see_the_outbox() {
    let mut house = House::new("plain");
    house.down = true;
    house.cut();
    let session = house.join();
    house.publish(session, vec![message("orders", "\"secret\"")], false);
    let call = house.call(CallRequest::Outbox);
    let (status, body) = house.answer(call).unwrap();
    assert_eq!((status, &body["depth"], &body["messages"][0]["channel"]), (Ok(200), &1.into(), &"orders".into()));
    assert!(!body.to_string().contains("secret"));
}
