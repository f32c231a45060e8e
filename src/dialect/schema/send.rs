//! `[send]`: from the file to compiled templates.

use super::document::{Faults, Place, Section, Text};
use super::{SendTemplate, Templates};
use crate::dialect::framing::{FrameKind, Framing};
use crate::dialect::template::Template;
use crate::dialect::variable::{Names, Scope, Variable};
use crate::relay::outbox::Confirm;

pub(super) fn compile(
    section: Option<Section<'_>>,
    names: &Names,
    framing: &Framing,
    faults: &mut Faults,
) -> Templates {
    let Some(mut send) = section else { return Templates::default() };
    let mut one = |key: &'static str, scope: Scope, faults: &mut Faults| {
        let place = send.take(key)?;
        let template = template(place, key, scope, names, faults)?;
        if framing.kind == FrameKind::SocketIo {
            let (opens, what) = match key {
                "auth" | "resume" => (b'{', "what CONNECT carries: a JSON object"),
                _ => (b'[', "an event: a JSON array, its name first"),
            };
            if !template.template.opens(opens) {
                faults.add(place.at, format!("send.{key} is {what}"));
            }
        }
        Some(template)
    };
    let templates = Templates {
        auth: one("auth", Scope::Auth, faults),
        resume: one("resume", Scope::Auth, faults),
        renew: one("renew", Scope::Auth, faults),
        subscribe: one("subscribe", Scope::Channel, faults),
        resubscribe: one("resubscribe", Scope::Channel, faults),
        unsubscribe: one("unsubscribe", Scope::Channel, faults),
        publish: one("publish", Scope::Publish, faults),
        ping: one("ping", Scope::Ping, faults),
        pong: one("pong", Scope::Reply, faults),
        receipt: one("receipt", Scope::Reply, faults),
        state: one("state", Scope::Wish, faults),
        audit: one("audit", Scope::Ping, faults),
    };
    for key in ["resubscribe", "unsubscribe"] {
        if let (Some(place), None) = (send.take(key), send.take("subscribe")) {
            faults.add(place.at, format!("send.{key} needs send.subscribe"));
        }
    }
    let joins = templates.publish.as_ref().is_some_and(|publish| publish.uses_sub());
    if let (true, Some(place), None) = (joins, send.take("publish"), send.take("subscribe")) {
        faults.add(place.at, "send.publish names {sub}, which only send.subscribe gives");
    }
    send.finish(faults);
    templates
}

/// Text, or a table with the text and how it is used.
fn template(
    place: Place<'_>,
    key: &'static str,
    scope: Scope,
    names: &Names,
    faults: &mut Faults,
) -> Option<SendTemplate> {
    let name = format!("send.{key}");
    if let Some(text) = place.text() {
        let template = compiled(Template::json(text.value, names, scope, &name), text, faults)?;
        return Some(SendTemplate::new(template, None, None, None, None));
    }
    if !place.is_table() {
        faults.add(place.at, format!("{name} must be a text or a table: {{ json = \"...\" }}"));
        return None;
    }
    let mut section = Section::new(key, place, faults);
    let (json, plain) = (section.text("json", faults), section.text("text", faults));
    let template = match (json, plain) {
        (Some(text), None) => compiled(Template::json(text.value, names, scope, &name), text, faults),
        (None, Some(text)) => compiled(Template::text(text.value, names, scope, &name), text, faults),
        _ => {
            faults.add(section.at, format!("{name} needs `json` or `text`, one of them"));
            None
        }
    };
    let mut bind = None;
    if scope == Scope::Channel
        && let Some(place) = section.take("bind")
    {
        bind = binding(place, scope, names, &format!("{name}.bind"), faults);
        if template.as_ref().is_some_and(Template::lists) {
            faults.add(place.at, "one subscription id cannot stand for a list of channels");
        }
    }
    let post = section.text("post", faults).and_then(|text| {
        if !text.value.starts_with('/') || text.value.starts_with("//") {
            faults.add(text.at, format!("{name}.post is a path on the service's own host: \"/publish\""));
        }
        compiled(Template::text(text.value, names, scope, &format!("{name}.post")), text, faults)
    });
    let ack = section.boolean("ack", faults);
    let confirm = if scope == Scope::Publish {
        let words = [
            ("ack", Confirm::Ack),
            ("echo", Confirm::Echo),
            ("barrier", Confirm::Barrier),
            ("written", Confirm::Written),
        ];
        section.word("confirm", &words, faults)
    } else {
        None
    };
    section.finish(faults);
    Some(SendTemplate::new(template?, post, bind, ack, confirm))
}

/// The subscription id that a request gives itself: plain text, or a table with the JSON that the id is the text of.
fn binding(place: Place<'_>, scope: Scope, names: &Names, name: &str, faults: &mut Faults) -> Option<Template> {
    let template = match place.text() {
        Some(text) => compiled(Template::text(text.value, names, scope, name), text, faults)?,
        None if place.is_table() => {
            let mut section = Section::new("bind", place, faults);
            let json = section.text("json", faults);
            if json.is_none() {
                faults.add(place.at, format!("{name} needs `json`"));
            }
            section.finish(faults);
            compiled(Template::json(json?.value, names, scope, name), json?, faults)?
        }
        None => {
            faults.add(place.at, format!("{name} must be a text or a table: {{ json = \"...\" }}"));
            return None;
        }
    };
    if template.uses(|variable| matches!(variable, Variable::Sub)) {
        faults.add(place.at, format!("{name} is what {{sub}} will be and cannot name it"));
    }
    Some(template)
}

fn compiled(result: Result<Template, Vec<(usize, String)>>, text: Text<'_>, faults: &mut Faults) -> Option<Template> {
    match result {
        Ok(template) => Some(template),
        Err(list) => {
            list.into_iter().for_each(|(offset, reason)| faults.add(text.place(offset), reason));
            None
        }
    }
}

impl SendTemplate {
    /// Whether upstream answers defaults to whether the template says which request it is; a POST always is answered.
    fn new(
        template: Template,
        post: Option<Template>,
        bind: Option<Template>,
        ack: Option<bool>,
        confirm: Option<Confirm>,
    ) -> Self {
        let numbered = template.uses(|variable| matches!(variable, Variable::Id));
        let answered = post.is_some()
            || match confirm {
                Some(confirm) => matches!(confirm, Confirm::Ack | Confirm::Echo),
                None => ack.unwrap_or(numbered),
            };
        let confirm = confirm.unwrap_or(if answered { Confirm::Ack } else { Confirm::Written });
        SendTemplate { template, post, bind, answered, confirm }
    }

    /// Whether it names one item of the channel.
    pub(crate) fn names_key(&self) -> bool {
        self.template.uses(|variable| matches!(variable, Variable::Key))
    }

    /// Whether it names the channel's subscription id.
    pub(crate) fn uses_sub(&self) -> bool {
        self.template.uses(|variable| matches!(variable, Variable::Sub))
    }
}
