//! `tidegate demo`: see it work, without a service of one's own.

use std::net::SocketAddr;

use tracing::Level;

use super::{Failure, exit};
use crate::config::{LogConfig, LogFormat};
use crate::demo::{self, Places};
use crate::log::Log;
use crate::service;

/// Options of `tidegate demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Where the relay's feed listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7440")]
    feed: SocketAddr,
    /// Where the relay's admin listener is.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7441")]
    admin: SocketAddr,
    /// Where the demo's upstream service listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7442")]
    upstream: SocketAddr,
}

/// Shows everything until told to stop.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let log = Log::start(&LogConfig { level: Level::INFO, format: LogFormat::Text });
    let log = log.map_err(|error| Failure::new(exit::FAILED, error))?;
    service::abort_on_panic(demo::restore_terminal);
    let places = Places { feed: args.feed, admin: args.admin, upstream: args.upstream };
    let result = demo::run(places, log.clone());
    log.flush();
    result.map_err(|error| Failure::new(error.exit_code(), format!("tidegate demo: {error}")))
}
