//! Tests of the metrics: shape and values of the exposition, names by convention, closed label sets, promtool's opinion.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::relay::outbox::{Lane, OutcomeState};
use crate::relay::stats::{GapReason, LinkState};

/// Numbers that no two metrics share, where it matters.
fn stats() -> Stats {
    let mut stats = Stats::default();
    stats.link.state = Some(LinkState::Live);
    stats.link.disconnects.bump("dns");
    stats.link.last_frame = Some(Wall(1_000_000_000));
    stats.feed.gaps.add(GapReason::Slow, 3);
    stats.sessions.latency.observe(Duration::from_micros(90));
    stats.sessions.latency.observe(Duration::from_secs(2));
    stats.outbox.lane(Lane::High).depth = 4;
    stats.outbox.lane(Lane::High).oldest = Some(Wall(0));
    (stats.outbox.accepted, stats.outbox.restored) = (5, 3);
    stats.outbox.outcomes.bump(OutcomeState::Delivered);
    stats.outbox.outcomes.bump(OutcomeState::Rejected);
    (0..2).for_each(|_| stats.outbox.outcomes.bump(OutcomeState::DeadLettered));
    (stats.outbox.bytes, stats.outbox.max_messages, stats.outbox.max_bytes) = (600, 70, 8_000);
    stats
}

fn rendered() -> String {
    let store = StoreStats { commits: 2, commit_nanos: 3_000_000, ..StoreStats::default() };
    let metrics = Metrics::new();
    metrics.reloaded(false);
    metrics.render(&View {
        stats: &stats(),
        store: &store,
        http: &HttpCounts::default(),
        log_dropped: 9,
        now: Wall(3_500_000_000),
    })
}

#[test]
fn values_and_labels_are_shown() {
    let text = rendered();
    for line in [
        "tidegate_link_state{state=\"live\"} 1",
        "tidegate_link_state{state=\"backing_off\"} 0",
        "tidegate_link_disconnects_total{reason=\"dns\"} 1",
        "tidegate_link_last_frame_age_seconds 2.5",
        "tidegate_feed_gaps_total{reason=\"slow\"} 3",
        "tidegate_feed_gaps_total{reason=\"reconnect\"} 0",
        "tidegate_delivery_latency_seconds_bucket{le=\"0.0001\"} 1",
        "tidegate_delivery_latency_seconds_bucket{le=\"1\"} 1",
        "tidegate_delivery_latency_seconds_bucket{le=\"2.5\"} 2",
        "tidegate_delivery_latency_seconds_bucket{le=\"+Inf\"} 2",
        "tidegate_delivery_latency_seconds_sum 2.00009",
        "tidegate_outbox_messages{lane=\"high\"} 4",
        "tidegate_outbox_oldest_age_seconds{lane=\"high\"} 3.5",
        "tidegate_outbox_outcomes_total{state=\"delivered\"} 1",
        "tidegate_outbox_conservation_error 0",
        "tidegate_store_commit_seconds_count 2",
        "tidegate_store_commit_seconds_sum 0.003",
        "tidegate_log_dropped_total 9",
        "tidegate_config_reloads_total{result=\"refused\"} 1",
        "tidegate_config_last_reload_successful 0",
        "# TYPE process_cpu_seconds_total counter",
    ] {
        assert!(text.lines().any(|have| have == line), "no line `{line}` in\n{text}");
    }
}

/// What came in, less what went out, is what is there.
#[test]
fn the_outbox_is_shown_as_a_buffer_too() {
    let text = rendered();
    let family = "tidegate_buffer_";
    let shown: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(family)).collect();
    let wanted = [
        "discarded_events_total{reason=\"rejected\"} 1",
        "discarded_events_total{reason=\"expired\"} 0",
        "discarded_events_total{reason=\"dead_lettered\"} 2",
        "max_size_bytes 8000",
        "max_size_events 70",
        "received_events_total 8",
        "sent_events_total 1",
        "size_bytes 600",
        "size_events 4",
    ];
    assert_eq!(shown, wanted);
}

#[test]
fn names_follow_the_convention_and_occur_once() {
    let mut seen = BTreeSet::new();
    for declared in table::METRICS {
        let name = declared.name;
        assert!(seen.insert(name), "{name} is declared twice");
        assert!(name.starts_with("tidegate_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        assert!(declared.help.ends_with('.'), "{name}: its help is no sentence");
        let counts = matches!(declared.read, Read::Counter(_) | Read::Counters(..));
        assert_eq!(name.ends_with("_total"), counts, "{name}: counters, and only they, end in _total");
        if matches!(declared.read, Read::Histogram(_)) {
            assert!(name.ends_with("_seconds"), "{name}: a histogram names its unit");
        }
    }
}

#[test]
fn the_number_of_series_does_not_depend_on_traffic() {
    let series = |stats: &Stats| {
        let store = StoreStats::default();
        let text = Metrics::new().render(&View {
            stats,
            store: &store,
            http: &HttpCounts::default(),
            log_dropped: 0,
            now: Wall(0),
        });
        text.lines()
            .filter(|line| {
                line.starts_with("tidegate_")
                    && !["disconnects_total", "last_frame_age"].iter().any(|n| line.contains(n))
            })
            .count()
    };
    assert_eq!(series(&Stats::default()), series(&stats()));
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = spawned else {
        let _ = writeln!(std::io::stderr(), "SKIP metrics::promtool: promtool is not installed (package prometheus)");
        return;
    };
    promtool.stdin.take().unwrap().write_all(rendered().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
