//! Processes that end with this one, and what the system says about them.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before it counts as hanging.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// A process; killed when it is dropped, and by the kernel when this process is killed (where `setpriv` is installed).
pub struct Running(Child);

impl Running {
    /// Starts a program; what it says goes to a file.
    pub fn start(mut command: Command, log: &Path) -> Running {
        if installed("setpriv") {
            let mut bound = Command::new("setpriv");
            bound.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => bound.env(name, value),
                    None => bound.env_remove(name),
                };
            }
            command = bound;
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Running(command.spawn().unwrap())
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for the end.
    pub fn end(mut self) {
        until("the end of a process", || self.0.try_wait().unwrap());
    }

    /// Kilobytes of a line of `status` or `smaps_rollup` under `/proc`; 0 where the system does not say.
    fn kilobytes(&self, file: &str, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
    }

    /// Its memory in words: resident, its share, the most it ever had.
    pub fn memory(&self) -> String {
        let mib = |kilobytes: u64| kilobytes as f64 / 1024.0;
        format!(
            "RSS {:.0} MiB, PSS {:.0} MiB, most {:.0} MiB",
            mib(self.kilobytes("status", "VmRSS")),
            mib(self.kilobytes("smaps_rollup", "Pss")),
            mib(self.kilobytes("status", "VmHWM"))
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a program is there.
pub fn installed(program: &str) -> bool {
    find(program).is_some()
}

/// Where a program is: `PATH`, or where Debian keeps daemons.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    places.map(|place| place.join(program)).find(|file| file.is_file())
}

/// Asks until there is an answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < DEADLINE, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A connection to whoever will listen there.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = until("a listener", || TcpStream::connect(address).ok());
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// An address on loopback where nobody listens at the moment.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Bytes on disk below a directory, as the file system counts them. What vanishes meanwhile is not counted.
pub fn disk_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => disk_bytes(&entry.path()),
        Ok(data) => data.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}
