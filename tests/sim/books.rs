//! Numbered books and what mends them: a modelled exchange loses, repeats, swaps and restarts its numbers, answers requests for
//! its state late, stale or not at all; a client folds what it is told.
//!
//! What must hold: whenever the client may trust its book (no hole told since the last state), it is exactly the exchange's
//! at that number; and once nothing fails any more, it gets to trust it again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate::dialect::HttpAnswer;
use tidegate::relay::pairs::{AttemptId, CallId, Fetch, FetchAnswer, Input, Output};

use crate::rig::{self, Rig};

const STEPS: usize = 2_000;
const CHANNELS: [&str; 2] = ["btc", "eth"];
const DIALECT: &str = r#"
dialect = 1
name = "exchange"
[gap]
then = "fetch"
reorder = "50ms"
[repair]
get = "/book?of={channel}"
is = "snapshot"
seq = "/last"
data = "/book"
[send]
subscribe = { json = '{"subscribe":{channel}}', ack = false }
unsubscribe = { json = '{"unsubscribe":{channel}}', ack = false }
[[on]]
match = { "/of" = { exists = true } }
is = "event"
channel = "/of"
fold = "append"
seq = ["/first", "/last"]
data = "/change"
"#;

type Book = BTreeMap<String, u64>;

/// What goes wrong on purpose, outside of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Answers call their state newer than it is.
    StateLies,
    /// Some entries get lost between relay and client.
    EntryVanishes,
}

#[derive(Default)]
struct Exchange {
    number: u64,
    book: Book,
    /// Every state that a number ever stood for.
    history: BTreeMap<u64, Vec<Book>>,
    /// What was said last, and what waits to come after the next one.
    last: Option<Value>,
    swapped: Option<Value>,
}

struct World {
    rig: Rig,
    fault: Option<Fault>,
    attempt: Option<AttemptId>,
    values: u64,
    exchanges: BTreeMap<&'static str, Exchange>,
    /// Requests for a state, with the state as it was when they were asked.
    asked: VecDeque<(CallId, &'static str, Value)>,
    /// What the client knows, where it may trust it.
    books: BTreeMap<String, Book>,
    told: BTreeMap<String, u64>,
    violation: Option<String>,
}

impl World {
    fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut config = rig::config("wss://exchange.example/");
        config.repair.cooldown = Duration::from_millis(100);
        config.repair.timeout = Duration::from_secs(2);
        config.repair.attempts = 3;
        config.repair.given_up_for = Duration::from_secs(5);
        config.repair.held_events = 200;
        config.interest.refresh_ttl = Duration::from_millis(500);
        let mut world = World {
            rig: Rig::new(config, rig::dialect("exchange", DIALECT), seed),
            fault,
            attempt: None,
            values: 0,
            exchanges: CHANNELS.iter().map(|name| (*name, Exchange::default())).collect(),
            asked: VecDeque::new(),
            books: BTreeMap::new(),
            told: BTreeMap::new(),
            violation: None,
        };
        world.rig.ask(&json!({"op": "subscribe", "channels": CHANNELS}));
        world.turn();
        world
    }

    /// The exchange's book changes; gives what it says about that.
    fn change(&mut self, name: &'static str) -> Value {
        self.values += 1;
        let (key, value, steps) = (format!("k{}", self.rig.rng.below(5)), self.values, 1 + self.rig.rng.below(3));
        let exchange = self.exchanges.get_mut(name).expect("known");
        let first = exchange.number + 1;
        exchange.number += steps;
        exchange.book.insert(key.clone(), value);
        exchange.history.entry(exchange.number).or_default().push(exchange.book.clone());
        json!({"of": name, "first": first, "last": exchange.number, "change": {key: value}})
    }

    fn say(&mut self, frame: &Value) {
        let Some(attempt) = self.attempt else { return };
        self.rig.note(format!("says {frame}"));
        self.rig.hear(attempt, rig::text(frame));
        self.turn();
    }

