//! What passes by HTTP in a recorded conversation: the request of an event stream and its bytes, polls and their answers,
//! and what leaves by POST.
//!
//! A recorded request must be the one that the conversation makes now (`address::same`). If it is another, that is told, and
//! the conversation goes on from what was recorded as far as that is possible.
//! Deliberately not here: whether a poll came at the right time, which a recording's clock is too coarse to tell.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::address::{Told, member_names, of_ask, of_connect, origin, path, raw_members, same, shown};
use super::line::Verdict;
use super::pattern::Values;
use super::sent::{Made, Recorded, sent};
use super::transcript::{Call, Reply, Step};
use super::{Attempt, Playing};
use crate::dialect::framing::{Piece, pieces};
use crate::dialect::stream::{MAX_LINE, Parser};
use crate::dialect::{
    Answer, AskFor, ChannelId, ConnectRequest, RequestId, SendError, StreamEvent, Transport, UrlChannels, WireFrame,
    retry_after,
};
use crate::protocol::request::Secret;
use crate::relay::redact::HIDDEN;
use crate::relay::time::Time;

/// What passes by HTTP on one connection.
#[derive(Debug)]
pub(super) struct Http {
    parser: Parser,
    /// A poll is out.
    polled: bool,
    /// Requests that left by POST and have no answer yet.
    posted: VecDeque<RequestId>,
}

impl Http {
    fn new() -> Self {
        Http { parser: Parser::new(MAX_LINE), polled: false, posted: VecDeque::new() }
    }
}

