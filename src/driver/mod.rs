//! THE event loop. It owns the relay, hands it what happens, and carries out what it asks.
//!
//! Invariants: the relay is never called from anywhere else; one clock reading per turn; every output is carried out or
//! answered in the turn in which it is taken; nothing here waits for an output. The order of the steps in
//! [`Driver::turn`] is the scheduling policy: change it there and nowhere else.
//! Deliberately not here: decisions (the relay's) and sockets (the carriers').

mod calls;
mod meter;
mod news;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::clock;
use crate::config::Config;
use crate::config::reload::{in_force, needs_restart};
use crate::downstream::writer::{Deliver, Writers};
use crate::inbox::{FromOutside, Inbox};
use crate::notify::Notifier;
use crate::protocol::frame::Batch;
use crate::protocol::request::parse::RequestLimits;
use crate::relay::Relay;
use crate::relay::pairs::{CallRequest, Input, Output, Reply, SessionId};
use crate::relay::time::{Mono, Time};
use crate::service::{self, Watchdog};
use crate::store::{Store, StoreAnswer};
use crate::upstream::Upstream;

use self::calls::Calls;
use self::meter::Meter;
use self::news::News;

/// Inputs of one turn, over all kinds.
const TURN_INPUTS: usize = 1024;
/// Of them, the store's answer: it has one request in flight.
const TURN_STORE: usize = 1;
/// Of them, from upstream: a read holds up to 256 frames.
const TURN_UPSTREAM: usize = 4;
/// Of them, from other threads: HTTP calls, new connections, signals.
const TURN_OUTSIDE: usize = 256;
/// The rest: answers and requests of sessions.
const TURN_SESSIONS: usize = TURN_INPUTS - TURN_STORE - TURN_UPSTREAM - TURN_OUTSIDE;
/// Batches written in one turn before inputs are looked at again.
const TURN_DELIVERIES: usize = 64;
/// How often the relay hears of a changing disk.
const DISK_EVERY: Duration = Duration::from_secs(1);

/// What other threads may know of the relay's course.
#[derive(Debug, Clone)]
pub struct Course {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// No new sessions: the relay drains.
    pub draining: bool,
}

/// Where inputs come from.
pub struct Sources {
    /// Sessions and writers, on this thread.
    pub inbox: Inbox,
    /// The upstream carrier, on this thread.
    pub upstream: mpsc::Receiver<Input>,
    /// The store's thread. Holds one answer at most.
    pub store: mpsc::UnboundedReceiver<StoreAnswer>,
    /// All other threads.
    pub outside: mpsc::Receiver<FromOutside>,
}

/// What carries out the relay's outputs.
pub struct Carriers {
    /// Sockets to upstream.
    pub upstream: Upstream,
    /// Sockets to local apps.
    pub writers: Writers,
    /// The disk.
    pub store: Store,
    /// Alerts on their way outside.
    pub notifier: Notifier,
}

/// Everything that the feed thread owns.
pub struct Driver {
    relay: Relay,
    carriers: Carriers,
    sources: Sources,
    calls: Calls,
    course: watch::Sender<Course>,
    watchdog: Watchdog,
    feed_watchdog_at: Option<Instant>,
    meter: Meter,
    news: News,
    disk: Option<((u64, u64), Mono)>,
    /// What was taken out of a source to see whether it has something.
    held: Option<Held>,
    stopped: bool,
}

enum Held {
    Store(StoreAnswer),
    Upstream(Input),
    Outside(FromOutside),
}

impl Driver {
    /// A loop around a relay. It tells its course through `course`.
    pub fn new(relay: Relay, carriers: Carriers, sources: Sources, course: watch::Sender<Course>) -> Self {
        let watchdog = Watchdog::from_environment();
        Driver {
            relay,
            carriers,
            sources,
            calls: Calls::default(),
            course,
            feed_watchdog_at: watchdog.period().map(|_| Instant::now()),
            watchdog,
            meter: Meter::default(),
            news: News::default(),
            disk: None,
            held: None,
            stopped: false,
        }
    }

    /// Turns until the relay has stopped; gives the store back, to be closed. Inside a `LocalSet`.
    pub async fn run(mut self) -> Store {
        loop {
            let drained = self.turn();
            if self.stopped {
                return self.carriers.store;
            }
            let due = self.relay.poll_timeout().is_some_and(|due| due <= clock::mono());
            if drained && !due && self.sources.inbox.is_empty() {
                self.wait().await;
            } else {
                // Sockets have their turn before the next one here.
                tokio::task::yield_now().await;
            }
        }
    }

