//! The log: lines to standard error, as text on a terminal and as JSON otherwise; its level can change at run time.
//!
//! Invariant: saying something never waits. Lines go to a thread of their own over a bounded channel; when whoever reads
//! standard error does not keep up, lines are dropped, counted, and the number is written once there is room again.
//! Deliberately not here: what is worth a line, and sampling of what comes often (who counts it does that).

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;

use crate::config::{LogConfig, LogFormat};

/// Lines that may wait for the writing thread.
const LINES: usize = 4_096;
/// Bytes of a line; the rest is cut.
const LINE_MAX: usize = 16 << 10;
/// How long the end of the process waits for lines that are not written yet.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A handle on the log: cheap to clone, usable from every thread.
#[derive(Clone)]
pub struct Log {
    level: reload::Handle<LevelFilter, Registry>,
    lines: Lines,
}

impl Log {
    /// Starts the log of this process, to standard error. Fails if there is one already.
    pub fn start(config: &LogConfig) -> Result<Log, String> {
        let terminal = std::io::stderr().is_terminal();
        let json = match config.format {
            LogFormat::Auto => !terminal,
            LogFormat::Text => false,
            LogFormat::Json => true,
        };
        let (log, subscriber) = build(config.level, json, terminal, std::io::stderr());
        tracing::subscriber::set_global_default(subscriber).map_err(|error| error.to_string())?;
        Ok(log)
    }

    /// From now on lines of this level and above.
    pub fn set_level(&self, level: Level) {
        // Fails only when the subscriber is gone, and then nothing is said any more.
        let _ = self.level.reload(LevelFilter::from_level(level));
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.lines.dropped.load(Relaxed)
    }

    /// Waits until what was said is written, at most a second.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.lines.sender.try_send(Line::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// What the writing thread gets.
enum Line {
    Text(Vec<u8>),
    /// Answered once everything before it is written.
    Flush(SyncSender<()>),
}

/// The channel to the writing thread.
#[derive(Clone)]
struct Lines {
    sender: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl Write for Lines {
    /// Takes one whole line (the formatter writes it at once). Never fails and never waits.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut text = line[..line.len().min(LINE_MAX)].to_vec();
        if line.len() > LINE_MAX {
            text.extend_from_slice(b"...\n");
        }
        if self.sender.try_send(Line::Text(text)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

/// The handle and the subscriber for a log that ends in `out`.
fn build(
    level: Level,
    json: bool,
    colours: bool,
    out: impl Write + Send + 'static,
) -> (Log, Box<dyn Subscriber + Send + Sync>) {
    let (sender, receiver) = sync_channel(LINES);
    let lines = Lines { sender, dropped: Arc::new(AtomicU64::new(0)) };
    let dropped = Arc::clone(&lines.dropped);
    let spawned =
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(out, &receiver, &dropped, json));
    if let Err(error) = spawned {
        // Without the thread the channel is closed: every line counts as dropped. Say why, once, where it still can be said.
        let _ = writeln!(std::io::stderr(), "no log: {error}");
    }
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(lines.clone()).with_target(false);
    let subscriber: Box<dyn Subscriber + Send + Sync> = if json {
        Box::new(registry.with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false)))
    } else {
        Box::new(registry.with(layer.with_ansi(colours)))
    };
    (Log { level: handle, lines }, subscriber)
}

/// The writing thread. A reader that is gone does not end it: dropping lines is better than dying of them.
fn write_lines(mut out: impl Write, lines: &Receiver<Line>, dropped: &AtomicU64, json: bool) {
    let mut told = 0;
    while let Ok(line) = lines.recv() {
        match line {
            Line::Text(text) => {
                let _ = out.write_all(&text);
            }
            Line::Flush(done) => {
                let _ = out.flush();
                let _ = done.try_send(());
            }
        }
        let now = dropped.load(Relaxed);
        if now > told {
            let lost = now - told;
            let _ = match json {
                true => writeln!(out, "{{\"level\":\"WARN\",\"message\":\"log lines dropped\",\"lines\":{lost}}}"),
                false => writeln!(out, "WARN log lines dropped lines={lost}"),
            };
            told = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Where test lines end; `gate` blocks the writing thread while it is held.
    #[derive(Clone, Default)]
    struct Out {
        gate: Arc<Mutex<()>>,
        bytes: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _open = self.gate.lock().unwrap();
            self.bytes.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Out {
        fn text(&self) -> String {
            String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn json_lines_hold_the_fields_and_the_level_changes_while_running() {
        let out = Out::default();
        let (log, subscriber) = build(Level::INFO, true, false, out.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("not yet");
            tracing::info!(reason = "dns", attempt = 3, "upstream lost");
            log.set_level(Level::DEBUG);
            tracing::debug!("now");
        });
        log.flush();
        let lines: Vec<serde_json::Value> =
            out.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["message"], "upstream lost");
        assert_eq!((&lines[0]["reason"], &lines[0]["attempt"]), (&"dns".into(), &3.into()));
        assert_eq!(lines[1]["level"], "DEBUG");
    }

    #[test]
    fn text_lines_are_for_people() {
        let out = Out::default();
        let (log, subscriber) = build(Level::INFO, false, false, out.clone());
        tracing::subscriber::with_default(subscriber, || tracing::warn!(channel = "a\nb", "odd"));
        log.flush();
        let text = out.text();
        assert!(text.contains("WARN odd channel=\"a\\nb\""), "{text}");
    }

    #[test]
    fn a_blocked_reader_costs_lines_and_never_time() {
        let out = Out::default();
        let (log, subscriber) = build(Level::INFO, true, false, out.clone());
        let shut = out.gate.lock().unwrap();
        tracing::subscriber::with_default(subscriber, || {
            // One more than the channel holds and the thread has in its hand: with the gate shut this would hang if it waited.
            for number in 0..LINES + 2 {
                tracing::info!(number, "line");
            }
        });
        let dropped = log.dropped();
        assert!((1..=2).contains(&dropped), "{dropped}");
        drop(shut);
        // The channel may still be full when the flush is asked for; ask until it is taken.
        while !out.text().contains("log lines dropped") {
            log.flush();
        }
        assert!(out.text().contains(&format!("\"lines\":{dropped}")));
    }

    #[test]
    fn a_long_line_is_cut() {
        let out = Out::default();
        let (log, subscriber) = build(Level::INFO, false, false, out.clone());
        tracing::subscriber::with_default(subscriber, || tracing::info!("{}", "x".repeat(2 * LINE_MAX)));
        log.flush();
        assert_eq!(out.text().len(), LINE_MAX + 4);
    }
}
