//! The command line: one file per subcommand. `main.rs` calls [`main`] and exits with what it returns.
//!
//! Exit codes follow sysexits.h: 0 done, 1 failed, 64 usage, 73 state directory in use, 74 input or output, 78
//! configuration. Messages that are for people go to standard error, answers to standard output.
//! Deliberately not here: what the commands are about. Each file reads its arguments and calls whoever does the work.

mod check;
mod client;
mod config;
mod dead_letters;
mod demo;
mod dialect;
mod health;
mod mock;
mod publish;
mod record;
mod replay;
mod run;
mod salvage;
mod status;
mod tail;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::load::Sources;
use crate::config::reader::ConfigError;

/// Exit codes. Those of the relay itself (73, 74) come with its failures.
pub mod exit {
    /// It did not work.
    pub const FAILED: u8 = 1;
    /// The command was used wrongly (EX_USAGE).
    pub const USAGE: u8 = 64;
    /// Reading or writing failed (EX_IOERR).
    pub const IO: u8 = 74;
    /// The configuration is wrong (EX_CONFIG).
    pub const CONFIG: u8 = 78;
}

/// Where the configuration is looked for if `-c` does not say.
const DEFAULT_FILE: &str = "/etc/tidegate/tidegate.toml";

/// Why a command ended without success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The process's exit code.
    pub code: u8,
    /// What to tell people: what is wrong and how to mend it. Empty if all was told.
    pub text: String,
}

impl Failure {
    /// A failure with this exit code.
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Failure { code, text: text.into() }
    }

    /// All errors of a configuration, one a line.
    pub fn configuration(errors: &[ConfigError]) -> Self {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Failure::new(exit::CONFIG, lines.join("\n"))
    }
}

/// One connection up, many apps down, nothing silently lost: a relay for real-time services.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    config: ConfigArgs,
    /// What to do; without a command: run
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where the configuration comes from. Precedence: file < TIDEGATE_SECTION__KEY < --set.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file [default: /etc/tidegate/tidegate.toml if there is one]
    #[arg(short = 'c', long = "config", value_name = "FILE", global = true)]
    file: Option<PathBuf>,
    /// One key of the configuration, over file and environment; repeatable
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", global = true)]
    sets: Vec<String>,
    /// How log lines look: auto, text or json (short for --set log.format=…)
    #[arg(long, value_name = "FORMAT", global = true)]
    log_format: Option<String>,
}

impl ConfigArgs {
    /// Whether any of these was on the command line.
    fn is_given(&self) -> bool {
        self.file.is_some() || !self.sets.is_empty() || self.log_format.is_some()
    }

    /// The sources, with this process's environment.
    pub fn sources(&self) -> Sources {
        let default = Path::new(DEFAULT_FILE);
        let mut sets = self.sets.clone();
        sets.extend(self.log_format.iter().map(|format| format!("log.format={format}")));
        Sources {
            file: self.file.clone().or_else(|| default.is_file().then(|| default.to_owned())),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            sets,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay (the default). With TIDEGATE_PORTS_FILE=PATH in the environment it writes the addresses that it listens on
    /// there, as JSON: for port 0
    Run,
    /// Show it at work: an upstream service made for showing, and a relay in front of it
    Demo(demo::DemoArgs),
    /// Check the configuration: every error at once, with its place and cure
    Check,
    /// Print a configuration
    Config(config::ConfigCommandArgs),
    /// Look at dialects, and test them offline
    Dialect(dialect::DialectArgs),
    /// Hold the configured service and write down what passes, for a new dialect or a test
    Record(record::RecordArgs),
    /// Play a transcript as a service, on a port, over the transports of the recording
    Replay(replay::ReplayArgs),
    /// A service on a port, made of a dialect: for tests, and for work without a network
    Mock(mock::MockArgs),
    /// Print the frames of channels as they come, one a line, across reconnects
    Tail(tail::TailArgs),
    /// Publish a message to upstream through a running relay
    Publish(publish::PublishArgs),
    /// Look at messages that could not be delivered, publish them again, purge them
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Read what can still be read of a damaged store, and publish it again
    Salvage(salvage::SalvageArgs),
    /// Tell how a running relay is
    Status(status::StatusArgs),
    /// Exit 0 if a running relay is ready: for a container's HEALTHCHECK
    Health(health::HealthArgs),
}

/// Runs the command that this process was called with.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; there is nobody left to tell if printing fails.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                let _ = writeln!(std::io::stderr(), "{}", failure.text);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    let sources = arguments.config.sources();
    match arguments.command.unwrap_or(Command::Run) {
        Command::Run => run::run(&sources),
        Command::Demo(_) if arguments.config.is_given() => {
            let text = "the demo has a configuration of its own: leave out -c, --set and --log-format, and choose its \
                        addresses with --feed, --admin and --upstream";
            Err(Failure::new(exit::USAGE, text))
        }
        Command::Demo(args) => demo::run(&args),
        Command::Check => check::run(&sources),
        Command::Config(args) => config::run(&args, &sources),
        Command::Dialect(args) => dialect::run(&args),
        Command::Record(args) => record::run(&args, &sources),
        Command::Replay(args) => replay::run(&args),
        Command::Mock(args) => mock::run(&args),
        Command::Tail(args) => tail::run(&args, &sources),
        Command::Publish(args) => publish::run(&args, &sources),
        Command::DeadLetters(args) => dead_letters::run(&args, &sources),
        Command::Salvage(args) => salvage::run(&args, &sources),
        Command::Status(args) => status::run(&args, &sources),
        Command::Health(args) => health::run(&args, &sources),
    }
}

/// Writes an answer to standard output. A reader that has gone away wants no more, which is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::IO, format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// A remark to people.
fn remark(text: &str) {
    // Nobody there to read it: nothing to do about that.
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    /// What a command with commands below it takes has to be taken behind those, too.
    fn only_before(command: &clap::Command, places: &mut Vec<String>) {
        if command.has_subcommands() {
            let options = command.get_opts().filter(|option| !option.is_global_set());
            places.extend(options.map(|option| format!("{} {}", command.get_name(), option.get_id())));
        }
        command.get_subcommands().for_each(|below| only_before(below, places));
    }

    #[test]
    fn options_stand_before_or_behind_what_they_are_about() {
        let mut places = Vec::new();
        only_before(&Arguments::command(), &mut places);
        assert_eq!(places, [""; 0], "not global");
    }
}
