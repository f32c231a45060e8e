//! One strict pass over a message's raw bytes that finds the values of many JSON Pointers at once.
//!
//! All pointers of all rules of a dialect form one trie ([`PointerSet`]). [`PointerSet::scan`] walks the message and the
//! trie together and notes the span of every value that a pointer names ([`Spans`]); what no pointer enters is passed by
//! the strict reader without looking at its structure again. No tree, no copy of the payload, and nothing is allocated
//! once the buffers of `Spans` have grown to what the dialect needs.
//!
//! A pointer that walks into a string goes on inside the JSON text that the string holds (Pusher: `/data/socket_id`,
//! where `/data` is a string). Only such strings are unescaped, into buffers of `Spans`. A held text that is not JSON has
//! no values; that does not make the message invalid.
//!
//! Invariants: what it takes for valid is what RFC 8259's grammar describes (see `reader`), and the value of every pointer
//! equals that of `serde_json`'s `Value::pointer` (the last of several equal keys wins). Both are property tests. Where a text
//! is taken from a string (also a key), half a surrogate pair becomes U+FFFD; spans keep the bytes as they are.
//! The one exception: a key that serde_json keeps for itself (`$serde_json::private::RawValue`) is a key like any other here.
//! There is no early exit: some services put the id after the payload.
//! Deliberately not here: conditions and what values mean (`rule`), and where messages begin and end (`framing`).

use std::borrow::Cow;
use std::fmt::Write as _;

use super::field::{Field, FieldValue};
use super::pointer::{Pointer, array_index};
use super::reader::{self, Reader};
pub use super::reader::{Fault, Kind, ScanError};
use super::template::write_string;

/// How many strings may hold JSON within each other; what is deeper is not found.
pub const HELD_STRINGS: u8 = 4;

/// The buffer of [`Spans`] that frame fields stand in.
const FIELDS: u8 = HELD_STRINGS + 1;

/// A larger buffer of [`Spans`] is given back after the message that needed it.
const KEPT_CAPACITY: usize = 64 * 1024;

/// A pointer's number within its [`PointerSet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointerId(u32);

/// A set of pointers as a trie.
#[derive(Debug, Clone)]
pub struct PointerSet {
    nodes: Vec<Node>,
    pointers: usize,
    /// Frame fields: nodes that no way through a message leads to.
    fields: Vec<(&'static str, PointerId)>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// Whether a pointer ends here.
    named: bool,
    children: Vec<Child>,
    /// One more than the largest array index among the children; 0: none.
    indexes: usize,
}

#[derive(Debug, Clone)]
struct Child {
    token: Box<str>,
    /// The token's length and first eight bytes: most keys differ here.
    digest: Digest,
    index: Option<usize>,
    node: u32,
}

/// Length and first eight bytes (zero-padded) of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Digest {
    len: usize,
    head: u64,
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first byte.
    pub start: usize,
    /// One past its last byte. For a string both quotes are within.
    pub end: usize,
    /// What it is.
    pub kind: Kind,
    /// `[]`, `{}` or `""`.
    pub empty: bool,
    /// A string with escapes: [`unescape`] has work to do.
    pub escaped: bool,
    /// 0: in the message; [`FIELDS`]: in a frame field; else in that buffer of unescaped held texts. [`Spans::bytes`]
    /// looks there.
    buffer: u8,
}

/// What a scan found. Reusable: keep one for each conversation.
#[derive(Debug, Clone, Default)]
pub struct Spans {
    slots: Vec<Slot>,
    generation: u64,
    held: [Vec<u8>; HELD_STRINGS as usize],
    /// Frame fields as JSON texts.
    fields: String,
    key: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The scan that filled it; 0: none or cleared.
    generation: u64,
    span: Span,
}

const VACANT: Slot =
    Slot { generation: 0, span: Span { start: 0, end: 0, kind: Kind::Null, empty: false, escaped: false, buffer: 0 } };

impl Default for PointerSet {
    fn default() -> Self {
        Self::new()
    }
}

