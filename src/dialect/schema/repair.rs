//! `[repair]`: what is asked beside the stream when something is missing, and how the answer is read.

use super::RepairForm;
use super::document::{Faults, Place, Section, Text};
use super::rules;
use crate::dialect::composition::Composition;
use crate::dialect::limits::{GapPolicy, GapScope, OnGap};
use crate::dialect::rule::Class;
use crate::dialect::scan::PointerSet;
use crate::dialect::template::Template;
use crate::dialect::variable::{Names, Scope};
use crate::dialect::wire::Method;

/// Reads the table, and holds it against `[gap]`.
pub(super) fn compile(
    place: Option<Place<'_>>,
    gap: Option<(Place<'_>, &GapPolicy)>,
    names: &Names,
    faults: &mut Faults,
) -> Option<RepairForm> {
    let fetches = gap.filter(|(_, policy)| policy.then == OnGap::Fetch);
    if let Some((gap, policy)) = fetches {
        if place.is_none() {
            faults.add(gap.at, "then = \"fetch\" needs [repair], which says what is fetched");
        }
        if policy.scope == Some(GapScope::Connection) {
            faults.add(
                gap.at,
                "then = \"fetch\" needs scope = \"channel\": an answer is merged by its channel's numbers",
            );
        }
    }
    let mut section = Section::new("repair", place?, faults);
    let names = own_names(&mut section, names, faults);
    let (get, post) = (section.text("get", faults), section.text("post", faults));
    let (method, url) = match (get, post) {
        (Some(url), None) => (Method::Get, Some(url)),
        (None, Some(url)) => (Method::Post, Some(url)),
        _ => {
            faults.add(section.at, "[repair] needs `get` or `post`, one of them");
            (Method::Get, None)
        }
    };
    if let Some(url) = url.filter(|url| !["/", "https://", "http://"].iter().any(|start| url.value.starts_with(start)))
    {
        faults.add(url.at, "an address begins with https://, or with / where it is the upstream's own");
    }
    let url = url.and_then(|url| template(url, false, &names, "repair.url", faults));
    let body = section.text("json", faults).and_then(|text| template(text, true, &names, "repair.json", faults));
    let headers = headers(&mut section, &names, faults);
    let mut pointers = PointerSet::new();
    let rule = rules::answer(&mut section, &names, &mut pointers, faults);
    if let Some(rule) = rule.as_ref().filter(|_| fetches.is_some()) {
        let element = rule.each.as_ref().is_some_and(|each| each.fields.seq.is_some());
        if rule.fields.seq.is_none() && !(rule.class == Class::Event && element) {
            faults.add(section.at, "[repair] needs `seq`: an answer is merged by its number");
        }
    }
    section.finish(faults);
    Some(RepairForm { names, method, url: url?, headers, body, rule: rule?, pointers })
}

/// With the parts of `channel`, which also says for which channels this is.
fn own_names(section: &mut Section<'_>, names: &Names, faults: &mut Faults) -> Names {
    let mut own = names.clone();
    if let Some(text) = section.text("channel", faults) {
        match Composition::parse(text.value) {
            Ok(composition) => own.composition = Some(composition),
            Err((offset, reason)) => faults.add(text.place(offset), reason),
        }
    }
    own
}

fn template(text: Text<'_>, json: bool, names: &Names, place: &str, faults: &mut Faults) -> Option<Template> {
    let result = match json {
        true => Template::json(text.value, names, Scope::Wish, place),
        false => Template::text(text.value, names, Scope::Wish, place),
    };
    match result {
        Ok(template) => Some(template),
        Err(list) => {
            list.into_iter().for_each(|(offset, reason)| faults.add(text.place(offset), reason));
            None
        }
    }
}

fn headers(section: &mut Section<'_>, names: &Names, faults: &mut Faults) -> Vec<(Box<str>, Template)> {
    let Some(place) = section.take("headers") else { return Vec::new() };
    if !place.is_table() {
        faults.add(place.at, "`headers` must be a table: name = \"value\"");
    }
    let mut headers = Vec::new();
    for (name, at, value) in place.entries() {
        if !super::tables::is_token(name) {
            faults.add(at, format!("`{name}` is not a header's name"));
        }
        match value.text() {
            Some(text) => {
                let value = template(text, false, names, &format!("repair.headers.{name}"), faults);
                headers.extend(value.map(|value| (name.into(), value)));
            }
            None => faults.add(value.at, format!("`{name}` must be a text")),
        }
    }
    headers
}
