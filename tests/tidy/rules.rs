//! The rules that look at one file at a time (budgets: at one file after another).

use super::mask::mask;
use super::{Complaints, File};

/// Code lines a file.
const FILE_BUDGET: usize = 500;
/// Code lines a function.
const FUNCTION_BUDGET: usize = 70;

/// Files that people read.
pub const TEXT: &[&str] = &["rs", "toml", "md", "yaml", "yml", "service", "js", "json", "sh"];

fn complain(file: &File, line: usize, words: &str) -> String {
    format!("{}:{}: {words}", file.path, line + 1)
}

/// Lines with code on them: blank lines and comments do not count.
fn code_lines<'a>(lines: impl Iterator<Item = &'a str>) -> usize {
    lines.filter(|line| !line.trim().is_empty()).count()
}

/// `(name, line, code lines)` of each function. Relies on rustfmt: a body ends at the brace that stands where `fn` stood.
pub fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let code = mask(text).code;
    let lines: Vec<&str> = code.lines().collect();
    let mut out = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let ends = |line: &&str| {
            let trimmed = line.trim_start();
            line.len() - trimmed.len() == indent && (trimmed.starts_with('}') || trimmed.ends_with(';'))
        };
        let one_line = line.trim_end().ends_with('}') || line.trim_end().ends_with(';');
        let length = if one_line { 1 } else { lines[start + 1..].iter().position(ends).map_or(1, |n| n + 2) };
        out.push((name, start, code_lines(lines[start..(start + length).min(lines.len())].iter().copied())));
    }
    out
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let mut word = words.next()?;
    while word.starts_with("pub") || ["const", "async", "extern", "default"].contains(&word) {
        word = words.next()?;
    }
    let name = (word == "fn").then(|| words.next())??;
    Some(name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

/// Files and functions above their budget that the ratchet does not know, and ratchet entries that are loose.
pub fn budgets(files: &[File], ratchet: &[(&str, usize)]) -> Complaints {
    let mut sizes: Vec<(String, usize, usize)> = Vec::new();
    for file in files {
        sizes.push((file.path.clone(), code_lines(mask(&file.text).code.lines()), FILE_BUDGET));
        for (name, _, length) in functions(&file.text) {
            sizes.push((format!("{}::{name}", file.path), length, FUNCTION_BUDGET));
        }
    }
    let mut out = Vec::new();
    for (what, size, budget) in &sizes {
        let known = ratchet.iter().find(|(name, _)| name == what).map(|(_, size)| *size);
        if *size > known.unwrap_or(*budget).max(*budget) {
            out.push(format!("{what}: {size} code lines, the budget is {budget}: split it by noun"));
        }
    }
    for (name, allowed) in ratchet {
        match sizes.iter().filter(|(what, ..)| what == name).map(|(_, size, budget)| (*size, *budget)).max() {
            None => out.push(format!("{name}: in the ratchet list but not in the project: strike it out")),
            Some((size, budget)) if size <= budget => out.push(format!("{name}: within its budget: strike it out")),
            Some((size, _)) if size < *allowed => out.push(format!("{name}: shrank to {size}: lower the ratchet")),
            Some(_) => {}
        }
    }
    out
}

/// Clocks, sockets, files, threads, tasks and chance in a pure folder, and iteration in an order that differs by run.
pub fn purity(file: &File) -> Complaints {
    const FORBIDDEN: &[&str] = &[
        "tokio",
        "std::net",
        "std::fs",
        "std::thread",
        "std::io",
        "Instant::now",
        "SystemTime",
        ".await",
        "async fn",
        "getrandom",
        "println!",
        "std::env",
        "std::process",
        "tracing::",
    ];
    let code = mask(&file.text).code;
    let mut out = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
            let constant = *word == "std::net" && ["IpAddr", "SocketAddr"].iter().any(|plain| line.contains(plain));
            // A level is a plain value; only saying something is an effect.
            let plain_level = *word == "tracing::" && line.contains("tracing::Level");
            if !constant && !plain_level {
                out.push(complain(
                    file,
                    number,
                    &format!("`{word}` in a pure folder: pass it in, or move it to a carrier"),
                ));
            }
        }
    }
    out.extend(hash_iteration(file, &code));
    out
}