impl PointerSet {
    /// The empty set: its scan only checks validity.
    pub fn new() -> Self {
        Self { nodes: vec![Node::default()], pointers: 0, fields: Vec::new() }
    }

    /// Adds a pointer; the same pointer gets the same number.
    pub fn add(&mut self, pointer: &Pointer) -> PointerId {
        let mut at = 0;
        for token in pointer.tokens() {
            at = self.child_or_new(at, token);
        }
        let node = &mut self.nodes[at];
        self.pointers += usize::from(!node.named);
        node.named = true;
        // A node that exists has a number.
        PointerId(u32::try_from(at).expect("child_or_new keeps node numbers within u32"))
    }

    /// Adds a frame field, which rules read as if it were a value of the message; the same name gets the same number.
    pub(crate) fn add_field(&mut self, name: &'static str) -> PointerId {
        if let Some((_, id)) = self.fields.iter().find(|(known, _)| *known == name) {
            return *id;
        }
        // As in `child_or_new`: what comes from a dialect's file has far fewer nodes.
        let id = PointerId(u32::try_from(self.nodes.len()).expect("fewer than 4 G pointers fit in memory"));
        self.nodes.push(Node::default());
        self.fields.push((name, id));
        id
    }

    /// Notes what a frame says about the message that was scanned last.
    pub(crate) fn note(&self, fields: &[Field<'_>], spans: &mut Spans) {
        for field in fields {
            if let Some((_, id)) = self.fields.iter().find(|(known, _)| *known == field.name) {
                spans.note(*id, &field.value);
            }
        }
    }

    fn child_or_new(&mut self, parent: usize, token: &str) -> usize {
        if let Some(child) = self.nodes[parent].children.iter().find(|child| &*child.token == token) {
            return child.node as usize;
        }
        let at = self.nodes.len();
        // Each node takes more than a byte, so 2^32 of them do not come from a dialect's file.
        let node = u32::try_from(at).expect("fewer than 4 G pointers fit in memory");
        self.nodes.push(Node::default());
        let index = array_index(token);
        let parent = &mut self.nodes[parent];
        parent.indexes = parent.indexes.max(index.map_or(0, |index| index.saturating_add(1)));
        parent.children.push(Child { token: token.into(), digest: Digest::of(token.as_bytes()), index, node });
        at
    }

    /// How many different pointers it holds.
    pub fn len(&self) -> usize {
        self.pointers
    }

    /// Whether it holds no pointer.
    pub fn is_empty(&self) -> bool {
        self.pointers == 0
    }

    /// Checks that `message` is one JSON value and notes where the value of every pointer stands. After an error `spans`
    /// holds nothing.
    pub fn scan(&self, message: &[u8], spans: &mut Spans) -> Result<(), ScanError> {
        spans.begin(self.nodes.len());
        let mut walk = Walk { nodes: &self.nodes, spans, reader: Reader::new(message, 0), buffer: 0, held: 0 };
        let verdict = walk.value(0, reader::DEPTH).and_then(|()| walk.reader.finish());
        if verdict.is_err() {
            spans.begin(self.nodes.len());
        }
        verdict
    }
}

impl Digest {
    fn of(key: &[u8]) -> Self {
        let mut head = [0; 8];
        for (to, from) in head.iter_mut().zip(key) {
            *to = *from;
        }
        Self { len: key.len(), head: u64::from_le_bytes(head) }
    }

    /// The same for `bytes[start..end]`; faster where eight bytes may be read.
    #[inline(always)]
    fn of_range(bytes: &[u8], start: usize, end: usize) -> Self {
        let len = end - start;
        match bytes.get(start..).and_then(<[u8]>::first_chunk::<8>) {
            Some(chunk) if len >= 8 => Self { len, head: u64::from_le_bytes(*chunk) },
            Some(chunk) => Self { len, head: u64::from_le_bytes(*chunk) & ((1 << (8 * len)) - 1) },
            None => Self::of(&bytes[start..end]),
        }
    }
}

impl Node {
    #[inline(always)]
    fn by_key(&self, bytes: &[u8], start: usize, end: usize) -> Option<u32> {
        let digest = Digest::of_range(bytes, start, end);
        for child in &self.children {
            if child.digest == digest && (digest.len <= 8 || child.token.as_bytes()[8..] == bytes[start + 8..end]) {
                return Some(child.node);
            }
        }
        None
    }

