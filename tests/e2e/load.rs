//! Publishers of every kind before an upstream of every mood, and what they see, written down for the judge.
//!
//! What becomes of a message follows from its number, so that every run has some of each: under an order key or not, sent
//! twice or not, with a time to live or not, cancelled, taking the place of others; acknowledged, refused, put off, or left without
//! an answer the first time. Each publisher is a principal of its own, and all use the same keys.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::common::{DEADLINE, until};
use crate::judge::{Admin, Client as Said, End, Seen, Trace, Upstream as Did, receipt};
use crate::rig::{Place, Relay};
use crate::upstream::{Gate, Got, Upstream, plain_answer};

/// Requests of one publisher without an answer.
const OUTSTANDING: usize = 16;
/// Attempts of one message.
const MAX_ATTEMPTS: u32 = 10;
/// Payloads of these sizes take turns; the last becomes several records …
const SIZES: [usize; 6] = [20, 300, 300, 300, 5_000, 40_000];
/// … and one of so many is this large.
const LARGE: (u64, usize) = (200, 1_000_000);
/// Free bytes without which a run's state is not kept in memory.
const ROOM: u64 = 1 << 30;
/// The time to live of those that have one.
const TTL_MS: u64 = 200;
/// For how long some are put off.
const PUT_OFF_MS: u64 = 30;
/// One of so many messages that are asked for is asked for by another principal, too.
const PRIES: usize = 20;
/// The `ref` of what asks to cancel a message: beyond those of publishes.
const CANCEL: u64 = 1 << 40;

/// A run over several lives of a relay.
pub struct Run {
    pub place: Place,
    pub upstream: Upstream,
    pub trace: Arc<Trace>,
    /// Upstream answers everything.
    calm: Arc<AtomicBool>,
    publishers: Vec<Mutex<Publisher>>,
    _state: Option<tempfile::TempDir>,
}

/// How far the publishers are in one life.
#[derive(Default)]
pub struct Progress {
    accepted: AtomicUsize,
    refused: AtomicUsize,
    failed: AtomicUsize,
    over: AtomicBool,
}

impl Progress {
    /// Messages that were accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Refusals, because there is no room or because the store failed.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Those because the store failed.
    pub fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits until so many are accepted.
    pub fn wait_accepted(&self, count: usize) {
        until(&format!("{count} messages to be accepted"), || (self.accepted() >= count).then_some(()));
    }
}

