//! Rules about channels: event, snapshot, gone. Which channel is meant stands in the message, by name or by subscription id.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::Conversation;
use super::receive::Turn;
use crate::dialect::bindings::Bound;
use crate::dialect::checksum::Verdict;
use crate::dialect::field::Field;
use crate::dialect::held::HeldMessage;
use crate::dialect::message::Message;
use crate::dialect::pending::Op;
use crate::dialect::rule::{Class, Each, Taken};
use crate::dialect::scan::PointerId;
use crate::dialect::variable::{LAST_ID, LAST_SEQ, Variable};
use crate::dialect::{ChannelId, Event, Heard, RequestId, Role, Skipped, Target};

/// What a rule's `channel` and `sub` lead to.
enum Led<'t> {
    Name(Cow<'t, str>),
    Channel(ChannelId),
    /// A subscription that is no longer the current one.
    Stale,
    /// A publish whose answer comes as an event.
    Publish(RequestId),
    /// An id that nothing has bound yet.
    Unbound(Cow<'t, str>),
    Missing,
}

/// A question for the state of a channel, or of one of its keys, that is not answered yet.
struct Asked {
    request: RequestId,
    channel: ChannelId,
    key: Option<Box<str>>,
}

impl Conversation {
    fn lead<'t>(&self, turn: Turn<'t>) -> Led<'t> {
        let rule = turn.rule;
        let Some(sub) = rule.sub.as_ref().and_then(|sub| self.text(turn, sub)) else {
            return match rule.channel.as_ref().and_then(|channel| self.text(turn, channel)) {
                Some(name) => Led::Name(name),
                None => Led::Missing,
            };
        };
        match self.bindings.get(&sub) {
            Some(Bound::Current(channel, _)) => Led::Channel(channel),
            Some(Bound::Leaving) => Led::Stale,
            None => match self.request_named(&sub).filter(|id| self.is_publish(*id)) {
                Some(request) => Led::Publish(request),
                // With a channel too, the id only says which of its subscriptions is meant.
                None if rule.channel.is_some() => Led::Stale,
                None => Led::Unbound(sub),
            },
        }
    }

    fn is_publish(&self, request: RequestId) -> bool {
        self.pending.get(request).is_some_and(|request| request.op == Op::Publish)
    }

    pub(super) fn event(&mut self, turn: Turn<'_>, heard: &mut dyn FnMut(Heard<'_>)) {
        self.echo(turn, heard);
        if let Some(each) = &turn.rule.each
            && each.channel.is_some()
        {
            self.store(turn, &[]);
            return self.elements(turn, None, heard);
        }
        let asked = self.asked_by(turn);
        let led = match (self.lead(turn), &asked) {
            (Led::Missing, Some(asked)) => Led::Channel(asked.channel),
            (led, _) => led,
        };
        let target = match &led {
            Led::Name(name) => Target::Name(name),
            Led::Channel(channel) => Target::Channel(*channel),
            Led::Stale => {
                self.count_numbers(turn, heard);
                return heard(Heard::Ignored);
            }
            Led::Publish(request) => {
                self.count_numbers(turn, heard);
                let data = turn.rule.fields.take(&turn.message, &self.context(turn.now, None), turn.rule.decode).data;
                return self.settle_publish(*request, data, heard);
            }
            Led::Unbound(sub) => return self.hold(turn, sub, heard),
            Led::Missing => {
                self.store(turn, &[]);
                return heard(Heard::Unextracted(turn.index));
            }
        };
        if !turn.rule.set.is_empty() {
            let channels = self.channels_at(target).to_vec();
            self.store(turn, &channels);
        }
        if turn.lost {
            heard(Heard::Lost { target, oversize: turn.cut });
        }
        if turn.rule.each.is_some() {
            self.elements(turn, Some(target), heard);
            return self.answer_asked(asked, None, heard);
        }
        let mut taken = turn.rule.fields.take(&turn.message, &self.context(turn.now, None), turn.rule.decode);
        let role = if turn.rule.class == Class::Snapshot { Role::Snapshot } else { Role::Event };
        if let (None, Some(asked)) = (&taken.key, &asked) {
            taken.key = asked.key.as_ref().map(|key| Cow::Owned(key.to_string()));
        }
        let key = asked.is_some().then(|| taken.key.as_deref().map(Box::<str>::from)).flatten();
        let wrong = turn.rule.checksum.is_some_and(|at| self.is_wrong(turn, at, target, heard));
        // A change to a wrong state is none; a state that is wrong in itself comes before the word that it is.
        if wrong && role == Role::Event {
            heard(Heard::Mismatched { target, whole: false });
        }
        self.tell(turn, target, taken, role, heard);
        if wrong && role == Role::Snapshot {
            heard(Heard::Mismatched { target, whole: true });
        }
        self.answer_asked(asked, key, heard);
    }

    /// Whether the checksum in a message is not that of the channel's state.
    fn is_wrong(
        &mut self,
        turn: Turn<'_>,
        at: PointerId,
        target: Target<'_>,
        heard: &mut dyn FnMut(Heard<'_>),
    ) -> bool {
        let (Some(check), Some(bytes)) = (&turn.dialect.check, turn.message.raw(at)) else { return false };
        let channel = match target {
            Target::Channel(channel) => Some(channel),
            Target::Name(name) => self.channels.named(name).first().copied(),
        };
        let Some(channel) = channel else { return false };
        let begins = (turn.rule.class == Class::Snapshot).then(|| self.channels.params(channel));
        let verdict = self.states.judge(check, channel, begins, bytes);
        if verdict == Verdict::Unchecked {
            heard(Heard::Skipped(Skipped::Checksum, 1));
        }
        verdict == Verdict::Wrong
    }

    /// The question for a state that a message names as what it answers.
    fn asked_by(&self, turn: Turn<'_>) -> Option<Asked> {
        let named = self.text(turn, turn.rule.req.as_ref()?)?;
        let request = self.request_named(&named)?;
        let pending = self.pending.get(request).filter(|pending| pending.op == Op::State)?;
        let (channel, _) = *pending.channels.first()?;
        Some(Asked { request, channel, key: pending.key.clone() })
    }

    /// The state that was asked for has been told. One of another key answers nothing.
    fn answer_asked(&mut self, asked: Option<Asked>, key: Option<Box<str>>, heard: &mut dyn FnMut(Heard<'_>)) {
        let answered = asked.filter(|asked| key.is_none() || asked.key.is_none() || asked.key == key);
        let Some(Asked { request, .. }) = answered else { return };
        if let Some(purpose) = self.pending.settle(request, None) {
            heard(Heard::Acked { request: Some(request), purpose, data: None });
        }
    }

    /// An event that names the request it came from: ours, come back.
    fn echo(&mut self, turn: Turn<'_>, heard: &mut dyn FnMut(Heard<'_>)) {
        let Some(req) = &turn.rule.req else { return };
        let named = self.text(turn, req);
        let request = named.and_then(|named| self.request_named(&named)).filter(|id| self.is_publish(*id));
        if let Some(request) = request {
            self.settle_publish(request, None, heard);
        }
    }

    /// An id that is not bound: where an answer may still bind it, the message waits for that.
    fn hold(&mut self, turn: Turn<'_>, sub: &str, heard: &mut dyn FnMut(Heard<'_>)) {
        if !(turn.dialect.binds() && self.pending.subscribing()) {
            self.store(turn, &[]);
            return heard(Heard::Unextracted(turn.index));
        }
        let fields = turn.fields.iter().map(Field::owned).collect();
        let held = HeldMessage { sub: sub.into(), rule: turn.index, bytes: turn.message.bytes.into(), fields };
        self.held.keep(held).into_iter().for_each(|rule| heard(Heard::Unextracted(rule)));
    }

    /// Every element of the rule's `each` is one event.
    pub(super) fn elements(&mut self, turn: Turn<'_>, target: Option<Target<'_>>, heard: &mut dyn FnMut(Heard<'_>)) {
        let Some(each) = &turn.rule.each else { return };
        let mut spans = std::mem::take(&mut self.element_spans);
        let mut begun = BTreeSet::new();
        let mut none = true;
        let common = turn.rule.fields.take(&turn.message, &self.context(turn.now, None), turn.rule.decode);
        for bytes in each.elements(&turn.message) {
            none = false;
            // Elements of a valid message are valid.
            if each.pointers.scan(bytes, &mut spans).is_err() {
                continue;
            }
            each.pointers.note(turn.fields, &mut spans);
            let element = Message { bytes, spans: &spans };
            let context = self.context(turn.now, None);
            let taken = each.fields.take(&element, &context, turn.rule.decode).or(&common);
            let own = each.channel.as_ref().map(|channel| channel.text(&element, &context));
            let target = match (&own, target) {
                (Some(Some(name)), _) => Target::Name(name),
                (None, Some(target)) => target,
                (Some(None), _) | (None, None) => {
                    heard(Heard::Unextracted(turn.index));
                    continue;
                }
            };
            let role = match turn.rule.class {
                Class::Snapshot => {
                    let first = match target {
                        Target::Name(name) if !begun.contains(name) => begun.insert(name.to_owned()),
                        Target::Channel(_) => begun.insert(String::new()),
                        Target::Name(_) => false,
                    };
                    if first { Role::Snapshot } else { Role::SnapshotPart }
                }
                _ => Role::Event,
            };
            self.tell(turn, target, taken, role, heard);
        }
        self.element_spans = spans;
        if none {
            self.no_elements(turn, each, target, heard);
        }
    }

    /// An empty snapshot is one too: its only value is the empty array. Otherwise nothing happened.
    fn no_elements(
        &mut self,
        turn: Turn<'_>,
        each: &Each,
        target: Option<Target<'_>>,
        heard: &mut dyn FnMut(Heard<'_>),
    ) {
        match (turn.rule.class, target, turn.message.raw(each.at)) {
            (Class::Snapshot, Some(target), Some(raw)) => {
                let taken = Taken { data: Some(Cow::Borrowed(raw)), ..Taken::default() };
                self.tell(turn, target, taken, Role::Snapshot, heard);
            }
            (Class::Ack, _, _) => {}
            (_, _, Some(_)) => heard(Heard::Ignored),
            (_, _, None) => heard(Heard::Unextracted(turn.index)),
        }
    }

    #[inline]
    pub(super) fn tell(
        &mut self,
        turn: Turn<'_>,
        target: Target<'_>,
        taken: Taken<'_>,
        role: Role,
        heard: &mut dyn FnMut(Heard<'_>),
    ) {
        if turn.dialect.connect.resumes && self.was_told(taken.id.as_deref(), heard) {
            return heard(Heard::Ignored);
        }
        if self.place.unseen {
            self.tell_unseen(heard);
        }
        let follows = turn.dialect.follows;
        if follows.last_id || follows.seq {
            self.follow(turn, target, &taken);
        }
        heard(Heard::Event(Event {
            target,
            key: taken.key,
            kind: taken.kind,
            id: taken.id,
            sequence: taken.seq,
            source_time: taken.ts,
            data: taken.data.unwrap_or(Cow::Borrowed(b"null")),
            role,
            fold: turn.rule.fold,
        }));
    }

    /// Keeps `{channel.last_id}` and `{channel.seq}` where a template names them.
    fn follow(&mut self, turn: Turn<'_>, target: Target<'_>, taken: &Taken<'_>) {
        let names = &turn.dialect.names;
        let channels = match target {
            Target::Name(name) => self.channels.named(name),
            Target::Channel(ref channel) => std::slice::from_ref(channel),
        };
        if let (Some((_, last)), true) = (taken.seq, turn.dialect.follows.seq) {
            channels.iter().for_each(|channel| self.variables.set_number(names, *channel, LAST_SEQ, last));
        }
        if let (Some(id), true) = (&taken.id, turn.dialect.follows.last_id) {
            let mut json = String::with_capacity(id.len() + 2);
            crate::dialect::template::write_string(id, &mut json);
            self.variables.set(names, &Variable::OfChannel(LAST_ID), Some(&json), channels);
        }
    }

    pub(super) fn gone(&mut self, turn: Turn<'_>, heard: &mut dyn FnMut(Heard<'_>)) {
        self.store(turn, &[]);
        let led = self.lead(turn);
        let target = match &led {
            Led::Name(name) => Target::Name(name),
            Led::Channel(channel) => Target::Channel(*channel),
            Led::Stale | Led::Unbound(_) => return heard(Heard::Ignored),
            Led::Publish(request) => return self.settle_publish(*request, None, heard),
            Led::Missing => return heard(Heard::Unextracted(turn.index)),
        };
        for channel in self.channels_at(target).to_vec() {
            self.bindings.leave(turn.now.mono, channel);
        }
        let code = self.words(turn, &turn.rule.code);
        let message = self.words(turn, &turn.rule.message);
        heard(Heard::Gone { target, code, message, then: turn.rule.then });
    }

    /// The channels that a target means.
    fn channels_at<'a>(&'a self, target: Target<'a>) -> Cow<'a, [ChannelId]> {
        match target {
            Target::Name(name) => Cow::Borrowed(self.channels.named(name)),
            Target::Channel(channel) => Cow::Owned(vec![channel]),
        }
    }
}
