//! Connections to upstream: begun, paid for, replaced, ended, and what leaves on them. `meet/mod.rs` says what each
//! file is about.

pub(in crate::relay) mod addressing;
pub(in crate::relay) mod asking;
pub(in crate::relay) mod connecting;
pub(in crate::relay) mod credentials;
pub(in crate::relay) mod fetches;
pub(in crate::relay) mod handover;
pub(in crate::relay) mod limits;
pub(in crate::relay) mod routes;
pub(in crate::relay) mod sending;
pub(in crate::relay) mod upgrading;
