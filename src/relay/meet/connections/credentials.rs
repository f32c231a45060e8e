//! Credentials meet the connections: what one is opened with, what is renewed while it serves, and what is known against it.
//!
//! A connection that is being prepared reads token and secrets, then makes the calls that it needs, one after the other, and
//! leaves out those whose last answer still holds. Invariant: one call per source is out at a time, whoever waits for it.

use std::sync::Arc;
use std::time::Duration;

use crate::dialect::{ChannelId, Conversation, Equipment, HttpAnswer, NoSupply, SendError, Supply};
use crate::protocol::codes::ErrorCode;
use crate::protocol::request::Secret;
use crate::relay::Relay;
use crate::relay::attempt::{Ending, Phase};
use crate::relay::credentials::{Source, Standing};
use crate::relay::link::rotation::Why;
use crate::relay::pairs::{AttemptId, Credentials, Fetch, FetchError, Notice, Output};
use crate::relay::time::{Mono, Time};

use super::fetches::Asker;

/// The least time between two calls for the same thing.
const RENEW_MIN: Duration = Duration::from_secs(1);
/// A token that ran out so recently may still be good by upstream's clock.
const LEEWAY: Duration = Duration::from_secs(60);
/// Refusals in a row after which people are told.
const REFUSALS_TOLD: u32 = 2;

/// Answer of a call.
pub(in crate::relay) type Answered = Result<HttpAnswer, FetchError>;

impl Relay {
    /// Token and secrets that an attempt asked for, before it connects or later for another token.
    pub(in crate::relay) fn credentials_read(
        &mut self,
        now: Time,
        id: AttemptId,
        result: Result<Credentials, FetchError>,
    ) {
        if let Ok(read) = &result {
            let secrets = read.secrets.iter().map(|(_, secret)| secret);
            read.token.iter().chain(secrets).for_each(|secret| self.redactor.learn(secret.expose()));
        }
        let Some(asked) = self.attempts.get_mut(id) else { return };
        match (asked.phase(), result) {
            (Phase::Dialing, Ok(read)) => {
                self.equip(now, id, read);
                self.prepare(now, id);
            }
            (Phase::Dialing, Err(error)) => self.lose(now, id, Ending::Token(error.to_string())),
            (Phase::Ready, Ok(Credentials { token: Some(token), secrets })) => {
                self.credentials.secrets = secrets;
                self.renew(now, id, token);
            }
            (Phase::Ready, Ok(_)) => {}
            (Phase::Ready, Err(_)) => {
                self.stats.auth.refresh_failures += 1;
                asked.lease.look_again(now.mono);
            }
            _ => {}
        }
    }

    /// Gives an attempt its conversation.
    fn equip(&mut self, now: Time, id: AttemptId, read: Credentials) {
        self.credentials.secrets.clone_from(&read.secrets);
        let carried = self.carried_for(id);
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        let upstream = &self.config.upstream;
        let address = self.link.endpoints.url(attempt.endpoint).to_owned();
        let mut conversation =
            Conversation::new(Arc::clone(&self.dialect), carried, upstream.params.clone(), read.token);
        conversation.equip(Equipment {
            secrets: read.secrets,
            upstream: address,
            origins: upstream.fetch_origins.clone(),
            timeout: upstream.connect_timeout + upstream.handshake_timeout,
            at: now,
        });
        attempt.conversation = Some(Box::new(conversation));
    }

    /// What the attempt needs next.
    fn next_source(&self, id: AttemptId) -> Option<Source> {
        let attempt = self.attempts.get(id).filter(|attempt| attempt.phase() == Phase::Dialing)?;
        self.credentials.sources(&self.dialect).get(attempt.prepared).copied()
    }

    /// Goes on getting what the attempt needs; connects when all of it is there.
    fn prepare(&mut self, now: Time, id: AttemptId) {
        while let Some(source) = self.next_source(id) {
            if let Some(supply) = self.credentials.fresh(now.mono, source).cloned() {
                self.provide(id, source, &supply);
                continue;
            }
            if self.credentials.is_out(source) {
                return;
            }
            match self.call(now, id, source, false) {
                Ok(true) => return,
                // It is left out.
                Ok(false) => {
                    if let Some(attempt) = self.attempts.get_mut(id) {
                        attempt.prepared += 1;
                    }
                }
                Err(error) => {
                    let message = format!("{}: {error}", self.name_of(source));
                    return self.lose(now, id, Ending::Unbuildable(message));
                }
            }
        }
        self.token_checked(now, id);
    }

