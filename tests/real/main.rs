//! The real binary with real services and real clients of other people's making: ganache, graphql-ws and socket.io as upstream,
//! the npm clients `ws` and `eventsource` on the feed, `promtool` on the metrics.
//!
//! What cannot run here says `SKIP name: reason`, which `tests/run` counts. Every wait is for a line that a script says or a
//! condition; nothing outlives its test.

#[expect(dead_code, reason = "each test binary needs a part of it")]
#[path = "../common/mod.rs"]
mod common;

mod actioncable;
mod clients;
mod devtools;
mod door;
mod ethereum;
mod graphql;
mod homeassistant;
mod jupyter;
mod metrics;
mod nchan;
mod pusher;
mod rig;
mod script;
mod signalr;
mod socketio;
mod status_service;
