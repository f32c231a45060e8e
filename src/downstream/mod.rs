//! Carriers to local apps, IO without policy: the relay decides who gets what; nothing here does.
//!
//! | file | thread | carries |
//! |---|---|---|
//! | [`writer`] | feed | every byte to sessions: batches, pings, closes |
//! | `reader`, `websocket` | feed | bytes from sessions: requests, pongs, ends |
//! | `line`, `backlog` | feed | one session's socket; what its kernel has not taken yet |
//! | [`http`], [`admin`] | side | the two listeners' requests, and handshakes of sessions |
//! | `listener`, `connection` | side | accepting; one HTTP connection, and how a session leaves it |
//! | [`guard`], `handshake`, [`policy`], `reply`, `calls`, [`counts`] | side | Host and Origin; upgrades and tokens; rules in force; answers |

pub mod admin;
mod backlog;
mod calls;
mod connection;
pub mod counts;
pub mod guard;
mod handshake;
pub mod http;
mod line;
mod listener;
pub mod policy;
mod reader;
mod reply;
#[cfg(test)]
#[path = "tests/rig.rs"]
mod rig;
mod websocket;
pub mod writer;
