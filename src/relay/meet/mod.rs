//! Where two parts of the relay meet: nothing else calls one part with what another said.
//!
//! - `upstream`: link, attempt, interest: connecting, endings. `hearing`: what upstream's messages lead to. `sending`: what
//!   leaves for it, and in which order.
//!   `handover`: a second connection takes over from the one that serves. `addressing`: channels in the address.
//!   `asking`: polls and posts.
//!   `routes`: which endpoint and transport.
//! - `resuming`: what a lost connection means for the feed, and when that is known.
//! - `events`: what upstream said enters the feed. `sequencing`: its numbers: duplicates, what comes early, holes.
//!   `mapping`: one upstream channel as many local ones.
//!   `strange`: what nobody understood.
//!   `repairing`: what mends them. `refreshing`: clients ask for the present state.
//! - `sessions`: what clients ask. `subscribing`: how subscriptions begin and end. `cutting`: what is
//!   delivered to them. `snapshots`: state as frames.
//! - `fetches`: what is got from outside, and for whom. `credentials`: what connections are opened with.
//! - `outbound`: what leaves, the store. `publishing`: who publishes and what they are told. `waiting`: for
//!   what, and how long. `letters`: dead ones, for operators.
//! - `watching`: channels that are silent. `judging`: how good upstream is.
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
