//! The judge of the outbox: what was seen of a real run, one JSON object a line, held against what the outbox promises.
//!
//! Three observers write a [`Trace`](trace::Trace): publishers, upstream, the operator. A line is written before what it
//! tells leaves its observer, and after what it tells has reached it. So cause stands before effect, and no rule asks how
//! fast anything was; where a time matters (a time to live), it is compared with a moment that must have been earlier.
//! - `seen`: what a line says. `trace`: the file. `rules`: what must hold of messages; `wishes`: what of those who
//!   want something of them. `planted`: a fault for each rule.
//!
//! Runs that are judged: `kill`, `power`, `full`, `failing`. Who publishes in them, and how upstream behaves: `load`.
//! Deliberately not here: the feed's own promises (`client::Continuity`, `tests/sim`).

mod planted;
mod rules;
mod seen;
mod trace;
mod wishes;

pub use seen::{Admin, Client, End, Seen, Upstream, receipt};
pub use trace::Trace;
