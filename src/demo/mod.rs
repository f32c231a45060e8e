//! `tidegate demo`: an upstream service made for showing, a relay in front of it, and a guide for the audience.
//!
//! The relay is the real one, with its state in a directory of its own that goes at the end. The upstream runs on a thread
//! of its own, the first client (`audience`) on another; so channels live before any visitor joins.

mod audience;
mod guide;
mod keyboard;
mod stage;
mod upstream;
mod world;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::app::{self, App, Failure};
use crate::config::{Config, Listen};
use crate::listeners::Bound;
use crate::log::Log;

use self::guide::Addresses;
use self::keyboard::Keyboard;
use self::stage::Mischief;
use self::upstream::DemoUpstream;

/// The key that stops the demo.
const QUIT: u8 = b'q';

/// Where the demo listens.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// `--feed`
    pub feed: SocketAddr,
    /// `--admin`
    pub admin: SocketAddr,
    /// `--upstream`
    pub upstream: SocketAddr,
}

/// Why the demo does not run. The text names the option to use.
#[derive(Debug)]
pub enum DemoError {
    /// A port is taken, or not ours to take.
    Place {
        /// The option that names it.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The relay could not run.
    Relay(Failure),
    /// The system refused something else.
    System(&'static str, io::Error),
}

impl DemoError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            DemoError::Relay(failure) => failure.exit_code(),
            DemoError::Place { .. } | DemoError::System(..) => 1,
        }
    }
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DemoError::Place { option, address, error } => {
                let example = SocketAddr::new(address.ip(), address.port().wrapping_add(1000).max(1024));
                write!(f, "cannot listen on {address}: {error}; choose another place, for example {option} {example}")
            }
            DemoError::Relay(failure) => failure.fmt(f),
            DemoError::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for DemoError {}

/// Gives the terminal back, for the panic hook.
pub fn restore_terminal() {
    keyboard::restore();
}

/// Shows everything until a key or a signal ends it.
pub fn run(places: Places, log: Log) -> Result<(), DemoError> {
    let listener = bind("--upstream", places.upstream)?;
    // The relay binds them itself a moment later; asking first lets the message name the demo's own options.
    drop(bind("--feed", places.feed)?);
    drop(bind("--admin", places.admin)?);
    let seed = crate::clock::now().wall.0;
    let upstream =
        Arc::new(DemoUpstream::start(listener, seed).map_err(|e| DemoError::System("the demo's upstream", e))?);
    let state = TemporaryState::create().map_err(|e| DemoError::System("a directory for the demo's state", e))?;
    let config = config(&places, upstream.address, state.path());
    let dialect = crate::config::load::dialect(&config.upstream.dialect)
        .map_err(|_| DemoError::System("the built-in dialect", io::Error::other("does not load")))?;
    let pressed = upstream.clone();
    let keyboard = Keyboard::take(move |key| match Mischief::by_key(key) {
        Some(mischief) => pressed.press(mischief),
        None if key == QUIT => stop(),
        None => {}
    });
    let has_keys = keyboard.is_some();
    let listening = move |bound: &Bound| {
        let (Some(feed), Some(admin)) = (bound.feed.first(), bound.admin.first()) else { return Ok(()) };
        let addresses = Addresses { upstream: upstream.address, feed: *feed, admin: *admin };
        let mut out = io::stdout();
        out.write_all(guide::text(&addresses, has_keys).as_bytes())?;
        out.flush()?;
        audience::start(*feed, world::channels())
    };
    let app = App { config: Arc::new(config), dialect, read: None, log, listening: Box::new(listening) };
    let result = app::run(app).map_err(DemoError::Relay);
    drop(keyboard);
    if io::stdout().is_terminal() {
        // Ends the line that Ctrl-C began.
        let _ = writeln!(io::stdout());
    }
    result
}

fn bind(option: &'static str, address: SocketAddr) -> Result<TcpListener, DemoError> {
    TcpListener::bind(address).map_err(|error| DemoError::Place { option, address, error })
}

/// As Ctrl-C: the drain is part of the show.
fn stop() {
    if let Err(error) = signal_hook::low_level::raise(signal_hook::consts::SIGINT) {
        tracing::error!(%error, "cannot stop by key; use Ctrl-C");
    }
}

/// The defaults, but quick to notice and to come back: an audience does not wait a minute.
fn config(places: &Places, upstream: SocketAddr, state: &Path) -> Config {
    let mut config = Config::default();
    config.upstream.url = format!("ws://{upstream}/stream");
    config.upstream.ping_interval = Duration::from_secs(2);
    config.upstream.backoff.max = Duration::from_secs(2);
    config.upstream.handshake_timeout = Duration::from_secs(4);
    config.feed.listen = vec![Listen::Tcp(places.feed)];
    config.admin.listen = vec![places.admin];
    config.outbox.path = state.to_owned();
    config.outbox.min_free = 1 << 20;
    config.drain_timeout = Duration::from_secs(2);
    config
}

/// A directory that goes when this is dropped.
struct TemporaryState(PathBuf);

impl TemporaryState {
    fn create() -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
        let name = format!("tidegate-demo-{:016x}", u64::from_ne_bytes(random));
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(TemporaryState(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryState {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the demo's state stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_the_option_that_moves_it() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = bind("--feed", taken.local_addr().unwrap()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&taken.local_addr().unwrap().to_string()) && text.contains("--feed 127.0.0.1:"),
            "{text}"
        );
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn the_state_is_private_and_goes_at_the_end() {
        use std::os::unix::fs::PermissionsExt;
        let state = TemporaryState::create().unwrap();
        let path = state.path().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(path.join("x"), "x").unwrap();
        drop(state);
        assert!(!path.exists());
    }
}
