//! Upstream's own list of what is subscribed, held against ours.

use super::*;
use crate::relay::pairs::SessionId;
use crate::relay::stats::AuditEnd;

const AUDIT: &str = "audit = '{\"op\":\"list\",\"id\":{id}}'";
const LISTED: &str = "[[on]]\nmatch = { \"/list\" = { exists = true } }\nis = \"subscriptions\"\nreq = \"/re\"\neach = { at = \"/list\", channel = \"\" }";

fn audited(change: impl FnOnce(&mut crate::config::Config)) -> (Service, SessionId) {
    let dialect = DIALECT.replace("LIMITS", "").replace("HELLO", LISTED);
    let dialect = dialect.replacen("[send]", &format!("[send]\n{AUDIT}"), 1);
    let mut service = Service::speaking(&dialect, |config| {
        config.upstream.ping_interval = Duration::from_secs(86_400);
        change(config);
    });
    service.connect();
    let one = service.join(0);
    service.subscribe(one, &["a", "b", "c"]);
    service.ack_all();
    service.told(one);
    (service, one)
}

/// Lets time pass until upstream is asked; gives the question.
fn until_asked(service: &mut Service, seconds: u64) -> Value {
    service.pass_seconds(seconds);
    let asked: Vec<Value> = service.heard().into_iter().filter(|message| message["op"] == "list").collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    asked[0].clone()
}

fn ends(service: &Service, end: AuditEnd) -> u64 {
    service.relay.stats.interest.audits.get(&end)
}

#[test]
fn what_upstream_lacks_is_subscribed_anew_and_what_it_has_too_many_unsubscribed() {
    let (mut service, one) = audited(|_| {});
    let asked = until_asked(&mut service, 6);
    service.say(&json!({"re": asked["id"], "list": ["a", "c", "old"]}));
    assert_eq!(service.told(one), ["gap b silence"], "nobody vouches for what came since when");
    service.pass_seconds(1);
    assert_eq!(short(&service.ack_all()), ["unsubscribe old", "subscribe b"]);
    let interest = &service.relay.stats.interest;
    assert_eq!((interest.audit_missing, interest.audit_extra, ends(&service, AuditEnd::Mended)), (1, 1, 1));
    assert!(service.notices.contains(&Notice::Audited { missing: 1, extra: 1 }));
    service.say(&json!({"event": "b", "data": 5}));
    assert_eq!(service.told(one), ["event b 5"]);
    let asked = until_asked(&mut service, 300);
    service.say(&json!({"re": asked["id"], "list": ["c", "b", "a"]}));
    assert_eq!((ends(&service, AuditEnd::Agreed), service.told(one).len()), (1, 0));
    service.pass_seconds(60);
    assert_eq!(short(&service.heard()), Vec::<String>::new());
}

#[test]
fn each_connection_is_audited_once_it_is_quiet() {
    let (mut service, one) = audited(|_| {});
    service.until_connect_after_loss();
    let sent = service.heard();
    assert_eq!(short(&sent), ["subscribe a b c"]);
    service.pass_seconds(8);
    assert_eq!(short(&service.heard()), Vec::<String>::new(), "a subscribe is on its way");
    service.say(&json!({"ok": sent[0]["id"]}));
    let asked = until_asked(&mut service, 2);
    service.subscribe(one, &["d"]);
    service.unsubscribe(one, &["c"]);
    service.say(&json!({"re": asked["id"], "list": ["a", "b", "c"]}));
    assert_eq!(ends(&service, AuditEnd::Agreed), 1, "it was so when it was asked");
    service.pass_seconds(10);
    service.ack_all();
    for channel in ["a", "b", "d"] {
        service.say(&json!({"event": channel, "data": 1}));
    }
    service.told(one);
    let asked = until_asked(&mut service, 293);
    service.say(&json!({"re": asked["id"], "list": []}));
    assert_eq!(service.told(one), ["gap a silence", "gap b silence", "gap d silence"]);
}

#[test]
fn a_list_in_other_words_no_answer_and_a_refusal_mend_nothing() {
    let (mut service, one) = audited(|_| {});
    let asked = until_asked(&mut service, 6);
    service.say(&json!({"re": asked["id"], "list": ["A", "B", "C"]}));
    assert_eq!(ends(&service, AuditEnd::Unreadable), 1);
    let asked = until_asked(&mut service, 300);
    service.pass_seconds(10);
    assert_eq!(ends(&service, AuditEnd::Unanswered), 1);
    service.say(&json!({"re": asked["id"], "list": ["a"]}));
    assert_eq!(service.relay.stats.dialect.unexpected, 1, "too late");
    let asked = until_asked(&mut service, 300);
    service.say(&json!({"no": asked["id"], "why": "not now"}));
    assert_eq!(ends(&service, AuditEnd::Unanswered), 2);
    let asked = until_asked(&mut service, 300);
    service.say(&json!({"re": asked["id"], "list": ["a", "c", {}]}));
    assert_eq!(ends(&service, AuditEnd::Agreed), 1, "what could not be read may be the one that is missing");
    service.say(&json!({"re": 99, "list": 5}));
    service.pass_seconds(20);
    assert_eq!((service.told(one), short(&service.heard())), (vec![], vec![]));
}

#[test]
fn nothing_is_asked_where_the_configuration_says_so() {
    let (mut service, _) = audited(|config| config.interest.audit_interval = None);
    service.pass_seconds(3_600);
    assert!(service.heard().iter().all(|message| message["op"] != "list"));
}

#[test]
fn a_list_that_comes_by_itself_counts_while_nothing_moves() {
    let dialect = DIALECT.replace("LIMITS", "").replace(
        "[[on]]\nmatch = { \"/ok\" = { exists = true } }\nis = \"ack\"\nreq = \"/ok\"",
        "[[on]]\nmatch = { \"/ok\" = { exists = true } }\nis = \"subscriptions\"\nreq = \"/ok\"\neach = { at = \"/feeds\", channel = \"{/feed}:\", list = \"/items\" }",
    );
    let mut service = Service::speaking(&dialect.replace("HELLO", ""), |_| {});
    service.connect();
    let one = service.join(0);
    service.subscribe(one, &["t:a", "t:b"]);
    service.subscribe(one, &["u:a"]);
    let sent = service.heard();
    assert_eq!(short(&sent), ["subscribe t:a t:b", "subscribe u:a"]);
    service.say(&json!({"ok": sent[0]["id"], "feeds": [{"feed": "t", "items": ["a"]}]}));
    assert_eq!(service.relay.stats.interest.audits.total(), 0, "another subscribe is on its way");
    service.say(&json!({"ok": sent[1]["id"], "feeds": [{"feed": "t", "items": ["a"]}, {"feed": "u", "items": ["a"]}]}));
    service.pass_seconds(1);
    assert_eq!(short(&service.heard()), ["subscribe t:b"], "granted, and not on the list");
}
