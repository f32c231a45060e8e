//! Tidegate: one connection up, many apps down, nothing silently lost.
#![forbid(unsafe_code)]

pub mod clock;
pub mod config;
pub mod demo;
pub mod dialect;
pub mod downstream;
pub mod inbox;
pub mod protocol;
pub mod relay;
pub mod store;
pub mod upstream;
