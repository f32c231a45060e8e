//! The real binary on ports of its own, between a scripted upstream and real clients over loopback: what the parts prove one
//! by one elsewhere holds for the whole process.
//!
//! Every wait is for a condition; no test depends on how fast anything is.
//! Deliberately not here: the life of the process (`tests/process.rs`), the commands (`tests/cli`), services and clients of
//! others (`tests/real`), damaged files (`tests/durability`).

#[expect(dead_code, reason = "each test binary needs a part of it")]
#[path = "../common/mod.rs"]
mod common;

mod client;
mod contract;
mod disks;
mod hub;
mod island;
mod judge;
mod load;
mod parrot;
mod rig;
mod sse;
mod upstream;

mod admin;
mod bad_clients;
mod bad_upstream;
mod crash_loop;
mod ending;
mod failing;
mod full;
mod handover;
mod kill;
mod link;
mod misbehaving;
mod network;
mod options;
mod outage;
mod pacing;
mod power;
mod progress;
mod recovery;
mod replayed;
mod resume;
mod secrets;
mod sharing;
mod tokens;
mod transports;
mod watching;
