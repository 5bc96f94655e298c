//! S3 over the object store: signatures, operations, XML, error codes.
//!
//! ```text
//! server ── wire ── http::head ── sigv4 ── names ── hoisted ── route ── headers ── operations ── object
//!              └──── body (Content-Length | chunked, aws-chunked, checks) ──┘
//! ```
//!
//! `server` and `wire` wait for clients; everything else decides about bytes and values alone.
//!
//! Invariants:
//! - A request that is not known in method, path, every query key and every header of meaning is
//!   refused. Nothing unknown falls through to a plain operation (`route`, `headers`).
//! - Nothing is done before the signature was verified, and nothing becomes visible before the body
//!   was verified too: signatures, hashes, checksums, lengths, trailers.
//! - Keys are opaque bytes: decoded once, never normalised, never a path.
//! - What a client did wrong is said in `error`, in one place, in the words of S3.
//! - Answers are whole or visibly broken: an object that cannot be read to its end closes the
//!   connection short of the announced length.

pub mod aws_chunked;
pub mod body;
pub mod conditions;
pub mod error;
pub mod headers;
pub mod hoisted;
pub mod list;
#[cfg(test)]
mod memory;
pub mod names;
pub mod operations;
pub mod read;
pub mod request_log;
pub mod route;
pub mod server;
pub mod sigv4;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
pub mod users;
pub mod wire;
pub mod xml;
