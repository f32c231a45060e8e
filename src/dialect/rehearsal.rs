//! Rehearsals: a recorded conversation held again by a dialect, without a network.
//!
//! Every frame that came in is received and told in words; for every frame that was sent, the template that makes it is
//! found and filled, and the result must equal the recorded frame, request ids included. A frame that no template makes
//! with any values is *foreign*: somebody else's idea, to be looked at by a person. `dialect test` and the tests of the
//! built-in dialects are made of this.
//!
//! Over other transports than WebSocket the same is done with the request of an event stream, its bytes, polls and their
//! answers, and what leaves by POST (`asked`): what the recorded address tells of channels and params is read backwards, and
//! the conversation's own request must be the recorded one.
//!
//! A rehearsal knows a channel by its name alone; the params are those of the last subscribe. Where a dialect's subscribe
//! names no channel, or makes its subscription id of name and params, channels are told apart by params.
//! Deliberately not here: reading files, and what a good outcome is (the caller's).

mod address;
mod asked;
pub mod explain;
mod line;
pub mod mimic;
mod pattern;
mod sent;
pub mod transcript;

#[cfg(test)]
mod asked_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};

use self::address::AddressPattern;
pub use self::address::{fits, resembles};
use self::asked::Http;
pub use self::line::{Line, Verdict};
use self::line::{Names, joined};
use self::pattern::{Pattern, Values};
use self::sent::{Recorded, sent};
use self::transcript::{Call, Happening, Step, Transcript};
use super::framing::Sent;
use super::{
    Carried, ChannelId, ChannelSpec, Conversation, Dialect, Equipment, Heard, LoadError, Outgoing, Transport, WireFrame,
};
use crate::protocol::request::Secret;
use crate::relay::redact::HIDDEN;
use crate::relay::time::{Mono, Time, Wall};

/// When every rehearsal begins: 2026-01-01T00:00:00Z.
const BEGIN: Time = Time { mono: Mono(0), wall: Wall(1_767_225_600_000_000_000) };

/// What templates are for, in the order in which they are tried. `auth` and `pong` are not: the conversation says itself
/// when they are due. `publish` comes last because its pattern is often the most generous.
const TRIED: [Send; 8] = [
    Send::Resubscribe,
    Send::Subscribe,
    Send::Unsubscribe,
    Send::Ping,
    Send::Renew,
    Send::Audit,
    Send::State,
    Send::Publish,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Send {
    Auth,
    Resume,
    Subscribe,
    Resubscribe,
    Unsubscribe,
    Ping,
    Renew,
    Audit,
    State,
    Publish,
}

impl Send {
    /// Its key in `[send]`.
    fn key(self) -> &'static str {
        match self {
            Send::Auth => "auth",
            Send::Resume => "resume",
            Send::Subscribe => "subscribe",
            Send::Resubscribe => "resubscribe",
            Send::Unsubscribe => "unsubscribe",
            Send::Ping => "ping",
            Send::Renew => "renew",
            Send::Audit => "audit",
            Send::State => "state",
            Send::Publish => "publish",
        }
    }
}

/// A dialect, ready to hold recorded conversations again.
#[derive(Debug)]
pub struct Rehearsal {
    dialect: Arc<Dialect>,
    patterns: Vec<(Send, Pattern)>,
    /// Where it is sent by POST.
    posts: Vec<(Send, String)>,
    addresses: BTreeMap<Transport, AddressPattern>,
    /// Of the subscription id that a subscribe gives itself, where that is the text of some JSON.
    given: Option<Pattern>,
    /// `channel = "{feed}:{symbol}"`.
    composed: Option<String>,
}