/// Names that hold a `HashMap` or `HashSet`, and whether anything walks over them.
fn hash_iteration(file: &File, code: &str) -> Complaints {
    let tables = code.lines().filter(|line| !line.trim_start().starts_with("use "));
    let names: Vec<&str> = tables.filter_map(|line| declared(line, "HashMap").or(declared(line, "HashSet"))).collect();
    let mut out = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for name in names.iter().copied() {
            let walks =
                ["iter()", "iter_mut()", "keys()", "values()", "values_mut()", "into_iter()", "drain()", "retain("]
                    .iter()
                    .any(|verb| line.contains(&format!("{name}.{verb}")));
            let looped = line.trim_start().starts_with("for ")
                && line.split(" in ").nth(1).is_some_and(|over| {
                    let over =
                        over.trim_start_matches(['&', ' ']).trim_start_matches("mut ").trim_start_matches("self.");
                    over.trim_end_matches([' ', '{']) == name
                });
            if walks || looped {
                out.push(complain(
                    file,
                    number,
                    &format!("iteration over the hash table `{name}`: its order differs by run"),
                ));
            }
        }
    }
    out
}

/// The name that is declared with this type or value: what stands before the last `: ` or `= ` before it.
fn declared<'a>(line: &'a str, kind: &str) -> Option<&'a str> {
    let before = &line[..line.find(kind)?];
    let (name, _) = before.split_at(before.rfind(": ").max(before.rfind(" = "))?);
    let name = name.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    (!name.is_empty()).then_some(name)
}

/// A word that the glossary has another word for: `(not this, but this)`. Matched as a whole word of a name or of a comment.
const SYNONYMS: &[(&str, &str)] = &[
    ("topic", "channel"),
    ("consumer", "session"),
    ("producer", "publisher"),
    ("broker", "upstream, or relay"),
    ("mailbox", "outbox"),
    ("dlq", "dead letters"),
    ("checkpoint", "position or cursor"),
    ("ringbuffer", "ring"),
    ("plugin", "dialect"),
    ("adapter", "dialect"),
    ("throttler", "limiter"),
    ("ratelimiter", "limiter"),
    ("tenant", "principal"),
    ("watcher", "subscription"),
];

/// Names that say nothing; forbidden where something is named, not where a foreign name is used.
const EMPTY: &[&str] = &["manager", "helper", "util", "misc", "handler"];

/// Synonyms of glossary words in names and comments.
pub fn glossary(file: &File) -> Complaints {
    let masked = mask(&file.text);
    let mut out = Vec::new();
    for (number, (code, comment)) in masked.code.lines().zip(masked.comments.lines()).enumerate() {
        let words = words_of(code).into_iter().chain(words_of(comment));
        for word in words {
            let single = word.strip_suffix('s').unwrap_or(&word);
            let found = SYNONYMS.iter().find(|(wrong, _)| *wrong == word || *wrong == single);
            if let Some((wrong, right)) = found {
                out.push(complain(file, number, &format!("`{wrong}`: the glossary's word is {right}")));
            }
            if names_something(code) && EMPTY.contains(&single) {
                out.push(complain(file, number, &format!("`{single}` says nothing: name what it does or holds")));
            }
        }
    }
    out
}

/// Whether a line gives a name to a module, type or function of ours.
fn names_something(code: &str) -> bool {
    let mut words = code.split_whitespace().skip_while(|word| word.starts_with("pub") || *word == "async");
    words.next().is_some_and(|word| ["mod", "struct", "enum", "trait", "fn", "type"].contains(&word))
}

