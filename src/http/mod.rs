//! Bytes to requests and responses to bytes: HTTP/1.1 without sockets.
//!
//! Everything here is sans-io. [`head`] turns a received head into a [`head::Head`] or a refusal,
//! [`target`] decodes paths and queries, [`chunked`] undoes `Transfer-Encoding: chunked`,
//! [`response`] writes heads, [`date`] the dates in them.
//!
//! Invariants:
//! - A head has one meaning or is refused: conflicting, duplicate or malformed framing fields end
//!   the connection, so that no proxy in front can see other message borders than we do.
//! - The path and the query stay raw until `target` decodes them, exactly once.
//! - Decoders give the same values for the same bytes, however the network cut them.
//! - No input makes a decoder panic or hold more than the limits named at the top of its module.

pub mod chunked;
pub mod date;
pub mod head;
pub mod response;
pub mod target;