impl Rehearsal {
    /// With the dialect of this text; `origin` names it in errors. All errors at once.
    pub fn new(origin: &str, text: &str) -> Result<Self, Vec<LoadError>> {
        let dialect = Arc::new(Dialect::parse(origin, text)?);
        // What a dialect was loaded from is TOML.
        let file: toml::Table = text.parse().unwrap_or_default();
        let template = |key: &str| match file.get("send")?.get(key)? {
            toml::Value::Table(table) => table.get("json").or(table.get("text"))?.as_str(),
            value => value.as_str(),
        };
        let pattern = |send: Send| Some((send, Pattern::new(template(send.key())?)?));
        let patterns = [Send::Auth, Send::Resume].into_iter().chain(TRIED).filter_map(pattern).collect();
        let post = |send: Send| Some((send, file.get("send")?.get(send.key())?.get("post")?.as_str()?.to_owned()));
        let posts = [Send::Auth, Send::Resume].into_iter().chain(TRIED).filter_map(post).collect();
        let addresses = Transport::ALL.into_iter().map(|transport| (transport, AddressPattern::of(&file, transport)));
        let addresses = addresses.collect();
        let bind = file.get("send").and_then(|send| send.get("subscribe")?.get("bind")?.get("json")?.as_str());
        let given = bind.and_then(Pattern::new);
        let composed = file.get("channel").and_then(toml::Value::as_str).map(str::to_owned);
        Ok(Self { dialect, patterns, posts, addresses, given, composed })
    }

    /// Holds the conversation again: one line for every note, frame, opening and ending, in order.
    pub fn play(&self, transcript: &Transcript) -> Vec<Line> {
        let mut playing =
            Playing { rehearsal: self, attempts: BTreeMap::new(), parked: None, channels: Channels::default() };
        let steps = &transcript.steps;
        steps.iter().enumerate().flat_map(|(at, step)| playing.step(step, &steps[at..])).collect()
    }

    /// The values with which this template makes it, the request id that its frame tells, and what the address says where it
    /// left by POST.
    fn values(&self, send: Send, said: &Said, call: Option<&Call>) -> Option<Values> {
        let authenticates = matches!(send, Send::Auth | Send::Resume);
        let connects = said.sent == Sent::Connect || !self.dialect.framing.greets();
        if (authenticates && !connects) || (!authenticates && !matches!(said.sent, Sent::Event(_))) {
            return None;
        }
        let mut values = self.patterns.iter().find(|(of, _)| *of == send)?.1.values(&said.value)?;
        if let Sent::Event(Some(id)) = said.sent {
            values.insert("id".to_owned(), id.into());
        }
        if let Some((call, (_, post))) = call.zip(self.posts.iter().find(|(of, _)| *of == send)) {
            values.extend(address::path_values(post, &call.url).unwrap_or_default());
        }
        if let (Send::Subscribe, Some(given)) = (send, &self.given) {
            let sub: Value = serde_json::from_str(values.get("sub")?.as_str()?).ok()?;
            values.extend(given.values(&sub)?);
        }
        Some(values)
    }

    /// What was rendered to make this frame, which these attachments follow.
    fn said(&self, frame: &WireFrame, attachments: &[Bytes]) -> Option<Said> {
        let (sent, text) = self.dialect.framing.unwrap(frame, attachments)?;
        Some(Said { sent, value: serde_json::from_slice(&text).ok()? })
    }

    /// The attachments that follow this frame in what is still to come of its connection.
    fn attachments(&self, frame: &WireFrame, step: &Step, rest: &[Step]) -> Vec<Bytes> {
        let sent = rest.iter().skip(1).filter_map(|later| match &later.happening {
            Happening::Sent(frame) if later.connection == step.connection => Some(frame),
            _ => None,
        });
        let attachments = sent.map_while(|frame| match frame {
            WireFrame::Binary(data) => Some(data.clone()),
            _ => None,
        });
        attachments.take(self.dialect.framing.announces(frame)).collect()
    }

    /// Whether both were made by the template that authenticates, from values that differ in time, secrets and
    /// signatures alone.
    fn signed_alike(&self, recorded: &Said, ours: &Said) -> bool {
        let steady = |said: &Said| {
            let mut values = self.values(Send::Auth, said, None)?;
            values.retain(|name, _| !["now", "secret.", "sign."].iter().any(|start| name.starts_with(start)));
            Some(values)
        };
        steady(recorded).is_some_and(|recorded| steady(ours) == Some(recorded))
    }

