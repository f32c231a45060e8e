//! Signals, as inputs: SIGTERM and SIGINT drain, the second one stops at once (what was accepted is durable all the same),
//! a third one exits without waiting for the disk. SIGHUP reloads. SIGUSR1 and SIGUSR2, deadly by default, do nothing.
//!
//! They are received on a thread of their own; nothing runs inside a signal handler.

use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::inbox::FromOutside;

/// Reads the configuration again; `Err` is for people.
pub type Reload = Arc<dyn Fn() -> Result<Arc<Config>, String> + Send + Sync>;

/// Exit code of the third signal: what was asked for did not happen in time.
const IMPATIENT: i32 = 1;

/// Starts listening. Call before anything can be interrupted.
pub fn listen(outside: mpsc::Sender<FromOutside>, reload: Option<Reload>) -> std::io::Result<()> {
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
                SIGHUP => reload.as_ref().and_then(reloaded),
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

/// A configuration that does not load keeps the old one, and says so.
fn reloaded(reload: &Reload) -> Option<FromOutside> {
    crate::service::reloading();
    match reload() {
        Ok(config) => Some(FromOutside::Reload(config)),
        Err(problem) => {
            tracing::error!("reload failed, the old configuration stays in force: {problem}");
            crate::service::ready();
            None
        }
    }
}
