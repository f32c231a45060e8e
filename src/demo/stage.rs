//! The demo's upstream service: who is connected, what they subscribed, and the mischief that the audience asks for.
//!
//! It speaks the plain dialect. All of it lives on one thread. Deliberately not here: sockets (`upstream`).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::world::{Message, World};

/// Messages that may wait for one connection; a slower one is cut off.
const WAITING: usize = 16 * 1024;
/// Channels one connection may subscribe.
const MAX_SUBSCRIPTIONS: usize = 1_000;
/// Events of one burst.
const BURST: usize = 5_000;
/// How long a silence lasts.
const SILENCE: Duration = Duration::from_secs(15);
/// Every so many orders one is rejected.
const REJECT_EVERY: u64 = 4;
/// How long an order takes.
const ORDER_TIME: Duration = Duration::from_millis(150);

/// What the audience can make upstream do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mischief {
    /// Cut every connection, without a close frame.
    Drop,
    /// Keep connections open and say nothing, answer nothing.
    Silence,
    /// Many events at once.
    Burst,
    /// Reject every order, until asked again.
    Reject,
    /// Let nobody in, until asked again.
    Deny,
}

impl Mischief {
    /// All, each with the name of its path, its key and what it does.
    pub const ALL: [(Mischief, &'static str, u8, &'static str); 5] = [
        (Mischief::Drop, "drop", b'd', "cut the upstream connection: reconnect, resubscribe, gaps told"),
        (Mischief::Silence, "silence", b's', "upstream falls silent for 15 s: the heartbeat finds out"),
        (Mischief::Burst, "burst", b'b', "5,000 events at once"),
        (Mischief::Reject, "reject", b'r', "reject every order (again: accept them)"),
        (Mischief::Deny, "deny", b'n', "let nobody in (again: let in); orders wait on disk meanwhile"),
    ];

    /// By the last part of its path.
    pub fn by_name(name: &str) -> Option<Mischief> {
        Self::ALL.iter().find(|(_, its, ..)| *its == name).map(|(mischief, ..)| *mischief)
    }

    /// By its key on a terminal.
    pub fn by_key(key: u8) -> Option<Mischief> {
        Self::ALL.iter().find(|(_, _, its, _)| *its == key).map(|(mischief, ..)| *mischief)
    }
}

struct Seat {
    sender: mpsc::Sender<String>,
    channels: BTreeSet<String>,
}

struct Inner {
    world: World,
    seats: BTreeMap<u64, Seat>,
    next: u64,
    orders: u64,
    reject: bool,
    deny: bool,
    silent_until: Option<Instant>,
}

/// A handle to the stage.
#[derive(Clone)]
pub struct Stage(Rc<RefCell<Inner>>);

