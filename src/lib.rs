//! Tidegate: one connection up, many apps down, nothing silently lost.
//!
//! ```text
//! service <== one connection ==> upstream/ --+                 +-- downstream/ <== many sessions ==> apps
//!                                            v                 v
//!                                         driver/ <-> relay::Relay (pure: state and every decision)
//!                                            ^                 |
//!                                 store/ ----+                 +-- dialect/ (pure: upstream's protocol as data)
//!                               (sled, own thread)                 protocol/ (pure: what apps see)
//! ```
//!
//! Three folders are pure, and a test holds them so: [`relay`], [`dialect`] and [`protocol`] know no runtime, socket, file,
//! clock or chance. [`upstream`], [`downstream`] and [`store`] carry and decide nothing. Every effect is a pair: the relay
//! asks by an `Output`, an `Input` answers ([`relay::pairs`]); [`driver`] turns the loop between them.
//!
//! Invariants: a sink (connection, store, session) has at most one request out; nothing is called accepted before it is
//! durable; what is missing is told before what follows it; every queue, ring and map has a limit in [`config`].
//!
//! [`app`] puts a process together; [`cli`] has a file per subcommand; ARCHITECTURE.md has the states and two traces.
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
pub mod notify;
pub mod protocol;
pub mod relay;
pub mod reload;
pub mod service;
pub mod side;
pub mod signals;
pub mod store;
pub mod tools;
pub mod upstream;
