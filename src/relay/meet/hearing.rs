//! What upstream says meets those whom it concerns: frames become events, acks, refusals, and changes of the link.
//!
//! While the dialect tells what a frame meant, its conversation is out of the attempt; whatever needs it, or ends the attempt,
//! is left to [`Relay::settle`], after the last frame at hand.

use std::borrow::Cow;
use std::time::Duration;

use crate::dialect::{ChannelId, Conversation, Heard, Outgoing, Purpose, RequestId, Target, Then, WireFrame};
use crate::protocol::codes::ErrorCode;
use crate::relay::Relay;
use crate::relay::attempt::{Ending, Phase};
use crate::relay::interest::Standing;
use crate::relay::outbox::Confirm;
use crate::relay::pairs::{AttemptId, Notice, Output};
use crate::relay::stats::{GapReason, ThrottlePlace};
use crate::relay::time::Time;

/// Longest words of upstream's that are kept and passed on.
const WORDS_MAX: usize = 500;

/// A refusal as upstream gave it.
struct Refusal<'a> {
    code: Option<Cow<'a, str>>,
    message: Option<Cow<'a, str>>,
    then: Option<Then>,
    retry_after: Option<Duration>,
}

impl Refusal<'_> {
    /// Upstream's words, for people.
    fn words(&self) -> String {
        let words = match (&self.code, &self.message) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(only), None) | (None, Some(only)) => only.to_string(),
            (None, None) => "upstream gave no reason".to_owned(),
        };
        cut(words)
    }
}

impl Relay {
    pub(in crate::relay) fn received(&mut self, now: Time, attempt: AttemptId, at: Time, frames: &[WireFrame]) {
        let Some(active) = self.attempt_mut(attempt) else { return };
        active.heartbeat.frame(at.mono);
        let (mut bytes, mut pings, mut data) = (0, 0, false);
        for frame in frames {
            let (WireFrame::Text(body) | WireFrame::Binary(body) | WireFrame::Ping(body) | WireFrame::Pong(body)) =
                frame;
            bytes += body.len() as u64;
            match frame {
                WireFrame::Text(_) | WireFrame::Binary(_) => data = true,
                WireFrame::Ping(_) => pings += 1,
                WireFrame::Pong(body) => self.ponged(at, attempt, body),
            }
        }
        self.stats.link.frames_in += frames.len() as u64;
        self.stats.link.bytes_in += bytes;
        self.stats.link.last_frame = Some(at.wall);
        self.link.pacing.ponged(now.mono, pings);
        if data {
            let mut strange = None;
            self.converse(now, at, attempt, |conversation, heard| {
                for frame in frames {
                    if matches!(frame, WireFrame::Text(_) | WireFrame::Binary(_)) {
                        conversation.receive(at, frame, &mut |what| {
                            strange = strange.or_else(|| Some((not_understood(&what)?, frame)));
                            heard(what);
                        });
                    }
                }
            });
            if let Some((why, frame)) = strange
                && let Some((sample, left_out)) = self.samples.take(now.mono, frame)
            {
                self.outputs.push_back(Output::Notify(Notice::NotUnderstood { why, sample, left_out }));
            }
        }
        self.settle(now, attempt);
    }

    fn ponged(&mut self, at: Time, attempt: AttemptId, body: &[u8]) {
        if let Some(trip) = self.attempt_mut(attempt).and_then(|active| active.heartbeat.pong(at.mono, body)) {
            self.stats.link.rtt.observe(trip);
            if !self.dialect.has_ping() {
                self.barrier_passed(at);
            }
        }
    }

