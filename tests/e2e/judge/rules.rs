//! The rules. A trace is read from its first line to its last; each rule complains by its own name.
//!
//! What was still on its way when a connection ended is read later: an attempt on a connection that was cut may stand after
//! what followed it. It counts as an attempt, and proves nothing about order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::seen::{Admin, Client, End, Seen, Upstream, receipt};
use super::wishes::Wishes;

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The trace itself makes sense.
    Trace,
    /// What was accepted is known after every restart; what was never durable has not left.
    Durable,
    /// One end per message, the same whenever it is told.
    OneEnd,
    /// The relay's own count comes out even.
    Conserved,
    /// Messages of one order key leave in the order of acceptance, each after the one before it has ended.
    KeyOrder,
    /// No more attempts than allowed; what a hard end made the relay forget comes on top.
    Bounded,
    /// What is said of upstream's answer is what upstream answered, to this message on that connection.
    Answered,
    /// No attempt after the end.
    Over,
    /// One message per publish: a repetition finds the first.
    OneMessage,
    /// After an error of the store nothing is accepted, nothing ends, and nothing leaves that must not leave twice.
    FailStop,
    /// What must not be sent twice is sent once, unless upstream refused it.
    AtMostOnce,
    /// A time to live is kept: nothing leaves after it, and only what has one expires.
    TimeToLive,
    /// Nothing is called unsent that upstream has.
    Unsent,
    /// Nothing leaves again before the time that upstream asked for.
    PutOff,
    /// Nobody hears of another's messages.
    Private,
    /// What ends as cancelled or superseded was to.
    Wished,
    /// In the end everything has ended.
    Drained,
}

/// A rule that was broken.
#[derive(Debug)]
pub struct Violation {
    pub rule: Rule,
    what: String,
    /// Where to look.
    lines: Vec<u64>,
}

impl Violation {
    pub fn new(rule: Rule, what: String, lines: Vec<u64>) -> Self {
        Violation { rule, what, lines }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} (lines {:?})", self.rule, self.what, self.lines)
    }
}

/// A publish, by its tag.
struct Publication {
    line: u64,
    repeated: bool,
    who: (String, String),
    order: Option<(String, String)>,
    dead_letter: bool,
    ttl_ms: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Ack,
    Refusal,
    /// It may be sent again.
    Later,
}

struct Attempt {
    line: u64,
    life: usize,
    connection: usize,
    request: u64,
    answer: Option<Answer>,
}

#[derive(Default)]
struct Message {
    tag: String,
    /// Line and time.
    accepted: Option<(u64, u64)>,
    attempts: Vec<Attempt>,
    end: Option<(u64, End)>,
    told_in: BTreeSet<u64>,
    /// The life in which something new was told about it.
    news: usize,
    /// The life in which it was last asked for.
    asked: usize,
    /// It was asked for, and unknown.
    lost: bool,
}

impl Message {
    fn unrefused(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.answer != Some(Answer::Later))
    }
}

/// What left under one order key.
#[derive(Default)]
struct KeyLog {
    newest: Option<String>,
    /// By session, the newest message that it got accepted, with the line of its publish.
    accepted: BTreeMap<u64, (u64, String)>,
}

/// Reads a trace.
#[derive(Default)]
pub struct Judge {
    line: u64,
    life: usize,
    /// Lives that ended hard.
    hard: BTreeSet<usize>,
    max_attempts: Option<u32>,
    publications: BTreeMap<String, Publication>,
    messages: BTreeMap<String, Message>,
    by_key: BTreeMap<(String, String), String>,
    orders: BTreeMap<(String, String), KeyLog>,
    /// Which message an attempt was of.
    attempts: BTreeMap<(usize, u64), String>,
    /// Below which number connections had ended, and in which life that was seen.
    cuts: Vec<(usize, usize)>,
    /// How many connections had begun at which times.
    counts: Vec<(usize, u64)>,
    /// The line that told of the store's failure in this life, and the sessions that were told.
    failed: Option<u64>,
    failed_sessions: BTreeMap<u64, u64>,
    /// Two messages of one key in flight, unless the first turns out to have ended without upstream: both, and the line.
    overlaps: Vec<(String, String, u64)>,
    violations: Vec<Violation>,
    wishes: Wishes,
}

