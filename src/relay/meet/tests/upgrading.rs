//! A session of Engine.IO that is polled: packets leave together, and the session moves to a WebSocket. The service is
//! a model of the official server: packets wait for a poll, a probe makes it release the poll that waits, and what
//! comes by POST after the session has moved is lost.

mod attachments;

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::json;

use super::socketio::publish_data;
use super::*;
use crate::dialect::{Answer, Ask, AskFor, Dialect, Transport};
use crate::relay::pairs::SessionId;
use crate::relay::rng::Rng;

const MINUTES: u64 = 60;

/// The service, and what is on its way to and from it.
struct Engine {
    service: Service,
    session: SessionId,
    /// A poll waits there.
    polled: bool,
    /// The session has moved.
    moved: bool,
    /// It was asked whether the WebSocket is the session's.
    probed: bool,
    /// The WebSocket is there.
    open: bool,
    /// What waits to be told.
    waiting: VecDeque<String>,
    gets: VecDeque<Ask>,
    posts: VecDeque<Ask>,
    answers: VecDeque<Answer>,
    up: VecDeque<WireFrame>,
    down: VecDeque<WireFrame>,
    /// Ack ids of publishes, as they came.
    published: Vec<u64>,
    events: u64,
    /// Packets in the largest POST.
    together: usize,
    /// Of a packet whose attachments have not all come: its ack id, and how many are missing.
    announced: Option<(u64, usize)>,
    /// POSTs that ended between a packet and its attachments.
    torn: usize,
}

impl Engine {
    /// Its session is open, and a client has subscribed.
    fn new(transports: &[Transport], takes: usize) -> Self {
        let mut service = Service::speaking(Dialect::builtin_text("socketio").unwrap(), |config| {
            config.upstream.url = "http://service.example".to_owned();
            config.upstream.transports = transports.to_vec();
            // What arrives late is not sent again.
            config.outbox.ack_timeout = Duration::from_secs(3600);
        });
        if transports[0] == Transport::WebSocket {
            for _ in 0..3 {
                service.until_connect();
                service.attempt = service.connects.pop_front().unwrap();
                service.lose(Disconnect::BadStatus { status: 400, retry_after: None, detail: String::new() });
            }
            service.until_connect();
        }
        let session = service.join(0);
        service.subscribe(session, &["a"]);
        service.connect();
        let mut engine = Engine {
            service,
            session,
            polled: false,
            moved: false,
            probed: false,
            open: false,
            waiting: VecDeque::new(),
            gets: VecDeque::new(),
            posts: VecDeque::new(),
            answers: VecDeque::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            published: Vec::new(),
            events: 0,
            together: 0,
            announced: None,
            torn: 0,
        };
        let intervals = "\"pingInterval\":86400000,\"pingTimeout\":1000";
        engine
            .waiting
            .push_back(format!("0{{\"sid\":\"s\",\"upgrades\":[\"websocket\"],{intervals},\"maxPayload\":{takes}}}"));
        engine.settle();
        assert_eq!(engine.service.relay.link_word(), "live");
        engine.service.told(session);
        engine
    }

    /// What the relay has sent is on its way.
    fn collect(&mut self) {
        for (_, frame) in std::mem::take(&mut self.service.sent) {
            match frame {
                WireFrame::Ask(ask) if ask.of == AskFor::Poll => self.gets.push_back(*ask),
                WireFrame::Ask(ask) => self.posts.push_back(*ask),
                frame => {
                    assert!(self.open, "{frame:?} has no way");
                    self.up.push_back(frame);
                }
            }
        }
        assert!(self.gets.len() + usize::from(self.polled) <= 1, "one poll is out");
        assert!(self.posts.len() <= 1, "one POST is out");
    }

    fn answer(&mut self, of: AskFor, body: String) {
        let (status, body) = (200, Bytes::from(body));
        self.answers.push_back(Answer { of, status, etag: None, last_modified: None, retry_after: None, body });
    }

