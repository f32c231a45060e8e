//! `[[on]]`: from the file to compiled rules.

use super::document::{Faults, Place, Section, Text, quoted};
use crate::dialect::Fold;
use crate::dialect::condition::{Condition, TYPES, Test};
use crate::dialect::fetch::AnswerIs;
use crate::dialect::pending::OPS;
use crate::dialect::pointer::Pointer;
use crate::dialect::rule::{CLASSES, Class, Each, Fields, Reply, Rule, When};
use crate::dialect::scan::{PointerId, PointerSet};
use crate::dialect::units;
use crate::dialect::value::{Value, pointer, variable};
use crate::dialect::variable::{Names, Variable};

/// Defines the variables that rules set, before anything that may name them is compiled.
pub(super) fn define_names(rules: &[Place<'_>], names: &mut Names, faults: &mut Faults) {
    for rule in rules {
        let entries = rule.entries();
        let Some((_, _, set)) = entries.iter().find(|(key, _, _)| *key == "set") else { continue };
        for (target, at, _) in set.entries() {
            if let Err(reason) = names.define(target) {
                faults.add(at, reason);
            }
        }
    }
}

/// Compiles all rules; their pointers go into `pointers`.
pub(super) fn compile(
    rules: &[Place<'_>],
    names: &mut Names,
    pointers: &mut PointerSet,
    faults: &mut Faults,
) -> Vec<Rule> {
    rules.iter().filter_map(|rule| Reader { names, pointers, faults }.rule(*rule)).collect()
}

/// What the answer to `[repair]` is, as a rule that matches always.
pub(super) fn answer(
    section: &mut Section<'_>,
    names: &Names,
    pointers: &mut PointerSet,
    faults: &mut Faults,
) -> Option<Rule> {
    let mut names = names.clone();
    let class = section.word("is", &[("snapshot", Class::Snapshot), ("event", Class::Event)], faults);
    if class.is_none() && section.take("is").is_none() {
        faults.add(section.at, "missing field `is`: the answer is a \"snapshot\", or \"event\"s that are missing");
    }
    let decode = section.word("decode", &[("json", true)], faults).unwrap_or(false);
    let folds = [("replace", Fold::Replace), ("append", Fold::Append)];
    let fold = section.word("fold", &folds, faults).unwrap_or_default();
    let mut reader = Reader { names: &mut names, pointers, faults };
    let each = reader.each(section);
    let mut fields = reader.fields(section);
    if each.is_none() && fields.data.is_none() {
        fields.data = pointer("", reader.pointers).ok();
    }
    Some(Rule { class: class?, decode, fold, each, fields, ..Rule::default() })
}

/// Conditions on an HTTP answer, which know no variables.
pub(super) fn answer_conditions(section: &mut Section<'_>, key: &'static str, faults: &mut Faults) -> AnswerIs {
    let Some(place) = section.take(key) else { return Vec::new() };
    let entries = place.entries();
    if entries.is_empty() {
        faults.add(place.at, format!("`{key}` must be a table of conditions: \"/pointer\" = value"));
    }
    let (mut names, mut pointers) = (Names::new(None), PointerSet::new());
    let mut conditions = Vec::with_capacity(entries.len());
    for (text, at, value) in entries {
        let test = Reader { names: &mut names, pointers: &mut pointers, faults }.test(value);
        match (Pointer::parse(text), test) {
            (Ok(pointer), Some(test)) => conditions.push((pointer, test)),
            (Err(error), _) => faults.add(at, error.to_string()),
            (Ok(_), None) => {}
        }
    }
    conditions
}

/// What all functions here need.
struct Reader<'r> {
    names: &'r mut Names,
    pointers: &'r mut PointerSet,
    faults: &'r mut Faults,
}

/// The keys that mean something in a rule of each class, besides those that mean something in all.
fn keys_of(class: Class) -> &'static [&'static str] {
    match class {
        Class::Event => &[
            "channel", "sub", "key", "fold", "type", "id", "seq", "ts", "data", "decode", "req", "each", "lost",
            "checksum",
        ],
        Class::Snapshot => {
            &["channel", "sub", "key", "type", "id", "seq", "ts", "data", "decode", "req", "each", "lost", "checksum"]
        }
        Class::Ack => &[
            "req", "of", "channel", "sub", "bind", "data", "decode", "each", "lost", "key", "fold", "type", "id",
            "seq", "ts",
        ],
        Class::Error => &["req", "of", "channel", "sub", "code", "message", "then", "retry_after"],
        Class::Ready => &["resumed", "seq"],
        Class::Denied => &["message", "then"],
        Class::Pong => &["req", "seq"],
        Class::Gone => &["channel", "sub", "code", "message", "then"],
        Class::Subscriptions => &["req", "of", "each"],
        Class::Reconnect => &["retry_after"],
        Class::Hello | Class::Ping | Class::Ignore => &["seq"],
    }
}

