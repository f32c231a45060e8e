//! The carriers' part: what the relay asks is done by the modelled upstream, disk and clients, in their own time.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use tidegate::dialect::WireFrame;
use tidegate::protocol::frame::Item;
use tidegate::relay::access::Principal;
use tidegate::relay::pairs::{
    AttemptId, CallId, CallRequest, Credentials, Disconnect, FetchAnswer, Input, LeftReason, Notice, Output, Reply,
    SessionId,
};
use tidegate::relay::record::{Operation, Wanted};
use tidegate::relay::stats::ThrottlePlace;
use tidegate::relay::time::Mono;

use crate::silence::{COUNT, LOOK};
use crate::upstream::Request;
use crate::world::{Coming, Fault, World, start};

impl World {
    pub fn carry(&mut self, output: Output) {
        match output {
            Output::Fetch { call, .. } => {
                self.relay.handle_input(
                    self.now,
                    Input::Fetched { call, result: Ok(FetchAnswer::Credentials(Credentials::default())) },
                );
            }
            Output::Connect { attempt, .. } => {
                if self.limited
                    && let Err(violation) = self.provider.connect(self.now.mono, self.disk.dead)
                {
                    self.violation = Some(violation);
                }
                let at = self.soon(20);
                let answer = if std::mem::take(&mut self.refuse) {
                    self.covered("connect refused");
                    Input::Disconnected { attempt, reason: Disconnect::Refused }
                } else {
                    Input::Connected { attempt, peer: "test".into() }
                };
                self.send(at, Coming::Answer(answer));
            }
            Output::Transmit { attempt, frames } => self.transmit(attempt, &frames),
            Output::Disconnect { attempt, .. } => {
                self.gone(attempt);
                self.relay.handle_input(self.now, Input::Disconnected { attempt, reason: Disconnect::Asked });
            }
            // Nothing of this service is polled.
            Output::Upgrade { .. } | Output::KeepPolling { .. } => {}
            Output::Commit(operations) => self.commit(operations),
            Output::Load(wanted) => self.load(&wanted),
            Output::Deliver { session, batch } => self.deliver(session, batch.items()),
            Output::Answer { reply: Reply::Json { body, .. }, call: CallId(1) } => {
                self.status = serde_json::from_slice(&body).unwrap_or_default();
            }
            Output::Answer { reply: Reply::Json { body, .. }, call: LOOK } => {
                let shown = serde_json::from_slice(&body).unwrap_or_default();
                self.judge_silence(&shown);
            }
            Output::Answer { reply: Reply::Stats(stats), call: COUNT } => self.judge_counts(&stats),
            Output::Notify(Notice::TookOver { .. }) => self.covered("another connection took over"),
            Output::Notify(Notice::NotTakenOver { .. }) => self.covered("another connection did not take over"),
            Output::Answer { .. } | Output::Notify(_) | Output::Alert { .. } | Output::Stopped => {}
            Output::Close { session, .. } => {
                if let Some(client) = self.clients.iter_mut().find(|client| client.session == Some(session)) {
                    client.session = None;
                }
                let reason = LeftReason::Client;
                self.relay.handle_input(self.now, Input::Left { session, reason });
            }
        }
    }

    pub fn transmit(&mut self, attempt: AttemptId, frames: &[WireFrame]) {
        if self.limited
            && let Err(violation) = self.provider.frames(self.now.mono, frames.len())
        {
            self.violation = Some(violation);
        }
        if !self.upstream.connections.contains_key(&attempt) {
            return;
        }
        for frame in frames {
            let reply = match frame {
                WireFrame::Text(text) => self.upstream.take(self.now.mono, attempt, &String::from_utf8_lossy(text)),
                _ => None,
            };
            if let WireFrame::Text(text) = frame {
                self.note(format!("upstream <- {}", String::from_utf8_lossy(text)));
            }
            if let Some((tag, _)) = self.upstream.attempts.last().copied() {
                self.judge_attempt(tag);
            }
            if let Some(reply) = reply {
                self.upstream_says(attempt, reply);
            }
            if let WireFrame::Ping(payload) = frame {
                let frames = vec![WireFrame::Pong(payload.clone())];
                let at = self.in_order(attempt) + self.slowness();
                self.send(at, Coming::Answer(Input::Received { attempt, at: self.now, frames }));
            }
        }
        let at = self.soon(2);
        self.send(at, Coming::Answer(Input::Transmitted { attempt }));
    }

