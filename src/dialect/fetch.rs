//! `[fetch.NAME]`: an HTTP call whose answer supplies variables, compiled; and what an answer supplies.
//!
//! Invariant: where a call goes is decided by the dialect and the configuration alone: its origin is upstream's own or one
//! that the configuration names, and no answer is followed elsewhere.
//! Deliberately not here: when it is called and how often (the relay's), and the exchange itself (`upstream/http.rs`).

use std::borrow::Cow;
use std::time::Duration;

use serde_json::Value;

use super::condition::{Test, meets};
use super::fill::Context;
use super::http::{HttpAnswer, HttpRequest, encode, same_origin};
use super::pointer::Pointer;
use super::sign::Pattern;
use super::template::Template;
use super::variable::Variable;
use super::wire::Method;
use super::{SendError, jwt};
use crate::relay::time::Time;

/// Calls that one dialect may define.
pub(crate) const MOST: usize = 16;
/// Bytes of an answer.
const MAX_ANSWER: usize = 256 * 1024;
/// The largest value that an answer supplies, in bytes of JSON text: what a variable holds.
const LARGEST: usize = super::variables::LARGEST;
/// What a variable without a value is stored as.
pub(crate) const UNSET: &str = "null";
/// Bytes of the other side's words that are passed on.
const WORDS_MAX: usize = 200;

/// When a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum When {
    /// Before a connection is opened.
    #[default]
    Connect,
    /// For one channel, before its subscribe leaves.
    Subscribe,
}

/// What is asked.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) method: Method,
    /// An address, or a path at upstream's own origin.
    pub(crate) url: Template,
    /// What is put at the end of the address's path, and of its query.
    pub(crate) below: Option<Box<str>>,
    pub(crate) headers: Vec<(Box<str>, Template)>,
    pub(crate) body: Body,
}

/// A request's content.
#[derive(Debug)]
pub(crate) enum Body {
    None,
    /// `application/json`
    Json(Template),
    /// `application/x-www-form-urlencoded`
    Form(Vec<(Box<str>, Template)>),
}

/// Conditions that an answer meets together; none: it does not.
pub(crate) type AnswerIs = Vec<(Pointer, Test)>;

/// A call as the dialect defines it.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) name: Box<str>,
    pub(crate) question: Question,
    /// What is asked instead while the last answer holds.
    pub(crate) refresh: Option<Question>,
    /// What the answer supplies.
    pub(crate) take: Vec<Take>,
    /// An answer is good for one connection, whatever it says.
    pub(crate) once: bool,
    /// Where the answer's words about a failure stand.
    pub(crate) message: Option<Pointer>,
    /// What an answer is that supplies nothing, whatever its status.
    pub(crate) failed: AnswerIs,
    /// What an answer is that refuses our credentials.
    pub(crate) denied: AnswerIs,
    pub(crate) ttl: Option<Duration>,
    pub(crate) when: When,
    /// Only for channels of these patterns; empty: for all.
    pub(crate) channels: Vec<Pattern>,
    /// Left out where something that it names has no value.
    pub(crate) optional: bool,
}

/// One variable, and where it stands in the answer.
#[derive(Debug)]
pub(crate) struct Take {
    pub(crate) variable: Variable,
    pub(crate) at: Pointer,
    /// Without it the answer is none; else the variable has no value then.
    pub(crate) required: bool,
}

/// What an answer supplies.
#[derive(Clone, PartialEq, Eq)]
pub struct Supply {
    /// JSON texts, in the order of `take`; `None`: as it was.
    pub(crate) values: Vec<Option<String>>,
    /// How long they hold from the answer on; `None`: nobody says.
    pub holds: Option<Duration>,
}

impl Supply {
    /// Of these values.
    #[cfg(test)]
    pub(crate) fn of(values: Vec<String>, holds: Option<Duration>) -> Self {
        Supply { values: values.into_iter().map(Some).collect(), holds }
    }

    /// Every value, as JSON text: all of them may be secret.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.values.iter().flatten().map(String::as_str)
    }

    /// The first value as text.
    pub fn text(&self) -> Option<String> {
        let value: Value = serde_json::from_str(self.values.first()?.as_deref()?).ok()?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// What was asked to hold longer does: values that the answer repeats or changes are taken, the others stay.
    pub fn extend(&mut self, longer: Supply) {
        self.holds = longer.holds;
        for (old, new) in self.values.iter_mut().zip(longer.values) {
            if new.is_some() {
                *old = new;
            }
        }
    }
}

