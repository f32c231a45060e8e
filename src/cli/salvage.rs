//! `tidegate salvage`: what can still be read of a damaged store, listed or published again.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::client::{Call, FeedArgs, send};
use super::{Failure, print};
use crate::config::load::Sources;
use crate::protocol::control::{Object, state_text};
use crate::relay::outbox::as_publish;
use crate::relay::record::StoredMessage;
use crate::store::Salvaged;

/// Arguments of `tidegate salvage`.
#[derive(Debug, Args)]
pub(super) struct SalvageArgs {
    /// The damaged directory, such as STATE/sled.corrupt-1795231888, or a copy of it; refused while a relay uses it
    directory: PathBuf,
    /// Publish the messages without an outcome again, through a running relay; what it knows by its id is not sent twice
    #[arg(long)]
    publish: bool,
    #[command(flatten)]
    feed: FeedArgs,
}

/// Prints what was found, one JSON object a line, or publishes it again.
pub(super) fn run(args: &SalvageArgs, sources: &Sources) -> Result<(), Failure> {
    let found =
        crate::store::salvage(&args.directory).map_err(|error| Failure::new(error.exit_code(), error.to_string()))?;
    let mut open = 0;
    for (id, salvaged) in &found.messages {
        let publish = salvaged.message.as_ref().map(publish);
        open += usize::from(salvaged.outcome.is_none());
        match (args.publish, publish) {
            (false, publish) => print(&line(&id.to_string(), salvaged, publish.as_deref()))?,
            (true, Some(publish)) if salvaged.outcome.is_none() => again(args, sources, publish)?,
            (true, _) => {}
        }
    }
    let (all, broken) = (found.messages.len(), found.broken);
    let sum = format!(
        "{all} messages found, {open} without an outcome (ended and forgotten ones may be among them), {broken} damaged"
    );
    // Nobody is left to tell if that fails.
    let _ = writeln!(std::io::stderr(), "{sum}");
    Ok(())
}

/// The message as somebody would publish it. The key makes it one message however often it is salvaged.
fn publish(message: &StoredMessage) -> String {
    let key = message.idempotency_key.as_deref().map_or_else(|| message.id.to_string(), str::to_owned);
    let body = as_publish(message, message.channel.params.as_deref());
    let key = Object::new().text("idempotency_key", &key).end();
    // One object of two: payloads stay byte for byte.
    let (key, body) = (String::from_utf8_lossy(&key).into_owned(), String::from_utf8_lossy(&body).into_owned());
    format!("{},{}", key.trim_end_matches('}'), body.trim_start_matches('{'))
}

fn line(id: &str, salvaged: &Salvaged, publish: Option<&str>) -> String {
    let state = salvaged.outcome.as_ref().map_or("accepted", |outcome| state_text(outcome.outcome.state));
    let message = salvaged.message.as_ref();
    let principal = message.map(|message| &message.principal);
    let principal = principal.or(salvaged.outcome.as_ref().map(|outcome| &outcome.principal));
    let object = Object::new().text("message", id).text("state", state);
    let object = object.text_if("principal", principal.map(|name| &**name));
    let object = object.text_if("accepted", message.map(|message| message.accepted.rfc3339()).as_deref());
    let object = match publish {
        Some(publish) => object.raw("publish", publish.as_bytes()),
        None => object,
    };
    String::from_utf8_lossy(&object.end()).into_owned() + "\n"
}

fn again(args: &SalvageArgs, sources: &Sources, publish: String) -> Result<(), Failure> {
    let (address, token) = (args.feed.address(sources)?, args.feed.token());
    let body = Some(publish);
    let call = Call { address: &address, method: "POST", path: "/v1/publish", token: token.as_deref(), body };
    let accepted = send(&call)?.success()?;
    print(&format!("{accepted}\n"))
}
