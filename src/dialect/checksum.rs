//! Checksums that a provider sends over a channel's state (`[gap] checksum`): the state is folded here, on the channels whose
//! rule says so and on no others, and held against each sum that comes.
//!
//! Each check is one provider's, by name: what it folds and sums is the provider's own rule and no language for such rules is
//! meant to grow here. Invariants: digits are summed as they stand on the wire; a state that was found wrong, or that cannot be
//! read, proves nothing until the next whole one; all states together have room for [`LEVELS_MOST`] levels.
//! Deliberately not here: what a wrong sum leads to (the relay's).

use std::collections::BTreeMap;

use super::ChannelId;
use super::message::Message;
use super::scan::{PointerId, PointerSet, Spans, elements};
use super::value::pointer;

/// Levels that all books together may have, by their depths; each takes about 80 bytes. A book beyond is not checked.
const LEVELS_MOST: usize = 400_000;
/// Levels of one side that a sum covers, at Kraken's.
const TOP: usize = 10;
/// A book's levels on each side where the subscription does not say (`depth`).
const DEPTH: usize = 10;
/// The most that Kraken offers.
const DEPTH_MOST: usize = 1_000;
/// Digits before the point that a price may have, and after it.
const WHOLE_DIGITS: usize = 20;
/// See [`WHOLE_DIGITS`]; both together fit in 128 bits.
const FRACTION_DIGITS: usize = 18;

/// Whose checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// Kraken's WebSocket v2 `book`: CRC-32 (ISO-HDLC) over the digits, without points and leading zeros, of price and quantity
    /// of the ten best asks and then the ten best bids.
    /// <https://docs.kraken.com/exchange/guides/websockets/book-checksum-v2>
    KrakenV2,
}

/// The words for them.
pub(crate) const CHECKSUMS: [(&str, Checksum); 1] = [("kraken-v2", Checksum::KrakenV2)];

/// Where a check finds what it needs, compiled once.
#[derive(Debug)]
pub(crate) struct Check {
    whole: PointerSet,
    asks: PointerId,
    bids: PointerId,
    sum: PointerId,
    level: PointerSet,
    price: PointerId,
    quantity: PointerId,
}

/// What a sum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The state is the provider's.
    Right,
    /// It is not.
    Wrong,
    /// There is no state to hold against it.
    Unknown,
    /// The state cannot be read, or there is no room for it: the channel goes unchecked until its next whole state.
    Unchecked,
}

/// One book.
#[derive(Debug, Clone, Default)]
struct Book {
    depth: usize,
    asks: Side,
    bids: Side,
}

/// The digits to be summed, by price.
type Side = BTreeMap<u128, Box<str>>;

/// The states of one connection's channels.
#[derive(Debug, Clone, Default)]
pub(crate) struct States {
    books: BTreeMap<ChannelId, Book>,
    /// Levels that the books at hand may have.
    reserved: usize,
    spans: Spans,
    level_spans: Spans,
}

impl Check {
    pub(crate) fn new(of: Checksum) -> Option<Self> {
        let Checksum::KrakenV2 = of;
        let (mut whole, mut level) = (PointerSet::new(), PointerSet::new());
        let (asks, bids) = (pointer("/asks", &mut whole).ok()?, pointer("/bids", &mut whole).ok()?);
        let sum = pointer("/checksum", &mut whole).ok()?;
        let (price, quantity) = (pointer("/price", &mut level).ok()?, pointer("/qty", &mut level).ok()?);
        Some(Check { whole, asks, bids, sum, level, price, quantity })
    }
}

impl States {
    /// Folds a message in and judges its sum. `begins`: it states the whole, for a subscription with these params.
    pub(crate) fn judge(
        &mut self,
        check: &Check,
        channel: ChannelId,
        begins: Option<Option<&str>>,
        bytes: &[u8],
    ) -> Verdict {
        if let Some(params) = begins {
            self.forget(channel);
            if !self.begin(channel, depth(params)) {
                return Verdict::Unchecked;
            }
        }
        let Some(book) = self.books.get_mut(&channel) else { return Verdict::Unknown };
        let (spans, level_spans) = (&mut self.spans, &mut self.level_spans);
        let verdict = match fold(check, book, bytes, spans, level_spans) {
            Some(sum) if sum == u64::from(book.sum()) => Verdict::Right,
            Some(_) => Verdict::Wrong,
            None => Verdict::Unchecked,
        };
        if verdict != Verdict::Right {
            self.forget(channel);
        }
        verdict
    }

    fn begin(&mut self, channel: ChannelId, depth: usize) -> bool {
        if self.reserved + 2 * depth > LEVELS_MOST {
            return false;
        }
        self.reserved += 2 * depth;
        self.books.insert(channel, Book { depth, ..Book::default() });
        true
    }