impl std::fmt::Debug for Supply {
    /// Without the values: they may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supply").field("holds", &self.holds).finish_non_exhaustive()
    }
}

/// Why an answer supplies nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSupply {
    /// The other side refuses our credentials (401, 403, or what the dialect says).
    pub denied: bool,
    /// It will not do better soon (other 4xx): asking again as it is makes no sense.
    pub refused: bool,
    /// Not before.
    pub retry_after: Option<Duration>,
    /// For people.
    pub message: String,
}

impl Fetch {
    /// Every template in it.
    pub(crate) fn templates(&self) -> impl Iterator<Item = &Template> {
        [Some(&self.question), self.refresh.as_ref()].into_iter().flatten().flat_map(Question::templates)
    }

    /// Whether a channel of this name needs it.
    pub(crate) fn is_for(&self, channel: &str) -> bool {
        self.channels.is_empty() || self.channels.iter().any(|pattern| pattern.matches(channel))
    }

    /// What the answer supplies. `again`: it answers `refresh`, and need not repeat what holds.
    pub(crate) fn supply(&self, now: Time, answer: &HttpAnswer, again: bool) -> Result<Supply, NoSupply> {
        let again = again && self.refresh.is_some();
        let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
        let words = self.message.as_ref().zip(body.as_ref()).and_then(|(pointer, body)| at(body, pointer));
        let words = words.map(|words| cut(words.as_str().map_or_else(|| words.to_string(), str::to_owned)));
        let no = |message: String| NoSupply { denied: false, refused: false, retry_after: None, message };
        let is = |conditions: &AnswerIs| {
            let holds =
                |(pointer, test): &(Pointer, Test)| meets(test, body.as_ref().and_then(|body| at(body, pointer)));
            !conditions.is_empty() && conditions.iter().all(holds)
        };
        let denied = is(&self.denied);
        if !answer.is_good() || denied || is(&self.failed) {
            let said = words.map(|words| format!(": {words}")).unwrap_or_default();
            let redirects = if (300..400).contains(&answer.status) { " (redirects are not followed)" } else { "" };
            return Err(NoSupply {
                denied: denied || matches!(answer.status, 401 | 403),
                refused: denied || (300..500).contains(&answer.status) && !matches!(answer.status, 408 | 425 | 429),
                retry_after: answer.retry_after,
                message: format!("HTTP status {}{redirects}{said}", answer.status),
            });
        }
        let mut values = Vec::with_capacity(self.take.len());
        let mut holds = self.ttl;
        for Take { at: pointer, required, .. } in &self.take {
            let value = match &body {
                Some(body) => at(body, pointer).cloned(),
                // Not JSON: the whole text is the value.
                None if pointer.tokens().is_empty() => {
                    std::str::from_utf8(&answer.body).ok().map(|text| Value::String(text.trim().to_owned()))
                }
                None if again || !required => None,
                None => return Err(no("the answer is not JSON".to_owned())),
            };
            let value = value.filter(|value| !value.is_null() && value.as_str() != Some(""));
            let Some(value) = value else {
                if again || !required {
                    values.push((!again).then(|| UNSET.to_owned()));
                    continue;
                }
                let said = words.map(|words| format!(": {words}")).unwrap_or_default();
                return Err(no(format!("the answer has no {:?}{said}", pointer.to_string())));
            };
            if let Some(end) = value.as_str().and_then(jwt::expires) {
                let left = Duration::from_nanos(end.0.saturating_sub(now.wall.0));
                holds = Some(holds.map_or(left, |holds| holds.min(left)));
            }
            let text = value.to_string();
            if text.len() > LARGEST {
                return Err(no(format!("{:?} in the answer is larger than {LARGEST} bytes", pointer.to_string())));
            }
            values.push(Some(text));
        }
        Ok(Supply { values, holds: holds.filter(|_| !self.once) })
    }
}

impl Question {
    pub(crate) fn templates(&self) -> impl Iterator<Item = &Template> {
        let body: Vec<&Template> = match &self.body {
            Body::None => Vec::new(),
            Body::Json(template) => vec![template],
            Body::Form(members) => members.iter().map(|(_, template)| template).collect(),
        };
        let headers = self.headers.iter().map(|(_, template)| template);
        std::iter::once(&self.url).chain(headers).chain(body)
    }

