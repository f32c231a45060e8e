//! `[connect]` and `[transport.*]`: how a connection is made, and what is different in other transports than WebSocket.
//!
//! What a transport does not say is taken from `[connect]`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::document::{Faults, Place, Section, Text};
use super::tables::is_token;
use crate::dialect::fetch::Fetch;
use crate::dialect::template::{Need, Template};
use crate::dialect::units;
use crate::dialect::variable::{Inside, Names, Scope, Variable};
use crate::dialect::{Dialect, Transport};

/// What stands between the names that `{channel*}` lists.
const JOIN: &str = ",";
/// How long a long-poll may stay unanswered; services answer within a minute, as many proxies want it.
const LONG_POLL_TIMEOUT: Duration = Duration::from_secs(90);
/// How long the answer to a poll may take.
const POLL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two polls.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// `[connect]`.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) url: Option<Template>,
    pub(crate) address: Address,
    pub(crate) subprotocols: Vec<String>,
    /// What stands between the names that `{channel*}` lists.
    pub(crate) join: Box<str>,
    /// The service has a WebSocket.
    pub(crate) websocket: bool,
    /// The ids of events are places from which a later connection goes on, whatever its transport.
    pub(crate) resumes: bool,
    /// Calls before a connection, in their order.
    pub(crate) fetch: Vec<usize>,
}

impl Default for Connect {
    fn default() -> Self {
        Connect {
            url: None,
            address: Address::default(),
            subprotocols: Vec::new(),
            join: JOIN.into(),
            websocket: true,
            resumes: false,
            fetch: Vec::new(),
        }
    }
}

/// The parts of an address that a dialect names, and its header fields.
#[derive(Debug, Default)]
pub(crate) struct Address {
    pub(crate) path: Option<Template>,
    pub(crate) query: Vec<Member>,
    pub(crate) headers: Vec<(Box<str>, Template)>,
}

/// A member of the query.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: Box<str>,
    pub(crate) value: Template,
    /// Once for each channel.
    pub(crate) each: bool,
}

/// `[transport.NAME]`.
#[derive(Debug, Default)]
pub(crate) struct Carriage {
    pub(crate) address: Address,
    /// Where in an answer the place stands from which the next poll goes on.
    pub(crate) cursor: Option<Inside>,
    /// Least time from one poll to the next.
    pub(crate) interval: Duration,
    /// How long an answer may take.
    pub(crate) timeout: Duration,
    /// A later connection goes on where the last one ended, without holes.
    pub(crate) resumes: bool,
}

/// Which channels an address names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum UrlChannels {
    /// None: channels are subscribed by messages, or not at all.
    #[default]
    None,
    /// Exactly one.
    One,
    /// All that are wanted.
    All,
}

impl Connect {
    /// Every template in it.
    pub(crate) fn templates(&self) -> impl Iterator<Item = &Template> {
        self.url.iter().chain(self.address.templates())
    }
}

impl Address {
    /// Every template in it.
    pub(crate) fn templates(&self) -> impl Iterator<Item = &Template> {
        let query = self.query.iter().map(|member| &member.value);
        self.path.iter().chain(query).chain(self.headers.iter().map(|(_, value)| value))
    }

    /// Whether it says from where the connection is to go on.
    pub(crate) fn names_place(&self) -> bool {
        self.templates().any(|template| template.uses(|variable| matches!(variable, Variable::Cursor)))
    }

    /// Which channels it names.
    pub(crate) fn channels(&self) -> UrlChannels {
        let named = |template: &Template| {
            let about = |variable: &Variable| {
                matches!(variable, Variable::Channel | Variable::Part(_) | Variable::OfChannel(_))
            };
            let needs = template.holes().iter().filter(|(variable, _, _)| about(variable)).map(|(_, _, need)| *need);
            let naming = |need| if need == Need::Listed { UrlChannels::All } else { UrlChannels::One };
            needs.map(naming).max().unwrap_or_default()
        };
        let members = self.query.iter().map(|member| if member.each { UrlChannels::All } else { named(&member.value) });
        let others = self.path.iter().chain(self.headers.iter().map(|(_, value)| value)).map(named);
        members.chain(others).max().unwrap_or_default()
    }
}

impl Dialect {
    /// Members of addresses' queries that hold nothing but fixed texts, channels, places and params that are no secrets.
    pub fn open_members(&self) -> BTreeSet<String> {
        let closed = |variable: &Variable| match variable {
            Variable::Channel | Variable::Part(_) | Variable::OfChannel(_) | Variable::Cursor => false,
            Variable::Params(_) | Variable::Connect(_) => !self.secret_params().is_empty(),
            _ => true,
        };
        let addresses = self.carriages.values().map(|carriage| &carriage.address).chain([&self.connect.address]);
        let members = addresses.flat_map(|address| &address.query);
        let open = members.filter(|member| !member.value.uses(closed));
        open.map(|member| member.name.to_string()).collect()
    }
}

