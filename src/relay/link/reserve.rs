//! A bucket that survives a restart: what leaves is covered by what the store knows, or by what every start takes for spent.
//!
//! Invariant: whenever the process dies, the bucket with which the next one begins ([`Reserve::go_on`]) has no more tokens than
//! this one had. So in any window no more leaves than the bucket allows, over any number of restarts.
//! Nothing waits for the disk as long as it takes a second to earn back what is missing: every start counts so much as
//! spent. Beyond that tokens are reserved ahead, in a record that is made durable in the background. If none ever is, the
//! bucket holds only so much.

use std::time::Duration;

use super::super::limiter::Bucket;
use super::super::time::Mono;

/// Tokens that a record reserves beyond those that are spent: after a crash they count as spent. The first record of a process
/// reserves few, each one after it twice as many, up to these: a process that does not live long loses little.
const AHEAD_FIRST: u32 = 2;
const AHEAD_MOST: u32 = 16;

/// The bucket, and what the store knows of it.
#[derive(Debug)]
pub struct Reserve {
    bucket: Bucket,
    /// The store knows that the bucket may not be full before.
    kept: Mono,
    /// The same of the record that is on its way there.
    asked: Mono,
    /// What is covered will soon be spent.
    wanting: bool,
    /// How many tokens the next record reserves.
    ahead: u32,
}

impl Reserve {
    /// A full bucket of which the store knows nothing.
    pub fn new(bucket: Bucket) -> Self {
        Reserve { bucket, kept: Mono(0), asked: Mono(0), wanting: false, ahead: AHEAD_FIRST }
    }

    /// The bucket.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// When a token is there that is covered; `now` if there is one already.
    pub fn next(&self, now: Mono) -> Mono {
        let after = self.bucket.full_at().max(now) + self.bucket.span(1);
        let token = self.bucket.next(now, 1);
        if after <= self.kept { token } else { token.max(after - self.free()).max(now) }
    }

    /// A token is used, whether or not it was there.
    pub fn spend(&mut self, now: Mono, weight: u32) {
        self.bucket.spend(now, weight);
        let soon = self.bucket.full_at() + self.bucket.span(self.bucket.per_second().div_ceil(2));
        let small = self.bucket.per_second() == self.bucket.burst();
        self.wanting = !small && soon > self.kept.max(now + self.free());
    }

    /// Somebody waits for a token: if it will be there before it is covered, a record is to be made.
    pub fn want(&mut self, now: Mono) {
        self.wanting |= self.next(now) > self.bucket.next(now, 1);
    }

    /// Whether a record should be made.
    pub fn is_wanting(&self) -> bool {
        self.wanting
    }

    /// A record is made: what the bucket lacks according to it, in thousandths of a token.
    pub fn ask(&mut self, now: Mono) -> u64 {
        if std::mem::take(&mut self.wanting) {
            self.asked = self.bucket.full_at().max(now) + self.bucket.span(self.ahead);
            self.ahead = (self.ahead * 2).min(AHEAD_MOST);
        }
        // What is reserved stays so.
        self.asked = self.asked.max(self.bucket.full_at()).max(self.kept);
        self.bucket.lacks(now, self.asked)
    }

    /// The last record that was made is durable.
    pub fn keep(&mut self) {
        self.kept = self.kept.max(self.asked);
    }

    /// Nothing leaves any more: what was reserved and not spent is given back by the next record.
    pub fn give_back(&mut self) {
        (self.kept, self.asked, self.wanting) = (Mono(0), Mono(0), false);
    }

    /// Goes on where a process ended that lacked so much (as [`Reserve::ask`] counted it), and so long ago.
    pub fn go_on(&mut self, now: Mono, lacks: u64, passed: Duration) {
        self.bucket.go_on(now, lacks, passed);
        // What left without a record.
        let missing = (now + self.free()).since(self.bucket.full_at());
        if !missing.is_zero() {
            self.bucket.go_on(now, self.bucket.lacks(now, now + self.free()), Duration::ZERO);
        }
    }

