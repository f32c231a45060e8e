//! What is published, from whoever asks to the one outcome, with what the store answers. `meet/mod.rs` says what each
//! file is about.

pub(in crate::relay) mod letters;
pub(in crate::relay) mod outbound;
pub(in crate::relay) mod overlaying;
pub(in crate::relay) mod progress;
pub(in crate::relay) mod publishing;
pub(in crate::relay) mod reading;
pub(in crate::relay) mod syncing;
#[cfg(test)]
mod tests;
pub(in crate::relay) mod volatile;
pub(in crate::relay) mod waiting;
