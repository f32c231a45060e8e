//! A dialect at work on one attempt: variables, subscription ids, requests that wait.
//!
//! Sending: each verb (`subscribe`, `publish`, `ping`, …) fills a template, gives it the next request number and notes what
//! its answer will mean. Receiving: each message is scanned once, the first rule that matches decides, and what it meant is
//! told as [`Heard`], in order.
//!
//! Invariants: request numbers rise and are never reused; every answer settles at most one request; nothing here waits or
//! knows a deadline; every table has a limit. An event with neither escapes nor a composed channel allocates nothing.
//! Deliberately not here: what an event means to sessions, pacing, retries, deadlines (the relay's).
//!
//! - `connect`: the address. `credentials`: what is fetched for it. `asking`, `engine`: what is polled and posted. `send`:
//!   verbs that send. `receive`: from frame to rule. `answer`: rules about requests.
//!   `event`: rules about channels.

mod answer;
mod asking;
mod connect;
mod credentials;
mod engine;
mod event;
mod receive;
mod send;
#[cfg(test)]
mod tests;
mod wish;

pub use wish::Wanted;

pub use credentials::Equipment;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::bindings::Bindings;
use super::channels::Channels;
use super::checksum::States;
use super::fill::{ChannelView, Context};
use super::framing::Session;
use super::held::Held;
use super::pending::{Op, Pending};
use super::rule::{Class, Rule, When};
use super::scan::Spans;
use super::schema::Dialect;
use super::variables::Variables;
use super::{ChannelId, Heard, MessageSpec, Purpose, RequestId, SendError, Wish};
use crate::protocol::request::Secret;
use crate::relay::rng::Rng;
use crate::relay::time::{Mono, Time};

/// Added to the interval that upstream says it is never silent for (`idle_s`, `idle_ms`).
const IDLE_GRACE: Duration = Duration::from_secs(10);
/// Intervals that upstream sets are kept within these.
const SHORTEST: Duration = Duration::from_millis(500);
/// See [`SHORTEST`].
const LONGEST: Duration = Duration::from_secs(86_400);

/// What outlives an attempt: session variables, channel variables, channels' names, the source of `{uuid}`.
#[derive(Debug, Clone)]
pub struct Carried {
    variables: Variables,
    channels: Channels,
    rng: Rng,
    /// From where the next connection goes on.
    place: asking::Place,
}

impl Carried {
    /// For a process's first conversation. `seed` is for `{uuid}` only.
    pub fn new(seed: u64) -> Self {
        let place = asking::Place::default();
        Carried { variables: Variables::default(), channels: Channels::default(), rng: Rng::new(seed), place }
    }
}

/// Intervals as the dialect and, later, upstream set them. `None`: the configuration decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// Between two pings of the dialect.
    pub ping: Option<Duration>,
    /// Silence of a healthy connection; longer means dead.
    pub idle: Option<Duration>,
    /// How long the token is good for, from when upstream said so.
    pub token_ttl: Option<Duration>,
}

/// What a rendered text is, for framings that tell these apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// Who we are, said first.
    Connect,
    /// Anything else of ours.
    Event,
    /// That a message with this number arrived.
    Receipt(u64),
}

/// How far the conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing said yet.
    New,
    /// Waiting for upstream's hello.
    Greeting,
    /// Authentication sent, or waiting for the rule that says ready.
    Authenticating,
    /// Subscribes and publishes may go.
    Ready,
}

/// A dialect at work on one attempt.
#[derive(Debug, Clone)]
pub struct Conversation {
    dialect: Arc<Dialect>,
    variables: Variables,
    rng: Rng,
    /// The connection's params as a JSON object's text.
    params: String,
    token: Option<Secret>,
    equipment: Equipment,
    stage: Stage,
    last_id: u64,
    pending: Pending,
    bindings: Bindings,
    held: Held,
    channels: Channels,
    /// What checksums are held against.
    states: States,
    /// Replies to the frame at hand.
    replies: usize,
    /// The session has ended, or cannot be followed: nothing more is heard.
    over: bool,
    /// Attachments of the message that comes next were left out.
    cut: bool,
    /// The last reading of the clock that was passed in.
    clock: Mono,
    /// What the framing knows of this connection.
    session: Option<Box<Session>>,
    place: asking::Place,
    asking: asking::Asking,
    spans: Spans,
    /// Of an `each` element.
    element_spans: Spans,
}

