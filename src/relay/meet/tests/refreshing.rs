//! Questions for the state of one key: each is answered by the state of that key.

use super::*;
use crate::protocol::request::{Ref, Request};
use crate::relay::pairs::SessionId;

/// A service that is asked item by item, in-band; `rules` say how its answers look.
fn by_item(template: &str, rules: &str) -> (Service, SessionId, SessionId) {
    let dialect = DIALECT.replace("LIMITS", "").replace("HELLO", rules);
    let mut service = Service::speaking(&dialect.replacen("[send]", &format!("[send]\n{template}"), 1), |_| {});
    service.connect();
    let (one, two) = (service.join(0), service.join(1));
    service.subscribe(one, &["a"]);
    service.subscribe(two, &["a"]);
    service.ack_all();
    service.told(one);
    service.told(two);
    (service, one, two)
}

fn refresh(service: &mut Service, session: SessionId, key: Option<&str>) {
    let channel = subscribe(&["a"]).channels.remove(0);
    let request = Request::Refresh { reference: Some(Ref("7".into())), channel, key: key.map(Into::into) };
    service.input(Input::Request { session, request: Ok(request) });
}

const BY_KEY: &str = "state = '{\"op\":\"get\",\"channel\":{channel},\"item\":{key?},\"id\":{id}}'";
/// The answer to a question is the state itself.
const STATED: &str = "[[on]]\nmatch = { \"/state\" = { exists = true } }\nis = \"event\"\nreq = \"/re\"\nkey = \"/item\"\ndata = \"/state\"";

#[test]
fn two_keys_that_are_asked_at_once_do_not_mix() {
    let (mut service, one, two) = by_item(BY_KEY, "");
    refresh(&mut service, one, Some("x"));
    refresh(&mut service, two, Some("y"));
    refresh(&mut service, two, None);
    let asked = service.heard();
    let items: Vec<&Value> = asked.iter().map(|message| &message["item"]).collect();
    assert_eq!(items, [&json!("x"), &json!("y"), &Value::Null], "three questions");
    service.say(&json!({"ok": asked[1]["id"]}));
    assert_eq!((service.told(one), service.told(two)), (vec![], vec!["ok".to_owned()]));
    service.say(&json!({"no": asked[0]["id"], "why": "busy"}));
    assert_eq!(service.told(one), ["error upstream_timeout"]);
    refresh(&mut service, one, Some("y"));
    assert_eq!(service.told(one), ["ok"], "the answer for this key is fresh");
    service.say(&json!({"ok": asked[2]["id"]}));
    assert_eq!(service.told(two), ["ok"]);
    assert_eq!(service.heard(), Vec::<Value>::new());
}

#[test]
fn a_state_answers_the_question_that_it_names_and_only_for_its_key() {
    let (mut service, one, two) = by_item(BY_KEY, STATED);
    refresh(&mut service, one, Some("x"));
    refresh(&mut service, two, Some("y"));
    let asked = service.heard();
    service.say(&json!({"re": asked[0]["id"], "item": "z", "state": 1}));
    assert_eq!(service.told(one), ["event a 1"], "the state of another key answers nothing");
    service.told.clear();
    service.say(&json!({"re": asked[1]["id"], "state": 2}));
    let told = service.told.clone();
    assert_eq!((&told[0].1["key"], &told[0].1["data"]), (&json!("y"), &json!(2)), "channel and key are the question's");
    assert_eq!(
        (service.told(one), service.told(two)),
        (vec!["event a 2".into()], vec!["event a 2".into(), "ok".into()])
    );
    service.say(&json!({"re": asked[0]["id"], "item": "x", "state": 3}));
    assert_eq!(service.told(one), ["event a 3", "ok"]);
    service.say(&json!({"re": 99, "item": "x", "state": 4}));
    assert_eq!(service.told(one), Vec::<String>::new(), "an answer to nothing has no channel");
}

#[test]
fn answers_without_an_id_are_matched_by_the_key_they_name() {
    let template = "state = { json = '{\"op\":\"get\",\"item\":{key}}', ack = true }";
    let named = "[[on]]\nmatch = { \"/got\" = { exists = true } }\nis = \"ack\"\nof = \"state\"\nkey = \"/got\"";
    let (mut service, one, two) = by_item(template, named);
    refresh(&mut service, one, Some("x"));
    refresh(&mut service, two, Some("y"));
    service.say(&json!({"got": "z"}));
    service.say(&json!({"got": "y"}));
    assert_eq!((service.told(one), service.told(two)), (vec![], vec!["ok".to_owned()]));
    service.say(&json!({"got": "x"}));
    assert_eq!(service.told(one), ["ok"]);
}

#[test]
fn a_service_that_is_asked_for_the_whole_is_asked_once_whatever_the_keys() {
    let whole = "state = '{\"op\":\"get\",\"channel\":{channel},\"id\":{id}}'";
    let (mut service, one, two) = by_item(whole, "");
    refresh(&mut service, one, Some("x"));
    refresh(&mut service, two, Some("y"));
    assert_eq!(service.ack_all().len(), 1);
    assert_eq!((service.told(one), service.told(two)), (vec!["ok".to_owned()], vec!["ok".to_owned()]));
}
