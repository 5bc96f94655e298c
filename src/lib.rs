//! Ostrakon: an S3-compatible, erasure-coded object store; shared nothing, one io_uring reactor pinned to each core.

#[macro_use]
pub mod plant;

pub mod admin;
pub mod bench;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod datadir;
pub mod erasure;
pub mod http;
pub mod index;
pub mod inspect;
pub mod limits;
pub mod link;
pub mod log;
pub mod md5;
pub mod meta;
pub mod metrics;
pub mod node;
pub mod object;
pub mod placement;
pub mod plan;
pub mod rt;
pub mod s3;
pub mod server;
pub mod signals;
pub mod simulation;
pub mod startup;
pub mod status;
pub mod tls;
pub mod volume;
