//! Tidegate: one connection up, many apps down, nothing silently lost.
#![forbid(unsafe_code)]

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod dialect;
pub mod downstream;
pub mod driver;
pub mod inbox;
pub mod listeners;
pub mod log;
pub mod metrics;
pub mod protocol;
pub mod relay;
pub mod reload;
pub mod service;
pub mod side;
pub mod signals;
pub mod store;
pub mod upstream;
