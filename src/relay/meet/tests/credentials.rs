//! Calls before connections and channels, what they supply and for how long, and tokens that run out.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::config::{Config, TokenSource};
use crate::relay::credentials::Standing as Known;
use crate::relay::pairs::FetchError;

const CALLS: &str = r#"
dialect = 1
name = "service"
[connect]
path = "/live/{listen}"
fetch = ["key"]
[fetch.key]
post = "/key"
headers = { "X-Key" = "{secret.key}" }
take = { listen = "/key" }
message = "/error"
TTL
[send]
subscribe = '{"op":"subscribe","channels":{channel*},"id":{id}}'
[[on]]
match = { "/ok" = { exists = true } }
is = "ack"
req = "/ok"
"#;

fn service(ttl: &str) -> Service {
    quiet(&CALLS.replace("TTL", ttl), |config| config.upstream.url = "wss://feed.example".into())
}

/// A service that needs no pings.
fn quiet(dialect: &str, change: impl FnOnce(&mut Config)) -> Service {
    Service::speaking(dialect, |config| {
        config.upstream.ping_interval = Duration::from_secs(86_400);
        change(config);
    })
}

/// Lets time pass until a call is out.
fn until_call(service: &mut Service) {
    for _ in 0..10_000 {
        if !service.asked.is_empty() {
            return;
        }
        service.pass(Duration::from_millis(100));
    }
    panic!("nobody calls");
}

fn key(key: &str) -> Value {
    json!({ "key": key })
}

fn token(service: &Service, seconds: u64) -> Secret {
    let claims = format!("{{\"exp\":{}}}", service.now.wall.0 / 1_000_000_000 + seconds);
    Secret::new(format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims)))
}

fn told_of(service: &Service) -> Vec<Known> {
    let standing = |notice: &Notice| match notice {
        Notice::Credentials { standing, .. } => Some(*standing),
        _ => None,
    };
    service.notices.iter().filter_map(standing).collect()
}

#[test]
fn what_a_connection_needs_is_called_for_before_it() {
    let mut service = service("");
    assert!(service.connects.is_empty());
    assert_eq!(service.asked[0].1.headers, [("X-Key".to_owned(), "s3".to_owned())]);
    assert_eq!(service.answer_with(200, &key("a b")), "POST https://feed.example/key");
    service.connect();
    assert_eq!(service.addresses, ["wss://feed.example/live/a%20b"]);
    // Without a ttl it is good for one connection.
    service.close(1001);
    until_call(&mut service);
    service.answer_with(200, &key("c"));
    assert_eq!(service.addresses[1], "wss://feed.example/live/c");
}

#[test]
fn a_call_that_is_refused_is_repeated_once_and_then_slowly() {
    let mut service = service("");
    service.answer_with(401, &json!({"error": "who?"}));
    assert_eq!(service.relay.link.last_ending().map(|ending| ending.reason), Some("fetch"));
    let said = service.relay.link.last_ending().map(|ending| ending.detail.clone()).unwrap();
    assert_eq!(said, "fetch.key: HTTP status 401: who?");
    service.pass(Duration::from_millis(1));
    assert_eq!((service.asked.len(), told_of(&service)), (1, vec![]), "once at once");
    service.answer_with(403, &json!({}));
    service.pass_seconds(20);
    assert_eq!((service.asked.len(), told_of(&service)), (0, vec![Known::Failed]), "then slowly, and people are told");
    until_call(&mut service);
    service.answer_with(200, &key("k"));
    service.connect();
    assert_eq!(told_of(&service), [Known::Failed, Known::Good]);
    assert_eq!(service.relay.stats.auth.failures, 2);
}

#[test]
fn a_call_that_fails_otherwise_is_backed_off() {
    let mut service = service("");
    for _ in 0..4 {
        assert_eq!(service.answer_call(Err(FetchError::Timeout)), "POST https://feed.example/key");
        assert!(service.connects.is_empty());
        until_call(&mut service);
    }
    assert_eq!(service.relay.stats.link.disconnects.get(&"fetch"), 4);
    service.answer_with(200, &json!({"unexpected": "<html>"}));
    assert!(service.relay.link.last_ending().unwrap().detail.contains("has no \"/key\""));
}

