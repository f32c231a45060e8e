//! Positions: `epoch-offset`, the id of an event, the cursor of a client.

use std::fmt;

/// The random id of one history. A relay takes a new one at every start unless it provably continues the last history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(u32);

/// Digits of an epoch in text (base 36, lower case, fixed width).
const EPOCH_DIGITS: usize = 6;
const BASE: u32 = 36;
const EPOCHS: u32 = BASE.pow(6);

impl Epoch {
    /// Folds any number into the range that six base-36 digits hold.
    pub fn new(number: u64) -> Self {
        Epoch(u32::try_from(number % u64::from(EPOCHS)).unwrap_or(0))
    }

    /// The epoch's six characters.
    pub fn text(self) -> [u8; EPOCH_DIGITS] {
        let mut out = [b'0'; EPOCH_DIGITS];
        let mut rest = self.0;
        for digit in out.iter_mut().rev() {
            *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % BASE) as usize];
            rest /= BASE;
        }
        out
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() != EPOCH_DIGITS || !text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()) {
            return None;
        }
        u32::from_str_radix(text, BASE).ok().map(Epoch)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().iter().try_for_each(|b| write!(f, "{}", char::from(*b)))
    }
}

/// A place in one history: offset `n` of epoch `e`, written `e-n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which history.
    pub epoch: Epoch,
    /// How far into it: rises by one with every entry over all channels; 0 is before the first.
    pub offset: u64,
}

impl Position {
    /// Reads `k3f9q2-1042`; `None` if the text is not of that form (longer text than 64 bytes never is).
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, offset) = text.split_once('-')?;
        if offset.is_empty() || offset.len() > 20 || !offset.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Position { epoch: Epoch::parse(epoch)?, offset: offset.parse().ok()? })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_a_round_trip_and_nothing_else_parses() {
        for number in [0, 1, 35, 36, 123_456_789, u64::MAX] {
            let position = Position { epoch: Epoch::new(number), offset: number };
            assert_eq!(Position::parse(&position.to_string()), Some(position));
        }
        for bad in [
            "",
            "-",
            "abc-1",
            "k3f9q2",
            "k3f9q2-",
            "k3f9q2--1",
            "K3F9Q2-1",
            "k3f9q2-1x",
            "k3f9q2-99999999999999999999",
            "k3f9q2-+1",
        ] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }
}
