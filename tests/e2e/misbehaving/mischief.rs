//! What services do wrong: before a connection stands, on one that stands, over HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use super::talk::Talk;
use crate::upstream::frame;

/// A service that misbehaves.
pub struct Mischief {
    /// In words.
    pub what: &'static str,
    /// Keys of the configuration besides the common ones.
    pub keys: &'static [(&'static str, &'static str)],
    /// What it does with a connection; it ends with it.
    pub play: fn(&mut Talk) -> Option<()>,
    /// The metric that says what is wrong.
    pub shows: &'static str,
}

const MILLI: Duration = Duration::from_millis(1);

/// Before a connection stands.
pub const BEFORE: [Mischief; 12] = [
    Mischief {
        what: "hangs up at once",
        keys: &[],
        play: |_| None,
        shows: "tidegate_link_disconnects_total{reason=\"reset\"}",
    },
    Mischief {
        what: "resets",
        keys: &[],
        play: |talk| {
            talk.head()?;
            socket2::SockRef::from(&talk.stream).set_linger(Some(Duration::ZERO)).ok()
        },
        shows: "tidegate_link_disconnects_total{reason=\"reset\"}",
    },
    Mischief {
        what: "never answers",
        keys: &[],
        play: Talk::linger,
        shows: "tidegate_link_disconnects_total{reason=\"handshake_timeout\"}",
    },
    Mischief {
        what: "answers a byte now and then",
        keys: &[],
        play: |talk| {
            talk.head()?;
            let head = b"HTTP/1.1 101 Switching Protocols\r\n";
            talk.keep_saying(Duration::from_millis(200), |n| vec![*head.get(n as usize).unwrap_or(&b'x')])
        },
        shows: "tidegate_link_disconnects_total{reason=\"handshake_timeout\"}",
    },
    Mischief {
        what: "answers with a head without end",
        keys: &[],
        play: |talk| {
            talk.head()?;
            talk.raw("HTTP/1.1 101 Switching Protocols\r\n")?;
            talk.keep_saying(MILLI, |n| format!("X-{n}: {}\r\n", "x".repeat(2_000)).into_bytes())
        },
        shows: "tidegate_link_disconnects_total{reason=\"bad_upgrade\"}",
    },
    Mischief {
        what: "is no HTTP",
        keys: &[],
        play: |talk| {
            talk.head()?;
            talk.raw("220 mail.example ESMTP\r\n\r\n")?;
            talk.linger()
        },
        shows: "tidegate_link_disconnects_total{reason=\"bad_upgrade\"}",
    },
    Mischief {
        what: "is a login page",
        keys: &[],
        play: |talk| talk.repeat("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"),
        shows: "tidegate_link_disconnects_total{reason=\"bad_status\"}",
    },
    Mischief {
        what: "redirects to itself",
        keys: &[],
        play: |talk| talk.repeat("HTTP/1.1 307 Here\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
        shows: "tidegate_link_disconnects_total{reason=\"redirect\"}",
    },
    Mischief {
        what: "denies",
        keys: &[],
        play: |talk| talk.repeat("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
        shows: "tidegate_link_disconnects_total{reason=\"denied\"}",
    },
    Mischief {
        what: "wants us back at once",
        keys: &[],
        play: |talk| talk.repeat("HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"),
        shows: "tidegate_link_disconnects_total{reason=\"rate_limited\"}",
    },
    Mischief {
        what: "denies the token",
        keys: &[("upstream.token", "\"t\"")],
        play: |talk| talk.answer(|_| vec![json!({"type": "auth_error", "message": "no"})]),
        shows: "tidegate_link_disconnects_total{reason=\"denied\"}",
    },
    Mischief {
        what: "never says whether the token is good",
        keys: &[("upstream.token", "\"t\"")],
        play: |talk| talk.answer(|_| Vec::new()),
        shows: "tidegate_link_disconnects_total{reason=\"handshake_timeout\"}",
    },
];

/// An acknowledgement.
fn ack(asked: &Value) -> Value {
    json!({"type": "ack", "id": asked["id"]})
}

/// On a connection that stands.
pub const LIVE: [Mischief; 14] = [
    Mischief {
        what: "talks garbage",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.raw([0xff; 4096])?;
            talk.linger()
        },
        shows: "tidegate_link_disconnects_total{reason=\"protocol\"}",
    },
    Mischief {
        what: "closes when it is asked for something",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.next()?;
            talk.raw(frame(0x88, &1011_u16.to_be_bytes()))
        },
        shows: "tidegate_link_closes_total{code=\"1011\"}",
    },
    Mischief {
        what: "breaks off within a frame",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.next()?;
            talk.raw(b"\x81\x7e\x10\x00only this much")?;
            socket2::SockRef::from(&talk.stream).set_linger(Some(Duration::ZERO)).ok()
        },
        shows: "tidegate_link_disconnects_total{reason=\"reset\"}",
    },
    Mischief {
        what: "wants another connection, always",
        keys: &[],
        play: |talk| talk.answer(|asked| vec![ack(asked), json!({"type": "moved"})]),
        shows: "tidegate_link_disconnects_total{reason=\"told\"}",
    },
    Mischief {
        what: "refuses everything",
        keys: &[],
        play: |talk| talk.answer(|asked| vec![json!({"type": "error", "id": asked["id"], "message": "no"})]),
        shows: "tidegate_interest_refused_total{code=\"upstream_refused\"}",
    },
    Mischief {
        what: "refuses everything for the moment",
        keys: &[],
        play: |talk| {
            talk.answer(|asked| vec![json!({"type": "error", "id": asked["id"], "message": "no", "retry_after": 0})])
        },
        shows: "tidegate_outbox_retries_total",
    },
    Mischief {
        what: "ends every subscription",
        keys: &[],
        play: |talk| talk.answer(|asked| vec![ack(asked), json!({"type": "gone", "channel": asked["channel"]})]),
        shows: "tidegate_feed_gaps_total{reason=\"reconnect\"}",
    },
    Mischief {
        what: "acknowledges nothing",
        keys: &[("interest.ack_timeout", "\"100ms\""), ("outbox.ack_timeout", "\"100ms\"")],
        play: |talk| talk.answer(|_| Vec::new()),
        shows: "tidegate_interest_refused_total{code=\"upstream_timeout\"}",
    },
    Mischief {
        what: "pings without end",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.keep_saying(MILLI, |_| [frame(0x89, b"a"), frame(0x81, b"{\"type\":\"ping\",\"id\":1}")].concat())
        },
        shows: "tidegate_link_frames_in_total",
    },
    Mischief {
        what: "never ends a message",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.raw(frame(0x01, b"{"))?;
            // It does not read pings either.
            talk.socket = None;
            talk.keep_saying(MILLI, |_| frame(0x00, b"").repeat(20))
        },
        shows: "tidegate_link_disconnects_total{reason=\"heartbeat\"}",
    },
    Mischief {
        what: "hears nothing and says nothing",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.linger()
        },
        shows: "tidegate_link_disconnects_total{reason=\"heartbeat\"}",
    },
    Mischief {
        what: "speaks another language",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            talk.keep_saying(MILLI, |n| frame(0x81, format!("{{\"news{}\":{n}}}", n % 50).as_bytes()))
        },
        shows: "tidegate_dialect_unmatched_total",
    },
    Mischief {
        what: "counts with holes",
        keys: &[],
        play: |talk| {
            talk.upgrade()?;
            let first = talk.next()?;
            talk.say(&ack(&first))?;
            talk.keep_saying(Duration::from_millis(5), |n| {
                let event = json!({"type": "event", "channel": "a", "seq": n * 10, "data": n});
                frame(0x81, event.to_string().as_bytes())
            })
        },
        shows: "tidegate_feed_gaps_total{reason=\"upstream_seq\"}",
    },
    Mischief {
        what: "sends messages that are too large",
        keys: &[("upstream.max_frame", "\"64KiB\"")],
        play: |talk| {
            talk.upgrade()?;
            talk.next()?;
            talk.raw(frame(0x81, &vec![b' '; 100_000]))?;
            talk.linger()
        },
        shows: "tidegate_link_disconnects_total{reason=\"oversize\"}",
    },
];

