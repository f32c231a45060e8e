//! The local feed's contract `tidegate.v1`, PURE: what apps send and what they get.
//!
//! - [`position`]: `epoch-offset`, the one event id over all transports.
//! - [`frame`]: every frame that goes to a client, and its JSON text. An event's text is made once, when it enters its ring.
//! - [`control`], [`entry`]: the texts of control frames and of ring entries.
//! - [`request`]: every request a client may make, parsed under limits.
//! - [`canonical`] and [`duration`]: the text forms of params and of times.
//! - [`codes`]: the closed tables of error and close codes.
//! - [`contract`]: all of it as documents for programs.
//!
//! Invariant: upstream's payload bytes are copied, never parsed and written again.

pub mod canonical;
pub mod codes;
pub mod contract;
pub mod control;
pub mod delta;
pub mod duration;
pub mod entry;
pub mod frame;
pub mod position;
pub mod request;
pub mod selection;
