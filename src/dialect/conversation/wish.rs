//! What is asked for beside the stream of events: the state of a channel, in-band or over HTTP, and what was missed.

use std::sync::Arc;

use bytes::Bytes;

use super::receive::Turn;
use super::{Conversation, Says};
use crate::dialect::fill::{ChannelView, Context};
use crate::dialect::http::{encode, same_origin};
use crate::dialect::message::Message;
use crate::dialect::pending::{Op, Request};
use crate::dialect::rule::Class;
use crate::dialect::scan::Spans;
use crate::dialect::wire::Method;
use crate::dialect::{ChannelId, ChannelSpec, Heard, Outgoing, Purpose, Role, SendError, Target, Wish};
use crate::relay::time::Time;

/// An HTTP request, but for its limits.
#[derive(Clone, PartialEq, Eq)]
pub struct Wanted {
    /// How.
    pub method: Method,
    /// Where. May hold secrets.
    pub url: String,
    /// Its header fields. May hold secrets.
    pub headers: Vec<(String, String)>,
    /// Its content; empty: none.
    pub body: Bytes,
}

impl Conversation {
    /// The frame that asks for the state of a channel, or of one of its keys (`[send] state`).
    pub fn state(&mut self, now: Time, spec: &ChannelSpec<'_>, wish: Wish<'_>) -> Result<Outgoing, SendError> {
        self.clock = now.mono;
        let dialect = Arc::clone(&self.dialect);
        let send = dialect.templates.state.as_ref().ok_or(SendError::NoTemplate)?;
        let uuid = self.rng.next_u128();
        let text = {
            let view = self.view(Some(spec.id), spec.name, spec.params)?;
            let context = Context { id: self.last_id + 1, uuid, wish, ..self.context(now, Some(&view)) };
            self.rendered(send, &context)?
        };
        let key: Option<Box<str>> = wish.key.filter(|_| send.names_key()).map(Into::into);
        let outgoing = self.numbered(text, Purpose::State(spec.id, key.clone()), send.answered, Says::Event)?;
        if outgoing.answered {
            let request = Request::new(Op::State, vec![(spec.id, spec.name.into())]);
            self.pending.add(outgoing.request, Request { key, ..request });
        }
        Ok(outgoing)
    }

    /// The HTTP request of `[repair]` for a channel. An address without an origin is `upstream`'s own.
    pub fn wanted(
        &self,
        now: Time,
        upstream: &str,
        spec: &ChannelSpec<'_>,
        wish: Wish<'_>,
    ) -> Result<Wanted, SendError> {
        let form = self.dialect.repair.as_ref().ok_or(SendError::NoTemplate)?;
        let view = self.wish_view(spec)?;
        let context = Context { wish, ..self.context(now, Some(&view)) };
        let mut url = form.url.render_with(&context, encode)?;
        if url.starts_with('/') {
            url.insert_str(0, &same_origin(upstream).ok_or_else(|| SendError::Invalid("no upstream address".into()))?);
        }
        let mut headers = Vec::new();
        for (name, template) in &form.headers {
            let value = template.render(&context)?;
            if value.chars().any(char::is_control) {
                return Err(SendError::Invalid(format!("the value of header {name} holds control characters")));
            }
            if !value.is_empty() && !template.is_unset(&context) {
                headers.push((name.to_string(), value));
            }
        }
        let body = match &form.body {
            Some(body) => {
                headers.push(("content-type".to_owned(), "application/json".to_owned()));
                Bytes::from(body.render(&context)?)
            }
            None => Bytes::new(),
        };
        Ok(Wanted { method: form.method, url, headers, body })
    }

    fn wish_view<'a>(&'a self, spec: &ChannelSpec<'a>) -> Result<ChannelView<'a>, SendError> {
        let composition = self.dialect.repair.as_ref().and_then(|form| form.names.composition.as_ref());
        let parts = match composition {
            Some(composition) => composition.split(spec.name).ok_or_else(|| SendError::Name(spec.name.to_owned()))?,
            None => Vec::new(),
        };
        let sub = self.bindings.of(spec.id);
        Ok(ChannelView { id: Some(spec.id), name: spec.name, parts, params: spec.params, sub })
    }

    /// The answer to [`Conversation::wanted`]: tells the state, or the events, that it holds.
    pub fn answered(&mut self, now: Time, channel: ChannelId, body: &[u8], heard: &mut dyn FnMut(Heard<'_>)) {
        let dialect = Arc::clone(&self.dialect);
        let Some(form) = &dialect.repair else { return };
        let mut spans = Spans::new();
        if form.pointers.scan(body, &mut spans).is_err() {
            return heard(Heard::Malformed);
        }
        let message = Message { bytes: body, spans: &spans };
        let turn =
            Turn { now, dialect: &dialect, index: 0, rule: &form.rule, message, fields: &[], lost: false, cut: false };
        let target = Target::Channel(channel);
        if form.rule.each.is_some() {
            return self.elements(turn, Some(target), heard);
        }
        let taken = form.rule.fields.take(&message, &self.context(now, None), form.rule.decode);
        let role = if form.rule.class == Class::Snapshot { Role::Snapshot } else { Role::Event };
        self.tell(turn, target, taken, role, heard);
    }
}
