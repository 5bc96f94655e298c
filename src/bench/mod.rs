//! `ostrakon bench`: an S3 load generator on the server's own reactor, and a null server that says
//! how fast the generator itself is.
//!
//! ```text
//! command ── run ──┬── load (one per core) ── workload, pace ── client ── sign, keys ── socket
//!                  ├── null (on the server's CPU): the ceiling
//!                  └── server_usage, measure ── report
//! ```
//!
//! * [`command`]: arguments to [`command::Plan`]; refusals in one line.
//! * [`run`]: the main thread. Prepares, measures, cleans up; starts cores for each phase and looks
//!   at clocks and `/proc` at the borders of the measured window, outside the reactors.
//! * [`load`]: one core: its connections, each a task that takes a step, performs it, records it.
//! * [`workload`] and [`pace`]: what to do next, and when; sans-io.
//! * [`client`], [`sign`], [`keys`]: one connection, one signature, names and bytes of objects.
//! * [`measure`]: histograms and counts of a core, merged when it ends.
//!
//! Invariants worth naming:
//!
//! 1. An answer counts as good only if it is what S3 promises for the request; everything else is
//!    an error, is counted by what it was, and shows in the report.
//! 2. At a fixed rate the latency of a request begins when it was *meant* to be sent, whether or not
//!    a connection was free.
//! 3. The body of an object follows from seed, key number and generation alone, so any run with the
//!    same seed can verify it.
//! 4. Cores share nothing while they run but a few counters that each writes alone.
//!
//! Works against other S3 servers, over plain HTTP. See docs/bench.md.

pub mod bucket;
pub mod client;
pub mod command;
pub mod keys;
pub mod load;
pub mod measure;
pub mod null;
pub mod pace;
pub mod report;
pub mod run;
pub mod server_usage;
pub mod sign;
pub mod workload;