/// Over the transports of HTTP.
pub const HTTP: [Mischief; 5] = [
    Mischief {
        what: "ends its event stream at once",
        keys: &[("upstream.transports", "[\"sse\"]")],
        play: |talk| {
            talk.head()?;
            talk.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 0\n\n")
        },
        shows: "tidegate_link_disconnects_total{reason=\"ended\"}",
    },
    Mischief {
        what: "sends an event stream of one line",
        keys: &[("upstream.transports", "[\"sse\"]")],
        play: |talk| {
            talk.head()?;
            talk.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: ")?;
            talk.keep_saying(MILLI, |_| vec![b'x'; 4_096])
        },
        shows: "tidegate_link_disconnects_total{reason=\"oversize\"}",
    },
    Mischief {
        what: "holds no long-poll",
        keys: &[("upstream.transports", "[\"long-poll\"]")],
        play: |talk| talk.repeat("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"),
        shows: "tidegate_link_hasty_polls_total",
    },
    Mischief {
        what: "holds no long-poll and says something else each time",
        keys: &[("upstream.transports", "[\"long-poll\"]")],
        play: |talk| {
            for n in 100_000.. {
                talk.head()?;
                talk.raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{{\"now\":{n}}}"))?;
            }
            None
        },
        shows: "tidegate_link_hasty_polls_total",
    },
    Mischief {
        what: "fails every poll",
        keys: &[("upstream.transports", "[\"poll\"]")],
        play: |talk| talk.repeat("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"),
        shows: "tidegate_link_disconnects_total{reason=\"bad_status\"}",
    },
];
