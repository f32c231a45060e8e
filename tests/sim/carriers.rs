//! The carriers' part: what the relay asks is done by the modelled upstream, disk and clients, in their own time.

use serde_json::Value;
use tidegate::dialect::WireFrame;
use tidegate::protocol::frame::Item;
use tidegate::relay::pairs::{AttemptId, Disconnect, FetchAnswer, Input, LeftReason, Output, Reply, SessionId};
use tidegate::relay::record::Operation;

use crate::upstream::Request;
use crate::world::{Coming, Fault, World, start};

impl World {
    pub fn carry(&mut self, output: Output) {
        match output {
            Output::Fetch { call, .. } => {
                self.relay.handle_input(self.now, Input::Fetched { call, result: Ok(FetchAnswer::Token(None)) });
            }
            Output::Connect { attempt, .. } => {
                let at = self.soon(20);
                let answer = if std::mem::take(&mut self.refuse) {
                    self.covered("connect refused");
                    Input::Disconnected { attempt, reason: Disconnect::Refused }
                } else {
                    self.attempt = Some(attempt);
                    Input::Connected { attempt, peer: "test".into() }
                };
                self.send(at, Coming::Answer(answer));
            }
            Output::Transmit { attempt, frames } => self.transmit(attempt, &frames),
            Output::Disconnect { attempt, .. } => {
                self.gone(attempt);
                self.relay.handle_input(self.now, Input::Disconnected { attempt, reason: Disconnect::Asked });
            }
            Output::Commit(operations) => self.commit(operations),
            Output::Deliver { session, batch } => self.deliver(session, batch.items()),
            Output::Answer { reply: Reply::Json { body, .. }, .. } => {
                self.status = serde_json::from_slice(&body).unwrap_or_default();
            }
            Output::Answer { .. } | Output::Notify(_) | Output::Stopped => {}
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
        if self.attempt != Some(attempt) {
            return;
        }
        for frame in frames {
            let reply = match frame {
                WireFrame::Text(text) => self.upstream.take(&String::from_utf8_lossy(text)),
                _ => None,
            };
            if let WireFrame::Text(text) = frame {
                self.note(format!("upstream <- {}", String::from_utf8_lossy(text)));
            }
            if let Some((tag, _)) = self.upstream.attempts.last().copied() {
                self.judge_attempt(tag);
            }
            if let Some(reply) = reply {
                self.upstream_says(reply);
            }
            if let WireFrame::Ping(payload) = frame {
                let frames = vec![WireFrame::Pong(payload.clone())];
                let at = self.soon(5);
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
            self.send(at, Coming::Answer(Input::CommitFailed { reason: "no space".into() }));
        } else {
            self.disk.in_flight = Some(operations);
            self.send(at, Coming::Answer(Input::Committed));
        }
    }

    pub fn deliver(&mut self, session: SessionId, items: &[Item]) {
        let Some(at) = self.clients.iter().position(|client| client.session == Some(session)) else { return };
        for item in items {
            if self.fault == Some(Fault::EntryVanishes) && matches!(item, Item::Entry(_)) && self.chance(40) {
                continue;
            }
            let text = String::from_utf8_lossy(item.text()).into_owned();
            self.note(format!("client {at} <- {text}"));
            if self.disk.dead && text.contains("\"kind\":\"accepted\"") && self.told_new(&text) {
                self.violation = Some(format!("S16: accepted after the store failed: {text}"));
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

    /// Whether an `accepted` names a message that is not on the disk.
    pub fn told_new(&self, text: &str) -> bool {
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        let id = frame["message"].as_str().and_then(tidegate::relay::record::MessageId::parse);
        id.is_none_or(|id| !self.disk.holds(id))
    }

    pub fn cover_told(&mut self) {
        let gaps = self.told.gaps.keys().map(|reason| format!("gap {reason}"));
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
    pub fn upstream_says(&mut self, text: String) {
        let Some(attempt) = self.attempt else { return };
        let at = self.soon(4).max(self.last_frame);
        self.last_frame = at;
        self.send(at, Coming::Frame(attempt, text));
    }

    pub fn upstream_event(&mut self) {
        let channels: Vec<String> = self.upstream.subscribed.iter().cloned().collect();
        if self.attempt.is_none() || channels.is_empty() {
            return;
        }
        let channel = &channels[usize::try_from(self.rng.below(channels.len() as u64)).expect("small")];
        let item = ["x", "y", "z"][usize::try_from(self.rng.below(3)).expect("small")];
        let all = self.chance(6);
        let text = self.upstream.event(channel, item, all);
        self.upstream_says(text);
    }

    pub fn upstream_answers(&mut self) {
        let waiting = self.upstream.unanswered.len() as u64;
        if waiting == 0 || self.attempt.is_none() {
            return;
        }
        let at = usize::try_from(self.rng.below(waiting)).expect("small");
        let reject = self.chance(8);
        if self.fault == Some(Fault::AcksSwapped) {
            self.swap_acks();
        }
        let text = self.upstream.answer(at, reject);
        self.upstream_says(text);
    }

    pub fn swap_acks(&mut self) {
        let publishes: Vec<usize> = (0..self.upstream.unanswered.len())
            .filter(|at| matches!(self.upstream.unanswered[*at].1, Request::Publish(_)))
            .collect();
        if let [first, second, ..] = publishes[..] {
            let id = self.upstream.unanswered[first].0.clone();
            self.upstream.unanswered[first].0 = self.upstream.unanswered[second].0.clone();
            self.upstream.unanswered[second].0 = id;
        }
    }

    pub fn gone(&mut self, attempt: AttemptId) {
        if self.attempt == Some(attempt) {
            self.attempt = None;
        }
        self.upstream.subscribed.clear();
        self.upstream.unanswered.clear();
        // What was on the wire is lost.
        self.coming.retain(|_, coming| !matches!(coming, Coming::Frame(..)));
        self.coming.retain(|_, coming| {
            !matches!(
                coming,
                Coming::Answer(Input::Transmitted { .. } | Input::Connected { .. } | Input::Received { .. })
            )
        });
    }

    pub fn lose_connection(&mut self) {
        let Some(attempt) = self.attempt else { return };
        self.covered("connection lost");
        self.note("connection lost");
        self.gone(attempt);
        let reason = Disconnect::Reset("cut".into());
        self.relay.handle_input(self.now, Input::Disconnected { attempt, reason });
    }

    pub fn crash(&mut self) {
        self.covered("crash");
        self.note("crash");
        if let Some(operations) = self.disk.in_flight.take()
            && self.chance(2)
        {
            self.disk.apply(&operations);
        }
        self.coming.clear();
        self.upstream.incarnation += 1;
        self.attempt = None;
        self.upstream.subscribed.clear();
        self.upstream.unanswered.clear();
        for client in &mut self.clients {
            client.session = None;
            client.stuck = false;
            client.waiting = false;
        }
        let seed = self.rng.next_u64();
        self.relay = start(&self.config, &mut self.disk, seed, self.now);
    }
}
