//! Built-in dialects of services that want to know whose account it is. Expected signatures are the vendors' own examples, or
//! made with another implementation (Python's hmac) that makes those.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::dialect::HttpAnswer;

fn talk(dialect: &str, secrets: &[(&str, &str)], upstream: &str, origins: &[&str]) -> Talk {
    let mut talk = Talk::builtin(dialect, None);
    talk.conversation.equip(Equipment {
        secrets: secrets.iter().map(|(name, value)| ((*name).into(), Secret::new(*value))).collect(),
        upstream: upstream.to_owned(),
        origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        timeout: Duration::from_secs(5),
        at: talk.now,
    });
    talk
}

/// The key and secret of Binance's own examples.
const BINANCE: [(&str, &str); 2] = [
    ("api_key", "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"),
    ("api_secret", "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"),
];

/// The example of https://developers.binance.com/docs/binance-spot-api-docs/websocket-api/request-security
#[test]
fn binances_example_of_a_signature() {
    let text = concat!(
        "apiKey={secret.api_key}&price=52000.00&quantity=0.01000000&recvWindow=100&side=SELL&symbol=BTCUSDT&",
        "timeInForce=GTC&timestamp=1645423376532&type=LIMIT"
    );
    let lines = format!("[sign.s]\nhmac = \"sha256\"\nkey = \"{{secret.api_secret}}\"\ntext = \"{text}\"\n");
    let expected = "aa1b5712c094bc4e57c05a1a5c1fd8d88dcd628338ea863fec7b88e59fe2db24";
    assert_eq!(super::credentials::signature(&lines, &BINANCE), expected);
}

