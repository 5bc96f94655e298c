//! Ostrakon

pub mod http;
pub mod object;
pub mod rt;
pub mod s3;
