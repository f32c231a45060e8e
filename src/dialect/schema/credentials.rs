//! `[fetch.NAME]` and `[sign.NAME]`: from the file to compiled calls and signatures, and which secrets a dialect needs.

use std::collections::BTreeMap;

use super::Templates;
use super::connect::{Carriage, Connect};
use super::document::{Faults, Place, Section, Text};
use super::rules::answer_conditions;
use crate::dialect::Transport;
use crate::dialect::fetch::{self, Body, Fetch, NoSupply, Question, Supply, Take, When};
use crate::dialect::http::HttpAnswer;
use crate::dialect::jwt::{Algorithm, Jwt};
use crate::dialect::pointer::Pointer;
use crate::dialect::sign::{self, Hash, Hashed, How, KeyForm, Needs, Out, Pattern, Sign};
use crate::dialect::template::{Need, Template};
use crate::dialect::units;
use crate::dialect::variable::{Names, Scope, Variable};
use crate::dialect::wire::Method;
use crate::relay::time::Time;

const HASHES: [(&str, Hash); 4] =
    [("sha256", Hash::Sha256), ("sha384", Hash::Sha384), ("sha512", Hash::Sha512), ("sha1", Hash::Sha1)];

const KEY_FORMS: [(&str, KeyForm); 3] = [("text", KeyForm::Text), ("base64", KeyForm::Base64), ("hex", KeyForm::Hex)];

/// The named tables of a section, each with its name.
fn named<'a>(
    place: Option<Place<'a>>,
    what: &str,
    most: usize,
    faults: &mut Faults,
) -> Vec<(&'a str, usize, Place<'a>)> {
    let Some(place) = place else { return Vec::new() };
    let entries = place.entries();
    if !place.is_table() {
        faults.add(place.at, format!("`{what}` is written [{what}.NAME], each with its own header"));
    }
    if entries.len() > most {
        faults.add(place.at, format!("more than {most} of `{what}`"));
    }
    for (name, at, _) in &entries {
        if !crate::dialect::composition::is_name(name) {
            faults.add(*at, format!("`{name}` is not a name (letters, digits and _)"));
        }
    }
    entries
}

/// `[sign]` and `[fetch]`, and whether every call could be compiled.
pub(super) fn compile(file: &mut Section<'_>, names: &mut Names, faults: &mut Faults) -> (Vec<Sign>, Vec<Fetch>, bool) {
    let (calls, signatures) = (file.take("fetch"), file.take("sign"));
    define_names(calls, names, faults);
    let signs = signs(signatures, names, faults);
    let fetches = fetches(calls, names, faults);
    let whole = calls.is_none_or(|tables| tables.entries().len() == fetches.len());
    (signs, fetches, whole)
}

/// Notes the names that the answers of calls supply.
fn define_names(fetches: Option<Place<'_>>, names: &mut Names, faults: &mut Faults) {
    for (_, _, call) in fetches.map(|fetches| fetches.entries()).unwrap_or_default() {
        let entries = call.entries();
        let takes = entries.iter().filter(|(key, _, _)| ["take", "take_if"].contains(key));
        for (target, at, _) in takes.flat_map(|(_, _, take)| take.entries()) {
            if let Err(reason) = names.define(target) {
                faults.add(at, reason);
            }
        }
    }
}

/// Compiles all signatures; each is known to those after it, and to everything that is compiled later.
fn signs(place: Option<Place<'_>>, names: &mut Names, faults: &mut Faults) -> Vec<Sign> {
    let mut signs: Vec<Sign> = Vec::new();
    for (name, at, place) in named(place, "sign", sign::MOST, faults) {
        let Some(sign) = one_sign(name, Section::new("sign", place, faults), names, faults) else { continue };
        let uses = |template: &Template| template.uses(|variable| matches!(variable, Variable::Sign(..)));
        let inner = sign.templates().flat_map(Template::holes).filter_map(|(variable, _, _)| match variable {
            Variable::Sign(index, _) => signs.get(*index),
            _ => None,
        });
        if inner.into_iter().any(|inner| inner.templates().any(uses)) {
            faults.add(at, "a signature inside a signature can name none itself");
        }
        let variables = sign.templates().flat_map(Template::holes);
        let needs = variables.map(|(variable, _, _)| Needs::of(variable)).fold(Needs::default(), Needs::and);
        let needs = Needs { channel: needs.channel || !sign.channels.is_empty(), ..needs };
        names.signs.push((name.into(), needs));
        signs.push(sign);
    }
    signs
}

