//! What the kernel lets us use.

#![allow(unsafe_code)]

use std::fmt;
use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::Config;

/// `DEFER_TASKRUN`.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// Before 6.6 (the long-term kernel after several fixes to it), MSG_RING to a DEFER_TASKRUN ring is
/// not used; the eventfd does the same for 17 µs more.
const KERNEL_MSG_RING: (u32, u32) = (6, 6);

/// What a core uses. `missing` names, a line each, what it does without and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Features {
    pub kernel: (u32, u32),
    pub registered_ring: bool,
    pub registered_buffers: bool,
    pub huge_pages: bool,
    pub msg_ring: bool,
    pub missing: Vec<String>,
}

impl Features {
    pub(super) fn of_kernel() -> Features {
        let kernel = kernel_version();
        let msg_ring = kernel >= KERNEL_MSG_RING;
        let mut features = Features {
            kernel,
            msg_ring,
            ..Features::default()
        };
        if !msg_ring {
            features.miss(format!(
                "wake-ups through the ring: kernel {}.{} is older than {}.{}",
                kernel.0, kernel.1, KERNEL_MSG_RING.0, KERNEL_MSG_RING.1
            ));
        }
        features
    }

    pub(super) fn miss(&mut self, line: String) {
        self.missing.push(line);
    }
}

/// Why this machine cannot run the reactor, and what to do about it, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsupported {
    /// `kernel.io_uring_disabled` is 1 or 2.
    Disabled {
        value: u8,
    },
    /// Refused without that setting: a seccomp filter, as container runtimes install.
    Filtered {
        errno: i32,
    },
    /// The kernel has no io_uring at all, or a filter says so.
    Absent,
    KernelTooOld {
        found: (u32, u32),
    },
    /// Locked memory, descriptors or memory ran out.
    Resources {
        errno: i32,
    },
    /// The kernel is new enough but lacks an operation.
    Operation {
        name: &'static str,
    },
}

impl std::error::Error for Unsupported {}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsupported::Disabled { value: 1 } => f.write_str(
                "io_uring is limited to a group (kernel.io_uring_disabled = 1): add this user to \
                 the group kernel.io_uring_group, or run `sysctl -w kernel.io_uring_disabled=0`",
            ),
            Unsupported::Disabled { .. } => f.write_str(
                "io_uring is switched off (kernel.io_uring_disabled = 2): run `sysctl -w \
                 kernel.io_uring_disabled=0`",
            ),
            Unsupported::Filtered { errno } => write!(
                f,
                "io_uring is blocked ({}), most likely by the container's seccomp profile: run \
                 with a profile that allows io_uring_setup, io_uring_enter and io_uring_register \
                 (docker: --security-opt seccomp=PROFILE.json, or seccomp=unconfined)",
                io::Error::from_raw_os_error(*errno)
            ),
            Unsupported::Absent => f.write_str(
                "this kernel has no io_uring, or a seccomp filter hides it: use Linux 6.1 or newer, \
                 and in a container a profile that allows io_uring",
            ),
            Unsupported::KernelTooOld { found } => write!(
                f,
                "Linux {}.{} is too old: {}.{} or newer is needed",
                found.0, found.1, KERNEL_MIN.0, KERNEL_MIN.1
            ),
            Unsupported::Resources { errno } => write!(
                f,
                "no resources for an io_uring ({}): raise the limits of locked memory (ulimit -l) \
                 and open files (ulimit -n)",
                io::Error::from_raw_os_error(*errno)
            ),
            Unsupported::Operation { name } => write!(
                f,
                "this kernel's io_uring lacks {name}: use an unrestricted Linux 6.1 or newer"
            ),
        }
    }
}

/// The ring's settings.
pub(super) fn builder(entries: u32) -> io_uring::Builder {
    let mut builder = IoUring::builder();
    builder
        .setup_cqsize(entries * 4)
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .dontfork();
    builder
}

/// Major and minor number of the running kernel; (0, 0) if it cannot be read.
fn kernel_version() -> (u32, u32) {
    // SAFETY: plain bytes that the call fills in.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    if unsafe { libc::uname(&mut name) } != 0 {
        return (0, 0);
    }
    let release: Vec<u8> = name
        .release
        .iter()
        .map(|&c| c as u8)
        .take_while(|&c| c != 0)
        .collect();
    parse_version(&String::from_utf8_lossy(&release))
}

