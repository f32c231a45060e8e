//! What the process says to its service manager, and how it ends when something is broken beyond repair.
//!
//! The watchdog is fed by the event loop, and only while the store's thread makes progress too: a loop that hangs, or a
//! disk that does not answer, gets the process restarted. Outside systemd all of this is silent.

use std::time::Duration;

use sd_notify::NotifyState;

/// systemd's watchdog, fed while everything turns.
pub struct Watchdog {
    period: Option<Duration>,
    store_progress: u64,
}

impl Watchdog {
    /// As `WATCHDOG_USEC` asks for: twice per interval, as sd_watchdog_enabled(3) advises.
    pub fn from_environment() -> Self {
        Watchdog { period: sd_notify::watchdog_enabled().map(|interval| interval / 2), store_progress: 0 }
    }

    /// How often to call [`Watchdog::feed`].
    pub fn period(&self) -> Option<Duration> {
        self.period
    }

    /// Feeds the watchdog if the store moved since the last time. A store that is known dead does not starve it: the
    /// inbound side goes on without, and readiness says so.
    pub fn feed(&mut self, store_progress: u64, store_failed: bool) -> bool {
        let moved = store_failed || store_progress != self.store_progress;
        self.store_progress = store_progress;
        if moved {
            tell(&[NotifyState::Watchdog]);
        }
        moved
    }
}

/// Listeners are bound and the store is open.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("relaying")]);
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The drain begins.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// A manager that does not listen loses nothing but the news.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// From now on a panic ends the process at once, except where the store catches sled's: half alive is worse than
/// restarted, and what was accepted is on disk. `before` runs first (the demo gives the terminal back).
pub fn abort_on_panic(before: fn()) {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if crate::store::panic_is_guarded() {
            tracing::warn!("sled panicked and was caught: {panic}");
            return;
        }
        before();
        default(panic);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_stands_still_starves_the_watchdog() {
        let mut watchdog = Watchdog { period: Some(Duration::from_secs(1)), store_progress: 0 };
        assert!(watchdog.feed(1, false));
        assert!(!watchdog.feed(1, false));
        assert!(watchdog.feed(2, false));
        assert!(watchdog.feed(2, true), "a store that failed is told elsewhere");
    }
}
