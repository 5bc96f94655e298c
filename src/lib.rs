//! Ostrakon

pub mod index;
pub mod rt;
