//! Link, attempt and interest meet: connecting, endings, timeouts, what people ask of the link and are shown of it.

use std::sync::Arc;
use std::time::Duration;

use crate::dialect::Then;
use crate::protocol::codes::ErrorCode;
use crate::protocol::control::Object;
use crate::protocol::duration::millis;
use crate::relay::Relay;
use crate::relay::attempt::{Attempt, Due, Ending, Phase};
use crate::relay::interest::Standing;
use crate::relay::link::{self, Plan};
use crate::relay::pairs::{AttemptId, Disconnect, Fetch, Output};
use crate::relay::redact::address;
use crate::relay::stats::{GapReason, LinkState};
use crate::relay::time::{Mono, Time};
use crate::relay::unsettled::Sequel;

use super::fetches::Asker;

impl Relay {
    /// The attempt of this number, unless it is over: then what is said of it is stale.
    pub(in crate::relay) fn attempt_mut(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        self.attempts.get_mut(id)
    }

    /// Everything that the connection needs is there: asks the carrier to connect.
    pub(in crate::relay) fn dial(&mut self, now: Time, id: AttemptId) {
        let Some((at, transport)) = self.attempts.get(id).map(|attempt| (attempt.endpoint, attempt.transport)) else {
            return;
        };
        let addressed = self.to_address(transport);
        let config = Arc::clone(&self.config);
        let upstream = &config.upstream;
        let taken = self.attempts.get_mut(id).and_then(|attempt| attempt.conversation.take());
        let Some(mut conversation) = taken else { return };
        let channels = self.specs(&addressed);
        let request =
            conversation.connect_request(transport, self.link.endpoints.url(at), &upstream.headers, &channels);
        let goes_on = conversation.goes_on();
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        attempt.conversation = Some(conversation);
        (attempt.addressed, attempt.goes_on) = (addressed, goes_on);
        match request {
            Ok(request) => {
                attempt.connecting(now.mono, upstream);
                self.outputs.push_back(Output::Connect { attempt: attempt.id(), request });
            }
            Err(error) => {
                let words = format!("{error}; what the dialect's [connect] needs comes from upstream.params");
                self.lose(now, id, Ending::Unbuildable(words));
            }
        }
    }

    pub(in crate::relay) fn connected(&mut self, now: Time, attempt: AttemptId, peer: String) {
        let config = Arc::clone(&self.config);
        let patience = self.patience();
        let Some(opened) = self.attempt_mut(attempt).filter(|opened| opened.phase() == Phase::Handshake) else {
            return;
        };
        opened.opened(now.mono, &config.upstream, peer);
        opened.heartbeat.set_patience(patience);
        self.converse(now, now, attempt, |conversation, heard| conversation.opened(now, heard));
        self.settle(now, attempt);
    }

    pub(in crate::relay) fn disconnected(&mut self, now: Time, attempt: AttemptId, reason: Disconnect) {
        let Some(lost) = self.attempt_mut(attempt) else { return };
        let asked = lost.phase() == Phase::Draining;
        self.lose(now, attempt, Ending::Carrier(if asked { Disconnect::Asked } else { reason }));
    }

    /// The attempt is over for the relay, whatever its carrier still does.
    pub(in crate::relay) fn abandon(&mut self, now: Time, id: AttemptId, ending: Ending) {
        if self.attempts.get(id).is_some_and(|attempt| attempt.phase() > Phase::Dialing) {
            self.part_with(id);
        }
        self.lose(now, id, ending);
    }

    /// Asks the carrier to close a connection, in the way that its session wants it.
    pub(in crate::relay) fn part_with(&mut self, id: AttemptId) {
        let conversation = self.attempts.get_mut(id).and_then(|attempt| attempt.conversation.as_mut());
        let farewell = conversation.and_then(|conversation| conversation.farewell()).map(Box::new);
        self.outputs.push_back(Output::Disconnect { attempt: id, code: self.dialect.ours(), farewell });
    }