    /// What every start takes for spent.
    fn free(&self) -> Duration {
        self.bucket.span(self.bucket.per_second())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, proptest};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000 + 1_000_000_000)
    }

    /// How many tokens are there at once.
    fn burst(reserve: &mut Reserve, now: Mono) -> usize {
        std::iter::from_fn(|| (reserve.next(now) == now).then(|| reserve.spend(now, 1))).take(1_000).count()
    }

    #[test]
    fn a_second_of_tokens_is_free_and_more_must_be_known_to_the_store() {
        let mut reserve = Reserve::new(Bucket::new(4, SECOND, 40));
        assert_eq!(burst(&mut reserve, at(0)), 4);
        assert_eq!(reserve.next(at(0)), at(250), "without a store it is a bucket of a second");
        assert!(reserve.is_wanting());
        assert_eq!(reserve.ask(at(0)), 6_000);
        assert_eq!(burst(&mut reserve, at(0)), 0, "not before it is durable");
        reserve.keep();
        assert_eq!(burst(&mut reserve, at(0)), 2);
        for (lacks, more) in [(10_000, 4), (18_000, 8), (34_000, 16), (50_000, 6)] {
            assert_eq!(reserve.ask(at(0)), lacks);
            reserve.keep();
            assert_eq!(burst(&mut reserve, at(0)), more, "as many as it holds: {lacks}");
        }
        assert_eq!(reserve.next(at(0)), at(250));
        assert!(!reserve.is_wanting(), "more is reserved than it has");
        assert_eq!(burst(&mut reserve, at(10_000)), 10, "but not all that comes back");
    }

    #[test]
    fn a_small_bucket_needs_no_store() {
        let mut reserve = Reserve::new(Bucket::new(4, SECOND, 1));
        for n in 0..100 {
            assert_eq!(burst(&mut reserve, at(n * 250)), 1);
            assert!(!reserve.is_wanting());
        }
        let mut next = Reserve::new(Bucket::new(4, SECOND, 1));
        next.go_on(at(99 * 250 + 1), 0, Duration::ZERO);
        assert_eq!(next.next(at(99 * 250 + 1)), at(100 * 250 + 1), "a start takes it for empty");
    }

    #[test]
    fn an_orderly_end_gives_back_what_was_reserved() {
        let mut reserve = Reserve::new(Bucket::new(1, SECOND, 100));
        assert_eq!(burst(&mut reserve, at(0)), 1);
        assert_eq!(reserve.ask(at(0)), 3_000);
        reserve.keep();
        assert_eq!(burst(&mut reserve, at(0)), 2);
        reserve.give_back();
        assert_eq!(reserve.ask(at(0)), 3_000, "all of it was spent");
        let mut reserve = Reserve::new(Bucket::new(1, SECOND, 100));
        assert_eq!(burst(&mut reserve, at(0)), 1);
        reserve.ask(at(0));
        reserve.keep();
        reserve.give_back();
        assert_eq!(reserve.ask(at(0)), 1_000);
    }

    #[test]
    fn what_a_start_finds_missing_is_covered_on_demand() {
        let mut reserve = Reserve::new(Bucket::new(1, SECOND, 100));
        reserve.go_on(at(0), 30_000, Duration::ZERO);
        assert_eq!(reserve.next(at(0)), at(30_000));
        assert!(!reserve.is_wanting(), "nobody wants one yet");
        reserve.want(at(0));
        assert!(reserve.is_wanting());
        assert_eq!(reserve.ask(at(0)), 32_000);
        reserve.keep();
        assert_eq!(burst(&mut reserve, at(0)), 2);
        let mut empty = Reserve::new(Bucket::new(1, SECOND, 100));
        empty.go_on(at(0), 100_000, Duration::ZERO);
        assert_eq!(empty.next(at(0)), at(100_000));
        empty.want(at(0));
        assert!(empty.is_wanting());
        empty.ask(at(0));
        empty.keep();
        assert_eq!(empty.next(at(0)), at(1_000));
    }

    /// What a provider sees: frames with their times; a bucket of its own says whether there were too many.
    fn too_many(sent: &[Mono], tokens: u32, burst: u32) -> bool {
        let mut provider = Bucket::new(tokens, SECOND, burst);
        sent.iter().any(|at| !provider.take(*at, 1))
    }

    proptest! {
        #[test]
        fn no_window_over_crashes_gets_more_than_the_rate(
            tokens in 1u32..60, held in 1u32..80,
            steps in prop::collection::vec((0u64..700, 0u8..10, 1usize..20), 1..300), orderly in any::<bool>(),
        ) {
            let fresh = || Reserve::new(Bucket::new(tokens, SECOND, held));
            let (mut reserve, mut now, mut sent) = (fresh(), 0, Vec::new());
            // What is durable, and what is on its way there: each with its time.
            let (mut disk, mut out) = ((at(0), 0), None);
            for (step, action, count) in steps {
                now += step;
                match action {
                    0 => {
                        // A crash: what was on its way may be durable or not.
                        if count % 2 == 0 {
                            disk = out.unwrap_or(disk);
                        }
                        if orderly && count % 3 == 0 {
                            reserve.give_back();
                            disk = (at(now), reserve.ask(at(now)));
                        }
                        reserve = fresh();
                        reserve.go_on(at(now), disk.1, at(now).since(disk.0));
                        out = None;
                    }
                    1 | 2 => {
                        if let Some(done) = out.take() {
                            disk = done;
                            reserve.keep();
                        }
                    }
                    3 | 4 if out.is_none() && (reserve.is_wanting() || count % 4 == 0) => {
                        out = Some((at(now), reserve.ask(at(now))));
                    }
                    _ => {
                        for _ in 0..count {
                            if reserve.next(at(now)) <= at(now) {
                                reserve.spend(at(now), 1);
                                sent.push(at(now));
                            }
                        }
                    }
                }
            }
            prop_assert!(!too_many(&sent, tokens, held));
        }
    }
}
