//! Tokens from an endpoint: fetched before the first connection, renewed before they run out, kept while the endpoint is
//! down, asked for once more when they are refused, and never more often than is polite.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::until;
use crate::rig::{Place, Relay};
use crate::upstream::{Gate, Upstream};

/// What the endpoint says of a token's life, in the tests that wait for its end.
const LIFE: Duration = Duration::from_secs(4);

struct State {
    /// 200: a token; else refused.
    status: u16,
    calls: Vec<Instant>,
    /// Secrets that the calls showed.
    shown: Vec<String>,
    hooks: Vec<Value>,
}

/// An endpoint that gives tokens `t1`, `t2`, …, and takes alerts.
struct Mint {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Mint {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { status: 200, calls: Vec::new(), shown: Vec::new(), hooks: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Mint { address, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn answer(&self, status: u16) {
        self.state().status = status;
    }

    fn calls(&self) -> usize {
        self.state().calls.len()
    }

    fn wait_calls(&self, count: usize) {
        until(&format!("{count} calls for a token"), || (self.calls() >= count).then_some(()));
    }
}

fn serve(mut stream: TcpStream, shared: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut first, mut length, mut key) = (String::new(), 0, String::new());
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "x-key" => key = value.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut state = shared.lock().unwrap();
    let (status, answer) = if first.starts_with("POST /hook ") {
        state.hooks.push(serde_json::from_slice(&body).ok()?);
        (200, json!({}))
    } else {
        state.calls.push(Instant::now());
        state.shown.push(key);
        match state.status {
            200 => (200, json!({ "access_token": format!("t{}", state.calls.len()) })),
            status => (status, json!({ "error": "not now" })),
        }
    };
    drop(state);
    let body = answer.to_string();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close", body.len());
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).ok()
}

/// The tokens with which connections authenticated, in their order.
fn tokens(upstream: &Upstream) -> Vec<String> {
    upstream.frames("auth").iter().map(|got| got.json["token"].as_str().unwrap().to_owned()).collect()
}

fn wait_token(upstream: &Upstream, token: &str) {
    until(&format!("a connection with {token}"), || tokens(upstream).iter().any(|shown| shown == token).then_some(()));
}

fn place(upstream: &Upstream, mint: &Mint, ttl: Option<Duration>) -> Place {
    let mut place = Place::new(upstream);
    std::fs::write(place.path("key"), "k1\n").unwrap();
    let key = format!("{{ file = {:?} }}", place.path("key"));
    let ttl = ttl.map_or(String::new(), |ttl| format!(", ttl = \"{}s\"", ttl.as_secs()));
    let fetch = format!(
        "{{ post = \"http://{}/token\", headers = {{ X-Key = \"{{secret.key}}\" }}, take = \"/access_token\", message = \"/error\"{ttl} }}",
        mint.address
    );
    let hook = format!("http://{}/hook", mint.address);
    let alert = format!("[{{ name = \"denied\", when = \"denied > 1\", to = [{{ webhook = {hook:?} }}] }}]");
    // Far more than any test takes, so that a second wait is seen as one.
    place.set("upstream.backoff", r#"{ min = "10ms", max = "10m" }"#);
    place.set("secrets.key", &key).set("upstream.token_fetch", &fetch).set("alerts", &alert);
    place
}

/// Waits until two refusals in a row were told, and holds that the next attempt is far away.
fn refused_slowly(relay: &Relay, mint: &Mint) {
    let status = until("the refusal to be told", || {
        Some(relay.status()).filter(|status| status["upstream"]["auth"] == "auth_failed")
    });
    assert!(status["upstream"]["next_attempt_ms"].as_u64() > Some(15_000), "{status}");
    assert_eq!(mint.calls(), 2, "one refresh");
    until("the alert", || mint.state().hooks.iter().any(|hook| hook["alert"] == "denied").then_some(()));
    assert_eq!(mint.calls(), 2, "nothing is asked meanwhile");
    assert_eq!(relay.metric("tidegate_upstream_auth_failures_total"), 2.0);
}

#[test]
fn a_token_is_fetched_and_renewed_before_its_end_and_no_sooner() {
    let (upstream, mint) = (Upstream::plain(), Mint::new());
    let relay = place(&upstream, &mint, Some(LIFE)).start_live();
    let mut client = relay.subscriber("a");
    for n in 1..=3 {
        mint.wait_calls(n);
        wait_token(&upstream, &format!("t{n}"));
    }
    relay.stop();
    let state = mint.state();
    for pair in state.calls.windows(2) {
        assert!(pair[1] - pair[0] >= LIFE * 3 / 4, "renewed after {:?}", pair[1] - pair[0]);
    }
    assert!(state.shown.iter().all(|key| key == "k1"), "{:?}", state.shown);
    // Each by another connection that took over: nothing was missed.
    while let Some(frame) = client.try_next() {
        assert!(frame["kind"] != "gap" && frame["kind"] != "reset", "{frame}");
    }
}

#[test]
fn an_endpoint_that_refuses_is_asked_once_more_and_then_slowly() {
    let (upstream, mint) = (Upstream::plain(), Mint::new());
    mint.answer(401);
    let relay = place(&upstream, &mint, Some(LIFE)).start();
    refused_slowly(&relay, &mint);
    assert_eq!(upstream.tried(), 0, "nothing is connected without a token");
    mint.answer(200);
    relay.tell("POST /v1/upstream/reconnect", &[], "");
    let status = relay.wait_state("live");
    assert_eq!(status["upstream"]["auth"], Value::Null, "{status}");
    assert_eq!(tokens(&upstream), ["t3"]);
    relay.stop();
}

#[test]
fn a_token_that_upstream_refuses_is_fetched_anew_once_and_then_slowly() {
    let (upstream, mint) = (Upstream::plain(), Mint::new());
    upstream.gate(Gate::Answer("HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()));
    let relay = place(&upstream, &mint, Some(LIFE * 1_000)).start();
    refused_slowly(&relay, &mint);
    assert_eq!(upstream.tried(), 2);
    upstream.gate(Gate::Open);
    relay.tell("POST /v1/upstream/reconnect", &[], "");
    relay.wait_state("live");
    assert_eq!(tokens(&upstream), ["t3"], "what was refused is not shown again");
    relay.stop();
}

#[test]
fn an_endpoint_that_is_down_is_asked_politely_while_the_token_holds() {
    let (upstream, mint) = (Upstream::plain(), Mint::new());
    let relay = place(&upstream, &mint, Some(LIFE * 2)).start_live();
    let begun = Instant::now();
    mint.answer(503);
    mint.wait_calls(2); // the renewal
    let (asked, before) = (Instant::now(), mint.calls());
    for n in 2..=4 {
        upstream.cut();
        upstream.wait_for("auth", n);
    }
    // A second at least from one call to the next, however often upstream is connected meanwhile.
    let most = asked.elapsed().as_secs() as usize + 1;
    assert!(mint.calls() - before <= most, "{} calls within {:?}", mint.calls() - before, asked.elapsed());
    if begun.elapsed() < LIFE * 2 {
        assert_eq!(tokens(&upstream), ["t1"; 4], "it still holds");
    }
    relay.wait_state("live");
    // After its end there is nothing to connect with.
    until("the end of the token", || {
        upstream.cut();
        Some(relay.status()).filter(|status| status["upstream"]["last_ending"]["reason"] == "fetch")
    });
    let shown = tokens(&upstream).len();
    mint.answer(200);
    relay.tell("POST /v1/upstream/reconnect", &[], "");
    upstream.wait_for("auth", shown + 1);
    let last = tokens(&upstream).pop();
    assert_eq!(last, Some(format!("t{}", mint.calls())));
    relay.stop();
}
