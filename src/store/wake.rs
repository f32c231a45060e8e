//! Wakes a flush that sled forgets: where a write fails after its buffer was full, sled notes the error and tells nobody, and
//! a flush that waits for that write waits for ever. Any other flush finds the note, fails, and wakes the first one.
//!
//! Contract: a flush that takes long has others beside it, one more each [`PATIENCE`], up to [`BESIDE`], until it ends. On a slow
//! disk they only wait, too. That sled does so with failing writes is held by `tests/e2e/failing.rs`.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use sled::Db;

use super::recover::guarded;

/// How long a flush is left alone.
const PATIENCE: Duration = Duration::from_secs(1);
/// Flushes that wait beside the first one at most.
const BESIDE: usize = 8;

type Flush = dyn Fn() -> Result<(), String> + Send + Sync;

#[derive(Default)]
struct State {
    /// How what is being flushed is flushed, and since when it is.
    flushing: Option<(Arc<Flush>, Instant)>,
    /// Flushes beside it that have not ended.
    beside: usize,
    over: bool,
}

/// Flushes, with somebody who watches.
pub(super) struct Watched {
    state: Arc<Mutex<State>>,
    thread: Thread,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

impl Watched {
    pub(super) fn new() -> std::io::Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let handle = thread::Builder::new().name("flushes".to_owned()).spawn(move || watch(&shared))?;
        Ok(Watched { state, thread: handle.thread().clone() })
    }

    pub(super) fn flush(&self, db: &Db) -> Result<(), String> {
        let db = db.clone();
        self.run(Arc::new(move || db.flush().map(drop).map_err(|error| format!("flushing: {error}"))))
    }

    fn run(&self, flush: Arc<Flush>) -> Result<(), String> {
        lock(&self.state).flushing = Some((Arc::clone(&flush), Instant::now()));
        let _over = Flushing(&self.state);
        flush()
    }
}

/// Ends with the flush, also if sled panics.
struct Flushing<'a>(&'a Mutex<State>);

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        lock(self.0).flushing = None;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        lock(&self.state).over = true;
        self.thread.unpark();
    }
}

fn watch(shared: &Arc<Mutex<State>>) {
    loop {
        thread::park_timeout(PATIENCE);
        let mut state = lock(shared);
        if state.over {
            return;
        }
        let late = state.flushing.as_ref().filter(|(_, since)| since.elapsed() >= PATIENCE);
        let Some(flush) = late.map(|(flush, _)| Arc::clone(flush)).filter(|_| state.beside < BESIDE) else { continue };
        let shared = Arc::clone(shared);
        let beside = thread::Builder::new().name("flush".to_owned()).spawn(move || {
            // What comes of it is the first one's to tell.
            let _ = guarded(AssertUnwindSafe(|| drop(flush())));
            lock(&shared).beside -= 1;
        });
        // If there is no thread to be had now, there may be one later.
        state.beside += usize::from(beside.is_ok());
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;
    use std::sync::mpsc::channel;

    use super::*;

    /// sled's: the first one waits for a write that failed long ago, and any other one fails and wakes it.
    #[derive(Default)]
    struct Forgetful {
        calls: Mutex<usize>,
        woken: Condvar,
    }

    impl Forgetful {
        fn flush(&self) -> Result<(), String> {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            if *calls == 1 {
                drop(self.woken.wait_while(calls, |calls| *calls == 1).unwrap());
            } else {
                self.woken.notify_all();
            }
            Err("the write failed".to_owned())
        }
    }

    #[test]
    fn a_flush_that_only_another_one_ends_is_ended() {
        let (tell, ended) = channel();
        thread::spawn(move || {
            let (watched, forgetful) = (Watched::new().unwrap(), Arc::new(Forgetful::default()));
            let flush = Arc::clone(&forgetful);
            tell.send((watched.run(Arc::new(move || flush.flush())), watched)).unwrap();
        });
        let (result, watched) = ended.recv_timeout(Duration::from_secs(60)).expect("it waits for ever");
        assert_eq!(result, Err("the write failed".to_owned()));
        assert!(lock(&watched.state).flushing.is_none());
    }

    #[test]
    fn a_flush_that_panics_is_no_longer_watched() {
        let watched = Watched::new().unwrap();
        let panicked = guarded(AssertUnwindSafe(|| watched.run(Arc::new(|| panic!("as sled does")))));
        assert_eq!(panicked, Err("sled panicked: as sled does".to_owned()));
        assert!(lock(&watched.state).flushing.is_none());
    }
}
