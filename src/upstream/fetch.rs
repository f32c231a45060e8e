//! The upstream token, read anew each time so that a rotated one is found.

use std::io::Read;
use std::path::Path;

use tokio::sync::mpsc;

use crate::config::TokenSource;
use crate::protocol::request::Secret;
use crate::relay::pairs::{CallId, FetchAnswer, FetchError, Input};

/// Bytes of a token file.
const MAX_TOKEN: u64 = 64 * 1024;

/// Reads the token and answers.
pub async fn token(call: CallId, source: TokenSource, inputs: mpsc::Sender<Input>) {
    // A file may lie on a slow or dead mount: never on the feed thread.
    let read = tokio::task::spawn_blocking(move || read(&source)).await;
    let result = read.unwrap_or_else(|e| Err(e.to_string()));
    let result = result.map(FetchAnswer::Token).map_err(FetchError::Unreadable);
    // A closed channel means that the driver is gone, and nobody waits.
    let _ = inputs.send(Input::Fetched { call, result }).await;
}

fn read(source: &TokenSource) -> Result<Option<Secret>, String> {
    match source {
        TokenSource::None => Ok(None),
        TokenSource::Literal(secret) => Ok(Some(secret.clone())),
        TokenSource::Env(name) => match std::env::var(name) {
            Ok(value) => Ok(Some(Secret::new(value))),
            Err(_) => Err(format!("upstream.token_env: the environment variable {name} is not set (or not UTF-8)")),
        },
        TokenSource::File(path) => {
            read_file(path).map(Some).map_err(|e| format!("upstream.token_file {}: {e}", path.display()))
        }
    }
}

fn read_file(path: &Path) -> Result<Secret, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut text = String::new();
    let length = file.take(MAX_TOKEN + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    match text.trim_end() {
        "" => Err("the file is empty".to_owned()),
        _ if length as u64 > MAX_TOKEN => Err(format!("larger than {MAX_TOKEN} bytes")),
        token => Ok(Secret::new(token)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_is_read_anew_and_its_faults_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let source = TokenSource::File(path.clone());
        let missing = read(&source).unwrap_err();
        assert!(missing.contains("upstream.token_file") && missing.contains("token"), "{missing}");
        std::fs::write(&path, "one\r\n").unwrap();
        assert_eq!(read(&source).unwrap().unwrap().expose(), "one");
        std::fs::write(&path, " two \n\n").unwrap();
        assert_eq!(read(&source).unwrap().unwrap().expose(), " two");
        std::fs::write(&path, "\n").unwrap();
        assert!(read(&source).unwrap_err().contains("empty"));
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(read(&source).unwrap_err().contains("larger"));
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert!(read(&source).is_err());
    }

    #[test]
    fn other_sources() {
        assert_eq!(read(&TokenSource::None), Ok(None));
        let literal = TokenSource::Literal(Secret::new("t"));
        assert_eq!(read(&literal).unwrap().unwrap().expose(), "t");
        let unset = read(&TokenSource::Env("TIDEGATE_TEST_SURELY_UNSET".to_owned())).unwrap_err();
        assert!(unset.contains("TIDEGATE_TEST_SURELY_UNSET"), "{unset}");
        let path = std::env::var("PATH").unwrap();
        assert_eq!(read(&TokenSource::Env("PATH".to_owned())).unwrap().unwrap().expose(), path);
    }
}