    fn step(&mut self) {
        let name = self.rig.one_of(&CHANNELS);
        match self.rig.rng.below(100) {
            0..=39 => {
                let said = self.change(name);
                self.say(&said);
                let exchange = self.exchanges.get_mut(name).expect("known");
                exchange.last = Some(said);
                if let Some(late) = exchange.swapped.take() {
                    self.say(&late);
                }
            }
            40..=43 => drop(self.change(name)),
            44..=47 => {
                if let Some(again) = self.exchanges[name].last.clone() {
                    self.say(&again);
                }
            }
            48..=52 => {
                let early = self.change(name);
                self.exchanges.get_mut(name).expect("known").swapped.get_or_insert(early);
            }
            // Upstream begins anew, and its first words are heard: if they are not, numbers alone cannot tell a restart from
            // late duplicates. Small numbers may as well be a range that overlaps what was seen.
            53 if self.exchanges[name].number > 50 => {
                let exchange = self.exchanges.get_mut(name).expect("known");
                (exchange.number, exchange.book) = (0, Book::new());
                (exchange.last, exchange.swapped) = (None, None);
                let first = self.change(name);
                self.say(&first);
            }
            54 => self.lose_connection(),
            55..=66 => self.answer(),
            67..=68 => self.rig.ask(&json!({"op": "refresh", "ref": 1, "channel": name})),
            _ => {
                let wait = 1 + self.rig.rng.below(120);
                self.pass(Duration::from_millis(wait));
            }
        }
        self.turn();
    }

    fn lose_connection(&mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        for exchange in self.exchanges.values_mut() {
            (exchange.last, exchange.swapped) = (None, None);
        }
        self.rig.cut(attempt);
    }

    /// The request that waits longest is answered: with the state as it is or was, with a failure, or never.
    fn answer(&mut self) {
        let Some((call, name, stale)) = self.asked.pop_front() else { return };
        let (status, mut body) = match self.rig.rng.below(10) {
            0..=5 => (200, self.state(name)),
            6..=7 => (200, stale),
            8 => (500, Value::Null),
            _ => return,
        };
        if self.fault == Some(Fault::StateLies) && self.rig.rng.below(4) == 0 {
            body["last"] = json!(body["last"].as_u64().unwrap_or_default() + 1);
        }
        self.reply(call, status, &body);
    }

    fn reply(&mut self, call: CallId, status: u16, body: &Value) {
        self.rig.note(format!("answers {status} {body}"));
        let answer = HttpAnswer { status, retry_after: None, body: Bytes::from(body.to_string()) };
        self.rig.input(Input::Fetched { call, result: Ok(FetchAnswer::Http(answer)) });
    }

    fn state(&self, name: &'static str) -> Value {
        let exchange = &self.exchanges[name];
        json!({"last": exchange.number, "book": exchange.book})
    }

    fn pass(&mut self, d: Duration) {
        let end = self.rig.now.mono + d;
        while self.rig.woken_before(end) {
            self.turn();
        }
    }

    fn turn(&mut self) {
        while let Some(output) = self.rig.relay.poll_output(self.rig.now) {
            match output {
                Output::Fetch { call, request: Fetch::Http(request) } => {
                    let name = CHANNELS.into_iter().find(|name| request.url.ends_with(name)).expect("a book");
                    let stale = self.state(name);
                    self.asked.push_back((call, name, stale));
                }
                Output::Fetch { call, .. } => {
                    self.rig.no_credentials(call);
                }
                Output::Connect { attempt, .. } => {
                    self.attempt = Some(attempt);
                    self.rig.input(Input::Connected { attempt, peer: "test".into() });
                }
                Output::Transmit { attempt, .. } => {
                    self.rig.input(Input::Transmitted { attempt });
                }
                Output::Deliver { session, batch } => {
                    let loses = (self.fault == Some(Fault::EntryVanishes)).then_some(30);
                    self.rig.read(session, &batch, loses).iter().for_each(|frame| self.take(frame));
                }
                _ => {}
            }
        }
    }

