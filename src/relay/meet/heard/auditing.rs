//! Upstream's list of our subscriptions meets ours: what it lacks is subscribed anew and told as a gap, what it has too many is
//! unsubscribed.
//!
//! Upstream is asked after a connection came level and every `interest.audit_interval` from then on, only while no subscribe or
//! unsubscribe is on its way. What one audit mends costs at most a quarter of the frames that upstream takes in that interval;
//! the rest is found by the next one. A list that has no name in common with ours mends nothing: it is written otherwise.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::dialect::{ChannelId, Limits, RequestId};
use crate::relay::Relay;
use crate::relay::attempt::Attempt;
use crate::relay::attempt::audit::Live;
use crate::relay::interest::{Interest, Standing};
use crate::relay::pairs::{AttemptId, Notice, Output};
use crate::relay::stats::{AuditEnd, GapReason};
use crate::relay::time::{Mono, Time};

/// From a connection's readiness to its first audit, and between two looks whether it is quiet.
const FIRST_AFTER: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What mending may take of the frames of one interval: one in so many.
const SHARE: u64 = 4;
/// Channels that one audit mends, whatever upstream takes.
const MENDS_MAX: usize = 1_000;

/// What a list and ours do not have in common.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    missing: Vec<ChannelId>,
    extra: Vec<Box<str>>,
}

/// Channels that one audit may mend.
fn mends(limits: &Limits, every: Duration) -> usize {
    let frames = limits.rate.map_or(u64::MAX, |rate| {
        let tokens = every.as_nanos().saturating_mul(u128::from(rate.tokens)) / rate.per.as_nanos().max(1);
        (u64::try_from(tokens).unwrap_or(u64::MAX) / SHARE).max(1)
    });
    usize::try_from(frames).unwrap_or(usize::MAX).saturating_mul(limits.per_frame).min(MENDS_MAX)
}

/// Whether no subscribe and no unsubscribe is on its way, so that a list can be held against ours.
fn is_quiet(attempt: &Attempt) -> bool {
    attempt.is_ready() && attempt.acked.is_level() && !attempt.leaving.pending() && attempt.leaving.due().is_none()
}

/// The channels that upstream brings on this attempt, by the names that it calls them.
fn live_by_name(attempt: &Attempt, interest: &Interest) -> Live {
    let named = |channel| interest.spec(channel).map(|spec| (spec.name.into(), channel));
    attempt.acked.all_live().filter_map(named).collect()
}

impl Relay {
    /// The attempt serves from now on, or is ready to: it is audited when it is quiet.
    pub(in crate::relay) fn audit_soon(&mut self, now: Mono, attempt: AttemptId) {
        let wanted = self.dialect.has_audit() && self.config.interest.audit_interval.is_some();
        if let Some(audited) = self.attempts.get_mut(attempt) {
            audited.audit.at(wanted.then(|| now + FIRST_AFTER));
        }
    }

    pub(in crate::relay) fn audits_due(&self) -> Option<Mono> {
        self.attempts.active().and_then(|attempt| attempt.audit.due())
    }

    /// Asks what is due to be asked, and gives up what was not answered.
    pub(in crate::relay) fn audits_timeout(&mut self, now: Time) {
        let next = self.config.interest.audit_interval.map(|every| now.mono + every);
        let Some(attempt) = self.attempts.active_mut() else { return };
        if let Some(request) = attempt.audit.overdue(now.mono) {
            attempt.audit.at(next);
            if let Some(conversation) = &mut attempt.conversation {
                conversation.give_up(request);
            }
            return self.stats.interest.audits.bump(AuditEnd::Unanswered);
        }
        if !attempt.audit.is_due(now.mono) {
            return;
        }
        attempt.audit.at(Some(now.mono + LOOK_EVERY));
        if self.overlap.is_open() || !is_quiet(attempt) {
            return;
        }
        let Some(Ok(outgoing)) = attempt.conversation.as_mut().map(|conversation| conversation.audit(now)) else {
            return attempt.audit.at(next);
        };
        let live = live_by_name(attempt, &self.interest);
        attempt.audit.ask(outgoing.request, now.mono + self.config.interest.ack_timeout, live);
        attempt.audit.at(next);
        attempt.stage(outgoing);
    }

