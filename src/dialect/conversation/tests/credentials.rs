//! Signatures against the vendors' own examples, calls as requests, answers as variables.

use super::*;
use crate::dialect::{HttpAnswer, HttpRequest, Method};

const RULE: &str = "[[on]]\nmatch = { \"\" = { exists = true } }\nis = \"ignore\"\n";

fn equipped(text: &str, secrets: &[(&str, &str)], origins: &[&str]) -> Talk {
    let mut talk = Talk::new(dialect(&format!("{text}{RULE}")), Some("t0k"));
    talk.conversation.equip(Equipment {
        secrets: secrets.iter().map(|(name, value)| ((*name).into(), Secret::new(*value))).collect(),
        upstream: "wss://feed.example:8443/live?x=1".to_owned(),
        origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        timeout: Duration::from_secs(5),
        at: talk.now,
    });
    talk
}

fn request(talk: &Talk, fetch: usize) -> HttpRequest {
    talk.conversation.fetch_request(talk.now, fetch, false).unwrap().unwrap()
}

/// Fills `{sign.s}` of a dialect with these lines.
pub(super) fn signature(lines: &str, secrets: &[(&str, &str)]) -> String {
    let text = format!("[send]\nauth = '{{sign.s?}}'\n{lines}");
    let mut talk = equipped(&text, secrets, &[]);
    let sent = talk.open();
    sent[0].rsplit(' ').next().unwrap_or_default().trim_matches('"').to_owned()
}

