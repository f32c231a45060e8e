//! Sessions and HTTP calls: what they ask, what they get. `meet/mod.rs` says what each file is about.

pub(in crate::relay) mod accounts;
pub(in crate::relay) mod calls;
pub(in crate::relay) mod cutting;
pub(in crate::relay) mod following;
mod merging;
pub(in crate::relay) mod sessions;
pub(in crate::relay) mod snapshots;
pub(in crate::relay) mod subscribing;
#[cfg(test)]
mod tests;
