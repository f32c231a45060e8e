//! What upstream refuses or ends: a subscribe, an unsubscribe, a message, the connection, a subscription that was live.

use std::borrow::Cow;
use std::time::Duration;

use crate::dialect::{ChannelId, Purpose, RequestId, Target, Then};
use crate::protocol::codes::ErrorCode;
use crate::relay::Relay;
use crate::relay::attempt::Ending;
use crate::relay::attempt::acked::Bearing;
use crate::relay::interest::Standing;
use crate::relay::pairs::AttemptId;
use crate::relay::stats::{GapReason, ThrottlePlace};
use crate::relay::time::Time;

/// Longest words of upstream's that are kept and passed on.
const WORDS_MAX: usize = 500;

/// A refusal as upstream gave it.
pub(super) struct Refusal<'a> {
    pub(super) code: Option<Cow<'a, str>>,
    pub(super) message: Option<Cow<'a, str>>,
    pub(super) then: Option<Then>,
    pub(super) retry_after: Option<Duration>,
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
    pub(super) fn heard_refusal(
        &mut self,
        now: Time,
        attempt: AttemptId,
        about: Option<(RequestId, Purpose)>,
        target: Option<Target<'_>>,
        refusal: &Refusal<'_>,
    ) {
        let named = target.and_then(|target| self.resolve(target));
        let Some((request, purpose)) = about else {
            match named {
                Some(channel) => self.channel_complaint(now, attempt, channel, refusal),
                None => self.stats.dialect.unexpected += u64::from(refusal.then.is_none()),
            }
            return self.obey(now, attempt, refusal);
        };
        match purpose {
            Purpose::Publish(message) => {
                let code = self.redactor.text(refusal.code.as_deref().unwrap_or_default());
                let text = cut(refusal.message.as_deref().unwrap_or_default().to_owned());
                let text = self.redactor.text(&text);
                self.message_nacked(now, message, refusal.then, &code, &text, refusal.retry_after);
            }
            Purpose::Subscribe(channels) => {
                let named = named.filter(|named| channels.contains(named));
                let concerned = named.map_or(channels, |named| vec![named]);
                self.subscribe_refused(now, attempt, request, &concerned, refusal);
            }
            Purpose::Unsubscribe(channels) => {
                for channel in channels {
                    self.attempt_mut(attempt).map(|refused| refused.left(channel));
                }
            }
            Purpose::Auth => {
                let then = refusal.then;
                return self.end_attempt(attempt, Ending::Denied { message: refusal.words(), then });
            }
            purpose @ Purpose::State(..) => self.state_answered(now, &purpose, false),
            Purpose::Audit => self.audit_refused(attempt, request),
            Purpose::Ping | Purpose::Reply | Purpose::Poll => {}
        }
        self.obey(now, attempt, refusal);
    }

    /// What a refusal means for the connection as a whole.
    fn obey(&mut self, now: Time, attempt: AttemptId, refusal: &Refusal<'_>) {
        match refusal.then {
            Some(Then::Pause(length)) => {
                self.link.pacing.pause(now.mono, length);
                self.tally.touch();
                self.stats.throttled.bump(ThrottlePlace::Pause);
            }
            Some(then @ (Then::Reconnect | Then::Fatal | Then::Refresh)) => {
                let retry_after = refusal.retry_after;
                self.end_attempt(attempt, Ending::Told { then, retry_after, message: refusal.words() });
            }
            Some(Then::Retry | Then::Reject | Then::Resubscribe) | None => {}
        }
    }

    /// Upstream refused to subscribe these channels, all of them together, or ended the subscription of one.
    fn subscribe_refused(
        &mut self,
        now: Time,
        attempt: AttemptId,
        request: RequestId,
        channels: &[ChannelId],
        refusal: &Refusal<'_>,
    ) {
        let Some(refused) = self.attempts.get_mut(attempt) else { return };
        for channel in channels {
            if refused.leaving.refused(*channel, request) {
                refused.forget(*channel);
            }
        }
        let bearing = |bearing: Bearing| {
            let acked = &refused.acked;
            channels.iter().copied().filter(move |id| acked.bearing(*id, request) == bearing)
        };
        let (sent, mut open): (Vec<ChannelId>, Vec<ChannelId>) =
            (bearing(Bearing::Awaited).collect(), bearing(Bearing::Ended).collect());
        let late = bearing(Bearing::Late).next().filter(|_| channels.len() == 1);
        let again = match refusal.then {
            Some(Then::Reject) => false,
            Some(_) => true,
            None => refusal.retry_after.is_some(),
        };
        if !again && sent.len() > 1 {
            refused.acked.halve(&sent);
            for channel in sent {
                self.reached(attempt, channel, Standing::Wanted);
            }
            return;
        }
        if let Some(channel) = late.filter(|_| !again) {
            return self.refused_late(now, attempt, channel, refusal);
        }
        open.extend(sent);
        for channel in open {
            if again {
                self.subscription_lost(now, attempt, channel, refusal);
            } else {
                self.refuse_channel(now, attempt, channel, ErrorCode::UpstreamRefused, &refusal.words());
            }
        }
    }

    /// Upstream refused a subscribe that was given up. What it says of a later one that is out is not waited for.
    fn refused_late(&mut self, now: Time, attempt: AttemptId, channel: ChannelId, refusal: &Refusal<'_>) {
        let spec = self.interest.spec(channel);
        let refused = self.attempts.get_mut(attempt).filter(|refused| refused.acked.is_sent(channel));
        if let (Some(refused), Some(spec)) = (refused, spec) {
            // Should it be granted, nobody wants it any more.
            refused.leave(channel, spec.name.into(), spec.params.map(Into::into));
        }
        self.refuse_channel(now, attempt, channel, ErrorCode::UpstreamRefused, &refusal.words());
    }

    /// Subscribes a channel again after a wait, unless that was tried often enough.
    fn subscribe_later(&mut self, now: Time, attempt: AttemptId, channel: ChannelId, refusal: &Refusal<'_>) {
        let stable = self.link.stable_for();
        let Some(refused) = self.attempts.get_mut(attempt) else { return };
        let tries = refused.acked.tries(now.mono, channel, stable);
        if tries >= self.config.interest.ack_attempts {
            return self.refuse_channel(now, attempt, channel, ErrorCode::UpstreamRefused, &refusal.words());
        }
        let pause = match refusal.then {
            Some(Then::Pause(length)) => Some(length),
            _ => None,
        };
        let wait = self.link.retry_delay(tries, refusal.retry_after.max(pause), &mut self.rng);
        refused.acked.retry(channel, now.mono + wait, tries);
        self.reached(attempt, channel, Standing::Wanted);
        self.blame(channel, refusal);
    }

    /// The last thing that was wrong with a channel, for `GET /v1/subscriptions`.
    fn blame(&mut self, channel: ChannelId, refusal: &Refusal<'_>) {
        self.interest.blame(channel, &self.redactor.text(&refusal.words()));
    }

    /// Upstream complains about a channel and names no request.
    fn channel_complaint(&mut self, now: Time, attempt: AttemptId, channel: ChannelId, refusal: &Refusal<'_>) {
        match refusal.then {
            Some(Then::Reject) => {
                self.refuse_channel(now, attempt, channel, ErrorCode::UpstreamRefused, &refusal.words())
            }
            Some(Then::Retry | Then::Resubscribe) => self.subscription_lost(now, attempt, channel, refusal),
            _ => self.blame(channel, refusal),
        }
    }

    /// Upstream ended a subscription.
    pub(super) fn heard_gone(&mut self, now: Time, attempt: AttemptId, target: Target<'_>, refusal: &Refusal<'_>) {
        if let Some(channel) = self.resolve(target) {
            match refusal.then {
                Some(Then::Reject) => {
                    self.refuse_channel(now, attempt, channel, ErrorCode::UpstreamRefused, &refusal.words())
                }
                // Whoever wants the channel wants it still.
                _ => self.subscription_lost(now, attempt, channel, refusal),
            }
        }
        self.obey(now, attempt, refusal);
    }

    /// A channel is not subscribed any more and has to be again.
    fn subscription_lost(&mut self, now: Time, attempt: AttemptId, channel: ChannelId, refusal: &Refusal<'_>) {
        let Some(acked) = self.attempts.get(attempt).map(|attempt| &attempt.acked) else { return };
        let (live, sent) = (acked.is_live(channel), acked.is_sent(channel));
        if live && self.attempts.serves(attempt) {
            self.channel_lost(now, channel, GapReason::Reconnect);
        }
        if live || sent {
            self.subscribe_later(now, attempt, channel, refusal);
        }
    }

    /// The channel is refused: its subscribers are told, and it is asked for again by nobody for a while.
    pub(in crate::relay) fn refuse_channel(
        &mut self,
        now: Time,
        attempt: AttemptId,
        channel: ChannelId,
        code: ErrorCode,
        message: &str,
    ) {
        if let Some(refused) = self.attempts.get_mut(attempt) {
            refused.acked.remove(channel);
            refused.forget(channel);
        }
        let message = &self.redactor.text(message);
        if !self.attempts.serves(attempt) {
            return self.refused_to_candidate(attempt, channel, message);
        }
        if self.interest.spec(channel).is_none() {
            return;
        }
        self.stats.interest.refused.bump(code.text());
        self.interest.refuse(now.mono, channel, code, message);
        self.channel_refused(now, channel, code, message);
        self.channel_dropped(channel);
    }
}

/// Upstream's words, not longer than is useful.
pub(super) fn cut(mut words: String) -> String {
    if words.len() > WORDS_MAX {
        words.truncate(words.floor_char_boundary(WORDS_MAX));
        words.push('…');
    }
    words
}
