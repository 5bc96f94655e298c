//! S3 over the object store.

pub mod aws_chunked;
pub mod checksum;
pub mod error;
pub mod sigv4;
pub mod users;
