//! How long an answer may take, and what upstream's slowness looks like.

use std::time::Duration;

use super::*;
use crate::dialect::{Answer, AskFor};

/// Lets `seconds` pass; the service answers each ping after `slow`, as long as the connection is the one that it came on.
fn answering(service: &mut Service, seconds: u64, slow: Duration) {
    let end = service.now.after(Duration::from_secs(seconds)).mono;
    let mut answers: Vec<(Mono, AttemptId, WireFrame)> = Vec::new();
    while service.now.mono < end {
        service.pass(Duration::from_millis(500));
        if !service.connects.is_empty() {
            service.connect();
        }
        let attempt = service.attempt;
        for (at, frame) in std::mem::take(&mut service.sent) {
            if let WireFrame::Ping(body) = frame {
                answers.push((at + slow, attempt, WireFrame::Pong(body)));
            }
        }
        let now = service.now.mono;
        let (due, later) = answers.into_iter().partition(|(at, ..)| *at <= now);
        answers = later;
        let due: Vec<(Mono, AttemptId, WireFrame)> = due;
        for (_, attempt, frame) in due {
            service.input(Input::Received { attempt, at: service.now, frames: vec![frame] });
        }
    }
}

#[test]
fn a_path_slower_than_every_deadline_so_far_is_learnt_and_kept() {
    let mut service = ready("", |config| config.upstream.ping_interval = Duration::from_secs(10));
    answering(&mut service, 3_600, Duration::from_secs(35));
    assert_eq!(service.relay.stats.link.disconnects.get(&"heartbeat"), 1, "the first connection only");
    assert_eq!(service.relay.link_word(), "live");
    let mut service = ready("", |_| {});
    answering(&mut service, 3_600, Duration::from_secs(15));
    assert_eq!(service.relay.stats.link.disconnects.total(), 0, "within the deadline there is no false death");
}

#[test]
fn a_write_that_the_network_does_not_take_is_seen() {
    let mut service = plain();
    let client = service.join(0);
    service.stuck = true;
    service.subscribe(client, &["a"]);
    service.pass_seconds(7);
    service.relay.refresh_upstream_stats(service.now);
    assert_eq!(service.relay.stats.link.write_stall, Duration::from_secs(7));
    service.stuck = false;
    service.outstanding = 0;
    service.input(Input::Transmitted { attempt: service.attempt });
    service.relay.refresh_upstream_stats(service.now);
    assert_eq!(service.relay.stats.link.write_stall, Duration::ZERO);
    assert_eq!(service.relay.stats.link.write.count(), 1);
    assert_eq!(service.relay.stats.link.write.cumulative().find(|(bound, _)| *bound >= 5.0), Some((5.0, 0)));
}

/// The bands told on `$status` since the last look.
fn bands(service: &mut Service) -> Vec<String> {
    let told = std::mem::take(&mut service.told);
    let quality = told.iter().filter(|(_, frame)| frame["kind"] == "event" && frame["type"] == "quality");
    quality.map(|(_, frame)| frame["data"]["band"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_band_of_upstreams_quality_is_told_when_it_changes_and_shown_with_its_terms() {
    let mut service = ready("", |config| config.upstream.ping_interval = Duration::from_secs(100_000));
    let client = service.join(0);
    service.subscribe(client, &["$status"]);
    service.pass_seconds(60);
    assert_eq!(bands(&mut service), ["good"], "once");
    service.close(1006);
    service.until_connect();
    service.connect();
    service.pass_seconds(10);
    assert_eq!(bands(&mut service), Vec::<String>::new(), "a quick return is no change of the band");
    service.close(1006);
    service.pass_seconds(11);
    assert_eq!(bands(&mut service), ["down"]);
    let shown = crate::relay::meet::heard::judging::quality_json(&service.relay.quality);
    assert_eq!((&shown["score"], &shown["band"]), (&json!(0), &json!("down")));
    assert_eq!(shown["terms"]["reconnects"]["value"], 2.0);
    assert_eq!(service.relay.stats.link.lost, 2);
}

/// `Service::pass` holds that nothing is asked for at one moment again and again.
#[test]
fn a_poll_that_waits_for_its_token_sleeps() {
    let dialect = "dialect = 1\nname = \"polled\"\n[limits]\nrate = \"1/s\"\nburst = 1\n[connect]\nwebsocket = false\n\
                   [transport.long-poll]\n[[on]]\nmatch = { \"/n\" = { exists = true } }\nis = \"event\"\nchannel = \"a\"\n";
    let mut service =
        Service::speaking(dialect, |config| config.upstream.transports = vec![crate::dialect::Transport::LongPoll]);
    service.connect();
    let mut polls = Vec::new();
    for n in 0..5 {
        let asks = std::mem::take(&mut service.sent).into_iter();
        polls.extend(asks.filter_map(|(at, frame)| matches!(frame, WireFrame::Ask(_)).then_some(at)));
        assert_eq!(polls.len(), n + 1, "one poll after the other");
        service.say_frame(WireFrame::Answer(Box::new(Answer {
            of: AskFor::Poll,
            status: 200,
            etag: None,
            last_modified: None,
            retry_after: None,
            body: bytes::Bytes::from(format!("{{\"n\":{n}}}")),
        })));
        service.pass_seconds(1);
    }
    assert!(polls.windows(2).all(|pair| pair[1].since(pair[0]) == Duration::from_secs(1)), "{polls:?}");
}
