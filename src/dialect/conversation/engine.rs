//! Engine.IO's transports under one session: long-polls, where one GET is out and brings packets and what we send
//! leaves by POST, several packets at once; and the session's move from there to a WebSocket.
//! Source: the Engine.IO protocol's page, <https://socket.io/docs/v4/engine-io-protocol/>.
//!
//! Invariants: packets are text or bytes until they leave, so that those which wait leave by whichever transport is there then;
//! whatever is refused once the session has begun ends it; another connection begins another one, or recovers it.
//! Deliberately not here: packets (`framing`), polls of other services (`asking`), and when a session is moved (the relay's).

use std::collections::VecDeque;

use base64::Engine as _;
use bytes::Bytes;

use super::Conversation;
use super::connect::Addressed;
use crate::dialect::framing::{BINARY, SEPARATOR};
use crate::dialect::http::encode;
use crate::dialect::{
    Answer, Ask, ConnectRequest, Heard, Outgoing, Purpose, RequestId, SendError, Transport, WireFrame,
};
use crate::relay::time::Time;

/// The packets by which a session is moved: asked over the new transport, answered there, and done.
const PROBE: &[u8] = b"2probe";
const PROBED: &[u8] = b"3probe";
const MOVED: &[u8] = b"5";
/// The packet that ends a session.
const CLOSE: &[u8] = b"1";

impl Conversation {
    /// Whether packets are polled for.
    pub fn is_engine_polled(&self) -> bool {
        self.dialect.framing.greets() && self.transport().polls()
    }

    /// Bytes that upstream takes at once, if it has said so.
    pub(super) fn takes(&self) -> Option<usize> {
        self.session.as_ref()?.takes()
    }

    /// The session's address, once it has an id.
    pub(super) fn with_sid(&self, mut url: String) -> String {
        if let Some(sid) = &self.asking.sid {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str("sid=");
            url.push_str(&encode(sid));
        }
        url
    }

    /// One POST of packets that wait, in their order: as many as upstream takes at once. A packet's attachments are in the
    /// same POST; only where they do not fit into any do they go on in the next one, as Socket.IO's own clients do it.
    /// `None`: none wait.
    pub fn post_packets(&mut self, packets: &mut VecDeque<WireFrame>) -> Option<Result<WireFrame, SendError>> {
        let takes = self.takes().unwrap_or(usize::MAX);
        let mut body = Vec::new();
        put(&packets.pop_front()?, &mut body);
        while let Some(next) = packets.front() {
            // What one POST would hold of a packet and its attachments, unless it was begun already.
            let mut needed = 1 + posted(next);
            if !matches!(next, WireFrame::Binary(_)) {
                let attachments = packets.iter().skip(1).take_while(|frame| matches!(frame, WireFrame::Binary(_)));
                needed += attachments.map(|frame| 1 + posted(frame)).sum::<usize>();
            }
            if body.len() + needed > takes {
                break;
            }
            body.push(SEPARATOR);
            put(next, &mut body);
            packets.pop_front();
        }
        Some(self.post_body(body))
    }

    /// Bytes of an attachment as it leaves by the transport at hand.
    pub(super) fn leaves_as(&self, attachment: &Bytes) -> usize {
        if self.is_engine_polled() { posted_binary(attachment) } else { attachment.len() }
    }

    /// The last word on a session that is polled: upstream need not wait to miss us.
    pub fn farewell(&mut self) -> Option<Ask> {
        self.asking.sid.as_ref().filter(|_| self.is_engine_polled())?;
        let farewell = self.post_body(CLOSE.to_vec());
        // It is said once.
        self.asking.sid = None;
        match farewell {
            Ok(WireFrame::Ask(ask)) => Some(*ask),
            _ => None,
        }
    }

    fn post_body(&mut self, body: Vec<u8>) -> Result<WireFrame, SendError> {
        let Addressed { url, .. } = self.address()?;
        self.last_id += 1;
        Ok(self.post(self.with_sid(url), false, RequestId(self.last_id), body.into()))
    }