impl Judge {
    /// Reads the next line.
    pub fn read(&mut self, line: &str) {
        self.line += 1;
        let seen = serde_json::from_str(line);
        seen.iter().for_each(|seen| self.wishes.read(self.line, seen));
        match seen {
            Ok(Seen::Client(seen)) => self.client(seen),
            Ok(Seen::Upstream(seen)) => self.upstream(seen),
            Ok(Seen::Admin(seen)) => self.admin(seen),
            Err(error) => self.complain(Rule::Trace, format!("{error}: {line}"), &[]),
        }
    }

    /// How many messages ended in which way, by state and reason.
    pub fn ends(&self) -> BTreeMap<String, usize> {
        let mut ends = BTreeMap::new();
        for (_, end) in self.messages.values().filter_map(|message| message.end.as_ref()) {
            let reason = end.reason.iter().map(|reason| format!("({reason})"));
            *ends.entry(end.state.clone() + &reason.collect::<String>()).or_default() += 1;
        }
        ends
    }

    /// What is wrong.
    pub fn end(mut self) -> Vec<Violation> {
        for (first, second, line) in std::mem::take(&mut self.overlaps) {
            let ended_here = |end: &End| end.state != "delivered" && end.reply.is_none();
            let message = &self.messages[&first];
            if !message.end.as_ref().is_some_and(|(_, end)| ended_here(end)) {
                let what = format!("{second} left while {first} of the same key was in flight");
                let at = message.attempts[0].line;
                self.violations.push(Violation { rule: Rule::KeyOrder, what, lines: vec![at, line] });
            }
        }
        self.violations.extend(self.wishes.end());
        self.violations
    }

    fn complain(&mut self, rule: Rule, what: impl Into<String>, lines: &[u64]) {
        let mut lines = lines.to_vec();
        lines.push(self.line);
        self.violations.push(Violation { rule, what: what.into(), lines });
    }

    fn admin(&mut self, seen: Admin) {
        match seen {
            Admin::Limits { max_attempts } => self.max_attempts = Some(max_attempts),
            Admin::Started => {
                self.life += 1;
                self.failed = None;
                self.failed_sessions.clear();
            }
            Admin::Gone { hard } => {
                if hard {
                    self.hard.insert(self.life);
                }
            }
            Admin::Asked => self.all_asked(),
            Admin::Scrape { conservation, lost, store_failed } => {
                if conservation != 0.0 {
                    self.complain(Rule::Conserved, format!("conservation error {conservation}"), &[]);
                }
                if lost != 0.0 {
                    self.complain(Rule::Durable, format!("{lost} records are lost"), &[]);
                }
                if store_failed {
                    self.failed.get_or_insert(self.line);
                }
            }
            Admin::Drained => {
                let open = self.messages.iter().filter(|(_, message)| message.end.is_none() && !message.lost);
                let open: Vec<_> =
                    open.map(|(id, message)| (format!("{id} ({})", message.tag), lines(message))).collect();
                for (name, lines) in open {
                    self.complain(Rule::Drained, format!("{name} has not ended"), &lines);
                }
            }
        }
    }

    /// Holds that the run asked for all that it had to: else nothing was proved.
    fn all_asked(&mut self) {
        let life = self.life;
        let must = |message: &&Message| {
            let known = message.accepted.is_some() || message.attempts.first().is_some_and(|first| first.life < life);
            let unsettled = message.end.is_none() || message.news + 1 >= life;
            known && unsettled && !message.lost && message.asked < life && message.news < life
        };
        let missed: Vec<_> = self.messages.values().filter(must).map(|m| (m.tag.clone(), lines(m))).collect();
        for (tag, lines) in missed {
            self.complain(Rule::Trace, format!("nobody asked for {tag} after the restart"), &lines);
        }
    }

