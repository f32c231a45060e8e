//! Carriers to local apps, IO without policy: the relay decides who gets what; nothing here does.
//!
//! | file | thread | carries |
//! |---|---|---|
//! | [`writer`] | feed | every byte to sessions: batches, pings, closes |
//! | `reader`, `websocket` | feed | bytes from sessions: requests, pongs, ends |
//! | `line`, `backlog` | feed | one session's socket; what its kernel has not taken yet |

mod backlog;
mod line;
mod reader;
mod websocket;
pub mod writer;