pub(super) fn connect(
    section: Option<Section<'_>>,
    names: &Names,
    fetches: Option<&[Fetch]>,
    faults: &mut Faults,
) -> Connect {
    let Some(mut section) = section else {
        super::credentials::order(None, fetches, faults);
        return Connect::default();
    };
    let fetch = super::credentials::order(section.take("fetch"), fetches, faults);
    let url = section.text("url", faults).and_then(|text| compile(text, names, "connect.url", faults));
    let address = address(&mut section, "connect", names, faults);
    let subprotocols = section.texts("subprotocols", faults);
    for subprotocol in &subprotocols {
        if !is_token(subprotocol.value) {
            faults.add(subprotocol.at, "a subprotocol is a token of RFC 9110 (letters, digits, -._~!#$%&'*+^`|)");
        }
    }
    let join = section.text("join", faults).map_or(JOIN, |text| text.value).into();
    let websocket = section.boolean("websocket", faults).unwrap_or(true);
    let resumes = section.boolean("resumes", faults).unwrap_or(false);
    section.finish(faults);
    let subprotocols = subprotocols.iter().map(|text| text.value.to_owned()).collect();
    Connect { url, address, subprotocols, join, websocket, resumes, fetch }
}

pub(super) fn transports(
    section: Option<Section<'_>>,
    names: &Names,
    faults: &mut Faults,
) -> BTreeMap<Transport, Carriage> {
    let Some(mut section) = section else { return BTreeMap::new() };
    let mut all = BTreeMap::new();
    for (transport, key) in [(Transport::Sse, "sse"), (Transport::LongPoll, "long-poll"), (Transport::Poll, "poll")] {
        if let Some(own) = section.section(key, faults) {
            all.insert(transport, carriage(own, transport, names, faults));
        }
    }
    section.finish(faults);
    all
}

fn carriage(mut section: Section<'_>, transport: Transport, names: &Names, faults: &mut Faults) -> Carriage {
    let address = address(&mut section, transport.text(), names, faults);
    let resumes = section.boolean("resumes", faults).unwrap_or(false);
    let (interval, timeout) = match transport {
        Transport::Poll => (POLL_INTERVAL, POLL_TIMEOUT),
        _ => (Duration::ZERO, LONG_POLL_TIMEOUT),
    };
    let mut carriage = Carriage { address, cursor: None, interval, timeout, resumes };
    if transport.polls() {
        if let Some(text) = section.text("cursor", faults) {
            carriage.cursor = match Inside::parse(text.value) {
                Ok(cursor) => Some(cursor),
                Err(reason) => {
                    faults.add(text.at, reason);
                    None
                }
            };
        }
        for (key, value) in [("interval", &mut carriage.interval), ("timeout", &mut carriage.timeout)] {
            if let Some(text) = section.text(key, faults) {
                match units::duration(text.value).filter(|duration| !duration.is_zero()) {
                    Some(duration) => *value = duration,
                    None => faults.add(text.at, format!("`{key}` must be a duration, like \"30s\" or \"500ms\"")),
                }
            }
        }
    }
    section.finish(faults);
    carriage
}

fn address(section: &mut Section<'_>, place: &str, names: &Names, faults: &mut Faults) -> Address {
    let path = section.text("path", faults).and_then(|text| compile(text, names, &format!("{place}.path"), faults));
    let mut query = Vec::new();
    for (name, _, value) in table(section, "query", faults) {
        let place = format!("{place}.query.{name}");
        // A list of one text stands for as many members as there are channels.
        let listed = value.elements().filter(|elements| elements.len() == 1);
        let text = listed.as_ref().map_or_else(|| value.text(), |elements| elements[0].text());
        let Some(text) = text else {
            faults.add(value.at, format!("`{name}` must be a text, or a list of one text for each channel"));
            continue;
        };
        let value = compile(text, names, &place, faults);
        query.extend(value.map(|value| Member { name: name.into(), value, each: listed.is_some() }));
    }
    let mut headers = Vec::new();
    for (name, at, value) in table(section, "headers", faults) {
        if !is_token(name) {
            faults.add(at, format!("`{name}` is not a header's name"));
        }
        match value.text() {
            Some(text) => {
                let template = compile(text, names, &format!("{place}.headers.{name}"), faults);
                headers.extend(template.map(|template| (name.into(), template)));
            }
            None => faults.add(value.at, format!("`{name}` must be a text")),
        }
    }
    Address { path, query, headers }
}

/// The entries of a table of texts.
fn table<'a>(section: &mut Section<'a>, key: &'static str, faults: &mut Faults) -> Vec<(&'a str, usize, Place<'a>)> {
    let Some(place) = section.take(key) else { return Vec::new() };
    if !place.is_table() {
        faults.add(place.at, format!("`{key}` must be a table: name = \"value\""));
    }
    place.entries()
}

fn compile(text: Text<'_>, names: &Names, place: &str, faults: &mut Faults) -> Option<Template> {
    match Template::text(text.value, names, Scope::Connect, place) {
        Ok(template) => Some(template),
        Err(list) => {
            list.into_iter().for_each(|(offset, reason)| faults.add(text.place(offset), reason));
            None
        }
    }
}
