//! What upstream says, what it means for the feed, and how good upstream is. `meet/mod.rs` says what each file is about.

pub(in crate::relay) mod auditing;
pub(in crate::relay) mod checking;
pub(in crate::relay) mod events;
pub(in crate::relay) mod hearing;
pub(in crate::relay) mod judging;
pub(in crate::relay) mod mapping;
pub(in crate::relay) mod refreshing;
pub(in crate::relay) mod refusing;
pub(in crate::relay) mod repairing;
pub(in crate::relay) mod resuming;
pub(in crate::relay) mod sequencing;
pub(in crate::relay) mod strange;
pub(in crate::relay) mod watching;
