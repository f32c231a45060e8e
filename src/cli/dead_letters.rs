//! `tidegate dead-letters`: messages that could not be delivered: shown, published again, purged.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{AdminArgs, Call, send};
use super::{Failure, exit, print};
use crate::config::load::Sources;

/// Arguments of `tidegate dead-letters`.
#[derive(Debug, Args)]
pub(super) struct DeadLettersArgs {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List them, oldest first, one JSON object a line
    Ls,
    /// Show one whole, with the history of its attempts
    Show {
        /// The message's id
        message: String,
    },
    /// Publish one again, as a new message; or all of them
    Redrive {
        #[command(flatten)]
        which: Which,
        /// Members that replace the message's, such as '{"data":{"price":7}}'
        #[arg(long, value_name = "JSON", conflicts_with = "all")]
        edit: Option<String>,
    },
    /// Forget one, or all of them
    Purge {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The message's id
    message: Option<String>,
    /// All dead letters, up to 1000 in one go
    #[arg(long)]
    all: bool,
}

impl Which {
    /// Below `/v1/dead-letters`.
    fn path(&self) -> String {
        self.message.as_ref().map_or_else(String::new, |id| format!("/{}", encoded(id)))
    }
}

/// What a path may hold: an id is letters and digits, anything else is not found.
fn encoded(id: &str) -> String {
    id.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// Asks the relay, and prints what it says.
pub(super) fn run(args: &DeadLettersArgs, sources: &Sources) -> Result<(), Failure> {
    let address = args.admin.address(sources)?;
    let ask = |method: &str, below: &str, body: Option<String>| {
        let path = format!("/v1/dead-letters{below}");
        send(&Call { address: &address, method, path: &path, token: None, body })?.success()
    };
    let line = |value: &Value| print(&format!("{value}\n"));
    match &args.command {
        Command::Ls => {
            let mut page = String::new();
            loop {
                let listed = ask("GET", &page, None)?;
                listed["dead_letters"].as_array().into_iter().flatten().try_for_each(line)?;
                let Some(next) = listed["next"].as_str() else { return Ok(()) };
                page = format!("?after={}", encoded(next));
            }
        }
        Command::Show { message } => line(&ask("GET", &format!("/{}", encoded(message)), None)?),
        Command::Redrive { which, edit } => {
            // Sent, it would be no edit at all.
            if edit.as_deref().is_some_and(|edit| edit.trim().is_empty()) {
                let words = "--edit is empty: write for example '{\"data\":{\"price\":7}}', or leave it out";
                return Err(Failure::new(exit::USAGE, words));
            }
            let edit = edit.clone().unwrap_or_else(|| "{}".to_owned());
            line(&ask("POST", &format!("{}/redrive", which.path()), Some(edit))?)
        }
        Command::Purge { which } => line(&ask("DELETE", &which.path(), None)?),
    }
}