#[test]
fn keyed_hashes_equal_their_standards() {
    // RFC 2202 and RFC 4231, test case 2.
    let what = "what do ya want for nothing?";
    for (hash, expected) in [
        ("sha1", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        ("sha256", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        ("sha384", "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649"),
        (
            "sha512",
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
    ] {
        let lines = format!("[sign.s]\nhmac = \"{hash}\"\nkey = \"{{secret.k}}\"\ntext = \"{what}\"\n");
        assert_eq!(signature(&lines, &[("k", "Jefe")]), expected);
        let hexed = format!("{lines}key_is = \"hex\"\n");
        assert_eq!(signature(&hexed, &[("k", "4a656665")]), expected);
    }
    // FIPS 180-4's "abc".
    let plain = "[sign.s]\nhash = \"sha256\"\ntext = \"abc\"\nout = \"base64\"\n";
    assert_eq!(signature(plain, &[]), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
}

#[test]
fn a_signature_without_its_secret_or_with_a_broken_one_has_no_value() {
    let lines = "[sign.s]\nhmac = \"sha256\"\nkey = \"{secret.k}\"\nkey_is = \"base64\"\ntext = \"x\"\n";
    assert_eq!(signature(lines, &[]), "null");
    assert_eq!(signature(lines, &[("k", "not base64!")]), "null");
}

/// Kraken's example: https://docs.kraken.com/api/docs/guides/spot-rest-auth
#[test]
fn a_hash_goes_raw_into_a_signature_as_kraken_wants_it() {
    let lines = r#"
[sign.post]
hash = "sha256"
text = "{secret.nonce}nonce={secret.nonce}&ordertype=limit&pair=XBTUSD&price=37500&type=buy&volume=1.25"
out = "raw"
[sign.s]
hmac = "sha512"
key = "{secret.private}"
key_is = "base64"
text = "/0/private/AddOrder{sign.post}"
out = "base64"
"#;
    let private = "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg==";
    assert_eq!(
        signature(lines, &[("nonce", "1616492376594"), ("private", private)]),
        "4/dpxb3iT4tp/ZCVEwSnEsLxx0bqyhLpdfOpc6fn7OR8+UClSV5n9E6aSS8MPtnRfp32bAb0nmbRn6H8ndwLUQ=="
    );
}

#[test]
fn a_call_becomes_a_request_at_upstreams_own_origin() {
    let text = r#"
[connect]
fetch = ["a", "b"]
[fetch.a]
post = "/auth/{params/room?}?t={token}"
headers = { "X-Key" = "{secret.k}", "X-None" = "{secret.none?}" }
form = { nonce = "{now_ms}", "a b" = "c&d" }
take = { one = "/one" }
[fetch.b]
get = "https://api.example/{one}"
take = { two = "" }
"#;
    let mut talk = equipped(text, &[("k", "s3")], &["https://api.example"]);
    let first = request(&talk, 0);
    assert_eq!((first.method, first.url.as_str()), (Method::Post, "https://feed.example:8443/auth/?t=t0k"));
    let form = ("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned());
    assert_eq!(first.headers, [("X-Key".to_owned(), "s3".to_owned()), form]);
    assert_eq!(&first.body[..], b"nonce=1795231888123&a%20b=c%26d");
    assert!(!format!("{first:?}").contains("t0k"), "{first:?}");
    // What the first one supplies stands in the second.
    assert_eq!(talk.conversation.fetch_request(talk.now, 1, false), Err(SendError::Unset("one".to_owned())));
    let answer = HttpAnswer { status: 200, body: Bytes::from_static(b"{\"one\":\"a/b\"}"), ..HttpAnswer::default() };
    let dialect = Arc::clone(&talk.conversation.dialect);
    let supply = dialect.fetch_supply(talk.now, 0, &answer, false).unwrap();
    assert_eq!(supply.holds, None);
    assert!(talk.conversation.supply(0, &supply, None));
    assert!(!talk.conversation.supply(0, &supply, None), "the same again is nothing new");
    assert_eq!(request(&talk, 1).url, "https://api.example/a%2Fb");
    assert_eq!(dialect.connect_fetches(), [0, 1]);
}

#[test]
fn calls_go_where_they_may_only() {
    let upstream = "wss://feed.example/x";
    let may = |url: &str, origins: &[&str]| {
        let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
        crate::dialect::may_call(url, upstream, &origins).is_ok()
    };
    for own in ["https://feed.example/a", "https://FEED.example:443/a", "wss://feed.example"] {
        assert!(may(own, &[]), "{own}");
    }
    for strange in [
        "http://feed.example/",
        "https://feed.example:8443/",
        "https://feed.example.evil/",
        "https://evil/",
        "https://feed.example@evil/",
        "https://evil\\@feed.example/",
        "//feed.example/",
        "ftp://feed.example/",
        "",
    ] {
        assert!(!may(strange, &[]), "{strange}");
    }
    assert!(may("https://api.other/x", &["https://api.other"]));
    assert!(may("https://a.b.other/x", &["https://*.other"]));
    for below in ["https://other/", "https://evilother/", "http://a.other/", "https://a.other:444/"] {
        assert!(!may(below, &["https://*.other"]), "{below}");
    }
}

#[test]
fn answers_that_supply_nothing_say_why() {
    let text = "[connect]\nfetch = [\"a\"]\n[fetch.a]\nget = \"/a\"\nttl = \"30m\"\ntake = { one = \"/r/0/one\" }\nmessage = \"/error/0\"\n";
    let talk = equipped(text, &[], &[]);
    let dialect = &talk.conversation.dialect;
    let answer = |status: u16, body: &'static str| {
        let answer =
            HttpAnswer { status, retry_after: Some(Duration::from_secs(7)), body: Bytes::from_static(body.as_bytes()) };
        dialect.fetch_supply(talk.now, 0, &answer, false)
    };
    let good = answer(200, "{\"r\":[{\"one\":5}]}").unwrap();
    assert_eq!((good.values, good.holds), (vec![Some("5".to_owned())], Some(Duration::from_secs(1800))));
    for (status, body, words) in [
        (200, "{\"error\":[\"bad key\"]}", "the answer has no \"/r/0/one\": bad key"),
        (200, "{\"r\":[{\"one\":null}]}", "the answer has no"),
        (200, "{\"r\":[{\"one\":\"\"}]}", "the answer has no"),
        (200, "<html>", "the answer is not JSON"),
        (403, "{\"error\":[\"no\\u0007pe\"]}", "HTTP status 403: nope"),
        (302, "", "redirects are not followed"),
        (500, "\u{e9}", "HTTP status 500"),
    ] {
        let no = answer(status, body).unwrap_err();
        assert!(no.message.contains(words), "{}", no.message);
        assert_eq!((no.denied, no.refused), (status == 403, matches!(status, 302 | 403)), "{status}");
        assert_eq!(no.retry_after, (status >= 300).then(|| Duration::from_secs(7)));
    }
    let large: &'static str = Box::leak(format!("{{\"r\":[{{\"one\":\"{}\"}}]}}", "x".repeat(20_000)).into_boxed_str());
    assert!(answer(200, large).unwrap_err().message.contains("larger"));
}

#[test]
fn signalr_is_negotiated_with_where_that_is_wanted() {
    let builtin = Dialect::builtin("signalr").unwrap();
    let talk = |params: serde_json::Value| {
        let Value::Object(params) = params else { panic!() };
        let mut talk = Talk::new(Arc::clone(&builtin), None);
        talk.conversation = Conversation::new(Arc::clone(&builtin), Carried::new(1), params, Some(Secret::new("t0k")));
        talk.conversation.equip(Equipment {
            secrets: Vec::new(),
            upstream: "wss://app.example/hub".to_owned(),
            origins: vec!["https://*.signalr.example".to_owned()],
            timeout: Duration::from_secs(5),
            at: talk.now,
        });
        talk
    };
    let address = |talk: &mut Talk| {
        talk.conversation.connect_request(Transport::WebSocket, "wss://app.example/hub", &[], &[]).unwrap().url
    };
    let ask = |talk: &Talk, fetch: usize| {
        let request = talk.conversation.fetch_request(talk.now, fetch, false).unwrap()?;
        Some((request.url, request.headers[0].1.clone()))
    };
    let told = |talk: &mut Talk, fetch: usize, body: &str| {
        let answer = HttpAnswer { status: 200, body: Bytes::copy_from_slice(body.as_bytes()), ..HttpAnswer::default() };
        let supply = builtin.fetch_supply(talk.now, fetch, &answer, false)?;
        assert_eq!(supply.holds, None, "an answer is for one connection");
        Ok::<bool, crate::dialect::NoSupply>(talk.conversation.supply(fetch, &supply, None))
    };

    let mut plain = talk(json!({}));
    assert_eq!((ask(&plain, 0), ask(&plain, 1)), (None, None));
    assert_eq!(address(&mut plain), "wss://app.example/hub?access_token=t0k");

    let mut talk = talk(json!({"negotiate": "/hub"}));
    let negotiate = "https://app.example/hub/negotiate?negotiateVersion=1".to_owned();
    assert_eq!(ask(&talk, 0), Some((negotiate.clone(), "Bearer t0k".to_owned())));
    told(&mut talk, 0, r#"{"connectionId":"i","connectionToken":"c1","negotiateVersion":1}"#).unwrap();
    assert_eq!(ask(&talk, 1), None);
    assert_eq!(address(&mut talk), "wss://app.example/hub?id=c1&access_token=t0k");

    // A service that sends us elsewhere, with a token of its own.
    let elsewhere =
        r#"{"url":"https://eu.signalr.example/client/?hub=h","accessToken":"eyJh.eyJleHAiOjQxMDI0NDQ4MDB9.x"}"#;
    told(&mut talk, 0, elsewhere).unwrap();
    let (url, token) = ask(&talk, 1).unwrap();
    assert_eq!(url, "https://eu.signalr.example/client/negotiate?hub=h&negotiateVersion=1");
    assert_eq!(token, "Bearer eyJh.eyJleHAiOjQxMDI0NDQ4MDB9.x");
    told(&mut talk, 1, r#"{"connectionToken":"c2"}"#).unwrap();
    let there = address(&mut talk);
    assert!(there.starts_with("wss://eu.signalr.example/client/?hub=h&id=c2&access_token=eyJh."), "{there}");
    // The next time it does not, and nothing of that is left; older ones have an id and no token.
    assert!(told(&mut talk, 0, r#"{"connectionId":"i2"}"#).unwrap(), "something else than before");
    assert!(!told(&mut talk, 0, r#"{"connectionId":"i2"}"#).unwrap(), "the same again");
    assert_eq!(ask(&talk, 1), None);
    assert_eq!(address(&mut talk), "wss://app.example/hub?id=i2&access_token=t0k");
    let no = told(&mut talk, 0, r#"{"error":"not you"}"#).unwrap_err();
    assert!(no.message.ends_with("not you"), "{}", no.message);
    // Not to where the configuration does not say.
    told(&mut talk, 0, r#"{"url":"https://evil.example/client","accessToken":"x"}"#).unwrap();
    assert!(talk.conversation.fetch_request(talk.now, 1, false).is_err());
}

#[test]
fn a_token_in_an_answer_tells_how_long_it_holds() {
    let text = "[connect]\nfetch = [\"a\"]\n[fetch.a]\nget = \"/a\"\nttl = \"30m\"\ntake = { one = \"/t\" }\n";
    let talk = equipped(text, &[], &[]);
    // exp 1795232000: some 112 s after the talk's clock.
    let body = Bytes::from_static(b"{\"t\":\"e30.eyJleHAiOjE3OTUyMzIwMDB9.x\"}");
    let answer = HttpAnswer { status: 200, body, ..HttpAnswer::default() };
    let supply = talk.conversation.dialect.fetch_supply(talk.now, 0, &answer, false).unwrap();
    assert_eq!(supply.holds.map(|holds| holds.as_secs()), Some(111));
}

#[test]
fn a_call_for_a_channel_supplies_that_channel_alone() {
    let text = r#"
[fetch.auth]
post = "{connect.auth_url}"
when = "subscribe"
channels = ["private-*"]
optional = true
form = { channel_name = "{channel}" }
take = { "channel.auth" = "/auth" }
[send]
subscribe = '{"c":{channel},"auth":{params/auth|channel.auth?}}'
"#;
    let mut talk = equipped(text, &[], &[]);
    let dialect = Arc::clone(&talk.conversation.dialect);
    assert_eq!((dialect.channel_fetch("private-a"), dialect.channel_fetch("public")), (Some(0), None));
    let spec = ChannelSpec { id: talk.id("private-a", None), name: "private-a", params: None };
    // Without the address it is left out.
    assert_eq!(talk.conversation.channel_fetch_request(talk.now, 0, &spec), Ok(None));
    let Value::Object(params) = json!({"auth_url": "https://feed.example:8443/pusher/auth"}) else { return };
    talk.conversation.params = Value::Object(params).to_string();
    let request = talk.conversation.channel_fetch_request(talk.now, 0, &spec).unwrap().unwrap();
    assert_eq!(
        (request.url.as_str(), &request.body[..]),
        ("https://feed.example:8443/pusher/auth", &b"channel_name=private-a"[..])
    );
    let answer = HttpAnswer { status: 200, body: Bytes::from_static(b"{\"auth\":\"k:s\"}"), ..HttpAnswer::default() };
    let supply = dialect.fetch_supply(talk.now, 0, &answer, false).unwrap();
    talk.conversation.supply(0, &supply, Some(spec.id));
    assert_eq!(talk.subscribe(&["private-a"]), r#"#1 subscribe[1] {"c":"private-a","auth":"k:s"}"#);
    assert_eq!(talk.subscribe(&["private-b"]), r#"#2 subscribe[2] {"c":"private-b"}"#);
    let own = talk.try_subscribe(&[("private-a", Some("{\"auth\":\"mine\"}"))], false).unwrap();
    assert!(own.contains("\"auth\":\"mine\""), "the first name that has a value counts: {own}");
}

#[test]
fn an_address_that_was_fetched_is_connected_to_only_where_calls_may_go() {
    let text = "[connect]\nurl = \"{address}\"\nfetch = [\"open\"]\n[fetch.open]\npost = \"/open\"\ntake = { address = \"/url\" }\n";
    let connect = |url: &str, origins: &[&str]| {
        let mut talk = equipped(text, &[], origins);
        let body = Bytes::from(json!({"url": url}).to_string());
        let answer = HttpAnswer { status: 200, body, ..HttpAnswer::default() };
        let supply = talk.conversation.dialect.fetch_supply(talk.now, 0, &answer, false).unwrap();
        talk.conversation.supply(0, &supply, None);
        talk.conversation
            .connect_request(Transport::WebSocket, "wss://feed.example:8443/", &[], &[])
            .map(|request| request.url)
    };
    assert_eq!(connect("wss://feed.example:8443/t?x=1", &[]).unwrap(), "wss://feed.example:8443/t?x=1");
    assert_eq!(connect("wss://a.slack.com/t", &["https://*.slack.com"]).unwrap(), "wss://a.slack.com/t");
    match connect("wss://evil.example/t", &[]) {
        Err(SendError::Invalid(why)) => assert!(why.contains("upstream.fetch_origins"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn secrets_that_a_dialect_needs_are_known() {
    let text = r#"
[connect]
fetch = ["a", "b"]
headers = { "X-A" = "{secret.connect}" }
[sign.s]
hmac = "sha256"
key = "{secret.key}"
text = "x"
[fetch.a]
get = "/a"
headers = { "X-B" = "{secret.call}" }
take = { one = "/t" }
[fetch.b]
get = "/a?{secret.maybe}"
optional = true
take = { two = "/t" }
[send]
ping = '{"s":{sign.s?},"o":{secret.other?}}'
"#;
    let talk = equipped(text, &[], &[]);
    let secrets: Vec<(&str, bool)> = talk.conversation.dialect.secrets().iter().map(|(n, r)| (&**n, *r)).collect();
    assert_eq!(secrets, [("call", true), ("connect", true), ("key", false), ("maybe", false), ("other", false)]);
}

#[test]
fn slack_is_asked_for_an_address_and_every_envelope_is_acknowledged() {
    let mut talk = Talk::builtin("slack", Some("xapp-1"));
    talk.conversation.equip(Equipment {
        secrets: [].into(),
        upstream: "wss://slack.com".to_owned(),
        origins: vec!["https://*.slack.com".to_owned()],
        timeout: Duration::from_secs(5),
        at: talk.now,
    });
    let dialect = Arc::clone(&talk.conversation.dialect);
    assert_eq!(dialect.connect_fetches(), [0]);
    let asked = request(&talk, 0);
    assert_eq!((asked.method, asked.url.as_str()), (Method::Post, "https://slack.com/api/apps.connections.open"));
    assert_eq!(asked.headers, [("authorization".to_owned(), "Bearer xapp-1".to_owned())]);
    let answer = |body: &'static str| {
        let answer = HttpAnswer { status: 200, body: Bytes::from_static(body.as_bytes()), ..HttpAnswer::default() };
        dialect.fetch_supply(talk.now, 0, &answer, false)
    };
    let refused = answer(r#"{"ok":false,"error":"invalid_auth"}"#).unwrap_err();
    assert!(refused.message.ends_with("invalid_auth") && refused.denied, "{refused:?}");
    let later = answer(r#"{"ok":false,"error":"internal_error"}"#).unwrap_err();
    assert!(later.message.ends_with("internal_error") && !later.denied && !later.refused, "{later:?}");
    let odd = answer(r#"{"ok":false,"url":"wss://wss-primary.slack.com/x"}"#).unwrap_err();
    assert!(!odd.denied, "{odd:?}");
    let supply = answer(r#"{"ok":true,"url":"wss://wss-primary.slack.com/link/?ticket=t&app_id=a"}"#).unwrap();
    assert_eq!(supply.holds, None, "an address is good for one connection");
    talk.conversation.supply(0, &supply, None);
    let connect = talk.conversation.connect_request(Transport::WebSocket, "wss://slack.com", &[], &[]).unwrap();
    assert_eq!(connect.url, "wss://wss-primary.slack.com/link/?ticket=t&app_id=a");

    assert_eq!(talk.open(), Vec::<String>::new(), "hello comes first");
    assert_eq!(talk.hear(r#"{"type":"hello","num_connections":1}"#), ["ready"]);
    let envelope =
        r#"{"type":"events_api","envelope_id":"e1","payload":{"event_id":"Ev1","event":{"type":"message"}}}"#;
    assert_eq!(
        talk.hear(envelope),
        [
            r#"event message type=message id=Ev1 {"event_id":"Ev1","event":{"type":"message"}}"#,
            r#"send #1 reply {"envelope_id":"e1"}"#
        ]
    );
    assert_eq!(talk.hear(r#"{"type":"disconnect","reason":"warning"}"#), ["reconnect"]);
    assert_eq!(talk.hear(r#"{"type":"disconnect","reason":"link_disabled"}"#), [r#"denied "link_disabled""#]);
}
