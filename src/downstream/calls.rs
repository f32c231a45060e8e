//! Requests that the relay answers: over to the feed thread and back, under a deadline.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::reply::Problem;
use crate::inbox::FromOutside;
use crate::protocol::codes::ErrorCode;
use crate::relay::access::Principal;
use crate::relay::pairs::{CallRequest, Reply};

/// Asks the relay. `None`: no answer in time; whether it did what was asked is unknown.
pub(super) async fn ask(
    outside: &mpsc::Sender<FromOutside>,
    principal: Arc<Principal>,
    request: CallRequest,
    deadline: Duration,
) -> Option<Reply> {
    let asked = async {
        let (answer, answered) = oneshot::channel();
        outside.send(FromOutside::Call { principal, request, answer }).await.ok()?;
        answered.await.ok()
    };
    tokio::time::timeout(deadline, asked).await.ok().flatten()
}

/// The answer where there is none.
pub(super) fn no_answer() -> Problem {
    Problem::new(
        ErrorCode::Unavailable,
        "the relay did not answer in time; what was asked may still happen: repeat a publish with its Idempotency-Key",
    )
}
