//! Sessions meet everything else: joining, requests, tokens, what was delivered, leaving.

use std::sync::Arc;
use std::time::Duration;

use crate::protocol::codes::{CloseCode, ErrorCode};
use crate::protocol::control::{self, Object};
use crate::protocol::frame::{Format, Item};
use crate::protocol::request::{Ref, Request, Secret, Subscribe};
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::limiter::Bucket;
use crate::relay::meet::messages::publishing::Published;
use crate::relay::meet::messages::waiting::Asker;
use crate::relay::pairs::{BadRequest, LeftReason, Output, SessionId};
use crate::relay::stats::ThrottlePlace;
use crate::relay::time::{Mono, Time};

/// How long a session may stay without a token where one is needed.
const AUTHENTICATE_WITHIN: Duration = Duration::from_secs(5);

impl Relay {
    /// Queues a control frame behind everything that the feed holds now.
    pub(in crate::relay) fn tell(&mut self, session: SessionId, frame: Item) {
        self.sessions.push_control(session, self.feed.head(), frame);
        if self.sessions.control_bytes > self.config.feed.control_bytes_total {
            self.cut_off_if_greedy(session);
        }
    }

    /// There is no room for more snapshots: who has let many wait without reading them pays for it.
    fn cut_off_if_greedy(&mut self, session: SessionId) {
        let waits = self.sessions.get(session).filter(|session| !session.closed).map(|session| session.control_bytes);
        if waits.is_some_and(|bytes| bytes > self.config.feed.session_lag) {
            self.sessions.cut_off(session);
            self.outputs.push_back(Output::Close { session, code: CloseCode::Slow });
        }
    }

    pub(in crate::relay) fn joined(
        &mut self,
        now: Time,
        id: SessionId,
        principal: Arc<Principal>,
        format: Format,
        subscribe: Option<Subscribe>,
    ) {
        let rate = self.config.feed.session_requests.max(1);
        let bucket = Bucket::new(rate, Duration::from_secs(1), rate.saturating_mul(2));
        let known = principal.is_authenticated();
        self.sessions.join(id, principal, format, bucket, now);
        self.stats.sessions.joined += 1;
        if self.draining.is_draining() {
            self.close_session(id, CloseCode::Restart);
            return;
        }
        if !known {
            self.sessions.expect_token(id, now.mono + AUTHENTICATE_WITHIN);
        }
        let since = subscribe.as_ref().and_then(|subscribe| subscribe.since.clone());
        let cursor = since.map_or_else(|| self.feed.position().to_string(), String::from);
        let upstream = Object::new().text("state", self.link_word()).end();
        let name = format!("{:x}-{:x}", id.index, id.generation);
        let limits = self.limits_json();
        self.tell(id, control::hello(&name, &cursor, &upstream, &limits));
        if let Some(subscribe) = subscribe {
            self.subscribe(now, id, subscribe);
        }
    }

    fn limits_json(&self) -> Vec<u8> {
        let feed = &self.config.feed;
        Object::new()
            .number("request_max", feed.request_max as u64)
            .number("message_max", self.config.outbox.message_max as u64)
            .number("session_channels", feed.session_channels as u64)
            .number("session_requests", u64::from(feed.session_requests))
            .number("session_errors", u64::from(feed.session_errors))
            .number("session_lag", feed.session_lag as u64)
            .end()
    }

    pub(in crate::relay) fn requested(&mut self, now: Time, id: SessionId, request: Result<Request, BadRequest>) {
        self.stats.sessions.requests += 1;
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.closing.is_some() {
            return;
        }
        if !session.requests.take(now.mono, 1) {
            self.stats.throttled.bump(ThrottlePlace::Request);
            let retry = session.requests.next(now.mono, 1).since(now.mono);
            let reference = request_reference(&request);
            let message = "more requests than feed.session_requests a second";
            self.refuse(id, reference.as_ref(), None, ErrorCode::LimitExceeded, message, Some(retry));
            return;
        }
        let known = session.principal.is_authenticated();
        let principal = Arc::clone(&session.principal);
        match request {
            Err(bad) => self.refuse(id, bad.reference.as_ref(), None, bad.code, &bad.message, None),
            Ok(Request::Auth { reference, token }) => self.authenticate(id, reference.as_ref(), &token),
            Ok(Request::Ping { reference }) => self.tell(id, control::pong(reference.as_ref())),
            Ok(request) if !known => {
                let reference = request_reference(&Ok(request));
                let message = "send {\"op\":\"auth\",\"token\":…} first";
                self.refuse(id, reference.as_ref(), None, ErrorCode::Unauthenticated, message, None);
            }
            Ok(Request::Subscribe(subscribe)) => self.subscribe(now, id, subscribe),
            Ok(Request::Unsubscribe { reference, channels }) => {
                for channel in channels {
                    self.unsubscribe(now, id, reference.as_ref(), &channel);
                }
            }
            Ok(Request::Publish { reference, messages, atomic }) => {
                let published = Published { messages, atomic, wait: Duration::ZERO };
                self.publish(now, Asker::Session(id, reference), &principal, published);
            }
            Ok(Request::Refresh { reference, channel, key }) => {
                self.refresh(now, Asker::Session(id, reference), &principal, &channel, key);
            }
            Ok(Request::Cancel { reference, message }) => {
                self.cancel(now, Asker::Session(id, reference), &principal, &message);
            }
        }
    }

