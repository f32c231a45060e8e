//! The machine, PURE: all state and every decision. See `pairs` for what goes in and out.

pub mod access;
pub mod attempt;
pub mod backoff;
pub mod feed;
pub mod interest;
pub mod limiter;
pub mod link;
pub mod naming;
pub mod outbox;
pub mod pairs;
pub mod record;
pub mod rng;
pub mod sequence;
pub mod session;
pub mod stats;
pub mod time;
