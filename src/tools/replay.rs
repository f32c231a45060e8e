//! `tidegate replay`: plays a transcript as a service, on a port.
//!
//! Every connection of a client plays the next recorded one, over the transport over which it was recorded. What the service
//! said is said again, after the recorded pauses; what the client said has to be said again (ids and secrets apart, `alike`)
//! before it goes on.
//! Invariant: nothing is made up; what the transcript does not have is not answered.
//! Deliberately not here: a session that moved from polls to a WebSocket, and HTTP calls beside the conversation; the first is
//! refused at start, the others are passed over.
//!
//! - `script`: the connections of a transcript. `socket`: one over WebSocket. `stage`: those over HTTP, and which is next.

mod script;
mod socket;
mod stage;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

use self::script::{Scene, Script};
use self::stage::Stage;
use super::{served, stop_signals};
use crate::dialect::rehearsal::transcript::{Transcript, TranscriptError};

/// Longest pause between two steps, however long it was in the recording.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// How to play.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Pauses are divided by it; 0: there are none.
    pub speed: f64,
    /// After the last recorded connection comes the first again. Over HTTP the query is not compared then: clients go on from
    /// where the last round ended.
    pub again: bool,
}

impl Manner {
    /// How long a recorded pause is now.
    fn pause(self, recorded: Duration) -> Duration {
        match self.speed > 0.0 {
            true => recorded.div_f64(self.speed).min(PAUSE_MAX),
            false => Duration::ZERO,
        }
    }
}

/// A transcript that can be played.
#[derive(Debug)]
pub struct Replay(Script);

impl Replay {
    /// Of this transcript, or why that cannot be.
    pub fn new(transcript: Transcript) -> Result<Self, TranscriptError> {
        Script::of(transcript).map(Replay)
    }

    /// The scheme of its address.
    pub fn scheme(&self) -> &'static str {
        let sockets = self.0.scenes.iter().any(|scene| matches!(scene, Scene::Socket(_)));
        if sockets { "ws" } else { "http" }
    }

    /// Plays until a signal. `listening` is told the address, `say` what a person should know.
    pub fn run(
        self,
        address: SocketAddr,
        manner: Manner,
        listening: &mut dyn FnMut(SocketAddr),
        say: fn(&str),
    ) -> std::io::Result<()> {
        let Script { scenes, passed_over } = self.0;
        for connection in passed_over {
            say(&format!("connection {connection} is passed over: nothing of it can be asked for"));
        }
        let mut stop = stop_signals()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            let (listener, address) = served::bind(address).await?;
            listening(address);
            let stage = Rc::new(Stage::new(scenes, manner, say));
            loop {
                let stream = tokio::select! {
                    _ = stop.recv() => return Ok(()),
                    accepted = listener.accept() => accepted?.0,
                };
                spawn_local(serve(stream, Rc::clone(&stage)));
            }
        })
    }
}

/// One connection of a client.
async fn serve(stream: TcpStream, stage: Rc<Stage>) {
    // Without it small frames wait for each other; a system that refuses it is no less right.
    let _ = stream.set_nodelay(true);
    let line = Rc::new(Notify::new());
    let service = service_fn(|request| Rc::clone(&stage).answer(request, Rc::downgrade(&line)));
    let exchanges = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::select! {
        // A client that goes away is its own affair.
        _ = exchanges => {}
        () = line.notified() => {}
    }
    drop(line);
    stage.changed();
}
