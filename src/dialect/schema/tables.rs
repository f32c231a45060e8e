//! `[frame] [limits] [gap] [close]`: from the file to plain values.

use super::document::{Faults, Section};
use crate::dialect::checksum::CHECKSUMS;
use crate::dialect::framing::{FrameKind, Framing, Inflate, MAIN};
use crate::dialect::limits::{CloseTable, GapPolicy, GapScope, Limits, OnGap};
use crate::dialect::units;

/// What is wrong with a `then`.
pub(super) const THEN: &str =
    "expected `retry`, `reject`, `refresh`, `resubscribe`, `reconnect`, `fatal`, or `pause 30s`";

pub(super) fn frame(section: Option<Section<'_>>, faults: &mut Faults) -> Framing {
    let Some(mut frame) = section else { return Framing::default() };
    let kinds = [
        ("json", FrameKind::Json),
        ("ndjson", FrameKind::Ndjson),
        ("rs", FrameKind::Records),
        ("socket.io", FrameKind::SocketIo),
    ];
    let kind = frame.word("kind", &kinds, faults).unwrap_or_default();
    let split = frame.word("array", &[("message", false), ("split", true)], faults).unwrap_or(false);
    let mut namespace = if kind == FrameKind::SocketIo { MAIN } else { "" };
    if let Some(text) = frame.text("namespace", faults) {
        match kind {
            FrameKind::SocketIo if is_namespace(text.value) => namespace = text.value,
            FrameKind::SocketIo => {
                faults.add(text.at, "a namespace begins with `/` and has no comma, like \"/market\"");
            }
            _ => faults.add(text.at, "`namespace` needs `kind = \"socket.io\"`"),
        }
    }
    if split && let (FrameKind::SocketIo, Some(place)) = (kind, frame.take("array")) {
        faults.add(place.at, "every event of Socket.IO is an array: `array = \"split\"` would take it apart");
    }
    let ways = [("gzip", Inflate::Gzip), ("zlib-stream", Inflate::ZlibStream)];
    let inflate = frame.word("inflate", &ways, faults);
    if inflate.is_some()
        && let (FrameKind::SocketIo, Some(place)) = (kind, frame.take("inflate"))
    {
        faults.add(place.at, "binary frames of Socket.IO are attachments: `inflate` has no meaning");
    }
    let head = frame.boolean("head", faults).unwrap_or(false);
    if head
        && kind != FrameKind::Json
        && let Some(place) = frame.take("head")
    {
        faults.add(place.at, "`head` needs `kind = \"json\"`");
    }
    frame.finish(faults);
    Framing { kind, split, namespace: namespace.into(), inflate, head }
}

/// A name that a packet can carry.
fn is_namespace(name: &str) -> bool {
    name.starts_with('/') && name.chars().all(|c| c != ',' && !c.is_control())
}

pub(super) fn limits(section: Option<Section<'_>>, faults: &mut Faults) -> Limits {
    let mut limits = Limits::default();
    let Some(mut section) = section else { return limits };
    if let Some(text) = section.text("rate", faults) {
        limits.rate = units::rate(text.value);
        if limits.rate.is_none() {
            faults.add(text.at, "`rate` must be tokens per time, like \"4/s\" or \"110/60s\"");
        }
    }
    if let Some(text) = section.text("connects", faults) {
        limits.connects = units::rate(text.value);
        if limits.connects.is_none() {
            faults.add(text.at, "`connects` must be connections per time, like \"300/5m\"");
        }
    }
    let burst = section.number("burst", 1, 1_000_000, faults);
    match (&mut limits.rate, burst, section.take("burst")) {
        (Some(rate), Some(burst), _) => rate.burst = burst,
        (None, _, Some(place)) if section.take("rate").is_none() => faults.add(place.at, "`burst` needs `rate`"),
        _ => {}
    }
    if let Some(per_frame) = section.number("per_frame", 1, 100_000, faults) {
        limits.per_frame = usize::try_from(per_frame).unwrap_or(usize::MAX);
    }
    limits.channels = section
        .number("channels", 1, 1_000_000, faults)
        .map(|channels| usize::try_from(channels).unwrap_or(usize::MAX));
    limits.age = duration(&mut section, "age", faults);
    limits.idle = duration(&mut section, "idle", faults);
    limits.ping = duration(&mut section, "ping", faults);
    limits.ping_jitter = section.boolean("ping_jitter", faults).unwrap_or(false);
    limits.counts_control = section.word("counts", &[("all", true), ("messages", false)], faults).unwrap_or(true);
    section.finish(faults);
    limits
}