    /// The channel is subscribed no more, or its state proves nothing.
    pub(crate) fn forget(&mut self, channel: ChannelId) {
        if let Some(book) = self.books.remove(&channel) {
            self.reserved -= 2 * book.depth;
        }
    }
}

/// The levels that a subscription asked for.
fn depth(params: Option<&str>) -> usize {
    let params: Option<serde_json::Value> = params.and_then(|params| serde_json::from_str(params).ok());
    let asked = params.and_then(|params| usize::try_from(params.get("depth")?.as_u64()?).ok());
    asked.unwrap_or(DEPTH).clamp(1, DEPTH_MOST)
}

/// Takes a message's levels into a book; gives the sum that it states. `None`: it cannot be read.
fn fold(check: &Check, book: &mut Book, bytes: &[u8], spans: &mut Spans, level_spans: &mut Spans) -> Option<u64> {
    check.whole.scan(bytes, spans).ok()?;
    let message = Message { bytes, spans };
    for (side, at) in [(&mut book.asks, check.asks), (&mut book.bids, check.bids)] {
        for bytes in elements(message.raw(at).unwrap_or_default()) {
            check.level.scan(bytes, level_spans).ok()?;
            let level = Message { bytes, spans: level_spans };
            put(side, &level.text(check.price)?, &level.text(check.quantity)?)?;
        }
    }
    while book.asks.len() > book.depth {
        book.asks.pop_last();
    }
    while book.bids.len() > book.depth {
        book.bids.pop_first();
    }
    message.number(check.sum)
}

/// One level: a quantity of nothing takes it away.
fn put(side: &mut Side, price: &str, quantity: &str) -> Option<()> {
    let at = scaled(price)?;
    if scaled(quantity)? == 0 {
        side.remove(&at);
    } else {
        side.insert(at, [digits(price), digits(quantity)].concat().into());
    }
    Some(())
}

/// A plain decimal number in units of the last digit that is kept; `None`: anything else.
fn scaled(number: &str) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || whole.len() > WHOLE_DIGITS || fraction.len() > FRACTION_DIGITS {
        return None;
    }
    format!("{whole}{fraction:0<FRACTION_DIGITS$}").parse().ok()
}

/// A number's digits without leading zeros.
fn digits(number: &str) -> String {
    let digits: String = number.chars().filter(|c| *c != '.').collect();
    digits.trim_start_matches('0').to_owned()
}

impl Book {
    fn sum(&self) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        let best = self.asks.values().take(TOP).chain(self.bids.values().rev().take(TOP));
        best.for_each(|digits| sum.update(digits.as_bytes()));
        sum.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: ChannelId = ChannelId(1);

    fn levels(text: &str) -> String {
        let level = |line: &str| {
            let (price, quantity) = line.split_once(' ').unwrap();
            format!("{{\"price\":{price},\"qty\":{quantity}}}")
        };
        text.split(", ").filter(|line| !line.is_empty()).map(level).collect::<Vec<_>>().join(",")
    }

    fn message(asks: &str, bids: &str, sum: u64) -> Vec<u8> {
        let (asks, bids) = (levels(asks), levels(bids));
        format!("{{\"symbol\":\"X/Y\",\"bids\":[{bids}],\"asks\":[{asks}],\"checksum\":{sum}}}").into_bytes()
    }

    fn check() -> Check {
        Check::new(Checksum::KrakenV2).unwrap()
    }

    /// The example of <https://docs.kraken.com/exchange/guides/websockets/book-checksum-v2>.
    const GUIDE: [&str; 2] = [
        "45285.2 0.00100000, 45286.4 1.54571953, 45286.6 1.54571109, 45289.6 1.54560911, 45290.2 0.15890660, \
         45291.8 1.54553491, 45294.7 0.04454749, 45296.1 0.35380000, 45297.5 0.09945542, 45299.5 0.18772827",
        "45283.5 0.10000000, 45283.4 1.54582015, 45282.1 0.10000000, 45281.0 0.10000000, 45280.3 1.54592586, \
         45279.0 0.07990000, 45277.6 0.03310103, 45277.5 0.30000000, 45277.3 1.54602737, 45276.6 0.15445238",
    ];

    /// The examples of <https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/book>, with the zeros at the ends of
    /// numbers that stand on the wire and not on the page.
    const REFERENCE: [&str; 2] = [
        "0.5668 4410.79769741, 0.5669 4655.40412487, 0.5670 49844.89424998, 0.5671 24306.41678000, 0.5672 29783.25223475, \
         0.5673 57234.71239278, 0.5674 45065.04744000, 0.5675 5912.76380354, 0.5676 42514.92434778, 0.5677 36304.08470220",
        "0.5666 4831.75496356, 0.5665 6658.22734739, 0.5664 18724.91513344, 0.5663 11563.92544914, 0.5662 14006.65365711, \
         0.5661 17454.85679807, 0.5660 18097.15470000, 0.5659 33644.89175666, 0.5658 148.34640000, 0.5657 606.70854372",
    ];

