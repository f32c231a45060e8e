//! Which attempt when.
use crate::config::UpstreamConfig;
use crate::relay::time::Mono;
/// Which attempt when.
pub struct Link {}
impl Link {
    /// A link that connects at its first timeout.
    pub fn new(_config: &UpstreamConfig, _now: Mono) -> Self {
        Link {}
    }
}
