//! The program put together: store, relay, carriers, threads; and taken apart again in the right order.
//!
//! Threads: the calling one becomes the feed thread (see `driver`); one for the store; one for the side runtime (listeners,
//! handshakes, HTTP); one for signals. [`run`] returns when the relay has drained and the store is closed.
//! Deliberately not here: where a configuration comes from (`cli`), and any decision.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::clock;
use crate::config::Config;
use crate::config::OutboxConfig;
use crate::dialect::Dialect;
use crate::downstream::writer::Writers;
use crate::driver::{Carriers, Course, Driver, Sources};
use crate::inbox::Inbox;
use crate::listeners::{Bound, Listeners};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::protocol::request::parse::RequestLimits;
use crate::relay::Relay;
use crate::relay::record::Restored;
use crate::reload::{Read, Reloader};
use crate::service;
use crate::side::Side;
use crate::signals;
use crate::store::{OpenError, Store, StoreAnswer, StoreConfig};
use crate::upstream::{Client, Upstream};

/// Inputs from other threads that may wait: HTTP calls and new connections wait beyond that.
const OUTSIDE_WAITING: usize = 1024;

/// Told where everything listens; an error ends the start.
pub type Listening = Box<dyn FnOnce(&Bound) -> std::io::Result<()>>;

/// What to run.
pub struct App {
    /// The configuration, checked.
    pub config: Arc<Config>,
    /// The dialect that it names.
    pub dialect: Arc<Dialect>,
    /// How SIGHUP and `POST /v1/reload` read the configuration again; `None`: they cannot.
    pub read: Option<Read>,
    /// The log of this process.
    pub log: Log,
    /// Called once, when everything listens and before the first turn.
    pub listening: Listening,
}

/// Why the process ends before its time. The text names the place and the cure.
#[derive(Debug)]
pub enum Failure {
    /// The state directory cannot be used.
    Store(OpenError),
    /// The store failed while it ran: what was accepted before is safe, what it said since may not be.
    StoreBroke(String),
    /// An address cannot be listened on.
    Bind(crate::listeners::BindError),
    /// The system refused something that every process needs.
    System(&'static str, std::io::Error),
}

impl Failure {
    /// The exit code: 73 and 74 as sysexits.h has them, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Store(error) => error.exit_code(),
            Failure::StoreBroke(_) => 74,
            Failure::Bind(_) | Failure::System(..) => 1,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Store(error) => error.fmt(f),
            Failure::StoreBroke(reason) => write!(f, "the store failed: {reason}; see to the disk, then start again"),
            Failure::Bind(error) => error.fmt(f),
            Failure::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Runs a relay until it is told to stop.
pub fn run(app: App) -> Result<(), Failure> {
    let (outside_sender, outside) = mpsc::channel(OUTSIDE_WAITING);
    // Before the store opens: a signal must find a listener at any time.
    let course = watch::Sender::new(Course { config: app.config.clone(), draining: false });
    let metrics = Arc::new(Metrics::new());
    let reloader = Reloader {
        read: app.read,
        outside: outside_sender.clone(),
        course: course.subscribe(),
        metrics: metrics.clone(),
    };
    signals::listen(outside_sender.clone(), reloader.clone()).map_err(|e| Failure::System("signals", e))?;
    let (store, restored, store_answers) = open_store(&app.config)?;
    let listeners = Listeners::bind(&app.config).map_err(Failure::Bind)?;
    let bound = listeners.bound().map_err(|e| Failure::System("local addresses", e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::System("the feed thread's runtime", e))?;
    let seed = seed()?;
    (app.listening)(&bound).map_err(|e| Failure::System("telling where it listens", e))?;
    let notifier = Notifier::new(Client::new(&app.config.upstream), outside_sender.clone());
    let side = Side {
        listeners,
        outside: outside_sender,
        course: course.subscribe(),
        reloader,
        dialect: app.dialect.clone(),
        log: app.log,
        metrics,
        store: store.numbers(),
    };
    let side = side.start().map_err(|e| Failure::System("the side runtime", e))?;
    let local = LocalSet::new();
    let store = local.block_on(&runtime, async {
        let inbox = Inbox::new();
        let (mut upstream, upstream_inputs) = Upstream::new(&app.config.upstream);
        upstream.find_secrets(app.config.secrets.clone());
        let writers = Writers::new(&app.config.feed, RequestLimits::new(&app.config), inbox.clone());
        let relay = Relay::new(app.config.clone(), app.dialect.clone(), restored, seed, clock::now());
        let sources = Sources { inbox, upstream: upstream_inputs, store: store_answers, outside };
        service::ready();
        Driver::new(relay, Carriers { upstream, writers, store, notifier }, sources, course).run().await
    });
    let closed = store.shutdown().map_err(Failure::StoreBroke);
    // A panic there has ended the process already.
    let _ = side.join();
    // A name lookup or a token file on a dead mount must not keep the process.
    runtime.shutdown_background();
    closed
}

type Opened = (Store, Restored, mpsc::UnboundedReceiver<StoreAnswer>);

fn open_store(config: &Config) -> Result<Opened, Failure> {
    let (answers, received) = mpsc::unbounded_channel();
    let answer = move |answer| {
        // A driver that is gone asked for nothing.
        let _ = answers.send(answer);
    };
    let OutboxConfig { rotate_above, max_disk, ballast, min_free, .. } = config.outbox;
    let settings = StoreConfig { rotate_above, max_disk, ballast, min_free, ..StoreConfig::default() };
    let (store, restored) = Store::open(&config.outbox.path, settings, answer).map_err(Failure::Store)?;
    Ok((store, restored, received))
}

/// The one seed. Nothing that must be unguessable comes from it.
fn seed() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|e| Failure::System("randomness", std::io::Error::other(e.to_string())))?;
    Ok(u64::from_ne_bytes(bytes))
}
