//! What the store promises, on a real sled in real directories: what was answered `Committed` is there after a restart, a
//! kill, damage to the files and failing disks, or its loss is counted and told.
//!
//! Not here: power cuts of a real file system (`tests/e2e/power.rs`). A killed process proves nothing about fsync; what is
//! checked about it here is that every answer waits for one, and that a failing one ends the store.

#[path = "durability/child.rs"]
mod child;
#[path = "durability/cut.rs"]
mod cut;
#[path = "durability/damage.rs"]
mod damage;
#[path = "durability/failure.rs"]
mod failure;
#[path = "durability/harness.rs"]
mod harness;
#[path = "durability/journals.rs"]
mod journals;
#[path = "durability/restart.rs"]
mod restart;
#[path = "durability/rotate.rs"]
mod rotate;
#[path = "durability/versions.rs"]
mod versions;
