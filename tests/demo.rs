//! What a first-time user does: start the demo, read what it prints, do that, make trouble, stop it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

const DEADLINE: Duration = Duration::from_secs(60);

/// A running demo; killed if a test fails.
struct Demo {
    child: Child,
    out: BufReader<ChildStdout>,
    temporary: tempfile::TempDir,
}

impl Demo {
    fn start() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0";
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["demo", "--feed", any, "--admin", any, "--upstream", any])
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Demo { child, out, temporary }
    }

    /// The rest of the first line of the guide that has `before`, up to a space or quote.
    fn printed(&mut self, before: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.out.read_line(&mut line).unwrap() > 0, "the guide has no {before}");
            if let Some((_, rest)) = line.split_once(before) {
                return rest.split([' ', '\'', '\n']).next().unwrap().to_owned();
            }
        }
    }

    fn stop(mut self) -> Option<i32> {
        let id = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), Signal::INT).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(url: &str, method: &str) -> BufReader<TcpStream> {
    let rest = url.strip_prefix("http://").unwrap();
    let (address, path) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "{method} /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    BufReader::new(stream)
}

fn wait_for(stream: &mut BufReader<TcpStream>, what: &str) -> String {
    let mut line = String::new();
    while !line.contains(what) {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended before {what}");
    }
    line
}

#[test]
fn the_guide_works_as_it_is_printed() {
    let mut demo = Demo::start();
    let prices = demo.printed("curl -N '");
    assert!(prices.ends_with("/v1/sse?channel=price:*"), "{prices}");
    let status = demo.printed("curl http://");
    let drop_url = demo.printed("curl -X POST ");
    assert!(drop_url.ends_with("/demo/drop"), "{drop_url}");

    let mut feed = connect(&prices, "GET");
    let event = wait_for(&mut feed, "\"kind\":\"event\"");
    assert!(event.contains("\"channel\":\"price:") && event.contains("\"price\":\""), "{event}");

    let mut answer = String::new();
    connect(&drop_url, "POST").read_to_string(&mut answer).unwrap();
    assert!(answer.contains("cut 1 connection(s)"), "{answer}");
    let gap = wait_for(&mut feed, "\"kind\":\"gap\"");
    assert!(gap.contains("\"reason\":\"reconnect\""), "{gap}");
    wait_for(&mut feed, "\"kind\":\"event\"");

    let mut answer = String::new();
    connect(&format!("http://{status}"), "GET").read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"state\":\"live\""), "{answer}");

    let temporary = demo.temporary.path().to_owned();
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 1, "its state is there");
    // Keeps the directory, not the process.
    let kept = std::mem::replace(&mut demo.temporary, tempfile::tempdir().unwrap());
    assert_eq!(demo.stop(), Some(0));
    wait_for(&mut feed, "\"kind\":\"closing\"");
    assert_eq!(std::fs::read_dir(kept.path()).unwrap().count(), 0, "and goes with it");
}
