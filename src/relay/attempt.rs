//! One connection's life: dialing, handshake, authenticating, ready, draining. Everything that belongs to a connection is here
//! and ends with it: its conversation, its heartbeat, what upstream acked on it, what waits to leave on it.
//!
//! Invariants: at most one `Transmit` is out; the deadline of the phase is always set until the attempt is ready, or only
//! waits for its first poll, which has its own; nothing leaves before the connection is open or after it began to drain.
//! Deliberately not here: when to connect (the link's), what is wanted (interest), and the order in which things leave.

pub mod acked;
pub mod attempts;
pub mod audit;
pub mod heartbeat;
pub mod lease;
pub mod leaving;
pub mod polled;
pub mod proof;

use std::collections::VecDeque;
use std::time::Duration;

use super::pairs::{AttemptId, Disconnect};
use super::time::Mono;
use crate::config::UpstreamConfig;
use crate::dialect::{ChannelId, Conversation, Outgoing, Purpose, Then, Transport, WireFrame};
use acked::{Acked, Known};
use audit::Audit;
use heartbeat::{Beat, Heartbeat};
use lease::{Lease, LeaseDue};
use leaving::Leaving;
use polled::Polled;
use proof::{HELD, Proof};

/// How long a connection that we close may take until it is forgotten.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Frames that wait to leave because upstream asked for them; beyond it, it asks for more than it takes.
const STAGED_MAX: usize = 1024;

/// Where an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// What the connection needs is being fetched.
    Dialing,
    /// The carrier resolves, connects, and shakes hands.
    Handshake,
    /// The connection is open; the dialect introduces us.
    Authenticating,
    /// Channels can be subscribed and messages published.
    Ready,
    /// We asked for the end; what still comes in counts.
    Draining,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The carrier says so.
    Carrier(Disconnect),
    /// Pings went unanswered.
    Heartbeat,
    /// Upstream was silent for longer than the dialect allows.
    Idle,
    /// What upstream sends cannot be followed any more: why.
    Malformed(&'static str),
    /// Upstream refused our credentials.
    Denied {
        /// In its words.
        message: String,
        /// What the dialect says it means.
        then: Option<Then>,
    },
    /// Upstream, by a message that the dialect understands, or the relay asks for another connection.
    Told {
        /// What the dialect says it means.
        then: Then,
        /// Not before.
        retry_after: Option<Duration>,
        /// In upstream's words.
        message: String,
    },
    /// It was to be replaced, and the service allows one session at a time.
    Rotated,
    /// The token could not be read, or has run out: why.
    Token(String),
    /// Something that the connection needs could not be fetched.
    Fetch {
        /// Our credentials were refused there.
        denied: bool,
        /// Not before.
        retry_after: Option<Duration>,
        /// What, and why not.
        message: String,
    },
    /// The dialect cannot make the request for the connection: what is missing.
    Unbuildable(String),
}

impl Ending {
    /// The reason as one word of a closed set: the metric's label, the log line's field.
    pub fn reason(&self) -> &'static str {
        match self {
            Ending::Carrier(Disconnect::BadStatus { status: 401 | 403, .. }) | Ending::Denied { .. } => "denied",
            Ending::Carrier(Disconnect::BadStatus { status: 429 | 503, .. }) => "rate_limited",
            Ending::Carrier(Disconnect::BadStatus { status: 300..=399, .. }) => "redirect",
            Ending::Carrier(disconnect) => disconnect.reason(),
            Ending::Heartbeat => "heartbeat",
            Ending::Idle => "idle",
            Ending::Malformed(_) => "malformed",
            Ending::Told { .. } => "told",
            Ending::Rotated => "rotated",
            Ending::Token(_) => "token",
            Ending::Fetch { .. } => "fetch",
            Ending::Unbuildable(_) => "unbuildable",
        }
    }

    /// The circumstances for people; empty where the reason says it all.
    pub fn detail(&self) -> String {
        match self {
            Ending::Carrier(disconnect) => disconnect.detail(),
            Ending::Heartbeat | Ending::Idle | Ending::Rotated => String::new(),
            Ending::Malformed(why) => (*why).to_owned(),
            Ending::Denied { message, .. } | Ending::Told { message, .. } | Ending::Fetch { message, .. } => {
                message.clone()
            }
            Ending::Token(text) | Ending::Unbuildable(text) => text.clone(),
        }
    }

    /// The same with other words.
    pub fn worded(mut self, words: impl Fn(&str) -> String) -> Self {
        let text = match &mut self {
            Ending::Carrier(disconnect) => disconnect.words_mut(),
            Ending::Heartbeat | Ending::Idle | Ending::Malformed(_) | Ending::Rotated => None,
            Ending::Denied { message, .. } | Ending::Told { message, .. } | Ending::Fetch { message, .. } => {
                Some(message)
            }
            Ending::Token(text) | Ending::Unbuildable(text) => Some(text),
        };
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            *text = words(text);
        }
        self
    }
}