#[test]
fn binance_subscribes_an_account_by_a_signature() {
    let mut talk = talk("binance-user-data", &BINANCE, "wss://ws-api.binance.com", &[]);
    let address = "wss://ws-api.binance.com";
    let request = talk.conversation.connect_request(Transport::WebSocket, address, &[], &[]).unwrap();
    assert_eq!(request.url, "wss://ws-api.binance.com/ws-api/v3");
    let (key, signature) = (BINANCE[0].1, "d26f7361d214759275362de9a311fca2aa5dfa25ad30d2a96a854a234e4db11e");
    assert_eq!(
        talk.open(),
        [format!(
            "send #1 auth? {}\"apiKey\":\"{key}\",\"timestamp\":1795231888123,\"signature\":\"{signature}\"}}}}",
            r#"{"id":1,"method":"userDataStream.subscribe.signature","params":{"#
        )]
    );
    assert_eq!(talk.hear(r#"{"id":1,"status":200,"result":{"subscriptionId":0}}"#), ["ready"]);
    let report = r#"{"subscriptionId":0,"event":{"e":"executionReport","E":1795231888123,"i":42,"x":"TRADE","I":7}}"#;
    let heard = talk.hear(report);
    assert!(heard[0].starts_with("event executionReport key=42 type=TRADE id=7 "), "{heard:?}");
    let refused = r#"{"id":1,"status":401,"error":{"code":-2015,"msg":"Invalid API-key, IP, or permissions."}}"#;
    assert_eq!(talk.hear(refused), [r#"denied "Invalid API-key, IP, or permissions.""#]);
    assert_eq!(talk.hear(r#"{"event":{"e":"serverShutdown","E":1}}"#), ["reconnect"]);
}

#[test]
fn kraken_gives_a_token_for_a_signed_call() {
    let private = "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg==";
    let secrets = [("api_key", "K"), ("api_secret", private)];
    let mut talk = talk("kraken-v2-private", &secrets, "wss://ws-auth.kraken.com/v2", &["https://api.kraken.com"]);
    let asked = talk.conversation.fetch_request(talk.now, 0, false).unwrap().unwrap();
    assert_eq!(asked.url, "https://api.kraken.com/0/private/GetWebSocketsToken");
    assert_eq!(&asked.body[..], b"nonce=1795231888123");
    let header = |name: &str| asked.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let signature = "Ekc3vtfGqceCgxkP752tq25onKii4cOPVx1hH5W86iqSWztCo1kVCAizzCacVQHnMtrmieQ3viXQMqNBg2weqQ==";
    assert_eq!((header("API-Key"), header("API-Sign")), (Some("K"), Some(signature)));

    let dialect = Arc::clone(&talk.conversation.dialect);
    let answer = |body: &'static str| {
        let answer = HttpAnswer { status: 200, body: Bytes::from_static(body.as_bytes()), ..HttpAnswer::default() };
        dialect.fetch_supply(talk.now, 0, &answer, false)
    };
    let wrong = answer(r#"{"error":["EAPI:Invalid key"]}"#).unwrap_err();
    assert!(wrong.denied && wrong.message.ends_with("EAPI:Invalid key"), "{wrong:?}");
    let busy = answer(r#"{"error":["EAPI:Rate limit exceeded"]}"#).unwrap_err();
    assert!(!busy.denied && !busy.refused, "{busy:?}");
    let supply =
        answer(r#"{"error":[],"result":{"token":"1Dwc4lzSwNWOAwkMdqhssNNFhs1ed606d1WcF3XfEbg","expires":900}}"#);
    talk.conversation.supply(0, &supply.unwrap(), None);
    talk.open();
    talk.hear(r#"{"channel":"status","data":[{"system":"online"}],"type":"update"}"#);
    assert_eq!(
        talk.subscribe(&["executions"]),
        concat!(
            r#"#1 subscribe[1]? {"method":"subscribe","params":{"channel":"executions","#,
            r#""token":"1Dwc4lzSwNWOAwkMdqhssNNFhs1ed606d1WcF3XfEbg"},"req_id":1}"#
        )
    );
    assert!(!dialect.connection_needs(0), "another token needs no other connection");
}

/// The examples of https://pusher.com/docs/channels/library_auth_reference/auth-signatures/
#[test]
fn pusher_channels_are_signed_here_or_by_an_endpoint_or_by_the_app() {
    let hello =
        r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1234.1234\",\"activity_timeout\":30}"}"#;
    let secrets = [("app_key", "278d425bdf160c739803"), ("app_secret", "7ad3773142a6692b25b8")];
    let mut here = talk("pusher", &secrets, "wss://ws-eu.pusher.com/app/278d425bdf160c739803", &[]);
    here.open();
    here.hear(hello);
    let private = here.try_subscribe(&[("private-foobar", None)], false).unwrap();
    let signature = "278d425bdf160c739803:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4";
    assert!(private.contains(&format!("\"auth\":\"{signature}\"")), "{private}");
    let user = r#"{"channel_data":"{\"user_id\":10,\"user_info\":{\"name\":\"Mr. Channels\"}}"}"#;
    let presence = here.try_subscribe(&[("presence-foobar", Some(user))], false).unwrap();
    let signature = "278d425bdf160c739803:31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80";
    assert!(presence.contains(&format!("\"auth\":\"{signature}\"")), "{presence}");
    assert!(presence.contains(r#""channel_data":"{\"user_id\":10,"#), "{presence}");
    let plain = here.try_subscribe(&[("foobar", None)], false).unwrap();
    assert!(!plain.contains("auth"), "{plain}");
    let own = here.try_subscribe(&[("private-own", Some(r#"{"auth":"k:sig"}"#))], false).unwrap();
    assert!(own.contains(r#""auth":"k:sig""#), "what the app brings goes first: {own}");

    // Nobody named an endpoint: none is asked.
    let dialect = Arc::clone(&here.conversation.dialect);
    let fetch = dialect.channel_fetch("presence-foobar").unwrap();
    let spec = ChannelSpec { id: here.id("presence-foobar", None), name: "presence-foobar", params: None };
    assert_eq!(here.conversation.channel_fetch_request(here.now, fetch, &spec), Ok(None));
    assert_eq!(dialect.channel_fetch("foobar"), None);
    let params = Map::from_iter([("auth_url".to_owned(), "https://app.example/pusher/auth".into())]);
    let mut there = Conversation::new(Arc::clone(&dialect), Carried::new(1), params, Some(Secret::new("t")));
    there.equip(Equipment { origins: vec!["https://app.example".to_owned()], ..Equipment::default() });
    there.receive(here.now, &WireFrame::Text(Bytes::from_static(hello.as_bytes())), &mut |_| {});
    let asked = there.channel_fetch_request(here.now, fetch, &spec).unwrap().unwrap();
    assert_eq!(asked.url, "https://app.example/pusher/auth");
    assert_eq!(&asked.body[..], b"socket_id=1234.1234&channel_name=presence-foobar");
    assert_eq!(asked.headers[0], ("authorization".to_owned(), "Bearer t".to_owned()));
}

/// The key of RFC 7515 appendix A.3, as SEC 1.
const EXAMPLE_KEY: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEII6bEJ5xkJi/mASH3x9dd+nLKWBuvtImO19XwhPfhPSyoAoGCCqGSM49
AwEHoUQDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEXH8UTNG72b
focs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==
-----END EC PRIVATE KEY-----\n";
/// Its public half: an uncompressed point.
const EXAMPLE_POINT: [&str; 2] =
    ["f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"];

/// Whether a token is signed by that key, as RFC 7518 section 3.4 says.
fn is_signed(token: &str) -> bool {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let point: Vec<u8> = std::iter::once(4).chain(EXAMPLE_POINT.iter().flat_map(|half| decode(half))).collect();
    let (text, signature) = token.rsplit_once('.').unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(text.as_bytes(), &decode(signature)).is_ok()
}

#[test]
fn coinbase_gets_a_token_with_each_message() {
    // The example of RFC 7515 appendix A.3: so much for what holds ours against the key.
    let example = concat!(
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVl",
        "fQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    assert!(is_signed(example) && !is_signed(&example.replace("MDA4", "MDA5")));

    let escaped = EXAMPLE_KEY.replace('\n', "\\n");
    for key in [EXAMPLE_KEY, &escaped] {
        let secrets = [("key_name", "organizations/o/apiKeys/k"), ("private_key", key)];
        let mut talk = talk("coinbase-advanced", &secrets, "wss://advanced-trade-ws-user.coinbase.com", &[]);
        let token = |sent: &str| {
            let frame = &sent[sent.find('{').unwrap()..];
            let frame: serde_json::Value = serde_json::from_str(frame).unwrap();
            frame["jwt"].as_str().unwrap().to_owned()
        };
        let first = token(&talk.open()[0]);
        let ready = r#"{"channel":"subscriptions","sequence_num":0,"events":[{"subscriptions":{"heartbeats":["heartbeats"]}}]}"#;
        assert_eq!(talk.hear(ready), ["ready"]);
        let second = token(&talk.subscribe(&["user:BTC-USD"]));
        assert!(is_signed(&first) && is_signed(&second), "{first} {second}");
        let part = |token: &str, at: usize| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap()).unwrap()
        };
        let (one, other) = (part(&first, 0), part(&second, 0));
        assert_eq!((&one["alg"], &one["kid"]), (&"ES256".into(), &"organizations/o/apiKeys/k".into()));
        assert_ne!(one["nonce"], other["nonce"], "each message has its own");
        let claims = serde_json::json!({
            "iss": "cdp", "sub": "organizations/o/apiKeys/k", "nbf": 1_795_231_888, "exp": 1_795_232_008,
        });
        assert_eq!(part(&first, 1), claims);
    }

    // Market data need no key; with one that is none, nothing is shown.
    for secrets in [&[][..], &[("key_name", "k"), ("private_key", "no PEM")]] {
        let mut talk = talk("coinbase-advanced", secrets, "wss://advanced-trade-ws.coinbase.com", &[]);
        assert_eq!(talk.open(), [r#"send #1 auth? {"type":"subscribe","channel":"heartbeats"}"#]);
        assert_eq!(
            talk.hear(r#"{"type":"error","message":"authentication failure"}"#),
            [r#"denied "authentication failure""#]
        );
    }
}

#[test]
fn a_token_is_signed_by_a_shared_secret() {
    let lines = "[sign.s]\njwt = \"HS256\"\nkey = \"{secret.k}\"\nlasts = \"2m\"\nheader = { kid = \"k1\" }\nclaims = { sub = \"{secret.who}\" }\n";
    // Made with Python's hmac.
    let expected = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsxIiwidHlwIjoiSldUIn0.eyJleHAiOjE3OTUyMzIwMDgsIm5iZiI6MTc5NTIzMTg4OCwic3ViIjoibWUifQ.yYGpYNPGqgtsPbGLp7s2jFf4yZpX74aRWzfHgCp7yp4";
    assert_eq!(super::credentials::signature(lines, &[("k", "s3cret"), ("who", "me")]), expected);
    assert_eq!(super::credentials::signature(lines, &[("k", "s3cret")]), "null", "a claim has no value");
}
