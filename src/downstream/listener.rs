//! Accepting connections on the side runtime: one loop per listener.
//!
//! Invariant: the loop ends only when it is told to. Running out of descriptors pauses it and neither ends nor spins it;
//! at the cap of connections it stops accepting, and the kernel's backlog holds the rest.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::counts::HttpCounts;
use crate::protocol::duration::millis;

/// Pauses after failed accepts: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Both ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
}

/// Serves at most `cap` connections at once, each in a task, until `stop` says true or its sender is gone. Connections that
/// are being served then stay.
pub(super) async fn accept<F, S>(
    listener: std::net::TcpListener,
    cap: usize,
    mut stop: watch::Receiver<bool>,
    counts: &HttpCounts,
    serve: F,
) -> io::Result<()>
where
    F: Fn(TcpStream, Ends) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(cap));
    let all = accept_all(&listener, &places, counts, &serve);
    tokio::select! {
        // An error: the sender is gone, and with it whoever could want this to go on.
        _ = stop.wait_for(|stop| *stop) => {}
        () = all => {}
    }
    Ok(())
}

async fn accept_all<F, S>(listener: &TcpListener, places: &Arc<Semaphore>, counts: &HttpCounts, serve: &F)
where
    F: Fn(TcpStream, Ends) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let mut pause = PAUSE_MIN;
    loop {
        // The semaphore is never closed, so this cannot fail.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = listener.accept().await.and_then(|(stream, peer)| {
            let local = stream.local_addr()?;
            stream.set_nodelay(true)?;
            Ok((stream, Ends { local, peer }))
        });
        match accepted {
            Ok((stream, ends)) => {
                pause = PAUSE_MIN;
                let served = serve(stream, ends);
                tokio::spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            // The client was faster than we: its connection is over, the listener is fine.
            Err(error) if is_clients(&error) => tracing::debug!(%error, "a connection ended before it was accepted"),
            Err(error) => {
                counts.accept_failed();
                tracing::warn!(%error, pause_ms = millis(pause), "cannot accept connections: check the limit of open files");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

fn is_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | InvalidInput | NotConnected)
}