    /// S14: no attempt after the end.
    pub fn judge_attempt(&mut self, tag: u64) {
        if self.upstream.attempts.iter().filter(|(other, _)| *other == tag).count() > 1 {
            self.covered("retried");
        }
        let ended = self.told.accepted.get(&tag).and_then(|message| self.told.outcomes.get(message)).is_some();
        let known = self.sent.get(&tag).is_some_and(|sent| sent.judged == self.upstream.attempts.len());
        if let Some(sent) = self.sent.get_mut(&tag) {
            sent.judged = self.upstream.attempts.len();
        }
        if ended && !known {
            self.violation = Some(format!("S14: tag {tag} was attempted after its outcome was told"));
        }
    }

    pub fn commit(&mut self, operations: Vec<Operation>) {
        let at = self.soon(15);
        if self.disk.in_flight.is_some() {
            self.violation = Some("two commits in flight".into());
        }
        if self.disk.dead {
            self.covered("commit failed");
            self.disk.unsure.get_or_insert(operations);
            self.send(at, Coming::Answer(Input::CommitFailed { reason: "no space".into() }));
        } else {
            self.disk.in_flight = Some(operations);
            self.send(at, Coming::Answer(Input::Committed));
        }
    }

    pub fn load(&mut self, wanted: &[Wanted]) {
        let first = wanted.first().map_or(0, |wanted| match *wanted {
            Wanted::Message(sequence) => sequence,
            Wanted::Outcome(id) => id.time().millis(),
        });
        let at = self.now.mono + std::time::Duration::from_millis(1 + first % 12);
        let answer = match self.disk.load(wanted) {
            _ if self.disk.dead => Input::CommitFailed { reason: "no answer".into() },
            Some(records) => {
                self.covered("read from the disk");
                Input::Loaded(records)
            }
            None => {
                self.violation = Some(format!("S8: one of {wanted:?} is not on the disk"));
                return;
            }
        };
        self.send(at, Coming::Answer(answer));
    }

    pub fn kill_disk(&mut self) {
        self.disk.dead = true;
    }

    pub fn deliver(&mut self, session: SessionId, items: &[Item]) {
        let Some(at) = self.clients.iter().position(|client| client.session == Some(session)) else { return };
        for item in items {
            if self.fault == Some(Fault::EntryVanishes) && matches!(item, Item::Entry(_)) && self.chance(40) {
                continue;
            }
            let text = String::from_utf8_lossy(item.text()).into_owned();
            self.note(format!("client {at} <- {text}"));
            if text.contains("\"kind\":\"accepted\"") && self.never_vouched(&text) {
                self.violation = Some(format!("S16: accepted before the disk vouched for it: {text}"));
            }
            if text.starts_with("{\"kind\":\"event\"") && text.contains("\"channel\":\"s:") {
                self.covered("event of a mapped channel");
            }
            if let Err(violation) = self.clients[at].take(&text, &mut self.told) {
                self.violation = Some(violation);
            }
        }
        self.cover_told();
        if self.clients[at].stuck {
            self.clients[at].waiting = true;
        } else {
            self.relay.handle_input(self.now, Input::Delivered { session, at: self.now.mono });
        }
    }

    /// Whether an `accepted` names a message that the disk never vouched for.
    pub fn never_vouched(&self, text: &str) -> bool {
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        let id = frame["message"].as_str().and_then(tidegate::relay::record::MessageId::parse);
        id.is_none_or(|id| !self.disk.vouched(id))
    }

    pub fn cover_told(&mut self) {
        let gaps = self.told.gaps.keys().map(|(reason, _)| format!("gap {reason}"));
        let resets = self.told.resets.keys().map(|reason| format!("reset {reason}"));
        let errors = self.told.errors.keys().map(|code| format!("error {code}"));
        let ends = self.told.outcomes.values().flatten().filter_map(|o| o["state"].as_str().map(str::to_owned));
        let all: Vec<String> = gaps.chain(resets).chain(errors).chain(ends).collect();
        self.coverage.0.extend(all);
        if self.told.resumed > 0 {
            self.covered("resumed");
        }
    }

    /// Frames of one connection arrive in order.
    pub fn upstream_says(&mut self, attempt: AttemptId, text: String) {
        let at = self.in_order(attempt);
        self.send(at, Coming::Frame(attempt, text));
    }

    /// When the next frame of a connection arrives.
    pub fn in_order(&mut self, attempt: AttemptId) -> Mono {
        let at = self.soon(4);
        let Some(connection) = self.upstream.connections.get_mut(&attempt) else { return at };
        connection.last_frame = at.max(connection.last_frame);
        connection.last_frame
    }

