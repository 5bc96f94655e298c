//! Ostrakon

pub mod cli;
pub mod config;
pub mod credentials;
pub mod datadir;
pub mod server;
pub mod signals;
pub mod startup;