fn one_sign(name: &str, mut section: Section<'_>, names: &Names, faults: &mut Faults) -> Option<Sign> {
    if section.take("jwt").is_some() {
        return one_token(name, section, names, faults);
    }
    let place = format!("sign.{name}");
    let keyed = section.word("hmac", &HASHES, faults);
    let plain = section.word("hash", &HASHES, faults);
    let key = section.text("key", faults);
    let form = section.word("key_is", &KEY_FORMS, faults).unwrap_or_default();
    let words = [("hex", Out::Hex), ("base64", Out::Base64), ("raw", Out::Raw)];
    let out = section.word("out", &words, faults).unwrap_or_default();
    let text = section.text("text", faults);
    let prefix = section.text("prefix", faults);
    let channels = patterns(&mut section, faults);
    if text.is_none() && section.take("text").is_none() {
        faults.add(section.at, format!("{place} needs `text`"));
    }
    match (section.take("hmac"), section.take("hash"), section.take("key")) {
        (Some(_), None, Some(_)) | (None, Some(_), None) => {}
        (Some(_), None, None) => faults.add(section.at, format!("{place} needs `key`: \"{{secret.NAME}}\"")),
        _ => faults.add(section.at, format!("{place} needs `hmac` and `key`, or `hash` alone, or `jwt`")),
    }
    section.finish(faults);
    let mut compile = |text: Text<'_>, key: &str| compiled(text, names, Scope::Sign, &format!("{place}.{key}"), faults);
    let key = key.and_then(|key| compile(key, "key"));
    let text = text.and_then(|text| compile(text, "text"));
    let prefix = prefix.and_then(|prefix| compile(prefix, "prefix"));
    let hash = keyed.or(plain)?;
    let hashed = Hashed { hash, key: key.map(|key| (key, form)), text: text?, out, prefix };
    Some(Sign { how: How::Hash(hashed), channels })
}

/// `jwt = "…"`: a token instead of a hash.
fn one_token(name: &str, mut section: Section<'_>, names: &Names, faults: &mut Faults) -> Option<Sign> {
    let place = format!("sign.{name}");
    let algorithms = [("ES256", Algorithm::Es256), ("HS256", Algorithm::Hs256)];
    let algorithm = section.word("jwt", &algorithms, faults);
    let form = section.word("key_is", &KEY_FORMS, faults).unwrap_or_default();
    let key = section.text("key", faults);
    if key.is_none() && section.take("key").is_none() {
        faults.add(section.at, format!("{place} needs `key`: \"{{secret.NAME}}\""));
    }
    let key = key.and_then(|key| compiled(key, names, Scope::Sign, &format!("{place}.key"), faults));
    let lasts = duration(&mut section, "lasts", faults);
    if lasts.is_none() && section.take("lasts").is_none() {
        faults.add(section.at, format!("{place} needs `lasts`: how long the token is good, \"2m\""));
    }
    let header = members(&mut section, "header", names, Scope::Sign, &place, faults);
    let claims = members(&mut section, "claims", names, Scope::Sign, &place, faults);
    let channels = patterns(&mut section, faults);
    section.finish(faults);
    let token = Jwt { algorithm: algorithm?, key: key?, form, header, claims, lasts: lasts? };
    Some(Sign { how: How::Token(token), channels })
}

fn patterns(section: &mut Section<'_>, faults: &mut Faults) -> Vec<Pattern> {
    let texts = section.texts("channels", faults);
    for text in &texts {
        if text.value.is_empty() || text.value.trim_end_matches('*').contains('*') || text.value.ends_with("**") {
            faults.add(text.at, "a pattern is a channel's name, or the start of one and `*`");
        }
    }
    texts.iter().map(|text| Pattern::new(text.value)).collect()
}

/// Compiles all calls.
fn fetches(place: Option<Place<'_>>, names: &mut Names, faults: &mut Faults) -> Vec<Fetch> {
    let entries = named(place, "fetch", fetch::MOST, faults);
    entries.into_iter().filter_map(|(name, _, place)| one_fetch(name, place, names, faults)).collect()
}

