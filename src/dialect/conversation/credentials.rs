//! What is fetched for a conversation: requests for calls, and the variables that their answers supply.

use std::time::Duration;

use super::Conversation;
use crate::dialect::fetch::{Supply, Take, UNSET, may_call};
use crate::dialect::http::HttpRequest;
use crate::dialect::variable::Variable;
use crate::dialect::{ChannelSpec, SendError, TokenCall, jwt};
use crate::protocol::request::Secret;
use crate::relay::time::{Time, Wall};

/// What the configuration gives a conversation besides its token.
#[derive(Debug, Clone, Default)]
pub struct Equipment {
    /// `[secrets]`, read for this attempt.
    pub secrets: Vec<(Box<str>, Secret)>,
    /// `upstream.url`
    pub upstream: String,
    /// `upstream.fetch_origins`
    pub origins: Vec<String>,
    /// How long an exchange may take.
    pub timeout: Duration,
    /// When the attempt began; what an address is filled with.
    pub at: Time,
}

impl Conversation {
    /// Hands over what the configuration has for it.
    pub fn equip(&mut self, equipment: Equipment) {
        self.equipment = equipment;
    }

    /// The request of a call that is made before connecting. `again`: its last answer still holds. `Ok(None)`: the call is
    /// left out, because something that it names has no value.
    pub fn fetch_request(&self, now: Time, fetch: usize, again: bool) -> Result<Option<HttpRequest>, SendError> {
        let Some(call) = self.dialect.fetches.get(fetch) else { return Ok(None) };
        let question = call.refresh.as_ref().filter(|_| again).unwrap_or(&call.question);
        let given = &self.equipment;
        let request = question.request(&self.context(now, None), &given.upstream, &given.origins, given.timeout);
        or_left_out(request, call.optional)
    }

    /// The request of a call for one channel.
    pub fn channel_fetch_request(
        &self,
        now: Time,
        fetch: usize,
        channel: &ChannelSpec<'_>,
    ) -> Result<Option<HttpRequest>, SendError> {
        let Some(call) = self.dialect.fetches.get(fetch) else { return Ok(None) };
        let view = self.view(Some(channel.id), channel.name, channel.params)?;
        let given = &self.equipment;
        let context = self.context(now, Some(&view));
        or_left_out(call.question.request(&context, &given.upstream, &given.origins, given.timeout), call.optional)
    }

    /// The request of the configuration's own call for the token.
    pub fn token_request(&self, now: Time, call: &TokenCall) -> Result<HttpRequest, SendError> {
        let given = &self.equipment;
        // The configuration says where it goes: no other origin need be named for it.
        let own = [call.0.question.url.fixed_start().to_owned()];
        call.0.question.request(&self.context(now, None), &given.upstream, &own, given.timeout)
    }

    /// The token to authenticate with.
    pub fn set_token(&mut self, token: Secret) {
        self.token = Some(token);
    }

    /// The token to authenticate with.
    pub fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    /// When the token runs out, if it says so.
    pub fn token_expires(&self) -> Option<Wall> {
        jwt::expires(self.token.as_ref()?.expose())
    }

    /// Stores what a call supplied; of a call for a channel, for that channel. Whether something is another value now.
    pub fn supply(&mut self, fetch: usize, supply: &Supply, channel: Option<crate::dialect::ChannelId>) -> bool {
        let Some(call) = self.dialect.fetches.get(fetch) else { return false };
        let mut changed = false;
        for (Take { variable, .. }, value) in call.take.iter().zip(&supply.values) {
            let Some(value) = value else { continue };
            let old = match variable {
                Variable::Session(slot) => self.variables.session(*slot),
                Variable::OfChannel(slot) => channel.and_then(|channel| self.variables.of_channel(channel, *slot)),
                _ => None,
            };
            changed |= old != Some(value.as_str()).filter(|value| *value != UNSET);
            let channels: Vec<_> = channel.into_iter().collect();
            self.variables.set(&self.dialect.names, variable, Some(value), &channels);
        }
        changed
    }

    /// Stores what a recording shows of the values that calls before the connection supplied; for rehearsals.
    pub(in crate::dialect) fn supply_shown(&mut self, shown: impl Fn(&str) -> Option<String>) {
        for Take { variable, .. } in self.dialect.fetches.iter().flat_map(|call| &call.take) {
            let Variable::Session(slot) = variable else { continue };
            if let Some(value) = self.dialect.names.session.get(*slot).and_then(|name| shown(name)) {
                self.variables.set(&self.dialect.names, variable, Some(&value), &[]);
            }
        }
    }

    /// Whether an address that a template gave may be connected to: one that a call supplied only where it may call.
    pub(super) fn may_connect(&self, url: &str) -> Result<(), SendError> {
        let fetched = |variable: &Variable| match variable {
            Variable::Session(slot) => self
                .dialect
                .fetches
                .iter()
                .flat_map(|fetch| &fetch.take)
                .any(|taken| matches!(taken.variable, Variable::Session(supplied) if supplied == *slot)),
            _ => false,
        };
        match &self.dialect.connect.url {
            Some(template) if template.uses(fetched) => {
                may_call(url, &self.equipment.upstream, &self.equipment.origins).map_err(SendError::Invalid)
            }
            _ => Ok(()),
        }
    }
}

/// An optional call is left out where something that it names has no value.
fn or_left_out(request: Result<HttpRequest, SendError>, optional: bool) -> Result<Option<HttpRequest>, SendError> {
    match request {
        Ok(request) => Ok(Some(request)),
        Err(SendError::Unset(_)) if optional => Ok(None),
        Err(error) => Err(error),
    }
}