    /// What waits leaves by whatever is there for it.
    fn flush(&mut self) {
        if self.moved {
            self.down.extend(self.waiting.drain(..).map(|packet| WireFrame::Text(packet.into())));
        } else if self.polled && !self.waiting.is_empty() {
            self.polled = false;
            let packets: Vec<String> = self.waiting.drain(..).collect();
            self.answer(AskFor::Poll, packets.join("\u{1e}"));
        }
    }

    fn take_attachment(&mut self, data: &[u8]) {
        assert_eq!(data, ATTACHMENT);
        let Some((id, missing)) = self.announced.take() else { panic!("an attachment of nothing") };
        if missing > 1 {
            self.announced = Some((id, missing - 1));
            return;
        }
        self.published.push(id);
        self.waiting.push_back(format!("43{id}[{{}}]"));
    }

    fn take_packet(&mut self, packet: &str) {
        if let Some(base64) = packet.strip_prefix('b') {
            return self.take_attachment(&STANDARD.decode(base64).unwrap());
        }
        assert_eq!(self.announced, None, "{packet} between a packet and its attachments");
        if let Some((count, message)) = packet.strip_prefix("45").and_then(|packet| packet.split_once('-')) {
            let id = message.split('[').next().unwrap();
            self.announced = Some((id.parse().unwrap(), count.parse().unwrap()));
            return;
        }
        let Some(message) = packet.strip_prefix("42") else {
            if packet == "40{}" {
                self.waiting.push_back("40{\"sid\":\"x\"}".to_owned());
            }
            return assert!(packet == "40{}" || packet == "1", "{packet}");
        };
        let (id, text) = message.split_at(message.find('[').unwrap());
        if text.starts_with("[\"publish\"") {
            self.published.push(id.parse().unwrap());
        }
        self.waiting.push_back(format!("43{id}[{{}}]"));
    }

    /// One thing that is on its way arrives; `false`: there was none of this kind.
    fn step(&mut self, kind: u64) -> bool {
        match kind {
            0 => {
                let Some(get) = self.gets.pop_front() else { return false };
                assert!(!get.repeats);
                assert!(!self.moved, "a poll of a session that has moved");
                self.polled = true;
            }
            1 => {
                let Some(post) = self.posts.pop_front() else { return false };
                assert!(!self.moved, "lost: {:?}", post.body);
                let body = String::from_utf8(post.body.to_vec()).unwrap();
                self.together = self.together.max(body.split('\u{1e}').count());
                body.split('\u{1e}').for_each(|packet| self.take_packet(packet));
                self.torn += usize::from(self.announced.is_some());
                self.answer(post.of, "ok".to_owned());
            }
            2 => {
                let Some(answer) = self.answers.pop_front() else { return false };
                self.service.say_frame(WireFrame::Answer(Box::new(answer)));
            }
            3 => {
                let Some(frame) = self.down.pop_front() else { return false };
                self.service.say_frame(frame);
            }
            4 => return self.hear(),
            // The official server does so every 100 ms.
            _ if self.probed && self.polled => {
                self.polled = false;
                self.answer(AskFor::Poll, "6".to_owned());
            }
            _ => return false,
        }
        self.flush();
        self.collect();
        true
    }

    /// A frame arrives over the WebSocket.
    fn hear(&mut self) -> bool {
        let Some(frame) = self.up.pop_front() else { return false };
        match &frame {
            WireFrame::Ping(body) => self.down.push_back(WireFrame::Pong(body.clone())),
            frame if &frame.body()[..] == b"2probe" => {
                self.probed = true;
                self.down.push_back(WireFrame::Text(Bytes::from_static(b"3probe")));
            }
            frame if &frame.body()[..] == b"5" => {
                assert!(!self.polled && self.posts.is_empty() && self.answers.is_empty(), "nothing is under way");
                (self.moved, self.probed) = (true, false);
            }
            WireFrame::Binary(data) => {
                assert!(self.moved, "an attachment before the session has moved");
                self.take_attachment(data);
            }
            frame => {
                assert!(self.moved, "{frame:?} before the session has moved");
                let packet = String::from_utf8(frame.body().to_vec()).unwrap();
                self.take_packet(&packet);
            }
        }
        self.flush();
        self.collect();
        true
    }

