//! Ostrakon

pub mod index;