    /// The attempt is gone: what was live on it may have a hole, what was in flight may have left.
    pub(in crate::relay) fn lose(&mut self, now: Time, id: AttemptId, ending: Ending) {
        // What upstream said goes to log, status and clients from here.
        let ending = ending.worded(|words| self.redactor.text(words));
        let serves = self.attempts.serves(id);
        let Some(attempt) = self.attempts.remove(id) else { return };
        if ending == Ending::Heartbeat {
            self.round_trips.unanswered();
        }
        let code = match &ending {
            Ending::Carrier(Disconnect::Closed { code, .. } | Disconnect::BadStatus { status: code, .. }) => {
                Some(*code)
            }
            _ => None,
        };
        self.way_ended(now, &attempt, &ending);
        let conversation = attempt.conversation.as_ref();
        let on_close: Option<Then> = match ending {
            Ending::Carrier(Disconnect::Ended) => conversation.and_then(|talk| talk.retry()).map(Then::Pause),
            _ => code.and_then(|code| self.dialect.on_close(code)),
        };
        if protocol_error(&ending) {
            self.stats.link.protocol_errors += 1;
        }
        if link::plan(&ending, on_close) == Plan::Credentials {
            self.credentials_refused(now, &ending.detail());
        } else if ending.reason() == "denied" {
            self.stats.auth.failures += 1;
        }
        if !serves {
            return self.second_lost(now, &attempt, &ending, on_close);
        }
        let fatal = link::plan(&ending, on_close) == Plan::Fatal;
        let oversize = ending == Ending::Carrier(Disconnect::Oversize);
        // A session that went on would begin with the message that was too large, or is none.
        let malformed = matches!(ending, Ending::Malformed(_));
        let forget = fatal || oversize || malformed || code.is_some_and(|code| self.dialect.forgets_on_close(code));
        let conversation = attempt.conversation.as_ref().filter(|_| !forget);
        let from_place = conversation.is_some_and(|conversation| conversation.goes_on());
        // A candidate, if there is one, has a session of its own.
        let in_session = self.attempts.is_empty() && conversation.is_some_and(|conversation| conversation.may_go_on());
        let may_go_on = from_place || in_session;
        let may_switch = self.link.ladder.has_several() && !fatal && !oversize && !malformed;
        let was_ready = attempt.ready_at().is_some();
        self.reorder_timeout(None);
        self.repairs.attempt_lost();
        self.refreshes_timeout(None);
        if was_ready {
            self.stats.link.lost += u64::from(ending != Ending::Carrier(Disconnect::Asked));
            let reason = if oversize { GapReason::Oversize } else { GapReason::Reconnect };
            let live = self.lost_with(&attempt);
            self.connection_lost(now, &live, reason, may_go_on || may_switch);
        } else if forget {
            self.settle_losses(now, Sequel::Lost);
        }
        if let Some(conversation) = attempt.conversation {
            self.link.carried = Some(conversation.into_carried(forget));
        }
        self.interest.attempt_lost();
        self.stats.link.disconnects.bump(ending.reason());
        self.link.ended(now.mono, &ending, on_close, &mut self.rng);
        if !may_go_on && self.link.state() != LinkState::BackingOff {
            // No other connection will say it soon.
            self.settle_losses(now, Sequel::Lost);
        }
        if self.link.held_until().is_some_and(|until| until > now.mono) {
            self.tally.touch();
        }
        if was_ready {
            if code == Some(1009) {
                // What upstream found too large is never taken for anything else again.
                self.outbox.reject_largest(now, ErrorCode::TooLarge.text());
            }
            self.messages_lost(now);
        }
        self.succeed(now, from_place);
        self.link_moved(now);
    }

    /// Closes the connection, if there is one, in an orderly way: what still comes in counts.
    fn close_upstream(&mut self, now: Time) {
        self.drop_candidate(now);
        match self.attempts.active_mut() {
            Some(attempt) if attempt.phase() == Phase::Dialing => {
                let id = attempt.id();
                self.lose(now, id, Ending::Carrier(Disconnect::Asked));
            }
            Some(attempt) if attempt.phase() != Phase::Draining => {
                attempt.drain(now.mono);
                let id = attempt.id();
                self.part_with(id);
                self.link_moved(now);
            }
            Some(_) | None => self.link_moved(now),
        }
    }

    /// `POST /v1/upstream/reconnect`: drop the connection and forget backoff, also after giving up. Not while paused.
    pub(in crate::relay) fn reconnect_upstream(&mut self, now: Time) {
        if self.link.reconnect(now.mono) {
            self.close_upstream(now);
        }
    }

    /// `POST /v1/upstream/pause`: close and stay closed.
    pub(in crate::relay) fn pause_upstream(&mut self, now: Time) {
        if self.link.pause(now.mono) {
            self.close_upstream(now);
        }
    }

    /// `POST /v1/upstream/resume`: end a pause.
    pub(in crate::relay) fn resume_upstream(&mut self, now: Time) {
        if self.link.resume(now.mono) {
            self.link_moved(now);
        }
    }

