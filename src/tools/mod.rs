//! Tools around a relay for whoever connects a service: `record` holds it and writes down what passes, `replay` plays such a
//! transcript as a service, `mock` is a service made of a dialect.
//!
//! - `record`: the event loop of a recording. `tape`: its file.
//! - `served`: a WebSocket server. `replay`: what a transcript says over each transport, where a client says what was recorded
//!   (`alike`). `mock`: what a dialect makes of it, over WebSocket.
//!
//! Deliberately not here: what frames mean (`dialect`), connections to a real service (`upstream`), decisions (`relay`).

mod alike;
pub mod mock;
pub mod record;
pub mod replay;
mod served;
pub mod tape;

use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

/// SIGINT and SIGTERM, as they come. The first one asks for an orderly end; a second one, or an end that takes longer than
/// [`END_WITHIN`], is the caller's to judge.
fn stop_signals() -> std::io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(2);
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if sender.blocking_send(()).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// How long an orderly end may take.
const END_WITHIN: Duration = Duration::from_secs(3);