/// What an attempt wants done because time passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// The dialect's ping is to be rendered and staged.
    DialectPing,
    /// The first long-poll is held: polls get through.
    PollHeld,
    /// The token runs out soon, or did: another one is to be fetched.
    Renew,
    /// The token has run out.
    Expired,
    /// The store did not say in time that it counted the connection.
    Uncounted,
    /// The connection is over.
    Over(Ending),
}

/// What left in the `Transmit` that is out, and has to be known once it is with the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// What for.
    pub purpose: Purpose,
    /// Whether upstream answers it.
    pub answered: bool,
}

/// One connection.
#[derive(Debug)]
pub struct Attempt {
    id: AttemptId,
    phase: Phase,
    began: Mono,
    ready_at: Option<Mono>,
    deadline: Option<Mono>,
    handshake_timeout: Duration,
    /// The dialect at work; absent while dialing, and while it tells what a frame meant.
    pub conversation: Option<Box<Conversation>>,
    /// How it is carried.
    pub transport: Transport,
    /// What the ladder of transports knows it by: how it began, or what it was lifted to.
    pub rung: Transport,
    /// What is special to a session whose packets are polled for.
    pub polled: Polled,
    /// Whether polls get through.
    pub proof: Proof,
    /// The channels that its address names.
    pub addressed: Vec<ChannelId>,
    /// It begins where an earlier one ended, without a hole.
    pub goes_on: bool,
    /// It is another transport's than the connection that served before it.
    pub switched: bool,
    /// A request that left by POST is not answered yet; no other one leaves until then.
    pub posting: bool,
    /// Signs of life.
    pub heartbeat: Heartbeat,
    /// What upstream acked.
    pub acked: Acked,
    /// What has to be unsubscribed.
    pub leaving: Leaving,
    /// When upstream is asked what it believes to be subscribed.
    pub audit: Audit,
    /// Pongs, receipts and the dialect's pings that wait to leave.
    beats: VecDeque<Outgoing>,
    /// A WebSocket ping waits to leave.
    ping_waits: bool,
    /// Authentication that waits to leave.
    auths: VecDeque<Outgoing>,
    /// The `Transmit` that is out, and since when.
    in_flight: Option<(Mono, Vec<Carried>)>,
    /// Decided while frames are handled, carried out after the last of them.
    ending: Option<Ending>,
    /// Channels that the conversation is to forget when it is back.
    forgotten: Vec<ChannelId>,
    /// Intervals may have been set since they were last looked at.
    news: bool,
    /// How long the token holds.
    pub lease: Lease,
    /// How many of the calls that it needs are answered, while dialing.
    pub prepared: usize,
    /// The record in which the connection is counted; 0: in none.
    pub counted: u64,
    /// All is there but the store's word that it is counted.
    counting: bool,
    peer: Option<String>,
    /// Its place in the link's endpoints.
    pub endpoint: usize,
}

