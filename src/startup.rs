//! What the machine must offer before the store is opened: limits and the address. (Kernel and
//! io_uring are `rt::probe`'s.)
//!
//! Each refusal is one line that ends in the remedy. What is merely worse than it could be is a
//! note, for the log, and the server starts.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit};

use crate::config::AdminListen;
use crate::rt::net::Claim;
use crate::{rt, server, tls};

/// Ring, log files and index of a few volumes, standard streams, and a handful of connections.
pub const OPEN_FILES_MIN: u64 = 256;
/// Under this, connections run out before anything else does.
pub const OPEN_FILES_ADVISED: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    #[error(
        "only {hard} open files are allowed (RLIMIT_NOFILE), and {OPEN_FILES_MIN} are needed; \
         raise the limit: ulimit -n 65536, LimitNOFILE=65536 in a systemd unit, --ulimit \
         nofile=65536 for a container"
    )]
    OpenFiles { hard: u64 },
    #[error(
        "{address} is in use by another process; stop that one (ss -ltnp names it) or choose \
         another {flag}"
    )]
    AddressInUse {
        address: SocketAddr,
        flag: &'static str,
    },
    #[error(
        "port {} is reserved for privileged users; choose one from {first_open} up with {flag}, \
         or grant it: setcap cap_net_bind_service=+ep on the binary",
        address.port()
    )]
    PrivilegedPort {
        address: SocketAddr,
        first_open: u32,
        flag: &'static str,
    },
    #[error(
        "{} is not an address of this machine; choose another {flag} (ip address lists them)",
        address.ip()
    )]
    AddressAbsent {
        address: SocketAddr,
        flag: &'static str,
    },
    #[error("{address} cannot be listened on ({error}); choose another {flag}")]
    Address {
        address: SocketAddr,
        error: io::Error,
        flag: &'static str,
    },
}

/// Raises the soft limits to the hard ones.
pub fn raise_limits(notes: &mut Vec<String>) -> Result<(), StartupError> {
    for resource in [Resource::Nofile, Resource::Memlock] {
        let limit = rustix::process::getrlimit(resource);
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        // It may always be raised so far; where a sandbox refuses, the check below still holds.
        let _ = rustix::process::setrlimit(resource, raised);
    }
    let files = rustix::process::getrlimit(Resource::Nofile);
    let files = files.current.unwrap_or(u64::MAX);
    if files < OPEN_FILES_MIN {
        return Err(StartupError::OpenFiles { hard: files });
    }
    if files < OPEN_FILES_ADVISED {
        notes.push(format!(
            "only {files} open files are allowed, and connections count among them; raise the \
             limit: ulimit -n 65536 (LimitNOFILE=65536 in a systemd unit)"
        ));
    }
    Ok(())
}

/// Takes the address of `--listen` for this process alone; see [`Claim`].
pub fn claim(address: SocketAddr) -> Result<Claim, StartupError> {
    claim_for("--listen", address)
}

/// Takes that of `--admin-listen`; `None` if it is switched off, or taken and nobody asked for it.
pub fn claim_admin(
    admin: Option<AdminListen>,
    notes: &mut Vec<String>,
) -> Result<Option<Claim>, StartupError> {
    let Some(admin) = admin else {
        return Ok(None);
    };
    if !admin.address.ip().is_loopback() {
        notes.push(format!(
            "metrics on {} are for everybody who reaches it: there is neither TLS nor a password",
            admin.address
        ));
    }
    match claim_for("--admin-listen", admin.address) {
        Ok(claim) => Ok(Some(claim)),
        Err(error) if admin.by_default => {
            notes.push(format!("metrics are not served: {error} (or off)"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn claim_for(flag: &'static str, address: SocketAddr) -> Result<Claim, StartupError> {
    Claim::new(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => StartupError::AddressInUse { address, flag },
        io::ErrorKind::AddrNotAvailable => StartupError::AddressAbsent { address, flag },
        io::ErrorKind::PermissionDenied => {
            let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
            let first = first.ok().and_then(|text| text.trim().parse().ok());
            StartupError::PrivilegedPort {
                address,
                first_open: first.unwrap_or(1024),
                flag,
            }
        }
        _ => StartupError::Address {
            address,
            error,
            flag,
        },
    })
}

/// Reads the TLS pair.
pub fn tls(files: &tls::Files, notes: &mut Vec<String>) -> Result<server::Tls, tls::PairError> {
    let pair = files.load()?;
    let now = i64::try_from(rt::unix_ms() / 1000).unwrap_or(i64::MAX);
    if let Some(warning) = pair.time_warning(now) {
        notes.push(format!("{}: {warning}", files.certificate.display()));
    }
    let key = files.key.display();
    if std::fs::metadata(&files.key).is_ok_and(|file| file.mode() & 0o007 != 0) {
        notes.push(format!(
            "{key} is a private key and open to all users of this machine; chmod 600 {key}"
        ));
    }
    Ok(server::Tls {
        files: files.clone(),
        current: tls::Current::new(pair),
        again: Arc::default(),
    })
}

/// Secret keys never travel, but everything else does as it is.
pub fn note_open_listener(listen: SocketAddr, tls: bool, notes: &mut Vec<String>) {
    if !tls && !listen.ip().is_loopback() {
        notes.push(format!(
            "{listen} is reached from other machines without TLS: objects and listings travel in \
             the clear; give --tls-cert and --tls-key, or put a TLS proxy in front"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_ordinary_listener_is_noticed() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        assert!(matches!(
            claim(address),
            Err(StartupError::AddressInUse { .. })
        ));
        let any = SocketAddr::new("0.0.0.0".parse().unwrap(), address.port());
        assert!(matches!(claim(any), Err(StartupError::AddressInUse { .. })));
    }

    #[test]
    fn a_foreign_address_is_named() {
        // TEST-NET-1, RFC 5737: nobody's.
        let refused = claim("192.0.2.1:9000".parse().unwrap()).unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with("192.0.2.1 is not an address of this machine")
        );
    }
}