#[test]
fn what_holds_is_used_again_and_held_longer_while_it_serves() {
    let mut service = service("ttl = \"100s\"\nrefresh = { put = \"/key?k={listen}\" }\n");
    service.answer_with(200, &key("one"));
    service.connect();
    service.close(1001);
    service.until_connect();
    assert_eq!((service.asked.len(), service.addresses.len()), (0, 2), "it still holds");
    service.connect();
    service.pass_seconds(70);
    assert_eq!(service.asked.len(), 0);
    service.pass_seconds(10);
    service.pass_seconds(30);
    assert_eq!(service.asked.len(), 1, "one call at a time");
    assert_eq!(service.answer_with(200, &json!({})), "PUT https://feed.example/key?k=one");
    // It cannot be held longer: it is asked for anew, and another value needs another connection.
    service.pass_seconds(81);
    service.answer_with(400, &json!({"error": "unknown key"}));
    assert_eq!(service.relay.stats.auth.refresh_failures, 1);
    service.pass_seconds(10);
    assert_eq!(service.answer_with(200, &key("two")), "POST https://feed.example/key");
    service.pass_seconds(1);
    assert_eq!(service.addresses.last().map(String::as_str), Some("wss://feed.example/live/two"));
    assert_eq!(service.closed, [], "the one that serves stays until the other one is there");
}

#[test]
fn a_channel_is_subscribed_after_its_call_and_refused_with_its_words() {
    let dialect = CALLS.replace("fetch = [\"key\"]", "").replace("/live/{listen}", "/live").replace(
        "take = { listen = \"/key\" }",
        "when = \"subscribe\"\nchannels = [\"private-*\"]\nform = { c = \"{channel}\" }\ntake = { \"channel.auth\" = \"/auth\" }",
    );
    let dialect = dialect.replace("TTL", "").replace("\"id\":{id}", "\"auth\":{channel.auth?},\"id\":{id}");
    let mut service = quiet(&dialect, |config| config.interest.ack_attempts = 2);
    service.connect();
    let one = service.join(0);
    service.subscribe(one, &["private-a", "b", "private-c", "private-d"]);
    let heard = service.ack_all();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0]["channels"], json!(["b"]));
    assert_eq!(&service.asked[0].1.body[..], b"c=private-a");
    service.answer_with(200, &json!({"auth": "x"}));
    let heard = service.ack_all();
    assert_eq!((&heard[0]["channels"], &heard[0]["auth"]), (&json!(["private-a"]), &json!("x")));
    service.told(one);
    service.answer_with(403, &json!({"error": "not yours"}));
    let told = service.told(one);
    assert!(told.iter().any(|frame| frame.contains("error private-c forbidden")), "{told:?}");
    // One that is not answered is tried again, as often as a subscribe is.
    service.answer_call(Err(FetchError::Timeout));
    service.pass_seconds(120);
    service.answer_call(Err(FetchError::Timeout));
    let told = service.told(one);
    assert!(told.iter().any(|frame| frame.contains("error private-d upstream_refused")), "{told:?}");
    assert!(service.asked.is_empty());
}

