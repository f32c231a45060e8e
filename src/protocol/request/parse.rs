//! Requests from text: the ops of a session, and the body of `POST /v1/publish`.
//!
//! Invariant: limits first. Size and depth are checked before anything is kept, and nothing kept is larger than a limit of
//! [`RequestLimits`] or of this file. Payloads stay byte for byte. Ops and options that this relay does not carry
//! out are `not_supported` by name, fields that no op has are `invalid`: a typing error never passes silently.

use serde_json::value::RawValue;

use super::fields::Fields;
use super::options::{self, Options};
use super::{ChannelRequest, Optimistic, Publish, Ref, Request, Secret, Subscribe};
use crate::config::Config;
use crate::protocol::codes::ErrorCode;
use crate::protocol::{canonical, duration};
use crate::relay::outbox::{Lane, OnUnknown};
use crate::relay::pairs::BadRequest;

/// Bytes of a channel's name.
pub const CHANNEL_MAX: usize = 256;
/// Bytes of a key, type, order key or idempotency key.
const WORD_MAX: usize = 256;
/// Bytes of a `ref`'s JSON text.
const REF_MAX: usize = 64;
/// Bytes of a channel's params.
const PARAMS_MAX: usize = 4096;
/// Bytes of a token.
pub const TOKEN_MAX: usize = 8192;
/// Longest text that can be a position; of a longer one the rest does not matter.
const SINCE_MAX: usize = 64;
/// Bytes of a message's id.
const MESSAGE_MAX: usize = 64;
/// Bytes of a provisional value.
const OPTIMISTIC_MAX: usize = 16 << 10;
/// Messages of one `messages` list: one batch of the store.
const MESSAGES_MAX: usize = 1024;

/// What a request may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Bytes of the whole request.
    pub request_max: usize,
    /// Bytes of one message's payload.
    pub message_max: usize,
    /// Channels of one request.
    pub channels: usize,
    /// JSON nesting.
    pub depth: usize,
}

impl RequestLimits {
    /// The limits of a configuration.
    pub fn new(config: &Config) -> Self {
        RequestLimits {
            request_max: config.feed.request_max,
            message_max: config.outbox.message_max,
            channels: config.feed.session_channels,
            depth: 32,
        }
    }
}

/// What is wrong with a request, before it is known whose `ref` it answers.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) code: ErrorCode,
    pub(super) message: String,
}

impl Wrong {
    pub(super) fn with(self, reference: Option<Ref>) -> BadRequest {
        BadRequest { reference, code: self.code, message: self.message }
    }
}

pub(super) fn invalid(message: impl Into<String>) -> Wrong {
    Wrong { code: ErrorCode::Invalid, message: message.into() }
}

pub(super) fn not_supported(what: &str, name: &str) -> Wrong {
    Wrong { code: ErrorCode::NotSupported, message: format!("{what} `{name}` is not supported by this relay") }
}

fn too_large(message: String) -> Wrong {
    Wrong { code: ErrorCode::TooLarge, message }
}

/// A client's text as it may stand in a message: escaped and cut.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// Reads one request of a session.
pub fn parse(text: &str, limits: &RequestLimits) -> Result<Request, BadRequest> {
    let mut fields = open(text, limits).map_err(|wrong| wrong.with(None))?;
    let reference = reference(&mut fields).map_err(|wrong| wrong.with(None))?;
    request(&mut fields, reference.clone(), limits).map_err(|wrong| wrong.with(reference))
}

/// Reads the body of `POST /v1/publish`: a publish request, `op` optional. `idempotency_key` is the header's, for a body with
/// one message.
pub fn parse_publish(
    text: &str,
    idempotency_key: Option<&str>,
    limits: &RequestLimits,
) -> Result<(Vec<Publish>, bool), BadRequest> {
    let mut fields = open(text, limits).map_err(|wrong| wrong.with(None))?;
    let reference = reference(&mut fields).map_err(|wrong| wrong.with(None))?;
    publish_body(&mut fields, idempotency_key, limits).map_err(|wrong| wrong.with(reference))
}

