//! What upstream says meets those whom it concerns: frames become events, acks, refusals, and changes of the link.
//!
//! While the dialect tells what a frame meant, its conversation is out of the attempt; whatever needs it, or ends the attempt,
//! is left to [`Relay::settle`], after the last frame at hand.

use crate::dialect::{
    ChannelId, Conversation, Heard, Outgoing, Purpose, RequestId, Target, Then, UrlChannels, WireFrame,
};
use crate::relay::Relay;
use crate::relay::attempt::{Carried, Ending, Phase};
use crate::relay::interest::Standing;
use crate::relay::outbox::Confirm;
use crate::relay::pairs::AttemptId;
use crate::relay::stats::GapReason;
use crate::relay::time::Time;
use crate::relay::unsettled::Sequel;

use super::refusing::{Refusal, cut};
use super::strange::not_understood;

impl Relay {
    pub(in crate::relay) fn received(&mut self, now: Time, attempt: AttemptId, at: Time, frames: &[WireFrame]) {
        let Some(heard) = self.attempt_mut(attempt) else { return };
        heard.heartbeat.frame(at.mono);
        let (mut bytes, mut pings, mut data) = (0, 0, false);
        for frame in frames {
            bytes += frame.body().len() as u64;
            data |= frame.speaks();
            match frame {
                WireFrame::Ping(_) => pings += 1,
                WireFrame::Pong(body) => self.ponged(at, attempt, body),
                WireFrame::Answer(answer) => self.answered(now, attempt, answer),
                _ => {}
            }
        }
        self.stats.link.frames_in += frames.len() as u64;
        self.stats.link.bytes_in += bytes;
        self.stats.link.last_frame = Some(at.wall);
        self.link.pacing.ponged(now.mono, pings);
        if data {
            let mut strange: Vec<(&'static str, &WireFrame)> = Vec::new();
            self.converse(now, at, attempt, |conversation, heard| {
                for frame in frames {
                    if frame.speaks() {
                        conversation.receive(at, frame, &mut |what| {
                            strange.extend(not_understood(&what).map(|why| (why, frame)));
                            heard(what);
                        });
                    }
                }
            });
            for (why, frame) in strange {
                self.tell_strange(now, why, frame);
            }
        }
        self.settle(now, attempt);
    }

    fn ponged(&mut self, at: Time, attempt: AttemptId, body: &[u8]) {
        if let Some(trip) = self.attempt_mut(attempt).and_then(|pinged| pinged.heartbeat.pong(at.mono, body)) {
            self.round_trip(attempt, trip);
            if self.attempts.serves(attempt) {
                self.handover.answered(at.mono - trip);
                if !self.dialect.has_ping() {
                    self.barrier_passed(at);
                }
            }
        }
    }

    /// Lets the conversation of an attempt tell what something means, received at `at`.
    pub(in crate::relay) fn converse(
        &mut self,
        now: Time,
        at: Time,
        attempt: AttemptId,
        talk: impl FnOnce(&mut Conversation, &mut dyn FnMut(Heard<'_>)),
    ) {
        let Some(mut conversation) = self.attempt_mut(attempt).and_then(|talking| talking.conversation.take()) else {
            return;
        };
        talk(&mut conversation, &mut |heard| self.heard(now, at, attempt, heard));
        self.end_snapshot(at);
        if let Some(talking) = self.attempt_mut(attempt) {
            talking.conversation = Some(conversation);
        }
    }

    /// Carries out what had to wait until the conversation was back.
    pub(in crate::relay) fn settle(&mut self, now: Time, attempt: AttemptId) {
        let Some(settled) = self.attempt_mut(attempt) else { return };
        for channel in settled.take_forgotten() {
            if let Some(conversation) = &mut settled.conversation {
                conversation.forget_channel(channel);
            }
        }
        // One that we close already ends as we asked for.
        let ending = settled.take_ending().filter(|_| settled.phase() != Phase::Draining);
        let news = settled.take_news();
        if let Some(ending) = ending {
            self.abandon(now, attempt, ending);
        } else if news {
            self.adopt_timing(now, attempt);
            self.token_accepted(now, attempt);
        }
    }

    fn heard(&mut self, now: Time, at: Time, attempt: AttemptId, heard: Heard<'_>) {
        match heard {
            Heard::Event(event) => self.admit(at, attempt, &event),
            Heard::Acked { request, purpose, data } => self.heard_ack(now, attempt, request, &purpose, data.as_deref()),
            Heard::Refused { about, target, code, message, then, retry_after } => {
                let refusal = Refusal { code, message, then, retry_after };
                self.heard_refusal(now, attempt, about, target, &refusal);
            }
            Heard::Ready { resumed } => self.heard_ready(now, attempt, resumed),
            Heard::Denied { message, then } => {
                let message = cut(message.unwrap_or_default().into_owned());
                self.end_attempt(attempt, Ending::Denied { message, then });
            }
            Heard::Gone { target, code, message, then } => {
                self.heard_gone(now, attempt, target, &Refusal { code, message, then, retry_after: None });
            }
            Heard::Lost { target, oversize } => {
                let reason = if oversize { GapReason::Oversize } else { GapReason::UpstreamSeq };
                self.target_lost(at, target, reason);
            }
            Heard::Subscriptions { request, names, whole } => {
                self.subscriptions_listed(now, attempt, request, &names, whole);
            }
            Heard::Mismatched { target, whole } => self.checksum_failed(at, attempt, target, whole),
            Heard::Unproven => self.heard_unproven(at, attempt),
            Heard::Unseen => self.heard_unseen(at, attempt),
            Heard::Reconnect { retry_after } => {
                self.heard_reconnect(now, attempt, retry_after);
            }
            Heard::Closed => {
                let message = "upstream has ended the session".to_owned();
                self.end_attempt(attempt, Ending::Told { then: Then::Reconnect, retry_after: None, message });
            }
            Heard::Broken(why) => {
                self.stats.dialect.malformed += 1;
                self.end_attempt(attempt, Ending::Malformed(why));
            }
            Heard::Probed { good } => self.probed(now, attempt, good),
            Heard::Pong { request } => {
                let pinged = self.attempt_mut(attempt);
                if let Some(trip) = pinged.and_then(|pinged| pinged.heartbeat.dialect_pong(at.mono, request)) {
                    self.round_trip(attempt, trip);
                    if self.attempts.serves(attempt) {
                        self.barrier_passed(at);
                    }
                }
            }
            Heard::Send(outgoing) => self.stage_reply(attempt, outgoing),
            Heard::PollFailed { status, retry_after, detail } => {
                self.poll_failed(attempt, status, retry_after, detail);
            }
            Heard::Hasty => self.stats.link.hasty_polls += 1,
            Heard::Ignored => {}
            Heard::Numbered(first, last) => self.numbers_passed(at, attempt, (first, last)),
            Heard::Skipped(what, count) => self.stats.dialect.skipped.add(what, count as u64),
            Heard::Unmatched => self.stats.dialect.unmatched += 1,
            Heard::Unextracted(_) => self.stats.dialect.unextracted += 1,
            Heard::Malformed => self.stats.dialect.malformed += 1,
        }
    }

    fn stage_reply(&mut self, attempt: AttemptId, outgoing: Outgoing) {
        if let Some(asked) = self.attempt_mut(attempt) {
            asked.stage(outgoing);
        }
    }

    /// Ends the attempt once the frames at hand are handled.
    pub(in crate::relay) fn end_attempt(&mut self, attempt: AttemptId, ending: Ending) {
        if let Some(ended) = self.attempt_mut(attempt) {
            ended.end(ending);
        }
    }

    /// Authentication is done: everything wanted is subscribed, or live at once. Where each poll is a request of its own, one
    /// has to get through first.
    pub(in crate::relay) fn heard_ready(&mut self, now: Time, attempt: AttemptId, resumed: bool) {
        if self.attempt_mut(attempt).is_some_and(|ready| ready.waits_for_proof(resumed)) {
            return;
        }
        let Some(took) = self.attempt_mut(attempt).and_then(|ready| ready.ready(now.mono)) else { return };
        self.stats.link.ready += 1;
        self.stats.link.connect.observe(took);
        let serves = self.attempts.serves(attempt);
        self.audit_soon(now.mono, attempt);
        if serves {
            self.link.ready(now.mono, &mut self.rng);
            let sequel = self.way_serves(now, attempt);
            self.settle_losses(now, if resumed { Sequel::GoesOn } else { sequel });
        } else {
            // What was admitted until now is told to the one that serves first.
            self.follow_interest();
        }
        let wanted = self.interest.attempt_ready();
        let mut live = Vec::new();
        if let Some(ready) = self.attempts.get_mut(attempt).filter(|_| self.dialect.subscribes()) {
            let addressed = self.dialect.url_channels(ready.transport) != UrlChannels::None;
            for (channel, again) in wanted {
                let lane = self.interest.priority(channel);
                if addressed && !ready.addressed.contains(&channel) {
                    continue;
                }
                if addressed || resumed && again {
                    ready.acked.carry_over(now.mono, channel, lane);
                    live.push(channel);
                } else {
                    ready.acked.enqueue(channel, lane, again);
                }
            }
        }
        self.address_moved();
        if serves {
            self.link_moved(now);
        }
        match (self.dialect.subscribes(), serves) {
            (true, _) => {}
            (false, true) => self.all_came_live(now),
            (false, false) => self.candidate_brings_all(now),
        }
        for channel in live {
            self.came_live(now, attempt, channel);
        }
    }

    /// What an attempt has reached with a channel; people are shown that of the one that serves.
    pub(in crate::relay) fn reached(&mut self, attempt: AttemptId, channel: ChannelId, standing: Standing) {
        if self.attempts.serves(attempt) {
            self.interest.stand(channel, standing);
        }
    }

    /// Upstream sends this channel's events on this attempt from here on.
    pub(in crate::relay) fn came_live(&mut self, now: Time, attempt: AttemptId, channel: ChannelId) {
        if self.attempts.serves(attempt) {
            self.interest.stand(channel, Standing::Live);
            for ring in self.feed.rings_of(channel) {
                self.watch.live(now.mono, ring);
            }
            self.subscribed_anew(now, channel);
            self.join_live(channel);
        } else {
            self.candidate_brings(now, attempt, channel);
        }
    }

    fn heard_ack(
        &mut self,
        now: Time,
        attempt: AttemptId,
        request: Option<RequestId>,
        purpose: &Purpose,
        data: Option<&[u8]>,
    ) {
        let mut news = request.is_some();
        match purpose {
            Purpose::Subscribe(channels) => {
                for (channel, request) in channels.iter().zip(std::iter::repeat(request).flatten()) {
                    let Some(acked) = self.attempts.get_mut(attempt) else { return };
                    acked.leaving.answered(*channel, request);
                    if acked.acked.live(now.mono, *channel, request) {
                        self.came_live(now, attempt, *channel);
                    }
                }
            }
            Purpose::Unsubscribe(channels) => {
                for channel in channels {
                    news |= self.attempt_mut(attempt).is_some_and(|acked| acked.left(*channel));
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
                if let Some(acked) = self.attempt_mut(attempt) {
                    acked.note_news();
                }
            }
            Purpose::State(..) => self.state_answered(now, purpose, true),
            Purpose::Audit | Purpose::Ping | Purpose::Reply | Purpose::Poll => {}
        }
        self.stats.dialect.unexpected += u64::from(!news);
    }

    /// Which wanted channel upstream means.
    pub(super) fn resolve(&self, target: Target<'_>) -> Option<ChannelId> {
        match target {
            Target::Channel(channel) => Some(channel),
            Target::Name(name) => self.interest.find(name),
        }
    }

    /// A `Transmit` is with the kernel: what upstream does not answer counts from here.
    pub(in crate::relay) fn transmitted(&mut self, now: Time, attempt: AttemptId) {
        let Some(sender) = self.attempt_mut(attempt) else { return };
        if let Some(took) = sender.writing_for(now.mono) {
            self.stats.link.write.observe(took);
        }
        let Some(sender) = self.attempt_mut(attempt) else { return };
        let carried = sender.transmitted();
        self.carried_out(now, attempt, carried);
        self.settle(now, attempt);
    }

    /// These are with upstream, or as good as: what it does not answer counts from here.
    pub(in crate::relay) fn carried_out(&mut self, now: Time, attempt: AttemptId, carried: Vec<Carried>) {
        let Some(sender) = self.attempt_mut(attempt) else { return };
        let may_count = sender.phase() >= Phase::Ready;
        let mut messages = Vec::new();
        for carried in carried {
            match carried.purpose {
                Purpose::Publish(message) => messages.push(message),
                Purpose::Subscribe(channels) if !carried.answered => {
                    for channel in channels {
                        if self.attempt_mut(attempt).is_some_and(|sender| sender.acked.written(now.mono, channel)) {
                            self.came_live(now, attempt, channel);
                        }
                    }
                }
                Purpose::Unsubscribe(channels) if !carried.answered => {
                    for channel in channels {
                        self.attempt_mut(attempt).map(|sender| sender.left(channel));
                    }
                }
                _ => {}
            }
        }
        if !messages.is_empty() && may_count {
            self.messages_written(now, &messages);
        }
    }
}
