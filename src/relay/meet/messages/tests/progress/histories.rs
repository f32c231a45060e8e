//! Random histories: whatever happens to a message, what its channel tells is a life, and ends with exactly one outcome.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// One thing that happens. `usize`: to one of those that it can happen to.
#[derive(Debug, Clone)]
enum Happens {
    Publish { once: bool, order: Option<u8>, coalesce: bool, ttl: bool },
    Follow(usize),
    Unfollow(usize),
    Ack(usize),
    Refuse(usize, bool),
    Cancel(usize),
    Cut,
    Outage(bool),
    StoreWaits,
    Commit,
    Pass(u64),
}

fn happens() -> impl Strategy<Value = Happens> {
    let publish = (any::<bool>(), prop_oneof![Just(None), (0u8..2).prop_map(Some)], any::<bool>(), any::<bool>());
    prop_oneof![
        6 => publish.prop_map(|(once, order, coalesce, ttl)| Happens::Publish { once, order, coalesce, ttl }),
        6 => any::<usize>().prop_map(Happens::Follow),
        2 => any::<usize>().prop_map(Happens::Unfollow),
        5 => any::<usize>().prop_map(Happens::Ack),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(of, again)| Happens::Refuse(of, again)),
        2 => any::<usize>().prop_map(Happens::Cancel),
        2 => Just(Happens::Cut),
        2 => any::<bool>().prop_map(Happens::Outage),
        2 => Just(Happens::StoreWaits),
        4 => Just(Happens::Commit),
        4 => (1u64..20_000).prop_map(Happens::Pass),
    ]
}

/// What a reader knows of a message from its channel.
#[derive(Debug, Default)]
struct Known {
    state: String,
    attempts: u64,
    acked: bool,
    ended: bool,
    outcomes: usize,
}

/// The publisher, and what it was told.
struct World {
    house: House,
    session: SessionId,
    messages: Vec<String>,
    known: BTreeMap<String, Known>,
    /// How the outcome frames say that messages ended.
    told: BTreeMap<String, Value>,
}

impl World {
    fn new() -> Self {
        let mut house = House::with("plain", |config| {
            config.outbox.in_memory = 2;
            config.outbox.max_attempts = 3;
        });
        let session = house.join();
        house.follow(session, "$outbox");
        World { house, session, messages: Vec::new(), known: BTreeMap::new(), told: BTreeMap::new() }
    }

    fn happen(&mut self, what: &Happens) {
        let one = |all: &[String], at: usize| (!all.is_empty()).then(|| all[at % all.len()].clone());
        match what {
            Happens::Publish { once, order, coalesce, ttl } => {
                let publish = Publish {
                    on_unknown: once.then_some(OnUnknown::DeadLetter),
                    order_key: order.map(|key| format!("o{key}").into()),
                    coalesce: *coalesce && order.is_some(),
                    ttl: ttl.then_some(10 * SECOND),
                    ..message("orders", "1")
                };
                self.house.publish(self.session, vec![publish], false);
            }
            Happens::Follow(at) => {
                if let Some(id) = one(&self.messages, *at) {
                    self.house.follow(self.session, &channel_of(&id));
                }
            }
            Happens::Unfollow(at) => {
                if let Some(id) = one(&self.messages, *at) {
                    self.house.unfollow(self.session, &channel_of(&id));
                }
            }
            Happens::Ack(at) => self.answer(*at, "ack", &json!({})),
            Happens::Refuse(at, true) => self.answer(*at, "error", &json!({"code": "busy", "retry_after": 1})),
            Happens::Refuse(at, false) => self.answer(*at, "error", &json!({"code": "no"})),
            Happens::Cancel(at) => {
                if let Some(id) = one(&self.messages, *at) {
                    let request = Request::Cancel { reference: None, message: id.into() };
                    self.house.input(Input::Request { session: self.session, request: Ok(request) });
                }
            }
            Happens::Cut if self.house.attempt.is_some() => self.house.cut(),
            Happens::Outage(down) => self.house.down = *down,
            Happens::StoreWaits => self.house.slow_store = true,
            Happens::Commit => self.house.commit(),
            Happens::Pass(millis) => self.house.wait(Duration::from_millis(*millis)),
            Happens::Cut => {}
        }
        self.learn();
    }

