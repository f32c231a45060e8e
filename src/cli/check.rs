//! `tidegate check`: is the configuration right? Unknown keys are errors here, unlike at start.

use super::{Failure, exit, print, remark};
use crate::config::load::{Sources, load};
use crate::relay::redact::address;

/// Tells every error and warning; fails on errors and unknown keys.
pub(super) fn run(sources: &Sources) -> Result<(), Failure> {
    let loaded = load(sources).map_err(|errors| Failure::configuration(&errors))?;
    for warning in &loaded.warnings {
        remark(&format!("warning: {warning}"));
    }
    if !loaded.unknown_keys.is_empty() {
        return Err(Failure { code: exit::CONFIG, ..Failure::configuration(&loaded.unknown_keys) });
    }
    print(&format!("ok: {} over {}\n", loaded.config.upstream.dialect, address(&loaded.config.upstream.url)))
}