    #[test]
    fn the_sums_of_the_vendors_examples_are_right() {
        let (check, mut states) = (check(), States::default());
        let mut judge = |begins, message: Vec<u8>| states.judge(&check, CHANNEL, begins, &message);
        assert_eq!(judge(Some(None), message(GUIDE[0], GUIDE[1], 3_310_070_434)), Verdict::Right);
        assert_eq!(judge(Some(None), message(REFERENCE[0], REFERENCE[1], 2_439_117_997)), Verdict::Right);
        assert_eq!(judge(None, message("", "0.5657 1098.39475580", 2_114_181_697)), Verdict::Right);
    }

    #[test]
    fn a_change_that_is_missing_shows_and_then_nothing_is_proved_until_the_next_state() {
        let (check, mut states) = (check(), States::default());
        let mut judge = |begins, message: Vec<u8>| states.judge(&check, CHANNEL, begins, &message);
        judge(Some(None), message(REFERENCE[0], REFERENCE[1], 2_439_117_997));
        assert_eq!(judge(None, message("0.5668 1.00000000", "0.5657 1098.39475580", 2_114_181_697)), Verdict::Wrong);
        assert_eq!(judge(None, message("", "", 2_114_181_697)), Verdict::Unknown);
        assert_eq!(judge(Some(None), message(GUIDE[0], GUIDE[1], 3_310_070_434)), Verdict::Right);
    }

    #[test]
    fn levels_go_by_quantity_nothing_and_by_the_depth_that_was_asked_for() {
        let (check, mut states) = (check(), States::default());
        assert_eq!((depth(None), depth(Some("{\"depth\":2}")), depth(Some("{\"depth\":\"x\"}"))), (10, 2, 10));
        states.begin(CHANNEL, 2);
        let mut fold = |asks: &str, bids: &str| {
            let book = states.books.get_mut(&CHANNEL).unwrap();
            let (mut spans, mut level_spans) = (Spans::new(), Spans::new());
            fold(&check, book, &message(asks, bids, 0), &mut spans, &mut level_spans).unwrap();
            let prices = |side: &Side| side.values().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            format!("{} / {}", prices(&book.asks), prices(&book.bids))
        };
        assert_eq!(fold("1.0 1, 3.0 1", "0.5 1, 0.4 1"), "101 301 / 41 51");
        assert_eq!(fold("2.0 5", "0.6 7"), "101 205 / 51 67", "the third best is out of sight");
        assert_eq!(fold("1.0 0.000", "0.6 0"), "205 / 51", "and what goes does not come back by itself");
    }

    #[test]
    fn what_cannot_be_read_is_not_checked() {
        let (check, mut states) = (check(), States::default());
        for wrong in [
            "[]",
            "{\"asks\":[{\"price\":-1,\"qty\":1}],\"checksum\":0}",
            "{\"asks\":[{\"price\":1e3,\"qty\":1}]}",
            "{",
        ] {
            assert_eq!(states.judge(&check, CHANNEL, Some(None), wrong.as_bytes()), Verdict::Unchecked, "{wrong}");
        }
        let long = format!("{{\"asks\":[{{\"price\":{},\"qty\":1}}],\"checksum\":0}}", "9".repeat(21));
        assert_eq!(states.judge(&check, CHANNEL, Some(None), long.as_bytes()), Verdict::Unchecked);
        assert_eq!((states.books.len(), states.reserved), (0, 0));
    }

    #[test]
    fn there_is_room_for_so_many_levels() {
        let (check, mut states) = (check(), States::default());
        let fits = LEVELS_MOST / 2 / DEPTH_MOST;
        let begin = |states: &mut States, at: usize| {
            let channel = ChannelId(u32::try_from(at).unwrap());
            states.judge(&check, channel, Some(Some("{\"depth\":5000}")), &message("", "", 0))
        };
        for at in 0..fits {
            assert_eq!(begin(&mut states, at), Verdict::Right, "nothing sums to 0");
        }
        assert_eq!(begin(&mut states, fits), Verdict::Unchecked);
        states.forget(ChannelId(0));
        assert_eq!(begin(&mut states, fits), Verdict::Right);
    }

    #[test]
    fn prices_are_sorted_as_numbers() {
        assert!(scaled("9.5").unwrap() < scaled("10").unwrap());
        assert_eq!(scaled("0.10"), scaled("00.1"));
        assert_eq!(scaled("99999999999999999999.999999999999999999").map(|n| n.to_string().len()), Some(38));
        for wrong in ["-1", "1e3", "1.2.3", "+1", "0.1234567890123456789"] {
            assert_eq!(scaled(wrong), None, "{wrong}");
        }
    }
}