    /// The request. `upstream` is the connection's address, `origins` those that the configuration allows besides its own.
    pub(crate) fn request<'a>(
        &'a self,
        context: &Context<'a>,
        upstream: &str,
        origins: &[String],
        timeout: Duration,
    ) -> Result<HttpRequest, SendError> {
        let mut url = absolute(&self.url.render_address(context, encode)?, upstream);
        if let Some(below) = &self.below {
            url = beneath(&url, below);
        }
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) || url.contains('#') {
            return Err(SendError::Invalid("the address to fetch from holds characters that it must not".into()));
        }
        may_call(&url, upstream, origins).map_err(SendError::Invalid)?;
        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        for (name, template) in &self.headers {
            let value = template.render(context)?;
            if value.chars().any(char::is_control) {
                return Err(SendError::Invalid(format!("the value of header {name} holds control characters")));
            }
            if !value.is_empty() && !template.is_unset(context) {
                headers.push((name.to_string(), value));
            }
        }
        let (kind, body) = match &self.body {
            Body::None => (None, String::new()),
            Body::Json(template) => (Some("application/json"), template.render(context)?),
            Body::Form(members) => {
                let mut form = Vec::with_capacity(members.len());
                for (name, template) in members {
                    form.push(format!("{}={}", encode(name), encode(&template.render(context)?)));
                }
                (Some("application/x-www-form-urlencoded"), form.join("&"))
            }
        };
        if let Some(kind) = kind
            && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        {
            headers.push(("content-type".to_owned(), kind.to_owned()));
        }
        Ok(HttpRequest { method: self.method, url, headers, body: body.into(), max_body: MAX_ANSWER, timeout })
    }
}

/// A path becomes an address at upstream's own origin; an address stays.
fn absolute(url: &str, upstream: &str) -> String {
    if !url.starts_with('/') {
        return url.to_owned();
    }
    format!("{}{url}", same_origin(upstream).unwrap_or_default())
}

/// An address with more path, and more query, at the end of its own.
fn beneath(url: &str, below: &str) -> String {
    let [(path, query), (more_path, more_query)] = [url, below].map(|text| text.split_once('?').unwrap_or((text, "")));
    let query: Vec<&str> = [query, more_query].into_iter().filter(|query| !query.is_empty()).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{}/{more_path}{mark}{}", path.trim_end_matches('/'), query.join("&"))
}

/// Whether the configuration lets the dialect call (or connect to) an address: at upstream's own origin, or at one of
/// `upstream.fetch_origins`, of which `https://*.example.com` means every host below it. Upstream's own origin keeps its TLS.
pub fn may_call(url: &str, upstream: &str, origins: &[String]) -> Result<(), String> {
    let (Some(asked), own) = (same_origin(url), same_origin(upstream)) else {
        return Err(format!("{} is no address to call", shown(url)));
    };
    if own.as_deref() == Some(asked.as_str()) || origins.iter().any(|allowed| covers(allowed, &asked)) {
        return Ok(());
    }
    Err(format!("{asked} is not upstream's own origin; if it may be called, name it in upstream.fetch_origins"))
}

fn covers(allowed: &str, asked: &str) -> bool {
    match allowed.split_once("://*.") {
        Some((scheme, domain)) => {
            let below = same_origin(&format!("{scheme}://{domain}"));
            let parts = below.as_deref().and_then(|below| below.split_once("://")).zip(asked.split_once("://"));
            parts.is_some_and(|((scheme, domain), (asked_scheme, host))| {
                scheme == asked_scheme && host.strip_suffix(domain).is_some_and(|start| start.ends_with('.'))
            })
        }
        None => same_origin(allowed).as_deref() == Some(asked),
    }
}

/// An address without what may be secret.
fn shown(url: &str) -> Cow<'_, str> {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    cut(plain.rsplit('@').next().unwrap_or_default().to_owned()).into()
}

fn at<'v>(body: &'v Value, pointer: &Pointer) -> Option<&'v Value> {
    pointer.tokens().iter().try_fold(body, |value, token| match value {
        Value::Array(elements) => elements.get(super::pointer::array_index(token)?),
        Value::Object(members) => members.get(token),
        _ => None,
    })
}

fn cut(mut words: String) -> String {
    words.retain(|c| !c.is_control());
    words.truncate(words.floor_char_boundary(WORDS_MAX));
    words
}