    /// Answers a request with an error, and counts it against the session.
    pub(in crate::relay) fn refuse(
        &mut self,
        id: SessionId,
        reference: Option<&Ref>,
        channel: Option<&str>,
        code: ErrorCode,
        message: &str,
        retry_after: Option<Duration>,
    ) {
        self.stats.sessions.errors.bump(code.text());
        self.tell(id, control::error(reference, channel, code, message, retry_after));
        let limit = self.config.feed.session_errors;
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.errors = session.errors.saturating_add(1);
        if session.errors >= limit && limit > 0 {
            self.close_session(id, CloseCode::TooManyErrors);
        }
    }

    fn authenticate(&mut self, id: SessionId, reference: Option<&Ref>, token: &Secret) {
        match self.access.authenticate(Some(token.expose())) {
            Ok(principal) => {
                self.sessions.authenticated(id, principal);
                self.tell(id, control::ok(reference));
            }
            Err(code) => self.refuse(id, reference, None, code, "this token is not one of access.tokens", None),
        }
    }

    /// Says `closing` and closes once that has left.
    pub(in crate::relay) fn close_session(&mut self, id: SessionId, code: CloseCode) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.closing.is_some() {
            return;
        }
        // Spread over two seconds, so that a restart brings no storm.
        let spread = Duration::from_millis(500 + self.rng.below(2_000));
        let retry = code.reconnect().then_some(spread);
        self.tell(id, control::closing(code, retry));
        if let Some(session) = self.sessions.get_mut(id) {
            session.closing = Some(code);
        }
    }

    pub(in crate::relay) fn delivered(&mut self, id: SessionId, at: Mono) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(sent) = session.in_flight.take() else { return };
        let stats = &mut self.stats.sessions;
        stats.batches += 1;
        stats.deliveries += u64::from(sent.entries);
        stats.bytes += u64::from(sent.bytes);
        if let Some(oldest) = sent.oldest {
            stats.latency.observe(at.since(oldest));
        }
        if session.has_news() || session.closing.is_some() {
            self.sessions.offer(id.index);
        }
    }

    pub(in crate::relay) fn left(&mut self, now: Time, id: SessionId, reason: LeftReason) {
        let Some(session) = self.sessions.remove(id) else { return };
        self.stats.sessions.left.bump(reason);
        for (slot, subscription) in (0u32..).zip(session.subscriptions) {
            let Some(subscription) = subscription else { continue };
            self.forget_rest(id, slot, &subscription);
            self.stats.sessions.subscriptions = self.stats.sessions.subscriptions.saturating_sub(1);
            self.leave_ring(now, &subscription);
            if let Some(upstream) = subscription.upstream {
                self.interest.release(now.mono, upstream);
            }
        }
    }

    pub(in crate::relay) fn sessions_due(&self) -> Option<Mono> {
        let token = self.sessions.token_due();
        [self.pass.hold, token, Some(self.next_sweep), self.rests.due()].into_iter().flatten().min()
    }

    pub(in crate::relay) fn sessions_timeout(&mut self, now: Time) {
        while let Some(id) = self.sessions.overdue_token(now.mono) {
            self.close_session(id, CloseCode::AuthenticationRequired);
        }
        while let Some((id, slot)) = self.rests.take_due(now.mono) {
            self.sessions.wake(id, slot);
        }
        if now.mono >= self.next_sweep {
            self.next_sweep = now.mono + crate::relay::meet::SWEEP_EVERY;
            self.feed.sweep(now.mono, &mut self.stats.feed);
        }
    }
}

fn request_reference(request: &Result<Request, BadRequest>) -> Option<Ref> {
    match request {
        Err(bad) => bad.reference.clone(),
        Ok(Request::Subscribe(subscribe)) => subscribe.reference.clone(),
        Ok(
            Request::Unsubscribe { reference, .. }
            | Request::Publish { reference, .. }
            | Request::Cancel { reference, .. }
            | Request::Refresh { reference, .. }
            | Request::Auth { reference, .. }
            | Request::Ping { reference },
        ) => reference.clone(),
    }
}