fn one_fetch(name: &str, place: Place<'_>, names: &mut Names, faults: &mut Faults) -> Option<Fetch> {
    let mut section = Section::new("fetch", place, faults);
    let words = [("connect", When::Connect), ("subscribe", When::Subscribe)];
    let when = section.word("when", &words, faults).unwrap_or_default();
    let scope = if when == When::Subscribe { Scope::ChannelFetch } else { Scope::Fetch };
    let label = format!("fetch.{name}");
    let ttl = duration(&mut section, "ttl", faults);
    if when == When::Subscribe
        && let Some(place) = section.take("ttl")
    {
        faults.add(place.at, "a fetch for a channel is made before each of its subscribes and has no `ttl`");
    }
    let take = taken(&mut section, when, names, faults);
    let message = section.text("message", faults).and_then(|text| pointer(text, faults));
    let failed = answer_conditions(&mut section, "failed", faults);
    let denied = answer_conditions(&mut section, "denied", faults);
    let channels = patterns(&mut section, faults);
    if when == When::Connect
        && let Some(place) = section.take("channels")
    {
        faults.add(place.at, "`channels` needs when = \"subscribe\"");
    }
    let optional = section.boolean("optional", faults).unwrap_or(false);
    let once = section.boolean("once", faults).unwrap_or(false);
    if once && ttl.is_some() {
        faults.add(section.at, format!("{label}: an answer that is good for one connection (`once`) has no `ttl`"));
    }
    let refresh = section.section("refresh", faults).and_then(|mut refresh| {
        let question = question(&mut refresh, names, scope, &format!("{label}.refresh"), faults);
        refresh.finish(faults);
        question
    });
    if ttl.is_none()
        && let Some(place) = section.take("refresh")
    {
        faults.add(place.at, "`refresh` needs `ttl`: how long an answer holds");
    }
    let question = question(&mut section, names, scope, &label, faults);
    section.finish(faults);
    Some(Fetch {
        name: name.into(),
        question: question?,
        refresh,
        take,
        once,
        message,
        failed,
        denied,
        ttl,
        when,
        channels,
        optional,
    })
}

fn duration(section: &mut Section<'_>, key: &'static str, faults: &mut Faults) -> Option<std::time::Duration> {
    let text = section.text(key, faults)?;
    let ttl = units::duration(text.value).filter(|ttl| !ttl.is_zero());
    if ttl.is_none() {
        faults.add(text.at, format!("`{key}` must be a duration, like \"30m\""));
    }
    ttl
}

fn taken(section: &mut Section<'_>, when: When, names: &mut Names, faults: &mut Faults) -> Vec<Take> {
    let tables = [("take", true), ("take_if", false)].map(|(key, required)| (section.take(key), required));
    if tables.iter().all(|(table, _)| table.is_none()) {
        faults.add(section.at, "a fetch needs `take`: { variable = \"/pointer/into/the/answer\" }");
    }
    let tables = tables.iter().filter_map(|(table, required)| Some((table.as_ref()?.entries(), *required)));
    let entries = tables.flat_map(|(entries, required)| entries.into_iter().map(move |entry| (entry, required)));
    let mut taken = Vec::new();
    for ((target, at, value), required) in entries {
        // What is wrong with the name was told when the names were noted.
        let Ok(variable) = names.define(target) else { continue };
        match (&variable, when) {
            (Variable::Session(_), When::Connect) | (Variable::OfChannel(_), When::Subscribe) => {}
            (_, When::Connect) => {
                faults.add(at, format!("`{target}`: before connecting only plain variables are supplied"))
            }
            (_, When::Subscribe) => faults.add(at, format!("`{target}`: for a channel, write channel.{target}")),
        }
        match value.text() {
            Some(text) => taken.extend(pointer(text, faults).map(|at| Take { variable, at, required })),
            None => faults.add(value.at, "expected a JSON Pointer into the answer"),
        }
    }
    taken
}

fn pointer(text: Text<'_>, faults: &mut Faults) -> Option<Pointer> {
    Pointer::parse(text.value).map_err(|error| faults.add(text.at, error.to_string())).ok()
}

