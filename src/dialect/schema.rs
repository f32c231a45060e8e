//! A dialect, loaded: its file's form, checked and compiled.
//!
//! Invariant: a [`Dialect`] that exists is complete: every pointer, hole and variable in it is known. Loading tells all
//! errors at once, each with its place. Unknown keys are errors.
//! Deliberately not here: reading files (the caller's), and what rules and templates do (`conversation`).
//!
//! - `document`: places and faults. `tables`, `send`, `rules`, `credentials`: the parts of the file. `calls`: what is asked
//!   about `[fetch]`. `builtins`: those compiled in.

mod builtins;
mod calls;
pub(crate) mod connect;
mod credentials;
mod document;
mod repair;
mod rules;
mod send;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use self::credentials::TokenCall;

use self::connect::{Carriage, Connect, UrlChannels};
use self::document::{Faults, Place, Section};
use super::checksum::Check;
use super::composition::Composition;
use super::fetch::Fetch;
use super::framing::Framing;
use super::http::same_origin;
use super::limits::{CloseTable, GapPolicy, GapScope, Limits, Rotate};
use super::rule::{Class, Rule};
use super::scan::PointerSet;
use super::sign::Sign;
use super::template::Template;
use super::variable::{LAST_ID, LAST_SEQ, Names, Variable};
use super::wire::Method;
use super::{Then, Transport};
use crate::relay::outbox::Confirm;

/// A loaded dialect: immutable, shared by all conversations held in it.
#[derive(Debug)]
pub struct Dialect {
    name: Box<str>,
    rotate: Rotate,
    limits: Limits,
    gap: Option<GapPolicy>,
    close: CloseTable,
    secret: Vec<String>,
    pub(crate) framing: Framing,
    pub(crate) connect: Connect,
    /// The ways to connect, the better one first.
    transports: Vec<Transport>,
    /// What is different in other transports than WebSocket.
    pub(crate) carriages: BTreeMap<Transport, Carriage>,
    pub(crate) fetches: Vec<Fetch>,
    pub(crate) signs: Vec<Sign>,
    /// Secrets that are named, and whether nothing goes without.
    secrets: Vec<(Box<str>, bool)>,
    pub(crate) names: Names,
    pub(crate) templates: Templates,
    pub(crate) rules: Vec<Rule>,
    pub(crate) repair: Option<RepairForm>,
    /// What `[gap] checksum` names.
    pub(crate) check: Option<Check>,
    /// All pointers of all rules.
    pub(crate) pointers: PointerSet,
    /// What the engine need not do unless some template names it.
    pub(crate) follows: Follows,
}

/// `[send]`.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    pub(crate) auth: Option<SendTemplate>,
    pub(crate) resume: Option<SendTemplate>,
    pub(crate) renew: Option<SendTemplate>,
    pub(crate) subscribe: Option<SendTemplate>,
    pub(crate) resubscribe: Option<SendTemplate>,
    pub(crate) unsubscribe: Option<SendTemplate>,
    pub(crate) publish: Option<SendTemplate>,
    pub(crate) ping: Option<SendTemplate>,
    pub(crate) pong: Option<SendTemplate>,
    pub(crate) receipt: Option<SendTemplate>,
    pub(crate) state: Option<SendTemplate>,
    pub(crate) audit: Option<SendTemplate>,
}

/// `[repair]`: an HTTP request, and how its answer is read.
#[derive(Debug)]
pub(crate) struct RepairForm {
    /// With the parts of the names of the channels that it is for.
    pub(crate) names: Names,
    pub(crate) method: Method,
    pub(crate) url: Template,
    pub(crate) headers: Vec<(Box<str>, Template)>,
    pub(crate) body: Option<Template>,
    /// What the answer is: it matches always.
    pub(crate) rule: Rule,
    /// Of the answer.
    pub(crate) pointers: PointerSet,
}

