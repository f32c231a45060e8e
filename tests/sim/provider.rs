//! A provider that loses changes, forgets subscriptions, keeps those that were ended, and answers questions in any order:
//! checksums, audits and refreshes of single keys against it.
//!
//! What must hold: whenever the client may trust its book, it is one that the provider had; a refresh of a key is
//! answered after the provider gave that key's state, and by nothing else; and once nothing fails any more, the
//! provider has subscribed what is wanted and nothing else, and every book is right.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::relay::pairs::{AttemptId, Input, Output};

use crate::rig::{self, Rig};

const STEPS: usize = 1_500;
const BOOKS: [&str; 3] = ["x", "y", "z"];
const KEYS: [&str; 3] = ["k1", "k2", "k3"];
const DIALECT: &str = r#"
dialect = 1
name = "provider"
[limits]
per_frame = 2
[gap]
checksum = "kraken-v2"
then = "resubscribe"
[send]
subscribe = '{"op":"subscribe","channels":{channel*},"id":{id}}'
unsubscribe = '{"op":"unsubscribe","channels":{channel*},"id":{id}}'
state = '{"op":"state","key":{key},"id":{id}}'
audit = '{"op":"list","id":{id}}'
[[on]]
match = { "/book" = { exists = true } }
is = "snapshot"
channel = "/book"
checksum = ""
[[on]]
match = { "/change" = { exists = true } }
is = "event"
channel = "/change"
fold = "append"
checksum = ""
[[on]]
match = { "/state" = { exists = true } }
is = "event"
req = "/re"
data = "/state"
[[on]]
match = { "/list" = { exists = true } }
is = "subscriptions"
req = "/re"
each = { at = "/list", channel = "" }
[[on]]
match = { "/ok" = { exists = true } }
is = "ack"
req = "/ok"
"#;

/// What goes wrong on purpose, outside of the relay and of what a provider may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The provider lists what was asked of it and not what it has.
    ListLies,
    /// Some entries get lost between relay and client.
    EntryVanishes,
    /// The answer to a question about a key carries another question's number.
    AnswersSwapped,
}

/// Quantities by price, asks and bids.
type Book = [BTreeMap<u64, u64>; 2];

struct World {
    rig: Rig,
    fault: Option<Fault>,
    attempt: Option<AttemptId>,
    /// What the provider has subscribed, and what it was asked to have.
    has: BTreeSet<String>,
    asked_for: BTreeSet<String>,
    books: BTreeMap<&'static str, Book>,
    history: BTreeMap<&'static str, Vec<Book>>,
    /// Questions about keys that are not answered yet: number and key.
    questions: VecDeque<(Value, String)>,
    lists: VecDeque<Value>,
    /// States given so far by key.
    given: BTreeMap<String, u64>,
    /// Refreshes that the client waits for: the key, and how often it was given before.
    refreshes: BTreeMap<u64, (String, u64)>,
    references: u64,
    wants: BTreeSet<&'static str>,
    /// What the client knows, where it may trust it.
    known: BTreeMap<String, Book>,
    told: BTreeMap<String, u64>,
    violation: Option<String>,
}

/// CRC-32 (ISO-HDLC), bit by bit.
fn crc32(text: &str) -> u32 {
    let one = |crc: u32, byte: u8| (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)));
    !text.bytes().fold(u32::MAX, one)
}

fn sum(book: &Book) -> u32 {
    let level = |(price, quantity): (&u64, &u64)| format!("{price}5{quantity}000");
    crc32(&book[0].iter().map(level).chain(book[1].iter().rev().map(level)).collect::<String>())
}

fn levels(side: &BTreeMap<u64, u64>) -> Value {
    side.iter()
        .map(|(price, quantity)| json!({"price": format!("0{price}.5"), "qty": format!("{quantity}.000")}))
        .collect()
}

fn take_levels(side: &mut BTreeMap<u64, u64>, levels: &Value) {
    let whole = |text: &Value| text.as_str().and_then(|text| text.split('.').next()?.parse().ok()).expect("a number");
    for level in levels.as_array().expect("levels") {
        match whole(&level["qty"]) {
            0 => drop(side.remove(&whole(&level["price"]))),
            quantity => drop(side.insert(whole(&level["price"]), quantity)),
        }
    }
}

