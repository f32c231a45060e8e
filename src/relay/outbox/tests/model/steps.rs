//! What may happen in a random history.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// One thing that happens. `usize`: one of those that it can happen to.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Publish(Vec<Spec>),
    Commit,
    Committed,
    CommitFailed,
    Load,
    Loaded,
    Send,
    Written(usize),
    Ack(usize),
    StrayAck(usize),
    Nack(usize, bool),
    Park,
    Unpark,
    Postpone,
    Cancel(usize),
    Reject(usize),
    Lose,
    Pass(u64),
    Crash { commit_survives: bool },
}

/// What a publisher chooses.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) principal: u8,
    pub(super) lane: usize,
    pub(super) order: Option<u8>,
    pub(super) coalesce: bool,
    pub(super) idempotency: Option<u8>,
    pub(super) body: u8,
    pub(super) once: bool,
    pub(super) ttl: Option<u64>,
}

fn spec() -> impl Strategy<Value = Spec> {
    let order =
        prop_oneof![2 => Just((None, false)), 3 => (0u8..2, any::<bool>()).prop_map(|(key, new)| (Some(key), new))];
    let idempotency = prop_oneof![2 => Just(None), 1 => (0u8..3).prop_map(Some)];
    let ttl = prop_oneof![4 => Just(None), 1 => (1u64..40).prop_map(Some)];
    (0u8..2, 0usize..4, order, idempotency, 0u8..2, any::<bool>(), ttl).prop_map(
        |(principal, lane, (order, coalesce), idempotency, body, once, ttl)| Spec {
            principal,
            lane,
            order,
            coalesce,
            idempotency,
            body,
            once,
            ttl,
        },
    )
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => vec(spec(), 1..3).prop_map(Step::Publish),
        8 => Just(Step::Commit),
        10 => Just(Step::Committed),
        8 => Just(Step::Load),
        10 => Just(Step::Loaded),
        1 => Just(Step::CommitFailed),
        12 => Just(Step::Send),
        2 => any::<usize>().prop_map(Step::Written),
        6 => any::<usize>().prop_map(Step::Ack),
        1 => any::<usize>().prop_map(Step::StrayAck),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(of, again)| Step::Nack(of, again)),
        1 => Just(Step::Park),
        1 => Just(Step::Unpark),
        1 => Just(Step::Postpone),
        2 => any::<usize>().prop_map(Step::Cancel),
        1 => any::<usize>().prop_map(Step::Reject),
        2 => Just(Step::Lose),
        4 => prop_oneof![2 => 1u64..30_000, 1 => 40u64..120].prop_map(Step::Pass),
        1 => any::<bool>().prop_map(|commit_survives| Step::Crash { commit_survives }),
    ]
}

/// The publish that a publisher chose.
pub(super) fn to_publish(spec: &Spec) -> Publish {
    Publish {
        order_key: spec.order.map(|key| format!("o{key}").into()),
        coalesce: spec.coalesce,
        idempotency_key: spec.idempotency.map(|key| format!("k{key}").into()),
        lane: Lane::ALL[spec.lane],
        on_unknown: Some(if spec.once { OnUnknown::DeadLetter } else { OnUnknown::Retry }),
        ttl: spec.ttl.map(Duration::from_secs),
        ..message(&spec.body.to_string())
    }
}
