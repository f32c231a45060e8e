//! What the modelled clients do.

use std::sync::Arc;

use serde_json::{Value, json};
use tidegate::protocol::frame::Format;
use tidegate::protocol::request::parse::{RequestLimits, parse};
use tidegate::relay::access::Principal;
use tidegate::relay::pairs::{Input, LeftReason, SessionId};

use crate::invariants::Sent;
use crate::world::{CHANNELS, CLIENTS, World};

impl World {
    pub fn any_client(&mut self) -> usize {
        usize::try_from(self.rng.below(CLIENTS as u64)).expect("small")
    }

    pub fn any_channel(&mut self) -> &'static str {
        CHANNELS[usize::try_from(self.rng.below(CHANNELS.len() as u64)).expect("small")]
    }

    pub fn ask(&mut self, client: usize, text: &Value) {
        let Some(session) = self.clients[client].session else { return };
        self.note(format!("client {client} -> {text}"));
        let request = parse(&text.to_string(), &RequestLimits::new(&self.config));
        self.relay.handle_input(self.now, Input::Request { session, request });
    }

    pub fn join(&mut self) {
        let at = self.any_client();
        if self.clients[at].session.is_some() {
            return;
        }
        self.sessions += 1;
        let session = SessionId { index: u32::try_from(at).expect("small"), generation: self.sessions };
        self.clients[at].session = Some(session);
        self.clients[at].stuck = false;
        self.clients[at].waiting = false;
        let principal = Arc::new(Principal::local());
        self.relay
            .handle_input(self.now, Input::Joined { session, principal, format: Format::WebSocket, subscribe: None });
        let channels: Vec<String> = self.clients[at].wants.iter().cloned().collect();
        if !channels.is_empty() {
            let since = self.clients[at].cursor.clone();
            let request = match since {
                Some(since) => json!({"op": "subscribe", "ref": 0, "channels": channels, "since": since}),
                None => json!({"op": "subscribe", "ref": 0, "channels": channels}),
            };
            self.ask(at, &request);
        }
    }

    pub fn leave(&mut self) {
        let at = self.any_client();
        let Some(session) = self.clients[at].session.take() else { return };
        self.relay.handle_input(self.now, Input::Left { session, reason: LeftReason::Client });
    }

    pub fn subscribe(&mut self) {
        let (at, channel) = (self.any_client(), self.any_channel());
        if self.clients[at].session.is_some() && self.clients[at].wants.insert(channel.to_owned()) {
            // What it saw in an earlier life of this subscription does not count: its cursor moved on without the channel.
            self.clients[at].views.remove(channel);
            self.ask(at, &json!({"op": "subscribe", "ref": 0, "channels": [channel]}));
        }
    }

    pub fn unsubscribe(&mut self) {
        let (at, channel) = (self.any_client(), self.any_channel());
        if self.clients[at].session.is_some() && self.clients[at].wants.remove(channel) {
            self.ask(at, &json!({"op": "unsubscribe", "ref": 0, "channels": [channel]}));
        }
    }

    pub fn stick(&mut self) {
        let at = self.any_client();
        if self.clients[at].stuck {
            self.unstick(at);
        } else {
            self.clients[at].stuck = self.clients[at].session.is_some();
        }
    }

    pub fn unstick(&mut self, at: usize) {
        self.clients[at].stuck = false;
        if std::mem::take(&mut self.clients[at].waiting)
            && let Some(session) = self.clients[at].session
        {
            self.relay.handle_input(self.now, Input::Delivered { session, at: self.now.mono });
        }
    }

    pub fn publish(&mut self) {
        let at = self.any_client();
        if self.clients[at].session.is_none() {
            return;
        }
        let tag = self.sent.len() as u64 + 1;
        let order_key = self.chance(2).then(|| self.rng.below(3));
        let once = self.chance(4);
        self.sent.insert(tag, Sent { order_key, once, judged: 0 });
        self.publish_tag(at, tag);
    }

    pub fn publish_again(&mut self) {
        let at = self.any_client();
        // What got no answer and comes later leaves out of the order that its tag says.
        let may = |(tag, sent): (&u64, &Sent)| {
            (sent.order_key.is_none() || self.told.accepted.contains_key(tag)).then_some(*tag)
        };
        let tags: Vec<u64> = self.sent.iter().filter_map(may).collect();
        if tags.is_empty() || self.clients[at].session.is_none() {
            return;
        }
        let tag = tags[usize::try_from(self.rng.below(tags.len() as u64)).expect("small")];
        let known = self.told.accepted.contains_key(&tag);
        self.covered(if known { "repeated publish" } else { "repeated publish without an answer" });
        self.publish_tag(at, tag);
    }

    pub fn publish_tag(&mut self, at: usize, tag: u64) {
        self.references += 1;
        let reference = self.references;
        self.clients[at].asked.insert(reference, tag);
        let sent = &self.sent[&tag];
        let mut request = json!({
            "op": "publish", "ref": reference, "channel": "orders", "data": {"tag": tag},
            "idempotency_key": format!("i-{tag}"),
            "on_unknown": if sent.once { "dead_letter" } else { "retry" },
        });
        if let Some(key) = sent.order_key {
            request["order_key"] = json!(format!("k-{key}"));
        }
        self.ask(at, &request);
    }
}
