//! A strict JSON reader over raw bytes: it finds where values end and refuses what is not JSON.
//!
//! Invariant: it accepts exactly what the grammar of RFC 8259 describes, in UTF-8 and with at most 127 containers within each
//! other. What a payload says is its readers' business: a number that no type holds (`1e400`, five thousand digits) is a
//! number, an escape of half a surrogate pair (`\ud800`) an escape. Property tests in `scan` hold it against `serde_json`.
//! It does not recurse, allocate or build anything. Deliberately not here: pointers, and what values mean.

use std::fmt;

/// How many containers may stand within each other.
pub(super) const DEPTH: u32 = 127;

/// What a JSON value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

/// Why bytes are not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The text ends within a value.
    End,
    /// A byte that cannot stand here.
    Unexpected,
    /// More than 127 containers within each other.
    Depth,
    /// A string with invalid UTF-8.
    Utf8,
    /// A string with an unknown escape or a raw control character.
    Escape,
    /// Something follows the value.
    Trailing,
}

/// Where and why a message is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanError {
    /// The byte where it was noticed, from 0.
    pub at: usize,
    /// Why.
    pub fault: Fault,
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.fault {
            Fault::End => "it ends too early",
            Fault::Unexpected => "unexpected byte",
            Fault::Depth => "more than 127 arrays and objects within each other",
            Fault::Utf8 => "string is not UTF-8",
            Fault::Escape => "bad escape or control character in a string",
            Fault::Trailing => "something follows the value",
        };
        write!(f, "not JSON: {why} at byte {}", self.at)
    }
}

impl std::error::Error for ScanError {}

/// A position in a text.
pub(super) struct Reader<'a> {
    /// The whole text; reading ends at its end.
    pub(super) bytes: &'a [u8],
    /// The next byte to read.
    pub(super) at: usize,
}

