//! Clients ask for a channel's present state: one question to upstream per channel and key, whoever asks meanwhile, and none
//! where the last answer is fresh enough.
//!
//! Invariants: whoever asked is answered once, at the latest at the question's deadline; questions, those who wait for one, and
//! answers that are remembered have limits.
//! Deliberately not here: how upstream is asked, and what that may cost.

use std::collections::BTreeMap;
use std::time::Duration;

use super::feed::RingId;
use super::time::Mono;

/// Questions at once.
const OPEN_MAX: usize = 1_024;
/// Who may wait for the answer to one question.
const WAITING_MAX: usize = 1_024;
/// Answers remembered; beyond it those that are too old are looked for.
const DONE_MAX: usize = 1_024;
/// How long a question may be open.
pub const OPEN_FOR: Duration = Duration::from_secs(30);

/// What is asked for: a channel, or one item of it.
pub type Subject = (RingId, Option<Box<str>>);

#[derive(Debug)]
struct Question<W> {
    waiting: Vec<W>,
    until: Mono,
    how: &'static str,
}

/// What a wish for a refresh comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It was answered not long ago, in this way.
    Fresh(&'static str),
    /// It is asked already; the wish waits with the others.
    Joined,
    /// Too many are waiting.
    Full,
    /// Upstream has to be asked.
    New,
}

/// All questions. `W` says who waits.
#[derive(Debug)]
pub struct Refreshes<W> {
    open: BTreeMap<Subject, Question<W>>,
    done: BTreeMap<Subject, (Mono, &'static str)>,
}

impl<W> Default for Refreshes<W> {
    fn default() -> Self {
        Refreshes { open: BTreeMap::new(), done: BTreeMap::new() }
    }
}

impl<W> Refreshes<W> {
    /// Somebody wants this; `ttl` is how long an answer is fresh.
    pub fn want(&mut self, now: Mono, subject: &Subject, ttl: Duration, who: impl FnOnce() -> W) -> Found {
        if let Some((_, how)) = self.done.get(subject).filter(|(at, _)| now < *at + ttl) {
            return Found::Fresh(how);
        }
        let full = self.open.len() >= OPEN_MAX;
        match self.open.get_mut(subject) {
            Some(question) if question.waiting.len() >= WAITING_MAX => Found::Full,
            Some(question) => {
                question.waiting.push(who());
                Found::Joined
            }
            None if full => Found::Full,
            None => Found::New,
        }
    }

    /// Upstream is asked in this way.
    pub fn ask(&mut self, now: Mono, subject: Subject, how: &'static str, who: W) {
        self.open.insert(subject, Question { waiting: vec![who], until: now + OPEN_FOR, how });
    }

    /// This was refreshed, or (`false`) that failed: those who are to be told. `how`: only if it was asked in this way.
    /// The answer about one key ends no question about another one, or about the whole.
    pub fn end(&mut self, now: Mono, subject: &Subject, how: &'static str, good: bool) -> Vec<W> {
        if self.open.get(subject).is_none_or(|question| question.how != how) {
            return Vec::new();
        }
        if good {
            if self.done.len() >= DONE_MAX {
                self.done.retain(|_, (at, _)| now < *at + OPEN_FOR);
            }
            if self.done.len() < DONE_MAX {
                self.done.insert(subject.clone(), (now, how));
            }
        }
        self.open.remove(subject).map(|question| question.waiting).unwrap_or_default()
    }

    /// Those whose question was open for too long, or all of them where `now` is `None`.
    pub fn overdue(&mut self, now: Option<Mono>) -> Vec<W> {
        let late = |question: &Question<W>| now.is_none_or(|now| question.until <= now);
        let subjects: Vec<Subject> =
            self.open.iter().filter(|(_, question)| late(question)).map(|(subject, _)| subject.clone()).collect();
        subjects.iter().filter_map(|subject| self.open.remove(subject)).flat_map(|question| question.waiting).collect()
    }

