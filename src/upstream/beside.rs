//! Polls with a WebSocket beside them, as long as the relay wants one: asks go by HTTP (`asks`), everything else over
//! the WebSocket.
//!
//! Invariants: whatever happens to the WebSocket, the polls go on; of each one that was asked for comes `NotUpgraded`
//! at its end, unless the whole connection ends before. Deliberately not here: what the two are for.

use tokio::sync::mpsc;

use super::websocket::{self, End};
use super::{Open, Order, Settings, asks, open};
use crate::dialect::ConnectRequest;
use crate::relay::pairs::{AttemptId, Disconnect, Input};

/// Takes the orders of an attempt that polls, until it ends; the reason.
pub async fn carry(
    attempt: AttemptId,
    settings: &Settings,
    inputs: &mpsc::Sender<Input>,
    orders: &mut mpsc::Receiver<Order>,
) -> Disconnect {
    let mut next = None;
    loop {
        let order = match next.take() {
            Some(order) => order,
            None => asks::obey(attempt, inputs, orders).await,
        };
        next = match order {
            Some(Order::Upgrade(request)) => beside(attempt, &request, settings, inputs, orders).await,
            // The WebSocket that is meant is gone already.
            Some(Order::KeepPolling | Order::Transmit(_)) => None,
            Some(Order::Disconnect(_)) | None => return Disconnect::Asked,
        };
    }
}

/// A WebSocket from its first packet to its last; the order that ended it, if it is not carried out yet.
async fn beside(
    attempt: AttemptId,
    request: &ConnectRequest,
    settings: &Settings,
    inputs: &mpsc::Sender<Input>,
    orders: &mut mpsc::Receiver<Order>,
) -> Option<Option<Order>> {
    let mut unanswered = false;
    let mut next = None;
    let reason = tokio::select! {
        biased;
        order = asks::obey(attempt, inputs, orders) => {
            next = Some(order);
            Disconnect::Asked
        }
        opened = open(request, settings) => match opened {
            Ok((Open::WebSocket(mut wire), _)) => {
                let _ = inputs.send(Input::Upgraded { attempt }).await;
                let end = websocket::carry(attempt, &mut wire, inputs, orders, settings.write_timeout).await;
                unanswered = wire.is_writing();
                match end {
                    End::Of(Disconnect::Asked) => return Some(None),
                    End::Of(reason) => reason,
                    End::KeepPolling => Disconnect::Asked,
                }
            }
            // Nothing else was asked for.
            Ok(_) => Disconnect::Asked,
            Err(reason) => reason,
        },
    };
    let _ = inputs.send(Input::NotUpgraded { attempt, reason }).await;
    if unanswered {
        let _ = inputs.send(Input::Transmitted { attempt }).await;
    }
    next
}
