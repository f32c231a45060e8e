//! The rules of the house as tests over the project's own text. Each rule is a function from a file to complaints; each has
//! a test that plants a violation and sees it caught, so that no rule can go blind unnoticed.
//!
//! Not here: what rustfmt, clippy and the compiler say already.

#[path = "tidy/mask.rs"]
mod mask;
#[path = "tidy/parts.rs"]
mod parts;
#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/rules.rs"]
mod rules;

use std::path::{Path, PathBuf};

/// What is wrong, with its place: `path:line: words`.
type Complaints = Vec<String>;

/// A file of the project.
struct File {
    /// Relative to the project.
    path: String,
    text: String,
}

/// Functions and files above their budget: `(path or path::function, code lines)`. May only shrink: a number that is too
/// high, or an entry that is no longer needed, fails as well.
const RATCHET: &[(&str, usize)] = &[];

fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(dir: &Path, extensions: &[&str], out: &mut Vec<File>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", "node_modules", "venv"].contains(&name.as_str()) && (!name.starts_with('.') || name == ".ci")
            {
                collect(&path, extensions, out);
            }
        } else if extensions.iter().any(|wanted| path.extension().is_some_and(|have| have == *wanted)) {
            let path_text = path.strip_prefix(project()).unwrap().to_string_lossy().into_owned();
            out.push(File { path: path_text, text: std::fs::read_to_string(&path).unwrap() });
        }
    }
}

fn files(folders: &[&str], extensions: &[&str]) -> Vec<File> {
    let mut out = Vec::new();
    for folder in folders {
        collect(&project().join(folder), extensions, &mut out);
    }
    assert!(!out.is_empty(), "no files in {folders:?}: the rule would see nothing");
    out
}

fn hold(files: &[File], rule: impl Fn(&File) -> Complaints) {
    let complaints: Complaints = files.iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn sources() -> Vec<File> {
    files(&["src", "tests", "benches"], &["rs"])
}

#[test]
fn files_and_functions_keep_their_budgets() {
    let complaints = rules::budgets(&sources(), RATCHET);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn pure_folders_are_pure() {
    hold(&files(&["src/relay", "src/dialect", "src/protocol"], &["rs"]), rules::purity);
}

#[test]
fn parts_of_the_relay_meet_only_in_mod_and_meet() {
    hold(&files(&["src/relay"], &["rs"]), parts::apart);
}

#[test]
fn one_word_for_one_thing() {
    hold(&files(&["src"], &["rs"]), rules::glossary);
}

#[test]
fn no_code_in_comments() {
    hold(&sources(), rules::commented_out);
}

#[test]
fn lints_are_silenced_only_with_a_reason_that_the_compiler_checks() {
    hold(&sources(), rules::silenced);
}

#[test]
fn nothing_is_put_off() {
    hold(&files(&["src", "tests", "benches", "config", "deploy", "systemd", "docs"], rules::TEXT), rules::put_off);
}

#[test]
fn no_machine_is_named() {
    let mut all = files(&["src", "tests", "benches", "config", "deploy", "systemd", "docs", ".ci"], rules::TEXT);
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md", "Cargo.toml", "deny.toml"] {
        if let Ok(text) = std::fs::read_to_string(project().join(name)) {
            all.push(File { path: name.to_owned(), text });
        }
    }
    hold(&all, rules::machine_paths);
}

#[test]
fn modules_say_first_what_they_are() {
    hold(&sources(), rules::module_doc);
}

#[test]
fn a_panic_in_the_program_is_argued_for() {
    hold(&files(&["src"], &["rs"]), rules::unargued_panic);
}
