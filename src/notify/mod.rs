//! Carries messages of alerts outside: `webhook` posts them, `command` runs a program. On a thread of its own, so that neither
//! a slow receiver nor a TLS handshake nor a program's start holds the feed up.
//!
//! Invariants: every message is answered once by `Alerted`, after [`DEADLINE`] at the latest; nothing that is logged holds an
//! address, a header or what a program was given.
//! Deliberately not here: what is told when, and whether it is tried again.

mod command;
mod webhook;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::config::alerts::{ALERTS_MAX, AlertTarget, TARGETS_MAX};
use crate::inbox::FromOutside;
use crate::relay::pairs::{AlertFailure, DeliveryId};
use crate::upstream::Client;

/// How long one delivery may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Deliveries that may be handed over at once: one for each place of each alert, before and after a reload.
const WAITING: usize = 2 * ALERTS_MAX * TARGETS_MAX;

struct Job {
    delivery: DeliveryId,
    target: AlertTarget,
    body: Arc<[u8]>,
}

/// The carrier. Its thread begins with the first message.
pub struct Notifier {
    client: Client,
    outside: mpsc::Sender<FromOutside>,
    running: Option<Running>,
}

struct Running {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

impl Notifier {
    /// A carrier that answers through `outside`.
    pub fn new(client: Client, outside: mpsc::Sender<FromOutside>) -> Self {
        Notifier { client, outside, running: None }
    }

    /// Begins a delivery. `Err`: it could not even begin.
    pub fn tell(&mut self, delivery: DeliveryId, target: AlertTarget, body: Arc<[u8]>) -> Result<(), AlertFailure> {
        let failed = |detail: String| AlertFailure { again: true, detail };
        let running = match &self.running {
            Some(running) => running,
            None => {
                let running = start(self.client.clone(), self.outside.clone()).map_err(|e| failed(e.to_string()))?;
                self.running.insert(running)
            }
        };
        running
            .jobs
            .try_send(Job { delivery, target, body })
            .map_err(|_| failed("too many messages are on their way".to_owned()))
    }
}

fn start(client: Client, outside: mpsc::Sender<FromOutside>) -> std::io::Result<Running> {
    let (jobs, mut received) = mpsc::channel::<Job>(WAITING);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("alerts".to_owned()).spawn(move || {
        let local = LocalSet::new();
        local.block_on(&runtime, async move {
            // Ends when the driver is gone; what is on its way then is dropped, and programs that run are killed.
            while let Some(job) = received.recv().await {
                tokio::task::spawn_local(deliver(job, client.clone(), outside.clone()));
            }
        });
        runtime.shutdown_background();
    })?;
    Ok(Running { jobs, thread })
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if let Some(Running { jobs, thread }) = self.running.take() {
            drop(jobs);
            // A panic there has ended the process already.
            let _ = thread.join();
        }
    }
}

async fn deliver(job: Job, client: Client, outside: mpsc::Sender<FromOutside>) {
    let Job { delivery, target, body } = job;
    let result = timeout(DEADLINE, async {
        match target {
            AlertTarget::Log => Ok(()),
            AlertTarget::Webhook { url, headers } => webhook::post(&client, &url, &headers, body).await,
            AlertTarget::Command(command) => command::run(&command, &body).await,
        }
    });
    let late = || AlertFailure { again: true, detail: format!("not done within {} s", DEADLINE.as_secs()) };
    let result = result.await.unwrap_or_else(|_| Err(late()));
    // A closed channel means that the driver is gone, and nobody waits.
    let _ = outside.send(FromOutside::Alerted { delivery, result }).await;
}
