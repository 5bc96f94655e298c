//! Ostrakon

pub mod rt;
