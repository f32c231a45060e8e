//! Dialect files with faults, and what loading says about them.

use super::*;

fn faults(text: &str) -> Vec<String> {
    match Dialect::parse("bad.toml", text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_builtin_loads_under_its_name() {
    let names: Vec<&str> = Dialect::builtins().collect();
    assert!(names.is_sorted());
    for name in names {
        let text = Dialect::builtin_text(name).unwrap();
        assert_eq!(faults(text), Vec::<String>::new(), "{name}");
        assert_eq!(Dialect::builtin(name).unwrap().name(), name);
    }
    assert!(Dialect::builtin("nosuch").is_none());
}

#[test]
fn the_bench_dialect_loads() {
    assert_eq!(faults(include_str!("../../../benches/bench-dialect.toml")), Vec::<String>::new());
}

/// A file with these lines after a head that is right.
fn with_head(lines: &str) -> Vec<String> {
    let ignore = "[[on]]\nmatch = { \"\" = { exists = true } }\nis = \"ignore\"\n";
    let rules = if lines.contains("[[on]]") { "" } else { ignore };
    faults(&format!("dialect = 1\nname = \"x\"\n{lines}{rules}"))
}

/// Files, without their head `dialect = 1`, `name = "x"`, and every fault in them: place and reason, exactly.
const FAULTS: &[(&str, &[&str])] = &[
    (
        "[connect]\nfetch = [\"a\", \"a\", \"none\"]\n[fetch.a]\nget = \"/x\"\ntake = { one = \"/x\" }\n[fetch.b]\nget = \"{one}\"\ntake = { two = \"/x\" }\n",
        &[
            "4:9: fetch.b is never called: write [connect] fetch = [\"b\"], or when = \"subscribe\"",
            "4:15: `a` is named twice",
            "4:20: there is no [fetch.none] with when = \"connect\"",
        ],
    ),
    (
        "[connect]\nfetch = [\"a\", \"a\", \"none\"]\n[fetch.a]\nget = \"x\"\npost = \"/x\"\nttl = \"soon\"\n[fetch.b]\nget = \"x\"\nrefresh = { put = \"/{chanel}\" }\ntake = { \"channel.x\" = \"x\", id = \"/x\" }\n",
        &[
            "5:1: a fetch needs `take`: { variable = \"/pointer/into/the/answer\" }",
            "5:1: fetch.a needs `get`, `post` or `put`, one of them: an address, or a path at upstream's own origin",
            "8:7: `ttl` must be a duration, like \"30m\"",
            "10:7: expected a path (/…) or an address (https://…)",
            "11:11: `refresh` needs `ttl`: how long an answer holds",
            "11:21: unknown variable {chanel} in fetch.b.refresh",
            "12:10: `channel.x`: before connecting only plain variables are supplied",
            "12:24: a JSON Pointer starts with '/': \"x\"",
            "12:29: {id} is filled by the engine and cannot be set",
        ],
    ),
    (
        "[fetch.c]\nget = \"/x\"\nwhen = \"subscribe\"\nttl = \"1m\"\ntake = { y = \"/y\" }\njson = '{}'\nform = { a = 1 }\nchannels = [\"a*b\"]\n",
        &[
            "3:1: fetch.c has `json` and `form`; keep one",
            "6:7: a fetch for a channel is made before each of its subscribes and has no `ttl`",
            "7:10: `y`: for a channel, write channel.y",
            "9:14: `a` must be a text",
            "10:13: a pattern is a channel's name, or the start of one and `*`",
        ],
    ),
    (
        "[sign.a]\nhmac = \"md5\"\ntext = \"x\"\n[sign.b]\nhash = \"sha256\"\nkey = \"x\"\ntext = \"{sign.c}\"\n[send]\nauth = '{sign.b}{secret.x y}'\n",
        &[
            "3:1: sign.a needs `key`: \"{secret.NAME}\"",
            "4:8: unknown variant `md5`, expected one of `sha256`, `sha384`, `sha512`, `sha1`",
            "6:1: sign.b needs `hmac` and `key`, or `hash` alone, or `jwt`",
            "9:9: unknown variable {sign.c} in sign.b.text",
            "11:9: unknown variable {sign.b} in send.auth",
            "11:17: send.auth: not JSON: something follows the JSON value",
        ],
    ),
    (
        "[[on]]\nmatch = { \"/t\" = 1 }\nis = \"evnt\"\n",
        &[
            "5:6: unknown variant `evnt`, expected one of `event`, `snapshot`, `ack`, `error`, `hello`, `ready`, `denied`, `ping`, `pong`, `gone`, `subscriptions`, `reconnect`, `ignore`",
        ],
    ),
    (
        "[[on]]\nmatch = { \"/t\" = 1 }\nis = \"ignore\"\nchanel = \"/c\"\n",
        &[
            "6:1: unknown field `chanel`, expected one of `match`, `is`, `channel`, `sub`, `decode`, `fold`, `req`, `of`, `bind`, `then`, `retry_after`, `code`, `message`, `set`, `each`, `checksum`, `lost`, `resumed`, `forget`, `reply`, `key`, `type`, `id`, `seq`, `ts`, `data`",
        ],
    ),
    (
        "[[on]]\nmatch = { \"type\" = 1, \"/c~2\" = 1, \"#evnt\" = 2 }\nis = \"ignore\"\n",
        &[
            "4:11: a JSON Pointer starts with '/': \"type\"",
            "4:23: bad '~' escape in JSON Pointer \"/c~2\" (only ~0 and ~1)",
            "4:35: unknown frame field `#evnt`, expected one of `#packet`, `#ack`, `#offset`, `#id`, `#event`, `#status`, `#etag`, `#last_modified`, `#last_modified_s`",
        ],
    ),
    (
        "[send]\nsubscribe   = '{\"subscribe\":{chanel},\"id\":{idd}}'\npong = '{\"a\":{now} \"b\":1}'\n",
        &[
            "4:29: unknown variable {chanel} in send.subscribe",
            "4:43: unknown variable {idd} in send.subscribe",
            "5:20: send.pong: not JSON: expected `,` or `}`",
        ],
    ),
    (
        "[send]\nauth = '{data}'\nping = { json = '[{id}]', text = 'x' }\npublish = { post = '/x' }\n",
        &[
            "4:9: variable {data} has no value in send.auth",
            "5:8: send.ping needs `json` or `text`, one of them",
            "6:11: send.publish needs `json` or `text`, one of them",
        ],
    ),
    (
        "[send]\nsubscribe = { json = '{\"c\":{channel*}}', bind = '{id}' }\nresubscribe = '{\"a\":\"{channel*}\"}'\nauth = '{token*}'\n",
        &[
            "4:49: one subscription id cannot stand for a list of channels",
            "5:22: {channel*} cannot stand here: a list is a JSON value of its own",
            "6:9: {token*}: only {channel*} and parts of its name can be listed, in subscribes and addresses",
        ],
    ),
    (
        "[send]\nsubscribe = { json = '{\"c\":{channel}}', bind = { json = '{\"s\":{sub}}' } }\nresubscribe = { json = '1', bind = { jsn = '{id}' } }\nunsubscribe = { json = '1', bind = 3 }\n",
        &[
            "4:48: send.subscribe.bind is what {sub} will be and cannot name it",
            "5:36: send.resubscribe.bind needs `json`",
            "5:38: unknown field `jsn`, expected one of `json`",
            "6:36: send.unsubscribe.bind must be a text or a table: { json = \"...\" }",
        ],
    ),
    (
        "[send]\nunsubscribe = '{\"c\":{channel}}'\npublish = '{\"c\":{sub}}'\n",
        &[
            "4:15: send.unsubscribe needs send.subscribe",
            "5:11: send.publish names {sub}, which only send.subscribe gives",
        ],
    ),
    (
        "[send]\nping = '{\"a\":1'\npong = '[1,]'\nauth = '{\"a\":\"\\q\"}'\nresume = '{}{}'\nrenew = '{id'\n",
        &[
            "4:15: send.ping: not JSON: expected `,` or `}`",
            "5:12: send.pong: not JSON: expected a value",
            "6:17: send.auth: not JSON: invalid escape",
            "7:13: send.resume: not JSON: something follows the JSON value",
            "8:10: send.renew: not JSON: `{` without `}`",
        ],
    ),
    (
        "channel = \"{feed}{symbol}\"\nframe = { kind = \"socket.io\", namespace = \"/m\", array = \"parts\" }\nrotate = \"make\"\n[transport.sse]\ncursor = \"/\"\n[transport.long-poll]\ncursor = \"next\"\ninterval = \"0s\"\n[transport.carrier-pigeon]\n[send]\npublish = { json = '[1]', post = \"http://x/\" }\n",
        &[
            "1:1: frames of Socket.IO need a rule that is `ready`: match = { \"#packet\" = \"connect\" }",
            "3:18: a separator must stand before {symbol}",
            "4:57: unknown variant `parts`, expected one of `message`, `split`",
            "5:10: unknown variant `make`, expected one of `make_before_break`, `break_before_make`",
            "7:1: unknown field `cursor`, expected one of `path`, `query`, `headers`, `resumes`",
            "9:10: a JSON Pointer starts with '/': \"next\"",
            "10:12: `interval` must be a duration, like \"30s\" or \"500ms\"",
            "11:12: unknown field `carrier-pigeon`, expected one of `sse`, `long-poll`, `poll`",
            "13:34: send.publish.post is a path on the service's own host: \"/publish\"",
        ],
    ),
    (
        "frame = { kind = \"socket.io\", namespace = \"m\", array = \"split\" }\n[send]\nauth = '[1]'\nsubscribe = '{\"a\":{channel}}'\npublish = { text = \"[{data}]\" }\nping = '[\"ping\"]'\n",
        &[
            "1:1: frames of Socket.IO need a rule that is `ready`: match = { \"#packet\" = \"connect\" }",
            "3:43: a namespace begins with `/` and has no comma, like \"/market\"",
            "3:56: every event of Socket.IO is an array: `array = \"split\"` would take it apart",
            "5:8: send.auth is what CONNECT carries: a JSON object",
            "6:13: send.subscribe is an event: a JSON array, its name first",
            "7:11: send.publish is an event: a JSON array, its name first",
        ],
    ),
    ("[frame]\nnamespace = \"/m\"\n", &["4:13: `namespace` needs `kind = \"socket.io\"`"]),
    ("[frame]\nkind = \"ndjson\"\nhead = true\n", &["5:8: `head` needs `kind = \"json\"`"]),
    (
        "[connect]\nresumes = true\n[transport.sse]\n",
        &["1:1: `resumes` in [connect] needs {cursor?} in an address or header of every transport"],
    ),
    ("[frame]\ninflate = \"zip\"\n", &["4:11: unknown variant `zip`, expected one of `gzip`, `zlib-stream`"]),
    (
        "[frame]\nkind = \"socket.io\"\ninflate = \"gzip\"\n",
        &[
            "1:1: frames of Socket.IO need a rule that is `ready`: match = { \"#packet\" = \"connect\" }",
            "5:11: binary frames of Socket.IO are attachments: `inflate` has no meaning",
        ],
    ),
    (
        "[limits]\nrate = \"fast\"\nper_frame = 0\nidle = \"10\"\nping_jitter = 1\ncounts = \"some\"\n[gap]\nstep = -1\nchecksum = \"x\"\n",
        &[
            "4:8: `rate` must be tokens per time, like \"4/s\" or \"110/60s\"",
            "5:13: `per_frame` must be a whole number from 1 to 100000",
            "6:8: `idle` must be a duration, like \"30s\", \"500ms\" or \"23h50m\"",
            "7:15: `ping_jitter` must be true or false",
            "8:10: unknown variant `some`, expected one of `all`, `messages`",
            "10:8: `step` must be a whole number from 1 to 1000000",
            "11:12: unknown variant `x`, expected one of `kraken-v2`",
        ],
    ),
    (
        "[close]\nthen = { \"99\" = \"fatal\", \"4000\" = \"panic\" }\nforget = [1000, \"x\"]\nours = 1006\n",
        &[
            "4:10: expected a close code from 1000 to 4999, an HTTP status from 200 to 599, or a range like \"4000-4099\"",
            "4:35: expected `retry`, `reject`, `refresh`, `resubscribe`, `reconnect`, `fatal`, or `pause 30s`",
            "5:17: expected a close code from 1000 to 4999, an HTTP status from 200 to 599, or a range like \"4000-4099\"",
            "6:8: `ours` must be 1000, 1001, or from 3000 to 4999",
        ],
    ),
    (
        "[connect]\nurl = \"{resume_url?}\"\npath = \"/sub/{message}\"\nsubprotocols = [\"a b\", 1]\nheaders = { \"x y\" = \"1\", a = 2 }\nquery = 3\n",
        &[
            "4:8: unknown variable {resume_url} in connect.url",
            "5:14: variable {message} has no value in connect.path",
            "6:17: a subprotocol is a token of RFC 9110 (letters, digits, -._~!#$%&'*+^`|)",
            "6:24: `subprotocols` must be a list of texts",
            "7:13: `x y` is not a header's name",
            "7:30: `a` must be a text",
            "8:9: `query` must be a table: name = \"value\"",
        ],
    ),
    (
        "[[on]]\nis = \"event\"\nbind = \"/b\"\n[[on]]\nmatch = {}\nis = \"ack\"\n[[on]]\nmatch = { \"/a\" = { exist = true } }\n",
        &[
            "3:1: missing field `match`: a rule says which messages it is about",
            "3:1: a rule that is `event` needs `channel` or `sub`",
            "5:1: `bind` has no effect in a rule that is `event`, where these have: `channel`, `sub`, `key`, `fold`, `type`, `id`, `seq`, `ts`, `data`, `decode`, `req`, `each`, `lost`, `checksum`",
            "6:1: a rule that is `ack` needs `req`, `channel`, `of` or `sub`",
            "7:9: `match` must be a table of conditions: \"/pointer\" = value",
            "9:1: missing field `is`: a rule says what its messages are",
            "10:20: unknown field `exist`, expected one of `exists`, `type`, `prefix`, `not`",
        ],
    ),
    (
        "[[on]]\nmatch = { \"/a\" = \"{nope}\", \"/b\" = { type = \"text\" }, \"/c\" = [1, { x = 1 }], \"/d\" = {} }\nis = \"reconnect\"\nseq = [\"/a\"]\n",
        &[
            "4:19: unknown variable {nope} in a rule",
            "4:44: unknown variant `text`, expected one of `null`, `bool`, `number`, `string`, `array`, `object`, `empty`",
            "4:67: unknown field `x`, expected one of `exists`, `type`, `prefix`, `not`",
            "4:84: an empty condition: expected `exists`, `type`, `prefix` or `not`",
            "6:1: `seq` has no effect in a rule that is `reconnect`, where these have: `retry_after`",
            "6:7: `seq` must be a pointer or a list of two: [first, last]",
        ],
    ),
    (
        "[[on]]\nmatch = { \"/a\" = 1 }\nis = \"event\"\nchannel = \"{/a}:{b}:{#c}:{\"\ndata = \"/~\"\nts = \"time\"\nset = { token = \"/t\", ok = 1, \"channel.x\" = \"{/y\" }\neach = { key = \"/k\", chan = \"/c\" }\nreply = \"receipt\"\n",
        &[
            "6:17: unknown variable {b} in a rule",
            "6:21: unknown frame field `#c`, expected one of `#packet`, `#ack`, `#offset`, `#id`, `#event`, `#status`, `#etag`, `#last_modified`, `#last_modified_s`",
            "6:26: `{` without `}`",
            "7:8: bad '~' escape in JSON Pointer \"/~\" (only ~0 and ~1)",
            "8:6: a JSON Pointer starts with '/': \"time\"",
            "9:9: {token} is filled by the engine and cannot be set",
            "9:28: `ok` must be a text: a pointer, or text with {holes}",
            "9:46: `{` without `}`",
            "10:8: missing field `at`: the array whose elements are events",
            "10:22: unknown field `chan`, expected one of `at`, `channel`, `list`, `key`, `type`, `id`, `seq`, `ts`, `data`",
            "3:1: this rule replies with send.receipt, which is not there",
        ],
    ),
    (
        "[[on]]\nmatch = { \"/a\" = 1 }\nis = \"error\"\nof = [\"subscribe\", \"sub\"]\nthen = \"later\"\nmessage = 5\n",
        &[
            "6:20: unknown variant `sub`, expected one of `auth`, `subscribe`, `unsubscribe`, `publish`, `ping`, `state`, `audit`",
            "7:8: expected `retry`, `reject`, `refresh`, `resubscribe`, `reconnect`, `fatal`, or `pause 30s`",
            "8:11: `message` must be a text",
        ],
    ),
];

#[test]
fn faults_have_their_place_and_their_cure() {
    for (lines, expected) in FAULTS {
        let expected: Vec<String> = expected.iter().map(|fault| format!("bad.toml:{fault}")).collect();
        let mut expected = expected;
        expected.sort_by_key(|fault| place(fault));
        assert_eq!(with_head(lines), expected, "{lines}");
    }
}

/// Line and column of a fault, for sorting.
fn place(fault: &str) -> (usize, usize) {
    let mut numbers = fault.split(':').skip(1).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[test]
fn a_file_without_its_head_says_what_is_missing() {
    assert_eq!(
        faults(""),
        [
            "bad.toml:1:1: missing field `dialect`: write `dialect = 1`, the version of the language",
            "bad.toml:1:1: missing field `name`",
            "bad.toml:1:1: no rules: a dialect needs at least one [[on]]",
        ]
    );
    assert_eq!(
        faults("dialect = 2\nname = 3\non = 4\nfurther = 5\n"),
        [
            "bad.toml:1:11: this version reads `dialect = 1` only",
            "bad.toml:2:8: `name` must be a text",
            "bad.toml:3:6: rules are written [[on]], each with its own header",
            "bad.toml:4:1: unknown field `further`, expected one of `dialect`, `name`, `channel`, `rotate`, `secret`, `frame`, `on`, `fetch`, `sign`, `connect`, `transport`, `limits`, `gap`, `repair`, `close`, `send`",
        ]
    );
}

#[test]
fn what_is_not_toml_has_one_place() {
    assert_eq!(faults("a = 1\na = 2\n"), ["bad.toml:2:1: duplicate key `a` in document root"]);
    let unclosed = faults("dialect = 1\nname = [1, 2\n");
    assert_eq!(unclosed.len(), 1);
    assert!(unclosed[0].starts_with("bad.toml:3:1: invalid array"), "{unclosed:?}");
}

/// `toml::Spanned` loses these.
#[test]
fn dotted_keys_and_plain_arrays_of_tables_have_places_too() {
    assert_eq!(
        with_head("limits.rate = \"4/s\"\nlimits.burst = 0\nframe.kind = \"xml\"\n"),
        [
            "bad.toml:4:16: `burst` must be a whole number from 1 to 1000000",
            "bad.toml:5:14: unknown variant `xml`, expected one of `json`, `ndjson`, `rs`, `socket.io`",
        ]
    );
    assert_eq!(faults("dialect = 1\nname = \"x\"\non = [{ match = { \"/a\" = 1 }, is = \"hullo\" }]\n").len(), 1);
    // Columns count characters, and escapes hide where a text's bytes stand: then its beginning is the place.
    assert_eq!(
        with_head("[send]\nping = '{\"ä\":{nö},\"b\":{nope}}'\npong = \"{\\\"b\\\":{nope}}\"\n"),
        [
            "bad.toml:4:14: unknown variable {nö} in send.ping",
            "bad.toml:4:23: unknown variable {nope} in send.ping",
            "bad.toml:5:8: unknown variable {nope} in send.pong",
        ]
    );
    assert_eq!(
        with_head("[send]\nping = '''\n{\"b\":{nope}}'''\n"),
        ["bad.toml:5:6: unknown variable {nope} in send.ping"]
    );
}

#[test]
fn limits_and_tables_read_as_written() {
    let text = "dialect = 1\nname = \"x\"\nsecret = [\"auth\"]\n\
        [limits]\nrate = \"110/60s\"\nburst = 5\nchannels = 9\nage = \"23h50m\"\nidle = \"1m\"\nping = \"30s\"\nping_jitter = true\ncounts = \"messages\"\n\
        [gap]\nscope = \"connection\"\nstep = 2\nthen = \"reconnect\"\nreorder = \"50ms\"\n\
        [close]\nthen = { \"4000-4099\" = \"fatal\", \"1008\" = \"pause 30s\" }\nforget = [1000, \"4007-4009\"]\nours = 4900\n\
        [[on]]\nmatch = { \"/a\" = 1 }\nis = \"ignore\"\n";
    let dialect = Dialect::parse("x", text).unwrap();
    let limits = dialect.limits();
    assert_eq!(limits.rate.map(|rate| (rate.tokens, rate.per.as_secs(), rate.burst)), Some((110, 60, 5)));
    assert_eq!((limits.channels, limits.age.map(|age| age.as_secs())), (Some(9), Some(85_800)));
    assert_eq!((limits.per_frame, limits.ping_jitter, limits.counts_control), (100, true, false));
    let gap = dialect.gap().unwrap();
    assert_eq!(
        (gap.scope, gap.step, gap.then),
        (Some(super::super::GapScope::Connection), 2, super::super::OnGap::Reconnect)
    );
    assert_eq!(gap.reorder, Some(std::time::Duration::from_millis(50)));
    assert_eq!((dialect.on_close(4050), dialect.on_close(4100)), (Some(Then::Fatal), None));
    assert!(dialect.forgets_on_close(1000) && dialect.forgets_on_close(4008) && !dialect.forgets_on_close(1001));
    assert_eq!((dialect.ours(), dialect.secret_params()), (4900, &["auth".to_owned()][..]));
    assert!(!dialect.publishes() && !dialect.subscribes() && !dialect.unsubscribes() && !dialect.has_ping());
    assert_eq!(dialect.confirm(), Confirm::Written);
    let phoenix = Dialect::builtin("phoenix").unwrap();
    assert!(phoenix.publish_joins() && phoenix.publishes() && phoenix.unsubscribes() && phoenix.has_ping());
    assert_eq!(phoenix.confirm(), Confirm::Ack);
    assert!(!Dialect::builtin("plain").unwrap().publish_joins());
}

#[test]
fn a_checksum_has_a_name_and_rules_that_say_where_it_is() {
    let head = "dialect = 1\nname = \"x\"\n";
    let rule = |is: &str, more: &str| {
        format!("[[on]]\nmatch = {{ \"/{is}\" = 1 }}\nis = \"{is}\"\nchannel = \"/c\"\n{more}\n")
    };
    let faults = |text: String| {
        let errors = Dialect::parse("bad.toml", &format!("{head}{text}")).err().unwrap_or_default();
        errors.into_iter().map(|error| format!("{}:{}: {}", error.line, error.column, error.reason)).collect::<Vec<_>>()
    };
    let gap = "[gap]\nchecksum = \"kraken-v2\"\n";
    let checked = rule("snapshot", "checksum = \"\"") + &rule("event", "checksum = \"\"");
    assert_eq!(faults(format!("{gap}{checked}")), Vec::<String>::new());
    assert_eq!(faults(checked.clone()).len(), 2, "both rules need [gap] checksum");
    let only = faults(format!("{gap}{}", rule("event", "checksum = \"\"")));
    assert_eq!(only, ["3:1: [gap] checksum needs a rule that is `snapshot` with `checksum`: the state it begins with"]);
    let each = faults(format!("{gap}{}", rule("snapshot", "checksum = \"\"\neach = { at = \"/l\" }")));
    assert_eq!(each, ["9:12: a checksum is over the channel as a whole: not with `each`"]);
    let fetch = faults(format!(
        "{gap}then = \"fetch\"\nreorder = \"1s\"\n[repair]\nget = \"/x\"\nis = \"snapshot\"\nseq = \"/n\"\n{checked}"
    ));
    let expected = [
        "4:12: a checksum is over the state that comes on the connection: then = \"resubscribe\"",
        "6:11: `reorder` is about numbers: it needs `scope`, what they count",
    ];
    assert_eq!(fetch, expected);
}