    /// Connects, unless the token has run out already.
    fn token_checked(&mut self, now: Time, id: AttemptId) {
        let conversation = self.attempts.get(id).and_then(|attempt| attempt.conversation.as_ref());
        let over = conversation.and_then(|conversation| conversation.token_expires());
        match over.filter(|over| over.0.saturating_add(LEEWAY.as_nanos() as u64) <= now.wall.0) {
            Some(over) => {
                let message = format!("the token ran out at {} and there is no other", over.rfc3339());
                self.stats.auth.refresh_failures += 1;
                self.lose(now, id, Ending::Token(message.clone()));
                self.trust(now, Standing::Expired, &message);
            }
            None => self.dial_counted(now, id),
        }
    }

    /// Makes a source's call. `Ok(false)`: it is left out.
    fn call(&mut self, now: Time, id: AttemptId, source: Source, again: bool) -> Result<bool, SendError> {
        let conversation = self.attempts.get(id).and_then(|attempt| attempt.conversation.as_ref());
        let Some(conversation) = conversation else { return Ok(false) };
        let request = match (source, &self.credentials.call) {
            (Source::Token, Some(call)) => Some(conversation.token_request(now, call)?),
            (Source::Token, None) => None,
            (Source::Fetch(fetch), _) => conversation.fetch_request(now, fetch, again)?,
        };
        let Some(request) = request else { return Ok(false) };
        self.credentials.asked(source, again);
        if let Some(attempt) = self.attempts.get_mut(id).filter(|attempt| attempt.phase() == Phase::Dialing) {
            attempt.fetching(now.mono, &self.config.upstream);
        }
        self.fetch(Asker::Source(source), Fetch::Http(Box::new(request)));
        Ok(true)
    }

    /// A source's call was answered.
    pub(in crate::relay) fn source_answered(&mut self, now: Time, source: Source, answered: Answered) {
        let again = self.credentials.asked_again(source);
        let supply = answered.map_err(no_supply).and_then(|answer| match (source, &self.credentials.call) {
            (Source::Token, Some(call)) => call.supply(now, &answer),
            (Source::Token, None) => Err(no_supply(FetchError::Broken("nobody asked".to_owned()))),
            (Source::Fetch(fetch), _) => self.dialect.fetch_supply(now, fetch, &answer, again),
        });
        match supply {
            Ok(supply) => {
                supply.secrets().for_each(|value| self.redactor.learn_fetched(value));
                self.source_supplied(now, source, supply);
            }
            Err(no) => self.source_failed(now, source, no),
        }
    }

    fn source_supplied(&mut self, now: Time, source: Source, supply: Supply) {
        self.credentials.supplied(now.mono, source, supply.clone(), &mut self.rng);
        for id in self.attempts.ids() {
            let phase = self.attempts.get(id).map(|attempt| attempt.phase());
            let changed = self.provide(id, source, &supply);
            match (phase, source) {
                (Some(Phase::Dialing), _) => self.prepare(now, id),
                (Some(Phase::Ready), Source::Token) => {
                    if let Some(token) = supply.text() {
                        self.renew(now, id, Secret::new(token));
                    }
                }
                (Some(Phase::Ready), Source::Fetch(fetch))
                    if changed && self.attempts.serves(id) && self.dialect.connection_needs(fetch) =>
                {
                    self.rotate_upstream(now.mono, Why::Credentials);
                }
                _ => {}
            }
        }
    }

    /// Hands over what was supplied. Whether something is another value now.
    fn provide(&mut self, id: AttemptId, source: Source, supply: &Supply) -> bool {
        let awaited = self.next_source(id) == Some(source);
        let Some(attempt) = self.attempts.get_mut(id) else { return false };
        attempt.prepared += usize::from(awaited);
        let Some(conversation) = &mut attempt.conversation else { return false };
        match source {
            Source::Fetch(fetch) => conversation.supply(fetch, supply, None),
            Source::Token => {
                if let Some(token) = supply.text().filter(|_| awaited) {
                    conversation.set_token(Secret::new(token));
                }
                false
            }
        }
    }

