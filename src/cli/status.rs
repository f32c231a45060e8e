//! `tidegate status`: how a running relay is, for people or as JSON.

use clap::Args;
use serde_json::Value;

use super::client::{AdminArgs, Call, send};
use super::{Failure, print};
use crate::config::load::Sources;

/// Arguments of `tidegate status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the JSON as the relay gives it
    #[arg(long)]
    json: bool,
}

/// Asks `/v1/status`.
pub(super) fn run(args: &StatusArgs, sources: &Sources) -> Result<(), Failure> {
    let address = args.admin.address(sources)?;
    let answer = send(&Call { address: &address, method: "GET", path: "/v1/status", token: None, body: None })?;
    let body = answer.success()?;
    if args.json { print(&format!("{body}\n")) } else { print(&pretty(&body)) }
}

/// One line a value, indented as the objects are nested; `null` is left out.
fn pretty(status: &Value) -> String {
    let mut out = String::new();
    lines(status, 0, &mut out);
    out
}

fn lines(value: &Value, depth: usize, out: &mut String) {
    let Some(members) = value.as_object() else { return };
    let simple = |value: &Value| !matches!(value, Value::Object(_) | Value::Null);
    let width = members.iter().filter(|(_, value)| simple(value)).map(|(name, _)| name.len()).max().unwrap_or(0);
    let indent = "  ".repeat(depth);
    for (name, value) in members.iter().filter(|(_, value)| simple(value)) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        out.push_str(&format!("{indent}{:width$}  {text}\n", name.replace('_', " ")));
    }
    for (name, value) in members.iter().filter(|(_, value)| value.is_object()) {
        out.push_str(&format!("{indent}{}\n", name.replace('_', " ")));
        lines(value, depth + 1, out);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_reads_as_lines() {
        let status = json!({
            "version": "0.1.0",
            "upstream": { "state": "live", "next_retry": null, "attempt": 3 },
            "outbox": { "depth": 0, "lanes": { "high": 2 } },
        });
        let text =
            "version  0.1.0\noutbox\n  depth  0\n  lanes\n    high  2\nupstream\n  attempt  3\n  state    live\n";
        assert_eq!(pretty(&status), text);
    }
}
