//! Recorded connections over HTTP, played to clients, and which recorded connection is next.
//!
//! A client's requests come by several connections of its own, so a scene is no socket: requests wait until a scene wants them.
//! The next scene begins when its first request has come and no running scene wants that, once the scenes that run are played
//! or their clients are gone (where recorded connections overlapped, at once).
//! Invariants: a request is answered by what was recorded for it, or not at all; a scene that nobody can reach any more makes
//! room for the next.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::poll_fn;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::script::{HttpScene, Scene};
use super::{Manner, socket};
use crate::dialect::rehearsal::resembles;
use crate::dialect::rehearsal::transcript::{Call, Happening, Reply};
use crate::tools::alike::{Renamed, alike, answer};
use crate::tools::served;

/// Largest content of a request.
const MAX_BODY: usize = 16 << 20;
/// Pieces of a stream that wait for their client.
const STREAM_WAITING: usize = 64;
/// Header fields of a recorded answer that are said again.
const SAID: [&str; 4] = ["content-type", "etag", "last-modified", "retry-after"];

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Everything that is played.
pub(super) struct Stage {
    scenes: Vec<Scene>,
    manner: Manner,
    say: fn(&str),
    /// How many connections were begun.
    begun: Cell<usize>,
    running: RefCell<Vec<Rc<Running>>>,
    waiting: RefCell<Vec<Waiting>>,
    /// A request came, or a client's connection went.
    news: Notify,
}

/// A request that no scene has taken yet.
struct Waiting {
    call: Call,
    line: Weak<Notify>,
    answer: oneshot::Sender<Response<Body>>,
    /// People were told of it.
    told: bool,
}

/// A scene over HTTP that is being played.
struct Running {
    number: usize,
    /// When its recording ended.
    ended: u64,
    /// What it waits for.
    wanted: RefCell<Option<Call>>,
    /// Everything that was recorded has been said.
    played: Cell<bool>,
    /// It is over.
    left: Cell<bool>,
    /// The client's connections by which its requests came.
    lines: RefCell<Vec<Weak<Notify>>>,
    renamed: RefCell<Renamed>,
}

impl Running {
    fn knows(&self, line: &Weak<Notify>) -> bool {
        self.lines.borrow().iter().any(|known| known.ptr_eq(line))
    }

    /// Nobody is there any more who could ask or be told.
    fn is_abandoned(&self) -> bool {
        let lines = self.lines.borrow();
        !lines.is_empty() && lines.iter().all(|line| line.strong_count() == 0)
    }
}

