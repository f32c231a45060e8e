//! `tidegate config default|show`: the documented defaults, and what is in force.

use clap::{Args, Subcommand};

use super::{Failure, print, remark};
use crate::config::load::{Sources, load};
use crate::config::show;

/// The annotated file with every key.
const DOCUMENTED: &str = include_str!("../../config/tidegate.toml");

/// Arguments of `tidegate config`.
#[derive(Debug, Args)]
pub(super) struct ConfigCommandArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print a file with every key, its default, unit and effect
    Default,
    /// Print what is in force after file, environment and --set; secrets as ***
    Show,
}

/// Prints it.
pub(super) fn run(args: &ConfigCommandArgs, sources: &Sources) -> Result<(), Failure> {
    match args.command {
        ConfigCommand::Default => print(DOCUMENTED),
        ConfigCommand::Show => {
            let loaded = load(sources).map_err(|errors| Failure::configuration(&errors))?;
            for warning in loaded.unknown_keys.iter().chain(&loaded.warnings) {
                remark(&format!("warning: {warning}"));
            }
            print(&show::toml(&loaded.config, loaded.dialect.secret_params()))
        }
    }
}