/// One entry of `[send]`.
#[derive(Debug)]
pub(crate) struct SendTemplate {
    pub(crate) template: Template,
    /// The path to which it leaves by POST, instead of over the connection.
    pub(crate) post: Option<Template>,
    /// The subscription id that the request gives itself.
    pub(crate) bind: Option<Template>,
    /// Whether upstream answers.
    pub(crate) answered: bool,
    pub(crate) confirm: Confirm,
}

/// What of the events' fields is kept for templates.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Follows {
    /// `{channel.last_id}`.
    pub(crate) last_id: bool,
    /// `{channel.seq}`.
    pub(crate) seq: bool,
}

/// Why a dialect file cannot be used: one of possibly many reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// The file's name as given.
    pub origin: Box<str>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and how to mend it.
    pub reason: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.origin, self.line, self.column, self.reason)
    }
}

impl std::error::Error for LoadError {}

impl Dialect {
    /// Loads a dialect from its TOML text. `origin` names it in errors: a path, or a built-in's name. All errors at once,
    /// in the order of their places; a file that is not TOML has one.
    pub fn parse(origin: &str, text: &str) -> Result<Dialect, Vec<LoadError>> {
        let mut faults = Faults::default();
        match toml_edit::ImDocument::parse(text) {
            Err(error) => {
                let reason = error.message().split('\n').collect::<Vec<_>>().join(", ");
                faults.add(error.span().map_or(0, |span| span.start), reason);
            }
            Ok(document) => {
                let dialect = read(Place::root(text, document.as_table()), &mut faults);
                if faults.is_empty() {
                    return Ok(dialect);
                }
            }
        }
        Err(faults.into_errors(origin, text))
    }

    /// The built-in dialect of that name.
    pub fn builtin(name: &str) -> Option<Arc<Dialect>> {
        Dialect::parse(name, Dialect::builtin_text(name)?).ok().map(Arc::new)
    }