    /// Upstream answers one of the messages that it got, on the connection that there is.
    fn answer(&mut self, at: usize, kind: &str, more: &Value) {
        let ids: Vec<Value> = self.house.sent.iter().map(|sent| sent["id"].clone()).collect();
        if !ids.is_empty() && self.house.attempt.is_some() {
            let mut frame = json!({"type": kind, "id": ids[at % ids.len()]});
            frame.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
            self.house.receive(&frame);
        }
    }

    fn learn(&mut self) {
        for frame in self.house.frames(self.session) {
            let channel = word(&frame, "channel").to_owned();
            let of_all = channel == "$outbox" && frame["kind"] == "event";
            match word(&frame, "kind") {
                "accepted" => self.messages.push(word(&frame, "message").to_owned()),
                "outcome" => {
                    let message = word(&frame, "message").to_owned();
                    let told = self.known.get(&message).map(|known| (known.outcomes, known.state.clone()));
                    assert_eq!(told, Some((1, word(&frame, "state").to_owned())), "the event comes before: {frame}");
                    assert!(self.told.insert(message, frame).is_none(), "told once");
                }
                "snapshot" => self.agrees(&frame["values"][0]["data"]),
                "event" if of_all => self.step(word(&frame, "type"), &frame["data"]),
                "event" => self.agrees(&frame["data"]),
                _ => {}
            }
        }
    }

    /// A message's own channel says what `$outbox` says: nothing of it is known earlier or otherwise.
    /// Only that its end is decided shows before it is told: it is not in flight any more.
    fn agrees(&self, data: &Value) {
        let known = &self.known[word(data, "message")];
        assert_eq!(data["attempts"], known.attempts, "{data}");
        let decided = known.state == "in_flight" && word(data, "state") == "accepted";
        assert!(decided || known.state == word(data, "state"), "{data} after {known:?}");
    }

    fn step(&mut self, kind: &str, data: &Value) {
        let message = word(data, "message").to_owned();
        let fresh = !self.known.contains_key(&message);
        assert_eq!(fresh, kind == "accepted", "a life begins with its acceptance, once: {data}");
        assert!(!fresh || self.messages.contains(&message), "named before: {data}");
        let known = self.known.entry(message).or_default();
        assert!(!known.ended, "nothing follows an outcome: {kind} {data}");
        let in_flight = known.state == "in_flight";
        match kind {
            "accepted" => {}
            "sent" => {
                assert!(!in_flight, "{data}");
                known.attempts += 1;
            }
            "acked" => {
                assert!(known.attempts > 0 && !known.acked, "{data}");
                known.acked = true;
            }
            "retry" => assert!(in_flight && !known.acked, "{data}"),
            "outcome" => {
                assert_eq!(word(data, "state") == "delivered", known.acked, "{data}");
                (known.ended, known.outcomes) = (true, known.outcomes + 1);
            }
            other => panic!("{other}: {data}"),
        }
        known.state = word(data, "state").to_owned();
        assert_eq!(data["attempts"], known.attempts, "{data}");
    }

    /// Upstream and store do what they should: every message ends.
    fn settle(&mut self) {
        (self.house.down, self.house.slow_store) = (false, false);
        for _ in 0..200 {
            self.happen(&Happens::Commit);
            for at in 0..self.house.sent.len() {
                self.answer(at, "ack", &json!({}));
                self.learn();
            }
            self.house.sent.clear();
            if !self.messages.is_empty() && self.messages.iter().all(|id| self.told.contains_key(id)) {
                return;
            }
            self.happen(&Happens::Pass(5_000));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_a_channel_tells_of_a_message_ends_with_exactly_one_outcome(history in vec(happens(), 1..60)) {
        let mut world = World::new();
        world.happen(&Happens::Publish { once: false, order: None, coalesce: false, ttl: false });
        history.iter().for_each(|what| world.happen(what));
        world.settle();
        for id in &world.messages {
            prop_assert_eq!(world.known[id].outcomes, 1, "{}: {:?}", id, world.known[id]);
        }
        prop_assert_eq!(world.known.len(), world.messages.len());
        for id in world.messages.clone() {
            world.house.unfollow(world.session, &channel_of(&id));
        }
        world.house.unfollow(world.session, "$outbox");
        prop_assert_eq!(world.house.followed_channels(), 0);
    }
}