fn publish_body(
    fields: &mut Fields<'_>,
    idempotency_key: Option<&str>,
    limits: &RequestLimits,
) -> Result<(Vec<Publish>, bool), Wrong> {
    if let Some(op) = word(fields, "op")?
        && &*op != "publish"
    {
        return Err(invalid(format!("`op` must be `publish` here, not `{}`", shown(&op))));
    }
    let (mut messages, atomic) = messages(fields, limits)?;
    nothing_left(fields, &"a publish request")?;
    if let Some(key) = idempotency_key {
        let [message] = messages.as_mut_slice() else {
            return Err(invalid(
                "Idempotency-Key is for one message: give each of `messages` its own `idempotency_key`",
            ));
        };
        check_word("Idempotency-Key", key)?;
        if message.idempotency_key.as_deref().is_some_and(|own| own != key) {
            return Err(invalid("the header Idempotency-Key and `idempotency_key` differ: send one of them"));
        }
        message.idempotency_key = Some(key.into());
        check_volatile(message)?;
    }
    Ok((messages, atomic))
}

/// Reads the body of `POST /v1/refresh`: a refresh request, `op` optional.
pub fn parse_refresh(text: &str, limits: &RequestLimits) -> Result<(ChannelRequest, Option<Box<str>>), BadRequest> {
    let mut fields = open(text, limits).map_err(|wrong| wrong.with(None))?;
    let reference = reference(&mut fields).map_err(|wrong| wrong.with(None))?;
    let op = word(&mut fields, "op").map_err(|wrong| wrong.with(reference.clone()))?;
    if let Some(op) = op.filter(|op| &**op != "refresh") {
        return Err(invalid(format!("`op` must be `refresh` here, not `{}`", shown(&op))).with(reference));
    }
    let read = refresh(&mut fields).and_then(|read| nothing_left(&fields, &"a refresh request").map(|()| read));
    read.map_err(|wrong| wrong.with(reference))
}

fn refresh(fields: &mut Fields<'_>) -> Result<(ChannelRequest, Option<Box<str>>), Wrong> {
    let text = fields.take("channel").ok_or_else(|| invalid("`channel` is missing"))?;
    let channel = channel(text, fields.take("params"))?;
    if channel.name.ends_with('*') {
        return Err(invalid("a pattern cannot be refreshed: name a channel"));
    }
    Ok((channel, word(fields, "key")?))
}

fn open<'a>(text: &'a str, limits: &RequestLimits) -> Result<Fields<'a>, Wrong> {
    if text.len() > limits.request_max {
        return Err(too_large(format!("a request may have {} bytes (feed.request_max)", limits.request_max)));
    }
    if depth(text) > limits.depth {
        return Err(invalid(format!("nested deeper than {} levels", limits.depth)));
    }
    Fields::read(text).map_err(|e| invalid(format!("not a request: {e}")))
}