const COMMON: [&str; 5] = ["match", "is", "set", "reply", "forget"];

impl Reader<'_> {
    fn rule(&mut self, place: Place<'_>) -> Option<Rule> {
        let mut on = Section::new("on", place, self.faults);
        let conditions = self.conditions(&mut on, "match");
        if conditions.is_none() {
            self.faults.add(on.at, "missing field `match`: a rule says which messages it is about");
        }
        let class = on.word("is", &CLASSES, self.faults);
        let mut rule = Rule {
            class: class.unwrap_or(Class::Ignore),
            conditions: conditions.unwrap_or_default(),
            channel: self.value(&mut on, "channel"),
            sub: self.value(&mut on, "sub"),
            fields: Fields::default(),
            decode: on.word("decode", &[("json", true)], self.faults).unwrap_or(false),
            fold: on
                .word("fold", &[("replace", Fold::Replace), ("append", Fold::Append)], self.faults)
                .unwrap_or_default(),
            req: self.value(&mut on, "req"),
            of: self.of(&mut on),
            bind: self.value(&mut on, "bind"),
            then: on.text("then", self.faults).and_then(|text| self.then(text)),
            retry_after: self.pointer(&mut on, "retry_after"),
            code: self.value(&mut on, "code"),
            message: self.value(&mut on, "message"),
            set: self.set(&mut on),
            each: self.each(&mut on),
            checksum: self.pointer(&mut on, "checksum"),
            lost: self.when(&mut on, "lost"),
            resumed: self.when(&mut on, "resumed"),
            forget: self.when(&mut on, "forget"),
            reply: on.word("reply", &[("pong", Reply::Pong), ("receipt", Reply::Receipt)], self.faults),
        };
        rule.fields = self.fields(&mut on);
        if class.is_none() && on.take("is").is_none() {
            self.faults.add(on.at, "missing field `is`: a rule says what its messages are");
        }
        self.check_list(&on, &rule);
        if let (Some(_), Some(place)) = (&rule.each, on.take("checksum")) {
            self.faults.add(place.at, "a checksum is over the channel as a whole: not with `each`");
        }
        if let Some(class) = class {
            self.check(&on, class, place);
        }
        if matches!(rule.class, Class::Event | Class::Snapshot) && rule.each.is_none() && rule.fields.data.is_none() {
            rule.fields.data = pointer("", self.pointers).ok();
        }
        on.finish(self.faults);
        class.map(|_| rule)
    }

    /// What a rule of this class needs, and what would have no effect in it.
    fn check(&mut self, on: &Section<'_>, class: Class, place: Place<'_>) {
        let word = class.word();
        let keys = keys_of(class);
        let entries = place.entries();
        let has = |name: &str| entries.iter().any(|(key, _, _)| *key == name);
        for &(key, at, _) in &entries {
            if on.knows(key) && !COMMON.contains(&key) && !keys.contains(&key) {
                let useful = quoted(keys);
                let reason = if keys.is_empty() {
                    format!("`{key}` has no effect in a rule that is `{word}`")
                } else {
                    format!("`{key}` has no effect in a rule that is `{word}`, where these have: {useful}")
                };
                self.faults.add(at, reason);
            }
        }
        let missing = match class {
            // An answer to `send.state` is about the channel that was asked for.
            Class::Event | Class::Snapshot if !has("channel") && !has("sub") && !has("req") => "`channel` or `sub`",
            Class::Gone if !has("channel") && !has("sub") => "`channel` or `sub`",
            Class::Subscriptions if !has("each") => "`each`, the list",
            Class::Ack if !["req", "channel", "of", "sub"].into_iter().any(has) => "`req`, `channel`, `of` or `sub`",
            _ => return,
        };
        // An element's own channel will do.
        let each = entries.iter().find(|(key, _, _)| *key == "each" && class != Class::Subscriptions);
        if !each.is_some_and(|(_, _, each)| each.entries().iter().any(|(key, _, _)| *key == "channel")) {
            self.faults.add(on.at, format!("a rule that is `{word}` needs {missing}"));
        }
    }

    /// A list of subscriptions names channels, and nothing else has a list within its elements.
    fn check_list(&mut self, on: &Section<'_>, rule: &Rule) {
        let Some(each) = &rule.each else { return };
        let lists = rule.class == Class::Subscriptions;
        if lists && each.channel.is_none() {
            self.faults.add(on.at, "`each` of a rule that is `subscriptions` needs `channel`");
        }
        if !lists && each.list.is_some() {
            self.faults.add(on.at, "`list` has an effect in a rule that is `subscriptions` only");
        }
    }

    fn fields(&mut self, section: &mut Section<'_>) -> Fields {
        Fields {
            key: self.value(section, "key"),
            kind: self.value(section, "type"),
            id: self.value(section, "id"),
            seq: self.seq(section),
            ts: self.pointer(section, "ts"),
            data: self.pointer(section, "data"),
        }
    }

    fn value(&mut self, section: &mut Section<'_>, key: &'static str) -> Option<Value> {
        let text = section.text(key, self.faults)?;
        self.value_of(text)
    }

    fn value_of(&mut self, text: Text<'_>) -> Option<Value> {
        match Value::parse(text.value, self.names, self.pointers) {
            Ok(value) => Some(value),
            Err(faults) => {
                for (offset, reason) in faults {
                    self.faults.add(text.place(offset), reason);
                }
                None
            }
        }
    }

    fn pointer(&mut self, section: &mut Section<'_>, key: &'static str) -> Option<PointerId> {
        let text = section.text(key, self.faults)?;
        self.pointer_of(text)
    }

    fn pointer_of(&mut self, text: Text<'_>) -> Option<PointerId> {
        match pointer(text.value, self.pointers) {
            Ok(pointer) => Some(pointer),
            Err(reason) => {
                self.faults.add(text.at, reason);
                None
            }
        }
    }

    /// A pointer, or two: first and last.
    fn seq(&mut self, section: &mut Section<'_>) -> Option<(PointerId, PointerId)> {
        let place = section.take("seq")?;
        if let Some(text) = place.text() {
            return self.pointer_of(text).map(|pointer| (pointer, pointer));
        }
        let texts: Option<Vec<Text<'_>>> = place.elements().unwrap_or_default().iter().map(Place::text).collect();
        match texts.as_deref() {
            Some([first, last]) => Some((self.pointer_of(*first)?, self.pointer_of(*last)?)),
            _ => {
                self.faults.add(place.at, "`seq` must be a pointer or a list of two: [first, last]");
                None
            }
        }
    }

    fn of(&mut self, on: &mut Section<'_>) -> Vec<crate::dialect::pending::Op> {
        let Some(place) = on.take("of") else { return Vec::new() };
        let elements = if place.text().is_some() { vec![place] } else { place.elements().unwrap_or_default() };
        let mut ops = Vec::new();
        for element in &elements {
            let word = element.text().map_or("", |text| text.value);
            match OPS.iter().find(|(known, _)| *known == word) {
                Some((_, op)) => ops.push(*op),
                None => {
                    let list = OPS.map(|(word, _)| word);
                    self.faults.add(element.at, format!("unknown variant `{word}`, expected one of {}", quoted(&list)));
                }
            }
        }
        if elements.is_empty() {
            self.faults.add(place.at, "`of` must be the name of a request, or a list of names");
        }
        ops
    }

    fn then(&mut self, text: Text<'_>) -> Option<crate::dialect::Then> {
        let then = units::then(text.value);
        if then.is_none() {
            self.faults.add(text.at, super::tables::THEN);
        }
        then
    }

    fn set(&mut self, on: &mut Section<'_>) -> Vec<(Variable, Value)> {
        let Some(place) = on.take("set") else { return Vec::new() };
        if !place.is_table() {
            self.faults.add(place.at, "`set` must be a table: variable = value");
        }
        let mut list = Vec::new();
        for (target, _, value) in place.entries() {
            let Some(text) = value.text() else {
                self.faults.add(value.at, format!("`{target}` must be a text: a pointer, or text with {{holes}}"));
                continue;
            };
            // A wrong target is reported by `define_names`.
            if let (Some(value), Ok(target)) = (self.value_of(text), self.names.define(target)) {
                list.push((target, value));
            }
        }
        list
    }

    fn each(&mut self, on: &mut Section<'_>) -> Option<Each> {
        let place = on.take("each")?;
        let mut section = Section::new("each", place, self.faults);
        let at = self.pointer(&mut section, "at");
        if at.is_none() && section.take("at").is_none() {
            self.faults.add(section.at, "missing field `at`: the array whose elements are events");
        }
        let mut pointers = PointerSet::new();
        let mut inner = Reader { names: self.names, pointers: &mut pointers, faults: self.faults };
        let channel = inner.value(&mut section, "channel");
        let list = inner.pointer(&mut section, "list");
        let mut fields = inner.fields(&mut section);
        if fields.data.is_none() {
            fields.data = pointer("", &mut pointers).ok();
        }
        section.finish(self.faults);
        Some(Each { at: at?, pointers, channel, list, fields })
    }

    /// `true`, `false`, or conditions.
    fn when(&mut self, on: &mut Section<'_>, key: &'static str) -> When {
        let Some(place) = on.take(key) else { return When::Never };
        match place.boolean() {
            Some(true) => When::Always,
            Some(false) => When::Never,
            None => match self.conditions(on, key) {
                Some(conditions) => When::If(conditions),
                None => When::Never,
            },
        }
    }

    /// A table of conditions, cheap ones first. An empty one is a fault: it would hold always.
    fn conditions(&mut self, on: &mut Section<'_>, key: &'static str) -> Option<Vec<Condition>> {
        let place = on.take(key)?;
        let entries = place.entries();
        if entries.is_empty() {
            self.faults.add(place.at, format!("`{key}` must be a table of conditions: \"/pointer\" = value"));
        }
        let mut conditions = Vec::with_capacity(entries.len());
        for (text, key_at, value) in entries {
            let test = self.test(value);
            match (pointer(text, self.pointers), test) {
                (Ok(pointer), Some(test)) => conditions.push(Condition { pointer, test }),
                (Err(reason), _) => self.faults.add(key_at, reason),
                (Ok(_), None) => {}
            }
        }
        conditions.sort_by_key(|condition| condition.test.cost());
        Some(conditions)
    }

    fn test(&mut self, place: Place<'_>) -> Option<Test> {
        if let Some(text) = place.text() {
            return self.text_test(text);
        }
        if let Some(bool) = place.boolean() {
            return Some(Test::Bool(bool));
        }
        if let Some(number) = place.float() {
            return Some(Test::Number(number));
        }
        if let Some(number) = place.integer() {
            // Beyond 2^53 JSON numbers differ between implementations anyway.
            return Some(Test::Number(number as f64));
        }
        if let Some(elements) = place.elements() {
            let tests: Option<Vec<Test>> = elements.into_iter().map(|element| self.test(element)).collect();
            return tests.map(|tests| Test::Any(tests.into()));
        }
        self.table_test(place)
    }

    fn text_test(&mut self, text: Text<'_>) -> Option<Test> {
        let name = text.value.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let Some(name) = name.filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic())) else {
            return Some(Test::Text(text.value.into()));
        };
        match variable(name, self.names) {
            Ok(variable) => Some(Test::Variable(variable)),
            Err(reason) => {
                self.faults.add(text.place(0), reason);
                None
            }
        }
    }

    /// `{ exists = true }` and the like; several hold together.
    fn table_test(&mut self, place: Place<'_>) -> Option<Test> {
        if !place.is_table() {
            self.faults.add(place.at, "a condition is a text, a number, true or false, a list of these, or a table");
            return None;
        }
        let mut section = Section::new("condition", place, self.faults);
        let mut tests = Vec::new();
        tests.extend(section.boolean("exists", self.faults).map(Test::Exists));
        tests.extend(section.word("type", &TYPES, self.faults).map(Test::Type));
        tests.extend(section.text("prefix", self.faults).map(|prefix| Test::Prefix(prefix.value.into())));
        if let Some(not) = section.take("not") {
            tests.extend(self.test(not).map(|test| Test::Not(Box::new(test))));
        }
        if place.entries().is_empty() {
            self.faults.add(place.at, "an empty condition: expected `exists`, `type`, `prefix` or `not`");
        }
        section.finish(self.faults);
        match tests.len() {
            1 => tests.pop(),
            _ => Some(Test::All(tests.into())),
        }
    }
}