    /// What still holds is used on; an attempt that has nothing ends.
    fn source_failed(&mut self, now: Time, source: Source, no: NoSupply) {
        let renewal = self.credentials.holds(now.mono, source).is_some();
        let floor = no.retry_after.unwrap_or_default().max(RENEW_MIN);
        let (link, rng) = (&self.link, &mut self.rng);
        self.credentials.failed(now.mono, source, no.refused, |tries| link.retry_delay(tries, Some(floor), rng));
        if renewal {
            self.stats.auth.refresh_failures += 1;
        }
        let held = self.credentials.holds(now.mono, source).cloned();
        for id in self.attempts.ids() {
            let awaited = self.next_source(id) == Some(source);
            let Some(attempt) = self.attempts.get_mut(id) else { continue };
            match (attempt.phase(), &held) {
                (Phase::Dialing, _) if !awaited => {}
                (Phase::Dialing, Some(supply)) => {
                    self.provide(id, source, supply);
                    self.prepare(now, id);
                }
                (Phase::Dialing, None) => {
                    let message = format!("{}: {}", self.name_of(source), no.message);
                    self.lose(now, id, Ending::Fetch { denied: no.denied, retry_after: no.retry_after, message });
                }
                (Phase::Ready, _) if source == Source::Token => {
                    if !renewal {
                        self.stats.auth.refresh_failures += 1;
                    }
                    attempt.lease.look_again(now.mono);
                }
                _ => {}
            }
        }
    }

    /// The name by which people know a source.
    fn name_of(&self, source: Source) -> String {
        match source {
            Source::Token => "upstream.token_fetch".to_owned(),
            Source::Fetch(fetch) => format!("fetch.{}", self.dialect.fetch_name(fetch)),
        }
    }

    /// The token of the connection that serves runs out: where it comes from is asked for another one.
    pub(in crate::relay) fn renew_due(&mut self, now: Time, id: AttemptId) {
        if self.credentials.call.is_none() {
            self.fetch(Asker::Credentials(id), Fetch::Credentials);
        } else if !self.credentials.is_out(Source::Token) && self.call(now, id, Source::Token, false).is_err() {
            self.stats.auth.refresh_failures += 1;
        }
    }

