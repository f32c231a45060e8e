//! Idempotency keys: a repeated publish finds the first one.
//!
//! A key is scoped to its principal. It is kept as a digest, so that a long key costs no more than a short one; two keys
//! with one digest (2^-128) would answer `conflict`, never a wrong message.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::protocol::request::Publish;
use crate::relay::record::MessageId;

/// The known keys.
#[derive(Debug, Default)]
pub(super) struct Idempotency(BTreeMap<u128, MessageId>);

impl Idempotency {
    pub(super) fn find(&self, principal: &str, key: &str) -> Option<MessageId> {
        self.0.get(&digest(principal, key)).copied()
    }

    pub(super) fn insert(&mut self, principal: &str, key: &str, id: MessageId) {
        self.0.insert(digest(principal, key), id);
    }

    pub(super) fn remove(&mut self, principal: &str, key: &str) {
        self.0.remove(&digest(principal, key));
    }
}

fn digest(principal: &str, key: &str) -> u128 {
    let mut hasher = Sha256::new();
    feed(&mut hasher, Some(principal));
    feed(&mut hasher, Some(key));
    let whole: [u8; 32] = hasher.finalize().into();
    whole[..16].iter().fold(0, |number, byte| (number << 8) | u128::from(*byte))
}

/// The hash over what makes two publishes the same: channel, params, key, type, data, order key.
pub(super) fn body_hash(publish: &Publish) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in [
        Some(&publish.channel.name),
        publish.channel.params.as_ref(),
        publish.key.as_ref(),
        publish.kind.as_ref(),
        Some(&publish.data),
        publish.order_key.as_ref(),
    ] {
        feed(&mut hasher, part.map(|text| &**text));
    }
    hasher.finalize().into()
}

/// Lengths go in too, so that no two lists of parts look alike; a missing part is not an empty one.
fn feed(hasher: &mut Sha256, part: Option<&str>) {
    match part {
        Some(text) => {
            hasher.update(b"+");
            hasher.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hasher.update(text.as_bytes());
        }
        None => hasher.update(b"-"),
    }
}