    /// Upstream refused to say what is subscribed.
    pub(in crate::relay) fn audit_refused(&mut self, attempt: AttemptId, request: RequestId) {
        if self.attempts.get_mut(attempt).is_some_and(|asked| asked.audit.end(request).is_some()) {
            self.stats.interest.audits.bump(AuditEnd::Unanswered);
        }
    }

    /// Upstream says what it believes to be subscribed on this attempt.
    pub(in crate::relay) fn subscriptions_listed(
        &mut self,
        now: Time,
        attempt: AttemptId,
        request: Option<RequestId>,
        names: &[Box<str>],
        whole: bool,
    ) {
        let Some(listed) = self.attempts.get_mut(attempt) else { return };
        let live = match request {
            Some(request) => listed.audit.end(request),
            // Nobody asked: it can only be held against what is live now, while nothing moves.
            None if is_quiet(listed) => Some(live_by_name(listed, &self.interest)),
            None => None,
        };
        let Some(live) = live.filter(|_| self.attempts.serves(attempt)) else { return };
        let listed: BTreeSet<&str> = names.iter().map(|name| &**name).collect();
        if !live.is_empty() && !listed.is_empty() && !live.keys().any(|name| listed.contains(&**name)) {
            return self.stats.interest.audits.bump(AuditEnd::Unreadable);
        }
        let most = self.config.interest.audit_interval.map_or(MENDS_MAX, |every| mends(self.dialect.limits(), every));
        let found = self.difference(attempt, &live, &listed, whole, most);
        if found == Difference::default() {
            return self.stats.interest.audits.bump(AuditEnd::Agreed);
        }
        self.stats.interest.audits.bump(AuditEnd::Mended);
        self.stats.interest.audit_missing += found.missing.len() as u64;
        self.stats.interest.audit_extra += found.extra.len() as u64;
        let (missing, extra) = (found.missing.len() as u64, found.extra.len() as u64);
        self.outputs.push_back(Output::Notify(Notice::Audited { missing, extra }));
        self.mend_difference(now, attempt, found);
    }

    /// At most so many channels that are on one list only.
    fn difference(
        &self,
        attempt: AttemptId,
        live: &Live,
        listed: &BTreeSet<&str>,
        whole: bool,
        most: usize,
    ) -> Difference {
        let Some(held) = self.attempts.get(attempt) else { return Difference::default() };
        let missing =
            live.iter().filter(|(name, channel)| whole && !listed.contains(&***name) && held.acked.is_live(**channel));
        let missing: Vec<ChannelId> = missing.map(|(_, channel)| *channel).take(most).collect();
        let ours = |name: &str| {
            let known = self.interest.find(name).is_some_and(|channel| held.acked.knows(channel));
            known || live.contains_key(name) || held.leaving.holds(name)
        };
        let unsubscribes = self.dialect.unsubscribes();
        let extra = listed.iter().filter(|name| unsubscribes && !ours(name));
        let extra = extra.take(most - missing.len()).map(|name| Box::from(*name)).collect();
        Difference { missing, extra }
    }

    fn mend_difference(&mut self, now: Time, attempt: AttemptId, found: Difference) {
        for channel in found.missing {
            self.channel_lost(now, channel, GapReason::Silence);
            if let Some(lacking) = self.attempts.get_mut(attempt) {
                lacking.acked.retry(channel, now.mono, 0);
            }
            self.reached(attempt, channel, Standing::Wanted);
        }
        if let Some(having) = self.attempts.get_mut(attempt) {
            found.extra.into_iter().for_each(|name| having.leaving.stranger(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Rate;

    #[test]
    fn mending_takes_a_share_of_what_upstream_takes() {
        let limits = |tokens, per_frame| Limits {
            rate: Some(Rate { tokens, per: Duration::from_secs(1), burst: 1 }),
            per_frame,
            ..Limits::default()
        };
        assert_eq!(mends(&limits(4, 1), Duration::from_secs(60)), 60, "a quarter of 240 frames");
        assert_eq!(mends(&limits(4, 200), Duration::from_secs(300)), MENDS_MAX);
        assert_eq!(mends(&limits(1, 3), Duration::from_secs(1)), 3, "one frame at the least");
        assert_eq!(mends(&Limits { per_frame: 1, ..Limits::default() }, Duration::from_secs(1)), MENDS_MAX);
    }
}
