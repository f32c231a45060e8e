//! Services that do everything wrong, without end: each against a relay of its own, all at the same time. Whatever they do, the
//! relay lives, serves its apps, says what is wrong, keeps to the provider's limits, and sleeps while there is nothing to do.

mod mischief;
mod talk;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::Client;
use crate::common::DEADLINE;
use crate::rig::{Place, Relay};
use mischief::{BEFORE, HTTP, LIVE, Mischief};
use talk::{Talk, Tally};

/// How long all of them go on, once all relays run.
const RUN: Duration = Duration::from_secs(12);
/// What the provider allows: connections in any ten seconds, and frames a second, which is the burst as well.
const CONNECTS: usize = 10;
const WINDOW: Duration = Duration::from_secs(10);
const RATE: usize = 20;
/// What is taken for a flood where the provider names no limit: connections in all the time, and requests for each time that
/// the app asked for something, and for each connection.
const BACKED_OFF: usize = 25;
const WORTH: usize = 15;
/// Of the time that passes, a relay may compute so much; one that spins takes a whole core, or what is left of it here.
const CPU_SHARE: f64 = 0.15;
/// Lines of the log in all that time: what happens again and again is not told each time.
const LOG_MAX: u64 = 64 << 10;

/// A service at work, and what it does to a relay.
struct Scene {
    mischief: &'static Mischief,
    place: Place,
    relay: Relay,
    client: Client,
    tally: Arc<Tally>,
    begun: Instant,
    computed: f64,
    /// Whether the provider names limits.
    limited: bool,
    pressed: usize,
}

fn listen(play: fn(&mut Talk) -> Option<()>) -> (SocketAddr, Arc<Tally>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let tally = Arc::new(Tally::default());
    let shared = tally.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            shared.connects.fetch_add(1, Relaxed);
            let tally = shared.clone();
            thread::spawn(move || play(&mut Talk { stream, socket: None, tally }));
        }
    });
    (address, tally)
}

impl Scene {
    fn begin(mischief: &'static Mischief, dialect: &str, limited: bool) -> Self {
        let begun = Instant::now();
        let (address, tally) = listen(mischief.play);
        let scheme = if dialect.contains("websocket = false") { "http" } else { "ws" };
        let mut place = Place::at(&format!("{scheme}://{address}/"));
        std::fs::write(place.path("bad.toml"), dialect).unwrap();
        let path = format!("{:?}", place.path("bad.toml"));
        place.set("upstream.dialect", &path);
        place.set("upstream.handshake_timeout", "\"1s\"").set("upstream.ping_interval", "\"1s\"");
        if !limited {
            let default = tidegate::config::Config::default().upstream.backoff;
            let backoff =
                format!("{{ min = \"{}ms\", max = \"{}ms\" }}", default.min.as_millis(), default.max.as_millis());
            place.set("upstream.backoff", &backoff);
        }
        mischief.keys.iter().for_each(|(key, value)| {
            place.set(key, value);
        });
        let relay = place.start();
        let client = relay.client();
        let computed = processor_time(relay.id());
        Scene { mischief, place, relay, client, tally, begun, computed, limited, pressed: 0 }
    }

    /// An app that does not give up.
    fn press(&mut self) {
        self.client.request(json!({"op": "subscribe", "channels": ["a"]}));
        self.client.request(json!({"op": "publish", "channel": "orders", "data": 1}));
        self.client.barrier();
        self.pressed += 1;
    }

    /// What is wrong with the relay.
    fn judge(self) -> Vec<String> {
        let computed = processor_time(self.relay.id()) - self.computed;
        let (connects, requests) = (self.tally.connects.load(Relaxed), self.tally.requests.load(Relaxed));
        let passed = self.begun.elapsed().as_secs_f64();
        let log = std::fs::metadata(self.place.path("log")).unwrap().len();
        // A connect costs a request of its own, where the service lets it get so far.
        let (most, allowed) = if self.limited {
            let windows = (passed / WINDOW.as_secs_f64()).ceil() as usize;
            (CONNECTS * windows, RATE + (RATE as f64 * passed) as usize + connects)
        } else {
            (BACKED_OFF, WORTH * (self.pressed + connects))
        };
        let told = patiently(|| self.relay.find_metric(self.mischief.shows).is_some_and(|value| value >= 1.0));
        let complaints = [
            (connects == 0, "was never tried".to_owned()),
            (connects > most, format!("{connects} connects")),
            (requests > allowed, format!("{requests} requests")),
            (computed > CPU_SHARE * passed, format!("computed for {computed} s")),
            (log > LOG_MAX, format!("{log} bytes of log")),
            (!told, format!("nothing shows: {}", self.mischief.shows)),
        ];
        let what = self.mischief.what;
        let wrong = complaints.into_iter().filter(|(wrong, _)| *wrong);
        let wrong: Vec<String> = wrong.map(|(_, why)| format!("{what}, in {passed:.0} s: {why}")).collect();
        self.relay.client().barrier();
        assert!(self.relay.status()["upstream"]["state"].is_string(), "{what}");
        assert_eq!(self.relay.metric("tidegate_outbox_conservation_error"), 0.0, "{what}");
        self.relay.stop();
        wrong
    }
}

/// Whether something comes true.
fn patiently(mut what: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !what() {
        if begun.elapsed() > DEADLINE {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
    true
}

/// Seconds that a process has computed (`proc_pid_stat(5)`: a hundredth each, fields 14 and 15).
fn processor_time(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

fn stand(mischief: impl Iterator<Item = &'static Mischief>, dialect: &str, limited: bool) {
    let limits = format!("[limits]\nrate = \"{RATE}/s\"\nburst = {RATE}\nconnects = \"{CONNECTS}/10s\"\n");
    let dialect = format!("{dialect}\n{}", if limited { &limits } else { "" });
    let mut scenes: Vec<Scene> = mischief.map(|mischief| Scene::begin(mischief, &dialect, limited)).collect();
    let all = Instant::now();
    while all.elapsed() < RUN {
        scenes.iter_mut().for_each(Scene::press);
        thread::sleep(Duration::from_millis(200));
    }
    let wrong: Vec<String> = scenes.into_iter().flat_map(Scene::judge).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The plain dialect, whose service may ask for another connection and whose numbers have no holes.
fn plain() -> String {
    let plain = include_str!("../../config/dialects/plain.toml").replace("name = \"plain\"", "name = \"bad\"");
    let moved = "[[on]]\nmatch = { \"/type\" = \"moved\" }\nis = \"reconnect\"\n";
    format!("{plain}\n{moved}\n[gap]\nscope = \"channel\"\nthen = \"resubscribe\"\n")
}

/// The service of the hub, without messages: they would leave by connections of their own.
fn hub() -> String {
    let lines = crate::hub::DIALECT.lines().filter(|line| !line.starts_with("publish = "));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn what_goes_wrong_before_a_connection_stands() {
    stand(BEFORE.iter(), &plain(), true);
}

#[test]
fn what_goes_wrong_on_a_connection_that_stands() {
    stand(LIVE.iter(), &plain(), true);
}

#[test]
fn what_goes_wrong_over_http() {
    stand(HTTP.iter(), &hub(), true);
}

#[test]
fn a_provider_without_limits_is_not_flooded_either() {
    // Pings are answered, as many as there are.
    let live = LIVE.iter().filter(|mischief| mischief.what != "pings without end");
    stand(BEFORE.iter().chain(live), &plain(), false);
    stand(HTTP.iter(), &hub(), false);
}
