//! The scanner against building a `serde_json::Value`, on the recorded messages of the transcripts and on two made ones.
//!
//! `cargo bench --bench scan [-- FILTER]`. Each figure is the median of many short batches; both sides of a line take
//! turns, so that a machine that slows down slows both. The scanner asks for the pointers that the protocol's dialect asks for.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate::dialect::pointer::Pointer;
use tidegate::dialect::scan::{PointerSet, Spans};

const BATCH: Duration = Duration::from_micros(500);
const BATCHES: usize = 101;

/// A transcript, and the pointers of the rules for it.
const TRANSCRIPTS: &[(&str, &[&str])] = &[
    ("doc-plain", &["/type", "/channel", "/event", "/id", "/seq", "/ts", "/data", "/code", "/message"]),
    ("doc-binance", BINANCE),
    (
        "doc-kraken-v2",
        &[
            "/channel",
            "/type",
            "/data/0/symbol",
            "/data/0/timestamp",
            "/data",
            "/sequence",
            "/method",
            "/req_id",
            "/success",
            "/result/channel",
            "/result/symbol",
            "/error",
        ],
    ),
    ("doc-coinbase-exchange", &["/type", "/message", "/reason", "/product_id", "/sequence", "/time", ""]),
    (
        "pusher",
        &["/event", "/channel", "/data", "/data/socket_id", "/data/activity_timeout", "/data/code", "/data/message"],
    ),
    ("phoenix", &["/0", "/1", "/2", "/3", "/4", "/4/status", "/4/response", "/4/response/reason"]),
    ("graphql-transport-ws", &["/type", "/id", "/payload", "/payload/0/message"]),
    (
        "eth-jsonrpc",
        &[
            "/method",
            "/params/subscription",
            "/params/result/hash",
            "/params/result",
            "/id",
            "/result",
            "/error",
            "/error/code",
            "/error/message",
        ],
    ),
    (
        "homeassistant",
        &[
            "/type",
            "/id",
            "/event/event_type",
            "/event/context/id",
            "/event/time_fired",
            "/event",
            "/message",
            "/success",
            "/result",
            "/error/code",
            "/error/message",
        ],
    ),
    (
        "centrifugo",
        &[
            "",
            "/id",
            "/push",
            "/push/pub",
            "/push/channel",
            "/push/pub/offset",
            "/push/pub/data",
            "/error/code",
            "/error/message",
            "/error",
            "/connect",
            "/connect/ping",
            "/connect/ttl",
            "/subscribe",
            "/subscribe/epoch",
            "/subscribe/offset",
            "/subscribe/publications",
            "/subscribe/was_recovering",
            "/subscribe/recovered",
            "/push/unsubscribe",
            "/push/unsubscribe/code",
            "/push/unsubscribe/reason",
            "/push/disconnect",
        ],
    ),
];

const BINANCE: &[&str] = &[
    "/stream",
    "/data",
    "/data/e",
    "/data/U",
    "/data/u",
    "/data/E",
    "/error",
    "/error/code",
    "/error/msg",
    "/code",
    "/msg",
    "/e",
    "/id",
];

struct Case {
    name: String,
    set: PointerSet,
    messages: Vec<Vec<u8>>,
}

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    println!("{:<24} {:>8} {:>8} {:>10} {:>10} {:>7}", "messages", "count", "bytes", "scan ns", "Value ns", "ratio");
    for case in cases().into_iter().filter(|case| case.name.contains(&filter)) {
        let (scan, tree) = measure(&case);
        let bytes = case.messages.iter().map(Vec::len).sum::<usize>() / case.messages.len();
        println!(
            "{:<24} {:>8} {bytes:>8} {scan:>10.0} {tree:>10.0} {:>7.2}",
            case.name,
            case.messages.len(),
            tree / scan
        );
    }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case { name: "trade".into(), set: set(BINANCE), messages: vec![trade()] },
        Case { name: "depth, 1.4 KB".into(), set: set(BINANCE), messages: vec![depth(25)] },
        Case { name: "depth, 32 KB".into(), set: set(BINANCE), messages: vec![depth(640)] },
    ];
    for (name, pointers) in TRANSCRIPTS {
        cases.push(Case { name: (*name).into(), set: set(pointers), messages: inbound(name) });
    }
    cases
}

fn set(pointers: &[&str]) -> PointerSet {
    let mut set = PointerSet::new();
    for pointer in pointers {
        set.add(&Pointer::parse(pointer).expect("the table holds pointers"));
    }
    set
}

fn trade() -> Vec<u8> {
    let text = r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1672515782136,"s":"BTCUSDT","t":48151,"p":"97000.10000000","q":"0.00150000","T":1672515782136,"m":true,"M":true}}"#;
    text.as_bytes().to_vec()
}

fn depth(levels: usize) -> Vec<u8> {
    let side = |price: f64, step: f64| {
        let level = |n: usize| {
            let n = n as f64;
            format!("[\"{:.2}\",\"{:.8}\"]", price + step * n, 0.0015 + n / 7.0)
        };
        (0..levels).map(level).collect::<Vec<_>>().join(",")
    };
    format!(
        r#"{{"stream":"btcusdt@depth","data":{{"e":"depthUpdate","E":1672515782136,"s":"BTCUSDT","U":157,"u":160,"b":[{}],"a":[{}]}}}}"#,
        side(97000.1, -0.13),
        side(97000.2, 0.17)
    )
    .into_bytes()
}

/// The inbound text frames of a transcript, one message each (a frame of several lines is several messages).
fn inbound(name: &str) -> Vec<Vec<u8>> {
    let path = format!("{}/tests/dialects/transcripts/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut messages = Vec::new();
    for line in text.lines() {
        let step: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{path}: {error}"));
        if step["dir"] == "in" && step["op"] == "text" {
            let data = step["data"].as_str().unwrap_or_else(|| panic!("{path}: a text frame without text: {line}"));
            messages.extend(data.lines().map(|line| line.as_bytes().to_vec()));
        }
    }
    messages
}

/// Nanoseconds per message: of the scan, and of building a tree.
fn measure(case: &Case) -> (f64, f64) {
    let mut spans = Spans::new();
    let mut scan = || {
        for message in &case.messages {
            case.set.scan(black_box(message), &mut spans).expect("the messages are JSON");
            black_box(&spans);
        }
    };
    let tree = || {
        for message in &case.messages {
            black_box(serde_json::from_slice::<Value>(black_box(message)).expect("the messages are JSON"));
        }
    };
    let (scan_rounds, tree_rounds) = (rounds(&mut scan), rounds(tree));
    let (mut scans, mut trees) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        scans.push(time(scan_rounds, &mut scan));
        trees.push(time(tree_rounds, tree));
    }
    let per_message = |mut batches: Vec<Duration>, rounds: u32| {
        batches.sort();
        batches[BATCHES / 2].as_nanos() as f64 / f64::from(rounds) / case.messages.len() as f64
    };
    (per_message(scans, scan_rounds), per_message(trees, tree_rounds))
}

/// How many rounds fill a batch; warms up on the way.
fn rounds(mut round: impl FnMut()) -> u32 {
    let mut rounds = 1;
    while time(rounds, &mut round) < BATCH && rounds < 1 << 24 {
        rounds *= 2;
    }
    rounds
}

fn time(rounds: u32, mut round: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..rounds {
        round();
    }
    start.elapsed()
}
