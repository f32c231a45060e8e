//! One message as the standard input of a program. No shell; the environment is the relay's own without its variables
//! (`TIDEGATE_…`), which may hold secrets. Exit status 0 is success.

use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::relay::pairs::AlertFailure;

/// Bytes of the program's words that are shown.
const SHOWN_MAX: usize = 200;
/// Bytes of the program's words that are read; it is not read further, and a program that then blocks runs into the deadline.
const OUTPUT_MAX: u64 = 64 * 1024;

/// Runs the program and waits for its end. Dropping the future kills it.
pub async fn run(command: &[String], body: &[u8]) -> Result<(), AlertFailure> {
    let failed = |again, detail: String| AlertFailure { again, detail };
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let mut start = Command::new(program);
    start.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
        start.env_remove(name);
    }
    let mut child = start.spawn().map_err(|error| failed(false, format!("{program}: {error}")))?;
    let (input, words) = (child.stdin.take(), child.stderr.take());
    let feed = async {
        if let Some(mut input) = input {
            // A program that does not read its input may well succeed.
            let _ = input.write_all(body).await;
        }
    };
    let listen = async {
        let mut said = Vec::new();
        if let Some(words) = words {
            // What was read until an error is shown.
            let _ = words.take(OUTPUT_MAX).read_to_end(&mut said).await;
        }
        said
    };
    let ((), said, status) = tokio::join!(feed, listen, child.wait());
    let status = status.map_err(|error| failed(true, format!("{program}: {error}")))?;
    if status.success() {
        return Ok(());
    }
    let shown = said[..said.len().min(SHOWN_MAX)].escape_ascii();
    Err(failed(true, format!("{program} ended with {status}: {shown}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<(), AlertFailure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let command = ["/bin/sh", "-c", script].map(str::to_owned);
        runtime.block_on(run(&command, b"{\"alert\":\"x\"}"))
    }

    #[test]
    fn a_program_gets_the_message_and_its_end_decides() {
        assert_eq!(sh("test \"$(cat)\" = '{\"alert\":\"x\"}'"), Ok(()));
        let failure = sh("echo no such user >&2; exit 3").unwrap_err();
        assert!(failure.again && failure.detail.contains("exit status: 3: no such user"), "{failure:?}");
        assert_eq!(sh("exec <&-; exit 0"), Ok(()), "one that reads nothing");
        let flood = sh("head -c 60000 /dev/zero >&2; exit 1").unwrap_err();
        assert!(flood.detail.len() < 1_100, "{}", flood.detail.len());
    }

    #[test]
    fn a_program_that_is_not_there_is_not_tried_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let failure = runtime.block_on(run(&["/no/such/program".to_owned()], b"")).unwrap_err();
        assert!(!failure.again && failure.detail.starts_with("/no/such/program: "), "{failure:?}");
    }
}
