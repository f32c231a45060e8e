//! Clients ask for the present state of a channel: upstream is asked once for all of them, and each is told how it went.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::dialect::{Purpose, SendError, Wish};
use crate::protocol::codes::ErrorCode;
use crate::protocol::control::{self, Object};
use crate::protocol::request::ChannelRequest;
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::feed::RingId;
use crate::relay::meet::messages::waiting::Asker;
use crate::relay::naming;
use crate::relay::pairs::Reply;
use crate::relay::refresh::{Found, Subject};
use crate::relay::repair::{How, Opened, Wound};
use crate::relay::stats::{Cost, GapReason};
use crate::relay::time::{Mono, Time};

/// Asked in-band, by the dialect's `[send] state`.
const STATE: &str = "state";

/// Why there is no refresh.
struct Refusal {
    code: ErrorCode,
    message: &'static str,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn new(code: ErrorCode, message: &'static str) -> Self {
        Refusal { code, message, retry_after: None }
    }
}

/// The key to ask for. A local channel that is one key of its upstream channel gives rights to that key and to no other.
fn own_key(own: Option<String>, asked: Option<Box<str>>) -> Result<Option<Box<str>>, Refusal> {
    match (own, asked) {
        (Some(own), Some(asked)) if *own != *asked => {
            Err(Refusal::new(ErrorCode::Invalid, "the channel is one key of its upstream channel: leave key out"))
        }
        (Some(own), _) => Ok(Some(own.into())),
        (None, asked) => Ok(asked),
    }
}

impl Relay {
    /// `refresh` by a session or over HTTP.
    pub(in crate::relay) fn refresh(
        &mut self,
        now: Time,
        asker: Asker,
        principal: &Arc<Principal>,
        channel: &ChannelRequest,
        key: Option<Box<str>>,
    ) {
        let begun = self.begin_refresh(now, &asker, principal, channel, key);
        match begun {
            Ok(None) => {}
            Ok(Some(how)) => self.answer_refresh(&asker, how, true),
            Err(refusal) => self.refuse_refresh(&asker, &refusal),
        }
    }