fn plain(status: StatusCode, words: &str) -> Response<Body> {
    let mut response = Response::new(Full::from(format!("{words}\n")).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// What is shown of a request.
fn shown(call: &Call) -> String {
    let target = match call.url.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => &call.url,
    };
    format!("{} {target} {}", call.method, String::from_utf8_lossy(&call.body)).trim_end().to_owned()
}

impl Stage {
    pub(super) fn new(scenes: Vec<Scene>, manner: Manner, say: fn(&str)) -> Self {
        Stage {
            scenes,
            manner,
            say,
            begun: Cell::new(0),
            running: RefCell::default(),
            waiting: RefCell::default(),
            news: Notify::new(),
        }
    }

    /// Answers a request of a client, if the transcript does. `line`: its connection, which a notification cuts.
    pub(super) async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
        line: Weak<Notify>,
    ) -> io::Result<Response<Body>> {
        // No web page may talk to a tool on this machine.
        if request.headers().contains_key(header::ORIGIN) {
            return Ok(plain(StatusCode::FORBIDDEN, "not for web pages"));
        }
        if request.headers().contains_key(header::UPGRADE) {
            return Ok(self.upgrade(request));
        }
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "too large"));
        };
        let (method, url) = (head.method.to_string(), head.uri.to_string());
        let call = Call { method, url, headers: BTreeMap::new(), body: body.to_bytes() };
        let (answer, answered) = oneshot::channel();
        self.waiting.borrow_mut().push(Waiting { call, line, answer, told: false });
        self.changed();
        // A scene that ends without an answer cuts the connection.
        answered.await.map_err(|_| io::ErrorKind::ConnectionReset.into())
    }

    /// The next recorded connection, if it is one over WebSocket.
    fn upgrade(self: &Rc<Self>, request: Request<Incoming>) -> Response<Body> {
        let scene = match self.next() {
            Some(Scene::Socket(scene)) => scene.clone(),
            Some(Scene::Http(scene)) => {
                let words = format!("the next recorded connection is over {}", scene.transport.text());
                (self.say)(&format!("{words}, and a WebSocket was asked for"));
                return plain(StatusCode::SERVICE_UNAVAILABLE, &words);
            }
            None => return plain(StatusCode::SERVICE_UNAVAILABLE, "nothing more is recorded"),
        };
        let number = self.count();
        if let Some(status) = scene.refused {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            return plain(status, "refused as it was recorded");
        }
        let (response, upgraded) = match served::upgrade(request) {
            Ok(upgrade) => upgrade,
            Err(status) => return plain(status, "no upgrade to a WebSocket"),
        };
        let stage = Rc::clone(self);
        spawn_local(async move {
            if let Some(client) = upgraded.await {
                socket::play(client, scene, stage.manner, stage.say).await;
                (stage.say)(&format!("connection {number} is played"));
            }
        });
        response.map(|()| Full::default().boxed_unsync())
    }

    /// The recorded connection that comes next.
    fn next(&self) -> Option<&Scene> {
        let at = self.begun.get();
        if self.manner.again { self.scenes.get(at % self.scenes.len().max(1)) } else { self.scenes.get(at) }
    }

    /// One more connection is begun; its number, from 1.
    fn count(&self) -> usize {
        self.begun.set(self.begun.get() + 1);
        self.begun.get()
    }

    /// Something happened that may concern a scene, or begin one.
    pub(super) fn changed(self: &Rc<Self>) {
        self.direct();
        self.news.notify_waiters();
    }

    fn is_it(&self, recorded: &Call, said: &Call, renamed: &mut Renamed) -> bool {
        let text = |body: &Bytes| String::from_utf8_lossy(body).into_owned();
        resembles(recorded, said, self.manner.again) && alike(&text(&recorded.body), &text(&said.body), renamed)
    }

    /// Begins scenes for the requests that wait, and refuses those for which there is none.
    fn direct(self: &Rc<Self>) {
        self.running.borrow_mut().retain(|running| !running.left.get());
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        let kept: Vec<Waiting> =
            waiting.into_iter().filter(|waiting| !waiting.answer.is_closed()).filter_map(|w| self.place(w)).collect();
        self.waiting.borrow_mut().splice(0..0, kept);
    }

    /// Finds a scene for a request. `None`: it was refused.
    fn place(self: &Rc<Self>, mut waiting: Waiting) -> Option<Waiting> {
        let mut tell = |words: String| {
            if !std::mem::replace(&mut waiting.told, true) {
                (self.say)(&words);
            }
        };
        let heard = shown(&waiting.call);
        let wants = |running: &Rc<Running>| {
            let wanted = running.wanted.borrow();
            wanted.as_ref().is_some_and(|wanted| self.is_it(wanted, &waiting.call, &mut Renamed::new()))
        };
        let next = self.next();
        let (mut busy, mut known) = (false, false);
        for running in self.running.borrow().iter() {
            if wants(running) {
                return Some(waiting);
            }
            known |= running.knows(&waiting.line);
            let overlaps = matches!(next, Some(Scene::Http(next)) if next.begun < running.ended);
            if !(running.played.get() || running.is_abandoned() || overlaps) {
                busy = true;
                if let Some(wanted) = &*running.wanted.borrow() {
                    tell(format!("waiting for {}, heard {heard}", shown(wanted)));
                }
            }
        }
        match next {
            _ if busy => {}
            Some(Scene::Http(scene)) => match scene.opening() {
                Some(opening) if self.is_it(opening, &waiting.call, &mut Renamed::new()) => self.begin(scene, opening),
                opening => {
                    tell(format!("waiting for {}, heard {heard}", opening.map(shown).unwrap_or_default()));
                }
            },
            None if known => tell(format!("nothing more is recorded, heard {heard}")),
            Some(Scene::Socket(_)) => {
                let words = "the next recorded connection is a WebSocket";
                tell(format!("{words}, heard {heard}"));
                let _ = waiting.answer.send(plain(StatusCode::SERVICE_UNAVAILABLE, words));
                return None;
            }
            None => {
                let _ = waiting.answer.send(plain(StatusCode::SERVICE_UNAVAILABLE, "nothing more is recorded"));
                return None;
            }
        }
        Some(waiting)
    }

    /// The next scene; those that nobody can reach any more are over.
    fn begin(self: &Rc<Self>, scene: &HttpScene, opening: &Call) {
        for running in self.running.borrow().iter().filter(|running| running.is_abandoned()) {
            running.left.set(true);
        }
        let running = Rc::new(Running {
            number: self.count(),
            ended: scene.ended,
            wanted: RefCell::new(Some(opening.clone())),
            played: Cell::new(false),
            left: Cell::new(false),
            lines: RefCell::default(),
            renamed: RefCell::default(),
        });
        // `direct` may be walking over those that run.
        let (stage, steps) = (Rc::clone(self), scene.steps.clone());
        self.running.borrow_mut().push(Rc::clone(&running));
        spawn_local(async move {
            let mut player = Player { stage: &stage, running: &running, out: Vec::new(), stream: None };
            // A client that goes away ends its scene.
            let _ = player.perform(steps).await;
            running.left.set(true);
            drop(player);
            stage.changed();
        });
    }
}

/// A scene at work.
struct Player<'a> {
    stage: &'a Rc<Stage>,
    running: &'a Running,
    /// Requests that wait for their answers, by method.
    out: Vec<(String, oneshot::Sender<Response<Body>>)>,
    /// The event stream, once it is open.
    stream: Option<mpsc::Sender<Bytes>>,
}

