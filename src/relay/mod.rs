//! The machine, PURE: all state and every decision. See `pairs` for what goes in and out.

pub mod access;
pub mod outbox;
pub mod pairs;
pub mod record;
pub mod rng;
pub mod stats;
pub mod time;
