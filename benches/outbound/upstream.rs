//! A service that acknowledges whatever it gets at once, with one write for all that one read brought; or is shut.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::accept;

/// What it counted.
#[derive(Default)]
struct Counts {
    is_open: AtomicBool,
    messages: AtomicU64,
    /// When messages came, and how many: one entry a read, the last one grows while it is the same millisecond.
    times: Mutex<Vec<(Duration, u64)>>,
}

/// The service, on loopback. Its threads end with their connections.
pub struct Upstream {
    address: SocketAddr,
    counts: Arc<Counts>,
}

impl Upstream {
    /// One that cuts every connection until it is opened.
    pub fn shut() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        let began = Instant::now();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counts = shared.clone();
                if counts.is_open.load(Relaxed) {
                    std::thread::spawn(move || serve(stream, &counts, began));
                }
            }
        });
        Upstream { address, counts }
    }

    /// One that serves.
    pub fn open() -> Upstream {
        let upstream = Upstream::shut();
        upstream.set_open(true);
        upstream
    }

    /// Serves new connections, or cuts them. Those that are open stay.
    pub fn set_open(&self, open: bool) {
        self.counts.is_open.store(open, Relaxed);
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// Messages so far.
    pub fn messages(&self) -> u64 {
        self.counts.messages.load(Relaxed)
    }

    /// When messages came, to the millisecond, and how many each time.
    pub fn times(&self) -> Vec<(Duration, u64)> {
        self.counts.times.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, counts: &Counts, began: Instant) {
    let _ = stream.set_nodelay(true);
    let Ok(mut socket) = accept(stream) else { return };
    let stream = socket.get_mut();
    let mut buffer = vec![0; 256 << 10];
    let mut filled = 0;
    loop {
        let Ok(count @ 1..) = stream.read(&mut buffer[filled..]) else { return };
        filled += count;
        let (mut at, mut messages, mut say) = (0, 0, Vec::new());
        while let Some((whole, kind, id)) = frame(&buffer[at..filled]) {
            at += whole;
            match (kind, id) {
                (8, _) => return,
                (9, _) => say.extend_from_slice(&[0x8A, 0]),
                (_, Some(Asked { id, is_publish })) => {
                    messages += u64::from(is_publish);
                    let answer = format!(r#"{{"type":"ack","id":{id}}}"#);
                    say.extend_from_slice(&[0x81, answer.len() as u8]);
                    say.extend_from_slice(answer.as_bytes());
                }
                _ => {}
            }
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        if messages > 0 {
            counts.note(began.elapsed(), messages);
        }
        if stream.write_all(&say).is_err() {
            return;
        }
    }
}

impl Counts {
    fn note(&self, at: Duration, messages: u64) {
        self.messages.fetch_add(messages, Relaxed);
        let mut times = self.times.lock().unwrap();
        match times.last_mut() {
            Some((last, count)) if last.as_millis() == at.as_millis() => *count += messages,
            _ => times.push((at, messages)),
        }
    }
}

/// What a frame of the plain dialect asks.
struct Asked {
    id: u64,
    is_publish: bool,
}

/// Bytes, kind and contents of the masked frame that begins here, if it is whole.
fn frame(bytes: &[u8]) -> Option<(usize, u8, Option<Asked>)> {
    let (head, length) = match *bytes.get(1)? & 0x7F {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => panic!("no message is that long"),
        length => (2, usize::from(length)),
    };
    let whole = head + 4 + length;
    if bytes.len() < whole {
        return None;
    }
    let mask = &bytes[head..head + 4];
    // Kind and id stand at the beginning.
    let text: Vec<u8> = bytes[head + 4..whole].iter().take(64).zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect();
    let text = String::from_utf8_lossy(&text);
    let digits = text.split_once(r#""id":"#).map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
    let id = digits.flatten().and_then(|digits| digits.parse().ok());
    let is_publish = text.starts_with(r#"{"type":"publish""#);
    Some((whole, bytes[0] & 0x0F, id.map(|id| Asked { id, is_publish })))
}