impl Run {
    /// A quick relay, and so many publishers. The name is the trace's.
    pub fn new(name: &str, publishers: u64) -> Self {
        let trace = Arc::new(Trace::begin(name));
        trace.note(&Seen::Admin(Admin::Limits { max_attempts: MAX_ATTEMPTS }));
        let calm = Arc::new(AtomicBool::new(false));
        let upstream = moody(&trace, &calm);
        let mut place = Place::new(&upstream);
        let dialect = include_str!("../../config/dialects/plain.toml").replace("name = \"plain\"", "name = \"traced\"");
        let traced = dialect.replace(r#""event":{type?},"#, r#""message":{message},"#);
        assert!(traced != dialect, "upstream sees our id");
        std::fs::write(place.path("traced.toml"), traced).unwrap();
        let path = format!("{:?}", place.path("traced.toml"));
        place.set("upstream.dialect", &path).set("outbox.max_attempts", &MAX_ATTEMPTS.to_string());
        // An answer is given at once or never: none comes late, so none is owed to an attempt before the last.
        place.set("outbox.ack_timeout", r#""10m""#).set("feed.session_requests", "1000000");
        place.set("outbox.message_max", r#""2MiB""#).set("feed.request_max", r#""2MiB""#);
        let grants: Vec<String> = (0..publishers)
            .map(|number| {
                let name = principal(number);
                format!(r#"{{ name = "{name}", token = "{name}", read = ["*"], write = ["*"] }}"#)
            })
            .collect();
        place.set("access.mode", r#""tokens""#).set("access.tokens", &format!("[{}]", grants.join(", ")));
        let state = in_memory();
        if let Some(state) = &state {
            place.set("outbox.path", &format!("{:?}", state.path().join("state")));
        }
        let publishers = (0..publishers).map(|number| Mutex::new(Publisher::new(number))).collect();
        Run { place, upstream, trace, calm, publishers, _state: state }
    }

    fn admin(&self, seen: Admin) {
        self.trace.note(&Seen::Admin(seen));
    }

    /// A life begins. `wrapper`: what runs the relay.
    ///
    /// # Errors
    /// It ended before it listened: with this code, saying this.
    pub fn try_start(&self, wrapper: &[&str]) -> Result<Relay, (Option<i32>, String)> {
        self.admin(Admin::Started);
        self.count();
        let relay = self.place.start_by(wrapper);
        if relay.is_err() {
            self.gone(false);
        }
        relay
    }

    /// A life begins, and everything that was told in those before it is asked for.
    pub fn start(&self) -> Relay {
        let relay = self.try_start(&[]).unwrap_or_else(|(code, said)| panic!("exit code {code:?}: {said}"));
        self.ask(&relay);
        self.admin(Admin::Asked);
        self.scrape(&relay);
        relay
    }

    /// Publishers at work until the relay is gone, or until `meanwhile` gives it back.
    pub fn load(&self, relay: Relay, meanwhile: impl FnOnce(Relay, &Progress) -> Option<Relay>) -> Option<Relay> {
        let progress = Progress::default();
        let kept = thread::scope(|scope| {
            for (number, publisher) in (0..).zip(&self.publishers) {
                let (client, trace, progress) = (relay.client_as(&principal(number)), &self.trace, &progress);
                scope.spawn(move || publisher.lock().unwrap().publish(client, trace, progress));
            }
            let kept = meanwhile(relay, &progress);
            progress.over.store(true, Ordering::Relaxed);
            kept
        });
        if kept.is_none() {
            self.gone(true);
        }
        kept
    }

    /// A life has ended.
    pub fn gone(&self, hard: bool) {
        self.admin(Admin::Gone { hard });
        self.trace.note(&Seen::Upstream(Did::Cut { connections: self.upstream.opened() }));
    }

    /// Upstream lets the relay in.
    pub fn open(&self) {
        self.count();
        self.upstream.gate(Gate::Open);
    }

    /// Upstream cuts the connection of a relay that is live.
    pub fn cut(&self, relay: &Relay) {
        relay.wait_state("live");
        self.trace.note(&Seen::Upstream(Did::Cut { connections: self.upstream.opened() }));
        self.upstream.cut();
    }

    /// Upstream answers everything from now on, also what it left without an answer before: nothing blocks the rest.
    pub fn answer_all(&self, relay: &Relay) {
        self.calm.store(true, Ordering::Relaxed);
        self.cut(relay);
    }

    /// Upstream has its moods again.
    pub fn answer_as_before(&self) {
        self.calm.store(false, Ordering::Relaxed);
    }

    fn count(&self) {
        let at_ms = self.trace.now_ms();
        self.trace.note(&Seen::Upstream(Did::Count { at_ms, connections: self.upstream.opened() }));
    }

    /// The relay's own numbers.
    pub fn scrape(&self, relay: &Relay) {
        let [conservation, lost, failed] =
            ["tidegate_outbox_conservation_error", "tidegate_store_lost_records_total", "tidegate_store_failed"]
                .map(|name| relay.metric(name));
        self.admin(Admin::Scrape { conservation, lost, store_failed: failed > 0.0 });
    }

    fn ask(&self, relay: &Relay) {
        // By whom, and which; one of some by the next publisher, too, whose it is not.
        let mut questions = Vec::new();
        for (place, (message, tag)) in self.trace.to_ask().into_iter().enumerate() {
            let number: u64 = tag.split_once('-').unwrap().0.parse().unwrap();
            if place % PRIES == 0 {
                questions.push((principal((number + 1) % self.publishers.len() as u64), message.clone(), true));
            }
            questions.push((principal(number), message, false));
        }
        let line = |(who, message, _): &(String, String, bool)| (format!("GET /v1/messages/{message}"), who.clone());
        let lines: Vec<_> = questions.iter().map(line).collect();
        // Each is asked for after the answer about the one before.
        let mut asked = self.trace.lines();
        relay.ask_each(&lines, |place, answer| {
            let (principal, message, prying) = questions[place].clone();
            let status = answer.status;
            let seen = if prying {
                Said::Pry { principal, message, status }
            } else {
                let end = (status == 200).then(|| answer.json()).and_then(|body| end(&body));
                Said::State { asked, message, status, end }
            };
            self.trace.note(&Seen::Client(seen));
            asked = self.trace.lines();
        });
    }

    /// A last life that loses its connection under load and is not killed. Then upstream answers everything until nothing is
    /// left, and the run is judged. Gives how many messages ended in which way.
    pub fn finish(&self) -> BTreeMap<String, usize> {
        self.open();
        let relay = self.load(self.start(), |relay, progress| {
            progress.wait_accepted(100);
            self.cut(&relay);
            progress.wait_accepted(progress.accepted() + 50);
            Some(relay)
        });
        let relay = relay.unwrap();
        self.answer_all(&relay);
        // Who never gets there is judged all the same: that names the messages.
        let begun = Instant::now();
        while relay.status()["outbox"]["depth"] != 0 && begun.elapsed() < DEADLINE {
            thread::sleep(Duration::from_millis(5));
        }
        self.ask(&relay);
        self.scrape(&relay);
        self.admin(Admin::Drained);
        relay.stop();
        self.trace.judge()
    }
}

/// What a publisher is called, and its token.
fn principal(number: u64) -> String {
    format!("publisher-{number}")
}

/// A directory in memory, if there is room: a killed process says nothing about the disk, and need not wait for it. Runs that
/// are about the disk set another one.
fn in_memory() -> Option<tempfile::TempDir> {
    let room = rustix::fs::statvfs("/dev/shm").ok()?;
    (room.f_bavail * room.f_frsize >= ROOM).then(|| tempfile::tempdir_in("/dev/shm").ok())?
}

/// The end that an outcome or a state tells.
fn end(told: &Value) -> Option<End> {
    let word = |name: &str| told[name].as_str().map(str::to_owned);
    let state = word("state").filter(|state| !["accepted", "in_flight"].contains(&state.as_str()))?;
    Some(End { state, reason: word("reason"), confirmed_by: word("confirmed_by"), reply: word("reply") })
}

/// An upstream whose mood depends on the message.
fn moody(trace: &Arc<Trace>, calm: &Arc<AtomicBool>) -> Upstream {
    let (trace, calm) = (Arc::clone(trace), Arc::clone(calm));
    let seen: Mutex<BTreeMap<String, u32>> = Mutex::default();
    Upstream::answering(move |got| {
        if !got.is("publish") {
            return plain_answer(&got.json);
        }
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (tag, message) = (text(&got.json["data"]["tag"]), text(&got.json["message"]));
        let (connection, request) = (got.connection, got.json["id"].as_u64().unwrap());
        let at_ms = trace.now_ms();
        trace.note(&Seen::Upstream(Did::Attempt { at_ms, connection, request, tag: tag.clone(), message }));
        let first = {
            let mut seen = seen.lock().unwrap();
            let count = seen.entry(tag.clone()).or_default();
            *count += 1;
            *count == 1
        };
        answer(got, &tag, request, first && !calm.load(Ordering::Relaxed), &trace)
    })
}

fn answer(got: &Got, tag: &str, request: u64, first: bool, trace: &Trace) -> Vec<String> {
    let (connection, n) = (got.connection, got.json["data"]["n"].as_u64().unwrap());
    let receipt = receipt(tag, connection, request);
    let refuse = |code: &str, again: bool, after_ms: u64| {
        trace.note(&Seen::Upstream(Did::Nack { at_ms: trace.now_ms(), connection, request, again, after_ms }));
        json!({"type": "error", "id": request, "code": code, "message": receipt})
    };
    let said = match n {
        n if n % 11 == 3 => refuse("no", false, 0),
        n if n % 13 == 5 && first => {
            let after_ms = if n.is_multiple_of(2) { PUT_OFF_MS } else { 0 };
            let mut said = refuse("later", true, after_ms);
            said["retry_after"] = json!(format!("{after_ms}ms"));
            said
        }
        n if n % 9 == 1 && first => return Vec::new(),
        _ => {
            trace.note(&Seen::Upstream(Did::Ack { connection, request }));
            json!({"type": "ack", "id": request, "data": receipt})
        }
    };
    vec![said.to_string()]
}

/// One that publishes over all lives of a relay.
struct Publisher {
    number: u64,
    next: u64,
    /// What got no answer, or one that leaves it open, by number.
    unanswered: BTreeMap<u64, Value>,
}

impl Publisher {
    fn new(number: u64) -> Self {
        Publisher { number, next: 0, unanswered: BTreeMap::new() }
    }

    fn request(&mut self) -> (u64, Value) {
        let n = self.next;
        self.next += 1;
        let tag = format!("{}-{n}", self.number);
        let size = match n % LARGE.0 {
            17 => LARGE.1,
            _ => SIZES[usize::try_from(n).unwrap() % SIZES.len()],
        };
        let fill = "x".repeat(size);
        let data = json!({"tag": tag, "n": n, "fill": fill});
        let mut request =
            json!({"op": "publish", "ref": n, "channel": "orders", "data": data, "idempotency_key": n.to_string()});
        if !n.is_multiple_of(4) {
            request["order_key"] = json!((n % 10).to_string());
            request["coalesce"] = json!(n % 113 == 9);
        }
        if n % 5 == 2 {
            request["on_unknown"] = json!("dead_letter");
        }
        if n % 7 == 4 {
            request["ttl"] = json!(format!("{TTL_MS}ms"));
        }
        self.unanswered.insert(n, request.clone());
        (n, request)
    }

    /// Publishes until it is over or the relay is gone. First what it got no answer to, which it may repeat.
    fn publish(&mut self, mut client: Client, trace: &Trace, progress: &Progress) {
        let session = trace.session();
        let mut repeats: Vec<(u64, Value)> = self.unanswered.clone().into_iter().rev().collect();
        let mut outstanding = 0;
        loop {
            while outstanding < OUTSTANDING && !progress.over.load(Ordering::Relaxed) {
                let (_, request) = repeats.pop().unwrap_or_else(|| self.request());
                trace.note(&Seen::Client(about(session, &principal(self.number), &request)));
                if client.try_send(&request.to_string()).is_none() {
                    return;
                }
                outstanding += 1;
            }
            if outstanding == 0 {
                return;
            }
            let Some(frame) = client.try_next() else { return };
            outstanding -= usize::from(self.read(&frame, session, trace, progress));
            if frame["kind"] == "accepted" && frame["ref"].as_u64().unwrap() % 17 == 6 {
                let message = frame["message"].as_str().unwrap();
                trace.note(&Seen::Client(Said::Cancel { message: message.to_owned() }));
                let request = json!({"op": "cancel", "ref": CANCEL, "message": message});
                if client.try_send(&request.to_string()).is_none() {
                    return;
                }
            }
        }
    }

    /// Reads a frame; gives whether it answers a request.
    fn read(&mut self, frame: &Value, session: u64, trace: &Trace, progress: &Progress) -> bool {
        let word = |name: &str| frame[name].as_str().unwrap().to_owned();
        let number = || frame["ref"].as_u64().unwrap();
        let said = match frame["kind"].as_str() {
            Some("accepted") => {
                self.unanswered.remove(&number());
                progress.accepted.fetch_add(1, Ordering::Relaxed);
                let (tag, message, state) = (self.tag(number()), word("message"), word("state"));
                Said::Accepted { at_ms: trace.now_ms(), session, tag, message, state }
            }
            // It may have left.
            Some("error") if number() == CANCEL => return false,
            Some("error") => {
                let code = word("code");
                match code.as_str() {
                    // Whether a restart finds it is unknown.
                    "store_failed" => drop(progress.failed.fetch_add(1, Ordering::Relaxed)),
                    "store_full" => drop(self.unanswered.remove(&number())),
                    _ => panic!("{frame}"),
                }
                progress.refused.fetch_add(1, Ordering::Relaxed);
                Said::Refused { session, tag: self.tag(number()), code }
            }
            Some("outcome") => {
                trace.note(&Seen::Client(Said::Outcome {
                    session,
                    message: word("message"),
                    end: end(frame).unwrap(),
                }));
                return false;
            }
            _ => return false,
        };
        trace.note(&Seen::Client(said));
        true
    }

    fn tag(&self, n: u64) -> String {
        format!("{}-{n}", self.number)
    }
}

/// The line of a publish.
fn about(session: u64, principal: &str, request: &Value) -> Said {
    let word = |name: &str| request[name].as_str().map(str::to_owned);
    Said::Publish {
        session,
        tag: request["data"]["tag"].as_str().unwrap().to_owned(),
        principal: principal.to_owned(),
        key: word("idempotency_key").unwrap(),
        order_key: word("order_key"),
        dead_letter: word("on_unknown").is_some(),
        ttl_ms: word("ttl").map(|_| TTL_MS),
        coalesce: request["coalesce"] == true,
    }
}