impl Attempt {
    /// A connection that begins by fetching what it needs.
    pub fn new(id: AttemptId, config: &UpstreamConfig, now: Mono) -> Self {
        Attempt {
            id,
            phase: Phase::Dialing,
            began: now,
            ready_at: None,
            deadline: Some(now + config.connect_timeout),
            handshake_timeout: config.handshake_timeout,
            conversation: None,
            transport: Transport::default(),
            rung: Transport::default(),
            polled: Polled::default(),
            proof: Proof::default(),
            addressed: Vec::new(),
            goes_on: false,
            switched: false,
            posting: false,
            heartbeat: Heartbeat::new(now, config.ping_interval, config.ping_misses),
            acked: Acked::default(),
            leaving: Leaving::default(),
            audit: Audit::default(),
            beats: VecDeque::new(),
            ping_waits: false,
            auths: VecDeque::new(),
            in_flight: None,
            ending: None,
            forgotten: Vec::new(),
            news: true,
            lease: Lease::default(),
            prepared: 0,
            counted: 0,
            counting: false,
            peer: None,
            endpoint: 0,
        }
    }

    /// By this way.
    pub fn over(self, endpoint: usize, transport: Transport) -> Self {
        Attempt { endpoint, transport, rung: transport, ..self }
    }

    /// Counted in this record of what is spent; 0: in none.
    pub fn counted(self, record: u64) -> Self {
        Attempt { counted: record, ..self }
    }