impl Player<'_> {
    async fn perform(&mut self, steps: Vec<(Duration, Happening)>) -> Option<()> {
        for (pause, happening) in steps {
            let pause = self.stage.manner.pause(pause);
            if !(pause.is_zero() || matches!(happening, Happening::Asked(_))) {
                self.pause(pause).await?;
            }
            match happening {
                Happening::Asked(call) => {
                    let heard = self.hear(&call).await?;
                    self.out.push((call.method, heard));
                }
                Happening::Open => {
                    let (sender, mut receiver) = mpsc::channel(STREAM_WAITING);
                    let chunks = poll_fn(move |context| {
                        receiver.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
                    });
                    let mut response = Response::new(StreamBody::new(chunks).boxed_unsync());
                    let fields = response.headers_mut();
                    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
                    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                    self.respond(None, response)?;
                    self.stream = Some(sender);
                }
                Happening::Chunk(chunk) => {
                    let chunk = renamed(&chunk, &self.running.renamed.borrow());
                    self.stream.as_ref()?.send(chunk).await.ok()?;
                }
                // No answer came then, and none comes now.
                Happening::Answered(Reply { status: 0, .. }) => {}
                Happening::Answered(reply) => {
                    let response = self.recorded(&reply);
                    self.respond(reply.method.as_deref(), response)?;
                }
                Happening::Rejected(status) => {
                    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                    self.respond(None, plain(status, "refused as it was recorded"))?;
                }
                Happening::Closed { ours: false, .. } => {
                    // A stream has its end; polls have none but that of the client's connections.
                    for line in self.running.lines.borrow().iter().filter(|_| self.stream.is_none()) {
                        line.upgrade().inspect(|line| line.notify_one());
                    }
                    return self.played();
                }
                _ => {}
            }
        }
        self.played();
        // Nothing more was recorded: all stays as it is until the client goes.
        loop {
            let news = self.stage.news.notified();
            if self.running.left.get() || self.running.is_abandoned() {
                return None;
            }
            news.await;
        }
    }

    fn played(&self) -> Option<()> {
        self.running.played.set(true);
        (self.stage.say)(&format!("connection {} is played", self.running.number));
        self.stage.direct();
        None
    }

    /// Waits until the client has asked this.
    async fn hear(&mut self, recorded: &Call) -> Option<oneshot::Sender<Response<Body>>> {
        *self.running.wanted.borrow_mut() = Some(recorded.clone());
        self.stage.direct();
        loop {
            let news = self.stage.news.notified();
            if self.running.left.get() {
                return None;
            }
            if let Some(heard) = self.take(recorded) {
                *self.running.wanted.borrow_mut() = None;
                return Some(heard);
            }
            news.await;
        }
    }

    fn take(&self, recorded: &Call) -> Option<oneshot::Sender<Response<Body>>> {
        let mut waiting = self.stage.waiting.borrow_mut();
        let mut renamed = self.running.renamed.borrow_mut();
        let at = waiting.iter().position(|waiting| self.stage.is_it(recorded, &waiting.call, &mut renamed))?;
        let Waiting { line, answer, .. } = waiting.remove(at);
        if !self.running.knows(&line) {
            self.running.lines.borrow_mut().push(line);
        }
        Some(answer)
    }

    /// Lets time pass, unless there is a stream that nobody reads.
    async fn pause(&self, length: Duration) -> Option<()> {
        let unread = async {
            match &self.stream {
                Some(stream) => stream.closed().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = sleep(length) => Some(()),
            () = unread => None,
        }
    }

    /// Answers the oldest request of this method, or of any.
    fn respond(&mut self, method: Option<&str>, response: Response<Body>) -> Option<()> {
        let at = self.out.iter().position(|(of, _)| method.is_none_or(|method| of == method))?;
        // A client that is gone asks again, or does not.
        let _ = self.out.remove(at).1.send(response);
        Some(())
    }

    fn recorded(&self, reply: &Reply) -> Response<Body> {
        let body = match std::str::from_utf8(&reply.body) {
            Ok(text) => Bytes::from(answer(text, &self.running.renamed.borrow())),
            Err(_) => reply.body.clone(),
        };
        let mut response = Response::new(Full::new(body).boxed_unsync());
        *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
        for (name, value) in reply.headers.iter().filter(|(name, _)| SAID.contains(&name.as_str())) {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// A recorded piece of a stream with the client's numbers in its data.
fn renamed(chunk: &Bytes, renamed: &Renamed) -> Bytes {
    match std::str::from_utf8(chunk) {
        Ok(text) if !renamed.is_empty() => {
            let lines = text.split_inclusive('\n').map(|line| match line.strip_prefix("data: ") {
                Some(data) => {
                    let end = data.len() - data.trim_end().len();
                    let (data, end) = data.split_at(data.len() - end);
                    format!("data: {}{end}", answer(data, renamed))
                }
                None => line.to_owned(),
            });
            lines.collect::<String>().into()
        }
        _ => chunk.clone(),
    }
}
