//! A fixed address in front of a service that moves: passes bytes through, notes what the service said, can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What its threads share.
#[derive(Default)]
struct Inside {
    /// Where a new connection goes; `None`: nowhere, it is closed at once.
    target: Mutex<Option<SocketAddr>>,
    /// Both ends of all connections.
    open: Mutex<Vec<TcpStream>>,
    /// What came from the service since the door opened.
    said: Mutex<Vec<u8>>,
}

/// The door. Closes with all its connections when it is dropped.
pub struct Door {
    address: SocketAddr,
    inside: Arc<Inside>,
}

impl Door {
    /// At a free port of loopback, leading nowhere yet.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inside = Arc::new(Inside::default());
        let shared = Arc::downgrade(&inside);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Some(inside) = shared.upgrade() else { return };
                pass(&inside, client);
            }
        });
        Door { address, inside }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets new connections through to this port of loopback.
    pub fn lead_to(&self, port: u16) {
        *self.inside.target.lock().unwrap() = Some(SocketAddr::from(([127, 0, 0, 1], port)));
    }

    /// Cuts all connections, and lets no new one through.
    pub fn shut(&self) {
        *self.inside.target.lock().unwrap() = None;
        for stream in self.inside.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// What the service said since it was last asked.
    pub fn take_said(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.inside.said.lock().unwrap())).into_owned()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shut();
        // Wakes the thread that accepts, so that it sees that nobody needs it.
        let address = self.address;
        self.inside = Arc::default();
        let _ = TcpStream::connect(address);
    }
}

fn pass(inside: &Arc<Inside>, client: TcpStream) {
    // Held until the connection is known, so that `shut` misses none.
    let target = inside.target.lock().unwrap();
    let Some(service) = target.and_then(|address| TcpStream::connect(address).ok()) else { return };
    let both = |stream: &TcpStream| stream.try_clone().unwrap();
    inside.open.lock().unwrap().extend([both(&client), both(&service)]);
    let (up, down) = ((both(&client), both(&service)), (service, client));
    thread::spawn(move || copy(up.0, up.1, |_| {}));
    let inside = Arc::clone(inside);
    thread::spawn(move || copy(down.0, down.1, |bytes| inside.said.lock().unwrap().extend_from_slice(bytes)));
}

/// Copies until either side ends, then ends both.
fn copy(mut from: TcpStream, mut to: TcpStream, note: impl Fn(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        note(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
