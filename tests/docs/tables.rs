//! README's tables, compared with the code that they are about.

use std::collections::BTreeSet;

use tidegate::protocol::codes::{CloseCode, ErrorCode};
use tidegate::protocol::frame::EntryKind;

use crate::{project, text};

/// The cells of README's table whose head begins with this cell, row by row, without back quotes.
fn table(head: &str) -> Vec<Vec<String>> {
    let readme = text("README.md");
    let mut rows = readme.lines().skip_while(|line| !line.starts_with(&format!("| {head} |")));
    assert!(rows.next().is_some(), "README has no table `{head}`");
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    rows.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect()
}

#[test]
fn the_errors_are_those_of_the_code() {
    let code: Vec<Vec<String>> = ErrorCode::ALL
        .iter()
        .map(|code| {
            let retry = if code.retryable() { "yes" } else { "no" };
            vec![code.text().to_owned(), code.http_status().to_string(), retry.to_owned()]
        })
        .collect();
    let readme: Vec<Vec<String>> = table("code").into_iter().map(|row| row[..3].to_vec()).collect();
    assert_eq!(readme, code);
}

#[test]
fn the_close_codes_are_those_of_the_code() {
    let code: Vec<Vec<String>> = CloseCode::ALL
        .iter()
        .map(|code| {
            let back = if code.reconnect() { "yes" } else { "no" };
            vec![code.number().to_string(), code.reason().to_owned(), back.to_owned()]
        })
        .collect();
    let readme: Vec<Vec<String>> = table("close code").into_iter().map(|row| row[..3].to_vec()).collect();
    assert_eq!(readme, code);
}

#[test]
fn the_dialects_are_those_that_are_built_in() {
    let readme: Vec<String> = table("dialect").into_iter().map(|row| row[0].clone()).collect();
    let code: Vec<&str> = tidegate::dialect::Dialect::builtins().collect();
    assert_eq!(readme, code);
}

#[test]
fn the_own_channels_are_those_that_can_be_subscribed() {
    let source = std::fs::read_to_string(project().join("src/relay/meet/clients/subscribing.rs")).unwrap();
    let words = source.split("the relay's own channels are ").nth(1).and_then(|rest| rest.split('"').next());
    let words = words.expect("a refusal that names them").replace(" and ", ", ");
    let code: BTreeSet<String> = words.split(", ").map(str::to_owned).collect();
    let readme: BTreeSet<String> = table("channel").into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(readme, code);
}

#[test]
fn the_options_are_those_that_can_be_asked_for() {
    let readme: Vec<String> = table("option").into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(readme, tidegate::protocol::request::options::Options::NAMES);
}

#[test]
fn the_frames_are_those_of_the_code() {
    let entries = EntryKind::ALL;
    let mut code: BTreeSet<String> = entries.iter().map(|kind| kind.text().to_owned()).collect();
    // A control frame begins with `Object::kind("…")`; `event`, `gap` and `reset` have offsets, too.
    for source in ["src/protocol/control.rs", "src/relay/meet/clients/snapshots.rs"] {
        let source = std::fs::read_to_string(project().join(source)).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        code.extend(
            source.split("Object::kind(\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned),
        );
    }
    let readme: BTreeSet<String> = table("frame").into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(readme, code);
    let with_position: BTreeSet<String> =
        table("frame").into_iter().filter(|row| !row[1].is_empty()).map(|row| row[0].clone()).collect();
    assert_eq!(with_position, entries.iter().map(|kind| kind.text().to_owned()).collect());
}