    #[inline(always)]
    fn by_index(&self, index: usize) -> Option<u32> {
        if index >= self.indexes {
            return None;
        }
        self.children.iter().find(|child| child.index == Some(index)).map(|child| child.node)
    }
}

impl Spans {
    /// An empty one; it grows with its first scan.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the last scan found the pointer's value. The pointer must be of the set that was scanned with.
    #[inline]
    pub fn get(&self, pointer: PointerId) -> Option<Span> {
        self.slots.get(pointer.0 as usize).filter(|slot| slot.generation == self.generation).map(|slot| slot.span)
    }

    /// A value's raw JSON text; a string's with its quotes. `message` must be the one that was scanned.
    #[inline]
    pub fn bytes<'a>(&'a self, message: &'a [u8], span: Span) -> &'a [u8] {
        let from = match span.buffer {
            0 => message,
            FIELDS => self.fields.as_bytes(),
            buffer => &self.held[usize::from(buffer) - 1],
        };
        from.get(span.start..span.end).unwrap_or_default()
    }

    /// A string's content, unescaped; any other value's raw JSON text.
    pub fn text<'a>(&'a self, message: &'a [u8], span: Span) -> Cow<'a, str> {
        let raw = self.bytes(message, span);
        match (span.kind, raw) {
            (Kind::String, [b'"', inner @ .., b'"']) if span.escaped => unescape(inner),
            (Kind::String, [b'"', inner @ .., b'"']) => lossy(inner),
            _ => lossy(raw),
        }
    }

    /// Notes a frame field's value.
    fn note(&mut self, pointer: PointerId, value: &FieldValue<'_>) {
        let start = self.fields.len();
        let kind = match value {
            FieldValue::Text(text) => {
                write_string(text, &mut self.fields);
                Kind::String
            }
            FieldValue::Number(number) => {
                // Writing to a String cannot fail.
                let _ = write!(self.fields, "{number}");
                Kind::Number
            }
        };
        let end = self.fields.len();
        let escaped = kind == Kind::String && self.fields[start..].contains('\\');
        let span = Span { start, end, kind, empty: kind == Kind::String && end - start == 2, escaped, buffer: FIELDS };
        if let Some(slot) = self.slots.get_mut(pointer.0 as usize) {
            *slot = Slot { generation: self.generation, span };
        }
    }

    fn begin(&mut self, nodes: usize) {
        self.generation += 1;
        self.fields.clear();
        if self.slots.len() != nodes {
            self.slots.clear();
            self.slots.resize(nodes, VACANT);
        }
        for buffer in &mut self.held {
            buffer.clear();
            buffer.shrink_to(KEPT_CAPACITY);
        }
    }
}

/// One text on its way: the message, or a text that a string holds.
struct Walk<'a> {
    nodes: &'a [Node],
    spans: &'a mut Spans,
    reader: Reader<'a>,
    /// Which buffer the text stands in.
    buffer: u8,
    /// How many strings it stands in.
    held: u8,
}

