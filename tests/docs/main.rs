//! The documents, held to the truth: every command in them is run with the real binary, every configuration is checked,
//! every table is compared with the code, every link is followed.
//!
//! How a block is treated is said by its language: `sh` is run, `toml` is checked (and written to the file that its first
//! line names), `json` is parsed, `js` is checked by node, `console` holds commands of a host that no test has (a short
//! list), `session` is run by tests/real, `text` is a picture. Ports of the documents are replaced by those that the
//! started processes really have.

mod blocks;
mod faults;
mod stage;
mod tables;

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use blocks::Block;
use stage::Stage;

/// Commands that only a host with its service manager, container engine or cluster can run.
const HOST_COMMANDS: [&str; 6] = ["systemctl", "journalctl", "docker", "kubectl", "install", "cargo"];

fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every document, by its path in the project.
fn documents() -> Vec<String> {
    let mut out = vec!["README.md".to_owned()];
    let mut pages: Vec<String> = std::fs::read_dir(project().join("docs"))
        .unwrap()
        .map(|entry| format!("docs/{}", entry.unwrap().file_name().to_string_lossy()))
        .filter(|path| path.ends_with(".md"))
        .collect();
    pages.sort();
    out.extend(pages);
    out
}

fn text(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Goes through a document from top to bottom, as its reader would.
fn follow(path: &str) {
    let mut stage = Stage::new();
    let blocks = blocks::of(path, &text(path));
    for block in &blocks {
        match block.language.as_str() {
            "sh" => blocks::commands(block).iter().for_each(|command| stage.run(block, command)),
            "toml" => stage.check_toml(block),
            "json" => block.text.lines().for_each(|line| {
                let parsed = serde_json::from_str::<serde_json::Value>(line);
                assert!(parsed.is_ok(), "{}: no JSON: {line}", block.place());
            }),
            "js" => check_js(&stage, block),
            "console" => check_console(block),
            "text" => {}
            // Run by tests/real/status_service.rs, which has the service from npm.
            "session" => {}
            other => panic!("{}: a block of language `{other}` is treated by no rule", block.place()),
        }
    }
}

fn check_console(block: &Block) {
    for command in blocks::commands(block) {
        let first = command.split_whitespace().next().unwrap_or_default();
        assert!(HOST_COMMANDS.contains(&first), "{}: `{first}` could be run: use a sh block", block.place());
    }
}

fn check_js(stage: &Stage, block: &Block) {
    let file = stage.dir().join("example.mjs");
    std::fs::write(&file, &block.text).unwrap();
    match Command::new("node").arg("--check").arg(&file).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}: {}", block.place(), String::from_utf8_lossy(&output.stderr));
        }
        Err(_) => {
            let line = format!("SKIP docs::js: node is not installed; {} not checked\n", block.place());
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}

/// One test a document, so that they run at the same time and a failure names its page.
macro_rules! pages {
    ($($name:ident = $path:literal;)*) => {
        $(#[test] fn $name() { follow($path); })*

        #[test]
        fn every_document_is_followed() {
            // docs/dialects.md is followed by tests/dialects, which compares what its commands print, too.
            let documents: Vec<_> = documents().into_iter().filter(|path| path != "docs/dialects.md").collect();
            assert_eq!(documents, [$($path,)*]);
        }
    };
}

pages! {
    readme = "README.md";
    alerting = "docs/alerting.md";
    connect_a_service = "docs/connect-a-service.md";
    faults = "docs/faults.md";
    kubernetes = "docs/kubernetes.md";
    new_dialect = "docs/new-dialect.md";
    publish_safely = "docs/publish-safely.md";
    services = "docs/services.md";
    status_service = "docs/status-service.md";
    systemd = "docs/systemd.md";
}

#[test]
fn every_quantity_of_an_alert_is_documented() {
    let page = text("docs/alerting.md");
    let rows: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("| quantity |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    let names: Vec<&str> = rows.iter().filter_map(|row| row.split('`').nth(1)).collect();
    let quantities: Vec<&str> =
        tidegate::config::alerts::Quantity::ALL.iter().map(|quantity| quantity.text()).collect();
    assert_eq!(names, quantities);
}

#[test]
fn every_built_in_dialect_has_its_row_and_a_configuration() {
    let page = text("docs/services.md");
    for name in tidegate::dialect::Dialect::builtins() {
        assert!(page.contains(&format!("\n| `{name}` |")), "{name} has no row");
        assert!(page.contains(&format!("dialect = \"{name}\"\n")), "{name} has no configuration");
    }
}

#[test]
fn links_lead_somewhere() {
    for path in documents() {
        let page = project().join(&path);
        for link in text(&path).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            let outside = link.starts_with("http://") || link.starts_with("https://") || target.is_empty();
            assert!(outside || page.parent().unwrap().join(target).exists(), "{path}: {link} leads nowhere");
        }
    }
}

/// Every place of a document that the source sends people to: the file, and the heading, where one is named before it.
fn pointed_at(source: &str) -> Vec<(String, Option<String>)> {
    let mut all = Vec::new();
    for (at, _) in source.match_indices("docs/") {
        let name: String =
            source[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || "/-_.".contains(*c)).collect();
        let Some(end) = name.find(".md") else { continue };
        let heading = source[..at].strip_suffix("\\\" in ").and_then(|before| before.rsplit("\\\"").next());
        all.push((name[..end + 3].to_owned(), heading.map(str::to_owned)));
    }
    all
}

#[test]
fn what_the_program_sends_people_to_exists() {
    let mut folders = vec![project().join("src")];
    let (mut files, mut headings) = (0, 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            for (document, heading) in pointed_at(&std::fs::read_to_string(&path).unwrap_or_default()) {
                assert!(project().join(&document).exists(), "{}: there is no {document}", path.display());
                files += 1;
                let Some(heading) = heading else { continue };
                let has = text(&document).lines().any(|line| line.trim_start_matches('#').trim() == heading);
                assert!(has, "{}: {document} has no heading \"{heading}\"", path.display());
                headings += 1;
            }
        }
    }
    assert!(files >= 3 && headings >= 1, "{files} documents and {headings} headings are named");
}
