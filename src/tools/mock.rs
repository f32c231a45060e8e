//! `tidegate mock`: a service on a port, made of a dialect: it accepts whoever authenticates, grants every subscribe, sends
//! events at a rate, acknowledges what is published and answers pings.
//!
//! Deliberately not here: what it says (`dialect::rehearsal::mimic`).

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval};
use tokio_tungstenite::tungstenite::Message;

use super::served::{self, Socket};
use super::stop_signals;
use crate::clock;
use crate::dialect::WireFrame;
use crate::dialect::rehearsal::mimic::{Mimic, Side};

/// Serves until a signal. `every`: between two events of each subscription; `None`: there are none. `listening` is told the
/// address, `say` what a person should know.
pub fn run(
    mimic: Mimic,
    address: SocketAddr,
    every: Option<Duration>,
    listening: &mut dyn FnMut(SocketAddr),
    say: fn(&str),
) -> std::io::Result<()> {
    let mimic = Rc::new(mimic);
    let mut stop = stop_signals()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (listener, address) = served::bind(address).await?;
        listening(address);
        loop {
            let stream = tokio::select! {
                _ = stop.recv() => return Ok(()),
                accepted = listener.accept() => accepted?.0,
            };
            let mimic = Rc::clone(&mimic);
            spawn_local(async move {
                if let Some(socket) = served::accept(stream, None).await {
                    // A client that goes away is its own affair.
                    let _ = talk(socket, &mimic, every, say).await;
                }
            });
        }
    })
}

/// One client, until it goes.
async fn talk(mut socket: Socket, mimic: &Mimic, every: Option<Duration>, say: fn(&str)) -> Option<()> {
    let mut side = Side::default();
    send(&mut socket, mimic.greeting(&mut side)).await?;
    // Without events the ticks are as rare as they can be.
    let mut ticks = interval(every.unwrap_or(Duration::from_secs(86_400)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if every.is_some() {
                    let events = mimic.events(&mut side, now_ms());
                    send(&mut socket, events).await?;
                }
            }
            message = socket.next() => {
                let frame = match message?.ok()? {
                    Message::Text(text) => WireFrame::Text(text.into()),
                    Message::Binary(bytes) => WireFrame::Binary(bytes),
                    Message::Close(_) => return None,
                    _ => continue,
                };
                let reply = mimic.hear(&mut side, &frame, now_ms());
                if !reply.understood {
                    say(&format!("no template makes {}", String::from_utf8_lossy(frame.body())));
                }
                send(&mut socket, reply.frames).await?;
            }
        }
    }
}

async fn send(socket: &mut Socket, frames: Vec<WireFrame>) -> Option<()> {
    for frame in frames {
        let text = String::from_utf8_lossy(frame.body()).into_owned();
        socket.feed(Message::text(text)).await.ok()?;
    }
    socket.flush().await.ok()
}

fn now_ms() -> u64 {
    clock::now().wall.0 / 1_000_000
}