    /// Another token is there before the old one runs out: tells upstream, or connects anew with it.
    fn renew(&mut self, now: Time, id: AttemptId, token: Secret) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        let Some(conversation) = &mut attempt.conversation else { return };
        if conversation.token() == Some(&token) && conversation.token_expires().is_some() {
            // It was not rotated yet.
            return attempt.lease.look_again(now.mono);
        }
        match conversation.renew(now, token) {
            Ok(outgoing) => {
                let answered = outgoing.answered;
                attempt.stage(outgoing);
                if !answered {
                    self.token_accepted(now, id);
                }
            }
            // It cannot be renewed on this connection: another one is made with it.
            Err(_) if self.attempts.serves(id) => self.rotate_upstream(now.mono, Why::Credentials),
            Err(_) => {}
        }
    }

    /// Upstream accepted a token: it is good for as long as upstream says, or it says itself.
    pub(in crate::relay) fn token_accepted(&mut self, now: Time, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        let Some(conversation) = &attempt.conversation else { return };
        let own = conversation.token_expires().map(|end| Duration::from_nanos(end.0.saturating_sub(now.wall.0)));
        let left = [conversation.timing().token_ttl, own].into_iter().flatten().min();
        attempt.lease.lasts(now.mono, left, &mut self.rng);
        if self.attempts.serves(id) {
            self.trust_who_serves(now);
        }
    }

    /// The connection that serves has shown a token that upstream takes, maybe before it served.
    pub(in crate::relay) fn trust_who_serves(&mut self, now: Time) {
        if self.attempts.active().is_some_and(|active| active.is_ready() && !active.lease.is_over()) {
            self.credentials.accepted();
            self.trust(now, Standing::Good, "");
        }
    }

    /// The token has run out, and no other came: what upstream still sends is taken, messages wait.
    pub(in crate::relay) fn token_over(&mut self, now: Time, id: AttemptId) {
        if self.attempts.serves(id) {
            self.trust(now, Standing::Expired, "the token has run out; messages wait for another one");
        }
    }

    /// An attempt ended because upstream does not take what we show: all of it is got anew.
    pub(in crate::relay) fn credentials_refused(&mut self, now: Time, message: &str) {
        self.stats.auth.failures += 1;
        self.credentials.refused();
        if self.credentials.refusals() >= REFUSALS_TOLD && self.credentials.standing != Standing::Expired {
            self.trust(now, Standing::Failed, message);
        }
    }

    /// What is known against the credentials, told where it changed.
    fn trust(&mut self, now: Time, standing: Standing, message: &str) {
        if self.credentials.standing != standing {
            self.credentials.standing = standing;
            self.outputs.push_back(Output::Notify(Notice::Credentials { standing, detail: message.to_owned() }));
            self.link_moved(now);
        }
    }

    pub(in crate::relay) fn credentials_due(&self) -> Option<Mono> {
        let serves = self.attempts.active().filter(|active| active.is_ready());
        serves.and_then(|_| self.credentials.due())
    }

    /// What calls supplied is renewed while a connection serves; without one the next attempt sees to it.
    pub(in crate::relay) fn credentials_timeout(&mut self, now: Time) {
        let Some(id) = self.attempts.active().filter(|active| active.is_ready()).map(|active| active.id()) else {
            return;
        };
        while let Some(source) = self.credentials.renewal(now.mono) {
            let again = self.credentials.asks_again(now.mono, source);
            if !matches!(self.call(now, id, source, again), Ok(true)) {
                let no = NoSupply { denied: false, refused: false, retry_after: None, message: String::new() };
                self.source_failed(now, source, no);
            }
        }
    }

    /// Makes the call that a channel needs before it can be subscribed on this attempt.
    pub(in crate::relay) fn call_for_channel(&mut self, now: Time, id: AttemptId, channel: ChannelId) {
        let Some(spec) = self.interest.spec(channel) else { return };
        let Some(fetch) = self.dialect.channel_fetch(spec.name) else { return };
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        let request = attempt.conversation.as_ref().map(|known| known.channel_fetch_request(now, fetch, &spec));
        match request {
            Some(Ok(Some(request))) => {
                attempt.acked.set_aside(channel);
                self.fetch(Asker::Channel { attempt: id, channel, fetch }, Fetch::Http(Box::new(request)));
            }
            // It is left out.
            Some(Ok(None)) | None => attempt.acked.grant(channel),
            Some(Err(error)) => {
                let message = format!("fetch.{}: {error}", self.dialect.fetch_name(fetch));
                self.refuse_channel(now, id, channel, ErrorCode::Invalid, &message);
            }
        }
    }

    /// The call for a channel was answered: now it is subscribed, or refused.
    pub(in crate::relay) fn channel_answered(
        &mut self,
        now: Time,
        (id, channel, fetch): (AttemptId, ChannelId, usize),
        answered: Answered,
    ) {
        let Some(attempt) = self.attempts.get_mut(id).filter(|attempt| attempt.acked.is_aside(channel)) else { return };
        let answer = answered.map_err(no_supply);
        match answer.and_then(|answer| self.dialect.fetch_supply(now, fetch, &answer, false)) {
            Ok(supply) => {
                supply.secrets().for_each(|value| self.redactor.learn_fetched(value));
                if let Some(conversation) = &mut attempt.conversation {
                    conversation.supply(fetch, &supply, Some(channel));
                }
                attempt.acked.grant(channel);
            }
            Err(no) => {
                let tries = attempt.acked.tried(channel);
                if no.refused || no.denied || tries >= self.config.interest.ack_attempts {
                    let code = if no.denied { ErrorCode::Forbidden } else { ErrorCode::UpstreamRefused };
                    let message = format!("fetch.{}: {}", self.dialect.fetch_name(fetch), no.message);
                    return self.refuse_channel(now, id, channel, code, &message);
                }
                let floor = no.retry_after.unwrap_or_default().max(RENEW_MIN);
                let wait = self.link.retry_delay(tries, Some(floor), &mut self.rng);
                attempt.acked.retry(channel, now.mono + wait, tries);
            }
        }
    }
}

/// A call that got no answer supplies nothing; asking again may.
fn no_supply(error: FetchError) -> NoSupply {
    NoSupply { denied: false, refused: false, retry_after: None, message: error.to_string() }
}
