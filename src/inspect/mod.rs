//! `ostrakon inspect`: what a data directory, one of its volumes or one segment file holds, read
//! offline; and `ostrakon accept-loss`, by which an operator gives up what cannot be read.
//!
//! Owns nothing: it opens everything for reading only, does not flush, and leaves no trace but, for
//! an instant, a shared hold of the data directory's `lock`, to see whether a server has it.
//! `accept` is the exception, and writes one file of one volume, while it holds the lock alone.
//!
//! ```text
//!   command ─▶ report (files, directories) ─▶ scan (one segment file, one head; no I/O of its own)
//!      └─────▶ text   (tables, findings, records)      loss (names of what is lost)
//! ```
//!
//! These commands run alone in their process, before any core exists, so that they work where a
//! server does not start: no io_uring, a read-only mount, a copy of a drive. They therefore stand
//! above the rule that only `rt` opens files, and read with plain `std::fs`.
//!
//! What is read is taken for damaged until its checksums say otherwise: no bytes make this panic,
//! and nothing is allocated by a length that a checksum does not cover.
//!
//! What it judges is the log as a whole, as a volume does that has lost its index. A volume with an
//! index replays only what was written since the last checkpoint, so it may not have met damage that
//! is named here. The index is not opened.

pub mod accept;
pub mod command;
pub mod loss;
pub mod report;
pub mod scan;
mod text;

#[cfg(test)]
mod tests;
