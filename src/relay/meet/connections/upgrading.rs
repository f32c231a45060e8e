//! A session that is polled goes on over a WebSocket: the ladder says when, the connection how far it is, the dialect what is
//! said. The session stays the same, so nothing is subscribed anew, nothing overlaps and nothing is missing.
//!
//! Invariants: one connection's session is moved at a time, the one that serves, and no other connection is opened meanwhile; a
//! move that fails leaves polling as it was.

use crate::dialect::{Outgoing, Transport};
use crate::relay::Relay;
use crate::relay::attempt::polled::Move;
use crate::relay::attempt::{Attempt, Ending};
use crate::relay::link::pacing::Class;
use crate::relay::pairs::{AttemptId, Disconnect, Notice, Output};
use crate::relay::stats::LinkState;
use crate::relay::time::{Mono, Time};

impl Relay {
    pub(in crate::relay) fn upgrade_due(&self) -> Option<Mono> {
        let active = self.attempts.active().filter(|active| active.is_ready())?;
        if active.polled.is_moving() {
            return active.polled.deadline();
        }
        let due = self.link.ladder.upgrade_due().filter(|_| self.may_upgrade())?;
        Some(self.next_connect(due).unwrap_or(due))
    }

    /// Whether the session of the connection that serves may be moved.
    fn may_upgrade(&self) -> bool {
        let still = |active: &Attempt| active.is_ready() && active.polled.step == Move::None && active.may_move();
        let alone = !self.attempts.is_paired() && !self.overlap.is_open();
        alone && self.link.state() == LinkState::Live && self.attempts.active().is_some_and(still)
    }

    pub(in crate::relay) fn upgrade_timeout(&mut self, now: Time) {
        let Some(active) = self.attempts.active() else { return };
        let id = active.id();
        if active.polled.deadline().is_some_and(|at| at <= now.mono) {
            return self.give_up_upgrade(now, id, "timeout", "not done in time");
        }
        let due = self.link.ladder.upgrade_due().is_some_and(|at| at <= now.mono);
        if due && self.may_upgrade() && self.take_connect(now) {
            self.begin_upgrade(now, id);
        }
    }

    fn begin_upgrade(&mut self, now: Time, id: AttemptId) {
        let upstream = &self.config.upstream;
        let deadline = now.mono + upstream.connect_timeout + upstream.handshake_timeout * 2;
        let Some(active) = self.attempts.get_mut(id) else { return };
        let Some(conversation) = &mut active.conversation else { return };
        match conversation.upgrade_request() {
            Ok(request) => {
                active.polled.step = Move::Opening(deadline);
                self.outputs.push_back(Output::Upgrade { attempt: id, request });
            }
            Err(error) => self.upgrade_failed(now, "unbuildable", error.to_string()),
        }
    }

    /// The WebSocket is open.
    pub(in crate::relay) fn upgraded(&mut self, id: AttemptId) {
        if let Some(active) = self.attempts.get_mut(id)
            && let Move::Opening(deadline) = active.polled.step
        {
            active.polled.step = Move::Open(deadline);
        }
    }

    /// Upstream answered over the WebSocket whether it is the session's.
    pub(in crate::relay) fn probed(&mut self, now: Time, id: AttemptId, good: bool) {
        let Some(active) = self.attempts.get_mut(id) else { return };
        match active.polled.step {
            Move::Asked(deadline) if good => active.polled.step = Move::Pausing(deadline),
            _ => self.give_up_upgrade(now, id, "protocol", "upstream says something else than that it heard the probe"),
        }
    }

    /// Asks over the WebSocket, or moves the session there, if it is time.
    pub(in crate::relay) fn advance_upgrade(&mut self, now: Time) {
        let Some(active) = self.attempts.active_mut().filter(|active| active.polled.is_moving() && active.may_send())
        else {
            return;
        };
        let Some(conversation) = active.conversation.as_ref() else { return };
        let quiet = !active.posting && !conversation.poll_is_out();
        let moves = match active.polled.step {
            Move::Open(_) => false,
            Move::Pausing(_) if quiet => true,
            _ => return,
        };
        if !self.link.pacing.open(now.mono) {
            return;
        }
        self.link.pacing.spend(now.mono, Class::Beat);
        if moves { self.move_session(now) } else { self.probe_upstream(now) }
    }

    fn probe_upstream(&mut self, now: Time) {
        let Some(active) = self.attempts.active_mut() else { return };
        let (Some(conversation), Move::Open(deadline)) = (&mut active.conversation, active.polled.step) else { return };
        let Outgoing { frame, .. } = conversation.probe();
        active.polled.step = Move::Asked(deadline);
        active.transmit(now.mono, Vec::new());
        self.outputs.push_back(Output::Transmit { attempt: active.id(), frames: vec![frame] });
    }

    /// Nothing is under way: the session goes on over the WebSocket, with what waited.
    fn move_session(&mut self, now: Time) {
        let Some(active) = self.attempts.active_mut() else { return };
        let Some(conversation) = &mut active.conversation else { return };
        let Outgoing { frame, .. } = conversation.upgraded();
        let waited = std::mem::take(&mut active.polled.packets);
        let frames = std::iter::once(frame).chain(waited).collect();
        let carried = std::mem::take(&mut active.polled.carried);
        active.polled.step = Move::Done;
        active.transport = Transport::WebSocket;
        if self.link.ladder.lifts() {
            active.rung = Transport::WebSocket;
            self.link.served_over = Transport::WebSocket;
            self.stats.link.transport_switches += 1;
        }
        active.transmit(now.mono, carried);
        self.outputs.push_back(Output::Transmit { attempt: active.id(), frames });
        self.link.ladder.upgraded(now.mono);
        self.stats.link.upgrades += 1;
        self.outputs.push_back(Output::Notify(Notice::Upgraded));
        self.link_moved(now);
    }

    /// The WebSocket is not there, or not any more.
    pub(in crate::relay) fn not_upgraded(&mut self, now: Time, id: AttemptId, reason: &Disconnect) {
        let Some(active) = self.attempts.get_mut(id) else { return };
        match std::mem::take(&mut active.polled.step) {
            // The session is there, and goes with it.
            Move::Done => self.abandon(now, id, Ending::Carrier(reason.clone())),
            Move::GivenUp | Move::None => {}
            Move::Opening(_) | Move::Open(_) | Move::Asked(_) | Move::Pausing(_) => {
                self.upgrade_failed(now, reason.reason(), reason.detail());
            }
        }
    }

    fn give_up_upgrade(&mut self, now: Time, id: AttemptId, reason: &'static str, detail: &str) {
        let Some(active) = self.attempts.get_mut(id).filter(|active| active.polled.deadline().is_some()) else {
            return;
        };
        active.polled.step = Move::GivenUp;
        self.outputs.push_back(Output::KeepPolling { attempt: id });
        self.upgrade_failed(now, reason, detail.to_owned());
    }

    fn upgrade_failed(&mut self, now: Time, reason: &'static str, detail: String) {
        self.link.ladder.not_upgraded(now.mono);
        self.stats.link.upgrades_failed += 1;
        let detail = self.redactor.text(&detail);
        self.outputs.push_back(Output::Notify(Notice::NotUpgraded { reason, detail }));
    }
}
