//! The upstream token and the dialect's secrets, read anew each time so that rotated ones are found.
//!
//! Invariant: nothing here waits longer than [`COMMAND_TIMEOUT`] or reads more than [`MAX_SECRET`] bytes of one of them; a
//! program that is asked sees none of our environment but `PATH` and `HOME`, and is ended with all that it began: when it has
//! ended, when its time is up, when it writes too much, and when nobody waits for it any more because the relay stops.
//! Deliberately not here: what a token is good for, and when to read it again (the relay's).

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::mpsc;

use crate::config::{SecretSource, TokenSource};
use crate::protocol::request::Secret;
use crate::relay::pairs::{CallId, Credentials, FetchAnswer, FetchError, Input};
use crate::relay::redact::{Redactor, keys};

/// Bytes of a token or secret.
const MAX_SECRET: u64 = 64 * 1024;
/// How long a program may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a program is looked after.
const COMMAND_LOOK: Duration = Duration::from_millis(10);
/// Bytes of a program's complaints that are passed on.
const MAX_WORDS: usize = 200;
/// A program that complains more than this is ended.
const MAX_COMPLAINT: u64 = 1024 * 1024;

/// Where credentials come from.
#[derive(Clone)]
pub struct Sources {
    /// `upstream.token…`
    pub token: TokenSource,
    /// `[secrets]`
    pub secrets: Vec<(String, SecretSource)>,
}

/// Reads them and answers.
pub async fn credentials(call: CallId, sources: Sources, inputs: mpsc::Sender<Input>) {
    // A file may lie on a slow or dead mount, a program may take its time: never on the feed thread.
    let leash = Leash::default();
    let _held = Holder(leash.clone());
    let read = tokio::task::spawn_blocking(move || read_all(&sources, &leash)).await;
    let result = read.unwrap_or_else(|e| Err(e.to_string()));
    let result = result.map(FetchAnswer::Credentials).map_err(FetchError::Unreadable);
    // A closed channel means that the driver is gone, and nobody waits.
    let _ = inputs.send(Input::Fetched { call, result }).await;
}

/// The program that runs, for whoever may have to end it.
#[derive(Clone, Default)]
struct Leash(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    /// Its process group.
    group: Option<Pid>,
    /// Nobody waits any more: no other one is begun.
    released: bool,
}

