//! `tidegate mock`: a service on a port, made of a dialect.

use std::net::SocketAddr;
use std::time::Duration;

use super::dialect::{dialect_text, faults};
use super::{Failure, exit, print, remark};
use crate::dialect::rehearsal::mimic::Mimic;
use crate::tools::mock;

/// Options of `tidegate mock`.
#[derive(Debug, clap::Args)]
pub(super) struct MockArgs {
    /// A dialect's file, or the name of a built-in one
    #[arg(value_name = "DIALECT")]
    dialect: String,
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7443")]
    listen: SocketAddr,
    /// Events a second for each subscription; 0: none
    #[arg(long, value_name = "COUNT", default_value_t = 1.0, value_parser = a_rate)]
    rate: f64,
}

fn a_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| *rate == 0.0 || (0.001..=1_000.0).contains(rate));
    rate.ok_or_else(|| "write 0, or a number from 0.001 to 1000".to_owned())
}

/// Serves until told to stop.
pub(super) fn run(args: &MockArgs) -> Result<(), Failure> {
    let mimic = Mimic::new(&args.dialect, &dialect_text(&args.dialect)?).map_err(faults)?;
    let mimic = mimic.map_err(|why| {
        let words = format!("a mock cannot speak {}: {why}; record the service and use replay", args.dialect);
        Failure::new(exit::FAILED, words)
    })?;
    for call in mimic.calls() {
        remark(&format!("a relay calls fetch.{call} over HTTP before it connects, which a mock does not answer"));
    }
    let every = (args.rate > 0.0).then(|| Duration::from_secs_f64(1.0 / args.rate));
    let mut told = Ok(());
    let listening = &mut |address: SocketAddr| told = print(&format!("mocks {} at ws://{address}/\n", args.dialect));
    let served = mock::run(mimic, args.listen, every, listening, remark);
    served.map_err(|error| Failure::new(exit::FAILED, format!("{}: {error}; choose another --listen", args.listen)))?;
    told
}
