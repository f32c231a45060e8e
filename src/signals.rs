//! Signals, as inputs: SIGTERM and SIGINT drain, the second one stops at once (what was accepted is durable all the same),
//! a third one exits without waiting for the disk. SIGHUP reloads. SIGUSR1 and SIGUSR2, deadly by default, do nothing.
//!
//! They are received on a thread of their own; nothing runs inside a signal handler.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

use crate::inbox::FromOutside;
use crate::reload::Reloader;
use crate::service;

/// Exit code of the third signal: what was asked for did not happen in time.
const IMPATIENT: i32 = 1;

/// Starts listening. Call before anything can be interrupted.
pub fn listen(outside: mpsc::Sender<FromOutside>, reloader: Reloader) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut stops = 0;
        for signal in signals.forever() {
            let input = match signal {
                SIGTERM | SIGINT => {
                    stops += 1;
                    if stops > 2 {
                        std::process::exit(IMPATIENT);
                    }
                    Some(FromOutside::Stop { now: stops == 2 })
                }
                SIGHUP => {
                    service::reloading();
                    if reloader.reload().is_err() {
                        service::ready();
                    }
                    None
                }
                _ => None,
            };
            if let Some(input) = input
                && outside.blocking_send(input).is_err()
            {
                return;
            }
        }
    })?;
    Ok(())
}