impl Leash {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Ends the program and what it left behind, which holds our pipes open and is nobody else's.
    fn end(&mut self) {
        if let Some(group) = self.group.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Ends the program that runs when it is dropped, as everything that waits is when the relay stops.
struct Holder(Leash);

impl Drop for Holder {
    fn drop(&mut self) {
        let mut held = self.0.held();
        held.released = true;
        held.end();
    }
}

fn read_all(sources: &Sources, leash: &Leash) -> Result<Credentials, String> {
    let token = read(&sources.token, leash)?;
    let secret = |(name, source): &(String, SecretSource)| {
        let key = format!("secrets.{name}");
        let value = match source {
            SecretSource::File(path) => file(&key, path),
            SecretSource::Env(variable) => env(&key, variable),
            SecretSource::Command(words) => command(&key, words, leash),
        };
        Ok((name.as_str().into(), value?))
    };
    let secrets = sources.secrets.iter().map(secret).collect::<Result<_, String>>()?;
    Ok(Credentials { token, secrets })
}

fn read(source: &TokenSource, leash: &Leash) -> Result<Option<Secret>, String> {
    match source {
        TokenSource::None | TokenSource::Fetch(_) => Ok(None),
        TokenSource::Literal(secret) => Ok(Some(secret.clone())),
        TokenSource::Env(name) => env("upstream.token_env", name).map(Some),
        TokenSource::File(path) => file("upstream.token_file", path).map(Some),
        TokenSource::Command(words) => command("upstream.token_command", words, leash).map(Some),
    }
}

fn env(key: &str, name: &str) -> Result<Secret, String> {
    let value = std::env::var(name);
    value.map(Secret::new).map_err(|_| format!("{key}: the environment variable {name} is not set (or not UTF-8)"))
}

fn file(key: &str, path: &Path) -> Result<Secret, String> {
    let wrong = |e: &dyn std::fmt::Display| format!("{key} {}: {e}", path.display());
    let file = std::fs::File::open(path).map_err(|e| wrong(&e))?;
    secret(file).map_err(|e| wrong(&e))
}

/// Text without the white space behind it; not empty, not too long.
fn secret(from: impl Read) -> Result<Secret, String> {
    let mut text = String::new();
    let length = from.take(MAX_SECRET + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    match text.trim_end() {
        _ if length as u64 > MAX_SECRET => Err(format!("larger than {MAX_SECRET} bytes")),
        "" => Err("it is empty".to_owned()),
        token => Ok(Secret::new(token)),
    }
}

/// What a program writes to its standard output. It must end well and in time.
fn command(key: &str, words: &[String], leash: &Leash) -> Result<Secret, String> {
    let program = words.first().map_or("", String::as_str);
    let wrong = |what: String| format!("{key} {program}: {what}");
    let mut command = Command::new(program);
    command.args(words.iter().skip(1)).env_clear();
    command.envs(["PATH", "HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = begin(&mut command, leash).map_err(wrong)?;
    let endless = Arc::new(AtomicBool::new(false));
    let flag = endless.clone();
    let output = child.stdout.take().map(|out| std::thread::spawn(move || written(out, &flag)));
    let flag = endless.clone();
    let words = child.stderr.take().map(|err| std::thread::spawn(move || complaint(err, &flag)));
    let status = wait(&mut child, leash, &endless).map_err(wrong)?;
    let words = words.and_then(|words| words.join().ok()).unwrap_or_default();
    let output = output.and_then(|output| output.join().ok()).unwrap_or_else(|| Err("it wrote nothing".to_owned()));
    if !status.success() {
        // What it was about to give may stand in what it complains about.
        let mut secrets = Redactor::default();
        output.iter().for_each(|secret| secrets.learn(secret.expose()));
        return Err(wrong(format!("{status}: {}", keys(&secrets.text(&words)))));
    }
    output.map_err(|e| wrong(format!("what it wrote: {e}")))
}

fn begin(command: &mut Command, leash: &Leash) -> Result<Child, String> {
    let mut held = leash.held();
    if held.released {
        return Err("not asked: the relay stops".to_owned());
    }
    let child = command.spawn().map_err(|e| e.to_string())?;
    held.group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok(child)
}

/// Waits for its end, but not for ever; whatever it began is ended then, too.
fn wait(child: &mut Child, leash: &Leash, endless: &AtomicBool) -> Result<ExitStatus, String> {
    let end = Instant::now() + COMMAND_TIMEOUT;
    loop {
        // Under the lock: once its end is taken note of, its number may become another one's.
        let mut held = leash.held();
        let looked = child.try_wait();
        let too_much = endless.load(Ordering::Acquire);
        let wrong = match looked {
            // It may have been ended by our not reading on.
            Ok(Some(status)) if !too_much => {
                held.end();
                return Ok(status);
            }
            Ok(None) if !too_much && Instant::now() < end => {
                drop(held);
                std::thread::sleep(COMMAND_LOOK);
                continue;
            }
            _ if too_much => {
                format!(
                    "it was ended: what it writes is larger than {MAX_SECRET} bytes ({MAX_COMPLAINT} of complaints)"
                )
            }
            _ => format!("it took longer than {} s", COMMAND_TIMEOUT.as_secs()),
        };
        held.end();
        let _ = child.wait();
        return Err(wrong);
    }
}

/// What a program writes. Of one that writes too much no more is read.
fn written(from: impl Read, endless: &AtomicBool) -> Result<Secret, String> {
    let mut output = Vec::new();
    from.take(MAX_SECRET + 1).read_to_end(&mut output).map_err(|e| e.to_string())?;
    endless.fetch_or(output.len() as u64 > MAX_SECRET, Ordering::AcqRel);
    secret(&output[..])
}

/// The start of what a program complains about; much more is read, so that it does not block.
fn complaint(mut from: impl Read, endless: &AtomicBool) -> String {
    let mut start = Vec::new();
    let _ = from.by_ref().take(MAX_WORDS as u64).read_to_end(&mut start);
    let rest = std::io::copy(&mut from.by_ref().take(MAX_COMPLAINT), &mut std::io::sink()).unwrap_or_default();
    endless.fetch_or(rest >= MAX_COMPLAINT, Ordering::AcqRel);
    if rest > 0 {
        // A word that is cut may be a key of which only the beginning is left.
        let end = start.iter().rposition(u8::is_ascii_whitespace).unwrap_or_default();
        start.truncate(end);
    }
    start.trim_ascii_end().escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_is_read_anew_and_its_faults_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let source = TokenSource::File(path.clone());
        let missing = read(&source, &Leash::default()).unwrap_err();
        assert!(missing.contains("upstream.token_file") && missing.contains("token"), "{missing}");
        std::fs::write(&path, "one\r\n").unwrap();
        assert_eq!(read(&source, &Leash::default()).unwrap().unwrap().expose(), "one");
        std::fs::write(&path, " two \n\n").unwrap();
        assert_eq!(read(&source, &Leash::default()).unwrap().unwrap().expose(), " two");
        std::fs::write(&path, "\n").unwrap();
        assert!(read(&source, &Leash::default()).unwrap_err().contains("empty"));
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(read(&source, &Leash::default()).unwrap_err().contains("larger"));
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert!(read(&source, &Leash::default()).is_err());
    }

    fn sh(script: &str, leash: &Leash) -> Result<Secret, String> {
        command("upstream.token_command", &["/bin/sh".into(), "-c".into(), script.into()], leash)
    }

    #[test]
    fn a_program_is_ended_with_what_it_began_once_nobody_waits() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let leash = Leash::default();
        let holder = Holder(leash.clone());
        let script = format!("exec 9>{}; echo begun >&9; sleep 1000 & wait", fifo.display());
        let asked = std::thread::spawn({
            let leash = leash.clone();
            move || sh(&script, &leash)
        });
        let mut fifo = std::io::BufReader::new(std::fs::File::open(&fifo).unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut fifo, &mut line).unwrap();
        drop(holder);
        // It ends once neither the shell nor what it began has it open.
        assert_eq!((line.as_str(), fifo.read_to_end(&mut Vec::new()).unwrap()), ("begun\n", 0));
        let told = asked.join().unwrap().unwrap_err();
        assert!(told.contains("signal: 9"), "not by its deadline: {told}");
        assert!(sh("echo x", &leash).unwrap_err().contains("the relay stops"));
    }

    #[test]
    fn a_program_that_writes_without_end_is_ended_and_told() {
        for script in ["yes", "yes >&2", "trap '' PIPE; while :; do echo much; done 2>/dev/null"] {
            let told = sh(script, &Leash::default()).unwrap_err();
            assert!(told.contains("it was ended: what it writes is larger than 65536 bytes"), "{script}: {told}");
        }
    }

    #[test]
    fn a_program_is_asked_and_its_faults_are_named() {
        let ask = |script: &str| sh(script, &Leash::default());
        assert_eq!(ask("echo one; echo complaint >&2").unwrap().expose(), "one");
        let told = |script: &str| ask(script).unwrap_err();
        assert!(told("echo 'not\tnow' >&2; exit 3").contains("exit status: 3: not\\tnow"), "{}", told("exit 3"));
        let key = "xapp-1-A0B1C2D3E4F5";
        let traced = told(&format!("echo curl -H {key} /run/key2 >&2; exit 22"));
        assert!(traced.ends_with("curl -H *** /run/key2"), "{traced}");
        let given = told("echo short; echo 'not short enough' >&2; exit 1");
        assert!(given.ends_with("not *** enough"), "{given}");
        let cut = told(&format!("printf '%190s %s' x {key} >&2; exit 1"));
        assert!(cut.ends_with(" x"), "{cut}");
        assert!(told("true").contains("empty"));
        assert!(told("head -c 70000 /dev/zero").contains("larger"));
        assert!(told("printf '\\377'").contains("UTF-8"));
        let nothing = command("secrets.x", &["/no/such/program".into()], &Leash::default()).unwrap_err();
        assert!(nothing.contains("secrets.x /no/such/program"), "{nothing}");
        // Of our environment it sees next to nothing, and what it leaves behind is ended.
        let seen = ask("env | cut -d= -f1 | sort | tr '\\n' ' '; sleep 1000 &").unwrap();
        assert!(!seen.expose().contains("CARGO"), "{}", seen.expose());
    }

    #[test]
    fn secrets_are_read_by_name_and_one_that_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "k1\n").unwrap();
        let mut sources = Sources {
            token: TokenSource::None,
            secrets: vec![
                ("a".into(), SecretSource::File(path)),
                ("b".into(), SecretSource::Command(vec!["/bin/echo".into(), "k2".into()])),
            ],
        };
        let read = read_all(&sources, &Leash::default()).unwrap();
        let read: Vec<(&str, &str)> = read.secrets.iter().map(|(name, secret)| (&**name, secret.expose())).collect();
        assert_eq!(read, [("a", "k1"), ("b", "k2")]);
        sources.secrets.push(("c".into(), SecretSource::Env("TIDEGATE_TEST_SURELY_UNSET".into())));
        let missing = read_all(&sources, &Leash::default()).unwrap_err();
        assert!(missing.contains("secrets.c") && missing.contains("TIDEGATE_TEST_SURELY_UNSET"), "{missing}");
    }

    #[test]
    fn other_sources() {
        assert_eq!(read(&TokenSource::None, &Leash::default()), Ok(None));
        let literal = TokenSource::Literal(Secret::new("t"));
        assert_eq!(read(&literal, &Leash::default()).unwrap().unwrap().expose(), "t");
        let unset = read(&TokenSource::Env("TIDEGATE_TEST_SURELY_UNSET".to_owned()), &Leash::default()).unwrap_err();
        assert!(unset.contains("TIDEGATE_TEST_SURELY_UNSET"), "{unset}");
        let path = std::env::var("PATH").unwrap();
        assert_eq!(read(&TokenSource::Env("PATH".to_owned()), &Leash::default()).unwrap().unwrap().expose(), path);
    }
}
