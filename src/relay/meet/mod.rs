//! Where two parts of the relay meet: nothing else calls one part with what another said.
//!
//! Connections to upstream:
//! - `upstream`: begun, lost, told what to do. `handover`: a second one takes over. `routes`: over which endpoint and transport.
//! - `credentials`: what they are opened with. `fetches`: what is got from outside, and for whom.
//! - `sending`: what leaves on them, and in which order. `asking`: polls and posts. `addressing`: channels in the address.
//!
//! What upstream says:
//! - `hearing`: what its messages lead to. `strange`: those that nobody understood.
//! - `events`: what enters the feed. `mapping`: one channel of upstream's as many local ones.
//! - `sequencing`: numbers: duplicates, what comes early, holes. `repairing`: what mends holes. `resuming`: what a lost connection
//!   means for the feed, and when that is known. `refreshing`: asking for the present state.
//! - `watching`: channels that are silent. `judging`: how good upstream is, and who is told.
//!
//! Clients:
//! - `sessions`: what they ask. `subscribing`: how subscriptions begin and end. `cutting`: what is delivered. `snapshots`: state
//!   as frames.
//! - `publishing`: who publishes and what they are told. `waiting`: for what, and how long. `outbound`: what leaves, the store.
//!   `letters`: dead ones, for operators.
//! - `calls`: HTTP requests. `accounts`: what was spent, and who reads what. `draining`: stop and reload.

pub(super) mod accounts;
pub(super) mod addressing;
mod asking;
pub(super) mod calls;
pub(super) mod credentials;
pub(super) mod cutting;
pub(super) mod draining;
pub(super) mod events;
pub(super) mod fetches;
pub(super) mod handover;
pub(super) mod hearing;
pub(super) mod judging;
pub(super) mod letters;
pub(super) mod mapping;
pub(super) mod outbound;
#[cfg(test)]
mod outbound_tests;
pub(super) mod publishing;
pub(super) mod refreshing;
pub(super) mod repairing;
pub(super) mod resuming;
pub(super) mod routes;
pub(super) mod sending;
pub(super) mod sequencing;
pub(super) mod sessions;
pub(super) mod snapshots;
pub(super) mod strange;
pub(super) mod subscribing;
#[cfg(test)]
mod tests;
pub(super) mod upstream;
pub(super) mod waiting;
pub(super) mod watching;

use std::time::Duration;

/// How often the rings are looked through for entries that are too old.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(5);
