//! What was heard, in words: one line a step, made to be read and compared.
//!
//! Deliberately not here: secrets are not hidden; a transcript that holds some is its owner's affair.

use std::fmt;
use std::time::Duration;

use crate::dialect::{ChannelId, Event, Fold, Heard, Purpose, RequestId, Role, Target, Then, Timing};

/// Longer payloads are shown by their beginning and length.
const SHOWN: usize = 100;

/// Where channel numbers get their names.
pub(super) trait Names {
    fn name(&self, channel: ChannelId) -> &str;
}

/// One step of a rehearsal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The line of the recording, from 1.
    pub line: usize,
    /// Milliseconds since the recording began.
    pub at_ms: u64,
    /// Which connection.
    pub connection: String,
    /// `open`, `in`, `out` or `note`.
    pub direction: &'static str,
    /// What it was.
    pub text: String,
    /// Whether the dialect knew what to do with it.
    pub verdict: Verdict,
}

/// How well the dialect fits a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It knew it.
    Understood,
    /// An outbound frame that none of its templates makes.
    Foreign,
    /// An inbound frame with a message that no rule matches, that lacks what its rule needs, that is malformed, or whose
    /// checksum is not that of the state.
    Puzzling,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.direction {
            "note" => write!(f, "# {}", self.text),
            direction => write!(f, "{} {} {direction} {}", self.connection, self.at_ms, self.text),
        }
    }
}

/// The words of one frame.
pub(super) fn joined(words: &[String]) -> String {
    if words.is_empty() { "-".to_owned() } else { words.join(" | ") }
}

/// The beginning of a payload.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().map(visible).collect();
    if text.chars().count() <= SHOWN {
        return text;
    }
    let begin: String = text.chars().take(SHOWN).collect();
    format!("{begin}... ({} bytes)", bytes.len())
}

/// Control characters as their escapes.
fn visible(c: char) -> String {
    if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
}

/// Text of upstream's: in quotes where it would not be one word.
fn word(text: &str) -> String {
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) { format!("{text:?}") } else { text.to_owned() }
}

/// Intervals that upstream has set.
pub(super) fn timing(timing: &Timing) -> String {
    let seconds = |time: Option<Duration>| time.map(|time| format!("{}s", time.as_secs_f64()));
    let words = Words::new("now").and("ping", seconds(timing.ping)).and("idle", seconds(timing.idle));
    words.and("token", seconds(timing.token_ttl)).0
}

/// What a [`Then`] is called in a dialect.
pub(super) fn then(then: Then) -> String {
    match then {
        Then::Retry => "retry".to_owned(),
        Then::Reject => "reject".to_owned(),
        Then::Refresh => "refresh".to_owned(),
        Then::Resubscribe => "resubscribe".to_owned(),
        Then::Reconnect => "reconnect".to_owned(),
        Then::Fatal => "fatal".to_owned(),
        Then::Pause(time) => format!("pause {}s", time.as_secs()),
    }
}

/// What a request is for.
pub(super) fn purpose(purpose: &Purpose, names: &dyn Names) -> String {
    let list = |word: &str, channels: &[ChannelId]| {
        channels.iter().fold(word.to_owned(), |words, channel| format!("{words} {}", names.name(*channel)))
    };
    match purpose {
        Purpose::Auth => "auth".to_owned(),
        Purpose::Subscribe(channels) => list("subscribe", channels),
        Purpose::Unsubscribe(channels) => list("unsubscribe", channels),
        Purpose::Publish(_) => "publish".to_owned(),
        Purpose::State(channel, key) => {
            let words = list("state", std::slice::from_ref(channel));
            key.as_ref().map_or(words.clone(), |key| format!("{words} key={}", word(key)))
        }
        Purpose::Audit => "audit".to_owned(),
        Purpose::Ping => "ping".to_owned(),
        Purpose::Reply => "reply".to_owned(),
        Purpose::Poll => "poll".to_owned(),
    }
}

/// A word and what belongs to it: ` name=value` for each thing that is there.
struct Words(String);

impl Words {
    fn new(word: impl Into<String>) -> Self {
        Words(word.into())
    }

    fn and(mut self, name: &str, value: Option<impl fmt::Display>) -> Self {
        if let Some(value) = value {
            self.0 += &format!(" {name}={value}");
        }
        self
    }

    fn bare(mut self, value: Option<impl fmt::Display>) -> Self {
        if let Some(value) = value {
            self.0 += &format!(" {value}");
        }
        self
    }
}

