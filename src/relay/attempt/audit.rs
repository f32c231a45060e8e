//! When this attempt asks what upstream believes to be subscribed on it, and what was live when it asked.
//!
//! Invariant: one question at a time, each answered once or given up. Deliberately not here: what a difference leads to.

use std::collections::BTreeMap;

use super::super::time::Mono;
use crate::dialect::{ChannelId, RequestId};

/// What was live when upstream was asked, by name.
pub type Live = BTreeMap<Box<str>, ChannelId>;

#[derive(Debug)]
struct Question {
    request: RequestId,
    until: Mono,
    live: Live,
}

/// The audits of one attempt.
#[derive(Debug, Default)]
pub struct Audit {
    due: Option<Mono>,
    asked: Option<Question>,
}

impl Audit {
    /// The next question is asked then; `None`: never.
    pub fn at(&mut self, due: Option<Mono>) {
        self.due = due;
    }

    /// When a question is to be asked, or given up.
    pub fn due(&self) -> Option<Mono> {
        self.asked.as_ref().map_or(self.due, |question| Some(question.until))
    }

    /// Whether a question is to be asked.
    pub fn is_due(&self, now: Mono) -> bool {
        self.asked.is_none() && self.due.is_some_and(|due| due <= now)
    }

    /// Upstream is asked; it has until then to answer.
    pub fn ask(&mut self, request: RequestId, until: Mono, live: Live) {
        self.asked = Some(Question { request, until, live });
    }

    /// The question was answered, or refused: what was live when it was asked. `None`: it is not this one.
    pub fn end(&mut self, request: RequestId) -> Option<Live> {
        let question = self.asked.take_if(|question| question.request == request)?;
        Some(question.live)
    }

    /// The question that was open for too long; it is given up.
    pub fn overdue(&mut self, now: Mono) -> Option<RequestId> {
        Some(self.asked.take_if(|question| question.until <= now)?.request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_at_a_time_is_answered_once_or_given_up() {
        let mut audit = Audit::default();
        assert_eq!((audit.due(), audit.is_due(Mono(9))), (None, false));
        audit.at(Some(Mono(5)));
        assert_eq!((audit.due(), audit.is_due(Mono(4)), audit.is_due(Mono(5))), (Some(Mono(5)), false, true));
        audit.ask(RequestId(7), Mono(20), Live::from([("a".into(), ChannelId(1))]));
        assert_eq!((audit.due(), audit.is_due(Mono(9))), (Some(Mono(20)), false));
        assert_eq!(audit.end(RequestId(6)), None);
        assert!(
            audit.end(RequestId(7)).is_some_and(|live| live.contains_key("a")) && audit.end(RequestId(7)).is_none()
        );
        audit.ask(RequestId(8), Mono(30), Live::new());
        assert_eq!(
            (audit.overdue(Mono(29)), audit.overdue(Mono(30)), audit.end(RequestId(8))),
            (None, Some(RequestId(8)), None)
        );
    }
}
