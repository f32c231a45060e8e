//! `tidegate dialect`: the built-in dialects, and what a dialect makes of recorded frames, offline.
//!
//! Deliberately not here: any meaning of dialects (`crate::dialect`); this reads files and prints.

use std::io::{self, Read};
use std::path::Path;

use clap::{Args, Subcommand};

use super::{Failure, exit, print};
use crate::dialect::rehearsal::explain::explain as explained;
use crate::dialect::rehearsal::transcript::Transcript;
use crate::dialect::rehearsal::{Line, Rehearsal, Verdict};
use crate::dialect::{Dialect, LoadError, WireFrame};

/// Larger files are refused: neither a dialect nor a recording that a person reads.
const MAX_FILE: u64 = 64 << 20;

/// Arguments of `tidegate dialect`.
#[derive(Debug, Args)]
pub(super) struct DialectArgs {
    #[command(subcommand)]
    command: DialectCommand,
}

#[derive(Debug, Subcommand)]
enum DialectCommand {
    /// List the built-in dialects
    List,
    /// Print a built-in dialect's file
    Show {
        /// A name from `tidegate dialect list`
        name: String,
    },
    /// Hold recorded conversations again: what every frame means, and which template makes each that was sent
    ///
    /// Over every transport: the request of an event stream, polls and posts are held against those that the dialect makes.
    /// What differs is marked with its line in the transcript. Fails if something that came in is not understood.
    Test {
        /// A dialect's file, or the name of a built-in one
        #[arg(value_name = "FILE")]
        dialect: String,
        /// Recorded conversations, as JSON lines
        #[arg(value_name = "TRANSCRIPT", required = true)]
        transcripts: Vec<String>,
    },
    /// Tell which rule matches a frame, what it takes out, and what would be sent
    Explain {
        /// A dialect's file, or the name of a built-in one
        #[arg(value_name = "FILE")]
        dialect: String,
        /// The frame's text; `-` reads it from standard input
        frame: String,
    },
}

/// A transcript is malformed (EX_DATAERR).
pub(super) const DATA: u8 = 65;
/// A file cannot be read, a name is unknown (EX_NOINPUT).
const NO_INPUT: u8 = 66;

pub(super) fn faults(errors: Vec<LoadError>) -> Failure {
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    Failure::new(exit::CONFIG, lines.join("\n"))
}

/// Runs the command.
pub(super) fn run(args: &DialectArgs) -> Result<(), Failure> {
    match &args.command {
        DialectCommand::List => print(&Dialect::builtins().map(|name| format!("{name}\n")).collect::<String>()),
        DialectCommand::Show { name } => {
            print(Dialect::builtin_text(name).ok_or_else(|| unknown("no built-in dialect", name))?)
        }
        DialectCommand::Test { dialect, transcripts } => test(dialect, transcripts),
        DialectCommand::Explain { dialect, frame } => explain(dialect, frame),
    }
}

/// `missing`: what was looked for in vain.
fn unknown(missing: &str, name: &str) -> Failure {
    let names: Vec<_> = Dialect::builtins().collect();
    Failure::new(NO_INPUT, format!("{missing} {name:?}; there are: {}", names.join(", ")))
}

/// A dialect's text: of a file, or of a built-in one if there is no such file.
pub(super) fn dialect_text(file: &str) -> Result<String, Failure> {
    match Dialect::builtin_text(file) {
        Some(text) if !Path::new(file).exists() => Ok(text.to_owned()),
        None if !Path::new(file).exists() => Err(unknown("no file and no built-in dialect", file)),
        _ => read(file),
    }
}

fn read(file: &str) -> Result<String, Failure> {
    let text = std::fs::File::open(file).and_then(read_limited);
    text.map_err(|e| Failure::new(NO_INPUT, format!("{file}: {e}")))
}

fn read_limited(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|len| len <= MAX_FILE) {
        return Ok(text);
    }
    Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {} MiB", MAX_FILE >> 20)))
}

/// A recorded conversation, from its file.
pub(super) fn transcript(path: &str) -> Result<Transcript, Failure> {
    Transcript::parse(&read(path)?).map_err(|e| Failure::new(DATA, format!("{path}:{e}")))
}

fn test(file: &str, transcripts: &[String]) -> Result<(), Failure> {
    let rehearsal = Rehearsal::new(file, &dialect_text(file)?).map_err(faults)?;
    let mut not_understood = 0;
    for path in transcripts {
        let transcript = transcript(path)?;
        let lines = rehearsal.play(&transcript);
        let told: String = lines.iter().map(told).collect();
        print(&format!("{told}{path}: {}\n", summary(&lines)))?;
        not_understood += count(&lines, "in", Verdict::Puzzling);
    }
    match not_understood {
        0 => Ok(()),
        1 => Err(Failure::new(exit::FAILED, "1 frame is not understood")),
        frames => Err(Failure::new(exit::FAILED, format!("{frames} frames are not understood"))),
    }
}

fn told(line: &Line) -> String {
    match line.verdict {
        Verdict::Understood => format!("{line}\n"),
        Verdict::Foreign | Verdict::Puzzling => format!("{line}   <-- line {}\n", line.line),
    }
}

fn count(lines: &[Line], direction: &str, verdict: Verdict) -> usize {
    lines.iter().filter(|line| line.direction == direction && line.verdict == verdict).count()
}

fn summary(lines: &[Line]) -> String {
    format!(
        "in: {} understood, {} not; out: {} made by templates, {} foreign",
        count(lines, "in", Verdict::Understood),
        count(lines, "in", Verdict::Puzzling),
        count(lines, "out", Verdict::Understood),
        count(lines, "out", Verdict::Foreign)
    )
}

fn explain(file: &str, frame: &str) -> Result<(), Failure> {
    let frame = match frame {
        "-" => {
            let text = read_limited(io::stdin()).map_err(|e| Failure::new(NO_INPUT, format!("standard input: {e}")))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        frame => frame.to_owned(),
    };
    let text = explained(file, &dialect_text(file)?, &WireFrame::Text(frame.into())).map_err(faults)?;
    print(&text)
}
