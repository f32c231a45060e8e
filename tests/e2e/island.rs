//! A network of its own, in which packets can be lost: loopback in a namespace, with rules of nftables.
//!
//! A test runs itself again in there, as another process under `unshare`; when that ends, the namespace and all its rules are
//! gone. Says SKIP where the machine does not allow it.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};

use crate::upstream::{Got, Upstream};

/// Set inside.
const INSIDE: &str = "TIDEGATE_TEST_ISLAND";
/// An address that can be taken away, unlike 127.0.0.1.
const ADDRESS: &str = "192.0.2.1";
/// An address of which no packet comes back.
const DEAD: &str = "192.0.2.9";

/// Runs the body inside. `test`: its path in this binary.
pub fn on_an_island(test: &str, body: impl FnOnce(&Island)) {
    if std::env::var_os(INSIDE).is_some() {
        return body(&Island);
    }
    if let Err(why) = begin("true").and_then(|mut command| run(&mut command)) {
        let line = format!("SKIP {test}: no network of its own here: {why}\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
        return;
    }
    let program = std::env::current_exe().unwrap();
    let mut command = begin("exec \"$0\" --exact \"$1\" --nocapture").unwrap();
    command.arg(program).arg(test).env(INSIDE, "1");
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// `sh -c` in new namespaces, behind the preparation of the network.
fn begin(then: &str) -> Result<Command, String> {
    let chain = "add table ip island; add chain ip island in { type filter hook input priority 0; }; \
                 add chain ip island dead { type filter hook input priority 1; }";
    let prepare = [
        "ip link set lo up",
        &format!("ip address add {ADDRESS}/32 dev lo"),
        &format!("ip address add {DEAD}/32 dev lo"),
        &format!("nft '{chain}'"),
        &format!("nft add rule ip island dead ip daddr {DEAD} drop"),
        then,
    ];
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-e", "-c", &prepare.join(" && ")]).stdin(Stdio::null());
    Ok(command)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// The network, seen from inside.
pub struct Island;

impl Island {
    /// An upstream at an address that can be taken away.
    pub fn upstream(&self, answer: impl Fn(&Got) -> Vec<String> + Send + Sync + 'static) -> Upstream {
        Upstream::on(TcpListener::bind((ADDRESS, 0)).unwrap(), answer)
    }

    /// A rule for what comes in, like `tcp dport 80 drop`.
    pub fn rule(&self, rule: &str) {
        run(Command::new("nft").arg(format!("add rule ip island in {rule}"))).unwrap();
    }

    /// Every packet of a port to and fro is lost from now on.
    pub fn silence(&self, port: u16) {
        self.rule(&format!("tcp dport {port} drop"));
        self.rule(&format!("tcp sport {port} drop"));
    }

    /// Takes all rules back.
    pub fn calm(&self) {
        run(Command::new("nft").arg("flush chain ip island in")).unwrap();
    }

    /// Takes upstream's address away, as if the interface to it went down.
    pub fn down(&self) {
        run(Command::new("ip").args(["address", "del", &format!("{ADDRESS}/32"), "dev", "lo"])).unwrap();
        run(Command::new("ip").args(["route", "add", "unreachable", ADDRESS])).unwrap();
    }

    /// Gives it back.
    pub fn up(&self) {
        run(Command::new("ip").args(["route", "del", "unreachable", ADDRESS])).unwrap();
        run(Command::new("ip").args(["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"])).unwrap();
    }

    /// The name server of this network: its socket. Nobody outside is asked.
    pub fn name_server(&self, dir: &std::path::Path) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
        let file = dir.join("resolv.conf");
        std::fs::write(&file, "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n").unwrap();
        // Only in this namespace of mounts.
        run(Command::new("mount").arg("--bind").arg(&file).arg("/etc/resolv.conf")).unwrap();
        socket
    }

    /// Addresses of upstream, as a name server says them: nobody answers at the first one and the last.
    pub fn addresses(&self) -> [Ipv4Addr; 3] {
        [DEAD, ADDRESS, DEAD].map(|address| address.parse().unwrap())
    }
}
