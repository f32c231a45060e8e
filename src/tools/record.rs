//! `tidegate record`: holds the configured service as a relay does and writes down what passes.
//!
//! With a dialect it is the relay itself that connects, authenticates, subscribes, answers and comes back, with one session
//! that wants the channels named; so what is recorded is what the relay will do. Without one nothing is said but what was
//! asked for: the beginning of a new dialect.
//! Invariants: every frame is written, understood or not; secrets are known before anything that may hold them is written.
//! Deliberately not here: a store or a feed; nothing is published and nobody can connect.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::tape::{Limits, Tape, Way};
use super::{END_WITHIN, stop_signals};
use crate::clock;
use crate::config::Config;
use crate::dialect::{ConnectRequest, Dialect, Transport, WireFrame};
use crate::protocol::frame::Format;
use crate::protocol::request::options::Options;
use crate::protocol::request::{ChannelRequest, Subscribe};
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::pairs::{AttemptId, Input, LeftReason, Notice, Output, SessionId};
use crate::relay::record::Restored;
use crate::relay::redact::Redactor;
use crate::upstream::Upstream;

/// After this long without an answer the next text is sent all the same.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The close code of a recording that is over.
const NORMAL: u16 = 1000;

/// What to record.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// With the dialect: these channels.
    pub channels: Vec<ChannelRequest>,
    /// Without it: these texts, one after the other.
    pub texts: Vec<String>,
    /// Without it: these subprotocols are offered.
    pub subprotocols: Vec<String>,
    /// How long.
    pub length: Duration,
    /// How much.
    pub limits: Limits,
}

/// What was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Frames, both ways.
    pub frames: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Why it ended.
    pub ended: &'static str,
}

/// Records until a limit, a signal, or (without a dialect) the end of the connection. `say` tells people what happens.
pub fn run(
    config: Config,
    dialect: Option<Arc<Dialect>>,
    wanted: &Wanted,
    path: &Path,
    say: &mut dyn FnMut(&str),
) -> std::io::Result<Recorded> {
    let meta = serde_json::json!({
        "captured": clock::now().wall.rfc3339(),
        "protocol": dialect.as_ref().map_or("unknown", |dialect| dialect.name()),
        "source": format!("tidegate record {}", env!("CARGO_PKG_VERSION")),
    });
    let open_members = dialect.as_ref().map(|dialect| dialect.open_members()).unwrap_or_default();
    let tape = Tape::create(path, wanted.limits, &meta, open_members)?;
    let stop = stop_signals()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut upstream, inputs) = Upstream::new(&config.upstream);
    upstream.find_secrets(config.secrets.clone());
    let recording = Recording { tape, upstream, inputs, stop, end: Instant::now() + wanted.length };
    let recorded = LocalSet::new().block_on(&runtime, async {
        match dialect {
            Some(dialect) => recording.converse(config, dialect, wanted, say).await,
            None => recording.listen(&config, wanted).await,
        }
    });
    // A name lookup or a token file on a dead mount must not keep the process.
    runtime.shutdown_background();
    recorded
}

/// A recording at work.
struct Recording {
    tape: Tape,
    upstream: Upstream,
    inputs: mpsc::Receiver<Input>,
    stop: mpsc::Receiver<()>,
    end: Instant,
}

/// What happened next.
enum Next {
    Input(Input),
    Due,
    End(&'static str),
}

impl Recording {
    async fn next(&mut self, due: Option<Instant>) -> Next {
        if self.tape.is_full() {
            return Next::End("a limit of the recording is reached");
        }
        tokio::select! {
            biased;
            _ = self.stop.recv() => Next::End("stopped"),
            () = sleep_until(self.end) => Next::End("the time is over"),
            Some(input) = self.inputs.recv() => Next::Input(input),
            () = sleep_until(due.unwrap_or(self.end)) => Next::Due,
        }
    }

    fn recorded(self, ended: &'static str) -> Recorded {
        Recorded { frames: self.tape.frames, bytes: self.tape.bytes, ended }
    }

    /// Writes down what came.
    fn note(&mut self, input: &Input, secrets: &Redactor) -> std::io::Result<()> {
        match input {
            Input::Connected { attempt, .. } => self.tape.open(*attempt),
            Input::Received { attempt, frames, .. } => {
                frames.iter().try_for_each(|frame| self.tape.frame(*attempt, Way::In, frame, secrets))
            }
            Input::Disconnected { attempt, reason } => self.tape.ended(*attempt, reason, secrets),
            _ => Ok(()),
        }
    }

    /// The relay talks.
    async fn converse(
        mut self,
        config: Config,
        dialect: Arc<Dialect>,
        wanted: &Wanted,
        say: &mut dyn FnMut(&str),
    ) -> std::io::Result<Recorded> {
        let mut relay = Relay::new(Arc::new(config), dialect, Restored::default(), clock::now().wall.0, clock::now());
        let session = SessionId { index: 0, generation: 1 };
        let subscribe = (!wanted.channels.is_empty()).then(|| Subscribe {
            reference: None,
            channels: wanted.channels.clone(),
            since: None,
            snapshot: true,
            options: Options::default(),
        });
        let principal = Arc::new(Principal::local());
        relay.handle_input(clock::now(), Input::Joined { session, principal, format: Format::WebSocket, subscribe });
        let mut ended = None;
        loop {
            relay.handle_timeout(clock::now());
            if self.carry(&mut relay, say)? {
                return Ok(self.recorded(ended.unwrap_or("stopped")));
            }
            let due = relay.poll_timeout().map(|due| Instant::from_std(clock::instant(due)));
            if ended.is_some() {
                let within = self.end.min(Instant::now() + END_WITHIN);
                let Ok(Some(input)) = timeout(within - Instant::now(), self.inputs.recv()).await else {
                    return Ok(self.recorded(ended.unwrap_or("stopped")));
                };
                self.note(&input, relay.redactor())?;
                relay.handle_input(clock::now(), input);
                continue;
            }
            match self.next(due).await {
                Next::Input(input) => {
                    self.note(&input, relay.redactor())?;
                    relay.handle_input(clock::now(), input);
                }
                Next::Due => {}
                Next::End(why) => {
                    ended = Some(why);
                    self.end = Instant::now() + END_WITHIN;
                    relay.handle_input(clock::now(), Input::Stop { now: true });
                }
            }
        }
    }

