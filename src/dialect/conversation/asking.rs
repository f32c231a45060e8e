//! What a transport other than WebSocket needs to be asked: the next poll, and requests that leave by POST. And the place from
//! which the next connection or poll goes on.
//!
//! Invariants: at most one poll and one request are out; a poll that brings nothing new waits longer each time it comes back
//! at once, so that no answer makes a hot loop; a place belongs to one transport and set of channels, and to no other; where
//! places exist and a long-poll cannot name one, what came between it and the one before is said to be unknown.
//! Deliberately not here: carrying them, and what a refused status means for the connection (the relay's).

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use super::Conversation;
use super::connect::Addressed;
use crate::dialect::fill::{Context, within};
use crate::dialect::http::encode;
use crate::dialect::scan::{PointerSet, Spans};
use crate::dialect::schema::SendTemplate;
use crate::dialect::schema::connect::{Carriage, UrlChannels};
use crate::dialect::template::write_string;
use crate::dialect::{
    Answer, Ask, AskFor, ChannelId, ChannelSpec, Dialect, Heard, Method, Outgoing, Purpose, RequestId, SendError,
    StreamEvent, Then, Transport, WireFrame,
};
use crate::protocol::request::Secret;
use crate::relay::time::{Mono, Time};

/// A poll that came back sooner than this and brought nothing came back at once.
const HASTY: Duration = Duration::from_secs(1);
/// The first pause after such a poll; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The last one.
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// How long the answer to a POST may take.
const POST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest cursor; a longer one is as if there were none.
const CURSOR_MAX: usize = 4096;
/// Characters of a refusal that are kept.
const WORDS_MAX: usize = 200;

/// Whether nobody knows what a message means. What is ignored is known: by a rule, or because it came before.
fn means_nothing(said: &Heard<'_>) -> bool {
    use Heard::{Malformed, Numbered, Skipped, Unextracted, Unmatched};
    matches!(said, Skipped(..) | Numbered(..) | Unmatched | Unextracted(_) | Malformed)
}

/// A channel that the address names.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) id: ChannelId,
    pub(super) name: Box<str>,
    pub(super) params: Option<Box<str>>,
}

/// Where the connection leads.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    pub(super) transport: Transport,
    pub(super) url: String,
    pub(super) headers: Vec<(String, Secret)>,
    pub(super) channels: Vec<Named>,
}

impl Origin {
    pub(super) fn new(
        transport: Transport,
        url: &str,
        headers: &[(String, Secret)],
        channels: &[ChannelSpec<'_>],
    ) -> Self {
        let named =
            |spec: &ChannelSpec<'_>| Named { id: spec.id, name: spec.name.into(), params: spec.params.map(Into::into) };
        let channels = channels.iter().map(named).collect();
        Origin { transport, url: url.to_owned(), headers: headers.to_vec(), channels }
    }
}

/// From where the next connection or poll goes on.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    transport: Transport,
    /// Of which channels, where that matters.
    channels: Vec<Box<str>>,
    /// What the service calls it; empty: nothing. Where ids are places, the newest event's.
    text: String,
    /// Where ids are places: that of the event before the newest one.
    before: String,
    /// Where ids are places: the event with which the connection has to begin, so that nothing can be missing before it.
    first: Option<Box<str>>,
    etag: Option<Box<str>>,
    last_modified: Option<Box<str>>,
    /// A long-poll left without a place after another one: what came between them is unknown, and no event came since.
    pub(super) unseen: bool,
}

impl Place {
    /// Forgets the place if it belongs to another transport or other channels.
    pub(super) fn suit(&mut self, origin: &Origin, dialect: &Dialect) {
        let anywhere = dialect.connect.resumes;
        let one = dialect.url_channels(origin.transport) == UrlChannels::One;
        // Ids of an event stream that carries many channels count over all of them.
        let matters = anywhere || one || origin.transport != Transport::Sse;
        let channels: Vec<Box<str>> =
            origin.channels.iter().filter(|_| matters).map(|known| known.name.clone()).collect();
        if anywhere && !one {
            // What other channels bring first proves nothing.
            if self.channels != channels {
                self.before.clear();
                self.channels = channels;
            }
        } else if (self.transport != origin.transport && !anywhere) || self.channels != channels {
            *self = Place { channels, ..Place::default() };
        }
        self.transport = origin.transport;
        if anywhere {
            (self.etag, self.last_modified) = (None, None);
            self.first = (!self.before.is_empty()).then(|| self.text.as_str().into());
        }
    }

    /// What the service is told.
    pub(super) fn text(&self) -> Option<&str> {
        let text = if self.first.is_some() { &self.before } else { &self.text };
        Some(text.as_str()).filter(|text| !text.is_empty())
    }