impl Stage {
    /// An empty stage; `seed` decides what will happen on it.
    pub fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let (seats, silent_until) = (BTreeMap::new(), None);
        let inner = Inner { world, seats, next: 0, orders: 0, reject: false, deny: false, silent_until };
        Stage(Rc::new(RefCell::new(inner)))
    }

    /// Takes a connection in: its number and what it has to be sent. The end of the receiver is the end of it.
    pub fn join(&self) -> (u64, mpsc::Receiver<String>) {
        let mut inner = self.0.borrow_mut();
        inner.next += 1;
        let (sender, receiver) = mpsc::channel(WAITING);
        let number = inner.next;
        inner.seats.insert(number, Seat { sender, channels: BTreeSet::new() });
        (number, receiver)
    }

    /// A connection is gone.
    pub fn leave(&self, number: u64) {
        self.0.borrow_mut().seats.remove(&number);
    }

    /// Whether nobody is let in.
    pub fn denies(&self) -> bool {
        self.0.borrow().deny
    }

    /// Until when nothing may be said.
    pub fn silent_until(&self) -> Option<Instant> {
        self.0.borrow().silent_until.filter(|until| *until > Instant::now())
    }

    /// Lets a fifth of a second pass.
    pub fn turn(&self) {
        let mut inner = self.0.borrow_mut();
        let messages = inner.world.turn(crate::clock::now().wall);
        inner.tell(messages);
    }

    /// Does what the audience asks; a line that says what happened.
    pub fn mischief(&self, what: Mischief) -> String {
        let mut inner = self.0.borrow_mut();
        match what {
            Mischief::Drop => {
                let cut = std::mem::take(&mut inner.seats).len();
                format!("cut {cut} connection(s)")
            }
            Mischief::Silence => {
                inner.silent_until = Some(Instant::now() + SILENCE);
                format!("silent for {} s", SILENCE.as_secs())
            }
            Mischief::Burst => {
                let messages = inner.world.burst(BURST, crate::clock::now().wall);
                inner.tell(messages);
                format!("{BURST} events at once")
            }
            Mischief::Reject => {
                inner.reject = !inner.reject;
                (if inner.reject { "rejecting every order" } else { "accepting orders again" }).to_owned()
            }
            Mischief::Deny => {
                inner.deny = !inner.deny;
                if !inner.deny {
                    return "letting connections in again".to_owned();
                }
                inner.seats.clear();
                "letting nobody in, and cut who was in".to_owned()
            }
        }
    }

    /// What a connection says. What is no request of the plain dialect gets an error.
    pub fn hear(&self, number: u64, text: &str) {
        let Ok(request) = serde_json::from_str::<Value>(text) else {
            return self.answer(number, json!({"type": "error", "code": "invalid", "message": "not JSON"}));
        };
        let id = &request["id"];
        let channel = request["channel"].as_str().unwrap_or_default();
        match request["type"].as_str() {
            Some("auth") => self.answer(number, json!({"type": "auth_ok"})),
            Some("ping") => self.answer(number, json!({"type": "pong", "id": id})),
            Some("subscribe") => self.subscribe(number, id, channel),
            Some("unsubscribe") => {
                if let Some(seat) = self.0.borrow_mut().seats.get_mut(&number) {
                    seat.channels.remove(channel);
                }
                self.answer(number, json!({"type": "unsubscribed", "id": id, "channel": channel}));
            }
            Some("publish") => self.publish(number, id.clone(), channel.to_owned(), request["data"].clone()),
            _ => self.answer(number, error(id, channel, "invalid", "unknown type")),
        }
    }

    fn subscribe(&self, number: u64, id: &Value, channel: &str) {
        let refusal = {
            let mut inner = self.0.borrow_mut();
            let known = inner.world.has(channel);
            let seat = inner.seats.get_mut(&number);
            match seat {
                _ if !known => Some(error(id, channel, "unknown_channel", "there is no such channel here")),
                Some(seat) if seat.channels.len() < MAX_SUBSCRIPTIONS => {
                    seat.channels.insert(channel.to_owned());
                    None
                }
                _ => Some(error(id, channel, "too_many", "too many subscriptions")),
            }
        };
        if let Some(refusal) = refusal {
            return self.answer(number, refusal);
        }
        self.answer(number, json!({"type": "subscribed", "id": id, "channel": channel}));
        let snapshot = self.0.borrow().world.snapshot(channel, crate::clock::now().wall);
        if let Some(text) = snapshot {
            self.0.borrow_mut().send(number, text);
        }
    }

    /// Answers after a while, like a service that has something to do.
    fn publish(&self, number: u64, id: Value, channel: String, data: Value) {
        let stage = self.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(ORDER_TIME).await;
            let answer = stage.settle(&id, &channel, data);
            stage.answer(number, answer);
        });
    }

    fn settle(&self, id: &Value, channel: &str, data: Value) -> Value {
        let mut inner = self.0.borrow_mut();
        let kind = match channel {
            "orders" => {
                inner.orders += 1;
                if inner.reject || inner.orders.is_multiple_of(REJECT_EVERY) {
                    return error(id, channel, "insufficient_funds", "the account does not cover this order");
                }
                "filled"
            }
            device if device.starts_with("device:") && inner.world.has(device) => "status",
            _ => return error(id, channel, "unknown_channel", "nothing can be published there"),
        };
        let event = inner.world.event(channel, kind, data, crate::clock::now().wall);
        inner.tell(vec![event]);
        json!({"type": "published", "id": id})
    }

    fn answer(&self, number: u64, message: Value) {
        self.0.borrow_mut().send(number, message.to_string());
    }
}

impl Inner {
    fn tell(&mut self, messages: Vec<Message>) {
        for message in messages {
            let audience: Vec<u64> = self
                .seats
                .iter()
                .filter(|(_, seat)| seat.channels.contains(&message.channel))
                .map(|(number, _)| *number)
                .collect();
            audience.into_iter().for_each(|number| self.send(number, message.text.clone()));
        }
    }

    /// A connection that cannot keep up is cut.
    fn send(&mut self, number: u64, text: String) {
        if let Some(seat) = self.seats.get(&number)
            && seat.sender.try_send(text).is_err()
        {
            self.seats.remove(&number);
        }
    }
}

fn error(id: &Value, channel: &str, code: &str, message: &str) -> Value {
    json!({"type": "error", "id": id, "channel": channel, "code": code, "message": message})
}