    /// The WebSocket that is asked for opens.
    fn upgrade(&mut self) {
        assert_eq!(self.service.upgrades.pop().as_deref(), Some(UPGRADE));
        self.open = true;
        let attempt = self.service.attempt;
        self.service.input(Input::Upgraded { attempt });
        self.collect();
    }

    /// It is gone, or was never there.
    fn close(&mut self) {
        (self.open, self.probed) = (false, false);
        self.up.clear();
        self.down.clear();
        let (attempt, reason) = (self.service.attempt, Disconnect::Reset("cut".into()));
        self.service.input(Input::NotUpgraded { attempt, reason });
        self.collect();
    }

    fn event(&mut self) {
        let packet = json!(["event", {"channel": "a", "data": self.events}]);
        self.events += 1;
        self.waiting.push_back(format!("42{packet}"));
        self.flush();
    }

    fn publish(&mut self) {
        self.service.publish(self.session, "orders", Lane::Medium);
        self.collect();
    }

    /// With so many attachments.
    fn attach(&mut self, count: usize) {
        let mark = format!(r#"{{"$binary":"{}"}}"#, STANDARD.encode(ATTACHMENT));
        let data = if count == 1 { mark } else { format!("[{}]", vec![mark; count].join(",")) };
        publish_data(&mut self.service, self.session, &data);
        self.collect();
    }

    /// Everything that is on its way arrives.
    fn settle(&mut self) {
        self.flush();
        self.collect();
        while (0..6).any(|kind| self.step(kind)) {}
        self.service.pass(Duration::ZERO);
        self.collect();
    }

    /// Lets time pass until a WebSocket is asked for; gives the minutes.
    fn until_upgrade(&mut self) -> u64 {
        let begin = self.service.now.mono;
        while self.service.upgrades.is_empty() {
            assert!(self.service.now.mono.since(begin) < Duration::from_secs(24 * 3600), "it is tried");
            self.service.pass_seconds(1);
            self.collect();
            self.settle();
        }
        self.service.now.mono.since(begin).as_secs() / MINUTES
    }

    fn pass_minutes(&mut self, minutes: u64) {
        for _ in 0..minutes * 12 {
            self.service.pass_seconds(MINUTES / 12);
            self.collect();
            self.settle();
        }
    }

    /// What the client was told of the channel, and how its messages ended.
    fn told(&mut self) -> (Vec<String>, usize) {
        let told = self.service.told(self.session);
        let ended = told.iter().filter(|frame| *frame == "outcome delivered").count();
        (told.into_iter().filter(|frame| frame.contains(" a ")).collect(), ended)
    }
}

const UPGRADE: &str = "ws://service.example/socket.io/?EIO=4&transport=websocket&sid=s";
const POLLS_FIRST: [Transport; 2] = [Transport::LongPoll, Transport::WebSocket];
const MUCH: usize = 1_000_000;
/// What is attached: in a POST it is 41 bytes long.
const ATTACHMENT: &[u8] = &[0xe7; 30];

#[test]
fn a_session_that_begins_with_polls_moves_as_soon_as_it_may() {
    let mut engine = Engine::new(&POLLS_FIRST, MUCH);
    assert_eq!(engine.service.upgrades, [UPGRADE], "at once");
    engine.upgrade();
    // Before the answer to the probe polling goes on.
    engine.event();
    assert!(engine.step(2), "by the poll that waited");
    engine.publish();
    assert!(engine.step(1), "by POST");
    assert!(engine.step(4) && engine.step(3), "the probe is answered");
    // From now on everything waits, for a POST and a poll are out.
    engine.publish();
    engine.publish();
    assert!(engine.posts.is_empty() && engine.up.is_empty());
    engine.settle();
    assert!(engine.moved);
    engine.event();
    engine.settle();
    assert_eq!(engine.told(), (vec!["event a 0".to_owned(), "event a 1".to_owned()], 3));
    assert!(engine.published.is_sorted() && engine.published.len() == 3, "{:?}", engine.published);
    let stats = &engine.service.relay.stats.link;
    assert_eq!((stats.upgrades, stats.upgrades_failed, stats.attempts), (1, 0, 1));
    assert!(engine.service.notices.contains(&Notice::Upgraded));
    engine.pass_minutes(30);
    assert!(engine.service.upgrades.is_empty(), "once");
    assert!(engine.service.connects.is_empty(), "it stays there: {:?}", engine.service.notices);

    // The WebSocket's end is the session's. The next one begins with polls again.
    engine.close();
    assert_eq!(engine.service.closed.len(), 1);
    engine.service.until_connect();
    assert_eq!(engine.service.ways.last().unwrap().2, Transport::LongPoll);
}

#[test]
fn a_move_that_fails_leaves_polling_as_it_was_and_is_tried_again_later() {
    let mut engine = Engine::new(&POLLS_FIRST, MUCH);
    for (round, wait) in [(0, 10), (1, 20), (2, 40)] {
        match round {
            // It does not open.
            0 => {
                engine.service.upgrades.clear();
                engine.close();
            }
            // Upstream says something else.
            1 => {
                engine.upgrade();
                engine.up.clear();
                engine.service.say_frame(WireFrame::Text(Bytes::from_static(b"42[\"a\",1]")));
                assert_eq!(engine.service.kept_polling, 1);
                engine.close();
            }
            // Upstream says nothing.
            _ => {
                engine.upgrade();
                engine.up.clear();
                engine.service.pass_seconds(MINUTES);
                engine.collect();
                assert_eq!(engine.service.kept_polling, 2);
                engine.close();
            }
        }
        engine.event();
        engine.publish();
        engine.settle();
        assert_eq!(engine.told(), (vec![format!("event a {round}")], 1));
        assert_eq!(engine.service.relay.stats.link.upgrades_failed, round + 1);
        let waited = engine.until_upgrade();
        assert!((wait - 2..=wait).contains(&waited), "{waited} minutes, not {wait}");
    }
    assert!(engine.service.closed.is_empty() && engine.service.connects.is_empty());
}

#[test]
fn a_ladder_that_fell_to_polls_climbs_by_moving_the_session() {
    let mut engine = Engine::new(&[Transport::WebSocket, Transport::LongPoll], MUCH);
    assert!(engine.service.upgrades.is_empty(), "it was refused just now");
    let waited = engine.until_upgrade();
    assert!((4..=5).contains(&waited), "{waited} minutes");
    assert!(engine.service.connects.is_empty(), "no second connection");
    engine.upgrade();
    engine.settle();
    assert!(engine.moved);
    // That is the better rung: the next connection begins there.
    engine.close();
    engine.service.until_connect();
    assert_eq!(engine.service.ways.last().unwrap().2, Transport::WebSocket);
}

#[test]
fn a_session_whose_websocket_does_not_last_is_polled_for_a_while() {
    let mut engine = Engine::new(&POLLS_FIRST, MUCH);
    engine.upgrade();
    engine.settle();
    engine.close();
    engine.service.until_connect();
    let Engine { service, .. } = &mut engine;
    service.connect();
    let open = "0{\"sid\":\"s\",\"upgrades\":[\"websocket\"],\"pingInterval\":86400000,\"pingTimeout\":1000}";
    for body in [open, "40{\"sid\":\"x\"}"] {
        let (of, body) = (AskFor::Poll, Bytes::from_static(body.as_bytes()));
        let answer = Answer { of, status: 200, etag: None, last_modified: None, retry_after: None, body };
        service.say_frame(WireFrame::Answer(Box::new(answer)));
    }
    assert_eq!(service.relay.link_word(), "live");
    assert!(service.upgrades.is_empty());
}

#[test]
fn packets_wait_for_the_answer_to_a_post_and_then_leave_together() {
    let mut engine = Engine::new(&[Transport::LongPoll], MUCH);
    assert!(engine.service.upgrades.is_empty(), "no WebSocket is wanted");
    for _ in 0..20 {
        engine.publish();
    }
    engine.settle();
    assert_eq!((engine.published.len(), engine.told().1), (20, 20));
    assert!(engine.published.is_sorted());
    assert!(engine.together >= 19, "{} in one POST", engine.together);

    let mut narrow = Engine::new(&[Transport::LongPoll], 60);
    for _ in 0..20 {
        narrow.publish();
    }
    narrow.settle();
    assert_eq!((narrow.published.len(), narrow.told().1), (20, 20));
    assert_eq!(narrow.together, 2, "as many as it takes");
}

#[test]
fn what_upstream_would_not_take_is_refused_and_the_connection_stays() {
    let mut engine = Engine::new(&[Transport::LongPoll], 60);
    let message = "x".repeat(60);
    engine.service.publish(engine.session, &message, Lane::Medium);
    engine.collect();
    engine.publish();
    engine.settle();
    let told = engine.service.told(engine.session);
    assert!(
        told.contains(&"outcome too_large".to_owned()) && told.contains(&"outcome delivered".to_owned()),
        "{told:?}"
    );
    assert!(engine.service.closed.is_empty());
}

#[test]
fn a_polled_session_is_left_with_a_word() {
    let mut engine = Engine::new(&[Transport::LongPoll], MUCH);
    engine.service.input(Input::Stop { now: false });
    engine.service.pass_seconds(MINUTES);
    assert_eq!(engine.service.farewells, ["1"]);
}

#[test]
fn a_packet_that_cannot_be_followed_is_a_gap_and_a_new_session() {
    let mut engine = Engine::new(&[Transport::LongPoll], MUCH);
    engine.waiting.push_back("42[\"event\",{\"channel\":\"a\",\"data\":1}]".into());
    engine.waiting.push_back("42[\"event\",{\"channel\":\"a\",".into());
    engine.waiting.push_back("42[\"event\",{\"channel\":\"a\",\"data\":3}]".into());
    engine.flush();
    assert!(engine.step(2));
    assert_eq!(engine.told().0, ["event a 1", "gap a reconnect"], "nothing after the hole before it is told");
    let stats = &engine.service.relay.stats;
    assert_eq!((stats.dialect.malformed, stats.link.disconnects.get(&"malformed")), (1, 1));
    assert_eq!(engine.service.farewells, ["1"]);
    engine.service.until_connect();
}

/// Whatever happens when, in whichever order: no event is missing, doubled or out of order, and neither is a message.
#[test]
fn moving_loses_nothing_whatever_arrives_first() {
    let (mut moved, mut failed, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut engine = Engine::new(&POLLS_FIRST, if seed % 2 == 0 { MUCH } else { 60 });
        let mut messages = 0;
        for _ in 0..120 {
            match rng.below(12) {
                0 | 1 => engine.event(),
                2 | 3 => {
                    if rng.below(3) == 0 {
                        engine.attach(1)
                    } else {
                        engine.publish()
                    }
                    messages += 1;
                }
                4 if !engine.service.upgrades.is_empty() && rng.below(4) > 0 => engine.upgrade(),
                4 if engine.open && !engine.moved && rng.below(8) == 0 && !engine.up.iter().any(is_move) => {
                    engine.close();
                }
                5 => {
                    engine.service.pass_seconds(rng.below(3));
                    engine.collect();
                }
                4 => {}
                kind => drop(engine.step(kind - 6)),
            }
        }
        if !engine.service.upgrades.is_empty() {
            engine.upgrade();
        }
        engine.settle();
        let events: Vec<String> = (0..engine.events).map(|n| format!("event a {n}")).collect();
        assert_eq!(engine.told(), (events, messages), "seed {seed}");
        assert_eq!(
            engine.published.len(),
            messages,
            "seed {seed}: {:?} {:?} {:?}",
            engine.published,
            engine.up,
            engine.posts
        );
        assert!(engine.published.is_sorted(), "seed {seed}: {:?}", engine.published);
        moved += engine.service.relay.stats.link.upgrades;
        failed += engine.service.relay.stats.link.upgrades_failed;
        assert!(engine.torn == 0 || seed % 2 == 1, "seed {seed}: a POST would have taken all of it");
        torn += engine.torn;
        assert!(engine.service.closed.is_empty(), "seed {seed}");
    }
    assert!(moved > 100 && failed > 5 && torn > 50, "{moved} moved, {failed} did not; {torn} torn");
}

fn is_move(frame: &WireFrame) -> bool {
    &frame.body()[..] == b"5"
}
