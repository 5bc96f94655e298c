//! Ostrakon

pub mod http;