/// How deep brackets nest outside strings. Right for JSON; for other text any number, since it is refused anyway.
fn depth(text: &str) -> usize {
    let (mut now, mut most, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                now += 1;
                most = most.max(now);
            }
            b'}' | b']' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

fn reference(fields: &mut Fields<'_>) -> Result<Option<Ref>, Wrong> {
    let Some(text) = fields.take("ref") else { return Ok(None) };
    let right = matches!(text.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9'));
    if !right || text.len() > REF_MAX {
        return Err(invalid(format!("`ref` must be a number or a string of at most {REF_MAX} bytes")));
    }
    Ok(Some(Ref(text.into())))
}

fn request(fields: &mut Fields<'_>, reference: Option<Ref>, limits: &RequestLimits) -> Result<Request, Wrong> {
    let op = word(fields, "op")?
        .ok_or_else(|| invalid("`op` is missing: subscribe, unsubscribe, publish, cancel, refresh, auth or ping"))?;
    let request = match &*op {
        "subscribe" => Request::Subscribe(subscribe(fields, reference, limits)?),
        "unsubscribe" => Request::Unsubscribe { reference, channels: channels(fields, limits)? },
        "publish" => {
            let (messages, atomic) = messages(fields, limits)?;
            Request::Publish { reference, messages, atomic }
        }
        "cancel" => Request::Cancel { reference, message: required(fields, "message", MESSAGE_MAX)? },
        "auth" => Request::Auth { reference, token: Secret::new(required(fields, "token", TOKEN_MAX)?) },
        "ping" => Request::Ping { reference },
        "refresh" => {
            let (channel, key) = refresh(fields)?;
            Request::Refresh { reference, channel, key }
        }
        other => return Err(not_supported("the op", &shown(other))),
    };
    nothing_left(fields, &format_args!("the op `{op}`"))?;
    Ok(request)
}

fn nothing_left(fields: &Fields<'_>, of: &impl std::fmt::Display) -> Result<(), Wrong> {
    match fields.left() {
        Some(name) => Err(invalid(format!("{of} has no field `{}`: correct its name, or leave it out", shown(name)))),
        None => Ok(()),
    }
}

fn subscribe(fields: &mut Fields<'_>, reference: Option<Ref>, limits: &RequestLimits) -> Result<Subscribe, Wrong> {
    let mut subscribe = Subscribe {
        reference,
        channels: channels(fields, limits)?,
        since: None,
        snapshot: true,
        options: Options::default(),
    };
    if let Some(text) = fields.take("since") {
        subscribe.since = Some(since(&read::<String>("since", "a string", text)?));
    }
    if let Some(text) = fields.take("options") {
        let mut given = Fields::read(text).map_err(|e| invalid(format!("`options`: {e}")))?;
        if let Some(text) = given.take("snapshot") {
            subscribe.snapshot = read("options.snapshot", "true or false", text)?;
        }
        if let Some(text) = given.take("types") {
            subscribe.options.types = options::types(read("options.types", "a list of strings", text)?)?;
        }
        if let Some(text) = given.take("fields") {
            let pointers: Vec<String> = read("options.fields", "a list of JSON pointers", text)?;
            subscribe.options.fields = Some(options::fields(&pointers)?);
        }
        if let Some(text) = word(&mut given, "on_slow")? {
            subscribe.options.on_slow = options::on_slow(&text)?;
        }
        if let Some(text) = word(&mut given, "conflate")? {
            subscribe.options.conflate = Some(options::conflate(&text)?);
        }
        if let Some(text) = word(&mut given, "max_rate")? {
            subscribe.options.max_rate = Some(options::max_rate(&text)?);
        }
        if let Some(text) = given.take("delta") {
            subscribe.options.delta = read("options.delta", "true or false", text)?;
        }
        if let Some(name) = given.left() {
            return Err(not_supported("the option", &shown(name)));
        }
        subscribe.options = subscribe.options.checked()?;
    }
    Ok(subscribe)
}

/// Options of the feed's contract that this relay does not carry out.
pub(super) const KNOWN_OPTIONS: [&str; 2] = ["batch", "priority"];

/// A position as text. What is longer than any position is cut: it cannot become one.
pub(super) fn since(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(SINCE_MAX)].into()
}

fn channels(fields: &mut Fields<'_>, limits: &RequestLimits) -> Result<Vec<ChannelRequest>, Wrong> {
    let text = fields.take("channels").ok_or_else(|| invalid("`channels` is missing: a list of names"))?;
    let list: Vec<&RawValue> = read("channels", "a list of names", text)?;
    check_count(list.len(), limits)?;
    list.iter().map(|item| channel(item.get(), None)).collect()
}

pub(super) fn check_count(count: usize, limits: &RequestLimits) -> Result<(), Wrong> {
    match count {
        0 => Err(invalid("`channels` is empty: name at least one")),
        count if count > limits.channels => Err(Wrong {
            code: ErrorCode::LimitExceeded,
            message: format!("{count} channels; a session may have {} (feed.session_channels)", limits.channels),
        }),
        _ => Ok(()),
    }
}

/// Reads `"name"` or `{"channel":"name","params":{…}}`.
fn channel(text: &str, params: Option<&str>) -> Result<ChannelRequest, Wrong> {
    if !text.starts_with('{') {
        let name: String = read("channel", "a name or {\"channel\":…,\"params\":…}", text)?;
        return named_channel(&name, params);
    }
    let mut fields = Fields::read(text).map_err(|e| invalid(format!("`channel`: {e}")))?;
    let name: Box<str> = required(&mut fields, "channel", CHANNEL_MAX + PARAMS_MAX)?;
    let own = fields.take("params");
    nothing_left(&fields, &"a channel")?;
    if own.is_some() && params.is_some() {
        return Err(invalid("`params` stands twice"));
    }
    named_channel(&name, own.or(params))
}

/// A channel from its name. The name may carry its params as the feed shows them: `orders?{"account":"9"}`.
pub(super) fn named_channel(name: &str, params: Option<&str>) -> Result<ChannelRequest, Wrong> {
    let (name, params) = match (name.find("?{"), params) {
        (Some(at), None) => (&name[..at], Some(&name[at + 1..])),
        (Some(_), Some(_)) => return Err(invalid("the channel's name has params already")),
        (None, params) => (name, params),
    };
    check_channel(name)?;
    let params = match params {
        None => None,
        Some(text) if text.len() > PARAMS_MAX => {
            return Err(too_large(format!("`params` may have {PARAMS_MAX} bytes")));
        }
        Some(text) => Some(canonical::object(text).map_err(|e| invalid(format!("`params`: {e}")))?),
    };
    let params = params.filter(|text| text != "{}");
    if params.is_some() && name.ends_with('*') {
        return Err(invalid("a pattern takes no `params`"));
    }
    Ok(ChannelRequest { name: name.into(), params: params.map(Into::into) })
}

fn check_channel(name: &str) -> Result<(), Wrong> {
    if name.is_empty() || name.len() > CHANNEL_MAX {
        return Err(invalid(format!("a channel's name has 1 to {CHANNEL_MAX} bytes")));
    }
    if name.chars().any(char::is_control) {
        return Err(invalid("a channel's name has no control characters"));
    }
    if name.strip_suffix('*').unwrap_or(name).contains('*') {
        return Err(invalid("`*` stands only at the end of a pattern; within a name write %2A"));
    }
    Ok(())
}

fn messages(fields: &mut Fields<'_>, limits: &RequestLimits) -> Result<(Vec<Publish>, bool), Wrong> {
    let Some(text) = fields.take("messages") else {
        let message = publish(fields, limits)?;
        if fields.take("atomic").is_some() {
            return Err(invalid("`atomic` is about a list: put the messages into `messages`, or leave it out"));
        }
        return Ok((vec![message], false));
    };
    let list: Vec<&RawValue> = read("messages", "a list of messages", text)?;
    if list.is_empty() || list.len() > MESSAGES_MAX {
        return Err(invalid(format!("`messages` holds 1 to {MESSAGES_MAX} messages")));
    }
    let atomic = flag(fields, "atomic")?;
    if let Some(name) = fields.left() {
        let name = shown(name);
        return Err(invalid(format!(
            "beside `messages` there is no field `{name}`: put it into each message that it is of, or leave it out"
        )));
    }
    let mut messages = Vec::with_capacity(list.len());
    for (at, item) in list.iter().enumerate() {
        let named = |wrong: Wrong| Wrong { message: format!("messages[{at}]: {}", wrong.message), ..wrong };
        let mut fields = Fields::read(item.get()).map_err(|e| named(invalid(e)))?;
        messages.push(publish(&mut fields, limits).map_err(named)?);
        nothing_left(&fields, &"a message").map_err(named)?;
    }
    if atomic && messages.iter().any(|message| message.volatile) {
        return Err(invalid(
            "`atomic` is about what is accepted, and `volatile` messages never are: leave one of them out",
        ));
    }
    Ok((messages, atomic))
}

fn publish(fields: &mut Fields<'_>, limits: &RequestLimits) -> Result<Publish, Wrong> {
    let params = fields.take("params");
    let channel = channel(fields.take("channel").ok_or_else(|| invalid("`channel` is missing"))?, params)?;
    if channel.name.ends_with('*') {
        return Err(invalid("a message goes to one channel, not to a pattern"));
    }
    if channel.name.starts_with('$') {
        return Err(invalid("channels that begin with `$` are the relay's own"));
    }
    let data = fields.take_any("data").ok_or_else(|| invalid("`data` is missing: any JSON value"))?;
    if data.len() > limits.message_max {
        return Err(too_large(format!("`data` may have {} bytes (outbox.message_max)", limits.message_max)));
    }
    let (order_key, coalesce) = (word(fields, "order_key")?, flag(fields, "coalesce")?);
    if coalesce && order_key.is_none() {
        return Err(invalid("`coalesce` replaces what waits with the same `order_key`: give one"));
    }
    let key = word(fields, "key")?;
    let optimistic = match fields.take("optimistic") {
        Some(text) => Some(optimistic(text, &channel, key.as_deref())?),
        None => None,
    };
    let publish = Publish {
        channel,
        key,
        kind: word(fields, "type")?,
        data: data.into(),
        idempotency_key: word(fields, "idempotency_key")?,
        order_key,
        coalesce,
        lane: lane(fields)?,
        ttl: ttl(fields)?,
        on_unknown: on_unknown(fields)?,
        volatile: flag(fields, "volatile")?,
        optimistic,
    };
    check_volatile(&publish)?;
    Ok(publish)
}

/// `{"channel":…,"params":…,"key":…,"value":…}`, of which only `value` has to be there.
fn optimistic(text: &str, own: &ChannelRequest, own_key: Option<&str>) -> Result<Optimistic, Wrong> {
    let named = |wrong: Wrong| Wrong { message: format!("optimistic: {}", wrong.message), ..wrong };
    let mut fields = Fields::read(text).map_err(|e| named(invalid(e)))?;
    let fields = &mut fields;
    let value = fields.take_any("value").ok_or_else(|| named(invalid("`value` is missing: any JSON value")))?;
    if value.len() > OPTIMISTIC_MAX {
        return Err(named(too_large(format!("`value` may have {OPTIMISTIC_MAX} bytes"))));
    }
    let params = fields.take("params");
    let channel = match fields.take("channel") {
        Some(text) => Some(channel(text, params).map_err(named)?),
        None if params.is_some() => return Err(named(invalid("`params` are those of a `channel`: name it"))),
        None => None,
    };
    let key = word(fields, "key").map_err(named)?;
    nothing_left(fields, &"a provisional value").map_err(named)?;
    let key = match (&channel, key) {
        (None, None) => own_key.map(Into::into),
        (_, key) => key,
    };
    let channel = channel.unwrap_or_else(|| own.clone());
    if channel.name.ends_with('*') || channel.name.starts_with('$') {
        return Err(named(invalid("a value is laid over one channel, and not over the relay's own")));
    }
    Ok(Optimistic { channel, key, value: value.into() })
}

/// What leaves now or never waits for nothing and is not asked for later.
fn check_volatile(publish: &Publish) -> Result<(), Wrong> {
    let lasting = [
        ("idempotency_key", publish.idempotency_key.is_some()),
        ("order_key", publish.order_key.is_some()),
        ("ttl", publish.ttl.is_some()),
        ("on_unknown", publish.on_unknown.is_some()),
        ("optimistic", publish.optimistic.is_some()),
    ];
    match lasting.into_iter().find(|(_, given)| publish.volatile && *given) {
        Some((name, _)) => {
            Err(invalid(format!("`volatile` leaves now or not at all: leave `{name}` out, or `volatile`")))
        }
        None => Ok(()),
    }
}

fn flag(fields: &mut Fields<'_>, name: &str) -> Result<bool, Wrong> {
    fields.take(name).map_or(Ok(false), |text| read(name, "true or false", text))
}

fn lane(fields: &mut Fields<'_>) -> Result<Lane, Wrong> {
    match word(fields, "priority")?.as_deref() {
        None => Ok(Lane::default()),
        Some("critical") => Ok(Lane::Critical),
        Some("high") => Ok(Lane::High),
        Some("medium") => Ok(Lane::Medium),
        Some("low") => Ok(Lane::Low),
        Some(other) => Err(invalid(format!("`priority` is critical, high, medium or low, not `{}`", shown(other)))),
    }
}

fn ttl(fields: &mut Fields<'_>) -> Result<Option<std::time::Duration>, Wrong> {
    let Some(text) = word(fields, "ttl")? else { return Ok(None) };
    match duration::parse(&text) {
        Some(ttl) if !ttl.is_zero() => Ok(Some(ttl)),
        _ => Err(invalid(format!("`ttl` is a time as `250ms`, `30s`, `5m` or `24h`, not `{}`", shown(&text)))),
    }
}

fn on_unknown(fields: &mut Fields<'_>) -> Result<Option<OnUnknown>, Wrong> {
    match word(fields, "on_unknown")?.as_deref() {
        None => Ok(None),
        Some("retry") => Ok(Some(OnUnknown::Retry)),
        Some("dead_letter") => Ok(Some(OnUnknown::DeadLetter)),
        Some(other) => Err(invalid(format!("`on_unknown` is `retry` or `dead_letter`, not `{}`", shown(other)))),
    }
}

/// An optional short string: 1 to 256 bytes without control characters.
fn word(fields: &mut Fields<'_>, name: &str) -> Result<Option<Box<str>>, Wrong> {
    let Some(text) = fields.take(name) else { return Ok(None) };
    let word: Box<str> = read(name, "a string", text)?;
    check_word(name, &word)?;
    Ok(Some(word))
}

pub(super) fn check_word(name: &str, word: &str) -> Result<(), Wrong> {
    if word.is_empty() || word.len() > WORD_MAX {
        return Err(invalid(format!("`{name}` has 1 to {WORD_MAX} bytes")));
    }
    if word.chars().any(char::is_control) {
        return Err(invalid(format!("`{name}` has no control characters")));
    }
    Ok(())
}

fn required(fields: &mut Fields<'_>, name: &str, most: usize) -> Result<Box<str>, Wrong> {
    let text = fields.take(name).ok_or_else(|| invalid(format!("`{name}` is missing")))?;
    let text: Box<str> = read(name, "a string", text)?;
    if text.is_empty() || text.len() > most {
        return Err(invalid(format!("`{name}` has 1 to {most} bytes")));
    }
    Ok(text)
}

fn read<'a, T: serde::Deserialize<'a>>(name: &str, what: &str, text: &'a str) -> Result<T, Wrong> {
    serde_json::from_str(text).map_err(|_| invalid(format!("`{name}` must be {what}")))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
