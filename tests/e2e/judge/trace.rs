//! The file of a run, written line by line as things happen. It stays where the run was judged bad, or did not get that far.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use super::rules::Judge;
use super::seen::{Client, Seen, Upstream};

/// Violations of one rule that are shown.
const SHOWN: usize = 5;

/// What has to be asked about a message after a restart.
#[derive(Clone, Copy, PartialEq)]
enum Standing {
    /// It has not ended, as far as anybody was told.
    Open,
    /// Its end was told since the last time that somebody asked.
    Told,
    /// Its end was told, and asked for later; or it is lost.
    Settled,
}

struct Inner {
    file: File,
    lines: u64,
    sessions: u64,
    /// By message; with its tag.
    standing: BTreeMap<String, (Standing, String)>,
}

/// A trace that is being written, by all observers at once.
pub struct Trace {
    path: PathBuf,
    begun: Instant,
    inner: Mutex<Inner>,
}

impl Trace {
    /// An empty one. The name of the test names its file.
    pub fn begin(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("traces");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{name}.jsonl"));
        let file = File::create(&path).unwrap();
        let inner = Inner { file, lines: 0, sessions: 0, standing: BTreeMap::new() };
        Trace { path, begun: Instant::now(), inner: Mutex::new(inner) }
    }

    /// Milliseconds since it was begun.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap()
    }

    /// Writes a line.
    pub fn note(&self, seen: &Seen) {
        let mut inner = self.inner.lock().unwrap();
        inner.follow(seen);
        let line = serde_json::to_string(seen).unwrap() + "\n";
        inner.file.write_all(line.as_bytes()).unwrap();
        inner.lines += 1;
    }

    /// How many lines there are.
    pub fn lines(&self) -> u64 {
        self.inner.lock().unwrap().lines
    }

    /// A number for a session.
    pub fn session(&self) -> u64 {
        let mut inner = self.inner.lock().unwrap();
        inner.sessions += 1;
        inner.sessions
    }

    /// Messages of which something was seen that nobody has asked for since, with their tags.
    pub fn to_ask(&self) -> Vec<(String, String)> {
        let inner = self.inner.lock().unwrap();
        let open = inner.standing.iter().filter(|(_, (standing, _))| *standing != Standing::Settled);
        open.map(|(message, (_, tag))| (message.clone(), tag.clone())).collect()
    }

    /// Judges what was written. A good trace is removed; gives how many messages ended in which way.
    pub fn judge(&self) -> BTreeMap<String, usize> {
        let mut judge = Judge::default();
        for line in BufReader::new(File::open(&self.path).unwrap()).lines() {
            judge.read(&line.unwrap());
        }
        let ends = judge.ends();
        let violations = judge.end();
        let mut of_rule = BTreeMap::new();
        violations.iter().for_each(|violation| of_rule.entry(violation.rule).or_insert_with(Vec::new).push(violation));
        // Some of each: one fault breaks the same promise many times, and often another one.
        let shown = of_rule.iter().flat_map(|(rule, all)| {
            let some = all.iter().take(SHOWN).map(|violation| violation.to_string());
            std::iter::once(format!("{rule:?} {} times", all.len())).chain(some)
        });
        let shown: Vec<String> = shown.collect();
        assert!(
            violations.is_empty(),
            "{} violations in {}:\n{}",
            violations.len(),
            self.path.display(),
            shown.join("\n")
        );
        std::fs::remove_file(&self.path).unwrap();
        ends
    }
}

impl Inner {
    fn follow(&mut self, seen: &Seen) {
        match seen {
            Seen::Client(Client::Accepted { message, tag, .. })
            | Seen::Upstream(Upstream::Attempt { message, tag, .. }) => {
                self.standing.entry(message.clone()).or_insert((Standing::Open, tag.clone()));
            }
            Seen::Client(Client::Outcome { message, .. }) => self.stands(message, Standing::Told),
            // Of what is unknown once there is no more to hear.
            Seen::Client(Client::State { message, status, end, .. }) if end.is_some() || *status != 200 => {
                self.stands(message, Standing::Settled);
            }
            _ => {}
        }
    }

    fn stands(&mut self, message: &str, standing: Standing) {
        if let Some((before, _)) = self.standing.get_mut(message) {
            *before = standing;
        }
    }
}
