//! When the link connects, and what each ending leads to.

use super::*;
use crate::config::TokenSource;
use crate::dialect::Transport;

const STABLE: Duration = Duration::from_secs(10);

fn config(max_attempts: u32) -> UpstreamConfig {
    UpstreamConfig {
        endpoints: Vec::new(),
        transports: vec![Transport::WebSocket],
        climb_after: Duration::from_secs(300),
        url: "wss://upstream.example/".to_owned(),
        dialect: "plain".to_owned(),
        params: serde_json::Map::new(),
        headers: Vec::new(),
        token: TokenSource::None,
        fetch_origins: Vec::new(),
        ca_file: None,
        client_cert: None,
        proxy: None,
        connect_timeout: Duration::from_secs(10),
        handshake_timeout: Duration::from_secs(10),
        backoff: BackoffConfig { min: Duration::from_millis(500), max: Duration::from_secs(60) },
        stable_for: STABLE,
        max_attempts,
        ping_interval: Duration::from_secs(20),
        ping_misses: 2,
        max_age: None,
        max_frame: 1 << 20,
    }
}

fn link(max_attempts: u32) -> (Link, Rng) {
    (Link::new(&config(max_attempts), &Limits::default(), at(0)), Rng::new(4))
}

fn at(ms: u64) -> Mono {
    Mono(ms * 1_000_000)
}

fn closed(code: u16) -> Ending {
    Ending::Carrier(Disconnect::Closed { code, reason: String::new() })
}

fn status(status: u16, retry_after: Option<u64>) -> Ending {
    let retry_after = retry_after.map(Duration::from_secs);
    Ending::Carrier(Disconnect::BadStatus { status, retry_after, detail: String::new() })
}

fn denied(then: Option<Then>) -> Ending {
    Ending::Denied { message: String::new(), then }
}

/// One attempt that is live for so long (never, if `None`) and ends; gives the wait until the next one.
fn cycle(link: &mut Link, rng: &mut Rng, live: Option<Duration>, ending: &Ending) -> Option<Duration> {
    let mut now = link.due().expect("an attempt is planned");
    link.begin(now).expect("its time has come");
    if let Some(live) = live {
        link.ready(now, &mut Rng::new(1));
        now = now + live;
    }
    link.ended(now, ending, None, rng);
    link.due().map(|next| next.since(now))
}

#[test]
fn it_connects_at_once_and_numbers_its_attempts() {
    let (mut link, mut rng) = link(0);
    assert_eq!((link.state(), link.due()), (LinkState::Idle, Some(at(0))));
    assert_eq!(link.begin(at(0)), Some(AttemptId(1)));
    assert_eq!((link.state(), link.due(), link.begin(at(1))), (LinkState::Connecting, None, None));
    link.ready(at(5), &mut Rng::new(1));
    assert_eq!(link.state(), LinkState::Live);
    link.ended(at(9), &closed(1006), None, &mut rng);
    assert_eq!((link.state(), link.since()), (LinkState::BackingOff, at(9)));
    let next = link.due().unwrap();
    assert_eq!(link.begin(Mono(next.0 - 1)), None);
    assert_eq!(link.begin(next), Some(AttemptId(2)));
    let last = link.last_ending().unwrap();
    assert_eq!(
        (last.reason, last.detail.as_str(), last.live_for),
        ("closed", "close code 1006: ", Duration::from_millis(4))
    );
}

#[test]
fn backoff_grows_until_a_connection_was_stable() {
    let (mut link, mut rng) = link(0);
    for _ in 0..12 {
        // Flapping: live, but never for long enough.
        cycle(&mut link, &mut rng, Some(STABLE - Duration::from_millis(1)), &Ending::Heartbeat);
    }
    assert_eq!(link.failures(), 12);
    let late: Vec<Duration> = (0..20).filter_map(|_| cycle(&mut link, &mut rng, None, &Ending::Idle)).collect();
    assert!(late.iter().any(|wait| *wait > Duration::from_secs(20)), "{late:?}");
    let wait = cycle(&mut link, &mut rng, Some(STABLE), &Ending::Heartbeat).unwrap();
    assert!(wait <= Duration::from_millis(500), "as after the first failure: {wait:?}");
    assert_eq!(link.failures(), 1);
}

#[test]
fn it_gives_up_after_max_attempts_until_told() {
    let (mut link, mut rng) = link(3);
    assert!(cycle(&mut link, &mut rng, None, &closed(1006)).is_some());
    assert!(cycle(&mut link, &mut rng, None, &closed(1006)).is_some());
    assert_eq!(cycle(&mut link, &mut rng, None, &closed(1006)), None);
    assert_eq!(link.state(), LinkState::GivenUp);
    assert!(link.reconnect(at(99)));
    assert_eq!((link.due(), link.failures()), (Some(at(99)), 0));
}

#[test]
fn credentials_are_tried_fresh_once_and_then_slowly() {
    let (mut link, mut rng) = link(0);
    assert_eq!(cycle(&mut link, &mut rng, None, &status(401, None)), Some(Duration::ZERO));
    for ending in [status(403, None), denied(None), denied(Some(Then::Refresh)), Ending::Token(String::new())] {
        let wait = cycle(&mut link, &mut rng, None, &ending).unwrap();
        assert!(wait >= Duration::from_secs(30), "{ending:?}: {wait:?}");
    }
    let wait = cycle(&mut link, &mut rng, Some(STABLE), &denied(None)).unwrap();
    assert_eq!(wait, Duration::ZERO, "they had been good, so they may have expired");
}

