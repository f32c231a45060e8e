//! What asking upstream has cost, and who reads what: shown in `/v1/status` and `/v1/subscriptions`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::relay::Relay;
use crate::relay::budget::Spent;
use crate::relay::feed::ring::Ring;
use crate::relay::pairs::SessionId;
use crate::relay::stats::Cost;
use crate::relay::time::Mono;

/// Readers of one channel, and principals, that are shown by name.
const SHOWN: usize = 20;

impl Relay {
    /// A channel that nobody wants yet is to be subscribed for this session. `Err`: that is spent, and how long until
    /// it may be.
    pub(in crate::relay) fn spend_subscribe(
        &mut self,
        now: Mono,
        session: SessionId,
        identity: &str,
    ) -> Result<(), Duration> {
        if self.interest.is_known(identity) {
            return Ok(());
        }
        let principal = self.sessions.get(session).map(|session| Arc::clone(&session.principal.name));
        let spent = self.spend(now, Cost::Subscribe, principal.as_ref());
        if spent.is_err() {
            self.stats.repair.refused.bump(Cost::Subscribe);
        }
        spent
    }

    /// What was spent in the last hour and day, and what is allowed.
    pub(in crate::relay) fn budget_json(&mut self, now: Mono) -> Value {
        accounts(self.budget.spent(now))
    }

    /// Repairs under way and how they ended.
    pub(in crate::relay) fn repairs_json(&self) -> Value {
        let (open, held) = self.repairs.counts();
        let ended: Map<String, Value> =
            self.stats.repair.ended.iter().map(|(end, count)| (end.text().to_owned(), json!(count))).collect();
        json!({"open": open, "held": held, "ended": ended})
    }

    /// What the principals that are connected have spent, the first ones by name.
    pub(in crate::relay) fn principals_json(&mut self, now: Mono) -> Value {
        let names: BTreeSet<Arc<str>> =
            self.sessions.iter().map(|session| Arc::clone(&session.principal.name)).collect();
        let known = names.len();
        let shown: Map<String, Value> = names
            .into_iter()
            .take(SHOWN)
            .map(|name| (name.to_string(), accounts(self.budget.spent_by(now, &name))))
            .collect();
        json!({"connected": known, "spent": shown})
    }

    /// Who reads a channel: the first ones.
    pub(in crate::relay) fn readers_json(&self, ring: &Ring) -> Value {
        let readers = ring.readers.iter().take(SHOWN).filter_map(|reader| {
            let session = self.sessions.in_slot(reader.session)?;
            let id = format!("{:x}-{:x}", session.id.index, session.id.generation);
            Some(json!({"session": id, "principal": &*session.principal.name}))
        });
        Value::Array(readers.collect())
    }
}

fn accounts(spent: Vec<Spent>) -> Value {
    let one = |spent: Spent| {
        let text = spent.cost.text().to_owned();
        let Spent { hour, day, allowance, .. } = spent;
        let allowed = |most: u32| if most == 0 { Value::Null } else { json!(most) };
        let (of_hour, of_day) = (allowed(allowance.hour), allowed(allowance.day));
        (text, json!({"hour": hour, "day": day, "allowed_hour": of_hour, "allowed_day": of_day}))
    };
    Value::Object(spent.into_iter().map(one).collect())
}