impl Playing<'_> {
    /// A connection is begun: its request must be the one that the dialect makes for the channels that it names.
    pub(super) fn connecting(
        &mut self,
        step: &Step,
        rest: &[Step],
        (transport, call): (Transport, &Call),
    ) -> (String, Verdict) {
        let told = self.rehearsal.addresses[&transport].values(call);
        let channels = self.addressed(transport, &told);
        let mut attempt = self.begin(step, rest, told.values);
        attempt.http = Some(Http::new());
        attempt.subscribed.clone_from(&channels);
        let asked = self.request(&mut attempt, transport, call, &channels);
        self.attempts.insert(step.connection.clone(), attempt);
        let connect = format!("connect {}", transport.text());
        let ours = match asked {
            Ok((ours, configured)) => {
                let ours = of_connect(&ours);
                if same(call, &ours) {
                    let words = format!("{connect} {}{configured}", shown(call, &ours));
                    return (words, Verdict::Understood);
                }
                shown(&ours, &ours)
            }
            Err(error) => format!("none: {error}"),
        };
        // Whatever follows is held against the path that was recorded.
        if let Some(attempt) = self.attempts.get_mut(&step.connection) {
            let url = format!("{}{}", origin(&call.url), path(&call.url));
            let _ = attempt.conversation.connect_request(transport, &url, &[], &self.channels.specs(&channels));
        }
        (format!("foreign {}, {connect} would be {ours}", shown(call, call)), Verdict::Foreign)
    }

    /// The channels that an address names.
    fn addressed(&mut self, transport: Transport, told: &Told) -> Vec<ChannelId> {
        if self.rehearsal.dialect.url_channels(transport) == UrlChannels::None {
            return Vec::new();
        }
        let all = |values: &Values| self.rehearsal.names(values).unwrap_or_default();
        let names: Vec<String> = told.each.iter().chain([&told.values]).flat_map(all).collect();
        let mut channels: Vec<ChannelId> = Vec::new();
        for name in names.iter().filter(|name| *name != HIDDEN) {
            let channel = self.channels.set(name, None, false);
            if !channels.contains(&channel) {
                channels.push(channel);
            }
        }
        channels
    }

    /// Our request, and in words what of the recorded one can only come from a configuration: a path where the dialect says
    /// none, members of the query and hidden header fields that it does not make.
    fn request(
        &self,
        attempt: &mut Attempt,
        transport: Transport,
        call: &Call,
        channels: &[ChannelId],
    ) -> Result<(ConnectRequest, String), SendError> {
        let channels = self.channels.specs(channels);
        let path = if self.rehearsal.addresses[&transport].has_path() { "" } else { path(&call.url) };
        let url = format!("{}{path}", origin(&call.url));
        let ours = attempt.conversation.connect_request(transport, &url, &[], &channels)?;
        let made: BTreeSet<String> = member_names(&ours.url);
        let further = |member: &&str| !made.contains(member.split('=').next().unwrap_or_default());
        let further: Vec<&str> = raw_members(&call.url).filter(further).collect();
        let unknown = |name: &str| !ours.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let hidden = call.headers.iter().filter(|(name, value)| *value == HIDDEN && unknown(name));
        let hidden: Vec<(String, Secret)> = hidden.map(|(name, _)| (name.clone(), Secret::new(HIDDEN))).collect();
        if further.is_empty() && hidden.is_empty() {
            return Ok((ours, String::new()));
        }
        let query = if further.is_empty() { String::new() } else { format!("?{}", further.join("&")) };
        let names = further.iter().map(|member| member.split('=').next().unwrap_or_default());
        let names: Vec<&str> = names.chain(hidden.iter().map(|(name, _)| name.as_str())).collect();
        let configured = format!(", configured: {}", names.join(" "));
        let ours = attempt.conversation.connect_request(transport, &format!("{url}{query}"), &hidden, &channels)?;
        Ok((ours, configured))
    }

    /// A poll, or something that leaves by POST.
    pub(super) fn asked(&mut self, connection: &str, call: &Call, now: Time) -> Option<(String, Verdict)> {
        let attempt = self.attempts.get_mut(connection)?;
        attempt.http.as_ref()?;
        let polls = attempt.conversation.transport().polls();
        Some(match &*call.method {
            "GET" if polls => poll(attempt, call, now),
            "POST" if attempt.conversation.is_engine_polled() => self.packets(connection, call, now)?,
            _ => {
                let frame = WireFrame::Text(call.body.clone());
                let recorded = Recorded { frame: &frame, attachments: &[], call: Some(call) };
                let made = sent(self.rehearsal, attempt, &mut self.channels, recorded, now);
                let http = attempt.http.as_mut()?;
                // What nobody knows is answered, too.
                http.posted.push_back(made.request.unwrap_or(RequestId(0)));
                (made.words, made.verdict)
            }
        })
    }

    /// Packets of Engine.IO, several at once.
    fn packets(&mut self, connection: &str, call: &Call, now: Time) -> Option<(String, Verdict)> {
        let attempt = self.attempts.get_mut(connection)?;
        let packets: Vec<WireFrame> = pieces(&call.body).map(packet).collect();
        let mut made = Vec::new();
        for (at, frame) in packets.iter().enumerate().filter(|(_, frame)| matches!(frame, WireFrame::Text(_))) {
            let attached = packets[at + 1..].iter().map_while(|frame| match frame {
                WireFrame::Binary(data) => Some(data.clone()),
                _ => None,
            });
            let attachments: Vec<Bytes> = attached.collect();
            let recorded = Recorded { frame, attachments: &attachments, call: None };
            made.push(sent(self.rehearsal, attempt, &mut self.channels, recorded, now));
        }
        let post = attempt.conversation.post_packets(&mut packets.into());
        let Some(Ok(WireFrame::Ask(ask))) = post else { return None };
        if let AskFor::Request(id) = ask.of {
            attempt.http.as_mut()?.posted.push_back(id);
        }
        let ours = of_ask(&ask);
        if !same(call, &ours) {
            let words = format!("foreign {}, packets would be {}", shown(call, call), shown(&ours, &ours));
            return Some((words, Verdict::Foreign));
        }
        let verdict = made.iter().map(|made| made.verdict).find(|verdict| *verdict != Verdict::Understood);
        let words: Vec<String> = made.into_iter().map(|Made { words, .. }| words).collect();
        Some((words.join(" | "), verdict.unwrap_or(Verdict::Understood)))
    }

    pub(super) fn answered(&mut self, connection: &str, reply: &Reply, now: Time) -> Option<(String, Verdict)> {
        let attempt = self.attempts.get_mut(connection)?;
        let http = attempt.http.as_mut()?;
        let to_poll = match &reply.method {
            Some(method) => method == "GET",
            None => http.posted.is_empty(),
        };
        let of = match to_poll {
            true if http.polled => {
                http.polled = false;
                AskFor::Poll
            }
            true => return Some((format!("{} answers no poll", reply.status), Verdict::Puzzling)),
            false => AskFor::Request(http.posted.pop_front().unwrap_or(RequestId(0))),
        };
        let frame = WireFrame::Answer(Box::new(answer(of, reply, now)));
        let (words, verdict) =
            attempt.hear(&self.channels, |conversation, heard| conversation.receive(now, &frame, heard));
        Some((format!("{} {words}", reply.status), verdict))
    }

    /// Bytes of the stream, with whatever events they complete.
    pub(super) fn chunk(&mut self, connection: &str, bytes: &Bytes, now: Time) -> Option<(String, Verdict)> {
        let attempt = self.attempts.get_mut(connection)?;
        let http = attempt.http.as_mut()?;
        let mut events: Vec<StreamEvent> = Vec::new();
        if http.parser.take(bytes.clone(), &mut events).is_err() {
            return Some(("larger than an event may be".to_owned(), Verdict::Puzzling));
        }
        Some(attempt.hear(&self.channels, |conversation, heard| {
            for event in events {
                conversation.receive(now, &WireFrame::Event(Box::new(event)), heard);
            }
        }))
    }
}