fn duration(section: &mut Section<'_>, key: &'static str, faults: &mut Faults) -> Option<std::time::Duration> {
    let text = section.text(key, faults)?;
    let duration = units::duration(text.value).filter(|duration| !duration.is_zero());
    if duration.is_none() {
        faults.add(text.at, format!("`{key}` must be a duration, like \"30s\", \"500ms\" or \"23h50m\""));
    }
    duration
}

pub(super) fn gap(section: Option<Section<'_>>, faults: &mut Faults) -> Option<GapPolicy> {
    let mut gap = section?;
    let checksum = gap.word("checksum", &CHECKSUMS, faults);
    let scopes = [("channel", GapScope::Channel), ("connection", GapScope::Connection)];
    let otherwise = checksum.is_none().then_some(GapScope::Channel);
    let scope = gap.word("scope", &scopes, faults).or(otherwise);
    let step = gap.number("step", 1, 1_000_000, faults).unwrap_or(1);
    let thens = [
        ("report", OnGap::Report),
        ("resubscribe", OnGap::Resubscribe),
        ("reconnect", OnGap::Reconnect),
        ("fetch", OnGap::Fetch),
    ];
    let then = gap.word("then", &thens, faults).unwrap_or(OnGap::Report);
    let reorder = duration(&mut gap, "reorder", faults);
    if scope.is_none() {
        for key in ["step", "reorder"] {
            if let Some(place) = gap.take(key) {
                faults.add(place.at, format!("`{key}` is about numbers: it needs `scope`, what they count"));
            }
        }
    }
    if let (Some(_), OnGap::Fetch, Some(place)) = (checksum, then, gap.take("checksum")) {
        faults.add(place.at, "a checksum is over the state that comes on the connection: then = \"resubscribe\"");
    }
    gap.finish(faults);
    Some(GapPolicy { scope, step: u64::from(step), then, reorder, checksum })
}

pub(super) fn close(section: Option<Section<'_>>, faults: &mut Faults) -> CloseTable {
    let mut table = CloseTable::default();
    let Some(mut close) = section else { return table };
    const CODES: &str = "a close code from 1000 to 4999, an HTTP status from 200 to 599, or a range like \"4000-4099\"";
    if let Some(then) = close.take("then") {
        if !then.is_table() {
            faults.add(then.at, "`then` must be a table: \"4000-4099\" = \"fatal\"");
        }
        for (codes, at, meaning) in then.entries() {
            let codes = units::codes(codes);
            if codes.is_none() {
                faults.add(at, format!("expected {CODES}"));
            }
            let then = meaning.text().and_then(|text| units::then(text.value));
            if then.is_none() {
                faults.add(meaning.at, THEN);
            }
            table.then.extend(codes.zip(then));
        }
    }
    if let Some(forget) = close.take("forget") {
        for element in forget.elements().unwrap_or_else(|| vec![forget]) {
            let codes = match (element.integer(), element.text()) {
                (Some(code), _) => units::codes(&code.to_string()),
                (None, Some(text)) => units::codes(text.value),
                (None, None) => None,
            };
            match codes {
                Some(codes) => table.forget.push(codes),
                None => faults.add(element.at, format!("expected {CODES}")),
            }
        }
    }
    if let Some(ours) = close.take("ours") {
        // RFC 6455 section 7.4: 1000 or 3000-4999 are an endpoint's to send.
        match ours.integer().and_then(|code| u16::try_from(code).ok()) {
            Some(code @ (1000 | 1001 | 3000..=4999)) => table.ours = code,
            _ => faults.add(ours.at, "`ours` must be 1000, 1001, or from 3000 to 4999"),
        }
    }
    close.finish(faults);
    table
}

/// A token (RFC 9110 section 5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
