//! `tidegate replay`: plays a transcript as a service, on a port.
//!
//! Every connection of a client plays the next recorded one. What the service said is said again, after the recorded pauses;
//! what the client said has to be said again (ids and secrets apart, `alike`) before it goes on.
//! Invariant: nothing is made up; what the transcript does not have is not answered.
//! Deliberately not here: transports other than WebSocket; HTTP calls that stand in a transcript are passed over.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::alike::{Renamed, alike, answer};
use super::served::{self, Socket};
use super::stop_signals;
use crate::dialect::WireFrame;
use crate::dialect::rehearsal::transcript::{Happening, Transcript};

/// Longest pause between two frames, however long it was in the recording.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// Answer to a connection that the transcript does not have.
const NO_MORE: u16 = 503;
/// Texts of a client that wait for their place in the transcript.
const WAITING_MAX: usize = 1_000;

/// How to play.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Pauses are divided by it; 0: there are none.
    pub speed: f64,
    /// After the last recorded connection comes the first again.
    pub again: bool,
}

/// One recorded connection.
#[derive(Debug, Clone, PartialEq)]
struct Scene {
    /// The upgrade was refused.
    refused: Option<u16>,
    /// The rest, with the pause before each.
    steps: Vec<(Duration, Happening)>,
}

/// The recorded connections, in order.
fn scenes(transcript: Transcript) -> Vec<Scene> {
    let mut names: Vec<String> = Vec::new();
    let mut scenes: Vec<(Scene, u64)> = Vec::new();
    for step in transcript.steps {
        if matches!(step.happening, Happening::Note(_) | Happening::Elsewhere) {
            continue;
        }
        let at = names.iter().position(|name| *name == step.connection).unwrap_or_else(|| {
            names.push(step.connection.clone());
            scenes.push((Scene { refused: None, steps: Vec::new() }, step.at_ms));
            names.len() - 1
        });
        let (scene, before) = &mut scenes[at];
        let pause = Duration::from_millis(step.at_ms.saturating_sub(*before)).min(PAUSE_MAX);
        *before = step.at_ms;
        match step.happening {
            Happening::Open => {}
            Happening::Rejected(status) => scene.refused = Some(status),
            happening => scene.steps.push((pause, happening)),
        }
    }
    scenes.into_iter().map(|(scene, _)| scene).collect()
}

/// Plays until a signal. `listening` is told the address, `say` what a person should know.
pub fn run(
    transcript: Transcript,
    address: SocketAddr,
    manner: Manner,
    listening: &mut dyn FnMut(SocketAddr),
    say: fn(&str),
) -> std::io::Result<()> {
    let scenes = scenes(transcript);
    let mut stop = stop_signals()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (listener, address) = served::bind(address).await?;
        listening(address);
        let next = Rc::new(RefCell::new(0));
        loop {
            let stream = tokio::select! {
                _ = stop.recv() => return Ok(()),
                accepted = listener.accept() => accepted?.0,
            };
            let at = next.replace_with(|at| *at + 1);
            let scene = if manner.again { scenes.get(at % scenes.len().max(1)) } else { scenes.get(at) };
            let scene = scene.cloned().unwrap_or(Scene { refused: Some(NO_MORE), steps: Vec::new() });
            spawn_local(async move {
                if let Some(socket) = served::accept(stream, scene.refused).await {
                    play(socket, scene, manner, say).await;
                    say(&format!("connection {} is played", at + 1));
                }
            });
        }
    })
}

/// A client, and what it said that has no place yet.
struct Player {
    socket: Socket,
    said: Vec<String>,
    renamed: Renamed,
}

impl Player {
    /// Takes the next text of the client. `None`: it is gone.
    async fn hear(&mut self) -> Option<()> {
        loop {
            match self.socket.next().await?.ok()? {
                Message::Text(text) => self.said.push(text.as_str().to_owned()),
                Message::Binary(bytes) => self.said.push(String::from_utf8_lossy(&bytes).into_owned()),
                Message::Close(_) => return None,
                _ => continue,
            }
            if self.said.len() > WAITING_MAX {
                self.said.remove(0);
            }
            return Some(());
        }
    }