    /// When [`Refreshes::overdue`] has something to say.
    pub fn due(&self) -> Option<Mono> {
        self.open.values().map(|question| question.until).min()
    }

    /// The channel is not carried any more; its number may be used anew. Gives those who wait for it in vain.
    pub fn forget(&mut self, ring: RingId) -> Vec<W> {
        self.done.retain(|(of, _), _| *of != ring);
        let subjects: Vec<Subject> = self.open.keys().filter(|(of, _)| *of == ring).cloned().collect();
        subjects.iter().filter_map(|subject| self.open.remove(subject)).flat_map(|question| question.waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(2);

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    #[test]
    fn all_who_ask_share_one_question_and_its_answer() {
        let mut refreshes = Refreshes::default();
        let whole: Subject = (RingId(1), None);
        let item: Subject = (RingId(1), Some("k".into()));
        assert_eq!(refreshes.want(at(0), &whole, TTL, || 'a'), Found::New);
        refreshes.ask(at(0), whole.clone(), "fetch", 'a');
        assert_eq!(refreshes.want(at(1), &whole, TTL, || 'b'), Found::Joined);
        assert_eq!(refreshes.want(at(1), &item, TTL, || 'c'), Found::New, "an item is another question");
        refreshes.ask(at(1), item.clone(), "state", 'c');
        assert_eq!(refreshes.end(at(2), &item, "fetch", true), [], "it was asked in another way");
        assert_eq!(refreshes.end(at(2), &whole, "fetch", true), ['a', 'b']);
        assert_eq!(refreshes.want(at(3), &whole, TTL, || 'd'), Found::Fresh("fetch"));
        assert_eq!(refreshes.want(at(4), &whole, TTL, || 'd'), Found::New);
        assert_eq!(refreshes.due(), Some(at(31)), "the item's question is open still");
        assert_eq!((refreshes.overdue(Some(at(30))), refreshes.overdue(Some(at(31)))), (vec![], vec!['c']));
        assert_eq!(refreshes.due(), None);
    }

    #[test]
    fn the_answer_about_one_key_ends_no_question_about_another() {
        let mut refreshes = Refreshes::default();
        let of = |key: &str| -> Subject { (RingId(1), Some(key.into())) };
        refreshes.ask(at(0), of("a"), "state", 'a');
        refreshes.ask(at(0), of("b"), "state", 'b');
        refreshes.ask(at(0), (RingId(1), None), "state", 'w');
        assert_eq!(refreshes.end(at(1), &of("b"), "state", true), ['b']);
        assert_eq!(refreshes.want(at(1), &of("b"), TTL, || 'x'), Found::Fresh("state"));
        assert_eq!(refreshes.want(at(1), &of("a"), TTL, || 'x'), Found::Joined);
        assert_eq!(refreshes.end(at(1), &of("a"), "state", false), ['a', 'x']);
        assert_eq!(refreshes.forget(RingId(1)), ['w']);
    }

    #[test]
    fn a_failure_is_not_remembered_and_limits_hold() {
        let mut refreshes = Refreshes::default();
        for ring in 0..u32::try_from(OPEN_MAX).unwrap() {
            refreshes.ask(at(0), (RingId(ring), None), "state", 0);
        }
        assert_eq!(refreshes.want(at(0), &(RingId(9_999), None), TTL, || 1), Found::Full);
        for who in 1..WAITING_MAX {
            assert_eq!(refreshes.want(at(0), &(RingId(1), None), TTL, || who), Found::Joined);
        }
        assert_eq!(refreshes.want(at(0), &(RingId(1), None), TTL, || 0), Found::Full);
        assert_eq!(refreshes.end(at(0), &(RingId(1), None), "state", false).len(), WAITING_MAX);
        assert_eq!(refreshes.want(at(0), &(RingId(1), None), TTL, || 0), Found::New);
        assert_eq!(refreshes.overdue(None).len(), OPEN_MAX - 1);
    }
}
