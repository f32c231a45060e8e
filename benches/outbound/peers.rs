//! Programs that people might take instead, each set to be as durable as it can be, on the same disk.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use crate::children::{Running, connect, find, free_address, installed};
use crate::measure::PAYLOAD;
use crate::swarm::Service;

/// A peer that runs.
pub struct Peer {
    /// What it is, and how it is set.
    pub name: String,
    /// Its process.
    pub process: Running,
    /// How to publish to it.
    pub service: Box<dyn Service>,
}

/// Starts one in a directory of its own.
type Start = fn(&Path) -> Peer;

const PEERS: [(&str, Start); 3] = [("nats-server", jetstream), ("redis-server", redis), ("mosquitto", mosquitto)];

/// Starts those that are installed, each in a directory of its own.
pub fn start(directory: &Path) -> Vec<Peer> {
    let place = |name: &str| {
        let place = directory.join(name);
        std::fs::create_dir(&place).unwrap();
        place
    };
    let there = PEERS.into_iter().filter(|(program, _)| installed(program));
    there.map(|(program, start)| start(&place(program))).collect()
}

/// Says which ones are not installed.
pub fn tell_missing() {
    for (program, _) in PEERS.into_iter().filter(|(program, _)| !installed(program)) {
        println!("SKIP {program}: not installed");
    }
}

fn command(program: &str) -> Command {
    Command::new(find(program).expect("looked for before"))
}

fn payload() -> String {
    "x".repeat(PAYLOAD)
}

/// Reads a line that has to contain these words.
fn expect(reader: &mut BufReader<TcpStream>, words: &str) {
    let mut line = String::new();
    while !line.contains(words) {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "hung up before {words}");
    }
}

/// Takes whole lines off the front, each a call.
fn lines(heard: &mut Vec<u8>, mut each: impl FnMut(&[u8])) {
    let mut at = 0;
    while let Some(end) = heard[at..].windows(2).position(|pair| pair == b"\r\n") {
        each(&heard[at..at + end]);
        at += end + 2;
    }
    heard.drain(..at);
}

struct JetStream(SocketAddr);

/// A file stream. `sync_interval: always` where the server knows it (from 2.10 on).
fn jetstream(directory: &Path) -> Peer {
    let address = free_address();
    let config = directory.join("nats.conf");
    let write = |more: &str| {
        let text =
            format!("host: 127.0.0.1\nport: {}\njetstream {{ store_dir: {directory:?}{more} }}\n", address.port());
        std::fs::write(&config, text).unwrap();
    };
    write(", sync_interval: always");
    let test = command("nats-server").args(["-t", "-c"]).arg(&config).output().unwrap();
    let name = if test.status.success() {
        "JetStream, sync always"
    } else {
        write("");
        "JetStream (cannot sync always)"
    };
    let mut run = command("nats-server");
    run.arg("-c").arg(&config);
    let process = Running::start(run, &directory.join("log"));
    let mut stream = connect(address);
    let create = r#"{"name":"bench","subjects":["orders"],"storage":"file"}"#;
    let said = format!(
        "CONNECT {{\"verbose\":false}}\r\nSUB made 1\r\nPUB $JS.API.STREAM.CREATE.bench made {}\r\n{create}\r\n",
        create.len()
    );
    stream.write_all(said.as_bytes()).unwrap();
    expect(&mut BufReader::new(stream), "did_create\":true");
    Peer { name: name.to_owned(), process, service: Box::new(JetStream(address)) }
}

impl Service for JetStream {
    fn connect(&self, publisher: usize) -> TcpStream {
        let mut stream = connect(self.0);
        let said = format!("CONNECT {{\"verbose\":false}}\r\nSUB ack.{publisher} 1\r\nPING\r\n");
        stream.write_all(said.as_bytes()).unwrap();
        expect(&mut BufReader::new(stream.try_clone().unwrap()), "PONG");
        stream
    }

    fn message(&self, publisher: usize) -> Vec<u8> {
        format!("PUB orders ack.{publisher} {PAYLOAD}\r\n{}\r\n", payload()).into_bytes()
    }

