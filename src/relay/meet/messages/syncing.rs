//! Messages that waited while the link was not live meet the link: how far they have come is told on `$status`.
//!
//! Invariant: each sync that was told as running is told once more, as done or interrupted, unless the process dies.

use serde_json::Value;

use crate::protocol::control::Object;
use crate::protocol::duration::millis;
use crate::relay::Relay;
use crate::relay::record::MessageId;
use crate::relay::syncing::Reading;
use crate::relay::time::Time;

/// How a sync stands, in one word and, where it was interrupted, by what.
#[derive(Clone, Copy)]
enum Standing {
    Running,
    Done,
    Interrupted(&'static str),
}

impl Relay {
    /// The link's state may have changed.
    pub(in crate::relay) fn sync_with_link(&mut self, now: Time) {
        match (self.outbound.syncing.is_live(), self.link_is_live()) {
            (false, true) if self.outbox.failure().is_none() => {
                let (queued, newest) = self.outbox.backlog();
                if let Some(reading) = self.outbound.syncing.begin(now, queued, newest) {
                    self.tell_sync(now, reading, Standing::Running);
                }
            }
            (true, false) => self.stop_sync(now, "link_lost"),
            _ => {}
        }
    }

    /// A message ended. Told by [`Relay::tell_sync_if_due`].
    pub(in crate::relay) fn sync_ended(&mut self, message: MessageId) {
        self.outbound.syncing.ended(message);
    }

    pub(in crate::relay) fn tell_sync_if_due(&mut self, now: Time) {
        if let Some(reading) = self.outbound.syncing.tell(now.mono) {
            let standing = if reading.remaining() == 0 { Standing::Done } else { Standing::Running };
            self.tell_sync(now, reading, standing);
        }
    }

    /// What waits will not leave now.
    pub(in crate::relay) fn stop_sync(&mut self, now: Time, reason: &'static str) {
        if let Some(reading) = self.outbound.syncing.stop(now.mono) {
            self.tell_sync(now, reading, Standing::Interrupted(reason));
        }
    }

    fn tell_sync(&mut self, now: Time, reading: Reading, standing: Standing) {
        self.tell_status(now, Some("sync"), "sync", sync_json(&reading, standing));
    }

    /// The sync that goes on, for `GET /v1/status`; `null` if none does.
    pub(in crate::relay) fn sync_status(&self, now: Time) -> Value {
        let reading = self.outbound.syncing.reading(now.mono);
        let json = reading.map(|reading| sync_json(&reading, Standing::Running));
        json.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or(Value::Null)
    }
}

fn sync_json(reading: &Reading, standing: Standing) -> Vec<u8> {
    let (state, reason) = match standing {
        Standing::Running => ("running", None),
        Standing::Done => ("done", None),
        Standing::Interrupted(reason) => ("interrupted", Some(reason)),
    };
    let rate = reading.rate.map_or_else(|| "null".to_owned(), |rate| format!("{rate:.3}"));
    // Where it does not go on, there is no time at which it will be over.
    let eta = reading.eta().filter(|_| !matches!(standing, Standing::Interrupted(_)));
    Object::new()
        .text("state", state)
        .text_if("reason", reason)
        .text("since", &reading.since.rfc3339())
        .number("queued", reading.queued)
        .number("sent", reading.sent)
        .number("remaining", reading.remaining())
        .raw("rate", rate.as_bytes())
        .number_or_null("eta_ms", eta.map(millis))
        .end()
}
