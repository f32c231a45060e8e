//! Rehearsals: a recorded conversation held again by a dialect, without a network.
//!
//! Every frame that came in is received and told in words; for every frame that was sent, the template that makes it is
//! found and filled, and the result must equal the recorded frame, request ids included. A frame that no template makes
//! with any values is *foreign*: somebody else's idea, to be looked at by a person. `dialect test` and the tests of the
//! built-in dialects are made of this.
//!
//! A rehearsal knows a channel by its name alone; the params are those of the last subscribe. Where a dialect's subscribe
//! names no channel, or makes its subscription id of name and params, channels are told apart by params.
//! Deliberately not here: reading files, and what a good outcome is (the caller's).

pub mod explain;
mod line;
pub mod mimic;
mod pattern;
pub mod transcript;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};

pub use self::line::{Line, Verdict};
use self::line::{Names, excerpt, joined, purpose};
use self::pattern::{Pattern, Values};
use self::transcript::{Happening, Step, Transcript};
use super::framing::Sent;
use super::{
    Carried, ChannelId, ChannelSpec, Conversation, Dialect, Equipment, Heard, LoadError, MessageSpec, Outgoing,
    Purpose, WireFrame, Wish,
};
use crate::protocol::request::Secret;
use crate::relay::record::MessageId;
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
        let bind = file.get("send").and_then(|send| send.get("subscribe")?.get("bind")?.get("json")?.as_str());
        let given = bind.and_then(Pattern::new);
        let composed = file.get("channel").and_then(toml::Value::as_str).map(str::to_owned);
        Ok(Self { dialect, patterns, given, composed })
    }

    /// Holds the conversation again: one line for every note, frame, opening and ending, in order.
    pub fn play(&self, transcript: &Transcript) -> Vec<Line> {
        let mut playing =
            Playing { rehearsal: self, attempts: BTreeMap::new(), parked: None, channels: Channels::default() };
        let steps = &transcript.steps;
        steps.iter().enumerate().flat_map(|(at, step)| playing.step(step, &steps[at..])).collect()
    }

    /// The values with which this template makes it, and the request id that its frame tells.
    fn values(&self, send: Send, said: &Said) -> Option<Values> {
        let authenticates = matches!(send, Send::Auth | Send::Resume);
        let connects = said.sent == Sent::Connect || !self.dialect.framing.greets();
        if (authenticates && !connects) || (!authenticates && !matches!(said.sent, Sent::Event(_))) {
            return None;
        }
        let mut values = self.patterns.iter().find(|(of, _)| *of == send)?.1.values(&said.value)?;
        if let Sent::Event(Some(id)) = said.sent {
            values.insert("id".to_owned(), id.into());
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
            let mut values = self.values(Send::Auth, said)?;
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
        let line = |direction, text, verdict| Line {
            at_ms: step.at_ms,
            connection: step.connection.clone(),
            direction,
            text,
            verdict,
        };
        let mut lines = Vec::new();
        let frame = matches!(step.happening, Happening::Came(_) | Happening::Sent(_));
        if step.happening == Happening::Open || (frame && !self.attempts.contains_key(&step.connection)) {
            lines.push(line("open", self.open(step, rest, now), Verdict::Understood));
        }
        lines.extend(match &step.happening {
            Happening::Open | Happening::Elsewhere => None,
            Happening::Note(text) => Some(line("note", text.clone(), Verdict::Understood)),
            Happening::Came(frame) => self.came(&step.connection, frame, now).map(|(text, how)| line("in", text, how)),
            Happening::Sent(frame) => {
                let attachments = self.rehearsal.attachments(frame, step, rest);
                let sent = self.sent(&step.connection, frame, &attachments, now);
                sent.map(|(text, how)| line("out", text, how))
            }
            Happening::Closed { ours, code } => {
                let text = self.closed(&step.connection, *code);
                text.map(|text| line(if *ours { "out" } else { "in" }, text, Verdict::Understood))
            }
            Happening::Rejected(status) => {
                Some(line("in", format!("rejected with HTTP {status}"), Verdict::Understood))
            }
        });
        lines
    }

    fn open(&mut self, step: &Step, rest: &[Step], now: Time) -> String {
        let frames = rest.iter().filter(|later| later.connection == step.connection);
        let auth = frames.filter_map(|later| match &later.happening {
            Happening::Sent(frame) => {
                let said = self.rehearsal.said(frame, &[])?;
                [Send::Auth, Send::Resume].into_iter().find_map(|send| self.rehearsal.values(send, &said))
            }
            _ => None,
        });
        let auth = auth.into_iter().next().unwrap_or_default();
        let token = auth.get("token").and_then(Value::as_str).map(Secret::new);
        let carried = self.parked.take().unwrap_or_else(|| Carried::new(0));
        let mut conversation = Conversation::new(self.rehearsal.dialect.clone(), carried, params(&auth), token);
        // A recording does not show secrets; what is made of them is only held against the recording's form.
        let dialect = &self.rehearsal.dialect;
        let secrets = dialect.secrets().iter().filter(|(_, required)| *required);
        let secrets = secrets.map(|(name, _)| (name.clone(), Secret::new(HIDDEN))).collect();
        conversation.equip(Equipment { secrets, ..Equipment::default() });
        if let Some(id) = request_id(&auth) {
            conversation.renumber(id);
        }
        let mut attempt = Attempt {
            conversation,
            owed: Vec::new(),
            subscribed: Vec::new(),
            shown: request_id(&auth).into_iter().collect(),
            attached: 0,
        };
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
        let made = sent(self.rehearsal, attempt, &mut self.channels, frame, attachments, now);
        attempt.attached = if made.is_some() { attachments.len() } else { 0 };
        Some(made.unwrap_or_else(|| (format!("foreign {}", excerpt(bytes(frame))), Verdict::Foreign)))
    }

    fn closed(&mut self, connection: &str, code: Option<u16>) -> Option<String> {
        let Some(code) = code else {
            return Some("cut".to_owned());
        };
        let attempt = self.attempts.remove(connection)?;
        let dialect = &self.rehearsal.dialect;
        self.parked = Some(attempt.conversation.into_carried(dialect.forgets_on_close(code)));
        let then = dialect.on_close(code).map(|then| format!(" then={}", line::then(then)));
        Some(format!("close {code}{}", then.unwrap_or_default()))
    }
}

