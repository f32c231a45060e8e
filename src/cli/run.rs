//! `tidegate run`: the relay as a service.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Failure, exit};
use crate::app::{self, App};
use crate::config::load::{Loaded, Sources, load};
use crate::listeners::Bound;
use crate::log::Log;
use crate::reload::Read;
use crate::service;

/// Where to write the addresses that are listened on, for whoever starts the relay on port 0: see [`Bound::write`].
const PORTS_FILE: &str = "TIDEGATE_PORTS_FILE";

/// Runs until told to stop. Once the log has started, it says what is wrong.
pub fn run(sources: &Sources) -> Result<(), Failure> {
    let loaded = load(sources).map_err(|errors| Failure::configuration(&errors))?;
    let Loaded { config, dialect, warnings, unknown_keys } = loaded;
    let log = Log::start(&config.log).map_err(|error| Failure::new(exit::FAILED, error))?;
    service::abort_on_panic(|| {});
    for warning in unknown_keys.iter().chain(&warnings) {
        tracing::warn!("{warning}");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "tidegate starts");
    let app = App {
        config: Arc::new(config),
        dialect,
        read: Some(read_again(sources.clone())),
        log: log.clone(),
        listening: Box::new(|bound| listening(bound, std::env::var_os(PORTS_FILE).map(PathBuf::from))),
    };
    let result = app::run(app);
    match &result {
        Ok(()) => tracing::info!("stopped"),
        Err(failure) => tracing::error!("{failure}"),
    }
    log.flush();
    result.map_err(|failure| Failure::new(failure.exit_code(), ""))
}

/// Tells where the relay listens.
fn listening(bound: &Bound, ports_file: Option<PathBuf>) -> std::io::Result<()> {
    for address in &bound.feed {
        tracing::info!(%address, "feed");
    }
    for address in bound.admin.iter().chain(&bound.probes) {
        tracing::info!(%address, "admin");
    }
    match ports_file {
        Some(path) => bound.write(&path),
        None => Ok(()),
    }
}

/// The same sources, read again.
fn read_again(sources: Sources) -> Read {
    Arc::new(move || match load(&sources) {
        Ok(loaded) => Ok(Arc::new(loaded.config)),
        Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
    })
}