    /// The built-in dialect's file, as it was compiled in.
    pub fn builtin_text(name: &str) -> Option<&'static str> {
        builtins::ALL.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    }

    /// The names of all built-in dialects, in alphabetical order.
    pub fn builtins() -> impl Iterator<Item = &'static str> {
        builtins::ALL.iter().map(|(name, _)| *name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the provider allows.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// `None`: sequence numbers may have holes; only repeated ones mean something.
    pub fn gap(&self) -> Option<&GapPolicy> {
        self.gap.as_ref()
    }

    /// What upstream means by closing with this code; `None`: connect again with backoff.
    pub fn on_close(&self, code: u16) -> Option<Then> {
        self.close.then(code)
    }

    /// Whether what the conversation carries over is worthless after this close code.
    pub fn forgets_on_close(&self, code: u16) -> bool {
        self.close.forgets(code)
    }

    /// The close code to use, so that upstream does (or does not) end the session.
    pub fn ours(&self) -> u16 {
        self.close.ours
    }

    /// How a connection is replaced by another one.
    pub fn rotate(&self) -> Rotate {
        self.rotate
    }

    /// Whether its events have ids, or numbers without holes per channel, so that the same event is known on two connections.
    pub fn tells_events_apart(&self) -> bool {
        let numbered = self.gap.is_some_and(|gap| gap.scope == Some(GapScope::Channel));
        let mut events = self.rules.iter().filter(|rule| rule.class == Class::Event);
        events.any(|rule| rule.fields.id.is_some() || (numbered && rule.fields.seq.is_some()))
    }

    /// The ways to connect that it describes, the better one first; never empty.
    pub fn transports(&self) -> &[Transport] {
        &self.transports
    }

    /// Which channels the address of this transport names.
    pub fn url_channels(&self, transport: Transport) -> UrlChannels {
        let own = self.carriages.get(&transport).map_or(UrlChannels::None, |carriage| carriage.address.channels());
        own.max(self.connect.address.channels())
    }

    /// Which channels addresses name, whatever the transport.
    fn any_url_channels(&self) -> UrlChannels {
        self.transports.iter().map(|transport| self.url_channels(*transport)).max().unwrap_or_default()
    }

    /// Whether a later connection of this transport goes on where the last one ended, without holes.
    pub fn resumes(&self, transport: Transport) -> bool {
        self.connect.resumes || self.carriages.get(&transport).is_some_and(|carriage| carriage.resumes)
    }

    /// Whether messages can be published at all.
    pub fn publishes(&self) -> bool {
        self.templates.publish.is_some()
    }

    /// Whether channels are subscribed one by one, by messages or by the address; else every channel is live once ready.
    pub fn subscribes(&self) -> bool {
        self.templates.subscribe.is_some() || self.any_url_channels() != UrlChannels::None
    }

    /// Whether channels can be unsubscribed.
    pub fn unsubscribes(&self) -> bool {
        self.templates.unsubscribe.is_some()
    }

    /// Whether a publish needs its channel to be subscribed (the template names `{sub}`).
    pub fn publish_joins(&self) -> bool {
        self.templates.publish.as_ref().is_some_and(SendTemplate::uses_sub)
    }

    /// Whether messages leave by POST.
    pub fn posts_messages(&self) -> bool {
        self.templates.publish.as_ref().is_some_and(|send| send.post.is_some())
    }

    /// Whether subscribes or unsubscribes leave by POST.
    pub fn posts_subscribes(&self) -> bool {
        let all = [&self.templates.subscribe, &self.templates.resubscribe, &self.templates.unsubscribe];
        all.into_iter().flatten().any(|send| send.post.is_some())
    }

    /// Whether [`super::Conversation::ping`] gives a frame.
    pub fn has_ping(&self) -> bool {
        self.templates.ping.is_some()
    }

    /// Params that are no part of a channel's identity and are shown nowhere.
    pub fn secret_params(&self) -> &[String] {
        &self.secret
    }

    /// What counts as delivered.
    pub fn confirm(&self) -> Confirm {
        self.templates.publish.as_ref().map_or(Confirm::Written, |publish| publish.confirm)
    }

    /// Whether some rule says this.
    pub(crate) fn hears(&self, class: Class) -> bool {
        self.rules.iter().any(|rule| rule.class == class)
    }

    /// Whether every event names its subscription, so that one channel name with different params is several channels.
    pub fn tells_params(&self) -> bool {
        let mut events =
            self.rules.iter().filter(|rule| matches!(rule.class, Class::Event | Class::Snapshot)).peekable();
        events.peek().is_some() && events.all(|rule| rule.sub.is_some())
    }

    /// Whether upstream's checksums are held against ours.
    pub fn checks(&self) -> bool {
        self.check.is_some()
    }

    /// Whether upstream states whole channels by itself.
    pub fn states(&self) -> bool {
        self.hears(Class::Snapshot)
    }

    /// What `[repair]` gets: the whole state of a channel, or (`false`) the events that are missing.
    pub fn repair_states(&self) -> Option<bool> {
        self.repair.as_ref().map(|form| form.rule.class == Class::Snapshot)
    }

    /// Whether `[repair]` is for a channel of this name.
    pub fn repairs(&self, name: &str) -> bool {
        let composition = self.repair.as_ref().map(|form| form.names.composition.as_ref());
        composition.is_some_and(|composition| composition.is_none_or(|composition| composition.split(name).is_some()))
    }

    /// Whether the state of a channel can be asked for in-band.
    pub fn has_state(&self) -> bool {
        self.templates.state.is_some()
    }

    /// Whether upstream can be asked what it believes to be subscribed.
    pub fn has_audit(&self) -> bool {
        self.templates.audit.is_some()
    }

    /// Whether it is asked for one key of a channel.
    pub fn has_state_of_keys(&self) -> bool {
        self.templates.state.as_ref().is_some_and(SendTemplate::names_key)
    }

    /// The origin that `[repair]` asks, where the dialect says it in full.
    pub fn repair_origin(&self) -> Option<String> {
        same_origin(self.repair.as_ref()?.url.fixed_start())
    }

    /// Whether answers to subscribes bring subscription ids.
    pub(crate) fn binds(&self) -> bool {
        self.rules.iter().any(|rule| rule.bind.is_some())
    }
}

