//! Ostrakon: an S3-compatible, erasure-coded object store; shared nothing, one io_uring reactor pinned to each core.

#[macro_use]
pub mod plant;

pub mod index;
pub mod limits;
pub mod link;
pub mod log;
pub mod meta;
pub mod object;
pub mod placement;
pub mod rt;
pub mod volume;
