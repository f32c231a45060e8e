//! How many messages may be in flight at once: `outbox.window`, and fewer while upstream does not keep up.
//!
//! As the congestion window of TCP (RFC 5681, section 3.1): halved when upstream asks for a pause, or answers nothing at all in
//! time; one more for each window of answers. What was in flight when it was halved does not halve it again.
//! One answer that is missing among others is no such sign: what left after it was answered.

/// The window.
#[derive(Debug)]
pub(super) struct Window {
    /// How many, by what upstream was seen to take.
    size: usize,
    /// Answers since it last grew.
    answers: usize,
    /// What left before this one was in flight when it was halved, or before.
    halved_at: u64,
    /// What left before this one was not the last to be answered.
    answered: u64,
}

impl Window {
    pub(super) fn new(most: usize) -> Self {
        Window { size: most.max(1), answers: 0, halved_at: 0, answered: 0 }
    }

    /// How many may be in flight, at most `most`.
    pub(super) fn size(&self, most: usize) -> usize {
        self.size.min(most)
    }

    /// Upstream took, or refused for good, the attempt that left as number `order`.
    pub(super) fn answered(&mut self, order: u64, most: usize) {
        self.answered = self.answered.max(order);
        self.answers += 1;
        if self.answers >= self.size {
            self.answers = 0;
            self.size = (self.size + 1).min(most.max(1));
        }
    }

    /// Upstream asked for a pause when it got the attempt number `order`. `next`: the number of the next one.
    pub(super) fn refused(&mut self, order: u64, next: u64) {
        self.answered = self.answered.max(order);
        self.halve(order, next);
    }

    /// The attempt number `order` was not answered in time.
    pub(super) fn overdue(&mut self, order: u64, next: u64) {
        if order >= self.answered {
            self.halve(order, next);
        }
    }

    fn halve(&mut self, order: u64, next: u64) {
        if order >= self.halved_at {
            self.size = (self.size / 2).max(1);
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
        (0..64).for_each(|order| window.refused(order, 64));
        assert_eq!(window.size(64), 32);
        (64..96).for_each(|order| window.answered(order, 64));
        assert_eq!(window.size(64), 33);
        window.refused(96, 97);
        assert_eq!(window.size(64), 16);
        (97..10_000).for_each(|order| window.answered(order, 64));
        assert_eq!(window.size(64), 64, "no more than is configured");
        assert_eq!(window.size(10), 10, "also after a reload");
    }

    #[test]
    fn one_missing_answer_is_no_sign_and_silence_is() {
        let mut window = Window::new(8);
        window.answered(5, 8);
        window.overdue(3, 8);
        assert_eq!(window.size(8), 8);
        window.overdue(6, 8);
        assert_eq!(window.size(8), 4);
        (8..40).for_each(|order| window.overdue(order, order + 1));
        assert_eq!(window.size(8), 1, "one is always tried");
    }
}
