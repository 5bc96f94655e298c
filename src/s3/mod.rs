//! S3 over the object store.

pub mod aws_chunked;
pub mod body;
pub mod checksum;
pub mod error;
pub mod headers;
pub mod list;
pub mod names;
pub mod operations;
pub mod read;
pub mod route;
pub mod sigv4;
pub mod users;
pub mod xml;
