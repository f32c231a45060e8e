//! The sockets that the process listens on, bound before anything else begins: what cannot be bound is a start-up failure.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Config, Listen};

/// Connections that the kernel may hold for us: a burst of ten thousand clients comes in a few turns.
const BACKLOG: i32 = 4096;

/// All of them.
#[derive(Debug)]
pub struct Listeners {
    /// `feed.listen`
    pub feed: Vec<TcpListener>,
    /// `admin.listen`
    pub admin: Vec<TcpListener>,
    /// `admin.probes`
    pub probes: Option<TcpListener>,
}

/// What could not be bound. The text names the key and the cure.
#[derive(Debug)]
pub struct BindError {
    /// The key of the configuration.
    pub key: &'static str,
    /// The address it names.
    pub address: SocketAddr,
    /// Why.
    pub error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError { key, address, error } = self;
        write!(f, "{key}: cannot listen on {address}: {error}; ")?;
        match error.kind() {
            io::ErrorKind::AddrInUse => write!(f, "stop what listens there, or set {key} to another port"),
            io::ErrorKind::AddrNotAvailable => write!(f, "set {key} to an address of this machine"),
            io::ErrorKind::PermissionDenied => {
                write!(f, "set {key} to a port above 1023, or grant CAP_NET_BIND_SERVICE")
            }
            _ => write!(f, "set {key} to another address"),
        }
    }
}

impl std::error::Error for BindError {}

impl Listeners {
    /// Binds everything that the configuration names, or nothing.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        let feed = config.feed.listen.iter().map(|Listen::Tcp(address)| bind("feed.listen", *address));
        let admin = config.admin.listen.iter().map(|address| bind("admin.listen", *address));
        Ok(Listeners {
            feed: feed.collect::<Result<_, _>>()?,
            admin: admin.collect::<Result<_, _>>()?,
            probes: config.admin.probes.map(|address| bind("admin.probes", address)).transpose()?,
        })
    }

    /// Where they really listen: port 0 in the configuration means that the system chose.
    pub fn bound(&self) -> io::Result<Bound> {
        let addresses =
            |listeners: &[TcpListener]| listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>();
        Ok(Bound {
            feed: addresses(&self.feed)?,
            admin: addresses(&self.admin)?,
            probes: self.probes.as_ref().map(TcpListener::local_addr).transpose()?,
        })
    }
}

/// Addresses, after binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Of the feed.
    pub feed: Vec<SocketAddr>,
    /// Of the admin listener.
    pub admin: Vec<SocketAddr>,
    /// Of the probes' own listener.
    pub probes: Option<SocketAddr>,
}

impl Bound {
    /// Writes the addresses as one JSON object, whole or not at all, for whoever started this process with port 0:
    /// `{"feed":["127.0.0.1:41237"],"admin":["127.0.0.1:35001"],"probes":null}`.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        let object =
            json!({"feed": text(&self.feed), "admin": text(&self.admin), "probes": self.probes.map(|a| a.to_string())});
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".part");
        std::fs::write(&unfinished, format!("{object}\n"))?;
        std::fs::rename(&unfinished, path)
    }
}

fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for old connections in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    listen().map_err(|error| BindError { key, address, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = Config::default();
        config.feed.listen = vec![Listen::Tcp(any), Listen::Tcp(any)];
        config.admin.listen = vec![any];
        config
    }

    #[test]
    fn the_ports_that_the_system_chose_are_written_down() {
        let listeners = Listeners::bind(&config()).unwrap();
        let bound = listeners.bound().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ports");
        bound.write(&path).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read["feed"][1], bound.feed[1].to_string());
        assert_eq!(read["admin"][0], bound.admin[0].to_string());
        assert!(read["probes"].is_null());
        assert!(bound.feed.iter().all(|address| address.port() != 0));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-written is left");
    }

    #[test]
    fn what_cannot_be_bound_is_named_with_its_cure() {
        let taken = Listeners::bind(&config()).unwrap();
        let mut second = config();
        second.admin.listen = vec![taken.bound().unwrap().admin[0]];
        let error = Listeners::bind(&second).unwrap_err();
        assert_eq!(error.key, "admin.listen");
        let text = error.to_string();
        assert!(
            text.contains(&error.address.to_string()) && text.contains("set admin.listen to another port"),
            "{text}"
        );
        let mut elsewhere = config();
        elsewhere.admin.probes = Some("192.0.2.1:0".parse().unwrap());
        let text = Listeners::bind(&elsewhere).unwrap_err().to_string();
        assert!(text.starts_with("admin.probes: cannot listen on 192.0.2.1:0"), "{text}");
    }
}