/// What was heard. `shown`: whether the recording shows this request id.
pub(super) fn heard(heard: &Heard<'_>, names: &dyn Names, shown: &dyn Fn(RequestId) -> bool) -> String {
    let id = |request: RequestId| shown(request).then(|| format!("#{}", request.0));
    let quoted = |text: &Option<std::borrow::Cow<'_, str>>| text.as_ref().map(|text| format!("{text:?}"));
    let words = match heard {
        Heard::Event(event) => return self::event(event, names),
        Heard::Acked { request, purpose, data } => Words::new("ack")
            .bare(request.and_then(id))
            .bare(Some(request.map_or_else(|| "of nothing".to_owned(), |_| self::purpose(purpose, names))))
            .and("data", data.as_ref().map(|data| excerpt(data))),
        Heard::Refused { about, target, code, message, then, retry_after } => Words::new("error")
            .bare(about.as_ref().and_then(|(request, _)| id(*request)))
            .bare(about.as_ref().map(|(_, purpose)| self::purpose(purpose, names)))
            .and("channel", target.map(|target| self::target(target, names)))
            .and("code", code.as_ref().map(|code| word(code)))
            .and("message", quoted(message))
            .and("then", then.map(self::then))
            .and("retry_after", retry_after.map(|time| format!("{}ms", time.as_millis()))),
        Heard::Ready { resumed } => Words::new("ready").bare(resumed.then_some("resumed")),
        Heard::Denied { message, then } => {
            Words::new("denied").and("message", quoted(message)).and("then", then.map(self::then))
        }
        Heard::Gone { target, code, message, then } => Words::new("gone")
            .bare(Some(self::target(*target, names)))
            .and("code", code.as_ref().map(|code| word(code)))
            .and("message", quoted(message))
            .and("then", then.map(self::then)),
        Heard::Unproven => Words::new("unproven"),
        Heard::Unseen => Words::new("unseen"),
        Heard::Lost { target, oversize } => {
            Words::new(if *oversize { "cut" } else { "lost" }).bare(Some(self::target(*target, names)))
        }
        Heard::Subscriptions { request, names, whole } => Words::new("subscriptions")
            .bare(request.and_then(id))
            .bare((!names.is_empty()).then(|| excerpt(names.join(" ").as_bytes())))
            .bare((!whole).then_some("and more")),
        Heard::Mismatched { target, .. } => Words::new("mismatched").bare(Some(self::target(*target, names))),
        Heard::Reconnect { retry_after } => {
            Words::new("reconnect").and("retry_after", retry_after.map(|time| format!("{}ms", time.as_millis())))
        }
        Heard::Pong { request } => Words::new("pong").bare(request.and_then(id)),
        Heard::Send(outgoing) => Words::new("send").bare(Some(excerpt(outgoing.frame.body()))),
        Heard::PollFailed { status, detail, .. } => {
            Words::new("poll failed").bare(Some(status)).and("message", Some(format!("{detail:?}")))
        }
        Heard::Hasty => Words::new("hasty"),
        Heard::Ignored => Words::new("ignored"),
        Heard::Numbered(_, last) => Words::new("numbered").and("seq", Some(last)),
        Heard::Skipped(what, count) => Words::new("skipped").bare(Some(what.word())).and("count", Some(count)),
        Heard::Unmatched => Words::new("unmatched"),
        Heard::Unextracted(rule) => Words::new(format!("unextracted, rule {}", rule + 1)),
        Heard::Malformed => Words::new("malformed"),
        Heard::Broken(why) => Words::new("broken").and("why", Some(format!("{why:?}"))),
        Heard::Closed => Words::new("closed"),
        Heard::Probed { good } => Words::new(if *good { "probed" } else { "probed in vain" }),
    };
    words.0
}

fn target(target: Target<'_>, names: &dyn Names) -> String {
    match target {
        Target::Name(name) => name.to_owned(),
        Target::Channel(channel) => names.name(channel).to_owned(),
    }
}

fn event(event: &Event<'_>, names: &dyn Names) -> String {
    let role = match event.role {
        Role::Event => "event",
        Role::Snapshot => "snapshot",
        Role::SnapshotPart => "snapshot-part",
    };
    let sequence =
        event.sequence.map(|(first, last)| if first == last { first.to_string() } else { format!("{first}..{last}") });
    let words = Words::new(role)
        .bare(Some(target(event.target, names)))
        .and("key", event.key.as_ref().map(|key| word(key)))
        .and("type", event.kind.as_ref().map(|kind| word(kind)))
        .and("id", event.id.as_ref().map(|id| word(id)))
        .and("seq", sequence)
        .and("ts", event.source_time.map(|time| time.rfc3339()))
        .bare((event.fold == Fold::Append).then_some("append"))
        .and("data", Some(excerpt(&event.data)));
    words.0
}
