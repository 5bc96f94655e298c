//! S3 over the object store.

pub mod aws_chunked;
pub mod body;
pub mod checksum;
pub mod error;
pub mod headers;
pub mod list;
#[cfg(test)]
mod memory;
pub mod names;
pub mod operations;
pub mod read;
pub mod route;
pub mod server;
pub mod sigv4;
#[cfg(test)]
mod tests;
pub mod users;
pub mod wire;
pub mod xml;
