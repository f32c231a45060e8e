//! One message as an HTTP POST. Any status of 200 to 299 is success; what cannot get better by trying is not tried again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::dialect::{HttpRequest, Method};
use crate::protocol::request::Secret;
use crate::relay::pairs::{AlertFailure, FetchError};
use crate::upstream::Client;

/// Bytes of the answer that are looked at.
const ANSWER_MAX: usize = 64 * 1024;
/// How long the exchange may take.
const TIMEOUT: Duration = Duration::from_secs(9);

/// Posts a message.
pub async fn post(
    client: &Client,
    url: &Secret,
    headers: &[(String, Secret)],
    body: Arc<[u8]>,
) -> Result<(), AlertFailure> {
    let own = ("Content-Type".to_owned(), "application/json".to_owned());
    let given = headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
    let request = HttpRequest {
        method: Method::Post,
        url: url.expose().to_owned(),
        headers: std::iter::once(own).chain(given).collect(),
        body: Bytes::from_owner(body),
        max_body: ANSWER_MAX,
        timeout: TIMEOUT,
    };
    let failed = |again, detail: String| Err(AlertFailure { again, detail });
    match client.exchange(request).await {
        Ok(answer) => match answer.status {
            200..=299 => Ok(()),
            status @ (408 | 425 | 429 | 500..=599) => failed(true, format!("the webhook answered {status}")),
            status => failed(false, format!("the webhook answered {status}")),
        },
        // It was received, and its answer is of no interest.
        Err(FetchError::Oversize) => Ok(()),
        Err(FetchError::Timeout) => failed(true, "the webhook did not answer in time".to_owned()),
        Err(FetchError::Unreachable(reason)) => {
            failed(true, format!("the webhook is not reached: {}", reason.reason()))
        }
        Err(FetchError::Broken(_) | FetchError::Unreadable(_)) => {
            failed(true, "the webhook gave no HTTP answer".to_owned())
        }
    }
}