    /// One turn. The order of its steps is the scheduling policy. Returns whether no output is left.
    fn turn(&mut self) -> bool {
        let now = clock::now();
        // 1. The disk, how full it is and its answer: that releases `accepted` to publishers and the next group commit.
        self.take_store(now);
        // 2. Upstream, before its deadlines are judged in step 5: what was received in time counts as in time. Not while
        //    sessions wait for much that was received before: they come first, and TCP slows upstream down.
        self.take_upstream(now);
        // 3. Sessions: answers of blocked writes and leaves free what step 4 may fill again.
        self.take_sessions(now);
        // 4. Other threads: new sessions, calls, signals.
        self.take_outside(now);
        // 5. Timers.
        if self.relay.poll_timeout().is_some_and(|due| due <= now.mono) {
            self.relay.handle_timeout(now);
        }
        // 6. Outputs, until there are none or enough was written that inputs deserve a look.
        let drained = self.drain(now);
        // 7. The log and the sign of life.
        self.news.tell(now.mono, self.relay.link());
        self.feed_watchdog();
        self.meter.turned(now.mono, clock::mono());
        drained
    }

    fn take_store(&mut self, now: Time) {
        let (free, used) = self.carriers.store.disk();
        // Less room is told at once: a fast disk is full within a second.
        let due = |(before, at): ((u64, u64), Mono)| {
            before != (free, used) && (free < before.0 || now.mono.since(at) >= DISK_EVERY)
        };
        if self.disk.is_none_or(due) {
            self.disk = Some(((free, used), now.mono));
            self.relay.handle_input(now, Input::Disk { free, used });
        }
        let held = self.held.take_if(|held| matches!(held, Held::Store(_)));
        let answer = match held {
            Some(Held::Store(answer)) => Some(answer),
            _ => self.sources.store.try_recv().ok(),
        };
        if let Some(answer) = answer {
            self.relay.handle_input(now, durable(answer));
        }
    }

    fn take_upstream(&mut self, now: Time) {
        for _ in 0..TURN_UPSTREAM {
            if self.relay.is_serving() {
                return;
            }
            let input = match self.held.take_if(|held| matches!(held, Held::Upstream(_))) {
                Some(Held::Upstream(input)) => input,
                _ => match self.sources.upstream.try_recv() {
                    Ok(input) => input,
                    Err(_) => return,
                },
            };
            self.relay.handle_input(now, input);
        }
    }

    fn take_sessions(&mut self, now: Time) {
        // Sockets that have room again, readers that want something sent, deadlines of clients.
        while self.carriers.writers.work().now_or_never().is_some() {}
        for _ in 0..TURN_SESSIONS {
            let Some(input) = self.sources.inbox.pop() else { return };
            self.relay.handle_input(now, input);
        }
    }

    fn take_outside(&mut self, now: Time) {
        for _ in 0..TURN_OUTSIDE {
            let input = match self.held.take_if(|held| matches!(held, Held::Outside(_))) {
                Some(Held::Outside(input)) => input,
                _ => match self.sources.outside.try_recv() {
                    Ok(input) => input,
                    Err(_) => return,
                },
            };
            self.hear_outside(now, input);
        }
    }

    fn hear_outside(&mut self, now: Time, input: FromOutside) {
        match input {
            // Its `Joined` goes through the inbox.
            FromOutside::Adopt(adopted) => {
                self.carriers.writers.adopt(adopted);
            }
            FromOutside::Call { principal, request, answer } => {
                if request == CallRequest::Drain {
                    tracing::info!("draining: no new sessions and messages; the process stays until it is stopped");
                    self.course.send_modify(|course| course.draining = true);
                }
                let call = self.calls.begin(answer);
                self.relay.handle_input(now, Input::Call { call, principal, request });
            }
            FromOutside::Stop { now: at_once } => {
                service::stopping();
                tracing::info!(at_once, "stopping");
                self.course.send_modify(|course| course.draining = true);
                self.relay.handle_input(now, Input::Stop { now: at_once });
            }
            FromOutside::Alerted { delivery, result } => {
                self.relay.handle_input(now, Input::Alerted { delivery, result });
            }
            FromOutside::Reload(config) => self.reload(now, &config),
        }
    }

    fn reload(&mut self, now: Time, new: &Config) {
        let old = self.course.borrow().config.clone();
        for key in needs_restart(&old, new) {
            tracing::warn!(key, "changed, but takes effect only after a restart");
        }
        let config = Arc::new(in_force(&old, new));
        self.carriers.writers.reload(&config.feed, RequestLimits::new(&config));
        self.course.send_modify(|course| course.config = config.clone());
        self.carriers.store.keep_free(config.outbox.min_free);
        self.relay.handle_input(now, Input::Reload(config));
        tracing::info!("configuration reloaded");
        service::ready();
    }