/// Reads the whole file. What comes back after faults is incomplete and not used.
fn read(root: Place<'_>, faults: &mut Faults) -> Dialect {
    let mut file = Section::new("dialect", root, faults);
    match file.take("dialect") {
        Some(version) if version.integer() == Some(1) => {}
        Some(version) => faults.add(version.at, "this version reads `dialect = 1` only"),
        None => faults.add(0, "missing field `dialect`: write `dialect = 1`, the version of the language"),
    }
    let name = file.text("name", faults);
    if name.is_none() && file.take("name").is_none() {
        faults.add(0, "missing field `name`");
    }
    let composition = composition(&mut file, faults);
    let ways = [("make_before_break", Rotate::MakeBeforeBreak), ("break_before_make", Rotate::BreakBeforeMake)];
    let rotate = file.word("rotate", &ways, faults).unwrap_or_default();
    let secret = file.texts("secret", faults).iter().map(|text| text.value.to_owned()).collect();
    let framing = tables::frame(file.section("frame", faults), faults);
    let mut names = Names::new(composition);
    let on = rule_places(&mut file, faults);
    rules::define_names(&on, &mut names, faults);
    let (signs, fetches, whole) = credentials::compile(&mut file, &mut names, faults);
    let connect = connect::connect(file.section("connect", faults), &names, whole.then_some(&fetches[..]), faults);
    let carriages = connect::transports(file.section("transport", faults), &names, faults);
    let transports = transports_of(&connect, &carriages, faults);
    let limits = tables::limits(file.section("limits", faults), faults);
    let gap = tables::gap(file.section("gap", faults), faults);
    let gap_place = file.take("gap");
    let asked = file.take("repair");
    let repair = repair::compile(asked, gap_place.zip(gap.as_ref()), &names, faults);
    let close = tables::close(file.section("close", faults), faults);
    let templates = send::compile(file.section("send", faults), &names, &framing, faults);
    let mut pointers = PointerSet::new();
    let rules = rules::compile(&on, &mut names, &mut pointers, faults);
    if framing.greets() && !rules.iter().any(|rule| rule.class == Class::Ready) {
        faults.add(0, "frames of Socket.IO need a rule that is `ready`: match = { \"#packet\" = \"connect\" }");
    }
    replies_exist(&rules, &on, &templates, faults);
    let check = check(gap.as_ref(), gap_place, &rules, &on, faults);
    file.finish(faults);
    let secrets = credentials::secrets(&connect, &carriages, &templates, &signs, &fetches);
    let follows = templates.follows();
    let name = name.map_or("", |name| name.value).into();
    Dialect {
        name,
        rotate,
        limits,
        gap,
        close,
        secret,
        framing,
        connect,
        transports,
        carriages,
        fetches,
        signs,
        secrets,
        names,
        templates,
        rules,
        repair,
        check,
        pointers,
        follows,
    }
}

