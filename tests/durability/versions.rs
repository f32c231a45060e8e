//! Directories that earlier programs left are read as they meant them.
//!
//! `fixtures/vN` was written by the last program whose records had version N, over a service that acknowledged the first two
//! messages, refused the third, and closed the connection at the fourth, which was not to be sent twice; the last two wait.
//!
//! `fixtures/format2` was left by a kill of a program with a journal whose head is `TgJl` and 12 bytes. sled had taken over the end of
//! the first message and the second one, which was waiting; all else is in the journal alone: the second was acknowledged, the third
//! refused, the connection closed at the fourth; the fifth, not to be sent twice either, had left; the last two wait.

use std::path::Path;

use tidegate::relay::outbox::{Lane, OnUnknown, OutcomeState};

use crate::harness::*;

fn fixture(name: &str) -> tempfile::TempDir {
    let directory = scratch();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/durability/fixtures").join(name);
    copy_tree(&from, &directory.path().join("state"));
    directory
}

#[test]
fn a_directory_of_every_earlier_version_is_read_whole_and_goes_on() {
    for version in 1..=4 {
        let directory = fixture(&format!("v{version}"));
        let state = directory.path().join("state");
        let (opened, restored) = open(&state);
        assert_eq!((restored.lost, &restored.losses), (0, &vec![]), "version {version}");
        let [(ordered, 0), (urgent, 0)] = &restored.messages[..] else { panic!("{version}: {:?}", restored.messages) };
        assert_eq!((&*ordered.data, ordered.order_key.as_deref()), (r#"{"n":4}"#, Some("a")), "version {version}");
        assert_eq!(
            (&*urgent.data, urgent.key.as_deref(), urgent.kind.as_deref()),
            (r#"{"n":5}"#, Some("x"), Some("t"))
        );
        assert_eq!((ordered.idempotency_key.as_deref(), urgent.lane), (Some("k4"), Lane::High), "version {version}");
        let ends: Vec<_> = restored.outcomes.iter().map(|end| (end.outcome.state, &*end.outcome.reason)).collect();
        let wanted = [
            (OutcomeState::Delivered, ""),
            (OutcomeState::Delivered, ""),
            (OutcomeState::Rejected, "E1"),
            (OutcomeState::DeadLettered, "outcome_unknown"),
        ];
        assert_eq!(ends, wanted, "version {version}");
        let letter = restored.outcomes[3].letter.as_ref().and_then(|letter| letter.message.as_ref());
        let kept = letter.map(|message| message.data.to_string());
        assert_eq!(kept, (version > 1).then(|| r#"{"n":3}"#.to_owned()), "version {version}: letters are kept since 2");

        let next = message(restored.next_sequence, 50);
        opened.commit(vec![accept(&next), settle(ordered, &outcome(ordered, 1, 20))]);
        opened.close();
        let again = read(&state);
        assert_eq!((again.messages.len(), again.outcomes.len(), again.losses), (2, 5, vec![]), "version {version}");
        assert_eq!(again.messages[1].0, next, "version {version}");
    }
}

#[test]
fn a_journal_with_the_first_head_is_read_whole_and_goes_on() {
    let directory = fixture("format2");
    let state = directory.path().join("state");
    let journal = std::fs::read(&journals(&state)[0]).unwrap();
    assert_eq!((&journal[..4], &journal[16..20]), (&b"TgJl"[..], &b"TgJr"[..]), "the head that this is about");
    let (opened, restored) = open(&state);
    assert_eq!((restored.lost, &restored.losses), (0, &vec![]));
    let waiting = restored.messages.iter().map(|(message, attempts)| (&*message.data, *attempts));
    assert!(waiting.eq([(r#"{"n":4}"#, 1), (r#"{"n":5}"#, 0), (r#"{"n":6}"#, 0)]), "{:?}", restored.messages);
    let [(once, _), (ordered, _), (urgent, _)] = &restored.messages[..] else { unreachable!() };
    assert_eq!((once.on_unknown, once.idempotency_key.as_deref()), (OnUnknown::DeadLetter, Some("k4")));
    assert_eq!((once.order_key.as_deref(), &once.order_key), (Some("a"), &ordered.order_key));
    assert_eq!((urgent.key.as_deref(), urgent.kind.as_deref(), urgent.lane), (Some("x"), Some("t"), Lane::High));
    let mut ends = restored.outcomes.clone();
    ends.sort_by_key(|end| end.id);
    let told: Vec<_> = ends.iter().map(|end| (end.outcome.state, &*end.outcome.reason, end.attempts)).collect();
    let wanted = [
        (OutcomeState::Delivered, "", 1),
        (OutcomeState::Delivered, "", 2),
        (OutcomeState::Rejected, "E1", 1),
        (OutcomeState::DeadLettered, "outcome_unknown", 1),
    ];
    assert_eq!(told, wanted);
    let letter = ends[3].letter.as_ref().and_then(|letter| letter.message.as_ref());
    assert_eq!(letter.map(|message| &*message.data), Some(r#"{"n":3}"#));

    let next = message(restored.next_sequence, 50);
    opened.commit(vec![accept(&next), settle(once, &outcome(once, 1, 20))]);
    opened.close();
    let again = read(&state);
    assert_eq!((again.messages.len(), again.outcomes.len(), again.losses), (3, 5, vec![]));
    assert_eq!(again.messages[2].0, next);
}