    /// The relay drains: close and never connect again.
    pub(in crate::relay) fn leave_upstream(&mut self, now: Time) {
        self.link.stop(now.mono);
        self.close_upstream(now);
    }

    /// Whether no connection is left.
    pub(in crate::relay) fn upstream_is_gone(&self) -> bool {
        self.attempts.is_empty()
    }

    pub(in crate::relay) fn upstream_due(&self) -> Option<Mono> {
        let begin = self.link.due().filter(|_| self.attempts.active().is_none() && self.may_connect());
        let begin = begin.map(|due| self.next_connect(due).unwrap_or(due));
        let token = self.link.pacing.due().filter(|_| self.attempts.iter().any(Attempt::may_send));
        let attempts = self.attempts.iter().filter_map(Attempt::due);
        // A poll whose time has come waits for its token like everything else.
        let poll = self.attempts.iter().filter_map(Attempt::poll_due).min();
        let poll = poll.map(|due| token.map_or(due, |token| token.max(due)));
        attempts
            .chain(
                [
                    begin,
                    token,
                    poll,
                    self.address_due(),
                    self.interest.due(),
                    self.handover_due(),
                    self.upgrade_due(),
                    self.credentials_due(),
                ]
                .into_iter()
                .flatten(),
            )
            .min()
    }

    pub(in crate::relay) fn upstream_timeout(&mut self, now: Time) {
        self.interest.expire(now.mono);
        self.address_timeout(now);
        if self.attempts.active().is_none()
            && self.may_connect()
            && self.link.due().is_some_and(|due| due <= now.mono)
            && self.take_connect(now)
            && let Some(id) = self.link.begin(now.mono)
        {
            let attempt = self.new_attempt(now, id, true);
            self.attempts.begin(attempt);
            self.overlap.followed_by(id);
            self.fetch(Asker::Credentials(id), Fetch::Credentials);
            self.stats.link.attempts += 1;
            self.link_moved(now);
        }
        self.credentials_timeout(now);
        self.handover_timeout(now);
        self.upgrade_timeout(now);
        for id in self.attempts.ids() {
            self.attempt_timeout(now, id);
            self.subscribes_timeout(now, id);
        }
    }

    fn attempt_timeout(&mut self, now: Time, id: AttemptId) {
        while let Some(due) = self.attempts.get_mut(id).and_then(|attempt| attempt.timeout(now.mono)) {
            match due {
                Due::Over(ending) => return self.abandon(now, id, ending),
                Due::Uncounted => return self.dial_uncounted(now, id),
                Due::PollHeld => {
                    self.polls_get_through(now, id);
                    self.settle(now, id);
                }
                Due::Renew => self.renew_due(now, id),
                Due::Expired => self.token_over(now, id),
                Due::DialectPing => {
                    self.adopt_timing(now, id);
                    let Some(attempt) = self.attempts.get_mut(id) else { return };
                    let ping = attempt.conversation.as_mut().and_then(|conversation| conversation.ping(now));
                    ping.into_iter().for_each(|ping| attempt.stage(ping));
                }
            }
        }
    }

    /// Subscribes that upstream did not answer in time are sent again, up to `interest.ack_attempts`.
    fn subscribes_timeout(&mut self, now: Time, id: AttemptId) {
        while let Some(attempt) = self.attempts.get_mut(id)
            && let Some(late) = attempt.acked.unanswered(now.mono)
        {
            self.stats.interest.timeouts += 1;
            if let Some(conversation) = &mut attempt.conversation {
                conversation.give_up(late.request);
            }
            if late.tries < self.config.interest.ack_attempts {
                attempt.acked.requeue(late.channel);
                self.reached(id, late.channel, Standing::Wanted);
                continue;
            }
            if let Some(spec) = self.interest.spec(late.channel) {
                // It may be subscribed all the same.
                attempt.leaving.enqueue(late.channel, spec.name.into(), spec.params.map(Into::into), None);
            }
            let message = format!("no answer to {} subscribes: does upstream know the channel?", late.tries);
            self.refuse_channel(now, id, late.channel, ErrorCode::UpstreamTimeout, &message);
        }
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        attempt.acked.wake(now.mono);
        while let Some((channel, request)) = attempt.leaving.unanswered(now.mono) {
            if let Some(conversation) = &mut attempt.conversation {
                conversation.give_up(request);
                conversation.forget_channel(channel);
            }
        }
    }

    /// The intervals that upstream may have set since they were last looked at.
    pub(in crate::relay) fn adopt_timing(&mut self, now: Time, id: AttemptId) {
        let pings = self.dialect.has_ping();
        if let Some(attempt) = self.attempts.get_mut(id)
            && let Some(conversation) = &attempt.conversation
        {
            attempt.heartbeat.set_timing(now.mono, conversation.timing(), pings);
        }
    }

