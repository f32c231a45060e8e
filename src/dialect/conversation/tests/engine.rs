//! What the engine does for any dialect.

use super::*;

const ACK: &str = "[[on]]\nmatch = { '/ok' = { exists = true } }\nis = 'ack'\nreq = '/ok'\n";

#[test]
fn resume_replaces_auth_when_it_knows_enough_and_ready_says_whether_it_held() {
    let mut talk = Talk::new(
        dialect(
            "[send]\nauth = '{\"login\":{token}}'\nresume = '{\"session\":{session},\"seq\":{seq}}'\n\
             [[on]]\nmatch = { '/t' = 'hello' }\nis = 'hello'\nset = { ping_ms = '/every' }\n\
             [[on]]\nmatch = { '/t' = 'ready' }\nis = 'ready'\nset = { session = '/session' }\nresumed = { '/session' = '{session}' }\n\
             [[on]]\nmatch = { '/t' = 'bye' }\nis = 'reconnect'\nforget = { '/resume' = false }\nretry_after = '/after'\n\
             [[on]]\nmatch = { '/t' = 'e' }\nis = 'event'\nchannel = '/c'\nset = { seq = '/s' }\n",
        ),
        Some("tok"),
    );
    assert_eq!(talk.open(), Vec::<String>::new());
    assert_eq!(talk.hear(r#"{"t":"hello","every":41250}"#), [r#"send #1 auth? {"login":"tok"}"#]);
    assert_eq!(talk.hear(r#"{"t":"hello","every":1}"#), ["ignored"]);
    assert_eq!(talk.conversation.timing().ping, Some(Duration::from_millis(41_250)));
    assert_eq!(talk.hear(r#"{"t":"ready","session":"abc"}"#), ["ready"]);
    assert_eq!(talk.hear(r#"{"t":"e","c":"x","s":5}"#), [r#"event x {"t":"e","c":"x","s":5}"#]);

    let mut talk = talk.reconnect(false);
    talk.open();
    assert_eq!(talk.hear(r#"{"t":"hello"}"#), [r#"send #1 auth? {"session":"abc","seq":5}"#]);
    assert_eq!(talk.hear(r#"{"t":"ready","session":"abc"}"#), ["resumed"]);
    assert_eq!(talk.hear(r#"{"t":"bye","resume":false,"after":"2s"}"#), ["reconnect after=2s"]);

    let mut talk = talk.reconnect(false);
    talk.open();
    assert_eq!(talk.hear(r#"{"t":"hello"}"#), [r#"send #1 auth? {"login":"tok"}"#]);
    talk.hear(r#"{"t":"ready","session":"new"}"#);
    talk.hear(r#"{"t":"e","c":"x","s":6}"#);
    let mut talk = talk.reconnect(true);
    talk.open();
    assert_eq!(talk.hear(r#"{"t":"hello"}"#), [r#"send #1 auth? {"login":"tok"}"#]);
}

#[test]
fn a_resumed_session_goes_on_with_its_channels() {
    let text = format!(
        "[send]\nsubscribe = '{{\"c\":{{channel}},\"id\":{{id}}}}'\nresubscribe = '{{\"c\":{{channel}},\"from\":{{channel.seq}}}}'\n{ACK}\
         [[on]]\nmatch = {{ '/e' = {{ exists = true }} }}\nis = 'event'\nchannel = '/e'\nseq = '/n'\n"
    );
    let mut talk = Talk::new(dialect(&text), None);
    talk.open();
    talk.subscribe(&["a"]);
    let mut talk = talk.reconnect(false);
    talk.open();
    talk.hear(r#"{"e":"a","n":5}"#);
    assert_eq!(talk.subscribe_again(&["a"]), r#"#1 subscribe[1] {"c":"a","from":5}"#);
}

#[test]
fn an_echo_confirms_its_publish() {
    let mut talk = Talk::new(
        dialect(
            "[send]\npublish = { json = '{\"m\":{message},\"data\":{data}}', confirm = 'echo' }\n\
             [[on]]\nmatch = { '/c' = { exists = true } }\nis = 'event'\nchannel = '/c'\nreq = '/m'\ndata = '/d'\n",
        ),
        None,
    );
    talk.open();
    let id = MessageId(7).to_string();
    assert_eq!(talk.publish("x", None, "1").unwrap(), format!(r#"#1 publish[7]? {{"m":"{id}","data":1}}"#));
    assert_eq!(talk.hear(r#"{"c":"x","m":"00000000000000000000000008","d":1}"#), ["event x 1"]);
    let echo = format!(r#"{{"c":"x","m":"{id}","d":1}}"#);
    assert_eq!(talk.hear(&echo), ["acked #1 publish[7]", "event x 1"]);
    assert_eq!(talk.hear(&echo), ["event x 1"]);

    // What a later answer proves is the relay's to say: nothing answers the publish itself.
    let barrier = dialect(
        "[send]\npublish = { json = '{\"id\":{id},\"data\":{data}}', confirm = 'barrier' }\n\
         [[on]]\nmatch = { '/pong' = { exists = true } }\nis = 'pong'\n",
    );
    assert_eq!(barrier.confirm(), crate::relay::outbox::Confirm::Barrier);
    assert_eq!(Talk::new(barrier, None).publish("x", None, "1").unwrap(), r#"#1 publish[7] {"id":1,"data":1}"#);
}

#[test]
fn an_answer_after_the_deadline_is_about_nothing() {
    let send = "subscribe = '{\"c\":{channel},\"id\":{id}}'\nunsubscribe = '{\"x\":{channel},\"id\":{id}}'";
    let mut talk = Talk::new(dialect(&format!("[send]\n{send}\n{ACK}")), None);
    talk.open();
    assert_eq!(talk.subscribe(&["a"]), r#"#1 subscribe[1]? {"c":"a","id":1}"#);
    assert_eq!(talk.hear(r#"{"ok":"1"}"#), ["acked #1 subscribe[1]"], "ids come back as text too");
    talk.unsubscribe(&["a"]).unwrap();
    talk.conversation.give_up(RequestId(2));
    assert_eq!(talk.hear(r#"{"ok":2}"#), ["acked #0 subscribe[]"]);
}

#[test]
fn a_late_answer_to_a_subscribe_is_about_it() {
    let mut talk =
        Talk::new(dialect(&format!("[send]\nsubscribe = '{{\"c\":{{channel}},\"id\":{{id}}}}'\n{ACK}")), None);
    talk.open();
    talk.subscribe(&["a"]);
    talk.conversation.give_up(RequestId(1));
    talk.subscribe(&["a"]);
    assert_eq!(talk.hear(r#"{"ok":1}"#), ["acked #1 subscribe[1]"]);
    assert_eq!(talk.hear(r#"{"ok":1}"#), ["acked #0 subscribe[]"], "once");
    assert_eq!(talk.hear(r#"{"ok":2}"#), ["acked #2 subscribe[1]"]);
    talk.subscribe(&["a"]);
    talk.conversation.give_up(RequestId(3));
    talk.conversation.forget_channel(ChannelId(1));
    assert_eq!(talk.hear(r#"{"ok":3}"#), ["acked #0 subscribe[]"], "the channel is done with");
}

/// Ids that a subscribe gives itself, and ids that its answer brings.
#[test]
fn events_of_a_subscription_that_is_granted_late_are_its_channels() {
    let rules = "[[on]]\nmatch = { '/ok' = { exists = true } }\nis = 'ack'\nreq = '/ok'\nBIND\n\
                 [[on]]\nmatch = { '/of' = { exists = true } }\nis = 'event'\nsub = '/of'\ndata = '/d'\n";
    let own = "subscribe = { json = '{\"c\":{channel},\"id\":{id}}', bind = '{id}' }";
    let given = "subscribe = '{\"c\":{channel},\"id\":{id}}'";
    for (send, bind, subs) in [(own, "", ["1", "2"]), (given, "bind = '/as'", ["x", "y"])] {
        let text = format!("[send]\n{send}\n{}", rules.replace("BIND", bind));
        let mut talk = Talk::new(dialect(&text), None);
        talk.open();
        talk.subscribe(&["a"]);
        talk.conversation.give_up(RequestId(1));
        talk.subscribe(&["a"]);
        talk.hear(&format!(r#"{{"ok":1,"as":"{}"}}"#, subs[0]));
        let event = |sub: &str| format!(r#"{{"of":"{sub}","d":1}}"#);
        assert_eq!(talk.hear(&event(subs[0])), ["event <1> 1"], "{send}");
        talk.hear(&format!(r#"{{"ok":2,"as":"{}"}}"#, subs[1]));
        assert_eq!(talk.hear(&event(subs[1])), ["event <1> 1"], "{send}");
        assert_eq!(talk.hear(&event(subs[0])), ["ignored"], "the newest one is the channel's: {send}");
    }
}

#[test]
fn each_makes_events_and_a_snapshot_of_elements() {
    let mut talk = Talk::new(
        dialect(
            "[[on]]\nmatch = { '/t' = 'all' }\nis = 'snapshot'\nchannel = '/c'\nts = '/ts'\neach = { at = '/items', key = '/id', type = '/k' }\n\
             [[on]]\nmatch = { '/t' = 'some' }\nis = 'event'\neach = { at = '/items', channel = 'svc:{/id}', seq = '/n', data = '/v' }\n",
        ),
        None,
    );
    talk.open();
    assert_eq!(
        talk.hear(r#"{"t":"all","c":"x","ts":1,"items":[{"id":"a","k":"up"},{"id":"b"}]}"#),
        [
            r#"snapshot x key=a type=up ts=1970-01-01T00:00:01.000000Z {"id":"a","k":"up"}"#,
            r#"part x key=b ts=1970-01-01T00:00:01.000000Z {"id":"b"}"#
        ]
    );
    assert_eq!(talk.hear(r#"{"t":"all","c":"x","items":[]}"#), ["snapshot x []"]);
    assert_eq!(talk.hear(r#"{"t":"all","c":"x"}"#), ["unextracted 0"]);
    assert_eq!(
        talk.hear(r#"{"t":"some","items":[{"id":1,"n":4,"v":true},{"n":5}]}"#),
        ["event svc:1 seq=4-4 true", "unextracted 1"]
    );
    assert_eq!(talk.hear(r#"{"t":"some","items":[]}"#), ["ignored"]);
}

#[test]
fn conditions_hold_as_they_say() {
    let rules = [
        ("'/a' = 'x'", r#"{"a":"x"}"#, r#"{"a":"xx"}"#),
        ("'/a' = 'x'", r#"{"a":"\u0078"}"#, r#"{"a":1}"#),
        ("'/a' = 1", r#"{"a":1.0}"#, r#"{"a":"1"}"#),
        ("'/a' = 1.5", r#"{"a":15e-1}"#, r#"{"a":1}"#),
        ("'/a' = true", r#"{"a":true}"#, r#"{"a":false}"#),
        ("'/a' = ['x', 2]", r#"{"a":2}"#, r#"{"a":null}"#),
        ("'/a' = { exists = true }", r#"{"a":null}"#, "{}"),
        ("'/a' = { exists = false }", "{}", r#"{"a":null}"#),
        ("'/a' = { type = 'null' }", r#"{"a":null}"#, "{}"),
        ("'/a' = { type = 'empty' }", r#"{"a":[ ]}"#, r#"{"a":[0]}"#),
        ("'' = { type = 'empty' }", "{ }", r#"{"a":1}"#),
        ("'/a' = { prefix = 'pusher:' }", r#"{"a":"pusher:x"}"#, r#"{"a":"push"}"#),
        ("'/a' = { not = 'x' }", "{}", r#"{"a":"x"}"#),
        ("'/a' = { not = { type = 'string' } }", r#"{"a":1}"#, r#"{"a":""}"#),
        ("'/a' = { type = 'string', not = 'x' }", r#"{"a":"y"}"#, r#"{"a":1}"#),
        ("'/a' = '{connect.room}'", r#"{"a":"lobby"}"#, r#"{"a":"{connect.room}"}"#),
        ("'/a~1b/0' = 'x', '/c' = 1", r#"{"c":1,"a/b":["x"]}"#, r#"{"a/b":["x"]}"#),
        ("'/a/b' = 1", r#"{"a":"{\"b\":1}"}"#, r#"{"a":"{\"b\":2}"}"#),
    ];
    for (condition, yes, no) in rules {
        let dialect = dialect(&format!("[[on]]\nmatch = {{ {condition} }}\nis = 'ignore'\n"));
        let mut params = Map::new();
        params.insert("room".to_owned(), json!("lobby"));
        let mut talk = Talk::new(Arc::clone(&dialect), None);
        talk.conversation = Conversation::new(dialect, Carried::new(1), params, None);
        assert_eq!(talk.hear(yes), ["ignored"], "{condition} on {yes}");
        assert_eq!(talk.hear(no), ["unmatched"], "{condition} on {no}");
    }
}

#[test]
fn a_plain_event_is_borrowed_from_the_frame() {
    let mut talk = Talk::builtin("plain", None);
    let frame = Bytes::from_static(br#"{"type":"event","channel":"a","id":"e","data":{"px":1}}"#);
    let range = frame.as_ptr_range();
    let mut borrowed = false;
    talk.conversation.receive(talk.now, &WireFrame::Binary(frame.clone()), &mut |heard| {
        if let Heard::Event(event) = heard {
            let std::borrow::Cow::Borrowed(data) = event.data else { panic!("copied") };
            let Some(std::borrow::Cow::Borrowed(id)) = event.id else { panic!("copied") };
            let Target::Name(name) = event.target else { panic!("by name") };
            borrowed = [data.as_ptr(), id.as_ptr(), name.as_ptr()].iter().all(|at| range.contains(at));
        }
    });
    assert!(borrowed);
}

#[test]
fn receipts_go_back_and_pongs_are_capped() {
    let mut talk = Talk::new(
        dialect(
            "[frame]\nkind = 'ndjson'\n[send]\nreceipt = '{\"ack\":{in.e}}'\npong = '{}'\n\
             [[on]]\nmatch = { '/e' = { exists = true } }\nis = 'event'\nchannel = 'all'\nset = { 'in.e' = '/e' }\nreply = 'receipt'\n\
             [[on]]\nmatch = { '' = { type = 'empty' } }\nis = 'ping'\n",
        ),
        None,
    );
    talk.open();
    assert_eq!(talk.hear(r#"{"e":"1"}"#), [r#"event all {"e":"1"}"#, r#"send #1 reply {"ack":"1"}"#]);
    let heard = talk.hear(&"{}\n".repeat(100));
    assert_eq!(heard.iter().filter(|line| line.starts_with("send")).count(), 16);
    assert_eq!(heard.len(), 100);
}

#[test]
fn one_name_with_two_sets_of_params_is_two_channels() {
    let text = format!(
        "[send]\nsubscribe = {{ json = '{{\"c\":{{channel}},\"p\":{{params}},\"id\":{{id}}}}', bind = '{{id}}' }}\n\
         publish = '{{\"to\":{{sub}},\"d\":{{data}}}}'\n\
         [[on]]\nmatch = {{ '/s' = {{ exists = true }} }}\nis = 'event'\nsub = '/s'\n{ACK}"
    );
    let mut talk = Talk::new(dialect(&text), None);
    talk.open();
    talk.try_subscribe(&[("book", Some(r#"{"depth":10}"#))], false).unwrap();
    talk.try_subscribe(&[("book", Some(r#"{"depth":100}"#))], false).unwrap();
    let message = MessageSpec { params: Some(r#"{"depth":100}"#), ..message("book", None, "1") };
    assert_eq!(talk.publish_this(&message), Err(SendError::NotJoined), "it has an id, but is not granted yet");
    talk.hear(r#"{"ok":2}"#);
    assert_eq!(talk.publish_this(&message).unwrap(), r#"#3 publish[7] {"to":2,"d":1}"#);
    assert_eq!(talk.hear(r#"{"s":1}"#), [r#"event <1> {"s":1}"#]);
    talk.conversation.forget_channel(ChannelId(2));
    assert_eq!(talk.hear(r#"{"s":2}"#), ["ignored"]);
}

#[test]
fn per_frame_bounds_a_batch() {
    let text = format!("[limits]\nper_frame = 2\n[send]\nsubscribe = '{{\"c\":{{channel*}},\"id\":{{id}}}}'\n{ACK}");
    let mut talk = Talk::new(dialect(&text), None);
    talk.open();
    assert_eq!(talk.subscribe(&["a", "b", "c"]), r#"#1 subscribe[1,2]? {"c":["a","b"],"id":1}"#);
}
