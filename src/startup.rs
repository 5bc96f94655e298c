//! What the machine must offer before the store is opened: limits and the address. (Kernel and
//! io_uring are `rt::probe`'s.)
//!
//! Each refusal is one line that ends in the remedy. What is merely worse than it could be is a
//! note, for the log, and the server starts.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit};

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
         another --listen"
    )]
    AddressInUse { address: SocketAddr },
    #[error(
        "port {} is reserved for privileged users; choose one from {first_open} up with --listen, \
         or grant it: setcap cap_net_bind_service=+ep on the binary",
        address.port()
    )]
    PrivilegedPort {
        address: SocketAddr,
        first_open: u32,
    },
    #[error(
        "{} is not an address of this machine; choose another --listen (ip address lists them)",
        address.ip()
    )]
    AddressAbsent { address: SocketAddr },
    #[error("{address} cannot be listened on ({error}); choose another --listen")]
    Address {
        address: SocketAddr,
        error: io::Error,
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

/// The address, known to be free when it was taken and kept from other servers since.
///
/// The cores listen with SO_REUSEPORT, one socket each, and that option would let a second server
/// of the same user listen too and take a share of the connections. So the address is bound here
/// first without it: that fails if anybody has it. The socket is then opened to the cores' sockets
/// by setting the option, never listens, and stays as long as the server runs: against it the
/// exclusive bind of the next server fails.
#[derive(Debug)]
pub struct Address {
    address: SocketAddr,
    _guard: OwnedFd,
}

impl Address {
    pub fn take(wanted: SocketAddr) -> Result<Address, StartupError> {
        let taken = || -> io::Result<(SocketAddr, OwnedFd)> {
            // Connections of a server that just ended linger in TIME_WAIT and count as use,
            // unless SO_REUSEADDR is set; with it, a bound socket that does not listen (yet)
            // does not count. So without it first.
            let guard = match bind(wanted, false) {
                Err(rustix::io::Errno::ADDRINUSE) => bind(wanted, true)?,
                other => other?,
            };
            sockopt::set_socket_reuseaddr(&guard, false)?;
            sockopt::set_socket_reuseport(&guard, true)?;
            let listener = TcpListener::from(guard);
            let address = listener.local_addr()?;
            Ok((address, OwnedFd::from(listener)))
        };
        let (address, guard) = taken().map_err(|error| Self::refusal(wanted, error))?;
        Ok(Address {
            address,
            _guard: guard,
        })
    }

    /// With the port the kernel chose where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn refusal(address: SocketAddr, error: io::Error) -> StartupError {
        match error.kind() {
            io::ErrorKind::AddrInUse => StartupError::AddressInUse { address },
            io::ErrorKind::AddrNotAvailable => StartupError::AddressAbsent { address },
            io::ErrorKind::PermissionDenied => {
                let first_open =
                    std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
                        .ok()
                        .and_then(|text| text.trim().parse().ok())
                        .unwrap_or(1024);
                StartupError::PrivilegedPort {
                    address,
                    first_open,
                }
            }
            _ => StartupError::Address { address, error },
        }
    }
}

fn bind(address: SocketAddr, reuse: bool) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    sockopt::set_socket_reuseaddr(&socket, reuse)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_closed_to_others_and_open_to_our_cores() {
        let taken = Address::take("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.address();
        assert_ne!(address.port(), 0);
        let core = || {
            let socket = bind_shared(address)?;
            rustix::net::listen(&socket, 16)?;
            Ok::<_, rustix::io::Errno>(socket)
        };
        // Before a core listens, while cores listen, and after one has gone.
        let refused = |when: &str| {
            assert!(
                matches!(
                    Address::take(address),
                    Err(StartupError::AddressInUse { .. })
                ),
                "{when}"
            );
        };
        refused("before");
        let first = core().unwrap();
        let second = core().unwrap();
        refused("while");
        let connection = std::net::TcpStream::connect(address).unwrap();
        drop((first, second));
        refused("after");
        drop(taken);
        drop(connection);
        // Lingering connections do not keep the next server out.
        Address::take(address).unwrap();
    }

    fn bind_shared(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        Ok(socket)
    }

    #[test]
    fn an_ordinary_listener_is_noticed() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        assert!(matches!(
            Address::take(address),
            Err(StartupError::AddressInUse { .. })
        ));
        let any = SocketAddr::new("0.0.0.0".parse().unwrap(), address.port());
        assert!(matches!(
            Address::take(any),
            Err(StartupError::AddressInUse { .. })
        ));
    }

    #[test]
    fn a_foreign_address_is_named() {
        // TEST-NET-1, RFC 5737: nobody's.
        let refused = Address::take("192.0.2.1:9000".parse().unwrap()).unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with("192.0.2.1 is not an address of this machine")
        );
    }
}