    fn upstream(&mut self, seen: Upstream) {
        match seen {
            Upstream::Attempt { connection, request, tag, message, .. } => {
                self.attempt(connection, request, tag, message)
            }
            Upstream::Ack { connection, request } => self.answer(connection, request, Answer::Ack),
            Upstream::Nack { connection, request, again, .. } => {
                self.answer(connection, request, if again { Answer::Later } else { Answer::Refusal });
            }
            Upstream::Cut { connections } => self.cuts.push((connections, self.life)),
            Upstream::Count { at_ms, connections } => self.counts.push((connections, at_ms)),
        }
    }

    fn answer(&mut self, connection: usize, request: u64, answer: Answer) {
        let Some(id) = self.attempts.get(&(connection, request)) else {
            return self.complain(Rule::Trace, format!("an answer to no attempt: {connection}/{request}"), &[]);
        };
        let attempts = &mut self.messages.get_mut(id).unwrap().attempts;
        let attempt = attempts.iter_mut().find(|a| (a.connection, a.request) == (connection, request)).unwrap();
        attempt.answer = Some(answer);
    }

    fn attempt(&mut self, connection: usize, request: u64, tag: String, id: String) {
        if !self.is_one_message(&tag, &id) {
            return;
        }
        self.in_time(connection, &tag, &id);
        // The life that it left in.
        let ended = self.cuts.iter().find(|(connections, _)| connection < *connections);
        let (line, life, stale) = (self.line, ended.map_or(self.life, |(_, life)| *life), ended.is_some());
        self.attempts.insert((connection, request), id.clone());
        let publication = &self.publications[&tag];
        let (order, dead_letter) = (publication.order.clone(), publication.dead_letter);
        let message = self.messages.entry(id.clone()).or_default();
        let before: Vec<u64> = message.unrefused().map(|attempt| attempt.line).collect();
        message.attempts.push(Attempt { line, life, connection, request, answer: None });
        let (count, first_life) = (message.attempts.len(), message.attempts[0].life);
        let over = message.end.as_ref().map(|(line, _)| *line).filter(|_| !stale);
        let all = lines(message);
        if let Some(end) = over {
            self.complain(Rule::Over, format!("{id} ({tag}) left after its end was told"), &[end]);
        }
        if dead_letter && !before.is_empty() {
            self.complain(Rule::AtMostOnce, format!("{id} ({tag}) left again"), &before);
        }
        let forgotten = self.hard.range(first_life..).count();
        if let Some(max) = self.max_attempts.filter(|max| count > *max as usize + forgotten) {
            self.complain(Rule::Bounded, format!("{id} ({tag}): {count} attempts, {max} are allowed"), &all);
        }
        if let Some(order) = order.filter(|_| !stale) {
            self.left_in_order(order, id);
        }
    }

    /// Ids sort by acceptance.
    fn left_in_order(&mut self, order: (String, String), id: String) {
        let log = self.orders.entry(order).or_default();
        let Some(before) = log.newest.replace(id.clone()).filter(|before| *before != id) else { return };
        let earlier = &self.messages[&before];
        if before > id {
            let at = earlier.attempts.last().map(|attempt| attempt.line).into_iter().collect::<Vec<_>>();
            log.newest = Some(before.clone());
            self.complain(Rule::KeyOrder, format!("{id} left after {before}, which was accepted after it"), &at);
        } else if !earlier.attempts.iter().any(|a| matches!(a.answer, Some(Answer::Ack | Answer::Refusal))) {
            self.overlaps.push((before, id, self.line));
        }
    }

    /// An attempt cannot have left before its connection began.
    fn in_time(&mut self, connection: usize, tag: &str, id: &str) {
        let accepted = self.messages.get(id).and_then(|message| message.accepted);
        let (Some(ttl), Some((line, at))) = (self.publications[tag].ttl_ms, accepted) else { return };
        let begun = self.counts.iter().rev().find(|(connections, _)| *connections <= connection);
        if let Some((_, begun)) = begun.filter(|(_, begun)| *begun > at + ttl) {
            let late = begun - at;
            self.complain(
                Rule::TimeToLive,
                format!("{id} ({tag}) left {late} ms after its acceptance, it had {ttl} ms to live"),
                &[line],
            );
        }
    }