/// `get`, `post` or `put`, and what goes with it.
fn question(
    section: &mut Section<'_>,
    names: &Names,
    scope: Scope,
    label: &str,
    faults: &mut Faults,
) -> Option<Question> {
    let methods = [("get", Method::Get), ("post", Method::Post), ("put", Method::Put)];
    let given: Vec<_> =
        methods.iter().filter_map(|(key, method)| Some((*method, section.text(key, faults)?))).collect();
    let headers = members(section, "headers", names, scope, label, faults);
    for (name, at) in
        section.take("headers").map(|place| place.entries()).unwrap_or_default().iter().map(|e| (e.0, e.1))
    {
        if !super::tables::is_token(name) {
            faults.add(at, format!("`{name}` is not a header's name"));
        }
    }
    let json = section.text("json", faults).and_then(|text| {
        let template = Template::json(text.value, names, scope, &format!("{label}.json"));
        template.map_err(|list| list.into_iter().for_each(|(at, reason)| faults.add(text.place(at), reason))).ok()
    });
    let form = section.take("form").is_some().then(|| members(section, "form", names, scope, label, faults));
    let body = match (json, form) {
        (Some(template), None) => Body::Json(template),
        (None, Some(members)) => Body::Form(members),
        (None, None) => Body::None,
        (Some(_), Some(_)) => {
            faults.add(section.at, format!("{label} has `json` and `form`; keep one"));
            Body::None
        }
    };
    let [(method, address)] = given[..] else {
        faults.add(
            section.at,
            format!(
                "{label} needs `get`, `post` or `put`, one of them: an address, or a path at upstream's own origin"
            ),
        );
        return None;
    };
    let begins = ["/", "http://", "https://", "{"];
    if !begins.iter().any(|start| address.value.starts_with(start)) {
        faults.add(address.at, "expected a path (/…) or an address (https://…)");
    }
    let below = section.text("below", faults);
    if let Some(text) = below
        && (text.value.starts_with('/') || !text.value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'))
    {
        faults.add(text.at, "`below` is put at the end of a path: \"negotiate\", \"negotiate?version=1\"");
    }
    let url = compiled(address, names, scope, label, faults)?;
    Some(Question { method, url, below: below.map(|text| text.value.into()), headers, body })
}

/// A table of templates.
fn members(
    section: &mut Section<'_>,
    key: &'static str,
    names: &Names,
    scope: Scope,
    label: &str,
    faults: &mut Faults,
) -> Vec<(Box<str>, Template)> {
    let Some(place) = section.take(key) else { return Vec::new() };
    if !place.is_table() {
        faults.add(place.at, format!("`{key}` must be a table: name = \"value\""));
    }
    let mut members = Vec::new();
    for (name, _, value) in place.entries() {
        match value.text() {
            Some(text) => {
                let template = compiled(text, names, scope, &format!("{label}.{key}.{name}"), faults);
                members.extend(template.map(|template| (name.into(), template)));
            }
            None => faults.add(value.at, format!("`{name}` must be a text")),
        }
    }
    members
}

fn compiled(text: Text<'_>, names: &Names, scope: Scope, place: &str, faults: &mut Faults) -> Option<Template> {
    match Template::text(text.value, names, scope, place) {
        Ok(template) => Some(template),
        Err(list) => {
            list.into_iter().for_each(|(offset, reason)| faults.add(text.place(offset), reason));
            None
        }
    }
}

/// `connect.fetch`: the calls before a connection, in their order. Nothing is said where a call had faults of its own.
pub(super) fn order(place: Option<Place<'_>>, fetches: Option<&[Fetch]>, faults: &mut Faults) -> Vec<usize> {
    let Some(fetches) = fetches else { return Vec::new() };
    let mut order = Vec::new();
    let elements = place.and_then(|place| place.elements()).unwrap_or_default();
    if let (Some(place), true) = (place, elements.is_empty()) {
        faults.add(place.at, "`fetch` must be a list of names: [\"token\"]");
    }
    for element in elements {
        let name = element.text().map_or("", |text| text.value);
        match fetches.iter().position(|fetch| *fetch.name == *name && fetch.when == When::Connect) {
            Some(index) if !order.contains(&index) => order.push(index),
            Some(_) => faults.add(element.at, format!("`{name}` is named twice")),
            None => faults.add(element.at, format!("there is no [fetch.{name}] with when = \"connect\"")),
        }
    }
    for (index, fetch) in fetches.iter().enumerate() {
        if fetch.when == When::Connect && !order.contains(&index) {
            let at = place.map_or(0, |place| place.at);
            faults.add(
                at,
                format!(
                    "fetch.{0} is never called: write [connect] fetch = [\"{0}\"], or when = \"subscribe\"",
                    fetch.name
                ),
            );
        }
    }
    order
}

/// The secrets that a dialect names, and whether it cannot do without.
pub(super) fn secrets(
    connect: &Connect,
    carriages: &BTreeMap<Transport, Carriage>,
    send: &Templates,
    signs: &[Sign],
    fetches: &[Fetch],
) -> Vec<(Box<str>, bool)> {
    let mut secrets = BTreeMap::new();
    let addresses = carriages.values().flat_map(|carriage| carriage.address.templates());
    for template in connect.templates().chain(addresses).chain(send.all().map(|send| &send.template)) {
        note(template, true, signs, &mut secrets);
    }
    for fetch in fetches {
        fetch.templates().for_each(|template| note(template, !fetch.optional, signs, &mut secrets));
    }
    secrets.into_iter().collect()
}

fn note(template: &Template, required: bool, signs: &[Sign], secrets: &mut BTreeMap<Box<str>, bool>) {
    for (variable, _, need) in template.holes() {
        note_variable(variable, required && *need != Need::Optional, signs, secrets);
    }
}

fn note_variable(variable: &Variable, required: bool, signs: &[Sign], secrets: &mut BTreeMap<Box<str>, bool>) {
    match variable {
        Variable::Secret(name) => *secrets.entry(name.clone()).or_default() |= required,
        Variable::Sign(index, _) => {
            let templates = signs.get(*index).into_iter().flat_map(Sign::templates);
            templates.for_each(|template| note(template, required, signs, secrets));
        }
        Variable::First(list) => list.iter().for_each(|variable| note_variable(variable, false, signs, secrets)),
        _ => {}
    }
}

/// A call for the upstream token that the configuration defines (`upstream.token_fetch`), in the words of `[fetch]`: its
/// `take` is one pointer, and of variables it has those that need no dialect.
#[derive(Debug)]
pub struct TokenCall(pub(crate) Fetch);

impl TokenCall {
    /// From the table's TOML; else everything that is wrong.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let mut faults = Faults::default();
        let mut call = None;
        match toml_edit::ImDocument::parse(text) {
            Err(error) => faults.add(0, error.message()),
            Ok(document) => {
                let mut section = Section::new("token_fetch", Place::root(text, document.as_table()), &mut faults);
                let take = section.text("take", &mut faults).and_then(|text| pointer(text, &mut faults));
                if take.is_none() && section.take("take").is_none() {
                    faults.add(0, "needs `take`: where the token stands in the answer, \"/access_token\"");
                }
                let ttl = duration(&mut section, "ttl", &mut faults);
                let message = section.text("message", &mut faults).and_then(|text| pointer(text, &mut faults));
                let failed = answer_conditions(&mut section, "failed", &mut faults);
                let denied = answer_conditions(&mut section, "denied", &mut faults);
                let names = Names::new(None);
                let question = question(&mut section, &names, Scope::Fetch, "token_fetch", &mut faults);
                section.finish(&mut faults);
                call = question.zip(take).map(|(question, take)| Fetch {
                    name: "token".into(),
                    question,
                    refresh: None,
                    take: vec![Take { variable: Variable::Token, at: take, required: true }],
                    once: false,
                    message,
                    failed,
                    denied,
                    ttl,
                    when: When::Connect,
                    channels: Vec::new(),
                    optional: false,
                });
            }
        }
        let faults = faults.into_errors("", text);
        match call {
            Some(call) if faults.is_empty() => Ok(TokenCall(call)),
            _ => Err(faults.into_iter().map(|fault| fault.reason).collect()),
        }
    }

    /// What an answer to it supplies.
    pub fn supply(&self, now: Time, answer: &HttpAnswer) -> Result<Supply, NoSupply> {
        self.0.supply(now, answer, false)
    }

    /// The secrets that it names.
    pub fn secrets(&self) -> Vec<Box<str>> {
        let mut secrets = BTreeMap::new();
        self.0.templates().for_each(|template| note(template, true, &[], &mut secrets));
        secrets.into_keys().collect()
    }
}