    /// Lets the conversation of an attempt tell what something means, received at `at`.
    pub(super) fn converse(
        &mut self,
        now: Time,
        at: Time,
        attempt: AttemptId,
        talk: impl FnOnce(&mut Conversation, &mut dyn FnMut(Heard<'_>)),
    ) {
        let Some(mut conversation) = self.attempt_mut(attempt).and_then(|active| active.conversation.take()) else {
            return;
        };
        talk(&mut conversation, &mut |heard| self.heard(now, at, attempt, heard));
        if let Some(active) = self.attempt_mut(attempt) {
            active.conversation = Some(conversation);
        }
    }

    /// Carries out what had to wait until the conversation was back.
    pub(super) fn settle(&mut self, now: Time, attempt: AttemptId) {
        let Some(active) = self.attempt_mut(attempt) else { return };
        for channel in active.take_forgotten() {
            if let Some(conversation) = &mut active.conversation {
                conversation.forget_channel(channel);
            }
        }
        // One that we close already ends as we asked for.
        let ending = active.take_ending().filter(|_| active.phase() != Phase::Draining);
        let news = active.take_news();
        if let Some(ending) = ending {
            self.abandon(now, ending);
        } else if news {
            self.adopt_timing(now);
            self.token_accepted(now);
        }
    }

    fn heard(&mut self, now: Time, at: Time, attempt: AttemptId, heard: Heard<'_>) {
        match heard {
            Heard::Event(event) => self.admit(at, attempt, &event),
            Heard::Acked { request, purpose, data } => self.heard_ack(now, request, &purpose, data.as_deref()),
            Heard::Refused { about, target, code, message, then, retry_after } => {
                let refusal = Refusal { code, message, then, retry_after };
                self.heard_refusal(now, about.map(|(_, purpose)| purpose), target, &refusal);
            }
            Heard::Ready { resumed } => self.heard_ready(now, resumed),
            Heard::Denied { message, then } => {
                let message = cut(message.unwrap_or_default().into_owned());
                self.end_attempt(Ending::Denied { message, then });
            }
            Heard::Gone { target, code, message, then } => {
                self.heard_gone(now, target, &Refusal { code, message, then, retry_after: None });
            }
            Heard::Lost { target } => self.target_lost(at, target),
            Heard::Reconnect { retry_after } => {
                let message = "upstream asks for a new connection".to_owned();
                self.end_attempt(Ending::Told { then: Then::Reconnect, retry_after, message });
            }
            Heard::Pong { request } => {
                let active = self.attempt_mut(attempt);
                if let Some(trip) = active.and_then(|active| active.heartbeat.dialect_pong(at.mono, request)) {
                    self.stats.link.rtt.observe(trip);
                    self.barrier_passed(at);
                }
            }
            Heard::Send(outgoing) => self.stage_reply(attempt, outgoing),
            Heard::Ignored => {}
            Heard::Unmatched => self.stats.dialect.unmatched += 1,
            Heard::Unextracted(_) => self.stats.dialect.unextracted += 1,
            Heard::Malformed => self.stats.dialect.malformed += 1,
        }
    }

    fn stage_reply(&mut self, attempt: AttemptId, outgoing: Outgoing) {
        if let Some(active) = self.attempt_mut(attempt) {
            active.stage(outgoing);
        }
    }

    /// Ends the attempt once the frames at hand are handled.
    fn end_attempt(&mut self, ending: Ending) {
        if let Some(active) = self.active.as_mut() {
            active.end(ending);
        }
    }

    /// Authentication is done: everything wanted is subscribed, or live at once.
    fn heard_ready(&mut self, now: Time, resumed: bool) {
        let Some(took) = self.active.as_mut().and_then(|active| active.ready(now.mono)) else { return };
        self.stats.link.ready += 1;
        self.stats.link.connect.observe(took);
        self.link.ready(now.mono);
        let wanted = self.interest.attempt_ready();
        let mut live = Vec::new();
        if let Some(active) = self.active.as_mut().filter(|_| self.dialect.subscribes()) {
            for (channel, again) in wanted {
                let lane = self.interest.priority(channel);
                if resumed && again {
                    active.acked.carry_over(now.mono, channel, lane);
                    live.push(channel);
                } else {
                    active.acked.enqueue(channel, lane, again);
                }
            }
        }
        self.link_moved(now);
        for channel in live {
            self.came_live(channel);
        }
    }

    /// Upstream sends this channel's events from here on.
    pub(super) fn came_live(&mut self, channel: ChannelId) {
        self.interest.stand(channel, Standing::Live);
        self.join_live(channel);
    }

    fn heard_ack(&mut self, now: Time, request: Option<RequestId>, purpose: &Purpose, data: Option<&[u8]>) {
        let mut news = request.is_some();
        match purpose {
            Purpose::Subscribe(channels) => {
                for channel in channels {
                    if self.active.as_mut().is_some_and(|active| active.acked.live(now.mono, *channel)) {
                        news = true;
                        self.came_live(*channel);
                    } else {
                        news |= self.active.as_mut().is_some_and(|active| active.leaving.answered(*channel));
                    }
                }
            }
            Purpose::Unsubscribe(channels) => {
                for channel in channels {
                    news |= self.active.as_mut().is_some_and(|active| active.left(*channel));
                }
            }
            Purpose::Publish(message) => {
                let confirmed_by = match self.dialect.confirm() {
                    Confirm::Written => Confirm::Ack,
                    confirm => confirm,
                };
                let reply = data.and_then(|data| std::str::from_utf8(data).ok());
                self.message_acked(now, *message, confirmed_by, reply);
            }
            Purpose::Auth => {
                if let Some(active) = self.active.as_mut() {
                    active.note_news();
                }
            }
            Purpose::Ping | Purpose::Reply => {}
        }
        self.stats.dialect.unexpected += u64::from(!news);
    }

    fn heard_refusal(&mut self, now: Time, about: Option<Purpose>, target: Option<Target<'_>>, refusal: &Refusal<'_>) {
        let named = target.and_then(|target| self.resolve(target));
        match about {
            Some(Purpose::Publish(message)) => {
                let code = refusal.code.as_deref().unwrap_or_default();
                let text = cut(refusal.message.as_deref().unwrap_or_default().to_owned());
                self.message_nacked(now, message, refusal.then, code, &text, refusal.retry_after);
            }
            Some(Purpose::Subscribe(channels)) => {
                let named = named.filter(|named| channels.contains(named));
                let concerned = named.map_or(channels, |named| vec![named]);
                self.subscribe_refused(now, &concerned, refusal);
            }
            Some(Purpose::Unsubscribe(channels)) => {
                for channel in channels {
                    self.active.as_mut().map(|active| active.left(channel));
                }
            }
            Some(Purpose::Auth) => {
                let then = refusal.then;
                return self.end_attempt(Ending::Denied { message: refusal.words(), then });
            }
            Some(Purpose::Ping | Purpose::Reply) => {}
            None => match named {
                Some(channel) => self.channel_complaint(now, channel, refusal),
                None => self.stats.dialect.unexpected += u64::from(refusal.then.is_none()),
            },
        }
        self.obey(now, refusal);
    }

    /// What a refusal means for the connection as a whole.
    fn obey(&mut self, now: Time, refusal: &Refusal<'_>) {
        match refusal.then {
            Some(Then::Pause(length)) => {
                self.link.pacing.pause(now.mono, length);
                self.stats.throttled.bump(ThrottlePlace::Pause);
            }
            Some(then @ (Then::Reconnect | Then::Fatal | Then::Refresh)) => {
                let retry_after = refusal.retry_after;
                self.end_attempt(Ending::Told { then, retry_after, message: refusal.words() });
            }
            Some(Then::Retry | Then::Reject | Then::Resubscribe) | None => {}
        }
    }

    /// Upstream refused to subscribe these channels, all of them together, or ended the subscription of one.
    fn subscribe_refused(&mut self, now: Time, channels: &[ChannelId], refusal: &Refusal<'_>) {
        let Some(active) = self.active.as_mut() else { return };
        for channel in channels {
            if active.leaving.refused(*channel) {
                active.forget(*channel);
            }
        }
        let sent: Vec<ChannelId> = channels.iter().copied().filter(|id| active.acked.is_sent(*id)).collect();
        let again = match refusal.then {
            Some(Then::Reject) => false,
            Some(_) => true,
            None => refusal.retry_after.is_some(),
        };
        if !again && sent.len() > 1 {
            active.acked.halve(&sent);
            for channel in sent {
                self.interest.stand(channel, Standing::Wanted);
            }
            return;
        }
        let open: Vec<ChannelId> =
            channels.iter().copied().filter(|id| sent.contains(id) || active.acked.is_live(*id)).collect();
        for channel in open {
            if again {
                self.subscription_lost(now, channel, refusal);
            } else {
                self.refuse_channel(now, channel, ErrorCode::UpstreamRefused, &refusal.words());
            }
        }
    }

    /// Subscribes a channel again after a wait, unless that was tried often enough.
    fn subscribe_later(&mut self, now: Time, channel: ChannelId, refusal: &Refusal<'_>) {
        let stable = self.link.stable_for();
        let Some(active) = self.active.as_mut() else { return };
        let tries = active.acked.tries(now.mono, channel, stable);
        if tries >= self.config.interest.ack_attempts {
            return self.refuse_channel(now, channel, ErrorCode::UpstreamRefused, &refusal.words());
        }
        let pause = match refusal.then {
            Some(Then::Pause(length)) => Some(length),
            _ => None,
        };
        let wait = self.link.retry_delay(tries, refusal.retry_after.max(pause), &mut self.rng);
        active.acked.retry(channel, now.mono + wait, tries);
        self.interest.stand(channel, Standing::Wanted);
        self.interest.blame(channel, &refusal.words());
    }

    /// Upstream complains about a channel and names no request.
    fn channel_complaint(&mut self, now: Time, channel: ChannelId, refusal: &Refusal<'_>) {
        match refusal.then {
            Some(Then::Reject) => self.refuse_channel(now, channel, ErrorCode::UpstreamRefused, &refusal.words()),
            Some(Then::Retry | Then::Resubscribe) => self.subscription_lost(now, channel, refusal),
            _ => self.interest.blame(channel, &refusal.words()),
        }
    }

    /// Upstream ended a subscription.
    fn heard_gone(&mut self, now: Time, target: Target<'_>, refusal: &Refusal<'_>) {
        if let Some(channel) = self.resolve(target) {
            match refusal.then {
                Some(Then::Reject) => self.refuse_channel(now, channel, ErrorCode::UpstreamRefused, &refusal.words()),
                // Whoever wants the channel wants it still.
                _ => self.subscription_lost(now, channel, refusal),
            }
        }
        self.obey(now, refusal);
    }

    /// A channel is not subscribed any more and has to be again.
    fn subscription_lost(&mut self, now: Time, channel: ChannelId, refusal: &Refusal<'_>) {
        let Some(active) = self.active.as_mut() else { return };
        let live = active.acked.is_live(channel);
        if live {
            self.channel_lost(now, channel, GapReason::Reconnect);
        }
        if live || self.active.as_ref().is_some_and(|active| active.acked.is_sent(channel)) {
            self.subscribe_later(now, channel, refusal);
        }
    }

    /// Events are missing: subscribes the channel anew, so that upstream begins with its state.
    pub(super) fn resubscribe(&mut self, channel: ChannelId) {
        let Some(active) = self.active.as_mut().filter(|active| active.acked.is_live(channel)) else { return };
        let Some(spec) = self.interest.spec(channel) else { return };
        active.leave(channel, spec.name.into(), spec.params.map(Into::into));
        active.acked.enqueue(channel, self.interest.priority(channel), false);
        self.interest.stand(channel, Standing::Wanted);
    }

    /// Events of the whole connection are missing: connects anew.
    pub(super) fn renew_connection(&mut self) {
        let message = "upstream's sequence has a hole".to_owned();
        self.end_attempt(Ending::Told { then: Then::Reconnect, retry_after: None, message });
    }

    /// The channel is refused: its subscribers are told, and it is asked for again by nobody for a while.
    pub(super) fn refuse_channel(&mut self, now: Time, channel: ChannelId, code: ErrorCode, message: &str) {
        if let Some(active) = self.active.as_mut() {
            active.acked.remove(channel);
            active.forget(channel);
        }
        if self.interest.spec(channel).is_none() {
            return;
        }
        self.stats.interest.refused.bump(code.text());
        self.interest.refuse(now.mono, channel, code, message);
        self.channel_refused(now, channel, code, message);
        self.channel_dropped(channel);
    }

    /// Which wanted channel upstream means.
    fn resolve(&self, target: Target<'_>) -> Option<ChannelId> {
        match target {
            Target::Channel(channel) => Some(channel),
            Target::Name(name) => self.interest.find(name),
        }
    }

    /// A `Transmit` is with the kernel: what upstream does not answer counts from here.
    pub(in crate::relay) fn transmitted(&mut self, now: Time, attempt: AttemptId) {
        let Some(active) = self.attempt_mut(attempt) else { return };
        let mut messages = Vec::new();
        for carried in active.transmitted() {
            match carried.purpose {
                Purpose::Publish(message) => messages.push(message),
                Purpose::Subscribe(channels) if !carried.answered => {
                    for channel in channels {
                        if self.active.as_mut().is_some_and(|active| active.acked.live(now.mono, channel)) {
                            self.came_live(channel);
                        }
                    }
                }
                Purpose::Unsubscribe(channels) if !carried.answered => {
                    for channel in channels {
                        self.active.as_mut().map(|active| active.left(channel));
                    }
                }
                _ => {}
            }
        }
        if !messages.is_empty() && self.active.as_ref().is_some_and(|active| active.phase() >= Phase::Ready) {
            self.messages_written(now, &messages);
        }
        self.settle(now, attempt);
    }
}

/// Upstream's words, not longer than is useful.
fn cut(mut words: String) -> String {
    if words.len() > WORDS_MAX {
        let end = (0..=WORDS_MAX).rev().find(|at| words.is_char_boundary(*at)).unwrap_or_default();
        words.truncate(end);
        words.push('…');
    }
    words
}

/// Why a message was not understood, if it was not.
fn not_understood(heard: &Heard<'_>) -> Option<&'static str> {
    match heard {
        Heard::Unmatched => Some("unmatched"),
        Heard::Unextracted(_) => Some("unextracted"),
        Heard::Malformed => Some("malformed"),
        _ => None,
    }
}