    /// The channel names among the values: `channel`, or the parts that compose one; either may be a list. A part that the
    /// frame leaves out stands there by its name.
    fn names(&self, values: &Values) -> Option<Vec<String>> {
        if let Some(channel) = values.get("channel") {
            return Some(texts(channel));
        }
        let composed = self.composed.clone()?;
        let mut names = vec![composed.clone()];
        for (part, value) in values {
            let hole = format!("{{{part}}}");
            if names.iter().any(|name| name.contains(&hole)) {
                let texts = texts(value);
                names = names.iter().flat_map(|name| texts.iter().map(|text| name.replace(&hole, text))).collect();
            }
        }
        let told = names.iter().all(|name| *name != composed);
        told.then(|| names.iter().map(|name| name.replace(['{', '}'], "")).collect())
    }
}

/// A string, a list of strings, or other values as JSON text.
fn texts(value: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    value.as_array().map_or_else(|| vec![text(value)], |list| list.iter().map(text).collect())
}

/// The params among the values: `params` itself, and those named one by one.
fn params(values: &Values) -> Map<String, Value> {
    let mut params = values.get("params").and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, value) in values {
        if let Some(name) = name.strip_prefix("params/").filter(|_| !value.is_null()) {
            params.insert(name.replace("~1", "/").replace("~0", "~"), value.clone());
        }
    }
    params
}

fn request_id(values: &Values) -> Option<u64> {
    match values.get("id")? {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    }
}

/// A frame that was sent, out of its framing.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    sent: Sent,
    value: Value,
}

/// The channels of a rehearsal: name and the params of the last subscribe.
#[derive(Debug, Clone, Default)]
struct Channels(Vec<(String, Option<String>)>);

impl Channels {
    /// `apart`: other params make another channel.
    fn set(&mut self, name: &str, params: Option<String>, apart: bool) -> ChannelId {
        let same = |(known, had): &(String, Option<String>)| known == name && (!apart || *had == params);
        let at = self.0.iter().position(same).unwrap_or_else(|| {
            self.0.push((name.to_owned(), None));
            self.0.len() - 1
        });
        self.0[at].1 = params;
        id(at)
    }

    fn knows(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    fn spec(&self, channel: ChannelId) -> Option<ChannelSpec<'_>> {
        let (name, params) = self.0.get(usize::try_from(channel.0).ok()?)?;
        Some(ChannelSpec { id: channel, name, params: params.as_deref() })
    }

    fn specs(&self, channels: &[ChannelId]) -> Vec<ChannelSpec<'_>> {
        channels.iter().filter_map(|channel| self.spec(*channel)).collect()
    }

    /// A name for a channel that its frame does not name.
    fn name_by_params(&self, params: Option<&str>) -> String {
        let known = self.0.iter().find(|(name, known)| name.starts_with("channel-") && known.as_deref() == params);
        known.map_or_else(|| format!("channel-{}", self.0.len() + 1), |(name, _)| name.clone())
    }
}

fn id(at: usize) -> ChannelId {
    ChannelId(u32::try_from(at).unwrap_or(u32::MAX))
}

impl Names for Channels {
    fn name(&self, channel: ChannelId) -> &str {
        self.spec(channel).map_or("?", |spec| spec.name)
    }
}

/// One connection of the recording.
#[derive(Debug)]
struct Attempt {
    conversation: Conversation,
    /// What the conversation wanted sent and the recording has not sent yet.
    owed: Vec<Outgoing>,
    /// Channels that were subscribed here.
    subscribed: Vec<ChannelId>,
    /// Request ids that the recording shows.
    shown: BTreeSet<u64>,
    /// Attachments of the packet that was sent last, which are still to come.
    attached: usize,
    /// What passes by HTTP, where that is how the connection is carried.
    http: Option<Http>,
}