    /// `Some`: it is answered at once, in this way; `None`: the answer comes later.
    fn begin_refresh(
        &mut self,
        now: Time,
        asker: &Asker,
        principal: &Arc<Principal>,
        channel: &ChannelRequest,
        key: Option<Box<str>>,
    ) -> Result<Option<&'static str>, Refusal> {
        if !principal.may_read(&channel.name) {
            return Err(Refusal::new(ErrorCode::Forbidden, "not among the channels that this principal may read"));
        }
        let named = naming::resolve(&self.config, self.dialect.secret_params(), channel).ok();
        let not_carried = || Refusal::new(ErrorCode::NotFound, "not carried now: subscribe it first");
        let named = named.filter(|_| !channel.name.starts_with('$')).ok_or_else(not_carried)?;
        let key = own_key(named.key, key)?;
        let ring = self.feed.find(&named.local).ok_or_else(not_carried)?;
        let ring = self.whole_of(ring).unwrap_or(ring);
        let how = self.refresh_by(ring)?;
        if self.upstream_word(ring) != "live" {
            return Err(Refusal::new(ErrorCode::Unavailable, "the channel is not live upstream now"));
        }
        // What is fetched or subscribed anew brings all keys: one question for all of them.
        let subject = (ring, key.filter(|_| how.is_none() && self.dialect.has_state_of_keys()));
        match self.refreshes.want(now.mono, &subject, self.config.interest.refresh_ttl, || asker.clone()) {
            Found::Fresh(how) => return Ok(Some(how)),
            Found::Joined => return Ok(None),
            Found::Full => return Err(Refusal::new(ErrorCode::LimitExceeded, "too many refreshes are under way")),
            Found::New => {}
        }
        if let Err(wait) = self.spend(now.mono, Cost::Refresh, Some(&principal.name)) {
            self.stats.repair.refused.bump(Cost::Refresh);
            let refused = Refusal::new(ErrorCode::LimitExceeded, "the budget for refreshes is spent");
            return Err(Refusal { retry_after: Some(wait), ..refused });
        }
        let waits = match how {
            Some(how) => self.refresh_by_repair(now, ring, how)?,
            None => self.ask_state(now, ring, subject.1.as_deref())?,
        };
        let how = how.map_or(STATE, How::text);
        if waits {
            self.refreshes.ask(now.mono, subject, how, asker.clone());
        }
        Ok((!waits).then_some(how))
    }

    /// How a channel is refreshed; `None`: in-band.
    fn refresh_by(&self, ring: RingId) -> Result<Option<How>, Refusal> {
        if self.dialect.has_state() {
            Ok(None)
        } else if self.dialect.repair_states() == Some(true) && self.can_fetch(ring) {
            Ok(Some(How::Fetch))
        } else if self.dialect.states() && self.dialect.unsubscribes() {
            Ok(Some(How::Resubscribe))
        } else {
            Err(Refusal::new(ErrorCode::NotSupported, "the dialect knows no way to ask for the state of this channel"))
        }
    }

    fn refresh_by_repair(&mut self, now: Time, ring: RingId, how: How) -> Result<bool, Refusal> {
        let floor = self.sequence.newest(ring).map_or(0, |(number, _)| number);
        let wound = Wound { missing: None, floor, told: false, sound: true, reason: GapReason::UpstreamSeq };
        match self.repairs.open(now.mono, ring, how, wound) {
            Opened::UnderWay => Ok(true),
            Opened::Resting => Err(Refusal::new(ErrorCode::Unavailable, "it was tried in vain not long ago")),
        }
    }

    /// Asks in-band. Whether upstream answers that.
    fn ask_state(&mut self, now: Time, ring: RingId, key: Option<&str>) -> Result<bool, Refusal> {
        let unavailable = || Refusal::new(ErrorCode::Unavailable, "the link to upstream is not live");
        let upstream = self.feed.ring(ring).and_then(|ring| ring.upstream);
        let spec = upstream.and_then(|channel| self.interest.spec(channel)).ok_or_else(unavailable)?;
        let active = self.attempts.active_mut().filter(|attempt| attempt.is_ready()).ok_or_else(unavailable)?;
        let conversation = active.conversation.as_mut().ok_or_else(unavailable)?;
        match conversation.state(now, &spec, Wish { key, missing: None }) {
            Ok(outgoing) => {
                let answered = outgoing.answered;
                active.stage(outgoing);
                Ok(answered)
            }
            Err(SendError::Unset(name)) if name == "key" => {
                Err(Refusal::new(ErrorCode::Invalid, "`key` is missing: this service is asked item by item"))
            }
            Err(_) => Err(Refusal::new(ErrorCode::Invalid, "the dialect's template for it cannot be filled")),
        }
    }

    /// Upstream answered a question for the state of a channel, or refused it.
    pub(in crate::relay) fn state_answered(&mut self, now: Time, purpose: &Purpose, good: bool) {
        if let Purpose::State(channel, key) = purpose {
            for ring in self.feed.rings_of(*channel) {
                self.refreshed(now.mono, &(ring, key.clone()), STATE, good);
            }
        }
    }

    /// This was refreshed in this way, or that failed.
    pub(in crate::relay) fn refreshed(&mut self, now: Mono, subject: &Subject, how: &'static str, good: bool) {
        for asker in self.refreshes.end(now, subject, how, good) {
            self.answer_refresh(&asker, how, good);
        }
    }

    fn answer_refresh(&mut self, asker: &Asker, how: &'static str, good: bool) {
        if !good {
            let failed = Refusal::new(ErrorCode::UpstreamTimeout, "upstream did not give the state");
            return self.refuse_refresh(asker, &failed);
        }
        match asker {
            Asker::Session(session, reference) => {
                let frame = control::refreshed(reference.as_ref(), how);
                self.tell(*session, frame);
            }
            Asker::Call(call) => {
                let body = Bytes::from(Object::new().text("refreshed", how).end());
                self.answer(*call, Reply::Json { status: 200, body, location: None });
            }
        }
    }

    fn refuse_refresh(&mut self, asker: &Asker, refusal: &Refusal) {
        let Refusal { code, message, retry_after } = *refusal;
        match asker {
            Asker::Session(session, reference) if code.retryable() => {
                // Not the client's fault: does not count against it.
                self.stats.sessions.errors.bump(code.text());
                self.tell(*session, control::error(reference.as_ref(), None, code, message, retry_after));
            }
            Asker::Session(session, reference) => {
                self.refuse(*session, reference.as_ref(), None, code, message, retry_after);
            }
            Asker::Call(call) => {
                self.answer(*call, Reply::Problem { code, message: message.to_owned(), retry_after });
            }
        }
    }

    pub(in crate::relay) fn refreshes_due(&self) -> Option<Mono> {
        self.refreshes.due()
    }

    /// Ends the questions that were open for too long; all of them where `now` is `None`: the connection is gone.
    pub(in crate::relay) fn refreshes_timeout(&mut self, now: Option<Mono>) {
        for asker in self.refreshes.overdue(now) {
            self.answer_refresh(&asker, STATE, false);
        }
    }

    /// The channel is not carried any more: whoever waits for its state hears that it does not come.
    pub(in crate::relay) fn forget_refreshes(&mut self, ring: RingId) {
        for asker in self.refreshes.forget(ring) {
            self.answer_refresh(&asker, STATE, false);
        }
    }
}
