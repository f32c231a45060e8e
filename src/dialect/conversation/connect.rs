//! The address: what the configuration says, completed by the dialect.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Conversation;
use crate::dialect::{ConnectRequest, SendError, Transport};
use crate::protocol::request::Secret;
use crate::relay::time::Time;

/// What stays as it is in a path's segment and a query (RFC 3986 section 2.3: unreserved).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Conversation {
    /// Where and how to connect. The configured URL's own path and query members, and configured headers, win over the
    /// dialect's; an address that upstream gave (`resume_url`) replaces the configured one unless it gives up TLS.
    pub fn connect_request(
        &self,
        transport: Transport,
        url: &str,
        headers: &[(String, Secret)],
    ) -> Result<ConnectRequest, SendError> {
        let connect = &self.dialect.connect;
        let context = self.context(Time::default(), None);
        let mut given = String::new();
        if let Some(template) = &connect.url {
            given = template.render(&context)?;
        }
        let replaces = given.starts_with("wss://") || (given.starts_with("ws://") && url.starts_with("ws://"));
        let (mut url, query) = split(if replaces { &given } else { url })?;
        if let Some(template) = &connect.path
            && has_no_path(&url)
        {
            let path = template.render_with(&context, encode)?;
            url.truncate(url.trim_end_matches('/').len());
            url.push_str(&path);
        }
        let mut members: Vec<String> = query.into_iter().collect();
        for (name, template) in &connect.query {
            let value = template.render(&context)?;
            let known = members.iter().flat_map(|query| query.split('&')).any(|member| name_of(member) == &**name);
            if !value.is_empty() && !known {
                members.push(format!("{}={}", encode(name), encode(&value)));
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
        let mut all: Vec<(String, String)> = Vec::new();
        for (name, value) in headers {
            all.push((name.clone(), value.expose().to_owned()));
        }
        for (name, template) in &connect.headers {
            let value = template.render(&context)?;
            if !value.is_empty() && !all.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                all.push((name.to_string(), value));
            }
        }
        if let Some((name, _)) = all.iter().find(|(_, value)| value.chars().any(char::is_control)) {
            return Err(SendError::Invalid(format!("the value of header {name} holds control characters")));
        }
        Ok(ConnectRequest { transport, url, headers: all, subprotocols: connect.subprotocols.clone() })
    }
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

pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}
