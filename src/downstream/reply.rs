//! Answers over HTTP: JSON, problem details (RFC 9457), and the headers that every answer has.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::guard::Refusal;
use crate::protocol::codes::ErrorCode;
use crate::protocol::frame::push_json_string;
use crate::relay::pairs::{BadRequest, Reply};

/// How long to wait before the next try where nobody knows better.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A refusal on its way to the client.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) code: ErrorCode,
    pub(super) status: u16,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
    pub(super) headers: Vec<(HeaderName, &'static str)>,
}

impl Problem {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let status = code.http_status();
        let retry_after = matches!(status, 429 | 503).then_some(RETRY_AFTER);
        let headers = match code {
            ErrorCode::Unauthenticated => vec![(header::WWW_AUTHENTICATE, "Bearer")],
            _ => Vec::new(),
        };
        Problem { code, status, message: message.into(), retry_after, headers }
    }

    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = b"{\"title\":".to_vec();
        push_json_string(&mut body, status.canonical_reason().unwrap_or("Error"));
        body.extend_from_slice(format!(",\"status\":{},\"code\":", self.status).as_bytes());
        push_json_string(&mut body, self.code.text());
        body.extend_from_slice(b",\"detail\":");
        push_json_string(&mut body, &self.message);
        body.extend_from_slice(format!(",\"retryable\":{}}}", self.code.retryable()).as_bytes());
        let mut response = with_body(self.status, "application/problem+json", body.into());
        if let Some(after) = self.retry_after {
            // Whole seconds (RFC 9110 section 10.2.3), never 0: that would mean at once.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        for (name, value) in self.headers {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Problem::new(refusal.code, refusal.message)
    }
}

impl From<BadRequest> for Problem {
    fn from(wrong: BadRequest) -> Self {
        Problem::new(wrong.code, wrong.message)
    }
}

/// An answer with a body of this type; never cached.
pub(super) fn with_body(status: u16, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A JSON answer.
pub(super) fn json(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    with_body(status, "application/json", body.into())
}

/// The relay's answer as HTTP.
pub(super) fn of_relay(reply: Reply) -> Response<Full<Bytes>> {
    match reply {
        Reply::Json { status, body, location } => {
            let mut response = json(status, body);
            if let Some(value) = location.and_then(|text| HeaderValue::try_from(text).ok()) {
                response.headers_mut().insert(header::LOCATION, value);
            }
            response
        }
        Reply::Problem { code, message, retry_after } => {
            let problem = Problem::new(code, message);
            Problem { retry_after: retry_after.or(problem.retry_after), ..problem }.response()
        }
        Reply::Stats(_) => Problem::new(ErrorCode::NotFound, "statistics are at /metrics").response(),
    }
}

/// Lets the page that asked read the answer (CORS). Only for an origin that the guard let in.
pub(super) fn let_read(response: &mut Response<Full<Bytes>>, origin: Option<&str>) {
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        // What a page may read beside the few headers that it always may.
        let exposed = HeaderValue::from_static("location, retry-after");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// The answer to a preflight (`OPTIONS`) for a path with these methods.
pub(super) fn preflight(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(methods));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    let allowed = HeaderValue::from_static("content-type, authorization, idempotency-key, last-event-id");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

/// This method is not for this path.
pub(super) fn wrong_method(methods: &'static str) -> Problem {
    let problem = Problem::new(ErrorCode::MethodNotAllowed, format!("this path takes {methods}"));
    Problem { headers: vec![(header::ALLOW, methods)], ..problem }
}
