//! From a checked machine and a locked directory to a running server, and back.

use std::time::Duration;

use crate::config::User;
use crate::datadir::DataDir;
use crate::rt::net::Claim;
use crate::signals::Shutdown;

/// All that `serve` has decided. `data` must live until [`run`] returns: it holds the lock of the
/// directory.
#[derive(Debug)]
pub struct Config {
    pub data: DataDir,
    /// One core listens on it; the others bind its address.
    pub listen: Claim,
    /// Threads to run; also the number of volumes if this start formats.
    pub cores: usize,
    /// CPUs to pin them to, in order; fewer than `cores` when told to run more than there are.
    pub cpus: Vec<usize>,
    pub region: String,
    /// Lower case, without a final dot.
    pub domains: Vec<String>,
    /// Who may sign requests. Root is the first.
    pub users: Vec<User>,
    /// How long requests under way may take once `shutdown` is requested.
    pub drain: Duration,
    pub shutdown: Shutdown,
}

/// What the ready line says.
#[derive(Debug, Clone)]
pub struct ReadyReport {
    pub cores: usize,
    pub volumes: usize,
    /// Names of what the kernel or the limits did not give, and what is used instead.
    pub missing: Vec<String>,
}

/// Why there is no server. Displayed as one line that ends in the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Refused(String),
}

// ---- stub: the rest of this file stands in until the cores exist -------------------------------

/// Formats or opens the volumes, listens, calls `ready`, serves until `config.shutdown` is
/// requested, drains for at most `config.drain`, closes the volumes.
pub fn run(config: Config, ready: impl FnOnce(ReadyReport)) -> Result<(), StartError> {
    ready(ReadyReport {
        cores: config.cores,
        volumes: config.cores,
        missing: Vec::new(),
    });
    while !config.shutdown.is_requested() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
