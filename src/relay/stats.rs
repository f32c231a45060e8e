//! Plain numbers about everything the relay does; `metrics.rs` renders them.

/// All counters and gauges of the relay.
#[derive(Debug, Clone, Default)]
pub struct Stats {}