    /// Whether there is one.
    fn is_known(&self) -> bool {
        !self.text.is_empty() || self.etag.is_some() || self.last_modified.is_some()
    }

    fn set(&mut self, text: Option<&str>) {
        self.before.clear();
        self.text.clear();
        self.text.push_str(text.filter(|text| text.len() <= CURSOR_MAX).unwrap_or_default());
    }

    /// An event of this id came.
    fn advance(&mut self, id: &str) {
        if id.len() > CURSOR_MAX {
            return self.set(None);
        }
        if self.text != id {
            std::mem::swap(&mut self.before, &mut self.text);
            self.text.clear();
            self.text.push_str(id);
        }
    }

    /// Whether an answer names the very version that was asked to be newer than.
    fn repeats(&self, answer: &Answer) -> bool {
        let named = answer.etag.is_some() || answer.last_modified.is_some();
        named && (&self.etag, &self.last_modified) == (&answer.etag, &answer.last_modified)
    }
}

/// Polls and posts of one attempt.
#[derive(Debug, Clone, Default)]
pub(super) struct Asking {
    pub(super) origin: Origin,
    /// The connection's header fields, which requests by POST have too.
    pub(super) headers: Vec<(String, String)>,
    /// When the next poll may leave; `None`: one is out, or nothing is polled.
    pub(super) due: Option<Mono>,
    /// When the last one left.
    pub(super) left: Mono,
    /// Polls in a row that came back at once with nothing.
    pub(super) hasty: u32,
    /// The session of Engine.IO, once it is open.
    pub(super) sid: Option<Box<str>>,
    /// The last answer's content, to know it again.
    last: Bytes,
    /// How long the stream wants to be left alone after its end.
    retry: Option<Duration>,
    /// The place stands behind something that was too large to be read.
    skipped: bool,
    /// A poll was answered.
    pub(super) answered: bool,
}

impl Asking {
    pub(super) fn connect(&mut self, origin: Origin) {
        *self = Asking { origin, ..Asking::default() };
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// A poll was answered: how long the next one waits, so that answers that bring nothing make no hot loop.
    pub(super) fn pause(&mut self, now: Mono, brought: bool) -> Duration {
        if brought || now.since(self.left) >= HASTY {
            self.hasty = 0;
            return Duration::ZERO;
        }
        self.hasty = self.hasty.saturating_add(1);
        FIRST_PAUSE.saturating_mul(1 << (self.hasty - 1).min(16)).min(LAST_PAUSE)
    }
}

impl Conversation {
    /// The connection is open: polling begins.
    pub(super) fn begin_polling(&mut self, now: Mono) {
        if self.asking.origin.transport.polls() {
            self.asking.due = Some(now);
        }
    }

    /// When [`Conversation::poll`] has something.
    pub fn poll_due(&self) -> Option<Mono> {
        self.asking.due
    }

    /// When the poll that is out left.
    pub fn poll_left(&self) -> Option<Mono> {
        Some(self.asking.left).filter(|_| self.transport().polls() && self.asking.due.is_none())
    }

    /// How the connection is carried.
    pub fn transport(&self) -> Transport {
        self.asking.origin.transport
    }

    /// How long the stream wants to be left alone after its end.
    pub fn retry(&self) -> Option<Duration> {
        self.asking.retry
    }

    /// Whether the connection was of use: where each poll is a request of its own, one of them was answered.
    pub fn got_through(&self) -> bool {
        !self.transport().polls() || self.asking.answered
    }

    /// Whether a poll's answer is one. Others end the connection.
    pub fn accepts(&self, answer: &Answer) -> bool {
        match answer.status {
            200..=299 => true,
            _ if self.is_engine_polled() => false,
            304 => true,
            // Nothing happened while upstream, or a proxy before it, waited.
            0 | 408 | 504 => self.transport() == Transport::LongPoll,
            _ => false,
        }
    }

    /// Whether the place is worth something though the session is not.
    pub(super) fn skipped(&self) -> bool {
        self.asking.skipped
    }

    /// Whether the next connection of this transport goes on where this one ends, without holes.
    pub fn goes_on(&self) -> bool {
        let known = if self.dialect.connect.resumes { !self.place.before.is_empty() } else { self.place.is_known() };
        known && self.dialect.resumes(self.transport())
    }

    /// Whether what comes while no long-poll is out is lost: a later one brings it only from a place, and there is none yet.
    fn loses_between(&self) -> bool {
        let transport = self.transport();
        let cursor = |carriage: &Carriage| carriage.cursor.is_some();
        let places = self.dialect.resumes(transport) || self.dialect.carriages.get(&transport).is_some_and(cursor);
        transport == Transport::LongPoll && places && !self.is_engine_polled() && !self.place.is_known()
    }

