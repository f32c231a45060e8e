//! The outbox.

/// How urgent a message is. Higher lanes go first; a guard keeps lower ones from starving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Lane {
    /// Before everything else.
    Critical,
    /// Before ordinary traffic.
    High,
    /// The default.
    #[default]
    Medium,
    /// When nothing else waits.
    Low,
}

/// What it means when the connection dies after the bytes may have left and no ack came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnUnknown {
    /// Send again: at least once.
    #[default]
    Retry,
    /// Give up and say so: at most once. The attempt is durable before the bytes leave.
    DeadLetter,
}

/// How a message ended. Exactly one per message, durable before it is told, never changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Which end.
    pub state: OutcomeState,
    /// Why, as a word (`superseded`, `cancelled`, `ttl`, `outcome_unknown`, upstream's code …); empty for `delivered`.
    pub reason: Box<str>,
    /// What told us, for `delivered`.
    pub confirmed_by: Option<Confirm>,
    /// Upstream's answer, JSON text.
    pub reply: Option<Box<str>>,
}

/// The four ends of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutcomeState {
    /// Upstream has it.
    Delivered,
    /// Upstream or the relay refused it for good, or the publisher cancelled it.
    Rejected,
    /// Its TTL ran out.
    Expired,
    /// It cannot be delivered, or nobody knows whether it was.
    DeadLettered,
}

/// What counts as delivered, from strongest to weakest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Confirm {
    /// A reply matched by request id or subscription id.
    Ack,
    /// The message came back as an event.
    Echo,
    /// A later reply on the same connection.
    Barrier,
    /// The bytes are with the kernel; a crash of upstream can lose them.
    Written,
}

/// The outbox.
pub struct Outbox {}
impl Outbox {
    /// With what the store held.
    pub fn new(
        _config: &crate::config::OutboxConfig,
        _restored: super::record::Restored,
        _now: super::time::Time,
    ) -> Self {
        Outbox {}
    }
    /// Other limits.
    pub fn reload(&mut self, _config: &crate::config::OutboxConfig) {}
    /// Depth and age by lane.
    pub fn lanes(&self, _now: super::time::Time) -> [super::stats::LaneStats; 4] {
        Default::default()
    }
    /// Messages in flight.
    pub fn in_flight(&self) -> usize {
        0
    }
}
