//! What must hold after every step, from the outside: S1-S4 and S7 are judged by the clients as frames come.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidegate::relay::record::MessageId;

use crate::clients::Told;
use crate::disk::Disk;
use crate::upstream::Upstream;

/// Attempts a message may have (`outbox.max_attempts` of the simulated configuration).
pub const MAX_ATTEMPTS: usize = 6;

/// A message as the simulation published it.
pub struct Sent {
    pub order_key: Option<u64>,
    /// `on_unknown = dead_letter`
    pub once: bool,
    /// The newest attempt that was judged.
    pub judged: usize,
}

pub fn check(told: &Told, disk: &Disk, upstream: &Upstream, sent: &BTreeMap<u64, Sent>) -> Result<(), String> {
    if let Some(complaint) = upstream.complaints.first() {
        return Err(complaint.clone());
    }
    accepted_is_durable(told, disk)?;
    if let Some(key) = disk.doubled() {
        return Err(format!("S15: several messages have the key {key}"));
    }
    outcomes_are_unique_and_true(told, upstream)?;
    attempts_are_bounded_and_ordered(upstream, sent)
}

/// S8: what was called accepted is on the disk, whatever happens, until its outcome is forgotten.
fn accepted_is_durable(told: &Told, disk: &Disk) -> Result<(), String> {
    for (tag, message) in &told.accepted {
        let id = MessageId::parse(message).ok_or(format!("{message} is no message id"))?;
        if !disk.holds(id) {
            return Err(format!("S8: message {message} (tag {tag}) was accepted and is not on the disk"));
        }
    }
    Ok(())
}

/// S9: one outcome per message, never changed. S13: delivered only if upstream acknowledged, rejected only if it refused.
fn outcomes_are_unique_and_true(told: &Told, upstream: &Upstream) -> Result<(), String> {
    for (tag, message) in &told.accepted {
        let Some(outcomes) = told.outcomes.get(message) else { continue };
        let states: BTreeSet<String> = outcomes.iter().map(|outcome| outcome["state"].to_string()).collect();
        if states.len() > 1 {
            return Err(format!("S9: {message} ended as {states:?}"));
        }
        let outcome = &outcomes[0];
        if outcome["state"] == "delivered" && !upstream.acked.contains(tag) {
            return Err(format!("S13: {message} (tag {tag}) is delivered, and upstream never acknowledged it"));
        }
        if outcome["state"] == "rejected" && outcome["reason"] == "no" && !upstream.rejected.contains(tag) {
            return Err(format!("S13: {message} (tag {tag}) is rejected, and upstream never refused it"));
        }
    }
    Ok(())
}

/// S11: first attempts of one order key leave in the order of acceptance, one at a time. S12: attempts are bounded, within one
/// incarnation (only those of an at-most-once message are on the disk, and it has one in its life).
fn attempts_are_bounded_and_ordered(upstream: &Upstream, sent: &BTreeMap<u64, Sent>) -> Result<(), String> {
    let mut count: BTreeMap<(u64, u32), usize> = BTreeMap::new();
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
    for (tag, incarnation) in &upstream.attempts {
        let Some(message) = sent.get(tag) else { return Err(format!("nobody published tag {tag}")) };
        let made = count.entry((*tag, *incarnation)).or_default();
        *made += 1;
        let first = seen.insert(*tag);
        if *made > MAX_ATTEMPTS || (message.once && !first) {
            return Err(format!("S12: attempt {made} of tag {tag}"));
        }
        if first && let Some(key) = message.order_key {
            let before = newest.entry(key).or_default();
            if *tag < *before {
                return Err(format!("S11: key {key}: tag {tag} leaves after {before}"));
            }
            *before = *tag;
        }
    }
    Ok(())
}

/// At the end, with a healthy world: S10 and L2: every accepted message has ended, and was told so or can be asked for.
pub fn settled(told: &Told, disk: &Disk, status: &Value) -> Result<(), String> {
    if disk.pending() > 0 {
        return Err(format!("L2: {} messages are still pending", disk.pending()));
    }
    if status["outbox"]["depth"] != 0 {
        return Err(format!("S10: the disk is drained and the relay says {}", status["outbox"]));
    }
    if told.accepted.is_empty() {
        return Err("nothing was ever accepted".into());
    }
    Ok(())
}
