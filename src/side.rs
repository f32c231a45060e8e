//! The side runtime: listeners, handshakes, HTTP, metrics; whatever may be slow and must not hold up the feed.
//!
//! It ends when the driver does. The feed listener closes earlier, at the beginning of a drain; the admin listener stays to
//! the end, because probes and operators want to see the drain.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::config::show;
use crate::dialect::Dialect;
use crate::downstream::admin::{self, Admin, Hooks};
use crate::downstream::counts::HttpCounts;
use crate::downstream::http::{self, Feed};
use crate::downstream::policy::Policy;
use crate::driver::Course;
use crate::inbox::{FromOutside, Seats};
use crate::listeners::Listeners;
use crate::log::Log;
use crate::metrics::{Metrics, View};
use crate::reload::Reloader;
use crate::store::StoreNumbers;

/// Rounds of the runtime that HTTP connections get at the end, to write answers that they have in hand.
const LAST_ROUNDS: usize = 32;

/// What the side runtime works with.
pub struct Side {
    /// Sockets to accept from.
    pub listeners: Listeners,
    /// To the feed thread.
    pub outside: mpsc::Sender<FromOutside>,
    /// The configuration in force, and whether new sessions are welcome. Closed: the process ends.
    pub course: watch::Receiver<Course>,
    /// How to read the configuration again.
    pub reloader: Reloader,
    /// For `/v1/config`: which params are secret.
    pub dialect: Arc<Dialect>,
    /// The log of this process.
    pub log: Log,
    /// What is counted outside the relay.
    pub metrics: Arc<Metrics>,
    /// The store's numbers.
    pub store: StoreNumbers,
}

impl Side {
    /// Starts the runtime on a thread of its own.
    pub fn start(self) -> io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("side".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(self.run()) {
                tracing::error!(%error, "the listeners cannot be served");
            }
            runtime.shutdown_background();
        })
    }

    async fn run(self) -> io::Result<()> {
        let Side { listeners, outside, mut course, reloader, dialect, log, metrics, store } = self;
        let (config, configs) = watch::channel(course.borrow_and_update().config.clone());
        let (closing, feed_closes) = watch::channel(false);
        let (_open, admin_closes) = watch::channel(false);
        let policy = Policy::follow(configs.clone());
        let counts = Arc::new(HttpCounts::default());
        let feed = Arc::new(Feed {
            policy: policy.clone(),
            outside: outside.clone(),
            seats: Seats::default(),
            counts: counts.clone(),
        });
        for listener in listeners.feed {
            tokio::spawn(http::serve(listener, feed.clone(), feed_closes.clone()));
        }
        let hooks = hooks(configs, reloader, dialect, log.clone(), metrics, store, counts.clone());
        let admin = Arc::new(Admin::new(policy, outside, hooks, counts));
        for listener in listeners.admin {
            tokio::spawn(admin::serve(listener, admin.clone(), admin_closes.clone()));
        }
        if let Some(listener) = listeners.probes {
            tokio::spawn(admin::serve_probes(listener, admin, admin_closes));
        }
        while course.changed().await.is_ok() {
            let now = course.borrow_and_update().clone();
            if !Arc::ptr_eq(&now.config, &config.borrow()) {
                log.set_level(now.config.log.level);
                config.send_replace(now.config);
            }
            closing.send_if_modified(|closing| !std::mem::replace(closing, now.draining) && now.draining);
        }
        for _ in 0..LAST_ROUNDS {
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

fn hooks(
    config: watch::Receiver<Arc<crate::config::Config>>,
    reloader: Reloader,
    dialect: Arc<Dialect>,
    log: Log,
    metrics: Arc<Metrics>,
    store: StoreNumbers,
    counts: Arc<HttpCounts>,
) -> Hooks {
    let lines = log.clone();
    Hooks {
        metrics: Box::new(move |stats| {
            let view = View {
                stats,
                store: &store.read(),
                http: &counts,
                log_dropped: lines.dropped(),
                now: clock::now().wall,
            };
            metrics.render(&view)
        }),
        config: Box::new(move || show::json(&config.borrow(), dialect.secret_params()).to_string()),
        reload: Box::new(move || reloader.reload()),
        log_level: Box::new(move |level| log.set_level(level)),
    }
}
