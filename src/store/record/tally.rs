//! The body of a tally: what is spent of upstream's limits.
//!
//! Little endian, after the number of the boot (16 bytes): the service (8), when on the monotonic and on the wall clock
//! (8 each), connects, frames, both holds in nanoseconds (8 each), a count (4) and so many costs of 14 bytes: what,
//! hour or day, age, count.

use std::time::Duration;

use super::{Reader, Writer};
use crate::relay::record::{StoredCost, StoredTally};
use crate::relay::stats::Cost;
use crate::relay::time::{Mono, Time, Wall};

/// Frames a tally. `boot`: which run of the system counts the monotonic clock; 0: unknown.
pub(in crate::store) fn encode_tally(tally: &StoredTally, boot: u128) -> Vec<u8> {
    let mut out = Writer::new(b't', 0, None);
    out.0.extend_from_slice(&boot.to_le_bytes());
    let numbers = [
        tally.service,
        tally.at.mono.0,
        tally.at.wall.0,
        tally.connects,
        tally.frames,
        nanos(tally.connects_held),
        nanos(tally.frames_held),
    ];
    numbers.into_iter().for_each(|number| out.u64(number));
    out.u32(u32::try_from(tally.costs.len()).unwrap_or(u32::MAX));
    for cost in &tally.costs {
        out.u8(match cost.cost {
            Cost::Fetch => 0,
            Cost::Repair => 1,
            Cost::Refresh => 2,
            Cost::Subscribe => 3,
        });
        out.u8(u8::from(cost.of_day));
        out.u64(nanos(cost.age));
        out.u32(cost.count);
    }
    out.finish()
}

pub(super) fn decode_tally(body: &mut Reader<'_>) -> Option<(StoredTally, u128)> {
    let boot = u128::from_le_bytes(body.array()?);
    let mut tally = StoredTally {
        service: body.u64()?,
        at: Time { mono: Mono(body.u64()?), wall: Wall(body.u64()?) },
        connects: body.u64()?,
        frames: body.u64()?,
        connects_held: Duration::from_nanos(body.u64()?),
        frames_held: Duration::from_nanos(body.u64()?),
        costs: Vec::new(),
    };
    for _ in 0..body.u32()? {
        let cost = match body.u8()? {
            0 => Cost::Fetch,
            1 => Cost::Repair,
            2 => Cost::Refresh,
            3 => Cost::Subscribe,
            _ => return None,
        };
        let of_day = match body.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        tally.costs.push(StoredCost { cost, of_day, age: Duration::from_nanos(body.u64()?), count: body.u32()? });
    }
    Some((tally, boot))
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
