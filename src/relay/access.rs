//! Who may read and write which channels.

/// Who a session or call belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its name; `local` in loopback mode.
    pub name: std::sync::Arc<str>,
    /// Patterns of channels it may read.
    pub read: Vec<String>,
    /// Patterns of channels it may write.
    pub write: Vec<String>,
}

/// Who may do what.
pub struct Access {}
impl Access {
    /// By this configuration.
    pub fn new(_config: &crate::config::AccessConfig) -> Self {
        Access {}
    }
}
