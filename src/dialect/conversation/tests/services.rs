//! The built-in dialects, in the words of their servers.

use super::*;

#[test]
fn plain_with_and_without_a_token() {
    let mut talk = Talk::builtin("plain", None);
    assert_eq!(talk.open(), ["ready"]);
    let mut talk = Talk::builtin("plain", Some("t"));
    assert_eq!(talk.open(), [r#"send #1 auth? {"type":"auth","token":"t"}"#]);
    assert_eq!(talk.ping(), None, "too early");
    assert_eq!(talk.hear(r#"{"type":"auth_ok"}"#), ["ready"]);
    assert_eq!(talk.subscribe(&["ticker"]), r#"#2 subscribe[1]? {"type":"subscribe","id":2,"channel":"ticker"}"#);
    assert_eq!(talk.hear(r#"{"type":"subscribed","id":2,"channel":"ticker"}"#), ["acked #2 subscribe[1]"]);
    assert_eq!(
        talk.hear(r#"{"type":"event","channel":"ticker","id":"e2","seq":2,"ts":1795233760100,"data":{"px":2}}"#),
        [r#"event ticker id=e2 seq=2-2 ts=2026-11-21T04:02:40.100000Z {"px":2}"#]
    );
    assert_eq!(talk.hear(r#"{"type":"ping","id":7}"#), [r#"send #3 reply {"type":"pong","id":7}"#]);
    assert_eq!(talk.hear(r#"{"type":"ping"}"#), [r#"send #4 reply {"type":"pong"}"#]);
    assert_eq!(
        talk.publish("chat", None, r#"{"text":"hi"}"#).unwrap(),
        r#"#5 publish[7]? {"type":"publish","id":5,"channel":"chat","data":{"text":"hi"}}"#
    );
    assert_eq!(talk.hear(r#"{"type":"ack","id":5,"data":{"n":1}}"#), [r#"acked #5 publish[7] {"n":1}"#]);
    assert_eq!(talk.hear(r#"{"type":"ack","id":5}"#), ["acked #0 subscribe[]"]);
    talk.subscribe(&["nope"]);
    assert_eq!(
        talk.hear(r#"{"type":"error","id":6,"code":404,"message":"no such channel","retry_after":1.5}"#),
        [r#"refused #6 subscribe[2] code=404 "no such channel" after=1.5s"#]
    );
    assert_eq!(talk.ping().unwrap(), r#"#7 ping? {"type":"ping","id":7}"#);
    assert_eq!(talk.hear(r#"{"type":"pong","id":7}"#), ["pong #7"]);

    // What came last is asked for after a reconnect, but only where the history is unbroken.
    let mut talk = talk.reconnect(false);
    talk.open();
    assert_eq!(
        talk.subscribe_again(&["ticker"]),
        r#"#2 subscribe[1]? {"type":"subscribe","id":2,"channel":"ticker","last_event_id":"e2"}"#
    );
    assert_eq!(talk.subscribe_again(&["nope"]), r#"#3 subscribe[2]? {"type":"subscribe","id":3,"channel":"nope"}"#);
    assert_eq!(talk.subscribe(&["ticker"]), r#"#4 subscribe[1]? {"type":"subscribe","id":4,"channel":"ticker"}"#);
    talk.conversation.forget_channel(ChannelId(1));
    assert_eq!(talk.subscribe_again(&["ticker"]), r#"#5 subscribe[1]? {"type":"subscribe","id":5,"channel":"ticker"}"#);
}

#[test]
fn binance_batches_and_names_ranges() {
    let mut talk = Talk::builtin("binance", None);
    let request =
        talk.conversation.connect_request(Transport::WebSocket, "wss://stream.binance.com:9443", &[], &[]).unwrap();
    assert_eq!(request.url, "wss://stream.binance.com:9443/stream");
    assert_eq!(talk.open(), ["ready"]);
    assert_eq!(
        talk.subscribe(&["btcusdt@aggTrade", "btcusdt@depth"]),
        r#"#1 subscribe[1,2]? {"method":"SUBSCRIBE","params":["btcusdt@aggTrade","btcusdt@depth"],"id":1}"#
    );
    assert_eq!(talk.hear(r#"{"result":null,"id":1}"#), ["acked #1 subscribe[1,2]"]);
    assert_eq!(
        talk.hear(r#"{"stream":"btcusdt@depth","data":{"e":"depthUpdate","E":1672515782136,"U":157,"u":160}}"#),
        [concat!(
            "event btcusdt@depth type=depthUpdate seq=157-160 ts=2022-12-31T19:43:02.136000Z append ",
            r#"{"e":"depthUpdate","E":1672515782136,"U":157,"u":160}"#
        )]
    );
    assert_eq!(
        talk.hear(r#"{"stream":"!miniTicker@arr","data":[{"e":"24hrMiniTicker"}]}"#),
        [r#"event !miniTicker@arr [{"e":"24hrMiniTicker"}]"#]
    );
    talk.unsubscribe(&["btcusdt@depth"]);
    assert_eq!(
        talk.hear(r#"{"error":{"code":2,"msg":"Invalid request"},"id":2}"#),
        [r#"refused #2 unsubscribe[2] code=2 "Invalid request""#]
    );
    assert_eq!(talk.hear(r#"{"code":2,"msg":"bad"}"#), [r#"refused code=2 "bad""#]);
    assert_eq!(talk.hear(r#"{"e":"serverShutdown","E":1}"#), ["reconnect"]);
    assert_eq!(talk.conversation.dialect.on_close(1008), Some(crate::dialect::Then::Pause(Duration::from_secs(30))));
}

#[test]
fn kraken_answers_once_per_symbol() {
    let mut talk = Talk::builtin("kraken-v2", None);
    assert_eq!(talk.open(), Vec::<String>::new());
    let status = r#"{"channel":"status","data":[{"system":"online"}],"type":"update"}"#;
    assert_eq!(talk.hear(status), ["ready"]);
    assert_eq!(talk.hear(status), ["ignored"]);
    assert_eq!(
        talk.subscribe(&["book:A/USD", "book:B/USD", "trade:A/USD", "book:X/Y"]),
        concat!(
            r#"#1 subscribe[1,2,4]? {"method":"subscribe","params":{"channel":"book","#,
            r#""symbol":["A/USD","B/USD","X/Y"]},"req_id":1}"#
        )
    );
    let acked = |symbol: &str| {
        format!(
            r#"{{"method":"subscribe","req_id":1,"result":{{"channel":"book","symbol":"{symbol}"}},"success":true}}"#
        )
    };
    assert_eq!(talk.hear(&acked("B/USD")), ["acked #1 subscribe[2]"]);
    // The refusal names the symbol only; the feed is the request's.
    assert_eq!(
        talk.hear(r#"{"error":"Currency pair not supported X/Y","method":"subscribe","req_id":1,"success":false,"symbol":"X/Y"}"#),
        [r#"refused #1 subscribe[4] book:X/Y "Currency pair not supported X/Y""#]
    );
    assert_eq!(talk.hear(&acked("A/USD")), ["acked #1 subscribe[1]"]);
    assert_eq!(talk.hear(&acked("A/USD")), ["acked #0 subscribe[]"]);
    assert_eq!(
        talk.hear(r#"{"channel":"book","type":"snapshot","data":[{"symbol":"A/USD","bids":[],"checksum":0}]}"#),
        [r#"snapshot book:A/USD type=book [{"symbol":"A/USD","bids":[],"checksum":0}]"#]
    );
    let update =
        |sum: u32| format!(r#"[{{"symbol":"A/USD","bids":[{{"price":1,"qty":1}}],"asks":[],"checksum":{sum}}}]"#);
    let said = |data: &str| format!(r#"{{"channel":"book","type":"update","data":{data}}}"#);
    let (right, wrong) = (update(3596227959), update(7));
    let told = |data: &str| format!("event book:A/USD type=book append {data}");
    assert_eq!(talk.hear(&said(&right)), [told(&right)]);
    assert_eq!(talk.hear(&said(&wrong)), ["mismatched book:A/USD".to_owned(), told(&wrong)]);
    assert_eq!(talk.hear(&said(&wrong)), [told(&wrong)], "it is not checked before its next state");
    assert_eq!(talk.hear(r#"{"channel":"heartbeat"}"#), ["ignored"]);
    assert_eq!(talk.hear(r#"{"channel":"book","type":"update","data":[]}"#), ["unextracted 3"]);
    let deep = talk.try_subscribe(&[("book:A/USD", Some(r#"{"depth":10}"#)), ("book:B/USD", None)], false);
    assert_eq!(
        deep.unwrap(),
        r#"#2 subscribe[5]? {"method":"subscribe","params":{"channel":"book","symbol":["A/USD"],"depth":10},"req_id":2}"#
    );
    assert_eq!(talk.try_subscribe(&[("ticker", None)], false), Err(SendError::Name("ticker".to_owned())));
}

#[test]
fn coinbase_answers_in_order_without_ids() {
    let mut talk = Talk::builtin("coinbase-exchange", None);
    assert_eq!(talk.open(), ["ready"]);
    assert_eq!(
        talk.subscribe(&["ticker:ETH-USD", "ticker:BTC-USD"]),
        r#"#1 subscribe[1,2]? {"type":"subscribe","product_ids":["ETH-USD","BTC-USD"],"channels":["ticker"]}"#
    );
    talk.subscribe(&["user:BTC-USD"]);
    talk.unsubscribe(&["ticker:ETH-USD"]);
    let listed = r#"{"type":"subscriptions","channels":[{"name":"ticker","product_ids":["ETH-USD","BTC-USD"]}]}"#;
    assert_eq!(talk.hear(listed), ["acked #1 subscribe[1,2]", "subscriptions ticker:ETH-USD ticker:BTC-USD"]);
    assert_eq!(
        talk.hear(r#"{"type":"error","message":"Failed to subscribe","reason":"authenticate"}"#),
        [r#"refused #2 subscribe[3] code=authenticate "Failed to subscribe""#]
    );
    let none = r#"{"type":"subscriptions","channels":[]}"#;
    assert_eq!(talk.hear(none), ["acked #3 unsubscribe[1]", "subscriptions "]);
    assert_eq!(talk.hear(none), ["subscriptions "]);
    assert_eq!(
        talk.hear(r#"{"type":"match","sequence":5,"product_id":"BTC-USD","time":"2022-10-19T23:28:22.061769Z"}"#),
        [concat!(
            "event matches:BTC-USD type=match seq=5-5 ts=2022-10-19T23:28:22.061769Z ",
            r#"{"type":"match","sequence":5,"product_id":"BTC-USD","time":"2022-10-19T23:28:22.061769Z"}"#
        )]
    );
}

#[test]
fn pusher_answers_by_channel_and_holds_json_in_strings() {
    let mut talk = Talk::builtin("pusher", None);
    talk.open();
    assert_eq!(talk.conversation.timing().ping, Some(Duration::from_secs(120)));
    let hello = r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\",\"activity_timeout\":30}"}"#;
    assert_eq!(talk.hear(hello), ["ready"]);
    assert_eq!(talk.conversation.timing().ping, Some(Duration::from_secs(30)));
    assert_eq!(talk.publish("private-a", Some("typing"), "{}"), Err(SendError::NotJoined));
    let private = talk.try_subscribe(&[("private-a", Some(r#"{"auth":"k:sig"}"#))], false).unwrap();
    assert_eq!(
        private,
        r#"#1 subscribe[1]? {"event":"pusher:subscribe","data":{"channel":"private-a","auth":"k:sig"}}"#
    );
    talk.subscribe(&["private-b"]);
    assert_eq!(
        talk.hear(r#"{"event":"pusher:subscription_error","channel":"private-b","data":{"error":"no","status":401}}"#),
        [r#"refused #2 subscribe[2] private-b code=401 "no""#]
    );
    assert_eq!(
        talk.hear(r#"{"event":"pusher_internal:subscription_succeeded","channel":"private-a"}"#),
        ["acked #1 subscribe[1]"]
    );
    assert_eq!(
        talk.publish("private-a", Some("typing"), r#"{"who":"me"}"#).unwrap(),
        r#"#3 publish[7] {"event":"client-typing","channel":"private-a","data":{"who":"me"}}"#
    );
    assert_eq!(talk.publish("private-b", Some("typing"), "{}"), Err(SendError::NotJoined));
    assert_eq!(talk.publish("private-a", None, "{}"), Err(SendError::Unset("type".to_owned())));
    assert_eq!(
        talk.hear(r#"{"event":"tick","channel":"ticker","data":"{\"px\":1}"}"#),
        [r#"event ticker type=tick {"px":1}"#]
    );
    assert_eq!(
        talk.hear(r#"{"event":"tick","channel":"ticker","data":"plain \"text\""}"#),
        [r#"event ticker type=tick "plain \"text\"""#]
    );
    assert_eq!(talk.hear(r#"{"event":"pusher:ping"}"#), [r#"send #4 reply {"event":"pusher:pong","data":{}}"#]);
    assert_eq!(
        talk.hear(r#"{"event":"pusher:error","channel":"private-a","data":{"code":4301,"message":"slow down"}}"#),
        [r#"refused private-a code=4301 "slow down""#]
    );
}

#[test]
fn phoenix_ends_only_the_current_join() {
    let mut talk = Talk::builtin("phoenix", Some("s3cret"));
    let request = talk.conversation.connect_request(Transport::WebSocket, "ws://h:1", &[], &[]).unwrap();
    assert_eq!(request.url, "ws://h:1/socket/websocket?vsn=2.0.0&token=s3cret");
    assert_eq!(talk.open(), ["ready"]);
    assert_eq!(talk.subscribe(&["room:lobby"]), r#"#1 subscribe[1]? ["1","1","room:lobby","phx_join",{}]"#);
    assert_eq!(
        talk.hear(r#"["1","1","room:lobby","phx_reply",{"response":{"a":1},"status":"ok"}]"#),
        [r#"acked #1 subscribe[1] {"a":1}"#]
    );
    assert_eq!(
        talk.publish("room:lobby", Some("shout"), r#"{"hi":1}"#).unwrap(),
        r#"#2 publish[7]? ["1","2","room:lobby","shout",{"hi":1}]"#
    );
    assert_eq!(talk.hear(r#"[null,null,"room:lobby","shout",{"hi":1}]"#), [r#"event room:lobby type=shout {"hi":1}"#]);
    assert_eq!(
        talk.hear(r#"["1","2","room:lobby","phx_reply",{"response":{"reason":"bad"},"status":"error"}]"#),
        [r#"refused #2 publish[7] room:lobby "bad""#]
    );
    assert_eq!(talk.publish("room:zzz", Some("x"), "{}"), Err(SendError::NotJoined));
    // A re-join: the end of the old join must not end the new one.
    assert_eq!(talk.subscribe(&["room:lobby"]), r#"#3 subscribe[1]? ["3","3","room:lobby","phx_join",{}]"#);
    assert_eq!(
        talk.hear(r#"["3","3","room:lobby","phx_reply",{"response":{},"status":"ok"}]"#),
        ["acked #3 subscribe[1] {}"]
    );
    assert_eq!(talk.hear(r#"["1","1","room:lobby","phx_close",{}]"#), ["ignored"]);
    assert_eq!(talk.hear(r#"["3","3","room:lobby","phx_error",{}]"#), ["gone <1> Resubscribe"]);
    assert_eq!(talk.ping().unwrap(), r#"#4 ping? [null,"4","phoenix","heartbeat",{}]"#);
    assert_eq!(talk.hear(r#"[null,"4","phoenix","phx_reply",{"response":{},"status":"ok"}]"#), ["pong #4"]);
    assert_eq!(talk.unsubscribe(&["room:lobby"]), None, "it has no join to leave");
    talk.subscribe(&["room:lobby"]);
    assert_eq!(
        talk.unsubscribe(&["room:lobby"]).unwrap(),
        r#"#6 unsubscribe[1]? ["5","6","room:lobby","phx_leave",{}]"#
    );
    assert_eq!(talk.hear(r#"["5","5","room:lobby","phx_close",{}]"#), ["ignored"]);
}

#[test]
fn graphql_has_no_acks_but_settles_mutations_by_their_first_result() {
    let mut talk = Talk::builtin("graphql-transport-ws", Some("s3cret"));
    assert_eq!(talk.open(), [r#"send #1 auth? {"type":"connection_init","payload":{"token":"s3cret"}}"#]);
    assert_eq!(talk.hear(r#"{"type":"connection_ack","payload":{}}"#), ["ready"]);
    assert_eq!(talk.try_subscribe(&[("bare", None)], false), Err(SendError::Unset("params/query".to_owned())));
    let params = Some(r#"{"query":"subscription{tick}","variables":{"n":1}}"#);
    assert_eq!(
        talk.try_subscribe(&[("ticks", params)], false).unwrap(),
        concat!(
            r#"#2 subscribe[2] {"id":"2","type":"subscribe","#,
            r#""payload":{"query":"subscription{tick}","variables":{"n":1}}}"#
        )
    );
    assert_eq!(
        talk.hear(r#"{"id":"2","type":"next","payload":{"data":{"tick":1}}}"#),
        [r#"event <2> {"data":{"tick":1}}"#]
    );
    assert_eq!(
        talk.publish("any", None, r#"{"query":"mutation{x}"}"#).unwrap(),
        r#"#3 publish[7]? {"id":"3","type":"subscribe","payload":{"query":"mutation{x}"}}"#
    );
    assert_eq!(
        talk.hear(r#"{"id":"3","type":"next","payload":{"data":{"x":1}}}"#),
        [r#"acked #3 publish[7] {"data":{"x":1}}"#]
    );
    assert_eq!(talk.hear(r#"{"id":"3","type":"complete"}"#), ["ignored"]);
    talk.publish("any", None, r#"{"query":"mutation{y}"}"#).unwrap();
    assert_eq!(
        talk.hear(r#"{"id":"4","type":"error","payload":[{"message":"no y"}]}"#),
        [r#"refused #4 publish[7] "no y""#]
    );
    talk.try_subscribe(&[("bad", Some(r#"{"query":"subscription{nosuch}"}"#))], false).unwrap();
    assert_eq!(
        talk.hear(r#"{"id":"5","type":"error","payload":[{"message":"Cannot query"}]}"#),
        [r#"refused #5 subscribe[3] <3> "Cannot query""#]
    );
    assert_eq!(talk.hear(r#"{"id":"2","type":"complete"}"#), ["gone <2>"]);
    assert_eq!(talk.hear(r#"{"id":"2","type":"next","payload":{}}"#), ["ignored"], "late events are normal");
    assert_eq!(talk.ping().unwrap(), r#"#6 ping? {"type":"ping"}"#);
    assert_eq!(talk.hear(r#"{"type":"pong"}"#), ["pong"]);
}

#[test]
fn ethereum_events_may_come_before_the_id_they_name() {
    let mut talk = Talk::builtin("eth-jsonrpc", None);
    talk.open();
    assert_eq!(
        talk.subscribe(&["newHeads"]),
        r#"#1 subscribe[1]? {"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}"#
    );
    let head = |sub: &str, hash: &str| {
        format!(r#"{{"method":"eth_subscription","params":{{"result":{{"hash":"{hash}"}},"subscription":"{sub}"}}}}"#)
    };
    assert_eq!(talk.hear(&head("0x1", "0xa")), Vec::<String>::new());
    assert_eq!(talk.hear(&head("0x9", "0xz")), Vec::<String>::new());
    assert_eq!(
        talk.hear(r#"{"id":1,"jsonrpc":"2.0","result":"0x1"}"#),
        [r#"acked #1 subscribe[1] "0x1""#, r#"event <1> id=0xa {"hash":"0xa"}"#, "unextracted 0"]
    );
    assert_eq!(talk.hear(&head("0x1", "0xb")), [r#"event <1> id=0xb {"hash":"0xb"}"#]);
    assert_eq!(talk.hear(&head("0x9", "0xc")), ["unextracted 0"]);
    let logs = talk.try_subscribe(&[("logs", Some(r#"{"filter":{"address":"0xf"}}"#))], false).unwrap();
    assert!(logs.ends_with(r#""params":["logs",{"address":"0xf"}]}"#), "{logs}");
    assert_eq!(
        talk.hear(r#"[{"id":2,"error":{"code":-32602,"message":"no"}},{"id":77,"result":"0x0"}]"#),
        [r#"refused #2 subscribe[2] code=-32602 "no""#, "acked #0 subscribe[]"]
    );
    assert_eq!(
        talk.unsubscribe(&["newHeads"]).unwrap(),
        r#"#3 unsubscribe[1]? {"jsonrpc":"2.0","id":3,"method":"eth_unsubscribe","params":["0x1"]}"#
    );
    assert_eq!(talk.hear(r#"{"id":3,"result":true}"#), ["acked #3 unsubscribe[1] true"]);
    assert_eq!(talk.hear(&head("0x1", "0xd")), ["ignored"]);
    talk.pass(31);
    talk.subscribe(&["newHeads"]);
    talk.hear(r#"{"id":4,"result":"0x2"}"#);
    talk.unsubscribe(&["newHeads"]);
    assert_eq!(talk.hear(&head("0x1", "0xe")), ["unextracted 0"], "known for 30 s");
}

#[test]
fn home_assistant_greets_first_and_coalesces() {
    let mut talk = Talk::builtin("homeassistant", Some("jwt"));
    assert_eq!(talk.open(), Vec::<String>::new());
    assert_eq!(
        talk.hear(r#"{"type":"auth_required","ha_version":"2024.3.3"}"#),
        [r#"send #1 auth? {"type":"auth","access_token":"jwt"}"#]
    );
    assert_eq!(talk.hear(r#"{"type":"auth_ok"}"#), ["ready"]);
    assert_eq!(
        talk.subscribe(&["state_changed"]),
        r#"#2 subscribe[1]? {"id":2,"type":"subscribe_events","event_type":"state_changed"}"#
    );
    assert_eq!(
        talk.hear(concat!(
            r#"[{"id":2,"type":"result","success":true,"result":null},"#,
            r#"{"type":"event","event":{"event_type":"state_changed","context":{"id":"c"}},"id":2}]"#
        )),
        [
            "acked #2 subscribe[1] null",
            r#"event <1> type=state_changed id=c {"event_type":"state_changed","context":{"id":"c"}}"#
        ]
    );
    assert_eq!(
        talk.unsubscribe(&["state_changed"]).unwrap(),
        r#"#3 unsubscribe[1]? {"id":3,"type":"unsubscribe_events","subscription":2}"#
    );
    let mut talk = Talk::builtin("homeassistant", None);
    talk.open();
    assert_eq!(
        talk.hear(r#"{"type":"auth_required"}"#),
        [r#"denied "cannot authenticate: {token} has no value: set upstream.token, token_file or token_env""#]
    );
    assert_eq!(talk.hear(r#"{"type":"auth_invalid","message":"bad"}"#), [r#"denied "bad" Fatal"#]);
}

#[test]
fn centrifugo_recovers_inside_the_subscribe_reply() {
    let mut talk = Talk::builtin("centrifugo", Some("s3cret"));
    assert_eq!(talk.open(), [r#"send #1 auth? {"id":1,"connect":{"token":"s3cret","name":"relay"}}"#]);
    assert_eq!(talk.hear(r#"{"id":1,"connect":{"client":"c","ping":25,"ttl":60,"pong":true}}"#), ["ready"]);
    let timing = talk.conversation.timing();
    assert_eq!((timing.idle, timing.token_ttl), (Some(Duration::from_secs(35)), Some(Duration::from_secs(60))));
    talk.subscribe(&["ticker"]);
    assert_eq!(
        talk.hear(r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"lHgU","offset":7}}"#),
        ["acked #2 subscribe[1]"]
    );
    // Several messages in a frame; the publication may come before the publish's own reply.
    talk.publish("ticker", None, "{\n\"px\":1}").unwrap();
    assert_eq!(
        talk.hear(concat!(
            r#"{"push":{"channel":"ticker","pub":{"data":{"px":1},"offset":8}}}"#,
            "\n",
            r#"{"id":3,"publish":{}}"#
        )),
        [r#"event ticker seq=8-8 {"px":1}"#, "acked #3 publish[7]"]
    );
    assert_eq!(talk.hear("{}"), ["send #4 reply {}"]);
    let renewed = talk.conversation.renew(talk.now, Secret::new("new")).unwrap();
    assert_eq!(sent(&renewed), r#"#5 auth? {"id":5,"refresh":{"token":"new"}}"#);
    assert_eq!(talk.hear(r#"{"id":5,"refresh":{"expires":true,"ttl":90}}"#), ["acked #5 auth"]);
    assert_eq!(talk.conversation.timing().token_ttl, Some(Duration::from_secs(90)));

    let mut talk = talk.reconnect(false);
    assert_eq!(talk.open(), [r#"send #1 auth? {"id":1,"connect":{"token":"new","name":"relay"}}"#]);
    talk.hear(r#"{"id":1,"connect":{}}"#);
    assert_eq!(
        talk.subscribe_again(&["ticker"]),
        r#"#2 subscribe[1]? {"id":2,"subscribe":{"channel":"ticker","recover":true,"epoch":"lHgU","offset":8}}"#
    );
    assert_eq!(
        talk.hear(concat!(
            r#"{"id":2,"subscribe":{"epoch":"lHgU","publications":[{"data":{"px":2},"offset":9},"#,
            r#"{"data":{"px":3},"offset":10}],"recovered":true,"offset":8,"was_recovering":true}}"#
        )),
        ["acked #2 subscribe[1]", r#"event <1> seq=9-9 {"px":2}"#, r#"event <1> seq=10-10 {"px":3}"#]
    );

    let mut talk = talk.reconnect(false);
    talk.open();
    assert!(talk.subscribe_again(&["ticker"]).contains(r#""offset":10"#));
    assert_eq!(
        talk.hear(r#"{"id":2,"subscribe":{"epoch":"zzzz","offset":20,"was_recovering":true}}"#),
        ["acked #2 subscribe[1]", "lost <1>"]
    );
    // A refused recovery is not tried again.
    assert!(talk.subscribe_again(&["ticker"]).contains(r#""offset":20"#));
    assert_eq!(
        talk.hear(r#"{"id":3,"error":{"code":112,"message":"unrecoverable position"}}"#),
        [r#"refused #3 subscribe[1] code=112 "unrecoverable position""#]
    );
    assert!(talk.subscribe_again(&["ticker"]).contains(r#""recoverable":true"#));
    assert_eq!(
        talk.hear(r#"{"push":{"channel":"ticker","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#),
        [r#"gone ticker code=2500 "insufficient state" Resubscribe"#]
    );
}

#[test]
fn centrifugo_refuses_the_connection_by_its_request() {
    let mut talk = Talk::builtin("centrifugo", Some("old"));
    talk.open();
    assert_eq!(
        talk.hear(r#"{"id":1,"error":{"code":109,"message":"token expired"}}"#),
        [r#"denied "token expired" Refresh"#]
    );
}

#[test]
fn actioncable_names_a_subscription_by_the_text_of_its_channel_and_params() {
    let mut talk = Talk::builtin("actioncable", Some("s3cret"));
    let request = talk.conversation.connect_request(Transport::WebSocket, "ws://h:1", &[], &[]).unwrap();
    assert_eq!(request.url, "ws://h:1/cable?token=s3cret");
    talk.open();
    assert_eq!(talk.hear(r#"{"type":"welcome"}"#), ["ready"]);
    assert_eq!(talk.publish("Room", None, "{}"), Err(SendError::NotJoined));
    let (one, two) = (r#"{\"channel\":\"Room\",\"n\":1}"#, r#"{\"channel\":\"Room\",\"n\":2}"#);
    assert_eq!(
        talk.try_subscribe(&[("Room", Some(r#"{"n":1}"#))], false).unwrap(),
        format!(r#"#1 subscribe[1]? {{"command":"subscribe","identifier":"{one}"}}"#)
    );
    talk.try_subscribe(&[("Room", Some(r#"{"n":2}"#))], false).unwrap();
    // Answers come in any order; each names its own.
    let said = |kind: &str, of: &str| format!(r#"{{"identifier":"{of}","type":"{kind}"}}"#);
    assert_eq!(
        talk.hear(&said("reject_subscription", two)),
        [r#"refused #2 subscribe[2] <2> "rejected by the channel""#]
    );
    assert_eq!(talk.hear(&said("confirm_subscription", one)), ["acked #1 subscribe[1]"]);
    assert_eq!(talk.hear(&said("confirm_subscription", one)), ["acked #0 subscribe[]"], "once is enough");
    assert_eq!(talk.hear(&format!(r#"{{"identifier":"{one}","message":{{"a":1}}}}"#)), [r#"event <1> {"a":1}"#]);
    assert_eq!(talk.hear(&format!(r#"{{"identifier":"{two}","message":1}}"#)), ["ignored"], "it was refused");
    let speak = MessageSpec { params: Some(r#"{"n":1}"#), ..message("Room", None, r#"{"action":"speak"}"#) };
    assert_eq!(
        talk.publish_this(&speak).unwrap(),
        format!(r#"#3 publish[7] {{"command":"message","identifier":"{one}","data":"{{\"action\":\"speak\"}}"}}"#)
    );
    assert_eq!(talk.hear(r#"{"type":"disconnect","reason":"server_restart","reconnect":true}"#), ["reconnect"]);
}