impl World {
    fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut config = rig::config("wss://provider.example/");
        config.repair.cooldown = Duration::from_millis(100);
        config.repair.timeout = Duration::from_secs(2);
        config.interest.refresh_ttl = Duration::ZERO;
        config.interest.linger = Duration::from_millis(100);
        config.interest.ack_timeout = Duration::from_secs(2);
        config.interest.audit_interval = Some(Duration::from_secs(10));
        config.budget.refreshes = tidegate::config::Allowance { hour: 0, day: 0 };
        config.budget.repairs = tidegate::config::Allowance { hour: 0, day: 0 };
        let mut world = World {
            rig: Rig::new(config, rig::dialect("provider", DIALECT), seed),
            fault,
            attempt: None,
            has: BTreeSet::new(),
            asked_for: BTreeSet::new(),
            books: BOOKS.iter().map(|name| (*name, Book::default())).collect(),
            history: BOOKS.iter().map(|name| (*name, vec![Book::default()])).collect(),
            questions: VecDeque::new(),
            lists: VecDeque::new(),
            given: BTreeMap::new(),
            refreshes: BTreeMap::new(),
            references: 0,
            wants: BTreeSet::from(["items"]),
            known: BTreeMap::new(),
            told: BTreeMap::new(),
            violation: None,
        };
        world.rig.ask(&json!({"op": "subscribe", "channels": ["items"]}));
        world.turn();
        world
    }

    /// A book changes; gives what the provider says about that.
    fn change(&mut self, name: &'static str) -> Value {
        let (side, price) = (usize::from(self.rig.rng.below(2) == 1), 1 + self.rig.rng.below(6));
        let quantity = self.rig.rng.below(4);
        let book = self.books.get_mut(name).expect("known");
        let changed = BTreeMap::from([(price, quantity)]);
        take_levels(&mut book[side], &levels(&changed));
        self.history.get_mut(name).expect("known").push(book.clone());
        let mut said = json!({"change": name, "asks": [], "bids": [], "checksum": sum(book)});
        said[["asks", "bids"][side]] = levels(&changed);
        said
    }

    fn say(&mut self, frame: &Value) {
        let Some(attempt) = self.attempt else { return };
        self.rig.hear(attempt, rig::text(frame));
        self.turn();
    }

    fn say_change(&mut self, name: &'static str, lost: bool) {
        let said = self.change(name);
        if self.has.contains(name) && !lost {
            self.say(&said);
        }
    }

    fn step(&mut self) {
        let name = self.rig.one_of(&BOOKS);
        match self.rig.rng.below(100) {
            0..=39 => self.say_change(name, false),
            40..=42 => self.say_change(name, true),
            43..=44 => drop(self.has.remove(name)),
            45 => drop(self.has.insert(format!("ghost-{}", self.rig.rng.below(5)))),
            46..=47 => drop(self.has.insert(name.to_owned())),
            48 => self.lose_connection(),
            49..=52 if self.wants.contains(name) => {
                self.wants.remove(name);
                self.known.remove(name);
                self.rig.ask(&json!({"op": "unsubscribe", "channels": [name]}));
            }
            49..=55 => {
                if self.wants.insert(name) {
                    self.rig.ask(&json!({"op": "subscribe", "channels": [name]}));
                }
            }
            56..=63 => {
                let key = self.rig.one_of(&KEYS);
                self.references += 1;
                let before = self.given.get(key).copied().unwrap_or_default();
                self.refreshes.insert(self.references, (key.to_owned(), before));
                self.rig.ask(&json!({"op": "refresh", "ref": self.references, "channel": "items", "key": key}));
            }
            64..=73 => self.answer_question(),
            74..=79 => self.answer_list(),
            _ => {
                let wait = 1 + self.rig.rng.below(400);
                self.pass(Duration::from_millis(wait));
            }
        }
        self.turn();
    }

    fn lose_connection(&mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        self.rig.cut(attempt);
    }

    /// Some question about a key is answered, whichever.
    fn answer_question(&mut self) {
        if self.questions.is_empty() {
            return;
        }
        let at = usize::try_from(self.rig.rng.below(self.questions.len() as u64)).expect("small");
        let Some((mut number, key)) = self.questions.remove(at) else { return };
        if self.fault == Some(Fault::AnswersSwapped)
            && let Some(other) = self.questions.front_mut()
        {
            std::mem::swap(&mut number, &mut other.0);
        }
        let count = self.given.entry(key.clone()).or_default();
        *count += 1;
        let state = json!({"key": key, "n": *count});
        self.say(&json!({"re": number, "state": state}));
    }

    fn answer_list(&mut self) {
        let Some(number) = self.lists.pop_front() else { return };
        let list: Vec<&String> =
            if self.fault == Some(Fault::ListLies) { &self.asked_for } else { &self.has }.iter().collect();
        let said = json!({"re": number, "list": list});
        self.say(&said);
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
                Output::Fetch { call, .. } => self.rig.no_credentials(call),
                Output::Connect { attempt, .. } => {
                    self.attempt = Some(attempt);
                    self.has.clear();
                    self.asked_for.clear();
                    self.questions.clear();
                    self.lists.clear();
                    self.rig.input(Input::Connected { attempt, peer: "test".into() });
                }
                Output::Transmit { attempt, frames } => {
                    self.rig.input(Input::Transmitted { attempt });
                    for frame in frames.iter().filter_map(|frame| serde_json::from_slice(frame.body()).ok()) {
                        self.hear(&frame);
                    }
                }
                Output::Deliver { session, batch } => {
                    let loses = (self.fault == Some(Fault::EntryVanishes)).then_some(30);
                    self.rig.read(session, &batch, loses).iter().for_each(|frame| self.take(frame));
                }
                _ => {}
            }
        }
    }

    /// The provider reads one frame. Subscribes are answered at once, with the state of a book.
    fn hear(&mut self, frame: &Value) {
        let names: Vec<String> = serde_json::from_value(frame["channels"].clone()).unwrap_or_default();
        match frame["op"].as_str() {
            Some("subscribe") => {
                self.has.extend(names.iter().cloned());
                self.asked_for.extend(names.iter().cloned());
                self.say(&json!({"ok": frame["id"]}));
                for name in &names {
                    if let Some(book) = self.books.get(&**name).filter(|_| self.has.contains(name)) {
                        let (asks, bids) = (levels(&book[0]), levels(&book[1]));
                        let said = json!({"book": name, "asks": asks, "bids": bids, "checksum": sum(book)});
                        self.say(&said);
                    }
                }
            }
            Some("unsubscribe") => {
                for name in &names {
                    self.has.remove(name);
                    self.asked_for.remove(name);
                }
                self.say(&json!({"ok": frame["id"]}));
            }
            Some("state") => {
                let key = frame["key"].as_str().unwrap_or_default().to_owned();
                self.questions.push_back((frame["id"].clone(), key));
            }
            Some("list") => self.lists.push_back(frame["id"].clone()),
            _ => {}
        }
    }

    /// The client reads one frame.
    fn take(&mut self, frame: &Value) {
        let word = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
        let (kind, name) = (word("kind"), word("channel"));
        let what = if kind == "gap" { format!("gap {}", word("reason")) } else { kind.clone() };
        *self.told.entry(what).or_default() += 1;
        match &*kind {
            "gap" | "reset" => drop(self.known.remove(&name)),
            "ok" | "error" => {
                let asked = frame["ref"].as_u64().and_then(|reference| self.refreshes.remove(&reference));
                let Some((key, before)) = asked.filter(|_| kind == "ok") else { return };
                *self.told.entry("refreshed".to_owned()).or_default() += 1;
                if self.given.get(&key).copied().unwrap_or_default() <= before {
                    self.violation = Some(format!("{key} is told to be refreshed and was not given"));
                }
            }
            "event" if name == "items" && frame["key"] == frame["data"]["key"] => {}
            "event" if name == "items" => {
                self.violation = Some(format!("the state of one key is told of another: {frame}"));
            }
            // What was told before: a state and the changes since.
            "snapshot" if frame["stale"] == false && BOOKS.contains(&&*name) => {
                self.known.insert(name.clone(), Book::default());
                for value in frame["values"].as_array().expect("a list") {
                    self.fold(&name, &value["data"]);
                }
            }
            "event" => {
                if frame["snapshot"] == true {
                    self.known.insert(name.clone(), Book::default());
                }
                self.fold(&name, &frame["data"]);
            }
            _ => {}
        }
    }

    /// A change to a book that the client may trust leads to one that the provider had.
    fn fold(&mut self, name: &str, data: &Value) {
        let Some(known) = self.known.get_mut(name) else { return };
        take_levels(&mut known[0], &data["asks"]);
        take_levels(&mut known[1], &data["bids"]);
        if !self.history[name].contains(known) {
            self.violation = Some(format!("{name} is told as {known:?}, which it never was: {data}"));
        }
    }

    /// Nothing fails any more.
    fn settle(&mut self) -> Result<(), String> {
        for name in BOOKS {
            if self.wants.insert(name) {
                self.rig.ask(&json!({"op": "subscribe", "channels": [name]}));
            }
        }
        for round in 0..400 {
            self.pass(Duration::from_millis(200));
            while !self.questions.is_empty() || !self.lists.is_empty() {
                self.answer_question();
                self.answer_list();
            }
            if round < 380 {
                BOOKS.into_iter().for_each(|name| self.say_change(name, false));
            }
        }
        let wanted: BTreeSet<String> = self.wants.iter().map(ToString::to_string).collect();
        if self.has != wanted {
            return Err(format!("in the end {:?} are subscribed, wanted are {wanted:?}", self.has));
        }
        let wrong = BOOKS.into_iter().find(|name| self.known.get(*name) != Some(&self.books[name]));
        wrong.map_or(Ok(()), |name| {
            Err(format!("{name} is {:?}, known as {:?}", self.books[name], self.known.get(name)))
        })
    }
}