    /// A poll for packets was answered: the next one leaves at once, unless upstream answers without having anything.
    pub(super) fn packets_polled(
        &mut self,
        now: Time,
        frame: &WireFrame,
        answer: &Answer,
        heard: &mut dyn FnMut(Heard<'_>),
    ) {
        if !self.accepts(answer) {
            return self.refused(answer, heard);
        }
        self.asking.answered = true;
        self.read(now, frame, heard);
        // Messages and their attachments, whoever understands them; pings and the like are nothing to come back for at once.
        let brings = |packet: &[u8]| matches!(packet.first(), Some(&(b'4' | BINARY)));
        let brought = answer.body.split(|byte| *byte == SEPARATOR).any(brings);
        let pause = self.asking.pause(now.mono, brought);
        // The first answer opens the session and says nothing else.
        let pause = if self.asking.hasty > 1 { pause } else { std::time::Duration::ZERO };
        if !pause.is_zero() {
            heard(Heard::Hasty);
        }
        self.asking.due = Some(now.mono + pause);
    }

    /// Packets that left by POST were answered; what they led to comes by a poll.
    pub(super) fn packets_posted(&mut self, answer: &Answer, heard: &mut dyn FnMut(Heard<'_>)) {
        match answer.status {
            200..=299 => heard(Heard::Ignored),
            _ => self.refused(answer, heard),
        }
    }

    /// The session is none, or none any more.
    fn refused(&mut self, answer: &Answer, heard: &mut dyn FnMut(Heard<'_>)) {
        self.ended();
        self.poll_failed(answer, heard);
    }

    /// Upstream has ended the session: there is nothing to hear of it, and nobody to say farewell to.
    pub(super) fn ended(&mut self) {
        self.over = true;
        self.asking.sid = None;
    }

    /// Whether the session may be moved from polls to a WebSocket.
    pub fn may_upgrade(&self) -> bool {
        let offered = self.session.as_ref().is_some_and(|session| session.upgrades());
        offered && self.is_engine_polled() && self.asking.sid.is_some() && self.dialect.connect.websocket
    }

    /// Where the session's WebSocket is opened, beside its polls.
    pub fn upgrade_request(&mut self) -> Result<ConnectRequest, SendError> {
        let polled = std::mem::replace(&mut self.asking.origin.transport, Transport::WebSocket);
        let address = self.address();
        self.asking.origin.transport = polled;
        let Addressed { url, headers } = address?;
        let subprotocols = self.dialect.connect.subprotocols.clone();
        Ok(ConnectRequest { transport: Transport::WebSocket, url: self.with_sid(url), headers, subprotocols })
    }

    /// Asks upstream over the WebSocket whether it is the session's.
    pub fn probe(&mut self) -> Outgoing {
        self.engines_own(PROBE)
    }

    /// Something came over a WebSocket to which the session was not moved yet: the answer to the probe, or nothing good.
    pub(super) fn probed(&self, frame: &WireFrame, heard: &mut dyn FnMut(Heard<'_>)) {
        heard(Heard::Probed { good: frame.body() == PROBED });
    }

    /// Whether a poll waits for its answer.
    pub fn poll_is_out(&self) -> bool {
        self.asking.due.is_none()
    }

    /// Moves the session to the WebSocket: what this says leaves first there, and everything after it.
    pub fn upgraded(&mut self) -> Outgoing {
        self.asking.origin.transport = Transport::WebSocket;
        self.asking.due = None;
        self.engines_own(MOVED)
    }

    fn engines_own(&mut self, packet: &'static [u8]) -> Outgoing {
        self.last_id += 1;
        let frame = WireFrame::Text(Bytes::from_static(packet));
        Outgoing::unanswered(RequestId(self.last_id), Purpose::Reply, frame)
    }
}

/// Bytes of a packet in a POST.
fn posted(packet: &WireFrame) -> usize {
    match packet {
        WireFrame::Binary(data) => posted_binary(data),
        packet => packet.body().len(),
    }
}

fn posted_binary(data: &Bytes) -> usize {
    1 + data.len().div_ceil(3) * 4
}

fn put(packet: &WireFrame, body: &mut Vec<u8>) {
    match packet {
        WireFrame::Binary(data) => {
            body.push(BINARY);
            body.extend_from_slice(base64::engine::general_purpose::STANDARD.encode(data).as_bytes());
        }
        packet => body.extend_from_slice(packet.body()),
    }
}
