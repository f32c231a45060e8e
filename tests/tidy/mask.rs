//! Tells code from comments and literals, so that rules about code do not read prose and the other way round.

/// Rust source with each part on its own; line breaks and columns stay where they were, the rest is blanked.
pub struct Masked {
    /// Code without comments and without the insides of string and character literals.
    pub code: String,
    /// Comments only.
    pub comments: String,
}

/// What the bytes at a place belong to.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Code,
    Comment,
    Literal,
}

/// Splits `text`.
pub fn mask(text: &str) -> Masked {
    let bytes = text.as_bytes();
    let (mut code, mut comments) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < bytes.len() {
        let (part, end) = part_at(bytes, at);
        for byte in &bytes[at..end] {
            let kept = |wanted| if part == wanted || *byte == b'\n' { *byte } else { b' ' };
            code.push(kept(Part::Code));
            comments.push(kept(Part::Comment));
        }
        at = end;
    }
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Masked { code: text(&code), comments: text(&comments) }
}

fn part_at(bytes: &[u8], at: usize) -> (Part, usize) {
    let rest = &bytes[at..];
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        let len = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        return (Part::Comment, at + len);
    }
    if rest.starts_with(b"/*") {
        return (Part::Comment, block_comment_end(bytes, at));
    }
    if !word_before && let Some(end) = raw_string_end(bytes, at) {
        return (Part::Literal, end);
    }
    match rest[0] {
        b'"' => (Part::Literal, quoted_end(bytes, at, b'"')),
        b'\'' if is_character(rest) => (Part::Literal, quoted_end(bytes, at, b'\'')),
        _ => (Part::Code, at + 1),
    }
}

/// `'x'` and `'\n'` are characters, `'a` is a lifetime.
fn is_character(rest: &[u8]) -> bool {
    match rest.get(1) {
        Some(b'\\') => true,
        Some(first) if first.is_ascii() => rest.get(2) == Some(&b'\''),
        Some(_) => rest.iter().take(7).skip(2).any(|b| *b == b'\''),
        None => false,
    }
}

fn quoted_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != quote {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut quote = at + usize::from(bytes[at] == b'b');
    if bytes.get(quote) != Some(&b'r') {
        return None;
    }
    quote += 1;
    let hashes = bytes[quote..].iter().take_while(|b| **b == b'#').count();
    quote += hashes;
    if bytes.get(quote) != Some(&b'"') {
        return None;
    }
    let mut end = quote + 1;
    while end < bytes.len() {
        if bytes[end] == b'"' && bytes[end + 1..].iter().take(hashes).filter(|b| **b == b'#').count() == hashes {
            return Some(end + 1 + hashes);
        }
        end += 1;
    }
    Some(bytes.len())
}

fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut end, mut depth) = (at, 0);
    while end < bytes.len() {
        if bytes[end..].starts_with(b"/*") {
            depth += 1;
            end += 2;
        } else if bytes[end..].starts_with(b"*/") {
            depth -= 1;
            end += 2;
            if depth == 0 {
                break;
            }
        } else {
            end += 1;
        }
    }
    end.min(bytes.len())
}

#[test]
fn code_comments_and_literals_are_told_apart() {
    let masked =
        mask("let a = \"// no\"; // tokio 'x'\nlet b: &'a str = r#\"\"tokio\"#; /* a /* b */ c */ let c = '\"';");
    assert!(
        masked.code.contains("let a =") && masked.code.contains("let b: &'a str =") && masked.code.contains("let c =")
    );
    assert!(!masked.code.contains("tokio") && !masked.code.contains("no") && !masked.code.contains("b */"));
    assert!(masked.comments.contains("// tokio 'x'") && masked.comments.contains("/* a /* b */ c */"));
    assert!(!masked.comments.contains("// no"));
    assert_eq!(masked.code.lines().count(), masked.comments.lines().count());
}