impl Conversation {
    /// For one attempt. `params` are the connection's (`upstream.params`), `token` was read for this attempt. What `carried`
    /// knows about channels goes by [`ChannelId`]: the relay keeps these numbers over its attempts.
    pub fn new(dialect: Arc<Dialect>, carried: Carried, params: Map<String, Value>, token: Option<Secret>) -> Self {
        let Carried { mut variables, channels, rng, place } = carried;
        variables.fit(&dialect.names);
        Conversation {
            dialect,
            variables,
            rng,
            params: Value::Object(params).to_string(),
            token,
            equipment: Equipment::default(),
            stage: Stage::New,
            last_id: 0,
            pending: Pending::default(),
            bindings: Bindings::default(),
            held: Held::default(),
            channels,
            states: States::default(),
            replies: 0,
            over: false,
            cut: false,
            clock: Mono::default(),
            session: None,
            place,
            asking: asking::Asking::default(),
            spans: Spans::new(),
            element_spans: Spans::new(),
        }
    }

    /// The connection is open. Tells [`Heard::Send`] (authentication), [`Heard::Ready`] where upstream says nothing first,
    /// or nothing yet.
    pub fn opened(&mut self, now: Time, heard: &mut dyn FnMut(Heard<'_>)) {
        if self.stage != Stage::New {
            return;
        }
        self.begin_polling(now.mono);
        if self.dialect.framing.greets() || self.dialect.hears(Class::Hello) {
            self.stage = Stage::Greeting;
        } else {
            self.authenticate(now, heard);
        }
    }

    /// Authenticates: `resume` where all its variables are known, else `auth`. Without a template, or without the token
    /// that it needs, there is nothing to send; a service that said hello wants it though.
    fn authenticate(&mut self, now: Time, heard: &mut dyn FnMut(Heard<'_>)) {
        self.stage = Stage::Authenticating;
        let dialect = Arc::clone(&self.dialect);
        let answers = dialect.hears(Class::Ready);
        let greeted = dialect.framing.greets() || dialect.hears(Class::Hello);
        let templates = [dialect.templates.resume.as_ref(), dialect.templates.auth.as_ref()];
        let mut failure = None;
        for send in templates.into_iter().flatten() {
            match self.plain(now, send, Purpose::Auth, Says::Connect) {
                Ok(mut outgoing) => {
                    outgoing.answered |= answers;
                    self.note(&outgoing, Op::Auth, Vec::new());
                    heard(Heard::Send(outgoing));
                    failure = None;
                    if answers {
                        return;
                    }
                    break;
                }
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if greeted || !matches!(error, SendError::Unset(_) | SendError::NoWayUp(_)) => {
                let message = format!("cannot authenticate: {error}");
                heard(Heard::Denied { message: Some(message.into()), then: None });
            }
            // Without credentials nobody will answer them.
            Some(_) => self.become_ready(false, heard),
            // Without anything to say, the framing may have to be greeted.
            None if answers => {
                if dialect.templates.auth.is_none()
                    && dialect.framing.greets()
                    && let Ok(outgoing) = self.numbered(asking::Rendered::default(), Purpose::Auth, true, Says::Connect)
                {
                    self.note(&outgoing, Op::Auth, Vec::new());
                    heard(Heard::Send(outgoing));
                }
            }
            None => self.become_ready(false, heard),
        }
    }

    fn become_ready(&mut self, resumed: bool, heard: &mut dyn FnMut(Heard<'_>)) {
        self.stage = Stage::Ready;
        while let Some(auth) = self.pending.oldest(&[Op::Auth], None, None) {
            self.pending.remove(auth);
        }
        heard(Heard::Ready { resumed });
    }

    /// The deadline of this request passed (deadlines are the relay's): a late answer is about nothing, unless it is that to
    /// a subscribe. What such an answer is still good for is the relay's to say.
    pub fn give_up(&mut self, request: RequestId) {
        for (channel, _) in self.pending.give_up(request) {
            self.bindings.leave_request(self.clock, *channel, request);
        }
    }

    /// Takes over where the frames of this connection stand. For tools that hold a recorded conversation on copies.
    pub fn continue_frames_of(&mut self, other: &mut Conversation) {
        self.session = other.session.take();
    }

    /// The next request gets this number, at least 1. For tools that hold a recorded conversation again; where requests
    /// are really sent, numbers only rise.
    pub fn renumber(&mut self, next: u64) {
        self.last_id = next.saturating_sub(1);
    }

    /// The channel is unsubscribed for good: its variables go, its number may be used anew.
    pub fn forget_channel(&mut self, channel: ChannelId) {
        self.bindings.leave(self.clock, channel);
        self.pending.forget_channel(channel);
        self.variables.forget_channel(channel);
        self.states.forget(channel);
        self.channels.remove(channel);
    }

    /// Intervals as they stand now: upstream's word over the dialect's.
    pub fn timing(&self) -> Timing {
        let limits = self.dialect.limits();
        let said = |seconds: &str, millis: &str| {
            let duration = self.said(seconds, 1.0).or_else(|| self.said(millis, 1e-3))?;
            Some(duration.clamp(SHORTEST, LONGEST))
        };
        Timing {
            ping: said("ping_s", "ping_ms").or(limits.ping),
            idle: said("idle_s", "idle_ms")
                .map(|idle| idle + IDLE_GRACE)
                .or_else(|| self.session.as_ref()?.silence())
                .or(limits.idle),
            token_ttl: self.said("token_ttl_s", 1.0),
        }
    }

    /// A positive number that upstream told under this name, as a duration of so many `unit` seconds.
    fn said(&self, name: &str, unit: f64) -> Option<Duration> {
        let slot = self.dialect.names.session.iter().position(|known| **known == *name)?;
        let value: f64 = self.variables.session(slot)?.trim_matches('"').parse().ok()?;
        let seconds = value * unit;
        (seconds > 0.0).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
    }

    /// What another conversation beside this one begins with: what is known of channels, nothing of this session's. `seed`
    /// is for `{uuid}`, which no two connections share.
    pub fn carried(&self, seed: u64) -> Carried {
        let mut variables = self.variables.clone();
        variables.forget_session();
        Carried { variables, channels: self.channels.clone(), rng: Rng::new(seed), place: self.place.clone() }
    }

    /// Whether the next connection may go on with this one's session: the dialect knows how upstream would say so, and
    /// something of this session is kept.
    pub fn may_go_on(&self) -> bool {
        let resumes = |rule: &Rule| rule.class == Class::Ready && !matches!(rule.resumed, When::Never);
        self.variables.knows_session() && self.dialect.rules.iter().any(resumes)
    }

    /// Ends the conversation; `forget`: without its session variables.
    pub fn into_carried(mut self, forget: bool) -> Carried {
        if forget {
            self.variables.forget_session();
            if !self.skipped() {
                self.place = asking::Place::default();
            }
        }
        Carried { variables: self.variables, channels: self.channels, rng: self.rng, place: self.place }
    }

    /// What templates and rules are filled from.
    fn context<'a>(&'a self, now: Time, channel: Option<&'a ChannelView<'a>>) -> Context<'a> {
        Context {
            variables: &self.variables,
            connection: &self.params,
            token: self.token.as_ref(),
            id: 0,
            uuid: 0,
            now,
            channel,
            message: None,
            wish: Wish::default(),
            batch: &[],
            join: "",
            cursor: None,
            signs: &self.dialect.signs,
            secrets: &self.equipment.secrets,
        }
    }

    /// A message's channel as templates see it.
    fn view_of<'a>(&'a self, message: &MessageSpec<'a>) -> Result<ChannelView<'a>, SendError> {
        let id = self.channels.find(message.channel, message.params);
        self.view(id, message.channel, message.params)
    }

    /// A channel as templates see it.
    fn view<'a>(
        &'a self,
        id: Option<ChannelId>,
        name: &'a str,
        params: Option<&'a str>,
    ) -> Result<ChannelView<'a>, SendError> {
        let parts = match &self.dialect.names.composition {
            Some(composition) => composition.split(name).ok_or_else(|| SendError::Name(name.to_owned()))?,
            None => Vec::new(),
        };
        let sub = id.and_then(|id| self.bindings.of(id));
        Ok(ChannelView { id, name, parts, params, sub })
    }
}
