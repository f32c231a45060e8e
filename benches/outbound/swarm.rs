//! Publishers with one message out each, all on one thread: one read and one write a message, nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::children::DEADLINE;
use crate::measure::Figure;

/// Whoever takes messages and says when it has them.
pub trait Service {
    /// A connection that is ready for the first message.
    fn connect(&self, publisher: usize) -> TcpStream;

    /// The bytes of a message.
    fn message(&self, publisher: usize) -> Vec<u8>;

    /// How many messages are confirmed by what was heard. Takes out of `heard` what is whole; what has to be answered goes
    /// to `say`.
    fn hear(&self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> usize;
}

struct Publisher {
    stream: TcpStream,
    message: Vec<u8>,
    heard: Vec<u8>,
    sent: Option<Instant>,
}

impl Publisher {
    fn publish(&mut self, now: Instant) {
        // A socket with one message out has room for it.
        self.stream.write_all(&self.message).unwrap();
        self.sent = Some(now);
    }

    /// Reads what is there; says how many messages it confirms.
    fn listen(&mut self, service: &dyn Service, buffer: &mut [u8]) -> usize {
        let count = match self.stream.read(buffer) {
            Ok(0) => panic!("the other side hung up"),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return 0,
            Err(error) => panic!("{error}"),
        };
        self.heard.extend_from_slice(&buffer[..count]);
        let mut say = Vec::new();
        let confirmed = service.hear(&mut self.heard, &mut say);
        if !say.is_empty() {
            self.stream.write_all(&say).unwrap();
        }
        confirmed
    }
}

/// Each publisher publishes again as soon as its message is confirmed. The first tenth of the time is not counted.
pub fn publish(service: &dyn Service, publishers: usize, time: Duration) -> Figure {
    publish_all(service, publishers, time).0
}

/// The same, with the number of all messages that were confirmed.
pub fn publish_all(service: &dyn Service, publishers: usize, time: Duration) -> (Figure, u64) {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let mut swarm: Vec<Publisher> = (0..publishers)
        .map(|number| {
            let (stream, message) = (service.connect(number), service.message(number));
            stream.set_nonblocking(true).unwrap();
            epoll::add(&epoll, &stream, EventData::new_u64(number as u64), EventFlags::IN).unwrap();
            Publisher { stream, message, heard: Vec::new(), sent: None }
        })
        .collect();
    let mut buffer = vec![0; 64 << 10];
    let mut events = Vec::with_capacity(publishers);
    let mut waits = Vec::with_capacity(1 << 20);
    let began = Instant::now();
    let (counted, end) = (began + time / 10, began + time);
    swarm.iter_mut().for_each(|publisher| publisher.publish(Instant::now()));
    let (mut out, mut confirmed) = (publishers, 0);
    while out > 0 {
        epoll::wait(&epoll, spare_capacity(&mut events), Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).unwrap();
        assert!(began.elapsed() < time + DEADLINE, "{out} messages were never confirmed");
        for event in events.drain(..) {
            let publisher = &mut swarm[event.data.u64() as usize];
            if publisher.listen(service, &mut buffer) == 0 {
                continue;
            }
            confirmed += 1;
            let now = Instant::now();
            let Some(sent) = publisher.sent.take() else { continue };
            if now >= counted && now < end {
                waits.push(now - sent);
            }
            if now < end {
                publisher.publish(now);
            } else {
                out -= 1;
            }
        }
    }
    (Figure::new(waits.len(), end - counted, waits), confirmed)
}