impl Walk<'_> {
    /// Passes the value at hand, which is the one that trie node `at` names. Recursion is as deep as the trie.
    fn value(&mut self, at: u32, room: u32) -> Result<(), ScanError> {
        let first = self.reader.next_token();
        let start = self.reader.at;
        let node = &self.nodes[at as usize];
        if self.spans.slots[at as usize].generation == self.spans.generation {
            self.forget(at); // An equal key came before: only the last one counts.
        }
        let mut escaped = false;
        let kind = match first {
            b'{' if !node.children.is_empty() => self.object(node, room).map(|()| Kind::Object)?,
            b'[' if node.indexes > 0 => self.array(node, room).map(|()| Kind::Array)?,
            b'"' => {
                escaped = self.reader.string()?;
                if !node.children.is_empty() && self.held < HELD_STRINGS {
                    self.held_text(at, start + 1, self.reader.at - 1, escaped);
                }
                Kind::String
            }
            _ => self.reader.value(room)?,
        };
        let end = self.reader.at;
        let empty = match kind {
            Kind::String => end - start == 2,
            Kind::Array | Kind::Object => self.is_empty(start, end),
            Kind::Null | Kind::Bool | Kind::Number => false,
        };
        let span = Span { start, end, kind, empty, escaped, buffer: self.buffer };
        self.spans.slots[at as usize] = Slot { generation: self.spans.generation, span };
        Ok(())
    }

    fn is_empty(&self, start: usize, end: usize) -> bool {
        end - start == 2 || Reader::new(self.reader.bytes, start + 1).only_space_until(end - 1)
    }

    fn object(&mut self, node: &Node, room: u32) -> Result<(), ScanError> {
        let room = self.enter(room)?;
        let mut next = self.reader.next_token();
        if next == b'}' {
            self.reader.at += 1;
            return Ok(());
        }
        loop {
            if next != b'"' {
                return Err(self.reader.fault(Fault::Unexpected));
            }
            let start = self.reader.at + 1;
            let escaped = self.reader.string()?;
            let end = self.reader.at - 1;
            let child = if escaped {
                self.by_escaped_key(node, start, end)
            } else {
                node.by_key(self.reader.bytes, start, end)
            };
            self.reader.colon()?;
            match child {
                Some(child) => self.value(child, room)?,
                None => self.reader.value(room).map(|_| ())?,
            }
            match self.reader.next_token() {
                b',' => self.reader.at += 1,
                b'}' => break,
                _ => return Err(self.reader.fault(Fault::Unexpected)),
            }
            next = self.reader.next_token();
        }
        self.reader.at += 1;
        Ok(())
    }

    fn array(&mut self, node: &Node, room: u32) -> Result<(), ScanError> {
        let room = self.enter(room)?;
        if self.reader.next_token() == b']' {
            self.reader.at += 1;
            return Ok(());
        }
        for index in 0.. {
            match node.by_index(index) {
                Some(child) => self.value(child, room)?,
                None => self.reader.value(room).map(|_| ())?,
            }
            match self.reader.next_token() {
                b',' => self.reader.at += 1,
                b']' => break,
                _ => return Err(self.reader.fault(Fault::Unexpected)),
            }
        }
        self.reader.at += 1;
        Ok(())
    }

    /// Passes the opening bracket; how many containers may stand within this one.
    #[inline(always)]
    fn enter(&mut self, room: u32) -> Result<u32, ScanError> {
        let room = room.checked_sub(1).ok_or_else(|| self.reader.fault(Fault::Depth))?;
        self.reader.at += 1;
        Ok(room)
    }

    #[cold]
    fn by_escaped_key(&mut self, node: &Node, start: usize, end: usize) -> Option<u32> {
        let key = &mut self.spans.key;
        key.clear();
        unescape_into(&self.reader.bytes[start..end], key);
        let child = node.by_key(key, 0, key.len());
        key.clear();
        key.shrink_to(KEPT_CAPACITY);
        child
    }

    /// Walks the JSON text that the string at `start..end` (without quotes) holds, if it holds one.
    #[inline(never)]
    fn held_text(&mut self, at: u32, start: usize, end: usize, escaped: bool) {
        let Walk { nodes, spans, reader, buffer, held } = self;
        let held = *held + 1;
        let text = &reader.bytes[..end];
        let verdict = if escaped {
            // Level by level, so that this text stays in place while a string in it is unescaped.
            let buffer = *buffer + 1;
            let mut unescaped = std::mem::take(&mut spans.held[usize::from(buffer) - 1]);
            let begin = unescaped.len();
            unescape_into(&text[start..], &mut unescaped);
            let verdict = Walk { nodes, spans, reader: Reader::new(&unescaped, begin), buffer, held }.below(at);
            spans.held[usize::from(buffer) - 1] = unescaped;
            verdict
        } else {
            Walk { nodes, spans, reader: Reader::new(text, start), buffer: *buffer, held }.below(at)
        };
        if verdict.is_err() {
            self.forget(at);
        }
    }

    /// Passes the whole text, noting what stands below trie node `at` but not the text itself.
    fn below(mut self, at: u32) -> Result<(), ScanError> {
        let node = &self.nodes[at as usize];
        let room = reader::DEPTH;
        match self.reader.next_token() {
            b'{' => self.object(node, room)?,
            b'[' => self.array(node, room)?,
            b'"' if self.held < HELD_STRINGS => {
                let start = self.reader.at + 1;
                let escaped = self.reader.string()?;
                self.held_text(at, start, self.reader.at - 1, escaped);
            }
            _ => return Err(self.reader.fault(Fault::Unexpected)), // Nothing can stand below it.
        }
        self.reader.finish()
    }

    /// Forgets what was noted at trie node `at` and below.
    #[cold]
    fn forget(&mut self, at: u32) {
        self.spans.slots[at as usize].generation = 0;
        let nodes = self.nodes;
        for child in &nodes[at as usize].children {
            self.forget(child.node);
        }
    }
}

