//! What the log says about the link: one line when it is live, one when a connection ended or did not come about, with the
//! reason, how long it lasted and when the next attempt begins.

use crate::protocol::duration::millis;
use crate::relay::link::Link;
use crate::relay::pairs::Notice;
use crate::relay::stats::LinkState;
use crate::relay::time::Mono;

/// What was said last.
#[derive(Default)]
pub struct News {
    state: Option<LinkState>,
    ended: Option<Mono>,
}

impl News {
    /// Says what changed since the last turn.
    pub fn tell(&mut self, now: Mono, link: &Link) {
        let ending = link.last_ending().filter(|ending| Some(ending.at) != self.ended);
        if let Some(ending) = ending {
            self.ended = Some(ending.at);
            let next_try_ms = link.due().map(|due| millis(due.since(now)));
            let (reason, failures) = (ending.reason, link.failures());
            let detail = Some(ending.detail.as_str()).filter(|detail| !detail.is_empty());
            if ending.live_for.is_zero() {
                tracing::info!(reason, detail, failures, next_try_ms, "no connection to upstream");
            } else {
                let live_ms = millis(ending.live_for);
                tracing::info!(reason, detail, live_ms, next_try_ms, "the connection to upstream ended");
            }
        }
        let state = link.state();
        if self.state.replace(state) == Some(state) {
            return;
        }
        match state {
            LinkState::Live => tracing::info!("upstream is live"),
            LinkState::Paused => tracing::info!("upstream is paused until it is resumed"),
            LinkState::GivenUp => tracing::error!("upstream is given up: POST /v1/upstream/reconnect tries again"),
            LinkState::Idle | LinkState::Connecting | LinkState::BackingOff => {}
        }
    }
}

/// Says what the relay wants people to know.
pub fn notify(notice: &Notice) {
    match notice {
        Notice::NotUnderstood { why, sample, left_out } => tracing::warn!(
            why,
            left_out,
            sample,
            "a message from upstream was not understood: `tidegate dialect explain` shows what the dialect makes of one"
        ),
        Notice::Upgraded => tracing::info!("the session with upstream goes on over a WebSocket"),
        Notice::NotUpgraded { reason, detail } => {
            tracing::warn!(reason, detail, "the session with upstream was to go on over a WebSocket; it is polled on")
        }
        Notice::Audited { missing, extra } => tracing::warn!(
            missing,
            extra,
            "upstream's list of subscriptions was another one than ours: what it lacked is subscribed anew, the rest unsubscribed"
        ),
        Notice::TookOver { why } => tracing::info!(why, "another connection to upstream took over"),
        Notice::NotTakenOver { why, reason, detail } => tracing::warn!(
            why,
            reason,
            detail,
            "another connection to upstream was to take over and did not; the one that serves stays"
        ),
        Notice::Alert { name, firing: true, when, value } => {
            tracing::warn!(alert = name, when, value, "an alert fires")
        }
        Notice::Alert { name, firing: false, when, value } => {
            tracing::info!(alert = name, when, value, "an alert is resolved");
        }
        Notice::AlertUntold { again, detail } => tracing::warn!(again, detail, "an alert could not be told"),
        Notice::Faults { times, reason, detail } => tracing::error!(
            times,
            reason,
            detail,
            "connections to upstream end again and again by a fault of this side or the other"
        ),
        Notice::Flapping { times, live_for } => {
            let live_ms = millis(*live_for);
            tracing::warn!(times, live_ms, "connections to upstream come live and do not last");
        }
        Notice::Credentials { standing, detail } => match standing.text() {
            Some(state) => tracing::warn!(
                state,
                detail,
                "upstream does not take our credentials, or they have run out; see upstream.token and [secrets]"
            ),
            None => tracing::info!("upstream takes our credentials again"),
        },
        Notice::Uncounted => tracing::warn!(
            "connecting though the store did not keep that we do: should the process end now, the next one may begin more \
             connections than upstream allows"
        ),
        Notice::Disk { low: true, free, min_free } => tracing::warn!(
            free,
            min_free,
            "the disk under outbox.path is nearly full: publishes are refused until outbox.min_free bytes are free again"
        ),
        Notice::Disk { low: false, free, .. } => {
            tracing::info!(free, "the disk has room again: publishes are accepted")
        }
    }
}
