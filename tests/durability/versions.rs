//! Directories that earlier programs left are read as they meant them.
//!
//! `fixtures/vN` was written by the last program whose records had version N, over a service that acknowledged the first two
//! messages, refused the third, and closed the connection at the fourth, which was not to be sent twice; the last two wait.

use std::path::Path;

use tidegate::relay::outbox::{Lane, OutcomeState};

use crate::harness::*;

fn fixture(version: u8) -> tempfile::TempDir {
    let directory = scratch();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/durability/fixtures/v{version}"));
    copy_tree(&from, &directory.path().join("state"));
    directory
}

#[test]
fn a_directory_of_every_earlier_version_is_read_whole_and_goes_on() {
    for version in 1..=4 {
        let directory = fixture(version);
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