    /// Carries outputs out until there are none left (`true`) or a turn's worth was delivered.
    fn drain(&mut self, now: Time) -> bool {
        let mut deliveries = 0;
        while deliveries < TURN_DELIVERIES {
            match self.relay.poll_output(now) {
                None => return true,
                Some(Output::Deliver { session, batch }) => {
                    deliveries += 1;
                    self.deliver(now, session, &batch);
                }
                Some(output) => self.carry(now, output),
            }
        }
        false
    }

    /// A plain call: a complete write is answered in this turn, without a channel, a wake-up or a task.
    fn deliver(&mut self, now: Time, session: SessionId, batch: &Arc<Batch>) {
        match self.carriers.writers.deliver(session, batch) {
            Deliver::Done => self.relay.handle_input(now, Input::Delivered { session, at: clock::mono() }),
            // `Delivered` or `Left` is on the way through the inbox.
            Deliver::Blocked | Deliver::Gone => {}
        }
    }

    fn carry(&mut self, now: Time, output: Output) {
        match output {
            Output::Connect { attempt, request } => self.carriers.upstream.connect(attempt, request),
            Output::Transmit { attempt, frames } => self.carriers.upstream.transmit(attempt, frames),
            Output::Disconnect { attempt, code, farewell } => {
                self.carriers.upstream.disconnect(attempt, code, farewell);
            }
            Output::Upgrade { attempt, request } => self.carriers.upstream.upgrade(attempt, request),
            Output::KeepPolling { attempt } => self.carriers.upstream.keep_polling(attempt),
            Output::Fetch { call, request } => self.carriers.upstream.fetch(call, request),
            Output::Commit(operations) => {
                if let Err(answer) = self.carriers.store.commit(operations) {
                    self.relay.handle_input(now, durable(answer));
                }
            }
            Output::Load(wanted) => {
                if let Err(answer) = self.carriers.store.load(wanted) {
                    self.relay.handle_input(now, durable(answer));
                }
            }
            Output::Deliver { session, batch } => self.deliver(now, session, &batch),
            Output::Answer { call, reply } => {
                let reply = self.complete(reply);
                self.calls.answer(call, reply);
            }
            Output::Close { session, code } => self.carriers.writers.close(session, code),
            Output::Notify(notice) => news::notify(&notice),
            Output::Alert { delivery, target, body } => {
                if let Err(failure) = self.carriers.notifier.tell(delivery, target, body) {
                    self.relay.handle_input(now, Input::Alerted { delivery, result: Err(failure) });
                }
            }
            Output::Stopped => self.stopped = true,
        }
    }

    /// Adds to the relay's statistics what only the loop knows.
    fn complete(&self, mut reply: Reply) -> Reply {
        if let Reply::Stats(stats) = &mut reply {
            stats.turns = self.meter.read();
        }
        reply
    }

    fn feed_watchdog(&mut self) {
        let (Some(at), Some(period)) = (self.feed_watchdog_at, self.watchdog.period()) else { return };
        let now = Instant::now();
        if at <= now {
            let failed = self.carriers.store.stats().failure.is_some();
            self.watchdog.feed(self.carriers.store.progress(), failed);
            self.feed_watchdog_at = Some(now + period);
        }
    }

    /// Sleeps until a source has something or a timer is due.
    async fn wait(&mut self) {
        let due = self.relay.poll_timeout();
        let timer = due.map_or_else(Instant::now, |due| clock::instant(due).into());
        let watchdog = self.feed_watchdog_at.unwrap_or(timer);
        let Sources { inbox, upstream, store, outside } = &mut self.sources;
        self.held = tokio::select! {
            biased;
            Some(answer) = store.recv() => Some(Held::Store(answer)),
            Some(input) = upstream.recv() => Some(Held::Upstream(input)),
            () = inbox.ready() => None,
            Some(input) = outside.recv() => Some(Held::Outside(input)),
            () = self.carriers.writers.work() => None,
            () = sleep_until(timer), if due.is_some() => {
                if let Some(due) = due {
                    self.meter.woke(due, clock::mono());
                }
                None
            }
            () = sleep_until(watchdog), if self.feed_watchdog_at.is_some() => None,
        };
    }
}

fn durable(answer: StoreAnswer) -> Input {
    match answer {
        StoreAnswer::Committed => Input::Committed,
        StoreAnswer::Loaded(records) => Input::Loaded(records),
        StoreAnswer::CommitFailed { reason } => Input::CommitFailed { reason },
    }
}

#[cfg(test)]
mod tests;