    /// Its number.
    pub fn id(&self) -> AttemptId {
        self.id
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When it became ready, if it ever did.
    pub fn ready_at(&self) -> Option<Mono> {
        self.ready_at
    }

    /// The address that was reached.
    pub fn peer(&self) -> Option<&str> {
        self.peer.as_deref()
    }

    /// The carrier was asked to connect. Name, TCP, TLS and upgrade have their own deadlines there; this one ends an attempt
    /// whose carrier does not keep them.
    pub fn connecting(&mut self, now: Mono, config: &UpstreamConfig) {
        self.phase = Phase::Handshake;
        self.deadline = Some(now + config.connect_timeout + config.handshake_timeout);
    }

    /// The connection is open: the dialect's authentication has what is left of the deadline, at most `handshake_timeout`.
    pub fn opened(&mut self, now: Mono, config: &UpstreamConfig, peer: String) {
        self.phase = Phase::Authenticating;
        let left = now + self.handshake_timeout;
        self.deadline = Some(self.deadline.map_or(left, |deadline| deadline.min(left)));
        self.heartbeat = Heartbeat::new(now, config.ping_interval, config.ping_misses);
        self.peer = Some(peer);
    }

    /// Authentication is done. Whether that counts only once a poll shows that polls get through; the poll has its own time.
    pub fn waits_for_proof(&mut self, resumed: bool) -> bool {
        let waits = self.phase == Phase::Authenticating && self.transport.polls() && self.proof.wait(resumed);
        if waits {
            self.deadline = None;
        }
        waits
    }

    /// When the long-poll that is out and would be the first to be answered counts as held.
    fn held_at(&self) -> Option<Mono> {
        let waits = self.phase == Phase::Authenticating && self.proof.is_awaited();
        let conversation = self.conversation.as_ref().filter(|_| waits && self.transport == Transport::LongPoll)?;
        Some(conversation.poll_left()? + HELD)
    }

    /// Authentication is done. Gives the time since the attempt began, or `None` if it is not news.
    pub fn ready(&mut self, now: Mono) -> Option<Duration> {
        if self.phase != Phase::Authenticating {
            return None;
        }
        self.phase = Phase::Ready;
        self.deadline = None;
        self.ready_at = Some(now);
        Some(now.since(self.began))
    }

    /// We asked the carrier to close.
    pub fn drain(&mut self, now: Mono) {
        self.phase = Phase::Draining;
        self.deadline = Some(now + CLOSE_TIMEOUT);
    }

    /// Ends the attempt after the frames at hand; the first reason counts.
    pub fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// The end that was decided, if any.
    pub fn take_ending(&mut self) -> Option<Ending> {
        self.ending.take()
    }

    /// The conversation need not know this channel any more; it hears of it when it is back.
    pub fn forget(&mut self, channel: ChannelId) {
        match &mut self.conversation {
            Some(conversation) => conversation.forget_channel(channel),
            None => self.forgotten.push(channel),
        }
    }

    /// The channel is not wanted any more: it is unsubscribed if upstream may know it, else forgotten.
    pub fn leave(&mut self, channel: ChannelId, name: Box<str>, params: Option<Box<str>>) {
        match self.acked.remove(channel) {
            Known::No => self.forget(channel),
            Known::Asked(request, deadline) => {
                self.leaving.enqueue(channel, name, params, Some((request, deadline)));
            }
            Known::Yes => self.leaving.enqueue(channel, name, params, None),
        }
    }

    /// An unsubscribe is done. Whether that is new.
    pub fn left(&mut self, channel: ChannelId) -> bool {
        let new = self.leaving.done(channel);
        if new {
            self.forget(channel);
        }
        new
    }

    /// What the conversation is to forget.
    pub fn take_forgotten(&mut self) -> Vec<ChannelId> {
        std::mem::take(&mut self.forgotten)
    }

    /// Whether upstream may have set intervals: as long as it introduces itself, and once more when it is ready.
    pub fn take_news(&mut self) -> bool {
        std::mem::replace(&mut self.news, self.phase != Phase::Ready)
    }

    /// Upstream may have set intervals.
    pub fn note_news(&mut self) {
        self.news = true;
    }

    /// Something that the connection needs is being fetched. The call has its own timeout, shorter than this.
    pub fn fetching(&mut self, now: Mono, config: &UpstreamConfig) {
        self.deadline = Some(now + config.connect_timeout + config.handshake_timeout + CLOSE_TIMEOUT);
    }

    /// All is there but the store's word that the connection is counted; until then that is waited for.
    pub fn wait_for_count(&mut self, until: Mono) {
        self.counting = true;
        self.deadline = Some(until);
    }

    /// Whether that word is waited for, and is there now.
    pub fn is_counted_by(&mut self, covered: impl Fn(u64) -> bool) -> bool {
        let there = self.counting && self.phase == Phase::Dialing && covered(self.counted);
        self.counting &= !there;
        there
    }

    /// Whether a `Transmit` may be asked for now.
    pub fn may_send(&self) -> bool {
        matches!(self.phase, Phase::Authenticating | Phase::Ready) && self.in_flight.is_none()
    }

    /// Whether its session may be moved to a WebSocket.
    pub fn may_move(&self) -> bool {
        self.conversation.as_ref().is_some_and(|conversation| conversation.may_upgrade())
    }

    /// Whether its packets are polled for, and leave together by POST.
    pub fn posts_packets(&self) -> bool {
        self.conversation.as_ref().is_some_and(|conversation| conversation.is_engine_polled())
    }

    /// Whether packets have to wait: for the answer to the last POST, or for the session to have moved.
    pub fn holds_packets(&self) -> bool {
        self.posts_packets() && (self.posting || self.polled.holds())
    }

    /// Whether channels and messages may leave.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// When it was begun.
    pub fn began(&self) -> Mono {
        self.began
    }

    /// Whether it is ready and brings every channel that it was asked for.
    pub fn is_level(&self) -> bool {
        self.is_ready() && self.acked.is_level() && self.in_flight.is_none()
    }

    /// Stages what a rule or the heartbeat wants said.
    pub fn stage(&mut self, outgoing: Outgoing) {
        let queue = if outgoing.purpose == Purpose::Auth { &mut self.auths } else { &mut self.beats };
        if queue.len() < STAGED_MAX {
            queue.push_back(outgoing);
        } else {
            let message = "it asks for more answers than it takes".to_owned();
            self.end(Ending::Told { then: Then::Retry, retry_after: None, message });
        }
    }

    /// The next pong, receipt or ping of the dialect.
    pub fn next_beat(&mut self) -> Option<Outgoing> {
        if holds(&self.beats, self.posting) { None } else { self.beats.pop_front() }
    }

    /// The WebSocket ping that waits to leave; it counts as sent.
    pub fn next_ping(&mut self, now: Mono) -> Option<WireFrame> {
        if !std::mem::take(&mut self.ping_waits) {
            return None;
        }
        let frame = self.heartbeat.ping_frame();
        self.heartbeat.ping_sent(now);
        Some(frame)
    }

    /// A WebSocket ping is to leave now. Other transports have none.
    pub fn ask_ping(&mut self) {
        self.ping_waits = self.transport == Transport::WebSocket;
    }

    /// Whether a pong, receipt or ping waits to leave.
    pub fn beat_waits(&self) -> bool {
        self.ping_waits || !self.beats.is_empty()
    }

    /// The next step of authentication.
    pub fn next_auth(&mut self) -> Option<Outgoing> {
        if holds(&self.auths, self.posting) { None } else { self.auths.pop_front() }
    }

    /// A `Transmit` with these was asked for.
    pub fn transmit(&mut self, now: Mono, carried: Vec<Carried>) {
        self.in_flight = Some((now, carried));
    }

    /// Its frames are with the kernel: what they were.
    pub fn transmitted(&mut self) -> Vec<Carried> {
        self.in_flight.take().map(|(_, carried)| carried).unwrap_or_default()
    }

    /// How long the `Transmit` that is out has waited for the kernel to take it.
    pub fn writing_for(&self, now: Mono) -> Option<Duration> {
        self.in_flight.as_ref().map(|(since, _)| now.since(*since))
    }

    /// What is due by now, one thing at a time until there is nothing.
    pub fn timeout(&mut self, now: Mono) -> Option<Due> {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            let over = match self.phase {
                Phase::Dialing if std::mem::take(&mut self.counting) => return Some(Due::Uncounted),
                Phase::Dialing => {
                    let message = "token, secrets or a call were not there in time".to_owned();
                    Ending::Fetch { denied: false, retry_after: None, message }
                }
                Phase::Draining => Ending::Carrier(Disconnect::Asked),
                _ => Ending::Carrier(Disconnect::HandshakeTimeout),
            };
            return Some(Due::Over(over));
        }
        if !matches!(self.phase, Phase::Authenticating | Phase::Ready) {
            return None;
        }
        if self.held_at().is_some_and(|at| at <= now) {
            return Some(Due::PollHeld);
        }
        match self.lease.timeout(now) {
            Some(LeaseDue::Renew) => return Some(Due::Renew),
            Some(LeaseDue::Over) => return Some(Due::Expired),
            None => {}
        }
        while let Some(beat) = self.heartbeat.beat(now) {
            match beat {
                Beat::Ping => self.ask_ping(),
                Beat::DialectPing if self.is_ready() => return Some(Due::DialectPing),
                Beat::DialectPing => {}
                Beat::Dead => return Some(Due::Over(Ending::Heartbeat)),
                Beat::Idle => return Some(Due::Over(Ending::Idle)),
            }
        }
        None
    }

    /// When something is due: [`Attempt::timeout`], an ack deadline, a delayed subscribe.
    pub fn due(&self) -> Option<Mono> {
        let open = matches!(self.phase, Phase::Authenticating | Phase::Ready);
        let heartbeat = open.then(|| self.heartbeat.due());
        let (acked, leaving) = if open { (self.acked.due(), self.leaving.due()) } else { (None, None) };
        let lease = self.lease.due().filter(|_| open);
        [self.deadline, self.held_at(), heartbeat, acked, leaving, lease].into_iter().flatten().min()
    }

    /// When the next poll may leave, as far as this connection is concerned: it also needs a token.
    pub fn poll_due(&self) -> Option<Mono> {
        let open =
            matches!(self.phase, Phase::Authenticating | Phase::Ready) && self.may_send() && !self.polled.is_pausing();
        self.conversation.as_ref().filter(|_| open)?.poll_due()
    }
}

/// Whether the next of these leaves by POST and has to wait for another one's answer.
fn holds(queue: &VecDeque<Outgoing>, posting: bool) -> bool {
    posting && queue.front().is_some_and(|next| matches!(next.frame, WireFrame::Ask(_)))
}