    /// Waits until the client has said this.
    async fn hear_this(&mut self, recorded: &str, say: fn(&str)) -> Option<()> {
        let mut told = 0;
        loop {
            let renamed = &mut self.renamed;
            if let Some(at) = self.said.iter().position(|said| alike(recorded, said, renamed)) {
                self.said.remove(at);
                return Some(());
            }
            for other in self.said.iter().skip(told) {
                say(&format!("waiting for {recorded}, heard {other}"));
            }
            told = self.said.len();
            self.hear().await?;
        }
    }

    /// Lets time pass; what the client says meanwhile is kept.
    async fn pause(&mut self, length: Duration) -> Option<()> {
        let mut end = std::pin::pin!(sleep(length));
        loop {
            tokio::select! {
                biased;
                () = &mut end => return Some(()),
                heard = self.hear() => heard?,
            }
        }
    }
}

async fn play(socket: Socket, scene: Scene, manner: Manner, say: fn(&str)) {
    let mut player = Player { socket, said: Vec::new(), renamed: Renamed::new() };
    // A client that goes away ends its scene.
    let _ = perform(&mut player, scene, manner, say).await;
}

async fn perform(player: &mut Player, scene: Scene, manner: Manner, say: fn(&str)) -> Option<()> {
    for (pause, happening) in scene.steps {
        if manner.speed > 0.0 && !matches!(happening, Happening::Sent(_)) {
            player.pause(pause.div_f64(manner.speed).min(PAUSE_MAX)).await?;
        }
        let message = match happening {
            Happening::Sent(frame) => {
                player.hear_this(&String::from_utf8_lossy(frame.body()), say).await?;
                continue;
            }
            Happening::Came(WireFrame::Text(body)) => {
                Message::text(answer(&String::from_utf8_lossy(&body), &player.renamed))
            }
            Happening::Came(frame) => match std::str::from_utf8(frame.body()) {
                Ok(text) => Message::binary(answer(text, &player.renamed).into_bytes()),
                Err(_) => Message::binary(frame.body().to_vec()),
            },
            Happening::Closed { ours: false, code: Some(code) } => {
                let frame = CloseFrame { code: code.into(), reason: "".into() };
                // A code that must not stand on the wire is said by going.
                let _ = player.socket.close(Some(frame)).await;
                return Some(());
            }
            Happening::Closed { ours: false, code: None } => return Some(()),
            _ => continue,
        };
        player.socket.send(message).await.ok()?;
    }
    // Nothing more was recorded: the connection stays as it is until the client goes.
    while player.hear().await.is_some() {
        say(&format!("nothing more is recorded, heard {}", player.said.pop().unwrap_or_default()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_scenes_with_pauses_of_their_own() {
        let text = r#"{"meta":{}}
{"t":5,"conn":"c1","dir":"out","op":"connect","url":"ws://x"}
{"t":9,"conn":"c1","dir":"in","op":"open"}
{"t":10,"conn":"c2","dir":"in","op":"reject","status":401}
{"t":12,"conn":"c1","dir":"in","op":"text","data":"a"}
{"t":13,"conn":"back","dir":"out","op":"http","data":""}
{"t":20,"conn":"c1","dir":"in","op":"close","code":4000}"#;
        let scenes = scenes(Transcript::parse(text).unwrap());
        assert_eq!(scenes.len(), 2);
        let pauses: Vec<u128> = scenes[0].steps.iter().map(|(pause, _)| pause.as_millis()).collect();
        assert_eq!(pauses, [3, 8]);
        assert_eq!((scenes[1].refused, scenes[1].steps.len()), (Some(401), 0));
    }
}