fn parse_version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether this machine can run the reactor. Makes a small ring and throws it away.
pub fn probe() -> Result<Features, Unsupported> {
    let kernel = kernel_version();
    let ring = builder(8).build(8).map_err(|e| {
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        let disabled = disabled
            .ok()
            .and_then(|t| t.trim().parse().ok())
            .unwrap_or(0);
        diagnose(e.raw_os_error().unwrap_or(libc::EIO), disabled, kernel)
    })?;
    if kernel < KERNEL_MIN {
        return Err(Unsupported::KernelTooOld { found: kernel });
    }
    let mut operations = Probe::new();
    ring.submitter()
        .register_probe(&mut operations)
        .map_err(|e| Unsupported::Filtered {
            errno: e.raw_os_error().unwrap_or(libc::EPERM),
        })?;
    let needed = [
        ("READ_FIXED", opcode::ReadFixed::CODE),
        ("WRITE_FIXED", opcode::WriteFixed::CODE),
        ("READ", opcode::Read::CODE),
        ("WRITE", opcode::Write::CODE),
        ("WRITEV", opcode::Writev::CODE),
        ("FSYNC", opcode::Fsync::CODE),
        ("FALLOCATE", opcode::Fallocate::CODE),
        ("ACCEPT", opcode::AcceptMulti::CODE),
        ("CONNECT", opcode::Connect::CODE),
        ("RECV", opcode::Recv::CODE),
        ("SEND", opcode::Send::CODE),
        ("SENDMSG", opcode::SendMsg::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
        ("MSG_RING", opcode::MsgRingData::CODE),
    ];
    for (name, code) in needed {
        if !operations.is_supported(code) {
            return Err(Unsupported::Operation { name });
        }
    }
    Ok(Features::of_kernel())
}

/// Why `io_uring_setup` failed.
fn diagnose(errno: i32, disabled: u8, kernel: (u32, u32)) -> Unsupported {
    match errno {
        libc::EPERM | libc::EACCES if disabled > 0 => Unsupported::Disabled { value: disabled },
        libc::EPERM | libc::EACCES => Unsupported::Filtered { errno },
        libc::ENOSYS if kernel < KERNEL_MIN => Unsupported::KernelTooOld { found: kernel },
        libc::ENOSYS => Unsupported::Absent,
        libc::EINVAL => Unsupported::KernelTooOld { found: kernel },
        _ => Unsupported::Resources { errno },
    }
}

impl Config {
    /// For servers on machines that do other things too: memory is the kernel's until it is first used.
    pub fn sparing() -> Config {
        Config {
            arena_bytes: 32 << 20,
            picked_buffers: 64,
            register: false,
            ..Config::default()
        }
    }

    /// For tools and tests: little memory.
    pub fn small() -> Config {
        Config {
            arena_bytes: 8 << 20,
            entries: 64,
            picked_buffers: 32,
            ..Config::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("6.18.44-fc-v595"), (6, 18));
        assert_eq!(parse_version("6.1-rc1"), (6, 1));
        assert_eq!(parse_version("?"), (0, 0));
    }

    #[test]
    fn each_refusal_has_its_remedy() {
        let text = |errno, disabled, kernel| diagnose(errno, disabled, kernel).to_string();
        assert!(text(libc::EPERM, 2, (6, 18)).contains("kernel.io_uring_disabled=0"));
        assert!(text(libc::EPERM, 1, (6, 18)).contains("io_uring_group"));
        assert!(text(libc::EPERM, 0, (6, 18)).contains("seccomp"));
        assert!(text(libc::ENOSYS, 0, (6, 18)).contains("seccomp"));
        assert!(text(libc::ENOSYS, 0, (4, 4)).contains("4.4 is too old"));
        assert!(text(libc::EINVAL, 0, (5, 15)).contains("5.15 is too old"));
        assert!(text(libc::ENOMEM, 0, (6, 18)).contains("ulimit -l"));
        for line in [
            text(libc::EPERM, 0, (6, 18)),
            text(libc::ENOMEM, 0, (6, 18)),
        ] {
            assert!(!line.contains('\n'));
        }
    }
}