fn run(seed: u64, fault: Option<Fault>) -> Result<World, String> {
    let mut world = World::new(seed, fault);
    for step in 0..STEPS {
        world.step();
        if let Some(violation) = &world.violation {
            return Err(format!("seed {seed}, step {step}: {violation}"));
        }
    }
    let settled = world.settle();
    match settled.err().or_else(|| world.violation.clone()) {
        Some(violation) => Err(format!("seed {seed}, at the end: {violation}")),
        None => Ok(world),
    }
}

#[test]
fn what_a_provider_loses_or_forgets_is_found_and_mended() {
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    let (mut missing, mut extra) = (0, 0);
    for seed in 1..=15 {
        match run(seed, None) {
            Ok(world) => {
                world.told.iter().for_each(|(what, count)| *told.entry(what.clone()).or_default() += count);
                missing += world.rig.relay.stats().interest.audit_missing;
                extra += world.rig.relay.stats().interest.audit_extra;
            }
            Err(violation) => panic!("{violation}"),
        }
    }
    for wanted in ["gap checksum", "gap silence", "gap reconnect", "reset", "refreshed", "error", "event"] {
        assert!(told.contains_key(wanted), "{wanted} never happened: {told:?}");
    }
    assert!(missing > 10 && extra > 10, "{missing} were missing, {extra} too many");
}

fn caught(fault: Fault) -> String {
    (1..=15).find_map(|seed| run(seed, Some(fault)).err()).unwrap_or_else(|| panic!("{fault:?} went unnoticed"))
}

#[test]
fn a_list_that_lies_is_caught() {
    let violation = caught(Fault::ListLies);
    assert!(violation.contains("are subscribed"), "{violation}");
}

#[test]
fn a_change_that_vanishes_behind_the_relay_is_caught() {
    caught(Fault::EntryVanishes);
}

#[test]
fn an_answer_to_another_question_is_caught() {
    caught(Fault::AnswersSwapped);
}
