//! How many messages may be in flight at once: `outbox.window`, and fewer while upstream asks for pauses.
//!
//! As the congestion window of TCP (RFC 5681, section 3.1): halved when upstream asks for a pause; one more for each window of
//! answers. What was in flight when it was halved does not halve it again.
//! An answer that is missing is no such sign: upstream may have dropped that message alone. And it is never less than an
//! eighth: those that upstream never answers stay in flight until `outbox.ack_timeout`, and would keep all others from
//! leaving.

/// The least part of `outbox.window` that is left, as a divisor.
const LEAST: usize = 8;

/// The window.
#[derive(Debug)]
pub(super) struct Window {
    /// How many, by what upstream was seen to take.
    size: usize,
    /// Answers since it last grew.
    answers: usize,
    /// What left before this one was in flight when it was halved, or before.
    halved_at: u64,
}

impl Window {
    pub(super) fn new(most: usize) -> Self {
        Window { size: most.max(1), answers: 0, halved_at: 0 }
    }

    /// How many may be in flight, at most `most`.
    pub(super) fn size(&self, most: usize) -> usize {
        self.size.min(most)
    }

    /// Upstream took an attempt, or refused it for good.
    pub(super) fn answered(&mut self, most: usize) {
        self.answers += 1;
        if self.answers >= self.size {
            self.answers = 0;
            self.size = (self.size + 1).min(most.max(1));
        }
    }

    /// Upstream asked for a pause when it got the attempt number `order`. `next`: the number of the next one.
    pub(super) fn refused(&mut self, order: u64, next: u64, most: usize) {
        if order >= self.halved_at {
            self.size = (self.size / 2).max(most.div_ceil(LEAST)).max(1);
            (self.answers, self.halved_at) = (0, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_halved_once_for_all_that_was_in_flight_and_grows_by_one_a_window() {
        let mut window = Window::new(64);
        (0..64).for_each(|order| window.refused(order, 64, 64));
        assert_eq!(window.size(64), 32);
        (64..96).for_each(|_| window.answered(64));
        assert_eq!(window.size(64), 33);
        window.refused(96, 97, 64);
        assert_eq!(window.size(64), 16);
        (97..10_000).for_each(|_| window.answered(64));
        assert_eq!(window.size(64), 64, "no more than is configured");
        assert_eq!(window.size(10), 10, "also after a reload");
        (10_000..10_100).for_each(|order| window.refused(order, order + 1, 64));
        assert_eq!(window.size(64), 8, "however often it asks");
    }
}
