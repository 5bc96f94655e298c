//! The simulator: production code on virtual cores, virtual time and seeded, faulty drives.
//!
//! ```ignore
//! let world = World::new(seed);
//! let node = world.add_node(2);
//! world.add_drive(node, "/data", FaultPlan::healthy());
//! let store = world.run_on(node, CoreId(0), async { Store::open("/data").await })?;
//! ...
//! world.power_cut(node, None);
//! world.restart(node);
//! ```
//!
//! The same seed and the same calls give the same [`World::trace`]. Streams of random numbers are
//! kept apart by purpose ([`rng`]): schedule, latency, faults and rot of each drive, power cuts,
//! offload times, `rt::random` of each node, and whatever a test takes with [`World::stream`].
//!
//! To cut power at every boundary: run once without failure, take [`World::ops`], then run the
//! same seed again for each number below it and each [`Point`] with [`World::cut_at`]; the run ends
//! with [`Stop::Failed`], and [`World::restart`] boots the node on what its drives kept.
//!
//! What is outside drives and memory (the index's twin) lives in [`slot`].
//!
//! No sockets yet. Mailboxes between cores of a node are the production ones; a wake takes a seeded
//! while to arrive.

pub mod disk;
mod drive;
pub mod rng;
pub mod slot;
mod world;

pub use disk::{CutMode, Disk, DiskError};
pub use drive::{FaultPlan, Hang};
pub use rng::Rng;
pub use slot::{Slot, world_slot, world_slot_remove};
pub use world::{DriveId, Failure, NodeId, Point, RUN_TIME_MAX, Stop, World};

#[cfg(test)]
mod tests;
