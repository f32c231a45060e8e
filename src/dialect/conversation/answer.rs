//! Rules about requests: ack, error, pong. An answer is matched by the request it names, by a channel, or by age.

use std::borrow::Cow;

use super::Conversation;
use super::receive::{Turn, retry_after};
use crate::dialect::bindings::{Bound, Sub};
use crate::dialect::fill::Context;
use crate::dialect::message::Message;
use crate::dialect::pending::Op;
use crate::dialect::rule::{Class, Taken};
use crate::dialect::scan::{Kind, elements};
use crate::dialect::{ChannelId, Heard, Purpose, RequestId, Target};

/// Names taken from one list; of a longer one the rest is not known.
const LISTED_MOST: usize = 65_536;

impl Conversation {
    pub(super) fn ack(&mut self, turn: Turn<'_>, heard: &mut dyn FnMut(Heard<'_>)) {
        let (mut request, channel) = self.about(turn);
        if let (None, Some(sub)) = (request, turn.rule.sub.as_ref().and_then(|sub| self.text(turn, sub)))
            && let Some(Bound::Current(_, given)) = self.bindings.get(&sub)
        {
            request = Some(given);
        }
        let late = request.and_then(|id| self.pending.late(id)).map(|late| late.sub.clone());
        let settled = request.and_then(|id| Some((id, self.pending.settle(id, channel.as_deref())?)));
        let Some((request, purpose)) = settled else {
            self.store(turn, &[]);
            return heard(Heard::Acked { request: None, purpose: Purpose::Subscribe(Vec::new()), data: None });
        };
        let channels = channels_of(&purpose).to_vec();
        self.store(turn, &channels);
        if let Some(own) = late {
            self.granted_late(turn, request, own, &channels);
        }
        let bound = self.bind(turn, request, &purpose);
        let Taken { data, .. } = turn.rule.fields.take(&turn.message, &self.context(turn.now, None), turn.rule.decode);
        match purpose {
            Purpose::Ping => heard(Heard::Pong { request: Some(request) }),
            purpose => heard(Heard::Acked { request: Some(request), purpose, data }),
        }
        for channel in &channels {
            if turn.lost {
                heard(Heard::Lost { target: Target::Channel(*channel), oversize: turn.cut });
            }
        }
        if let ([channel], Some(_), Class::Ack) = (&*channels, &turn.rule.each, turn.rule.class) {
            self.elements(turn, Some(Target::Channel(*channel)), heard);
        }
        if let Some(sub) = bound {
            for held in self.held.take(&sub) {
                self.message(turn.now, turn.dialect, &held.bytes, &held.fields, Some(held.rule), heard);
            }
        }
    }

    /// The request that an answer is about, and the channel it names.
    fn about<'t>(&self, turn: Turn<'t>) -> (Option<RequestId>, Option<Cow<'t, str>>) {
        let rule = turn.rule;
        let named = rule.req.as_ref().and_then(|req| self.text(turn, req));
        let request = named.as_ref().and_then(|named| self.request_named(named));
        let channel = rule.channel.as_ref().and_then(|channel| {
            // Parts of a composed name that the answer leaves out are those of the request's channels.
            let first = request.and_then(|id| self.pending.get(id)?.channels.first());
            let view = first.and_then(|(id, name)| self.view(Some(*id), name, None).ok());
            let context = Context { channel: view.as_ref(), ..self.context(turn.now, None) };
            channel.text(&turn.message, &context)
        });
        if named.is_some() {
            return (request, channel);
        }
        let request = match (&channel, &*rule.of) {
            (Some(name), []) => self.pending.oldest(&[Op::Subscribe], Some(name), None),
            (channel, of) => {
                let key = rule.fields.key.as_ref().and_then(|key| self.text(turn, key));
                self.pending.oldest(of, channel.as_deref(), key.as_deref())
            }
        };
        (request, channel)
    }

    /// A subscribe that was given up is granted: the id that it gave itself is its channel's again.
    fn granted_late(
        &mut self,
        turn: Turn<'_>,
        request: RequestId,
        own: Option<(Box<str>, bool)>,
        channels: &[ChannelId],
    ) {
        self.pending.granted_late(channels);
        if let (Some((text, number)), [channel]) = (own, channels) {
            self.bindings.bind(turn.now.mono, Sub { text: &text, number }, *channel, request);
        }
    }

    /// Binds the subscription id that an answer brings, if it answers the subscribe of one channel.
    fn bind<'t>(&mut self, turn: Turn<'t>, request: RequestId, purpose: &Purpose) -> Option<Cow<'t, str>> {
        let Purpose::Subscribe(channels) = purpose else { return None };
        let [channel] = channels[..] else { return None };
        let value = turn.rule.bind.as_ref()?;
        let text = self.text(turn, value)?;
        let number = value.is_number(&turn.message);
        self.bindings.bind(turn.now.mono, Sub { text: &text, number }, channel, request);
        Some(text)
    }

    pub(super) fn error(&mut self, turn: Turn<'_>, heard: &mut dyn FnMut(Heard<'_>)) {
        self.store(turn, &[]);
        let sub = turn.rule.sub.as_ref().and_then(|sub| self.text(turn, sub));
        let (mut request, channel) = self.about(turn);
        let mut bound = None;
        if let (None, Some(sub)) = (request, &sub) {
            match self.bindings.get(sub) {
                Some(Bound::Current(channel, given)) => (request, bound) = (Some(given), Some(channel)),
                Some(Bound::Leaving) => return heard(Heard::Ignored),
                None => request = self.request_named(sub),
            }
        }
        let resumes = request.and_then(|id| self.pending.get(id)).is_some_and(|request| request.resumes);
        let about = request.and_then(|id| {
            let settled = self.pending.settle(id, channel.as_deref()).or_else(|| self.pending.settle(id, None));
            Some((id, settled.or(bound.map(|channel| Purpose::Subscribe(vec![channel])))?))
        });
        let message = self.words(turn, &turn.rule.message);
        if let Some((_, Purpose::Auth)) = about {
            return heard(Heard::Denied { message, then: turn.rule.then });
        }
        if let Some((id, Purpose::Subscribe(channels))) = &about {
            for channel in channels {
                self.bindings.leave_request(turn.now.mono, *channel, *id);
                // What it asked to go on from is not known to upstream: next time it starts anew.
                if resumes {
                    self.variables.forget_channel(*channel);
                }
            }
        }
        let code = self.words(turn, &turn.rule.code);
        let target = match (&channel, bound) {
            (Some(name), _) => Some(Target::Name(name)),
            (None, bound) => bound.map(Target::Channel),
        };
        let (then, retry_after) = (turn.rule.then, retry_after(turn));
        heard(Heard::Refused { about, target, code, message, then, retry_after });
    }

    /// Upstream lists what it believes to be subscribed: because it was asked, or as the answer to something else.
    pub(super) fn listed(&mut self, turn: Turn<'_>, heard: &mut dyn FnMut(Heard<'_>)) {
        let (request, _) = self.about(turn);
        let op = request.and_then(|id| self.pending.get(id)).map(|request| request.op);
        let asked = request.filter(|_| op == Some(Op::Audit));
        match (op, asked) {
            (_, Some(id)) => drop(self.pending.remove(id)),
            // What it answers is answered first; an answer to nothing is a late one.
            (Some(_), None) => self.ack(turn, heard),
            (None, None) if turn.rule.req.is_some() => return self.ack(turn, heard),
            (None, None) => {}
        }
        match self.names_listed(turn) {
            Some((names, whole)) => heard(Heard::Subscriptions { request: asked, names, whole }),
            None => heard(Heard::Unextracted(turn.index)),
        }
    }

    /// The names on a list, and whether they are all; `None`: there is no list.
    fn names_listed(&mut self, turn: Turn<'_>) -> Option<(Vec<Box<str>>, bool)> {
        let each = turn.rule.each.as_ref()?;
        turn.message.span(each.at).filter(|span| span.kind == Kind::Array)?;
        let mut spans = std::mem::take(&mut self.element_spans);
        let (mut names, mut whole): (Vec<Box<str>>, bool) = (Vec::new(), true);
        let context = self.context(turn.now, None);
        for bytes in each.elements(&turn.message) {
            // Elements of a valid message are valid.
            let scanned = each.pointers.scan(bytes, &mut spans).is_ok();
            let element = Message { bytes, spans: &spans };
            let name = each.channel.as_ref().and_then(|channel| channel.text(&element, &context));
            let Some(name) = name.filter(|_| scanned) else {
                whole = false;
                continue;
            };
            match each.list {
                None => names.push(name.into()),
                Some(list) => {
                    for rest in elements(element.raw(list).unwrap_or_default()) {
                        match serde_json::from_slice::<String>(rest) {
                            Ok(rest) => names.push([&*name, &rest].concat().into()),
                            Err(_) => whole = false,
                        }
                    }
                }
            }
            if names.len() > LISTED_MOST {
                names.truncate(LISTED_MOST);
                whole = false;
                break;
            }
        }
        self.element_spans = spans;
        Some((names, whole))
    }

    pub(super) fn pong(&mut self, turn: Turn<'_>, heard: &mut dyn FnMut(Heard<'_>)) {
        self.store(turn, &[]);
        let named = turn.rule.req.as_ref().and_then(|req| self.text(turn, req));
        let request = named.as_ref().and_then(|named| self.request_named(named));
        if let Some(request) = request {
            self.pending.remove(request);
        }
        heard(Heard::Pong { request });
    }

    /// A message settles a pending publish, whose answer it is.
    pub(super) fn settle_publish(
        &mut self,
        request: RequestId,
        data: Option<Cow<'_, [u8]>>,
        heard: &mut dyn FnMut(Heard<'_>),
    ) {
        match self.pending.settle(request, None) {
            Some(purpose) => heard(Heard::Acked { request: Some(request), purpose, data }),
            None => heard(Heard::Ignored),
        }
    }
}

/// The channels that a purpose is about.
fn channels_of(purpose: &Purpose) -> &[ChannelId] {
    match purpose {
        Purpose::Subscribe(channels) | Purpose::Unsubscribe(channels) => channels,
        _ => &[],
    }
}