    /// Does what the relay asks for. `true`: it has stopped.
    fn carry(&mut self, relay: &mut Relay, say: &mut dyn FnMut(&str)) -> std::io::Result<bool> {
        let now = clock::now();
        let mut stopped = false;
        while let Some(output) = relay.poll_output(now) {
            match output {
                Output::Connect { attempt, request } => {
                    self.tape.connect(attempt, &request, relay.redactor())?;
                    self.upstream.connect(attempt, request);
                }
                Output::Transmit { attempt, frames } => {
                    for frame in &frames {
                        self.tape.frame(attempt, Way::Out, frame, relay.redactor())?;
                    }
                    self.upstream.transmit(attempt, frames);
                }
                Output::Disconnect { attempt, code, farewell } => {
                    self.tape.close(attempt, code)?;
                    self.upstream.disconnect(attempt, code, farewell);
                }
                Output::Upgrade { attempt, request } => self.upstream.upgrade(attempt, request),
                Output::KeepPolling { attempt } => self.upstream.keep_polling(attempt),
                Output::Fetch { call, request } => self.upstream.fetch(call, request),
                // Nothing is published, so nothing has to be kept.
                Output::Commit(_) => relay.handle_input(now, Input::Committed),
                Output::Load(_) => relay.handle_input(now, Input::Loaded(Vec::new())),
                Output::Deliver { session, batch } => {
                    for item in batch.items() {
                        tell(item.text(), say);
                    }
                    relay.handle_input(now, Input::Delivered { session, at: now.mono });
                }
                Output::Close { session, .. } => {
                    relay.handle_input(now, Input::Left { session, reason: LeftReason::Client });
                }
                Output::Notify(Notice::NotUnderstood { why, sample, .. }) => {
                    say(&format!("{why}: {sample}"));
                }
                // A recording alarms nobody.
                Output::Alert { delivery, .. } => {
                    relay.handle_input(now, Input::Alerted { delivery, result: Ok(()) });
                }
                Output::Notify(_) | Output::Answer { .. } => {}
                Output::Stopped => stopped = true,
            }
        }
        Ok(stopped)
    }

    /// Nobody talks but the texts that were asked for.
    async fn listen(mut self, config: &Config, wanted: &Wanted) -> std::io::Result<Recorded> {
        let attempt = AttemptId(1);
        let secrets = Redactor::of(config, &[]);
        let headers = config.upstream.headers.iter();
        let request = ConnectRequest {
            transport: Transport::WebSocket,
            url: config.upstream.url.clone(),
            headers: headers.map(|(name, value)| (name.clone(), value.expose().to_owned())).collect(),
            subprotocols: wanted.subprotocols.clone(),
        };
        self.tape.connect(attempt, &request, &secrets)?;
        self.upstream.connect(attempt, request);
        let mut texts: VecDeque<String> = wanted.texts.iter().cloned().collect();
        let mut may_send = None;
        let mut writing = false;
        let ended = loop {
            if !writing
                && may_send.is_some_and(|at| at <= Instant::now())
                && let Some(text) = texts.pop_front()
            {
                let frame = WireFrame::Text(text.into());
                self.tape.frame(attempt, Way::Out, &frame, &secrets)?;
                self.upstream.transmit(attempt, vec![frame]);
                (writing, may_send) = (true, Some(Instant::now() + ANSWER_WITHIN));
            }
            let due = may_send.filter(|_| !writing && !texts.is_empty());
            match self.next(due).await {
                Next::Input(input) => {
                    self.note(&input, &secrets)?;
                    match input {
                        Input::Connected { .. } | Input::Received { .. } => may_send = Some(Instant::now()),
                        Input::Transmitted { .. } => writing = false,
                        Input::Disconnected { .. } => return Ok(self.recorded("the connection ended")),
                        _ => {}
                    }
                }
                Next::Due => {}
                Next::End(why) => break why,
            }
        };
        self.tape.close(attempt, NORMAL)?;
        self.upstream.disconnect(attempt, NORMAL, None);
        let _ = timeout(END_WITHIN, async {
            while let Some(input) = self.inputs.recv().await {
                if matches!(input, Input::Disconnected { .. }) {
                    return;
                }
            }
        })
        .await;
        Ok(self.recorded(ended))
    }
}

/// Tells people what concerns the recording: refusals and losses.
fn tell(frame: &[u8], say: &mut dyn FnMut(&str)) {
    let Ok(frame) = serde_json::from_slice::<serde_json::Value>(frame) else { return };
    let word = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
    match frame["kind"].as_str() {
        Some("error") => say(&format!("{}: {}: {}", word("channel"), word("code"), word("message"))),
        Some("gap") => say(&format!("{}: gap ({})", word("channel"), word("reason"))),
        _ => {}
    }
}
