//! A recorded connection over WebSocket, played to a client.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::Manner;
use super::script::SocketScene;
use crate::dialect::WireFrame;
use crate::dialect::rehearsal::transcript::Happening;
use crate::tools::alike::{Renamed, alike, answer};
use crate::tools::served::Upgraded;

/// Texts of a client that wait for their place in the transcript.
const WAITING_MAX: usize = 1_000;

/// A client, and what it said that has no place yet.
struct Player {
    socket: Upgraded,
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

/// Plays the scene until the client goes or the transcript has the end.
pub(super) async fn play(socket: Upgraded, scene: SocketScene, manner: Manner, say: fn(&str)) {
    let mut player = Player { socket, said: Vec::new(), renamed: Renamed::new() };
    // A client that goes away ends its scene.
    let _ = perform(&mut player, scene, manner, say).await;
}

async fn perform(player: &mut Player, scene: SocketScene, manner: Manner, say: fn(&str)) -> Option<()> {
    for (pause, happening) in scene.steps {
        if manner.speed > 0.0 && !matches!(happening, Happening::Sent(_)) {
            player.pause(manner.pause(pause)).await?;
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
