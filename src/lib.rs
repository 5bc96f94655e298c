//! Ostrakon: an S3-compatible, erasure-coded object store; shared nothing, one io_uring reactor pinned to each core.

pub mod cli;
pub mod config;
pub mod credentials;
pub mod datadir;
pub mod rt;
pub mod server;
pub mod signals;
pub mod startup;
