//! `tidegate health`: exit 0 if a running relay is ready, 1 if not. For a container's HEALTHCHECK.

use clap::Args;

use super::client::{AdminArgs, Call, send};
use super::{Failure, exit, print};
use crate::config::load::Sources;

/// Arguments of `tidegate health`.
#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

/// Asks `/readyz`.
pub(super) fn run(args: &HealthArgs, sources: &Sources) -> Result<(), Failure> {
    let address = args.admin.address(sources)?;
    let answer = send(&Call { address: &address, method: "GET", path: "/readyz", token: None, body: None })?;
    match answer.status {
        200 => print("ready\n"),
        _ => {
            let reasons = answer.body.get("not_ready_because").map(ToString::to_string).unwrap_or_default();
            Err(Failure::new(exit::FAILED, format!("not ready: HTTP {} {reasons}", answer.status).trim_end()))
        }
    }
}
