//! What a recorded frame was that we sent: the template that makes it, and with which values.
//!
//! A guess is right if rendering it again gives the recorded frame. Deliberately not here: polls (`asked`), and what comes in.

use bytes::Bytes;
use serde_json::Value;

use super::address::{of_ask, same, shown};
use super::line::{Names, Verdict, excerpt, purpose};
use super::pattern::Values;
use super::transcript::Call;
use super::{Attempt, Channels, Rehearsal, Said, Send, TRIED, params, request_id};
use crate::dialect::{
    ChannelId, ChannelSpec, Conversation, MessageSpec, Outgoing, Purpose, RequestId, WireFrame, Wish,
};
use crate::protocol::request::Secret;
use crate::relay::record::MessageId;
use crate::relay::time::Time;

/// A recorded outbound frame, its attachments, and the request that carried it where that was not the connection itself.
#[derive(Clone, Copy)]
pub(super) struct Recorded<'a> {
    pub(super) frame: &'a WireFrame,
    pub(super) attachments: &'a [Bytes],
    pub(super) call: Option<&'a Call>,
}

/// What it was.
pub(super) struct Made {
    pub(super) words: String,
    pub(super) verdict: Verdict,
    /// The request that it was, or is taken for; none where nobody knows.
    pub(super) request: Option<RequestId>,
}

impl Made {
    /// Whether its answer and its attachments belong to something.
    pub(super) fn is_known(&self) -> bool {
        self.request.is_some()
    }
}

impl Recorded<'_> {
    /// In words.
    fn shown(&self) -> String {
        let body = excerpt(self.frame.body());
        self.call.map_or_else(|| body.clone(), |call| format!("{} {body}", shown(call, call)).trim_end().to_owned())
    }

    /// What is sent to where it is sent; empty where that is the connection itself.
    fn to(&self) -> String {
        self.call.map(|call| format!(" {} {}", call.method, super::address::path(&call.url))).unwrap_or_default()
    }

    /// How our request differs, if it does; contents apart.
    fn miss(&self, ours: &WireFrame) -> Option<String> {
        match (self.call, ours) {
            (Some(call), WireFrame::Ask(ask)) => {
                let ours = of_ask(ask);
                (!same(call, &ours)).then(|| shown(&ours, &ours))
            }
            _ => None,
        }
    }

    fn foreign(&self, instead: Option<String>) -> Made {
        let instead = instead.map(|instead| format!(", {instead}")).unwrap_or_default();
        Made { words: format!("foreign {}{instead}", self.shown()), verdict: Verdict::Foreign, request: None }
    }
}

/// What a recorded outbound frame was. A resubscribe that asks for what was missed by other variables than ours is foreign,
/// but its answer is heard as a resubscribe's.
pub(super) fn sent(
    rehearsal: &Rehearsal,
    attempt: &mut Attempt,
    channels: &mut Channels,
    recorded: Recorded<'_>,
    now: Time,
) -> Made {
    let said = rehearsal.said(recorded.frame, recorded.attachments);
    let mut instead = None;
    for at in 0..attempt.owed.len() {
        let owed = &attempt.owed[at];
        if !is_owed(rehearsal, owed, recorded, said.as_ref()) {
            continue;
        }
        let words = purpose(&owed.purpose, channels);
        match recorded.miss(&owed.frame) {
            Some(ours) => instead = instead.or_else(|| Some(format!("{words} would be {ours}"))),
            None => {
                let owed = attempt.owed.remove(at);
                let words = format!("{words}{}", recorded.to());
                return Made { words, verdict: Verdict::Understood, request: Some(owed.request) };
            }
        }
    }
    let Some(said) = said else { return recorded.foreign(instead) };
    for send in TRIED {
        let Some(values) = rehearsal.values(send, &said, recorded.call) else { continue };
        let mut known = channels.clone();
        for about in candidates(rehearsal, attempt, &mut known, send, &values) {
            let guess = Guess { send, values: &values, about: &about, recorded, said: &said };
            match guess.hold(rehearsal, attempt, &known, now) {
                Held::Right(made) => {
                    *channels = known;
                    return made;
                }
                Held::Elsewhere(ours) => instead = instead.or(Some(ours)),
                Held::Wrong => {}
            }
        }
    }
    recorded.foreign(instead)
}

/// Whether the frame is what the conversation wanted sent.
fn is_owed(rehearsal: &Rehearsal, owed: &Outgoing, recorded: Recorded<'_>, said: Option<&Said>) -> bool {
    let ours = rehearsal.said(&owed.frame, &owed.attachments);
    owed.frame == *recorded.frame
        || (recorded.call.is_some() && owed.frame.body() == recorded.frame.body())
        || said.zip(ours.as_ref()).is_some_and(|(said, ours)| {
            said == ours || owed.purpose == Purpose::Auth && rehearsal.signed_alike(said, ours)
        })
}

/// A template and values that may have made a recorded frame.
struct Guess<'a> {
    send: Send,
    values: &'a Values,
    about: &'a [ChannelId],
    recorded: Recorded<'a>,
    said: &'a Said,
}

/// Whether they did.
enum Held {
    Right(Made),
    /// But it would have been sent to where these words say.
    Elsewhere(String),
    Wrong,
}

impl Guess<'_> {
    /// Lets a copy of the conversation say it; if that was right, the copy is the conversation.
    fn hold(&self, rehearsal: &Rehearsal, attempt: &mut Attempt, channels: &Channels, now: Time) -> Held {
        let Guess { send, values, about, recorded, .. } = *self;
        // On a copy: a wrong guess must leave no trace.
        let mut conversation = attempt.conversation.clone();
        if let Some(id) = request_id(values) {
            conversation.renumber(id);
        }
        conversation.supply_shown(|name| values.get(name).map(Value::to_string));
        let outgoing = speak(&mut conversation, send, values, &channels.specs(about), now);
        let Some(outgoing) = outgoing else { return Held::Wrong };
        let Some(made) = rehearsal.said(&outgoing.frame, &outgoing.attachments) else { return Held::Wrong };
        let equal = made == *self.said;
        let words = said(send, values, about, channels);
        match recorded.miss(&outgoing.frame) {
            Some(ours) if equal => return Held::Elsewhere(format!("{words} would be {ours}")),
            _ if !equal && send != Send::Resubscribe => return Held::Wrong,
            _ => {}
        }
        conversation.continue_frames_of(&mut attempt.conversation);
        attempt.conversation = conversation;
        attempt.shown.extend(request_id(values));
        if let Send::Subscribe | Send::Resubscribe = send {
            attempt.subscribed.extend(about);
        }
        let request = Some(outgoing.request);
        Held::Right(match equal {
            true => Made { words: format!("{words}{}", recorded.to()), verdict: Verdict::Understood, request },
            false => {
                let ours = excerpt(made.value.to_string().as_bytes());
                Made { request, ..recorded.foreign(Some(format!("{words} would be {ours}"))) }
            }
        })
    }
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

/// A request in words.
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
