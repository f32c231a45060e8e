//! Where two parts of the relay meet: nothing else calls one part with what another said.
//!
//! `connections/` to upstream:
//! - `connecting`: begun, lost, told what to do. `handover`: a second one takes over. `routes`: over which endpoint and
//!   transport. `upgrading`: a session that is polled goes on over a WebSocket.
//! - `credentials`: what they are opened with. `fetches`: what is got from outside, and for whom.
//! - `limits`: what is spent of upstream's, over restarts.
//! - `sending`: what leaves on them, and in which order. `asking`: polls and posts. `addressing`: channels in the address.
//!
//! `heard/`, what upstream says:
//! - `hearing`: what its messages lead to. `refusing`: what it refuses or ends. `strange`: those that nobody understood.
//! - `events`: what enters the feed. `mapping`: one channel of upstream's as many local ones.
//! - `sequencing`: numbers: duplicates, what comes early, holes. `checking`: checksums. `repairing`: what mends holes.
//!   `resuming`: what a lost connection means for the feed, and when that is known. `refreshing`: asking for the
//!   present state.
//! - `auditing`: what upstream believes to be subscribed. `watching`: channels that are silent. `judging`: how good
//!   upstream is, and who is told.
//!
//! `clients/`:
//! - `sessions`: what they ask. `subscribing`: how subscriptions begin and end. `following`: those to the life of messages.
//!   `cutting`: what is delivered. `snapshots`: state as frames. `calls`: HTTP requests. `accounts`: what was spent, and who
//!   reads what.
//!
//! `messages/`, what leaves:
//! - `publishing`: who publishes and what they are told. `waiting`: for what, and how long. `outbound`: what leaves, the
//!   store. `reading`: what waits on disk. `volatile`: those that leave now or never. `overlaying`:
//!   what they will make of channels. `progress`: what becomes of them, told to who follows them. `syncing`: how far those
//!   have come that waited for the link. `letters`: dead ones, for operators.
//!
//! `draining`: stop and reload, which concern all. `tests/`: the whole relay against a service, in virtual time.

pub(super) mod clients;
pub(super) mod connections;
pub(super) mod draining;
pub(super) mod heard;
pub(super) mod messages;
#[cfg(test)]
mod tests;

use std::time::Duration;

/// How often the rings are looked through for entries that are too old.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(5);