    /// Takes notice of a message's id; complains if it cannot be this message's.
    fn is_one_message(&mut self, tag: &str, id: &str) -> bool {
        let Some(publication) = self.publications.get(tag) else {
            self.complain(Rule::Trace, format!("{tag} was never published"), &[]);
            return false;
        };
        let (first, who) = (publication.line, publication.who.clone());
        let named = self.by_key.entry(who).or_insert_with(|| id.to_owned()).clone();
        if named != id {
            self.complain(Rule::OneMessage, format!("{tag} is {named} and {id}"), &[first]);
            return false;
        }
        let message = self.messages.entry(id.to_owned()).or_default();
        if message.tag.is_empty() {
            tag.clone_into(&mut message.tag);
        }
        let of = message.tag.clone();
        if of != tag && self.publications[&of].who != self.publications[tag].who {
            self.complain(Rule::OneMessage, format!("{id} is {of} and {tag}"), &[first]);
            return false;
        }
        true
    }

    fn client(&mut self, seen: Client) {
        match seen {
            Client::Publish { tag, principal, key, order_key, dead_letter, ttl_ms, .. } => {
                let (line, order) = (self.line, order_key.map(|key| (principal.clone(), key)));
                let repeated = self.publications.contains_key(&tag);
                let who = (principal, key);
                self.publications.insert(tag, Publication { line, repeated, who, order, dead_letter, ttl_ms });
            }
            Client::Accepted { at_ms, session, tag, message, state } => {
                self.accepted((at_ms, session), &tag, message, &state);
            }
            Client::Refused { session, code, .. } => {
                if code == "store_failed" {
                    self.failed.get_or_insert(self.line);
                    self.failed_sessions.entry(session).or_insert(self.line);
                }
            }
            Client::Outcome { session, message, end } => {
                if let Some(failed) = self.failed_sessions.get(&session).copied() {
                    self.complain(Rule::FailStop, format!("{message} ended after the store failed"), &[failed]);
                }
                let known = self.messages.entry(message.clone()).or_default();
                let (accepted, news) = (known.accepted.is_some(), known.told_in.insert(session));
                known.news = self.life;
                if !accepted {
                    self.complain(Rule::OneEnd, format!("{message} ended before it was accepted"), &[]);
                }
                if !news {
                    self.complain(Rule::OneEnd, format!("{message}: its end was told twice to one session"), &[]);
                }
                self.ended(&message, end);
            }
            Client::State { asked, message, status, end } => self.state(asked, message, status, end),
            Client::Cancel { .. } | Client::Pry { .. } => {}
        }
    }

    fn accepted(&mut self, (at, session): (u64, u64), tag: &str, id: String, state: &str) {
        if !self.is_one_message(tag, &id) {
            return;
        }
        let publication = &self.publications[tag];
        let (published, repeated, order) = (publication.line, publication.repeated, publication.order.clone());
        let message = self.messages.get_mut(&id).unwrap();
        let is_new = message.accepted.is_none() && message.attempts.is_empty();
        message.accepted.get_or_insert((self.line, at));
        if message.end.is_none() {
            message.news = self.life;
        }
        // Who repeats a publish is told the end once more.
        message.told_in.remove(&session);
        let ended = message.end.as_ref().map(|(line, end)| (*line, end.state.clone()));
        let failed = self.failed.filter(|failed| *failed < published);
        if let Some(failed) = failed.or(self.failed_sessions.get(&session).copied()).filter(|_| is_new && !repeated) {
            self.complain(Rule::FailStop, format!("{id} ({tag}) was accepted after the store failed"), &[failed]);
        }
        if let Some((line, end)) = ended.filter(|(line, end)| *line < published && end != state) {
            self.complain(Rule::OneEnd, format!("{id} ({tag}) was {end} and is {state}"), &[line]);
        }
        let Some(order) = order.filter(|_| is_new && !repeated) else { return };
        let accepted = &mut self.orders.entry(order).or_default().accepted;
        let before = accepted.insert(session, (published, id.clone()));
        if let Some((line, before)) = before.filter(|(line, before)| (*line < published) != (*before < id)) {
            self.complain(
                Rule::KeyOrder,
                format!("{id} and {before} are not in the order of their publishes"),
                &[line],
            );
        }
    }