fn bytes(frame: &WireFrame) -> &[u8] {
    frame.body()
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

/// What a recorded outbound frame was, in words; `None`: foreign. A resubscribe that asks for what was missed by other
/// variables than ours is foreign too, but its answer is heard as a resubscribe's.
fn sent(
    rehearsal: &Rehearsal,
    attempt: &mut Attempt,
    channels: &mut Channels,
    frame: &WireFrame,
    attachments: &[Bytes],
    now: Time,
) -> Option<(String, Verdict)> {
    let recorded = rehearsal.said(frame, attachments);
    let is_it = |owed: &Outgoing| {
        let ours = rehearsal.said(&owed.frame, &owed.attachments);
        owed.frame == *frame
            || recorded.as_ref().zip(ours.as_ref()).is_some_and(|(recorded, ours)| {
                recorded == ours || owed.purpose == Purpose::Auth && rehearsal.signed_alike(recorded, ours)
            })
    };
    if let Some(at) = attempt.owed.iter().position(is_it) {
        let owed = attempt.owed.remove(at);
        return Some((purpose(&owed.purpose, channels), Verdict::Understood));
    }
    let recorded = recorded?;
    for send in TRIED {
        let Some(values) = rehearsal.values(send, &recorded) else { continue };
        // On copies: a wrong guess must leave no trace.
        let mut known = channels.clone();
        for about in candidates(rehearsal, attempt, &mut known, send, &values) {
            let mut conversation = attempt.conversation.clone();
            if let Some(id) = request_id(&values) {
                conversation.renumber(id);
            }
            conversation.supply_shown(|name| values.get(name).map(Value::to_string));
            let outgoing = speak(&mut conversation, send, &values, &known.specs(&about), now);
            let made = outgoing.and_then(|outgoing| rehearsal.said(&outgoing.frame, &outgoing.attachments));
            let equal = made.as_ref() == Some(&recorded);
            let resembles = send == Send::Resubscribe && made.is_some();
            if equal || resembles {
                conversation.continue_frames_of(&mut attempt.conversation);
                attempt.conversation = conversation;
                attempt.shown.extend(request_id(&values));
                if let Send::Subscribe | Send::Resubscribe = send {
                    attempt.subscribed.extend(&about);
                }
                *channels = known;
                let said = said(send, &values, &about, channels);
                return Some(match made.filter(|_| !equal) {
                    None => (said, Verdict::Understood),
                    Some(ours) => {
                        let ours = excerpt(ours.value.to_string().as_bytes());
                        (format!("foreign {}, {said} would be {ours}", excerpt(bytes(frame))), Verdict::Foreign)
                    }
                });
            }
        }
    }
    None
}

/// The sets of channels that this frame may be about, best guess first.
fn candidates(
    rehearsal: &Rehearsal,
    attempt: &Attempt,
    channels: &mut Channels,
    send: Send,
    values: &Values,
) -> Vec<Vec<ChannelId>> {
    let names = rehearsal.names(values);
    match send {
        // Only what was live before is asked for again.
        Send::Resubscribe if !names.iter().flatten().all(|name| channels.knows(name)) => Vec::new(),
        Send::Subscribe | Send::Resubscribe => {
            let params = params(values);
            let params = (!params.is_empty()).then(|| Value::Object(params).to_string());
            let names = names.unwrap_or_else(|| vec![channels.name_by_params(params.as_deref())]);
            vec![names.iter().map(|name| channels.set(name, params.clone(), rehearsal.given.is_some())).collect()]
        }
        Send::Unsubscribe | Send::Publish if names.is_none() && values.contains_key("sub") => {
            attempt.subscribed.iter().rev().map(|channel| vec![*channel]).collect()
        }
        Send::Unsubscribe => {
            let names = names.unwrap_or_default();
            vec![names.iter().filter_map(|name| subscribed(attempt, channels, name)).collect()]
        }
        Send::Publish | Send::State => {
            let name = names.and_then(|names| names.into_iter().next()).unwrap_or_else(|| "-".to_owned());
            let known = subscribed(attempt, channels, &name);
            vec![vec![known.unwrap_or_else(|| channels.set(&name, None, false))]]
        }
        Send::Auth | Send::Resume | Send::Ping | Send::Renew | Send::Audit => vec![Vec::new()],
    }
}

fn subscribed(attempt: &Attempt, channels: &Channels, name: &str) -> Option<ChannelId> {
    attempt.subscribed.iter().rev().copied().find(|channel| channels.name(*channel) == name)
}

/// Lets the conversation say what the values mean.
fn speak(
    conversation: &mut Conversation,
    send: Send,
    values: &Values,
    channels: &[ChannelSpec<'_>],
    now: Time,
) -> Option<Outgoing> {
    match send {
        Send::Subscribe => conversation.subscribe(now, channels, false).ok(),
        Send::Resubscribe => conversation.subscribe(now, channels, true).ok(),
        Send::Unsubscribe => conversation.unsubscribe(now, channels).ok().flatten(),
        Send::Ping => conversation.ping(now),
        Send::Audit => conversation.audit(now).ok(),
        Send::State => {
            let wish = Wish { key: values.get("key").and_then(Value::as_str), missing: None };
            conversation.state(now, channels.first()?, wish).ok()
        }
        Send::Renew => conversation.renew(now, Secret::new(values.get("token")?.as_str()?)).ok(),
        Send::Publish => {
            let text = |name: &str| values.get(name).and_then(Value::as_str);
            let data = values.get("data").map_or_else(|| "null".to_owned(), Value::to_string);
            let channel = channels.first()?;
            let message = MessageSpec {
                id: MessageId(u128::from(now.mono.0)),
                channel: channel.name,
                params: channel.params,
                key: text("key"),
                kind: text("type"),
                data: &data,
                idempotency_key: text("idempotency_key"),
            };
            conversation.publish(now, &message).ok()
        }
        Send::Auth | Send::Resume => None,
    }
}

fn said(send: Send, values: &Values, about: &[ChannelId], channels: &Channels) -> String {
    let mut words = send.key().to_owned();
    if let Some(id) = request_id(values) {
        words += &format!(" #{id}");
    }
    for spec in channels.specs(about) {
        words += &format!(" {}", spec.name);
    }
    let params = channels.specs(about).first().and_then(|spec| spec.params);
    if let (Some(params), Send::Subscribe | Send::Resubscribe) = (params, send) {
        words += &format!(" params={}", excerpt(params.as_bytes()));
    }
    if let Send::Publish | Send::State = send {
        for name in if send == Send::State { &["key"][..] } else { &["type", "data"] } {
            if let Some(value) = values.get(*name) {
                words += &format!(" {name}={}", excerpt(value.to_string().as_bytes()));
            }
        }
    }
    words
}