/// What moves a session of Engine.IO from polls to a WebSocket, if this frame does.
pub(super) fn moved(attempt: &mut Attempt, frame: &WireFrame) -> Option<&'static str> {
    let conversation = &mut attempt.conversation;
    if !(attempt.http.is_some() && conversation.is_engine_polled()) {
        return None;
    }
    if *frame == conversation.probe().frame {
        return Some("probe");
    }
    // On a copy: it moves the conversation.
    let mut moved = conversation.clone();
    (*frame == moved.upgraded().frame).then(|| {
        moved.continue_frames_of(conversation);
        *conversation = moved;
        "upgrade"
    })
}

/// A packet of a posted payload; what is none stays as it was recorded.
fn packet(piece: Piece<'_>) -> WireFrame {
    match piece {
        Piece::Binary(data) => WireFrame::Binary(data),
        Piece::Text(packet) | Piece::Garbled(packet) => WireFrame::Text(Bytes::copy_from_slice(packet)),
    }
}

/// A poll: the conversation's next one must be it.
fn poll(attempt: &mut Attempt, call: &Call, now: Time) -> (String, Verdict) {
    let foreign = |why: String| (format!("foreign {}, {why}", shown(call, call)), Verdict::Foreign);
    let due = attempt.conversation.poll_due();
    let out = attempt.http.as_mut().is_some_and(|http| std::mem::replace(&mut http.polled, true));
    let Some(due) = due else {
        return foreign(if out { "a poll is out" } else { "no poll is due" }.to_owned());
    };
    let now = Time { mono: now.mono.max(due), ..now };
    match attempt.conversation.poll(now) {
        Some(Ok(outgoing)) => {
            let WireFrame::Ask(ask) = outgoing.frame else { return foreign("no poll is due".to_owned()) };
            let ours = of_ask(&ask);
            match same(call, &ours) {
                true => (format!("poll {}", shown(call, &ours)), Verdict::Understood),
                false => foreign(format!("poll would be {}", shown(&ours, &ours))),
            }
        }
        Some(Err(error)) => foreign(format!("poll would be none: {error}")),
        None => foreign("no poll is due".to_owned()),
    }
}

/// A recorded answer as a carrier brings it.
fn answer(of: AskFor, reply: &Reply, now: Time) -> Answer {
    let field = |name: &str| reply.headers.get(name).map(|value| value.as_str().into());
    Answer {
        of,
        status: reply.status,
        etag: field("etag"),
        last_modified: field("last-modified"),
        retry_after: reply.headers.get("retry-after").and_then(|value| retry_after(value.as_bytes(), now.wall)),
        body: reply.body.clone(),
    }
}
