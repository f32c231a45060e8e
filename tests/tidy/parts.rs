//! Parts of the relay do not use each other: only `relay/mod.rs` and `relay/meet/` bring two of them together.

use super::mask::mask;
use super::{Complaints, File};

/// Words and plain arithmetic that every part may use.
const SHARED: &[&str] = &["time", "rng", "record", "pairs", "stats", "backoff", "limiter", "lately", "held", "redact"];
/// Plain enums and values of parts that are words, too; and the token bucket, which knows nothing of the relay.
const SHARED_NAMES: &[&str] = &[
    "outbox::Lane",
    "outbox::OnUnknown",
    "outbox::Outcome",
    "outbox::OutcomeState",
    "outbox::Confirm",
    "access::Principal",
    "feed::RingId",
    "limiter::Bucket",
    "attempt::Ending",
];

/// Uses of another part.
pub fn apart(file: &File) -> Complaints {
    let Some(inside) = file.path.strip_prefix("src/relay/") else { return Vec::new() };
    let own = inside.split(['/', '.']).next().unwrap_or_default();
    if inside == "mod.rs" || own == "meet" || SHARED.contains(&own) {
        return Vec::new();
    }
    // A file of a part stands one `super` below the relay for each folder, `mod.rs` being its folder.
    let depth = inside.matches('/').count() + usize::from(!inside.ends_with("mod.rs"));
    let code = mask(&file.text).code;
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let mut out = Vec::new();
    for prefix in ["crate::relay::".to_owned(), "super::".repeat(depth)] {
        for (at, _) in code.match_indices(&prefix) {
            let before = &code[..at];
            if before.ends_with("super::") || code[at + prefix.len()..].starts_with("super::") {
                continue;
            }
            for path in expand(&code[at + prefix.len()..]) {
                let part = path.split("::").next().unwrap_or_default();
                let known = part == own || SHARED.contains(&part) || SHARED_NAMES.contains(&path.as_str());
                if !known && part.starts_with(|c: char| c.is_ascii_lowercase()) {
                    let line = before.matches('\n').count() + 1;
                    let words = "parts do not know each other; let relay/mod.rs or relay/meet/ carry it";
                    out.push(format!("{}:{line}: `{own}` uses `{path}`: {words}", file.path));
                }
            }
        }
    }
    out
}

/// The paths of a use tree: `a::{b, c::d};` gives `a::b` and `a::c::d`; a plain path gives itself up to two segments.
fn expand(tree: &str) -> Vec<String> {
    let head: String = tree.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let rest = &tree[head.len()..];
    if let Some(body) = rest.strip_prefix("::{").or(rest.strip_prefix('{')) {
        let join = |inner: String| if head.is_empty() { inner } else { format!("{head}::{inner}") };
        return split(body).into_iter().flat_map(expand_owned).map(join).map(|path| shorten(&path)).collect();
    }
    match rest.strip_prefix("::") {
        Some(further) => expand(further).into_iter().map(|inner| shorten(&format!("{head}::{inner}"))).collect(),
        None => vec![head],
    }
}

fn expand_owned(tree: String) -> Vec<String> {
    expand(&tree)
}

fn shorten(path: &str) -> String {
    path.split("::").take(2).collect::<Vec<_>>().join("::")
}

/// The members of a brace that was just opened.
fn split(body: &str) -> Vec<String> {
    let (mut out, mut depth) = (vec![String::new()], 0);
    for c in body.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => {
                out.push(String::new());
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if !(c.is_whitespace() && out.last().is_some_and(String::is_empty)) {
            out.last_mut().unwrap().push(c);
        }
    }
    out.retain(|member| !member.trim().is_empty());
    out
}
