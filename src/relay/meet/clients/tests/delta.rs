//! Changes instead of values: whatever a reader misses, what it makes of them is the truth.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::options::subscribe_with;
use super::*;
use crate::protocol::delta::tests::{merge, object};
use crate::protocol::request::options::OnSlow;
use crate::protocol::selection::Selection;

fn delta() -> Options {
    Options { delta: true, ..Options::default() }
}

/// What a reader makes of its frames: per key the offset of its last event, and the value.
#[derive(Default)]
struct Fold(BTreeMap<String, (u64, Value)>);

impl Fold {
    fn read(&mut self, frame: &Value) {
        let offset = |frame: &Value| {
            frame["id"].as_str().and_then(|id| id.rsplit_once('-')).and_then(|(_, offset)| offset.parse().ok())
        };
        let key = |frame: &Value| frame["key"].as_str().unwrap_or_default().to_owned();
        match frame["kind"].as_str().unwrap() {
            "snapshot" => {
                let values = frame["values"].as_array().unwrap().iter();
                self.0.extend(values.map(|value| (key(value), (offset(value).unwrap(), value["data"].clone()))));
            }
            // What was missed is not known: nothing counts any more.
            "gap" => self.0.clear(),
            "event" if frame["patch"] == true => {
                let (base, value) = self.0.get_mut(&key(frame)).expect("nobody gets a change of what it has not");
                assert_eq!(frame["base"].as_u64(), Some(*base), "{frame}");
                merge(value, &frame["data"]);
                *base = offset(frame).unwrap();
            }
            "event" => {
                self.0.insert(key(frame), (offset(frame).unwrap(), frame["data"].clone()));
            }
            _ => {}
        }
    }
}

#[test]
fn what_changed_is_sent_to_who_has_what_it_changes() {
    let mut house = House::new(|_| {});
    house.keyed_event("c", "a", r#"{"p":1.10,"q":1,"r":1}"#);
    let clients = [house.join(), house.join()];
    for client in clients {
        house.ask(client, Request::Subscribe(subscribe_with(&["c"], |options| *options = delta())));
    }
    assert_eq!(house.frames(clients[0])[1]["lossy"], false);
    house.frames(clients[1]);
    let late = house.join();
    let blind = Subscribe { snapshot: false, ..subscribe_with(&["c"], |options| *options = delta()) };
    house.ask(late, Request::Subscribe(blind));
    house.frames(late);
    let base = house.relay.feed.ring(house.relay.feed.find("c").unwrap()).unwrap().last.unwrap();
    house.keyed_event("c", "a", r#"{"p":1.20,"q":1,"r":1}"#);
    house.turn();
    let texts: Vec<String> =
        house.batches.iter().map(|(_, batch)| String::from_utf8_lossy(batch.items()[0].text()).into_owned()).collect();
    assert!(texts[0].ends_with(&format!(r#","patch":true,"base":{base},"data":{{"p":1.20}}}}"#)), "{}", texts[0]);
    assert_eq!(texts[0], texts[1]);
    assert!(texts[2].ends_with(r#""data":{"p":1.20,"q":1,"r":1}}"#), "who has no base: {}", texts[2]);
    house.batches.clear();
    house.keyed_event("c", "a", r#"{"p":1.20,"q":1,"r":1}"#);
    house.keyed_event("c", "a", r#"{"p":null,"q":1,"r":1}"#);
    house.turn();
    assert_eq!(house.short(late), ["c={}", r#"c={"p":null,"q":1,"r":1}"#], "now it has; and null is no removal");
}

#[test]
fn of_some_fields_only_changes_are_sent_and_nothing_where_none_changed() {
    let mut house = House::new(|_| {});
    let client = house.join();
    let fields = Selection::new(&["/price".to_owned(), "/size".to_owned()]).unwrap();
    let options = Options { fields: Some(Arc::new(fields)), ..delta() };
    house.ask(client, Request::Subscribe(subscribe_with(&["c"], |given| *given = options)));
    house.frames(client);
    for (price, noise) in [(1, 0), (1, 1), (1, 2), (2, 3)] {
        house.event("c", &format!(r#"{{"price":{price},"size":5,"noise":{noise}}}"#));
        house.turn();
    }
    let frames = house.frames(client);
    let mut fold = Fold::default();
    frames.iter().for_each(|frame| fold.read(frame));
    assert_eq!(
        frames.iter().map(short).collect::<Vec<_>>(),
        [r#"c={"price":1,"size":5}"#, "conflated 2", r#"c={"price":2}"#]
    );
    assert_eq!(fold.0[""].1, serde_json::json!({"price": 2, "size": 5}));
}

#[derive(Debug, Clone)]
enum Step {
    Event(String, Value),
    Stuck(bool),
    Wait,
}

fn without_nulls(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|_, value| !value.is_null());
        members.values_mut().for_each(without_nulls);
    }
}

/// Values that mostly have much in common, so that most changes can be told as such.
fn value() -> impl Strategy<Value = Value> {
    (object(), 0..8_u8).prop_map(|(mut value, nulls)| {
        if nulls > 0 {
            without_nulls(&mut value);
        }
        value["pad"] = "x".repeat(100).into();
        value
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => ("[xyz]", value()).prop_map(|(key, value)| Step::Event(key, value)),
        1 => any::<bool>().prop_map(Step::Stuck),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn the_fold_of_state_and_changes_is_the_state(
        steps in prop::collection::vec(step(), 1..60),
        join_at in 0..20_usize,
        (conflate, slow, some) in any::<(bool, bool, bool)>(),
    ) {
        // Of what was evicted the channel knows the newest event alone, which may have none of the fields.
        let held = if some && (conflate || slow) { 1_000 } else { 6 };
        let mut house = House::new(|config| (config.feed.ring.events, config.feed.session_lag) = (held, 2_000));
        let client = house.join();
        let pointers = ["/a".to_owned(), "/b/c".to_owned(), "/pad".to_owned()];
        let fields = Selection::new(&pointers).unwrap();
        let options = Options {
            conflate: conflate.then_some(Duration::from_millis(100)),
            on_slow: if slow { OnSlow::Conflate } else { OnSlow::DropOldest },
            fields: some.then(|| Arc::new(fields.clone())),
            ..delta()
        };
        let mut fold = Fold::default();
        let mut truth: BTreeMap<String, Value> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            if at == join_at {
                house.ask(client, Request::Subscribe(subscribe_with(&["c"], |given| *given = options.clone())));
            }
            match step {
                Step::Event(key, value) => {
                    house.keyed_event("c", key, &value.to_string());
                    house.turn();
                    let seen = fields.of(value.to_string().as_bytes());
                    match (some, seen) {
                        (false, _) => drop(truth.insert(key.clone(), value.clone())),
                        (true, Some(seen)) => drop(truth.insert(key.clone(), serde_json::from_slice(&seen).unwrap())),
                        (true, None) => {}
                    }
                }
                Step::Stuck(true) => drop(house.stuck.insert(client)),
                Step::Stuck(false) => {
                    house.stuck.clear();
                    house.input(Input::Delivered { session: client, at: house.now.mono });
                }
                Step::Wait => house.wait(Duration::from_millis(60)),
            }
            house.frames(client).iter().for_each(|frame| fold.read(frame));
        }
        house.stuck.clear();
        for _ in 0..4 {
            house.input(Input::Delivered { session: client, at: house.now.mono });
            house.wait(Duration::from_millis(100));
        }
        house.frames(client).iter().for_each(|frame| fold.read(frame));
        for (key, (_, value)) in &fold.0 {
            prop_assert_eq!(Some(value), truth.get(key), "{}", key);
        }
    }
}