    fn hear(&self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> usize {
        let mut stored = 0;
        lines(heard, |line| match line {
            b"PING" => say.extend_from_slice(b"PONG\r\n"),
            _ if line.starts_with(b"{\"stream\":\"bench\"") => stored += 1,
            _ if line.starts_with(b"MSG") || line.starts_with(b"INFO") => {}
            _ => panic!("JetStream says {}", String::from_utf8_lossy(line)),
        });
        stored
    }
}

struct Redis(SocketAddr);

fn redis(directory: &Path) -> Peer {
    let address = free_address();
    let mut run = command("redis-server");
    run.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--dir"]).arg(directory);
    run.args(["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--auto-aof-rewrite-percentage", "0"]);
    let process = Running::start(run, &directory.join("log"));
    Peer { name: "Redis, AOF always".to_owned(), process, service: Box::new(Redis(address)) }
}

impl Service for Redis {
    fn connect(&self, _publisher: usize) -> TcpStream {
        let mut stream = connect(self.0);
        stream.write_all(b"PING\r\n").unwrap();
        expect(&mut BufReader::new(stream.try_clone().unwrap()), "PONG");
        stream
    }

    fn message(&self, _publisher: usize) -> Vec<u8> {
        format!("*3\r\n$5\r\nRPUSH\r\n$6\r\norders\r\n${PAYLOAD}\r\n{}\r\n", payload()).into_bytes()
    }

    fn hear(&self, heard: &mut Vec<u8>, _say: &mut Vec<u8>) -> usize {
        let mut stored = 0;
        lines(heard, |line| match line.first() {
            Some(b':') => stored += 1,
            _ => panic!("Redis says {}", String::from_utf8_lossy(line)),
        });
        stored
    }
}

struct Mosquitto(SocketAddr);

/// Messages are kept for a subscriber that is away.
fn mosquitto(directory: &Path) -> Peer {
    let (address, config) = (free_address(), directory.join("mosquitto.conf"));
    // As root it changes to a user of its own, who has to be able to write here.
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\npersistence_location {}/\n\
         autosave_interval 1\nmax_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\nlog_type error\n",
        address.port(),
        directory.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut run = command("mosquitto");
    run.arg("-c").arg(&config);
    let process = Running::start(run, &directory.join("log"));
    let mut stream = greet(address, "away", 0);
    let mut subscribe = vec![0x82, 11, 0, 1, 0, 6];
    subscribe.extend_from_slice(b"orders");
    subscribe.push(1);
    stream.write_all(&subscribe).unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    stream.write_all(&[0xE0, 0]).unwrap();
    Peer { name: "mosquitto, QoS 1".to_owned(), process, service: Box::new(Mosquitto(address)) }
}

/// CONNECT of MQTT 3.1.1 and its answer; `clean` is 2 for a session that is forgotten.
fn greet(address: SocketAddr, id: &str, clean: u8) -> TcpStream {
    let mut stream = connect(address);
    let mut hello = vec![0x10, 12 + id.len() as u8, 0, 4];
    hello.extend_from_slice(b"MQTT");
    hello.extend_from_slice(&[4, clean, 0, 0, 0, id.len() as u8]);
    hello.extend_from_slice(id.as_bytes());
    stream.write_all(&hello).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!((answer[0], answer[3]), (0x20, 0), "mosquitto refuses");
    stream
}

impl Service for Mosquitto {
    fn connect(&self, publisher: usize) -> TcpStream {
        greet(self.0, &format!("publisher-{publisher}"), 2)
    }

    fn message(&self, _publisher: usize) -> Vec<u8> {
        let length = 2 + 6 + 2 + PAYLOAD;
        let mut message = vec![0x32, (length % 128) as u8 | 0x80, (length / 128) as u8, 0, 6];
        message.extend_from_slice(b"orders\0\x01");
        message.extend_from_slice(payload().as_bytes());
        message
    }

    fn hear(&self, heard: &mut Vec<u8>, _say: &mut Vec<u8>) -> usize {
        let acks = heard.chunks_exact(4);
        assert!(acks.clone().all(|ack| ack[..2] == [0x40, 2]), "mosquitto says {heard:?}");
        let stored = acks.len();
        heard.drain(..stored * 4);
        stored
    }
}
