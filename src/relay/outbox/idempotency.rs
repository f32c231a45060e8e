//! Idempotency keys: a repeated publish finds the first one.
//!
//! A key is scoped to its principal. It is kept as a digest, so that a long key costs no more than a short one; two keys
//! with one digest (2^-128) would answer `conflict`, never a wrong message.

use std::num::NonZeroU64;

use sha2::{Digest as _, Sha256};

use super::packed::Packed;
use crate::protocol::request::Publish;
use crate::relay::record::{Known, MessageId, Order, StoredMessage};

/// An idempotency key with its principal.
pub(super) type Digest = [u64; 2];

/// The known keys: which message each made, and the start of its body's hash.
#[derive(Debug, Default)]
pub(super) struct Idempotency(Packed<Digest, (MessageId, u64)>);

impl Idempotency {
    /// The message of this key, and whether its body is the same.
    pub(super) fn find(&self, known: Known) -> Option<(MessageId, bool)> {
        let (id, body) = self.0.get(known.key)?;
        Some((*id, *body == known.body))
    }

    /// Whether the key was used.
    pub(super) fn contains(&self, principal: &str, key: &str) -> bool {
        self.0.get(digest(principal, key)).is_some()
    }

    pub(super) fn insert(&mut self, known: Known, id: MessageId) {
        self.0.insert(known.key, (id, known.body));
    }

    pub(super) fn remove(&mut self, key: Digest) {
        self.0.remove(key);
    }
}

/// The idempotency key of a principal and the body that it stands for, as digests. Two bodies of one principal with the same
/// 64 bits are taken for one: that harms only who sought them.
pub(super) fn known(principal: &str, key: &str, body_hash: &[u8; 32]) -> Known {
    Known { key: digest(principal, key), body: number(body_hash, 0) }
}

/// A message's order key as numbers. Two keys with one number leave one after another, which breaks no promise.
pub(super) fn order(message: &StoredMessage) -> Option<Order> {
    let mut hasher = Sha256::new();
    feed(&mut hasher, Some(message.order_key.as_ref()?));
    let key = NonZeroU64::new(number(&hasher.finalize().into(), 0)).unwrap_or(NonZeroU64::MIN);
    let mut hasher = Sha256::new();
    feed(&mut hasher, Some(&message.principal));
    feed(&mut hasher, Some(&message.channel.name));
    feed(&mut hasher, message.channel.params.as_deref());
    feed(&mut hasher, message.key.as_deref());
    Some(Order { key, target: number(&hasher.finalize().into(), 0) })
}

pub(super) fn digest(principal: &str, key: &str) -> Digest {
    let mut hasher = Sha256::new();
    feed(&mut hasher, Some(principal));
    feed(&mut hasher, Some(key));
    let whole = hasher.finalize().into();
    [number(&whole, 0), number(&whole, 8)]
}

/// Eight bytes of a hash.
fn number(hash: &[u8; 32], from: usize) -> u64 {
    hash[from..from + 8].iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))
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