    /// The link's state may have changed: counted and told.
    pub(in crate::relay) fn link_moved(&mut self, now: Time) {
        self.stats.link.state = Some(self.link.state());
        self.link_changed(now);
        self.sync_with_link(now);
    }

    /// Whether an attempt is ready.
    pub(in crate::relay) fn link_is_live(&self) -> bool {
        self.link.state() == LinkState::Live
    }

    /// The state's word.
    pub(in crate::relay) fn link_word(&self) -> &'static str {
        self.link.state().text()
    }

    /// How long the link has not been live; `None` while it is.
    pub(in crate::relay) fn link_down_for(&self, now: Time) -> Option<Duration> {
        self.link.down_since().map(|since| now.mono.since(since))
    }

    /// The link for `$status` and `GET /v1/status`: state, since when, where, attempts without success, the next one,
    /// and how the last one ended.
    pub(in crate::relay) fn link_json(&self, now: Time) -> Vec<u8> {
        let since =
            crate::relay::time::Wall(now.wall.0.saturating_sub(now.mono.since(self.link.since()).as_nanos() as u64));
        let transport = self.attempts.active().map_or(self.link.ladder.transport(), |active| active.transport);
        let mut object = Object::new()
            .text("state", self.link_word())
            .text("since", &since.rfc3339())
            .text("transport", transport.text())
            .text("endpoint", &self.endpoint_shown())
            .text_if("peer", self.attempts.active().and_then(Attempt::peer))
            .text_if("auth", self.credentials.standing.text())
            .number("failures", u64::from(self.link.failures()));
        if self.config.upstream.endpoints.len() > 1 {
            object = object.raw("endpoints", &self.endpoints_json(now));
        }
        if let (Some(p50), Some(p99)) = (self.round_trips.p50(), self.round_trips.p99()) {
            object = object.number("rtt_p50_ms", millis(p50)).number("rtt_p99_ms", millis(p99));
        }
        if let Some(active) = self.attempts.active().filter(|active| active.is_ready()) {
            object = object.number("ping_deadline_ms", millis(active.heartbeat.deadline()));
        }
        if let Some(next) = self.link.due() {
            object = object.number("next_attempt_ms", millis(next.since(now.mono)));
        }
        if let Some(last) = self.link.last_ending() {
            let ending = Object::new()
                .text("reason", last.reason)
                .text("detail", &last.detail)
                .number("age_ms", millis(now.mono.since(last.at)))
                .number("live_for_ms", millis(last.live_for));
            object = object.raw("last_ending", &ending.end());
        }
        object.end()
    }

    /// How long a write to upstream has waited for the network.
    pub(in crate::relay) fn write_stall(&self, now: Time) -> Duration {
        self.attempts.iter().filter_map(|attempt| attempt.writing_for(now.mono)).max().unwrap_or_default()
    }

    /// Upstream's address without what may be secret.
    pub(in crate::relay) fn endpoint_shown(&self) -> String {
        address(self.link.endpoints.url(self.attempts.active().map_or(0, |active| active.endpoint)))
    }

    /// The gauges that are counted only when somebody looks.
    pub(in crate::relay) fn refresh_upstream_stats(&mut self, now: Time) {
        self.stats.link.write_stall = self.write_stall(now);
        self.stats.link.connects_left = self.link.connects.as_ref().map(|bucket| bucket.left(now.mono));
        self.stats.link.frames_left = self.link.pacing.reserve().map(|reserve| reserve.bucket().left(now.mono));
        self.stats.auth.token_until = self.attempts.active().and_then(|active| active.lease.ends(now));
        let counts = self.interest.counts();
        self.stats.link.state = Some(self.link.state());
        self.stats.interest.wanted = counts.wanted as u64;
        self.stats.interest.active = counts.live as u64;
        self.stats.interest.waiting = counts.waiting as u64;
        self.stats.interest.failed = counts.refused as u64;
    }
}

/// Whether an ending says that one side broke the protocol.
fn protocol_error(ending: &Ending) -> bool {
    match ending {
        Ending::Carrier(Disconnect::Closed { code, .. }) => matches!(code, 1002 | 1003 | 1007 | 1010),
        Ending::Carrier(reason) => {
            matches!(reason, Disconnect::Protocol(_) | Disconnect::NotUtf8 | Disconnect::BadUpgrade(_))
        }
        _ => false,
    }
}