    /// The client reads one frame.
    fn take(&mut self, frame: &Value) {
        self.rig.note(format!("tells {frame}"));
        let word = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
        let name = word("channel");
        let what = match &*word("kind") {
            "gap" => format!("gap {}", word("repair")),
            "reset" => format!("reset {}", word("reason")),
            "ok" => format!("refreshed {}", word("refreshed")),
            other => other.to_owned(),
        };
        *self.told.entry(what).or_default() += 1;
        match frame["kind"].as_str() {
            Some("gap" | "reset") => drop(self.books.remove(&name)),
            Some("event") if frame["snapshot"] == true => {
                let book = serde_json::from_value(frame["data"].clone()).expect("a book");
                self.books.insert(name.clone(), book);
                self.judge(&name, frame);
            }
            Some("event") if self.books.contains_key(&name) => {
                let change: Book = serde_json::from_value(frame["data"].clone()).expect("a change");
                self.books.entry(name.clone()).or_default().extend(change);
                self.judge(&name, frame);
            }
            _ => {}
        }
    }

    fn judge(&mut self, name: &str, frame: &Value) {
        let number = frame["seq"].as_u64().unwrap_or_default();
        let states = self.exchanges[name].history.get(&number);
        let right = number == 0 && self.books[name].is_empty()
            || states.is_some_and(|states| states.contains(&self.books[name]));
        if !right {
            self.violation = Some(format!("{name} at {number} is told as {:?}, was {states:?}", self.books[name]));
        }
    }

    fn check(&self) -> Result<(), String> {
        self.violation.as_ref().map_or(Ok(()), |violation| Err(format!("{violation}\n{}", self.rig.story())))
    }

    /// Nothing fails any more.
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..200 {
            self.pass(Duration::from_millis(200));
            for name in CHANNELS {
                self.exchanges.get_mut(name).expect("known").swapped = None;
                let said = self.change(name);
                self.say(&said);
            }
            while let Some((call, name, _)) = self.asked.pop_front() {
                let state = self.state(name);
                self.reply(call, 200, &state);
                self.turn();
            }
        }
        self.pass(Duration::from_secs(1));
        for name in CHANNELS {
            if self.books.get(name) != Some(&self.exchanges[name].book) {
                let known = self.books.get(name);
                return Err(format!("in the end {name} is {:?}, known as {known:?}", self.exchanges[name].book));
            }
        }
        Ok(())
    }
}

fn run(seed: u64, fault: Option<Fault>) -> Result<World, String> {
    let mut world = World::new(seed, fault);
    for step in 0..STEPS {
        world.step();
        world.check().map_err(|violation| format!("seed {seed}, step {step}: {violation}"))?;
    }
    world.settle().and_then(|()| world.check()).map_err(|violation| format!("seed {seed}, at the end: {violation}"))?;
    Ok(world)
}

#[test]
fn a_book_that_may_be_trusted_is_right() {
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 1..=20 {
        match run(seed, None) {
            Ok(world) => world.told.into_iter().for_each(|(what, count)| *told.entry(what).or_default() += count),
            Err(violation) => panic!("{violation}"),
        }
    }
    for wanted in ["gap fetch", "gap failed", "reset repaired", "reset upstream", "refreshed fetch", "error", "event"] {
        assert!(told.contains_key(wanted), "{wanted} never happened: {told:?}");
    }
}

#[test]
fn a_state_that_lies_about_its_number_is_caught() {
    assert!((1..=10).any(|seed| run(seed, Some(Fault::StateLies)).is_err()));
}

#[test]
fn a_change_that_vanishes_is_caught() {
    assert!((1..=10).any(|seed| run(seed, Some(Fault::EntryVanishes)).is_err()));
}
