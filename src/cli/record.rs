//! `tidegate record`: an upstream session into a transcript.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Failure, exit, remark};
use crate::config::load::{Sources, load};
use crate::config::size;
use crate::protocol::duration;
use crate::protocol::request::query::parse_snapshot;
use crate::tools::record::{self, Wanted};
use crate::tools::tape::Limits;

/// Options of `tidegate record`.
#[derive(Debug, clap::Args)]
pub(super) struct RecordArgs {
    /// The transcript: a new file. Token, headers and secret params are left out; read it before you share it
    #[arg(value_name = "TRANSCRIPT")]
    transcript: PathBuf,
    /// The service [default: upstream.url of the configuration]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A channel to subscribe, as an app would; repeatable
    #[arg(long = "channel", value_name = "CHANNEL")]
    channels: Vec<String>,
    /// No dialect: say nothing but what --send says
    #[arg(long, conflicts_with = "channels")]
    raw: bool,
    /// A text to send, with --raw; repeatable, each after an answer to the one before or a second
    #[arg(long = "send", value_name = "TEXT", requires = "raw", allow_hyphen_values = true)]
    texts: Vec<String>,
    /// A WebSocket subprotocol to offer, with --raw; repeatable
    #[arg(long = "subprotocol", value_name = "NAME", requires = "raw")]
    subprotocols: Vec<String>,
    /// How long to record; Ctrl-C ends it before
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = a_duration)]
    length: Duration,
    /// How large the transcript may become
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = a_size)]
    max_bytes: u64,
    /// How many frames it may hold
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    max_frames: u64,
}

fn a_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| "write a whole number and its unit, such as 30s".to_owned())
}

fn a_size(text: &str) -> Result<u64, String> {
    size::parse(text).ok_or_else(|| "write a whole number and its unit, such as 16MiB".to_owned())
}

/// Records until told to stop.
pub(super) fn run(args: &RecordArgs, sources: &Sources) -> Result<(), Failure> {
    let mut sources = sources.clone();
    sources.sets.extend(args.url.iter().map(|url| format!("upstream.url={url}")));
    let loaded = load(&sources).map_err(|errors| Failure::configuration(&errors))?;
    let channel = |text: &String| {
        let query = format!("channel={}", utf8_percent_encode(text, NON_ALPHANUMERIC));
        let wrong = |message| Failure::new(exit::USAGE, format!("--channel {text}: {message}"));
        parse_snapshot(&query).map(|(channel, _)| channel).map_err(|error| wrong(error.message))
    };
    let wanted = Wanted {
        channels: args.channels.iter().map(channel).collect::<Result<_, _>>()?,
        texts: args.texts.clone(),
        subprotocols: args.subprotocols.clone(),
        length: args.length,
        limits: Limits { bytes: args.max_bytes, frames: args.max_frames },
    };
    let dialect = (!args.raw).then_some(loaded.dialect);
    let recorded = record::run(loaded.config, dialect, &wanted, &args.transcript, &mut |text| remark(text));
    let recorded =
        recorded.map_err(|error| Failure::new(exit::IO, format!("{}: {error}", args.transcript.display())))?;
    remark(&format!(
        "{}: {} frames, {} bytes in {}",
        recorded.ended,
        recorded.frames,
        recorded.bytes,
        args.transcript.display()
    ));
    match recorded.frames {
        0 => Err(Failure::new(exit::FAILED, "no frame passed: see what the transcript says of the connection")),
        _ => Ok(()),
    }
}