/// The words of names (`snake_case`, `CamelCase`) and prose, in lower case.
fn words_of(text: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut before_lower = false;
    for c in text.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && before_lower) {
            out.push(String::new());
        }
        if c.is_alphanumeric() {
            out.last_mut().unwrap().extend(c.to_lowercase());
        }
        before_lower = c.is_lowercase();
    }
    out.retain(|word| !word.is_empty());
    out
}

/// Plain comments that read as code.
pub fn commented_out(file: &File) -> Complaints {
    let mut out = Vec::new();
    for (number, line) in mask(&file.text).comments.lines().enumerate() {
        let Some(text) = line.trim().strip_prefix("//").filter(|rest| !rest.starts_with(['/', '!'])) else { continue };
        let text = text.trim();
        let starts = ["let ", "use ", "pub ", "fn ", "impl ", "return ", "match ", "if let ", "self.", "#["];
        let statement = text.ends_with(';') && (text.contains(['(', '=']) || text.contains("::"));
        let opening = text.ends_with('{') && starts.iter().any(|start| text.starts_with(start));
        let attribute = text.starts_with("#[") && text.ends_with(']');
        let closing = ["}", "});", "},", "};"].contains(&text);
        if statement || opening || attribute || closing {
            out.push(complain(file, number, "code in a comment: delete it, the history keeps it"));
        }
    }
    out
}

/// `allow` attributes: `expect` with a reason tells when it is no longer needed.
pub fn silenced(file: &File) -> Complaints {
    let code = mask(&file.text).code;
    let mut out = Vec::new();
    for (number, line) in code.lines().enumerate() {
        if line.contains("#[allow(") || line.contains("#![allow(") {
            out.push(complain(
                file,
                number,
                "`allow`: write `#[expect(…, reason = \"…\")]`, which fails once it is dead",
            ));
        }
        let attribute = code.lines().skip(number).take(6).collect::<String>();
        let attribute = attribute.split(']').next().unwrap_or_default();
        if (line.contains("#[expect(") || line.contains("#![expect(")) && !attribute.contains("reason") {
            out.push(complain(file, number, "`expect` without a reason"));
        }
    }
    out
}

/// Work put off in a comment.
pub fn put_off(file: &File) -> Complaints {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("HA", "CK:")];
    let lines = file.text.lines().enumerate();
    lines
        .filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)))
        .map(|(number, _)| complain(file, number, "work put off: do it, or say in the documentation what is not there"))
        .collect()
}

/// Paths that only exist on the machine of whoever wrote them.
pub fn machine_paths(file: &File) -> Complaints {
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("bash", "_jobs")];
    let lines = file.text.lines().enumerate();
    lines
        .filter(|(_, line)| places.iter().any(|place| line.contains(place)))
        .map(|(number, _)| complain(file, number, "a path of one machine"))
        .collect()
}

/// A file begins with what it is.
pub fn module_doc(file: &File) -> Complaints {
    let said = file.text.lines().next().is_some_and(|line| line.starts_with("//!") && line.len() > 12);
    if said { Vec::new() } else { vec![complain(file, 0, "no module doc: say first what it is and what it is not")] }
}

/// `unwrap` and `expect` outside tests without a comment that says why they cannot fail.
pub fn unargued_panic(file: &File) -> Complaints {
    if file.path.ends_with("tests.rs") || file.path.contains("/tests/") {
        return Vec::new();
    }
    let masked = mask(&file.text);
    let comments: Vec<&str> = masked.comments.lines().collect();
    let mut out = Vec::new();
    for (number, line) in masked.code.lines().enumerate() {
        if line.contains("#[cfg(test)]") {
            break;
        }
        let argued = comments[number.saturating_sub(3)..=number].iter().any(|comment| comment.contains("//"));
        if (line.contains(".unwrap()") || line.contains(".expect(")) && !argued {
            out.push(complain(file, number, "a panic without an argument: say in a comment why it cannot happen"));
        }
    }
    out
}