    pub fn upstream_event(&mut self) {
        let subscribed =
            self.upstream.connections.values().flat_map(|connection| connection.subscribed.iter().cloned());
        let speaking = subscribed.filter(|channel| !self.quiet.is_silent(channel));
        let channels: Vec<String> = speaking.collect::<BTreeSet<_>>().into_iter().collect();
        if channels.is_empty() {
            return;
        }
        let channel = &channels[usize::try_from(self.rng.below(channels.len() as u64)).expect("small")];
        let item = ["x", "y", "z"][usize::try_from(self.rng.below(3)).expect("small")];
        let all = self.chance(6);
        let text = self.upstream.event(channel, item, all);
        for attempt in self.upstream.subscribers(channel) {
            self.upstream_says(attempt, text.clone());
        }
    }

    pub fn upstream_answers(&mut self) {
        let connections = self.upstream.connections.iter();
        let waiting: Vec<(AttemptId, usize)> = connections
            .map(|(attempt, connection)| (*attempt, connection.unanswered.len()))
            .filter(|(_, waiting)| *waiting > 0)
            .collect();
        if waiting.is_empty() {
            return;
        }
        let (attempt, waiting) = waiting[usize::try_from(self.rng.below(waiting.len() as u64)).expect("small")];
        let at = usize::try_from(self.rng.below(waiting as u64)).expect("small");
        let reject = self.chance(8);
        if self.fault == Some(Fault::AcksSwapped) {
            self.swap_acks(attempt);
        }
        if let Some(text) = self.upstream.answer(attempt, at, reject) {
            self.upstream_says(attempt, text);
        }
    }

    pub fn swap_acks(&mut self, attempt: AttemptId) {
        let Some(connection) = self.upstream.connections.get_mut(&attempt) else { return };
        let unanswered = &mut connection.unanswered;
        let publishes: Vec<usize> =
            (0..unanswered.len()).filter(|at| matches!(unanswered[*at].1, Request::Publish(_))).collect();
        if let [first, second, ..] = publishes[..] {
            let id = unanswered[first].0.clone();
            unanswered[first].0 = unanswered[second].0.clone();
            unanswered[second].0 = id;
        }
    }

    pub fn gone(&mut self, attempt: AttemptId) {
        self.upstream.connections.remove(&attempt);
        // Another one may take over at once.
        self.quiet.changed(self.now.mono);
        // What was on the wire is lost.
        self.coming.retain(|_, coming| match coming {
            Coming::Frame(of, _)
            | Coming::Answer(
                Input::Transmitted { attempt: of }
                | Input::Connected { attempt: of, .. }
                | Input::Received { attempt: of, .. },
            ) => *of != attempt,
            Coming::Answer(_) => true,
        });
    }

    pub fn lose_connection(&mut self) {
        let open: Vec<AttemptId> = self.upstream.connections.keys().copied().collect();
        if open.is_empty() {
            return;
        }
        let attempt = open[usize::try_from(self.rng.below(open.len() as u64)).expect("small")];
        self.covered(if open.len() > 1 { "one of two connections lost" } else { "connection lost" });
        self.note(format!("connection {} lost", attempt.0));
        self.gone(attempt);
        let reason = Disconnect::Reset("cut".into());
        self.relay.handle_input(self.now, Input::Disconnected { attempt, reason });
    }

    /// Another connection is to take over, if none is on its way.
    pub fn rotate(&mut self) {
        self.note("rotate");
        let principal = Arc::new(Principal::local());
        let request = CallRequest::Rotate;
        self.relay.handle_input(self.now, Input::Call { call: CallId(2), principal, request });
    }

    /// A crash, and now and then another one as soon as the relay is back, and another one.
    pub fn crashes(&mut self) {
        self.crash();
        if self.limited && self.chance(3) {
            self.covered("one crash after the other");
            for _ in 0..self.rng.below(16) {
                for _ in 0..self.rng.below(6) {
                    self.turn();
                    self.pass_at_most(20);
                }
                self.turn();
                self.crash();
            }
        }
    }

    pub fn crash(&mut self) {
        self.covered("crash");
        self.note("crash");
        for (what, batch) in [("unanswered", self.disk.in_flight.take()), ("failed", self.disk.unsure.take())] {
            let Some(operations) = batch else { continue };
            let is_there = self.chance(2);
            if is_there {
                self.disk.apply(&operations);
            }
            self.covered(&format!("{what} batch {}", if is_there { "found" } else { "lost" }));
        }
        self.coming.clear();
        self.upstream.incarnation += 1;
        self.upstream.connections.clear();
        self.upstream.publishes_on = None;
        for client in &mut self.clients {
            client.session = None;
            client.stuck = false;
            client.waiting = false;
        }
        if self.relay.stats().throttled.get(&ThrottlePlace::Connect) > 0 {
            self.covered("connect held back");
        }
        self.provider.restarted();
        if self.fault == Some(Fault::TallyForgotten) {
            self.disk.forget_tally();
        }
        let seed = self.rng.next_u64();
        self.relay = start(&self.config, self.limited, &mut self.disk, seed, self.now);
    }
}
