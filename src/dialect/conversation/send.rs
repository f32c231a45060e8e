//! The verbs that send: a template, filled, numbered, and noted for its answer.

use std::sync::Arc;

use bytes::Bytes;

use super::asking::Rendered;
use super::{Conversation, Says, Stage};
use crate::dialect::bindings::{Bound, Sub};
use crate::dialect::fill::{ChannelView, Context};
use crate::dialect::framing::{Detached, Sent};
use crate::dialect::pending::{Op, Request};
use crate::dialect::rule::Class;
use crate::dialect::schema::SendTemplate;
use crate::dialect::sign::Needs;
use crate::dialect::template::Need;
use crate::dialect::variable::Variable;
use crate::dialect::{ChannelId, ChannelSpec, MessageSpec, Outgoing, Purpose, RequestId, SendError, WireFrame};
use crate::protocol::request::Secret;
use crate::relay::record::MessageId;
use crate::relay::time::Time;

/// How many candidates are looked at for one frame.
const LOOKED_AT: usize = 4096;

impl Conversation {
    /// One subscribe frame: for the first candidate and those others that fit in the same frame (equal in all but what the
    /// template lists), up to `limits.per_frame`. Which ones went in is in [`Outgoing::purpose`]. `again`: they were live
    /// on an earlier attempt and their history is unbroken, so `resubscribe` may ask for what was missed.
    /// An error is about the first candidate alone.
    pub fn subscribe(&mut self, now: Time, candidates: &[ChannelSpec<'_>], again: bool) -> Result<Outgoing, SendError> {
        let dialect = Arc::clone(&self.dialect);
        let subscribe = dialect.templates.subscribe.as_ref().ok_or(SendError::NoTemplate)?;
        if let Some(resubscribe) = dialect.templates.resubscribe.as_ref().filter(|_| again) {
            match self.subscribe_by(now, resubscribe, candidates, true) {
                Err(SendError::Unset(_)) => {}
                result => return result,
            }
        }
        self.subscribe_by(now, subscribe, candidates, false)
    }

    fn subscribe_by(
        &mut self,
        now: Time,
        send: &SendTemplate,
        candidates: &[ChannelSpec<'_>],
        resumes: bool,
    ) -> Result<Outgoing, SendError> {
        self.clock = now.mono;
        let uuid = self.rng.next_u128();
        let (text, sub, chosen) = {
            let (mut batch, chosen) = self.batch(now, send, candidates)?;
            let sub = match &send.bind {
                Some(bind) => {
                    let id = self.last_id + 1;
                    let context = Context { id, uuid, batch: &batch, ..self.context(now, batch.first()) };
                    Some((bind.render(&context)?, bind.is_number()))
                }
                None => None,
            };
            // The id that the request gives itself may stand in it.
            if let (Some((text, number)), Some(view)) = (&sub, batch.first_mut()) {
                view.sub = Some(Sub { text, number: *number });
            }
            let context = Context { id: self.last_id + 1, uuid, batch: &batch, ..self.context(now, batch.first()) };
            (self.rendered(send, &context)?, sub, chosen)
        };
        chosen.iter().for_each(|spec| self.channels.add(spec));
        let outgoing = self.numbered(text, Purpose::Subscribe(ids(&chosen)), send.answered, Says::Event)?;
        if let (Some((text, number)), Some(spec)) = (&sub, chosen.first()) {
            self.bindings.bind(now.mono, Sub { text, number: *number }, spec.id, outgoing.request);
        }
        if outgoing.answered {
            let sub = sub.map(|(text, number)| (text.into(), number));
            let request = Request::new(Op::Subscribe, named(&chosen));
            self.pending.add(outgoing.request, Request { resumes, sub, ..request });
        }
        Ok(outgoing)
    }

    /// One unsubscribe frame, as [`Conversation::subscribe`]. `Ok(None)`: nothing to send for the first candidate (the
    /// dialect has no such template, or the channel has no subscription id here, which it must name); it counts as done.
    /// A channel whose subscribe is not answered yet is better left until it is.
    pub fn unsubscribe(&mut self, now: Time, candidates: &[ChannelSpec<'_>]) -> Result<Option<Outgoing>, SendError> {
        self.clock = now.mono;
        let dialect = Arc::clone(&self.dialect);
        let Some(send) = &dialect.templates.unsubscribe else { return Ok(None) };
        let first = candidates.first().ok_or_else(no_channel)?;
        if send.uses_sub() && self.bindings.of(first.id).is_none() {
            return Ok(None);
        }
        let uuid = self.rng.next_u128();
        let (text, chosen) = {
            let (batch, chosen) = self.batch(now, send, candidates)?;
            let context = Context { id: self.last_id + 1, uuid, batch: &batch, ..self.context(now, batch.first()) };
            (self.rendered(send, &context)?, chosen)
        };
        let outgoing = self.numbered(text, Purpose::Unsubscribe(ids(&chosen)), send.answered, Says::Event)?;
        for spec in &chosen {
            self.bindings.leave(now.mono, spec.id);
        }
        self.note(&outgoing, Op::Unsubscribe, named(&chosen));
        Ok(Some(outgoing))
    }

    /// Whether the dialect can carry this message, before it is accepted. Looks at the message and its channel only, not
    /// at the state of the connection.
    pub fn check_publish(&self, message: &MessageSpec<'_>) -> Result<(), SendError> {
        let send = self.dialect.templates.publish.as_ref().ok_or(SendError::NoTemplate)?;
        let view = self.view_of(message)?;
        let context = Context { message: Some(message), ..self.context(Time::default(), Some(&view)) };
        for (variable, name, need) in send.template.holes() {
            let told = matches!(
                variable,
                Variable::Channel | Variable::Part(_) | Variable::Params(_) | Variable::Key | Variable::Type
            );
            if told && *need == Need::Required && context.fill(variable).is_none() {
                return Err(SendError::Unset(name.to_string()));
            }
        }
        if send.post.is_none() {
            self.dialect.framing.detach(message.data)?;
        }
        Ok(())
    }

    /// The frame that publishes this message. [`SendError::NotJoined`] passes once the channel is live.
    pub fn publish(&mut self, now: Time, message: &MessageSpec<'_>) -> Result<Outgoing, SendError> {
        self.clock = now.mono;
        let dialect = Arc::clone(&self.dialect);
        let send = dialect.templates.publish.as_ref().ok_or(SendError::NoTemplate)?;
        let uuid = self.rng.next_u128();
        let text = {
            let view = self.view_of(message)?;
            if send.uses_sub() && !view.sub.is_some_and(|sub| self.joined(sub)) {
                return Err(SendError::NotJoined);
            }
            let context =
                Context { id: self.last_id + 1, uuid, message: Some(message), ..self.context(now, Some(&view)) };
            self.rendered(send, &context)?
        };
        let outgoing = self.numbered(text, Purpose::Publish(message.id), send.answered, Says::Event)?;
        if outgoing.answered {
            self.pending.add(outgoing.request, publish_request(message.id));
        }
        Ok(outgoing)
    }

    /// Whether the subscribe that gave this id was granted, where that is answered.
    fn joined(&self, sub: Sub<'_>) -> bool {
        match self.bindings.get(sub.text) {
            Some(Bound::Current(_, given)) => self.pending.get(given).is_none(),
            Some(Bound::Leaving) | None => false,
        }
    }

    /// A heartbeat of the dialect's own; `None`: it has none, a variable it needs is not known yet, or it is too early.
    pub fn ping(&mut self, now: Time) -> Option<Outgoing> {
        if self.stage != Stage::Ready {
            return None;
        }
        let dialect = Arc::clone(&self.dialect);
        let send = dialect.templates.ping.as_ref()?;
        let mut outgoing = self.plain(now, send, Purpose::Ping, Says::Event).ok()?;
        self.note(&outgoing, Op::Ping, Vec::new());
        // A pong without an id is an answer too.
        outgoing.answered |= dialect.hears(Class::Pong);
        Some(outgoing)
    }

    /// The question what upstream believes to be subscribed; [`SendError::NoTemplate`]: it cannot be asked.
    pub fn audit(&mut self, now: Time) -> Result<Outgoing, SendError> {
        let dialect = Arc::clone(&self.dialect);
        let send = dialect.templates.audit.as_ref().ok_or(SendError::NoTemplate)?;
        let mut outgoing = self.plain(now, send, Purpose::Audit, Says::Event)?;
        // A list without an id is an answer too.
        outgoing.answered = true;
        self.note(&outgoing, Op::Audit, Vec::new());
        Ok(outgoing)
    }

    /// In-band renewal of the token; [`SendError::NoTemplate`]: connect again instead.
    pub fn renew(&mut self, now: Time, token: Secret) -> Result<Outgoing, SendError> {
        let dialect = Arc::clone(&self.dialect);
        let send = dialect.templates.renew.as_ref().ok_or(SendError::NoTemplate)?;
        self.token = Some(token);
        let outgoing = self.plain(now, send, Purpose::Auth, Says::Event)?;
        self.note(&outgoing, Op::Auth, Vec::new());
        Ok(outgoing)
    }

    /// A frame about no channel and no message.
    pub(super) fn plain(
        &mut self,
        now: Time,
        send: &SendTemplate,
        purpose: Purpose,
        says: Says,
    ) -> Result<Outgoing, SendError> {
        self.clock = now.mono;
        let uuid = self.rng.next_u128();
        let text = {
            let context = Context { id: self.last_id + 1, uuid, ..self.context(now, None) };
            self.rendered(send, &context)?
        };
        self.numbered(text, purpose, send.answered, says)
    }

    /// Takes the next number for a rendered text; none if upstream would not take it.
    pub(super) fn numbered(
        &mut self,
        rendered: Rendered,
        purpose: Purpose,
        answered: bool,
        says: Says,
    ) -> Result<Outgoing, SendError> {
        let id = self.last_id + 1;
        let sent = match says {
            Says::Connect => Sent::Connect,
            Says::Event => Sent::Event(answered.then_some(id)),
            Says::Receipt(number) => Sent::Ack(number),
        };
        let Rendered { text, post, json } = rendered;
        let detached = match (&purpose, &post) {
            (Purpose::Publish(_), None) => self.dialect.framing.detach(&text)?,
            _ => None,
        };
        let Detached { text, attachments } = detached.unwrap_or(Detached { text, attachments: Vec::new() });
        let text = self.dialect.framing.wrap(&mut self.session, sent, attachments.len(), text);
        let largest = attachments.iter().map(|data| self.leaves_as(data)).fold(text.len(), usize::max);
        if let Some(takes) = self.takes().filter(|takes| largest > *takes) {
            return Err(SendError::TooLarge { bytes: largest, takes });
        }
        self.last_id = id;
        let request = RequestId(id);
        let frame = match post {
            Some(url) => self.post(url, json, request, text.into()),
            None => WireFrame::Text(Bytes::from(text)),
        };
        Ok(Outgoing { request, purpose, frame, attachments, answered })
    }

    /// Notes a request that upstream answers.
    pub(super) fn note(&mut self, outgoing: &Outgoing, op: Op, channels: Vec<(ChannelId, Box<str>)>) {
        if outgoing.answered {
            self.pending.add(outgoing.request, Request::new(op, channels));
        }
    }

    /// The first candidate and those like it.
    fn batch<'a, 'c>(
        &'a self,
        now: Time,
        send: &'a SendTemplate,
        candidates: &'a [ChannelSpec<'c>],
    ) -> Result<(Vec<ChannelView<'a>>, Vec<ChannelSpec<'c>>), SendError> {
        let first = candidates.first().ok_or_else(no_channel)?;
        let mut views = vec![self.view(Some(first.id), first.name, first.params)?];
        let mut chosen = vec![*first];
        if !send.template.lists() {
            return Ok((views, chosen));
        }
        for spec in candidates.iter().take(LOOKED_AT).skip(1) {
            if views.len() >= self.dialect.limits().per_frame {
                break;
            }
            if let Ok(view) = self.view(Some(spec.id), spec.name, spec.params)
                && self.alike(now, send, &views[0], &view)
            {
                views.push(view);
                chosen.push(*spec);
            }
        }
        Ok((views, chosen))
    }

    /// Whether two channels differ only in what the template lists.
    fn alike(&self, now: Time, send: &SendTemplate, one: &ChannelView<'_>, other: &ChannelView<'_>) -> bool {
        let (one, other) = (self.context(now, Some(one)), self.context(now, Some(other)));
        send.template.holes().iter().all(|(variable, _, need)| {
            let of_channel = Needs::of(variable).channel;
            !of_channel || *need == Need::Listed || one.fill(variable) == other.fill(variable)
        })
    }
}

fn publish_request(message: MessageId) -> Request {
    Request { message: Some(message), ..Request::new(Op::Publish, Vec::new()) }
}

fn no_channel() -> SendError {
    SendError::Invalid("no channel".into())
}

fn ids(chosen: &[ChannelSpec<'_>]) -> Vec<ChannelId> {
    chosen.iter().map(|spec| spec.id).collect()
}

fn named(chosen: &[ChannelSpec<'_>]) -> Vec<(ChannelId, Box<str>)> {
    chosen.iter().map(|spec| (spec.id, spec.name.into())).collect()
}