#[test]
fn calls_for_channels_are_few_at_a_time_and_one_that_is_left_is_forgotten() {
    let dialect = CALLS
        .replace("fetch = [\"key\"]", "")
        .replace("/live/{listen}", "/live")
        .replace("take = { listen = \"/key\" }", "when = \"subscribe\"\ntake = { \"channel.auth\" = \"/auth\" }");
    let mut service = quiet(&dialect.replace("TTL", ""), |_| {});
    service.connect();
    let one = service.join(0);
    let names: Vec<String> = (0..100).map(|n| format!("c{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    service.subscribe(one, &names);
    assert_eq!(service.asked.len(), 16);
    service.unsubscribe(one, &names[..1]);
    service.pass_seconds(10);
    for _ in 0..100 {
        service.answer_with(200, &json!({"auth": "x"}));
        assert!(service.asked.len() <= 16);
        if service.asked.is_empty() {
            break;
        }
    }
    let subscribed: Vec<Value> = service.ack_all();
    let channels: usize = subscribed.iter().map(|frame| frame["channels"].as_array().unwrap().len()).sum();
    assert_eq!(channels, 99);
}

const TOKEN: &str = r#"
dialect = 1
name = "service"
[connect]
query = { t = "{token?}" }
[send]
subscribe = '{"op":"subscribe","channels":{channel*},"id":{id}}'
publish = '{"op":"publish","data":{data},"id":{id}}'
[[on]]
match = { "/ok" = { exists = true } }
is = "ack"
req = "/ok"
"#;

#[test]
fn a_token_that_tells_its_end_is_looked_after_until_another_one_comes() {
    let mut service = quiet(TOKEN, |_| {});
    let first = service.connects.pop_front().unwrap();
    service.token = Some(token(&service, 100));
    service.input(Input::Disconnected { attempt: first, reason: Disconnect::Refused });
    service.until_connect();
    service.connect();
    let fetches = service.fetches;
    service.pass_seconds(70);
    assert_eq!(service.fetches, fetches);
    service.pass_seconds(10);
    assert!(service.fetches > fetches, "the file is read again");
    assert_eq!(told_of(&service), []);
    let one = service.join(0);
    service.pass_seconds(25);
    assert_eq!(told_of(&service), [Known::Expired], "nobody rotated it");
    let words = String::from_utf8(service.relay.link_json(service.now)).unwrap();
    assert!(words.contains("\"auth\":\"auth_expired\""), "{words}");
    assert_eq!(service.closed, [], "what upstream still sends is taken");
    service.heard();
    service.publish(one, "x", Lane::Medium);
    service.pass_seconds(5);
    assert_eq!(service.heard(), [Value::Null; 0], "messages wait");
    assert_eq!(service.connects.len(), 0);
    service.token = Some(token(&service, 1000));
    let before = service.addresses.len();
    service.pass_seconds(31);
    assert_eq!(service.addresses.len(), before + 1, "with another token another connection takes over");
    // What it shows is taken before it serves; people are told once it does.
    service.attempt = service.connects.pop_front().unwrap();
    let attempt = service.attempt;
    service.input(Input::Connected { attempt, peer: String::new() });
    for _ in 0..30 {
        service.ack_all();
        service.pass_seconds(1);
    }
    assert_eq!(told_of(&service), [Known::Expired, Known::Good]);
    let words = String::from_utf8(service.relay.link_json(service.now)).unwrap();
    assert!(!words.contains("auth_expired"), "{words}");
}

#[test]
fn a_token_that_has_run_out_is_not_shown() {
    let mut service = quiet(TOKEN, |_| {});
    let first = service.connects.pop_front().unwrap();
    service.token = Some(Secret::new("e30.eyJleHAiOjEwMDB9.sig"));
    service.input(Input::Disconnected { attempt: first, reason: Disconnect::Refused });
    service.pass_seconds(600);
    assert_eq!((service.connects.len(), told_of(&service)), (0, vec![Known::Expired]));
    assert!(service.fetches < 30, "slowly: {}", service.fetches);
    service.token = Some(token(&service, 1000));
    service.until_connect();
    service.connect();
    assert_eq!(told_of(&service), [Known::Expired, Known::Good]);
}

#[test]
fn a_fetched_token_is_kept_until_its_end_while_its_source_is_down() {
    let call = "post = \"https://auth.example/token\"\nheaders = { \"X-Key\" = \"{secret.key}\" }\ntake = \"/t\"\nttl = \"100s\"\n";
    let mut service = quiet(TOKEN, |config| config.upstream.token = TokenSource::Fetch(Secret::new(call)));
    assert_eq!(service.asked[0].1.headers[0].1, "s3");
    assert_eq!(service.answer_with(200, &json!({"t": "one"})), "POST https://auth.example/token");
    assert!(service.addresses[0].ends_with("?t=one"), "{:?}", service.addresses);
    service.connect();
    service.pass_seconds(80);
    for answer in [Err(FetchError::Timeout), Err(FetchError::Oversize)] {
        service.answer_call(answer);
        service.pass_seconds(4);
    }
    assert!(service.relay.stats.auth.refresh_failures >= 2);
    // It still holds: a reconnect uses it.
    service.close(1001);
    service.pass(Duration::from_millis(900));
    while !service.asked.is_empty() {
        service.answer_with(500, &json!("garbage"));
        service.pass(Duration::from_millis(100));
    }
    assert!(service.addresses.last().unwrap().ends_with("?t=one"), "{:?}", service.addresses);
}

#[test]
fn whoever_needs_what_is_asked_for_already_waits_for_that_call() {
    let mut service = service("ttl = \"100s\"\n");
    service.answer_with(200, &key("one"));
    service.connect();
    service.pass_seconds(80);
    assert_eq!(service.asked.len(), 1, "for the one that serves");
    service.close(1001);
    service.pass_seconds(5);
    assert_eq!((service.asked.len(), service.addresses.len()), (1, 1), "the next attempt waits for it");
    service.answer_with(200, &key("two"));
    assert_eq!(service.addresses[1], "wss://feed.example/live/two");
}
