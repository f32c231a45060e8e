//! docs/dialects.md, executed: its files are written, its commands run, and what it shows must be what comes out.
//!
//! The page marks its code blocks by the comment before them:
//! `<!-- file: NAME -->` is the whole file NAME; `<!-- fragment -->` is a part of a dialect that must load when it is put
//! under the two head lines; a ` ```console ` block holds commands (`$ tidegate ...`) and exactly what they print,
//! `[exit N]` last where it is not 0; `<!-- config -->` is a part of the configuration.

use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate::dialect::Dialect;

/// A code block of the page.
struct Block {
    /// The comment before it, without its marks.
    mark: String,
    language: String,
    text: String,
    /// Of the page, from 1.
    line: usize,
}

fn page() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/dialects.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    let mut mark = String::new();
    for (number, line) in page.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(language) if !open => {
                open = true;
                let mark = std::mem::take(&mut mark);
                blocks.push(Block { mark, language: language.to_owned(), text: String::new(), line: number + 1 });
            }
            Some(_) => open = false,
            None if open => {
                let block = blocks.last_mut().expect("a block is open");
                block.text.push_str(line);
                block.text.push('\n');
            }
            None if line.starts_with("<!-- ") => {
                mark = line.trim_start_matches("<!-- ").trim_end_matches(" -->").to_owned();
            }
            None if line.is_empty() => {}
            None => mark.clear(),
        }
    }
    assert!(!open, "the last code block is not closed");
    blocks
}

/// Runs one `$ ` line in `folder`; what it prints, with `[exit N]` if it fails.
fn printed(folder: &Path, command: &str) -> String {
    let arguments = words(command);
    let (program, arguments) = arguments.split_first().expect("a command has a name");
    assert_eq!(program, "tidegate", "only tidegate is run: {command}");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).current_dir(folder).output().unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    if let Some(code @ 1..) = output.status.code() {
        text += &format!("[exit {code}]\n");
    }
    text
}

/// A command line's words, as a shell would split them: spaces, and single quotes around what holds some.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("there is always one").push(c),
        }
    }
    words
}

#[test]
fn everything_on_the_page_is_true() {
    let folder = tempfile::tempdir().unwrap();
    let (mut commands, mut fragments) = (0, 0);
    for block in blocks(&page()) {
        let place = format!("docs/dialects.md:{}", block.line);
        match (block.language.as_str(), block.mark.split_once(": ")) {
            (_, Some(("file", name))) => std::fs::write(folder.path().join(name), &block.text).unwrap(),
            ("toml", None) if block.mark == "fragment" => {
                let rule = "[[on]]\nmatch = { \"/x\" = 1 }\nis = \"ignore\"\n";
                let rule = if block.text.contains("[[on]]") { "" } else { rule };
                let text = format!("dialect = 1\nname = \"page\"\n{}\n{rule}", block.text);
                let loaded = Dialect::parse(&place, &text);
                assert!(loaded.is_ok(), "{place}: {:?}", loaded.err());
                fragments += 1;
            }
            ("toml", None) if block.mark == "config" => {
                let config: toml::Table = block.text.parse().unwrap_or_else(|error| panic!("{place}: {error}"));
                assert!(config.contains_key("upstream"), "{place}");
            }
            ("console", None) => {
                for (command, expected) in console(&block.text) {
                    assert_eq!(printed(folder.path(), command), expected, "{place}: {command}");
                    commands += 1;
                }
            }
            (language, mark) => panic!("{place}: a block of {language:?} marked {mark:?} that no test runs"),
        }
    }
    assert!(
        commands >= 5 && fragments >= 9,
        "{commands} commands and {fragments} fragments: has the page changed its marks?"
    );
}

/// Commands and what they print.
fn console(text: &str) -> Vec<(&str, String)> {
    let mut runs: Vec<(&str, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), runs.last_mut()) {
            (Some(command), _) => runs.push((command, String::new())),
            (None, Some((_, output))) => *output += &format!("{line}\n"),
            (None, None) => panic!("a console block begins with a command: {line}"),
        }
    }
    runs
}

/// The keys that the language has, as it names them itself when it meets one that it does not have.
fn keys() -> Vec<String> {
    let unknown = r#"
        dialect = 1
        name = "x"
        zz = 1
        frame = { zz = 1 }
        connect = { zz = 1 }
        limits = { zz = 1 }
        gap = { zz = 1 }
        close = { zz = 1 }
        send = { zz = 1, publish = { json = "{}", zz = 1 }, subscribe = { json = "{}", zz = 1 } }
        [[on]]
        match = { "/a" = { exists = true, zz = 1 } }
        is = "event"
        channel = "/c"
        zz = 1
        each = { at = "/x", zz = 1 }
    "#;
    let errors = Dialect::parse("unknown", unknown).unwrap_err();
    let lists = errors.iter().filter_map(|error| error.reason.split_once("expected one of "));
    let keys: Vec<_> = lists.flat_map(|(_, list)| list.split(", ").map(|key| key.replace('`', ""))).collect();
    assert_eq!(errors.len(), 12, "{errors:?}");
    keys
}

#[test]
fn every_key_is_explained() {
    let page = page();
    let keys = keys();
    let missing: Vec<_> = keys.iter().filter(|key| !page.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty() && keys.len() > 70, "of {} keys: {missing:?}", keys.len());
}