/// What `[gap] checksum` and the rules that have checksums come to: neither means anything without the other.
fn check(
    gap: Option<&GapPolicy>,
    gap_place: Option<Place<'_>>,
    rules: &[Rule],
    places: &[Place<'_>],
    faults: &mut Faults,
) -> Option<Check> {
    let named = gap.and_then(|gap| gap.checksum);
    let checked = rules.iter().zip(places).filter(|(rule, _)| rule.checksum.is_some());
    if named.is_none() && rules.len() == places.len() {
        checked.for_each(|(_, place)| faults.add(place.at, "`checksum` needs [gap] checksum, which says whose it is"));
        return None;
    }
    let begins = rules.iter().any(|rule| rule.class == Class::Snapshot && rule.checksum.is_some());
    if let (Some(place), false, true) = (gap_place, begins, rules.len() == places.len()) {
        faults
            .add(place.at, "[gap] checksum needs a rule that is `snapshot` with `checksum`: the state it begins with");
    }
    named.and_then(Check::new)
}

/// How channels' names are made of parts.
fn composition(file: &mut Section<'_>, faults: &mut Faults) -> Option<Composition> {
    file.text("channel", faults).and_then(|text| match Composition::parse(text.value) {
        Ok(composition) => Some(composition),
        Err((offset, reason)) => {
            faults.add(text.place(offset), reason);
            None
        }
    })
}

/// The ways to connect, the better one first.
fn transports_of(connect: &Connect, carriages: &BTreeMap<Transport, Carriage>, faults: &mut Faults) -> Vec<Transport> {
    let websocket = connect.websocket.then_some(Transport::WebSocket);
    let transports: Vec<Transport> = websocket.into_iter().chain(carriages.keys().copied()).collect();
    if transports.is_empty() {
        faults.add(0, "no transport: without a WebSocket there has to be a [transport.sse], long-poll or poll");
    }
    places_are_named(connect, carriages, &transports, faults);
    transports
}

/// Where the ids of events are places, each transport has to name the place from which it goes on; an event stream does so by
/// itself.
fn places_are_named(
    connect: &Connect,
    carriages: &BTreeMap<Transport, Carriage>,
    transports: &[Transport],
    faults: &mut Faults,
) {
    let own = |transport: &Transport| carriages.get(transport).is_some_and(|own| own.address.names_place());
    let common = connect.address.names_place();
    let names = |transport: &Transport| *transport == Transport::Sse || common || own(transport);
    if connect.resumes && !transports.iter().all(names) {
        faults.add(0, "`resumes` in [connect] needs {cursor?} in an address or header of every transport");
    }
}

fn rule_places<'a>(file: &mut Section<'a>, faults: &mut Faults) -> Vec<Place<'a>> {
    let Some(on) = file.take("on") else {
        faults.add(0, "no rules: a dialect needs at least one [[on]]");
        return Vec::new();
    };
    on.elements().unwrap_or_else(|| {
        faults.add(on.at, "rules are written [[on]], each with its own header");
        Vec::new()
    })
}

/// A rule that answers needs the template it answers with, and a question the rule that reads its answer. (Where rules
/// had faults, these are reported first.)
fn replies_exist(rules: &[Rule], places: &[Place<'_>], templates: &Templates, faults: &mut Faults) {
    if rules.len() != places.len() {
        return;
    }
    if templates.audit.is_some() && !rules.iter().any(|rule| rule.class == Class::Subscriptions) {
        faults.add(0, "send.audit needs a rule that is `subscriptions`, which reads the answer");
    }
    for (rule, place) in rules.iter().zip(places) {
        if let Some(reply) = rule.reply
            && templates.reply(reply).is_none()
        {
            faults.add(place.at, format!("this rule replies with send.{}, which is not there", reply.word()));
        }
    }
}

impl Templates {
    /// The template for a reply.
    pub(crate) fn reply(&self, reply: super::rule::Reply) -> Option<&SendTemplate> {
        match reply {
            super::rule::Reply::Pong => self.pong.as_ref(),
            super::rule::Reply::Receipt => self.receipt.as_ref(),
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &SendTemplate> {
        let channels = [&self.subscribe, &self.resubscribe, &self.unsubscribe, &self.publish];
        let others =
            [&self.auth, &self.resume, &self.renew, &self.ping, &self.pong, &self.receipt, &self.state, &self.audit];
        channels.into_iter().chain(others).flatten()
    }

    fn follows(&self) -> Follows {
        let all = [&self.subscribe, &self.resubscribe, &self.unsubscribe, &self.publish];
        let uses = |slot: usize| {
            let like = |variable: &Variable| matches!(variable, Variable::OfChannel(named) if *named == slot);
            all.iter().copied().flatten().any(|send| send.template.uses(like))
        };
        Follows { last_id: uses(LAST_ID), seq: uses(LAST_SEQ) }
    }
}
