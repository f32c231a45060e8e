//! The provider's side: what lets connections in and ends them, and the endpoint that gives tokens.

use super::*;

impl World {
    /// The endpoint is asked for a token.
    pub(super) fn give(&mut self, call: CallId, timeout: Duration) {
        let status = |status, body: Value| {
            Ok(FetchAnswer::Http(HttpAnswer { status, retry_after: None, body: Bytes::from(body.to_string()) }))
        };
        let (soon, half) = (self.rig.micros(300_000), self.rig.rng.below(2));
        let (after, result) = match self.endpoint {
            Endpoint::Gives => {
                let ends = self.seconds() + 60 + self.rig.rng.below(60);
                let claims = format!("{{\"exp\":{ends},\"n\":{}}}", self.tokens.len());
                let text = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims));
                self.by_text.insert(text.clone(), self.tokens.len());
                self.tokens.push(Token { ends, revoked: false });
                (soon, status(200, json!({ "t": text })))
            }
            Endpoint::Down if half == 0 => (soon, Err(FetchError::Unreachable(Disconnect::Refused))),
            Endpoint::Down => (soon, status(503, json!({}))),
            Endpoint::Hangs => (timeout, Err(FetchError::Timeout)),
            Endpoint::Refuses => (soon, status(401 + 2 * u16::from(half == 1), json!({}))),
        };
        self.happens(format!("the endpoint {:?}", self.endpoint));
        self.rig.send(self.now() + after, Input::Fetched { call, result });
    }

    /// The provider refuses a token.
    pub(super) fn refuses(&mut self) {
        if !self.is_live() {
            self.refusals += 1;
            self.refused_at = Some(self.now());
            self.fetched = false;
        }
    }

    pub(super) fn connect(&mut self, attempt: AttemptId, request: &ConnectRequest) {
        (self.call_refused, self.preparing) = (None, false);
        let dials = if self.fault == Some(Fault::DialsTwice) { 2 } else { 1 };
        for _ in 0..dials {
            if let Err(violation) = self.provider.connect(self.now(), false) {
                self.wrong(violation);
            }
        }
        let shown = request.url.split_once("t=").map(|(_, text)| text.to_owned());
        let token = shown.and_then(|text| self.shown(&text));
        if self.kind == Kind::Address {
            self.judge("opened", token);
        }
        let good = self.kind == Kind::Frame || self.is_good(token);
        let refusal = |status| Disconnect::BadStatus { status, retry_after: None, detail: String::new() };
        let half = self.rig.rng.below(2) == 0;
        let reason = match self.shut.or(self.stuck) {
            Some(Shut::Unreachable) => Some(Disconnect::Refused),
            Some(Shut::Status(status)) => Some(refusal(status)),
            None if !good => Some(refusal(if half { 401 } else { 403 })),
            None => None,
        };
        self.rig.note(format!("connect {} {token:?} {reason:?}", attempt.0));
        let at = self.now() + self.rig.micros(10_000);
        let Some(reason) = reason else {
            let manner = self.rig.one_of(&[Manner::Closes, Manner::SaysSo, Manner::Lenient]);
            let ready = self.kind == Kind::Address;
            if ready {
                self.accepts();
            }
            let has = BTreeSet::new();
            self.open
                .insert(attempt, Open { token, ready, has, last_frame: at, last_answer: at, manner, warned: false });
            return self.rig.send(at, Input::Connected { attempt, peer: "test".into() });
        };
        match reason {
            Disconnect::BadStatus { status: 401 | 403, .. } => {
                self.happens("connect refused for its token");
                self.refuses();
            }
            _ => {
                self.happens("connect refused");
                self.refused_at = None;
            }
        }
        self.rig.send(at, Input::Disconnected { attempt, reason });
    }

    fn accepts(&mut self) {
        if self.refusals > 0 {
            self.happens("accepted after a refusal");
        }
        (self.refusals, self.refused_at) = (0, None);
    }

    /// The number of a token that is shown.
    fn shown(&self, text: &str) -> Option<usize> {
        let token = self.by_text.get(text).copied();
        if self.fault == Some(Fault::OldTokenShown) { token.map(|_| 0) } else { token }
    }

    /// A token that ran out is not used where a fresh one was to be had; one that was refused is got anew.
    fn judge(&mut self, what: &str, token: Option<usize>) {
        let over = token.is_none_or(|at| self.tokens[at].ends <= self.seconds());
        // Where another token needs another connection, that one must be let in as well.
        let to_be_had = if what == "opened" { self.given_for() } else { self.well_for() };
        if over && to_be_had > SEEN_WITHIN {
            self.wrong(format!("{what} with a token that ran out ({token:?}), and fresh ones were to be had"));
        }
        if self.refusals > 0 && !self.fetched && !self.is_live() {
            self.wrong(format!("{what} with the token that was refused"));
        }
    }

    pub(super) fn transmit(&mut self, attempt: AttemptId, frames: &[WireFrame]) {
        if let Err(violation) = self.provider.frames(self.now(), frames.len()) {
            self.wrong(violation);
        }
        self.rig.input(Input::Transmitted { attempt });
        for frame in frames.iter().filter_map(|frame| serde_json::from_slice::<Value>(frame.body()).ok()) {
            let names: Vec<String> = serde_json::from_value(frame["channels"].clone()).unwrap_or_default();
            match frame["op"].as_str() {
                Some("auth") => self.authenticate(attempt, frame["token"].as_str().unwrap_or_default(), &frame["id"]),
                Some("subscribe") => self.subscribe(attempt, &names, &frame["id"]),
                Some("unsubscribe") => {
                    if let Some(open) = self.open.get_mut(&attempt) {
                        open.has.retain(|name| !names.contains(name));
                    }
                    self.say(attempt, &json!({"ok": frame["id"]}));
                }
                _ => {}
            }
        }
    }

    fn authenticate(&mut self, attempt: AttemptId, text: &str, id: &Value) {
        let token = self.shown(text);
        let Some(ready) = self.open.get(&attempt).map(|open| open.ready) else { return };
        if !ready {
            self.judge("opened", token);
        }
        // Some renewals are denied for no reason.
        let denies = ready && self.rig.rng.below(8) == 0;
        if denies {
            self.trouble = self.now();
        }
        if denies || !self.is_good(token) {
            self.happens(if ready { "renewal denied" } else { "denied" });
            self.refuses();
            return self.say(attempt, &json!({"denied": id}));
        }
        if let Some(open) = self.open.get_mut(&attempt) {
            (open.token, open.ready, open.warned) = (token, true, false);
        }
        if ready {
            self.happens("renewed in-band");
            return self.say(attempt, &json!({"ok": id}));
        }
        self.accepts();
        self.say(attempt, &json!({"ready": id}));
    }

    fn subscribe(&mut self, attempt: AttemptId, names: &[String], id: &Value) {
        let Some(token) = self.open.get(&attempt).map(|open| open.token) else { return };
        self.judge("subscribed", token);
        if !self.is_good(token) {
            self.happens("subscribe refused for its token");
            return self.say(attempt, &json!({"expired": true}));
        }
        if self.busy {
            self.happens("subscribe refused");
            return self.answer(attempt, &json!({"busy": id}));
        }
        let Some(open) = self.open.get_mut(&attempt) else { return };
        let before = open.has.len();
        open.has.extend(names.iter().cloned());
        if open.has.len() == before {
            self.happens("subscribed already");
            return self.answer(attempt, &json!({"no": id, "why": ALREADY}));
        }
        self.answer(attempt, &json!({"ok": id}));
    }

    /// Subscribes are answered in their order, some of them late.
    fn answer(&mut self, attempt: AttemptId, message: &Value) {
        let late = self.rig.rng.below(6) == 0;
        let delay = self.rig.micros(if late { 5_000_000 } else { 10_000 });
        let Some(open) = self.open.get_mut(&attempt) else { return };
        open.last_answer = open.last_answer.max(self.rig.now.mono + delay);
        let (at, frames) = (open.last_answer, vec![rig::text(message)]);
        if at.since(self.now()) > ACK_TIMEOUT {
            self.happens("a subscribe is answered late");
        }
        self.rig.send(at, Input::Received { attempt, at: self.rig.now, frames });
    }

    /// Connections whose token ran out or was revoked are ended, each in its manner.
    pub(super) fn patrol(&mut self) {
        let now = self.seconds();
        let over = |token: &Token| token.revoked || token.ends <= now;
        let spent = self.open.iter().filter(|(_, open)| open.token.is_some_and(|at| over(&self.tokens[at])));
        let spent: Vec<(AttemptId, usize, Manner, bool)> =
            spent.map(|(id, o)| (*id, o.token.unwrap_or_default(), o.manner, o.warned)).collect();
        for (attempt, at, manner, warned) in spent {
            let (since, revoked) = (now.saturating_sub(self.tokens[at].ends), self.tokens[at].revoked);
            if !revoked && since <= 1 && self.open.len() == 1 && self.well_for() > SEEN_WITHIN {
                self.wrong(format!("token {at} ran out in use, and nothing was wrong for {:?}", self.well_for()));
            }
            match manner {
                Manner::SaysSo if !warned => {
                    self.open.get_mut(&attempt).expect("open").warned = true;
                    self.happens("a token ran out: a frame says so");
                    self.say(attempt, &json!({"expired": true}));
                }
                Manner::Closes => {
                    self.happens("a token ran out: closed");
                    self.lose(attempt, Disconnect::Closed { code: 4001, reason: "token expired".into() });
                }
                _ if since > 20 || revoked => {
                    self.happens("a token ran out: closed later");
                    self.lose(attempt, Disconnect::Closed { code: 1008, reason: String::new() });
                }
                _ => {}
            }
        }
    }
}