    /// An event comes after polls without a place.
    #[cold]
    pub(super) fn tell_unseen(&mut self, heard: &mut dyn FnMut(Heard<'_>)) {
        self.place.unseen = false;
        heard(Heard::Unseen);
    }

    /// Where ids are places: an event came. Whether it is the one with which the connection had to begin, and was told before.
    pub(super) fn was_told(&mut self, id: Option<&str>, heard: &mut dyn FnMut(Heard<'_>)) -> bool {
        if let Some(first) = self.place.first.take() {
            if id == Some(&*first) {
                return true;
            }
            heard(Heard::Unproven);
        }
        match id {
            Some(id) => self.place.advance(id),
            None => self.place.set(None),
        }
        false
    }

    /// Whether a message of ours can leave at all: by the connection itself, or by POST.
    pub(super) fn has_way_up(&self, send: &SendTemplate) -> bool {
        send.post.is_some() || self.transport() == Transport::WebSocket || self.dialect.framing.greets()
    }

    /// The next poll, if it is time.
    pub fn poll(&mut self, now: Time) -> Option<Result<Outgoing, SendError>> {
        self.asking.due.filter(|due| *due <= now.mono)?;
        self.asking.due = None;
        self.asking.left = now.mono;
        Some(self.ask_poll())
    }

    fn ask_poll(&mut self) -> Result<Outgoing, SendError> {
        let loses = self.loses_between();
        self.place.unseen |= loses && self.asking.answered;
        let Addressed { url, mut headers } = self.address()?;
        for (name, value) in [("if-none-match", &self.place.etag), ("if-modified-since", &self.place.last_modified)] {
            if let Some(value) = value
                && !headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
            {
                headers.push((name.to_owned(), value.to_string()));
            }
        }
        let timeout = self.dialect.carriages.get(&self.transport()).map_or(HASTY, |carriage| carriage.timeout);
        let ask = Ask {
            of: AskFor::Poll,
            method: Method::Get,
            url: self.with_sid(url),
            headers,
            body: Bytes::new(),
            timeout,
            // Asked again by the carrier, it would leave a hole of which nobody hears.
            repeats: !loses && !self.is_engine_polled(),
        };
        let frame = WireFrame::Ask(Box::new(ask));
        let (request, purpose) = (RequestId(0), Purpose::Poll);
        Ok(Outgoing::unanswered(request, purpose, frame))
    }

    /// The header by which an event stream goes on.
    pub(super) fn last_event_id(&self, headers: &mut Vec<(String, String)>) {
        let name = "last-event-id";
        if self.transport() == Transport::Sse
            && let Some(id) = self.place.text()
            && !headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
            && !id.chars().any(char::is_control)
        {
            headers.push((name.to_owned(), id.to_owned()));
        }
    }

    /// Notes what an event of a stream says beside its data.
    pub(super) fn streamed(&mut self, event: &StreamEvent) {
        self.asking.skipped = event.data.is_none();
        if event.id.is_some() && (self.asking.skipped || !self.dialect.connect.resumes) {
            self.place.set(event.id.as_deref());
        }
        if event.retry.is_some() {
            self.asking.retry = event.retry;
        }
    }

    /// A poll was answered.
    pub(super) fn polled(&mut self, now: Time, frame: &WireFrame, answer: &Answer, heard: &mut dyn FnMut(Heard<'_>)) {
        if !self.accepts(answer) {
            return self.poll_failed(answer, heard);
        }
        let long = self.transport() == Transport::LongPoll;
        let good = (200..=299).contains(&answer.status);
        let new = good && !(answer.body.trim_ascii().is_empty() || self.is_old(answer));
        self.asking.answered = true;
        // An answer that is another one each time and means nothing is none.
        let mut brought = false;
        if new {
            self.read(now, frame, &mut |said| {
                brought |= !means_nothing(&said);
                heard(said);
            });
        } else {
            heard(Heard::Ignored);
        }
        self.note_place(answer, new);
        let carriage = self.dialect.carriages.get(&self.transport());
        let pause = self.asking.pause(now.mono, brought);
        let interval = carriage.map_or(Duration::ZERO, |carriage| carriage.interval);
        // An interval of its own is pause enough.
        if long && !pause.is_zero() && pause > interval {
            heard(Heard::Hasty);
        }
        let pause = if long { pause } else { Duration::ZERO };
        let next = (self.asking.left + interval).max(now.mono + pause.max(answer.retry_after.unwrap_or_default()));
        self.asking.due = Some(next);
    }

    /// Goes on from where an answer says, also from one that brings nothing. Of what came before nothing is read: `new`.
    fn note_place(&mut self, answer: &Answer, new: bool) {
        if answer.status == 0 {
            return;
        }
        for (known, told) in
            [(&mut self.place.etag, &answer.etag), (&mut self.place.last_modified, &answer.last_modified)]
        {
            if told.as_ref().is_some_and(|told| told.len() <= CURSOR_MAX) {
                known.clone_from(told);
            }
        }
        let read = new || !(200..=299).contains(&answer.status);
        let cursor = self.dialect.carriages.get(&self.transport()).and_then(|carriage| carriage.cursor.as_ref());
        if let (true, Some(cursor)) = (read && !self.dialect.connect.resumes, cursor)
            && let Some(text) = std::str::from_utf8(&answer.body).ok().and_then(|body| within(cursor, body))
        {
            self.place.set(Some(&text.into_text()));
        }
    }

    /// Whether an answer brings only what the last one brought. What waited for something new and names it is new, whatever
    /// it says.
    fn is_old(&mut self, answer: &Answer) -> bool {
        let named = answer.etag.is_some() || answer.last_modified.is_some();
        let waited = named && self.transport() == Transport::LongPoll;
        if self.place.repeats(answer) || (!waited && answer.body == self.asking.last) {
            return true;
        }
        self.asking.last = answer.body.clone();
        false
    }

    pub(super) fn poll_failed(&mut self, answer: &Answer, heard: &mut dyn FnMut(Heard<'_>)) {
        let detail = words(&answer.body);
        heard(Heard::PollFailed { status: answer.status, retry_after: answer.retry_after, detail });
    }

    /// What a filled template becomes where it leaves by POST.
    pub(super) fn post(&self, url: String, json: bool, id: RequestId, body: Bytes) -> WireFrame {
        let mut headers = self.asking.headers.clone();
        if !headers.iter().any(|(known, _)| known.eq_ignore_ascii_case("content-type")) {
            let kind = if json { "application/json" } else { "text/plain; charset=utf-8" };
            headers.push(("content-type".to_owned(), kind.to_owned()));
        }
        let (of, method) = (AskFor::Request(id), Method::Post);
        WireFrame::Ask(Box::new(Ask { of, method, url, headers, body, timeout: POST_TIMEOUT, repeats: false }))
    }

    /// A request by POST was answered: the status says how. Where it does not (no answer, an error inside the service), the
    /// request stays open until its time is over, because nobody knows whether it was carried out.
    pub(super) fn post_answered(&mut self, id: RequestId, answer: &Answer, heard: &mut dyn FnMut(Heard<'_>)) {
        let then = match answer.status {
            200..=299 => {
                let Some(purpose) = self.pending.settle(id, None) else { return heard(Heard::Ignored) };
                let data = reply(&answer.body);
                return match purpose {
                    Purpose::Ping => heard(Heard::Pong { request: Some(id) }),
                    purpose => heard(Heard::Acked { request: Some(id), purpose, data }),
                };
            }
            0 | 408 | 500 | 502 | 504 => return heard(Heard::Ignored),
            429 | 503 => Then::Retry,
            _ => Then::Reject,
        };
        let then = self.dialect.on_close(answer.status).unwrap_or(then);
        let about = self.pending.settle(id, None).map(|purpose| (id, purpose));
        let (code, message) = (Some(answer.status.to_string().into()), Some(words(&answer.body).into()));
        if let Some((_, Purpose::Auth)) = about {
            return heard(Heard::Denied { message, then: Some(then) });
        }
        let retry_after = answer.retry_after;
        heard(Heard::Refused { about, target: None, code, message, then: Some(then), retry_after });
    }

    /// What templates of requests see of the address.
    pub(super) fn rendered(&self, send: &SendTemplate, context: &Context<'_>) -> Result<Rendered, SendError> {
        if !self.has_way_up(send) {
            return Err(SendError::NoWayUp(self.transport()));
        }
        let text = send.template.render(context)?;
        let post = match &send.post {
            Some(path) => {
                let path = path.render_with(context, encode)?;
                Some(super::connect::beside(self.transport(), &self.asking.origin.url, &path)?)
            }
            None => None,
        };
        Ok(Rendered { text, post, json: send.template.is_json() })
    }
}

/// A filled template.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    pub(super) text: String,
    /// The address, where it leaves by POST.
    pub(super) post: Option<String>,
    pub(super) json: bool,
}

/// An answer's content for the publisher: JSON as it is, everything else as a JSON string.
fn reply(body: &[u8]) -> Option<Cow<'_, [u8]>> {
    if body.trim_ascii().is_empty() {
        return None;
    }
    if PointerSet::new().scan(body, &mut Spans::new()).is_ok() {
        return Some(Cow::Borrowed(body));
    }
    let mut string = String::with_capacity(body.len() + 2);
    write_string(&String::from_utf8_lossy(body), &mut string);
    Some(Cow::Owned(string.into_bytes()))
}

/// The start of a content, for people.
fn words(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(WORDS_MAX)]).escape_debug().to_string()
}