    fn state(&mut self, asked: u64, id: String, status: u16, end: Option<End>) {
        let Some(message) = self.messages.get_mut(&id) else {
            return self.complain(Rule::Trace, format!("{id} was never heard of"), &[]);
        };
        message.asked = self.life;
        message.lost = status != 200;
        let (before, all) = (message.end.clone(), lines(message));
        match (status, end) {
            (200, Some(end)) => self.ended(&id, end),
            (200, None) => {
                if let Some((line, end)) = before.filter(|(line, _)| *line <= asked) {
                    self.complain(Rule::OneEnd, format!("{id} was {} and has not ended", end.state), &[line]);
                }
            }
            _ => self.complain(Rule::Durable, format!("{id} is unknown ({status})"), &all),
        }
    }

    fn ended(&mut self, id: &str, end: End) {
        let line = self.line;
        let message = self.messages.get_mut(id).unwrap();
        if let Some((first, before)) = &message.end {
            if *before != end {
                let (first, what) = (*first, format!("{id} was {before:?} and is {end:?}"));
                self.complain(Rule::OneEnd, what, &[first]);
            }
            return;
        }
        message.end = Some((line, end.clone()));
        let answers = |wanted: Answer| {
            let of = message.attempts.iter().filter(move |attempt| attempt.answer == Some(wanted));
            of.map(|attempt| receipt(&message.tag, attempt.connection, attempt.request)).collect::<Vec<_>>()
        };
        let (acks, refusals) = (answers(Answer::Ack), answers(Answer::Refusal));
        let among = |answers: &[String]| end.reply.as_ref().is_some_and(|reply| answers.contains(reply));
        let said = match end.state.as_str() {
            "delivered" => end.confirmed_by.as_deref() != Some("ack") || among(&acks),
            "rejected" => end.reply.is_none() || among(&refusals),
            _ => true,
        };
        let all = lines(message);
        let tag = message.tag.clone();
        if !said {
            let what = format!(
                "{id} ({tag}) is {} by {:?}; upstream's answers were {acks:?}, {refusals:?}",
                end.state, end.reply
            );
            self.complain(Rule::Answered, what, &all);
        }
        if end.state == "expired" && self.publications.get(&tag).is_some_and(|of| of.ttl_ms.is_none()) {
            self.complain(Rule::TimeToLive, format!("{id} ({tag}) expired and had all the time"), &[]);
        }
        if end.reason.as_deref().is_some_and(|reason| ["ttl", "cancelled", "superseded"].contains(&reason)) {
            self.unsent(id, &tag);
        }
    }

    fn unsent(&mut self, id: &str, tag: &str) {
        let (life, hard) = (self.life, &self.hard);
        // An attempt of the last moment before a hard end may be unknown: the store learns of it while it is under way.
        let known = |attempt: &&Attempt| attempt.life == life || !hard.contains(&attempt.life);
        let attempts: Vec<u64> = self.messages[id].unrefused().filter(known).map(|attempt| attempt.line).collect();
        if !attempts.is_empty() {
            self.complain(Rule::Unsent, format!("{id} ({tag}) is called unsent, and upstream has it"), &attempts);
        }
    }
}

/// Where a message was accepted and left.
fn lines(message: &Message) -> Vec<u64> {
    let accepted = message.accepted.map(|(line, _)| line);
    accepted.into_iter().chain(message.attempts.iter().map(|attempt| attempt.line)).collect()
}