/// The raw elements of an array's text, as [`PointerSet::scan`] has found it valid. Of anything else: none, or those
/// before the first fault.
pub fn elements(array: &[u8]) -> Elements<'_> {
    let mut reader = Reader::new(array, 0);
    let mut done = reader.next_token() != b'[';
    reader.at += 1;
    done |= reader.next_token() == b']';
    Elements { reader, done }
}

/// See [`elements`].
pub struct Elements<'a> {
    reader: Reader<'a>,
    done: bool,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.done {
            return None;
        }
        self.done = true;
        self.reader.next_token();
        let start = self.reader.at;
        self.reader.value(reader::DEPTH).ok()?;
        let element = &self.reader.bytes[start..self.reader.at];
        if self.reader.next_token() == b',' {
            self.reader.at += 1;
            self.done = false;
        }
        Some(element)
    }
}

/// A string's content (between its quotes) without escapes; borrowed where it has none. Half a surrogate pair, and what is
/// not valid there (a scan would have refused it), is replaced by U+FFFD.
pub fn unescape(raw: &[u8]) -> Cow<'_, str> {
    if !raw.contains(&b'\\') {
        return lossy(raw);
    }
    let mut out = Vec::with_capacity(raw.len());
    unescape_into(raw, &mut out);
    match String::from_utf8(out) {
        Ok(text) => Cow::Owned(text),
        Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

/// As `String::from_utf8_lossy`, faster where the text is valid, as it is after a scan.
#[inline]
fn lossy(raw: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(raw).map_or_else(|_| String::from_utf8_lossy(raw), Cow::Borrowed)
}

/// Appends a string's content without its escapes. The result is never longer than `raw`, except by U+FFFD for what is
/// invalid.
fn unescape_into(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        rest = match &rest[at + 1..] {
            [b'u', after @ ..] => unescape_unicode(after, out),
            [byte, after @ ..] => {
                out.push(match byte {
                    b'b' => 0x08,
                    b'f' => 0x0C,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    byte => *byte,
                });
                after
            }
            [] => &[],
        };
    }
    out.extend_from_slice(rest);
}

/// Appends the character of an escape whose `\u` is passed; what follows it.
fn unescape_unicode<'a>(after: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let unit = |text: &[u8]| text.first_chunk::<4>().and_then(|digits| reader::hex4(*digits));
    let Some(first) = unit(after) else {
        out.extend_from_slice("\u{FFFD}".as_bytes());
        return after;
    };
    let mut rest = &after[4..];
    let mut code = first;
    if let (0xD800..=0xDBFF, [b'\\', b'u', low @ ..]) = (first, rest)
        && let Some(second @ 0xDC00..=0xDFFF) = unit(low)
    {
        code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        rest = &low[4..];
    }
    let char = char::from_u32(code).unwrap_or('\u{FFFD}');
    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    rest
}

#[cfg(test)]
mod tests;