struct Playing<'a> {
    rehearsal: &'a Rehearsal,
    attempts: BTreeMap<String, Attempt>,
    /// What the last attempt that ended left to the next.
    parked: Option<Carried>,
    channels: Channels,
}

impl Playing<'_> {
    /// The lines of one step; a recording that does not say that a connection is open begins with its first frame.
    fn step(&mut self, step: &Step, rest: &[Step]) -> Vec<Line> {
        let now = BEGIN.after(Duration::from_millis(step.at_ms));
        let line = |direction, (text, verdict): (String, Verdict)| Line {
            line: step.line,
            at_ms: step.at_ms,
            connection: step.connection.clone(),
            direction,
            text,
            verdict,
        };
        let known = |text| (text, Verdict::Understood);
        let connection = &*step.connection;
        let mut lines = Vec::new();
        let opens = match &step.happening {
            Happening::Open => true,
            Happening::StreamOpen => self.attempts.contains_key(connection),
            Happening::Came(_) | Happening::Sent(_) => !self.attempts.contains_key(connection),
            _ => false,
        };
        if opens {
            lines.push(line("open", known(self.open(step, rest, now))));
        }
        lines.extend(match &step.happening {
            Happening::Open | Happening::StreamOpen | Happening::Elsewhere => None,
            Happening::Note(text) => Some(line("note", known(text.clone()))),
            Happening::Came(frame) => self.came(connection, frame, now).map(|told| line("in", told)),
            Happening::Sent(frame) => {
                let attachments = self.rehearsal.attachments(frame, step, rest);
                self.sent(connection, frame, &attachments, now).map(|told| line("out", told))
            }
            Happening::Connecting(transport, call) => {
                Some(line("out", self.connecting(step, rest, (*transport, call))))
            }
            Happening::Asked(call) => self.asked(connection, call, now).map(|told| line("out", told)),
            Happening::Answered(reply) => self.answered(connection, reply, now).map(|told| line("in", told)),
            Happening::Chunk(bytes) => self.chunk(connection, bytes, now).map(|told| line("in", told)),
            Happening::Closed { ours, code } => {
                let text = self.closed(connection, *code);
                text.map(|text| line(if *ours { "out" } else { "in" }, known(text)))
            }
            Happening::Rejected(status) => {
                self.park(connection, Some(*status));
                Some(line("in", known(format!("rejected with HTTP {status}"))))
            }
        });
        lines
    }

    /// A conversation for this connection. `told`: what its address says.
    fn begin(&mut self, step: &Step, rest: &[Step], told: Values) -> Attempt {
        let later = rest.iter().filter(|later| later.connection == step.connection);
        let mut auth = later.filter_map(|later| {
            let (said, call) = match &later.happening {
                Happening::Sent(frame) => (self.rehearsal.said(frame, &[])?, None),
                Happening::Asked(call) => (self.rehearsal.said(&WireFrame::Text(call.body.clone()), &[])?, Some(call)),
                _ => return None,
            };
            [Send::Auth, Send::Resume].into_iter().find_map(|send| self.rehearsal.values(send, &said, call))
        });
        let mut auth = auth.next().unwrap_or_default();
        for (name, value) in told {
            auth.entry(name).or_insert(value);
        }
        let token = auth.get("token").and_then(Value::as_str).map(Secret::new);
        let carried = self.parked.take().unwrap_or_else(|| self.beside());
        let mut conversation = Conversation::new(self.rehearsal.dialect.clone(), carried, params(&auth), token);
        // A recording does not show secrets; what is made of them is only held against the recording's form.
        let dialect = &self.rehearsal.dialect;
        let secrets = dialect.secrets().iter().filter(|(_, required)| *required);
        let secrets = secrets.map(|(name, _)| (name.clone(), Secret::new(HIDDEN))).collect();
        conversation.equip(Equipment { secrets, ..Equipment::default() });
        conversation.supply_shown(|name| auth.get(name).map(Value::to_string));
        if let Some(id) = request_id(&auth) {
            conversation.renumber(id);
        }
        let shown = request_id(&auth).into_iter().collect();
        Attempt { conversation, owed: Vec::new(), subscribed: Vec::new(), shown, attached: 0, http: None }
    }

    /// What a connection begins with that none has ended before: where another one serves by HTTP, it is to take its place.
    fn beside(&self) -> Carried {
        let serving = self.attempts.values().rev().find(|attempt| attempt.http.is_some());
        serving.map_or_else(|| Carried::new(0), |attempt| attempt.conversation.carried(0))
    }

    fn open(&mut self, step: &Step, rest: &[Step], now: Time) -> String {
        let begun = self.attempts.remove(&step.connection);
        let mut attempt = begun.unwrap_or_else(|| self.begin(step, rest, Values::new()));
        let (text, _) = attempt.hear(&self.channels, |conversation, heard| conversation.opened(now, heard));
        self.attempts.insert(step.connection.clone(), attempt);
        text
    }

    fn came(&mut self, connection: &str, frame: &WireFrame, now: Time) -> Option<(String, Verdict)> {
        let attempt = self.attempts.get_mut(connection)?;
        Some(attempt.hear(&self.channels, |conversation, heard| conversation.receive(now, frame, heard)))
    }

    fn sent(
        &mut self,
        connection: &str,
        frame: &WireFrame,
        attachments: &[Bytes],
        now: Time,
    ) -> Option<(String, Verdict)> {
        let attempt = self.attempts.get_mut(connection)?;
        if attempt.attached > 0 && matches!(frame, WireFrame::Binary(_)) {
            attempt.attached -= 1;
            return Some(("attachment".to_owned(), Verdict::Understood));
        }
        if let Some(words) = asked::moved(attempt, frame) {
            return Some((words.to_owned(), Verdict::Understood));
        }
        let recorded = Recorded { frame, attachments, call: None };
        let made = sent(self.rehearsal, attempt, &mut self.channels, recorded, now);
        attempt.attached = if made.is_known() { attachments.len() } else { 0 };
        Some((made.words, made.verdict))
    }

    fn closed(&mut self, connection: &str, code: Option<u16>) -> Option<String> {
        let by_http = self.attempts.get(connection).is_some_and(|attempt| attempt.http.is_some());
        let Some(code) = code else {
            if by_http {
                self.park(connection, None);
            }
            return Some("cut".to_owned());
        };
        self.attempts.get(connection)?;
        self.park(connection, Some(code));
        let then = self.rehearsal.dialect.on_close(code).map(|then| format!(" then={}", line::then(then)));
        Some(format!("close {code}{}", then.unwrap_or_default()))
    }

    /// The connection is over: what it leaves to the next.
    fn park(&mut self, connection: &str, code: Option<u16>) {
        if let Some(attempt) = self.attempts.remove(connection) {
            let forget = code.is_some_and(|code| self.rehearsal.dialect.forgets_on_close(code));
            self.parked = Some(attempt.conversation.into_carried(forget));
        }
    }
}

impl Attempt {
    /// Lets the conversation speak and puts what it tells into words.
    fn hear(
        &mut self,
        names: &Channels,
        speak: impl FnOnce(&mut Conversation, &mut dyn FnMut(Heard<'_>)),
    ) -> (String, Verdict) {
        let Attempt { conversation, owed, shown, .. } = self;
        let before = conversation.timing();
        let mut words = Vec::new();
        let mut verdict = Verdict::Understood;
        speak(conversation, &mut |heard| {
            if let Heard::Unmatched
            | Heard::Unextracted(_)
            | Heard::Malformed
            | Heard::Broken(_)
            | Heard::Mismatched { .. } = &heard
            {
                verdict = Verdict::Puzzling;
            }
            words.push(line::heard(&heard, names, &|id| shown.contains(&id.0)));
            if let Heard::Send(outgoing) = heard {
                owed.push(outgoing);
            }
        });
        if conversation.timing() != before {
            words.push(line::timing(&conversation.timing()));
        }
        (joined(&words), verdict)
    }
}
