//! `tidegate replay`: a transcript as a service on a port.

use std::net::SocketAddr;

use super::dialect::{DATA, transcript};
use super::{Failure, exit, print, remark};
use crate::tools::replay::{Manner, Replay};

/// Options of `tidegate replay`.
#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    /// A transcript as `tidegate record` writes it
    #[arg(value_name = "TRANSCRIPT")]
    transcript: String,
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7443")]
    listen: SocketAddr,
    /// How much faster than it was; 0: without pauses
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = a_speed)]
    speed: f64,
    /// After the last recorded connection begin again with the first; over HTTP queries are not compared then
    #[arg(long = "loop")]
    again: bool,
}

fn a_speed(text: &str) -> Result<f64, String> {
    let speed = text.parse().ok().filter(|speed: &f64| (0.0..=1e6).contains(speed));
    speed.ok_or_else(|| "write a number from 0 to 1000000".to_owned())
}

/// Plays until told to stop.
pub(super) fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let transcript = transcript(&args.transcript)?;
    let replay = Replay::new(transcript).map_err(|error| Failure::new(DATA, format!("{}:{error}", args.transcript)))?;
    let (manner, scheme) = (Manner { speed: args.speed, again: args.again }, replay.scheme());
    let mut told = Ok(());
    let listening =
        &mut |address: SocketAddr| told = print(&format!("replays {} at {scheme}://{address}/\n", args.transcript));
    let played = replay.run(args.listen, manner, listening, remark);
    played.map_err(|error| Failure::new(exit::FAILED, format!("{}: {error}; choose another --listen", args.listen)))?;
    told
}