const fn every(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

const HIGH: u64 = every(0x80);

/// Marks (in their top bits) the bytes that end a run of plain string content: quote, backslash, below 0x20.
/// Bytes above the first marked one may be marked falsely (the subtraction borrows), so only the first counts.
#[inline(always)]
fn string_stops(word: u64) -> u64 {
    // A quote is 0x22: with bit 1 flipped it is 0x20, and what was below 0x20 stays below it.
    let quote_or_control = (word ^ every(0x02)).wrapping_sub(every(0x21));
    let backslash = (word ^ every(b'\\')).wrapping_sub(every(0x01));
    (quote_or_control | backslash) & !word & HIGH
}

impl<'a> Reader<'a> {
    #[inline(always)]
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// The byte at hand; 0 at the end, which no JSON token begins with.
    #[inline(always)]
    pub(super) fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Skips whitespace, then the byte at hand.
    #[inline(always)]
    pub(super) fn next_token(&mut self) -> u8 {
        let byte = self.peek();
        if byte > b' ' { byte } else { self.next_token_after_space() }
    }

    #[inline(never)]
    fn next_token_after_space(&mut self) -> u8 {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
        self.peek()
    }

    /// Whether only whitespace stands before `end`.
    pub(super) fn only_space_until(mut self, end: usize) -> bool {
        self.next_token();
        self.at == end
    }

    #[cold]
    #[inline(never)]
    pub(super) fn fault(&self, fault: Fault) -> ScanError {
        let ended = fault == Fault::Unexpected && self.at >= self.bytes.len();
        ScanError { at: self.at, fault: if ended { Fault::End } else { fault } }
    }

    /// Passes `:` and the whitespace around it; the next byte begins a value.
    #[inline(always)]
    pub(super) fn colon(&mut self) -> Result<(), ScanError> {
        if self.next_token() != b':' {
            return Err(self.fault(Fault::Unexpected));
        }
        self.at += 1;
        Ok(())
    }

    /// Nothing but whitespace may be left.
    pub(super) fn finish(&mut self) -> Result<(), ScanError> {
        self.next_token();
        if self.at < self.bytes.len() { Err(self.fault(Fault::Trailing)) } else { Ok(()) }
    }

    /// Passes a string whose opening quote is at hand. Tells whether it has escapes.
    #[inline(always)]
    pub(super) fn string(&mut self) -> Result<bool, ScanError> {
        let start = self.at + 1;
        self.at = start;
        let mut escaped = false;
        let mut high = 0;
        loop {
            let stop = self.plain(&mut high);
            match stop {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ if self.at >= self.bytes.len() => return Err(self.fault(Fault::End)),
                _ => return Err(self.fault(Fault::Escape)),
            }
        }
        if high != 0 {
            self.utf8(start)?;
        }
        self.at += 1;
        Ok(escaped)
    }

    /// Passes plain string content; the byte at hand is then a quote, backslash or control character, or the end (0).
    /// `high` becomes non-zero if some of it is not ASCII.
    #[inline(always)]
    fn plain(&mut self, high: &mut u64) -> u8 {
        while let Some(chunk) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
            let word = u64::from_le_bytes(*chunk);
            let stops = string_stops(word);
            if stops == 0 {
                *high |= word & HIGH;
                self.at += 8;
                continue;
            }
            let before_first = (stops & stops.wrapping_neg()) - 1;
            *high |= word & HIGH & before_first;
            self.at += (stops.trailing_zeros() / 8) as usize;
            return self.peek();
        }
        while let Some(&byte) = self.bytes.get(self.at) {
            if byte == b'"' || byte == b'\\' || byte < 0x20 {
                return byte;
            }
            *high |= u64::from(byte & 0x80);
            self.at += 1;
        }
        0
    }

    #[cold]
    #[inline(never)]
    fn utf8(&self, start: usize) -> Result<(), ScanError> {
        match std::str::from_utf8(&self.bytes[start..self.at]) {
            Ok(_) => Ok(()),
            Err(error) => Err(ScanError { at: start + error.valid_up_to(), fault: Fault::Utf8 }),
        }
    }

    /// Passes an escape whose backslash is at hand.
    #[inline(never)]
    fn escape(&mut self) -> Result<(), ScanError> {
        self.at += 1;
        match self.peek() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                self.at += 1;
                Ok(())
            }
            b'u' => {
                self.at += 1;
                self.hex4()
            }
            _ => Err(self.fault(if self.at >= self.bytes.len() { Fault::End } else { Fault::Escape })),
        }
    }

    fn hex4(&mut self) -> Result<(), ScanError> {
        let Some(digits) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<4>) else {
            return Err(self.fault(Fault::End));
        };
        hex4(*digits).ok_or_else(|| self.fault(Fault::Escape))?;
        self.at += 4;
        Ok(())
    }

    #[inline(always)]
    fn digits(&mut self) {
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
    }

    /// Passes a number whose first byte is at hand.
    #[inline(always)]
    pub(super) fn number(&mut self) -> Result<(), ScanError> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        match self.peek() {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return Err(self.fault(Fault::Unexpected)),
        }
        match self.peek() {
            b'.' | b'e' | b'E' => self.fraction(),
            b'0'..=b'9' => Err(self.fault(Fault::Unexpected)),
            _ => Ok(()),
        }
    }

    fn fraction(&mut self) -> Result<(), ScanError> {
        if self.peek() == b'.' {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn some_digits(&mut self) -> Result<(), ScanError> {
        if !self.peek().is_ascii_digit() {
            return Err(self.fault(Fault::Unexpected));
        }
        self.digits();
        Ok(())
    }

    #[inline(always)]
    fn literal(&mut self, word: &[u8], kind: Kind) -> Result<Kind, ScanError> {
        if !self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            return Err(self.fault(Fault::Unexpected));
        }
        self.at += word.len();
        Ok(kind)
    }

    /// Passes `null`, a bool, a number or a string that begins with `first`, the byte at hand.
    #[inline(always)]
    fn scalar(&mut self, first: u8) -> Result<Kind, ScanError> {
        match first {
            b'"' => self.string().map(|_| Kind::String),
            b'-' | b'0'..=b'9' => self.number().map(|()| Kind::Number),
            b't' => self.literal(b"true", Kind::Bool),
            b'f' => self.literal(b"false", Kind::Bool),
            b'n' => self.literal(b"null", Kind::Null),
            _ => Err(self.fault(Fault::Unexpected)),
        }
    }

    /// Passes one value of any kind after whitespace. `room`: how many containers it may have within each other.
    #[inline(always)]
    pub(super) fn value(&mut self, room: u32) -> Result<Kind, ScanError> {
        match self.next_token() {
            b'{' => self.container(room).map(|()| Kind::Object),
            b'[' => self.container(room).map(|()| Kind::Array),
            first => self.scalar(first),
        }
    }

    /// Passes the container whose opening bracket is at hand, without recursion: of every container that is open, one bit
    /// tells whether it is an object.
    #[inline(never)]
    fn container(&mut self, room: u32) -> Result<(), ScanError> {
        let mut outer: u128 = 0; // The innermost but one is in the lowest bit.
        let mut in_object = false;
        let mut depth = 0;
        let mut first = self.peek();
        loop {
            // A value begins with `first`.
            if first == b'{' || first == b'[' {
                if depth == room {
                    return Err(self.fault(Fault::Depth));
                }
                depth += 1;
                outer = outer << 1 | u128::from(in_object);
                in_object = first == b'{';
                self.at += 1;
                let inner = self.next_token();
                if inner != closer(in_object) {
                    first = if in_object { self.member(inner)? } else { inner };
                    continue;
                }
            } else {
                self.scalar(first)?;
                if self.next_token() == b',' {
                    first = self.next(in_object)?;
                    continue;
                }
            }
            // What is at hand closes a container, and perhaps further ones, until another value follows.
            loop {
                if self.next_token() != closer(in_object) {
                    return Err(self.fault(Fault::Unexpected));
                }
                self.at += 1;
                depth -= 1;
                if depth == 0 {
                    return Ok(());
                }
                in_object = outer & 1 == 1;
                outer >>= 1;
                if self.next_token() == b',' {
                    first = self.next(in_object)?;
                    break;
                }
            }
        }
    }

    /// Passes a comma, and the key and colon that an object has after it; the first byte of the next value.
    #[inline(always)]
    fn next(&mut self, in_object: bool) -> Result<u8, ScanError> {
        self.at += 1;
        let next = self.next_token();
        if in_object { self.member(next) } else { Ok(next) }
    }

    /// Passes a member's key and colon; the first byte of its value.
    #[inline(always)]
    fn member(&mut self, first: u8) -> Result<u8, ScanError> {
        if first != b'"' {
            return Err(self.fault(Fault::Unexpected));
        }
        self.string()?;
        self.colon()?;
        Ok(self.next_token())
    }
}

/// What closes a container.
#[inline(always)]
fn closer(object: bool) -> u8 {
    if object { b'}' } else { b']' }
}

/// Four hexadecimal digits as a number.
pub(super) fn hex4(digits: [u8; 4]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, &digit| Some(sum << 4 | (digit as char).to_digit(16)?))
}
