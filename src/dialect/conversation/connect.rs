//! The address: what the configuration says, completed by the dialect, for the transport, the channels and the place at hand.

use super::Conversation;
use super::asking::Origin;
use crate::dialect::fill::{ChannelView, Context};
use crate::dialect::http::encode;
use crate::dialect::schema::connect::{Address, Member};
use crate::dialect::{ChannelSpec, ConnectRequest, SendError, Transport};
use crate::protocol::request::Secret;

/// An address and its header fields.
pub(super) struct Addressed {
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
}

impl Conversation {
    /// Where and how to connect. The configured URL's own path and query members, and configured headers, win over the
    /// dialect's; an address that upstream gave (`resume_url`) replaces the configured one unless it gives up TLS.
    /// `channels`: what an address that names channels carries. They are kept, for the polls that follow.
    pub fn connect_request(
        &mut self,
        transport: Transport,
        url: &str,
        headers: &[(String, Secret)],
        channels: &[ChannelSpec<'_>],
    ) -> Result<ConnectRequest, SendError> {
        channels.iter().for_each(|spec| self.channels.add(spec));
        let origin = Origin::new(transport, url, headers, channels);
        self.place.suit(&origin, &self.dialect);
        self.asking.connect(origin);
        // A connection that does not go on from a place is a hole in itself.
        self.place.unseen &= self.goes_on();
        let Addressed { url, mut headers } = self.address()?;
        self.asking.headers.clone_from(&headers);
        self.last_event_id(&mut headers);
        let subprotocols = match transport {
            Transport::WebSocket => self.dialect.connect.subprotocols.clone(),
            _ => Vec::new(),
        };
        Ok(ConnectRequest { transport, url, headers, subprotocols })
    }

    /// The address of the connection, or of the next poll.
    pub(super) fn address(&self) -> Result<Addressed, SendError> {
        let Origin { transport, url, headers, channels } = self.asking.origin();
        let views: Result<Vec<ChannelView<'_>>, SendError> =
            channels.iter().map(|known| self.view(Some(known.id), &known.name, known.params.as_deref())).collect();
        let views = views?;
        let context = Context {
            batch: &views,
            join: &self.dialect.connect.join,
            cursor: self.place.text(),
            ..self.context(self.equipment.at, views.first())
        };
        let common = &self.dialect.connect.address;
        let own = self.dialect.carriages.get(transport).map(|carriage| &carriage.address);
        let mut given = String::new();
        if let Some(template) = &self.dialect.connect.url {
            given = template.render(&context)?;
        }
        let secure = |url: &str| url.starts_with("wss://") || url.starts_with("https://");
        let replaces = secure(&given) || (given.contains("://") && !secure(url));
        if replaces {
            self.may_connect(&given)?;
        }
        let (mut url, query) = split(if replaces { &given } else { url })?;
        if let Some(template) = own.and_then(|own| own.path.as_ref()).or(common.path.as_ref())
            && has_no_path(&url)
        {
            let path = template.render_with(&context, encode)?;
            url.truncate(url.trim_end_matches('/').len());
            url.push_str(&path);
        }
        let mut members: Vec<String> = query.into_iter().collect();
        for member in own.map(|own| &own.query).into_iter().chain([&common.query]).flatten() {
            let known =
                members.iter().flat_map(|query| query.split('&')).any(|known| name_of(known) == encode(&member.name));
            if !known {
                members.extend(query_members(member, &context)?);
            }
        }
        if !members.is_empty() {
            url.push('?');
            url.push_str(&members.join("&"));
        }
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SendError::Invalid(
                "the upstream address holds characters that must be percent-encoded".into(),
            ));
        }
        let headers = headers_of(headers, own, common, &context)?;
        Ok(Addressed { url: with_scheme(*transport, url), headers })
    }
}

/// `name=value`, once or once for each channel; nothing where the value is empty.
fn query_members(member: &Member, context: &Context<'_>) -> Result<Vec<String>, SendError> {
    let values = match member.each {
        true => {
            let each = context.batch.iter().map(|channel| {
                let own = Context { channel: Some(channel), ..*context };
                member.value.render(&own)
            });
            each.collect::<Result<Vec<String>, SendError>>()?
        }
        false => vec![member.value.render(context)?],
    };
    let values = values.into_iter().filter(|value| !value.is_empty());
    Ok(values.map(|value| format!("{}={}", encode(&member.name), encode(&value))).collect())
}

/// The configuration's header fields, then the transport's, then those of `[connect]`: the first of a name counts.
fn headers_of(
    configured: &[(String, Secret)],
    own: Option<&Address>,
    common: &Address,
    context: &Context<'_>,
) -> Result<Vec<(String, String)>, SendError> {
    let mut all: Vec<(String, String)> = Vec::new();
    for (name, value) in configured {
        all.push((name.clone(), value.expose().to_owned()));
    }
    for (name, template) in own.map(|own| &own.headers).into_iter().chain([&common.headers]).flatten() {
        let value = template.render(context)?;
        let says = !value.is_empty() && !template.is_unset(context);
        if says && !all.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
            all.push((name.to_string(), value));
        }
    }
    match all.iter().find(|(_, value)| value.chars().any(char::is_control)) {
        Some((name, _)) => Err(SendError::Invalid(format!("the value of header {name} holds control characters"))),
        None => Ok(all),
    }
}

/// The address in the transport's own scheme, with TLS or without as it was.
fn with_scheme(transport: Transport, url: String) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url };
    let scheme = match (transport, scheme) {
        (Transport::WebSocket, "https" | "wss") => "wss",
        (Transport::WebSocket, "http" | "ws") => "ws",
        (_, "https" | "wss") => "https",
        (_, "http" | "ws") => "http",
        (_, other) => other,
    };
    format!("{scheme}://{rest}")
}

/// Where a path of the same origin leads; `Err`: it is no path.
pub(super) fn beside(transport: Transport, url: &str, path: &str) -> Result<String, SendError> {
    if !path.starts_with('/') || path.starts_with("//") || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SendError::Invalid(format!("`post` must make a path, which begins with /, and made {path:?}")));
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let transport = if transport == Transport::WebSocket { Transport::Sse } else { transport };
    Ok(with_scheme(transport, format!("{scheme}://{authority}{path}")))
}

/// The address up to its query, and the query.
fn split(url: &str) -> Result<(String, Option<String>), SendError> {
    if url.contains('#') {
        return Err(SendError::Invalid("the upstream address must not have a fragment (#...)".into()));
    }
    Ok(match url.split_once('?') {
        Some((start, query)) => (start.to_owned(), Some(query.to_owned()).filter(|query| !query.is_empty())),
        None => (url.to_owned(), None),
    })
}

fn has_no_path(url: &str) -> bool {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    after_scheme.split_once('/').is_none_or(|(_, path)| path.is_empty())
}

fn name_of(member: &str) -> &str {
    member.split('=').next().unwrap_or_default()
}
