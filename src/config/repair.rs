//! `[repair]` and `[budget]`: what mending and asking may take, and how often.

use std::time::Duration;

use serde_json::{Value, json};

use super::reader::Reader;
use super::size;
use crate::protocol::duration;

/// `[repair]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairConfig {
    /// Tries before a hole counts as not to be mended.
    pub attempts: u32,
    /// How long upstream may take to answer one.
    pub timeout: Duration,
    /// Between two repairs of one channel, and between two tries, where it doubles up to sixteen times.
    pub cooldown: Duration,
    /// How long what was tried in vain is not tried again.
    pub given_up_for: Duration,
    /// Channels that are mended at once.
    pub concurrent: usize,
    /// Events of one channel that wait for its repair.
    pub held_events: usize,
    /// Their bytes, over all channels.
    pub held_bytes_total: usize,
}

impl Default for RepairConfig {
    fn default() -> Self {
        RepairConfig {
            attempts: 4,
            timeout: Duration::from_secs(10),
            cooldown: Duration::from_secs(1),
            given_up_for: Duration::from_secs(300),
            concurrent: 4,
            held_events: 10_000,
            held_bytes_total: 32 << 20,
        }
    }
}

/// How often something may be done; 0: as often as needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowance {
    /// In any hour.
    pub hour: u32,
    /// In any day.
    pub day: u32,
}

/// `[budget]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetConfig {
    /// HTTP requests to the provider.
    pub fetches: Allowance,
    /// Repairs of channels.
    pub repairs: Allowance,
    /// Refreshes that clients ask for.
    pub refreshes: Allowance,
    /// Channels subscribed.
    pub subscribes: Allowance,
    /// Refreshes that one principal asks for.
    pub principal_refreshes: Allowance,
    /// Channels subscribed for one principal.
    pub principal_subscribes: Allowance,
    /// Principals that are counted; beyond it the one longest without a request is forgotten.
    pub principals: usize,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        let free = Allowance::default();
        BudgetConfig {
            fetches: free,
            repairs: free,
            refreshes: free,
            subscribes: free,
            principal_refreshes: free,
            principal_subscribes: free,
            principals: 1_000,
        }
    }
}

/// Most of anything that is counted.
const MANY: u64 = 100_000_000;

pub(super) fn repair(r: &mut Reader, d: RepairConfig) -> RepairConfig {
    let times = Duration::from_millis(1)..=Duration::from_secs(86_400);
    RepairConfig {
        attempts: r.count("repair.attempts", d.attempts, 1..=1_000),
        timeout: r.duration("repair.timeout", d.timeout, times.clone()),
        cooldown: r.duration("repair.cooldown", d.cooldown, times.clone()),
        given_up_for: r.duration("repair.given_up_for", d.given_up_for, times),
        concurrent: r.count("repair.concurrent", d.concurrent, 1..=1_000),
        held_events: r.count("repair.held_events", d.held_events, 1..=MANY),
        held_bytes_total: r.size("repair.held_bytes_total", d.held_bytes_total, 1_024..=1 << 40),
    }
}

pub(super) fn budget(r: &mut Reader, d: BudgetConfig) -> BudgetConfig {
    BudgetConfig {
        fetches: allowance(r, "budget.fetches", d.fetches),
        repairs: allowance(r, "budget.repairs", d.repairs),
        refreshes: allowance(r, "budget.refreshes", d.refreshes),
        subscribes: allowance(r, "budget.subscribes", d.subscribes),
        principal_refreshes: allowance(r, "budget.principal_refreshes", d.principal_refreshes),
        principal_subscribes: allowance(r, "budget.principal_subscribes", d.principal_subscribes),
        principals: r.count("budget.principals", d.principals, 1..=1_000_000),
    }
}

/// `{ hour = 60, day = 500 }`
fn allowance(r: &mut Reader, key: &str, d: Allowance) -> Allowance {
    r.table(key, "{ hour = 60, day = 500 }");
    let hour = r.count(&format!("{key}.hour"), d.hour, 0..=MANY);
    let day = r.count(&format!("{key}.day"), d.day, 0..=MANY);
    if day > 0 && day < hour {
        let cure = "raise day or lower hour (0: as often as needed)";
        r.warn(key, format!("a day allows {day}, less than an hour ({hour}): hour says nothing"), cure);
    }
    Allowance { hour, day }
}

pub(super) fn repair_json(config: &RepairConfig) -> Value {
    json!({
        "attempts": config.attempts,
        "timeout": duration::write(config.timeout),
        "cooldown": duration::write(config.cooldown),
        "given_up_for": duration::write(config.given_up_for),
        "concurrent": config.concurrent,
        "held_events": config.held_events,
        "held_bytes_total": size::write(config.held_bytes_total as u64),
    })
}

pub(super) fn budget_json(config: &BudgetConfig) -> Value {
    let allowance = |of: Allowance| json!({ "hour": of.hour, "day": of.day });
    json!({
        "fetches": allowance(config.fetches),
        "repairs": allowance(config.repairs),
        "refreshes": allowance(config.refreshes),
        "subscribes": allowance(config.subscribes),
        "principal_refreshes": allowance(config.principal_refreshes),
        "principal_subscribes": allowance(config.principal_subscribes),
        "principals": config.principals,
    })
}
