//! One connection's life.
/// One connection's life.
pub struct Attempt {}