#[test]
fn what_each_ending_leads_to() {
    let seconds = Duration::from_secs;
    let told = |then, retry_after: Option<u64>| {
        let retry_after = retry_after.map(seconds);
        plan(&Ending::Told { then, retry_after, message: String::new() }, None)
    };
    for (code, expected) in [
        (1000, Plan::Retry(seconds(0))),
        (1001, Plan::Retry(seconds(0))),
        (1002, Plan::Slow),
        (1003, Plan::Slow),
        (1005, Plan::Retry(seconds(0))),
        (1007, Plan::Slow),
        (1009, Plan::Retry(seconds(0))),
        (1010, Plan::Slow),
        (1011, Plan::Retry(seconds(0))),
        (1012, Plan::Retry(seconds(5))),
        (1013, Plan::Retry(seconds(5))),
        (4001, Plan::Retry(seconds(0))),
    ] {
        assert_eq!(plan(&closed(code), None), expected, "{code}");
    }
    assert_eq!(plan(&closed(1012), Some(Then::Fatal)), Plan::Fatal, "the dialect knows better");
    assert_eq!(plan(&closed(4200), Some(Then::Reconnect)), Plan::AtOnce);
    assert_eq!(plan(&closed(1008), Some(Then::Pause(seconds(30)))), Plan::Retry(seconds(30)));
    assert_eq!(plan(&closed(4401), Some(Then::Refresh)), Plan::Credentials);
    assert_eq!(plan(&status(429, Some(17)), None), Plan::Retry(seconds(17)));
    assert_eq!(plan(&status(503, None), None), Plan::Retry(seconds(0)));
    assert_eq!(plan(&status(301, None), None), Plan::Slow);
    assert_eq!(plan(&Ending::Carrier(Disconnect::TlsCertificate(String::new())), None), Plan::Slow);
    assert_eq!(plan(&Ending::Carrier(Disconnect::TlsProtocol(String::new())), None), Plan::Slow);
    assert_eq!(plan(&Ending::Carrier(Disconnect::Tls(String::new())), None), Plan::Retry(seconds(0)));
    assert_eq!(plan(&Ending::Unbuildable(String::new()), None), Plan::Fatal);
    assert_eq!(plan(&denied(Some(Then::Reject)), None), Plan::Fatal);
    assert_eq!(plan(&denied(Some(Then::Pause(seconds(9)))), None), Plan::Retry(seconds(9)));
    assert_eq!(told(Then::Reconnect, None), Plan::AtOnce);
    assert_eq!(told(Then::Reconnect, Some(3)), Plan::Retry(seconds(3)));
    assert_eq!(told(Then::Fatal, Some(3)), Plan::Fatal);
}

#[test]
fn reasons_are_one_word_of_a_closed_set() {
    assert_eq!(status(401, None).reason(), "denied");
    assert_eq!(status(429, None).reason(), "rate_limited");
    assert_eq!(status(302, None).reason(), "redirect");
    assert_eq!(status(404, None).reason(), "bad_status");
    assert_eq!(closed(1000).reason(), "closed");
}

#[test]
fn upstreams_delay_is_a_lower_bound() {
    let (mut link, mut rng) = link(0);
    for _ in 0..50 {
        let wait = cycle(&mut link, &mut rng, None, &status(429, Some(17))).unwrap();
        assert!(wait >= Duration::from_secs(17) && wait <= Duration::from_secs(77), "{wait:?}");
    }
}

#[test]
fn a_stable_connection_that_upstream_wants_renewed_is_renewed_at_once() {
    let (mut link, mut rng) = link(0);
    let told = Ending::Told { then: Then::Reconnect, retry_after: None, message: String::new() };
    assert_eq!(cycle(&mut link, &mut rng, Some(STABLE), &told), Some(Duration::ZERO));
    let waits: Vec<Duration> = (0..9).filter_map(|_| cycle(&mut link, &mut rng, None, &told)).collect();
    assert!(waits.iter().any(|wait| *wait > Duration::from_secs(1)), "else it would spin: {waits:?}");
}

#[test]
fn a_pause_holds_until_resumed() {
    let (mut link, mut rng) = link(0);
    link.begin(at(0));
    link.ready(at(0), &mut Rng::new(1));
    assert!(link.pause(at(5)));
    assert_eq!((link.state(), link.due()), (LinkState::Paused, None));
    link.ended(at(6), &Ending::Carrier(Disconnect::Asked), None, &mut rng);
    assert_eq!((link.state(), link.due()), (LinkState::Paused, None));
    assert!(!link.reconnect(at(7)), "the pause has to be ended first");
    assert!(link.resume(at(8)));
    assert!(!link.resume(at(8)));
    assert_eq!(link.due(), Some(at(8)));
}

#[test]
fn a_connection_that_we_closed_to_renew_it_is_renewed_at_once() {
    let (mut link, mut rng) = link(0);
    link.begin(at(0));
    link.ready(at(0), &mut Rng::new(1));
    assert!(link.reconnect(at(5)));
    link.ended(at(6), &Ending::Carrier(Disconnect::Asked), None, &mut rng);
    assert_eq!((link.due(), link.failures()), (Some(at(6)), 0));
}

#[test]
fn after_a_stop_nothing_begins() {
    let (mut link, mut rng) = link(0);
    link.begin(at(0));
    link.stop(at(1));
    link.ended(at(2), &closed(1000), None, &mut rng);
    assert_eq!((link.state(), link.due()), (LinkState::Idle, None));
    assert!(!link.reconnect(at(3)) && !link.pause(at(3)) && !link.resume(at(3)));
}
