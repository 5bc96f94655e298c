//! What the kernel says a process has used: CPU time, memory, bytes moved from and to drives.
//!
//! Read by the main thread at the borders of the measured window. What may not be read (another
//! user's process) is missing, not zero.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::Pid;

/// At one moment. Sums since the process began, and memory as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Of all threads, those that have ended too; in steps of 10 ms.
    pub user: Duration,
    pub system: Duration,
    /// `None`: the kernel does not show it to us.
    pub io: Option<DiskBytes>,
    pub memory: Memory,
}

/// Bytes that the process had fetched from or sent to drives; not what the page cache answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskBytes {
    pub read: u64,
    pub written: u64,
}

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Most that was resident at any time.
    pub peak_resident: Option<u64>,
    pub resident: Option<u64>,
    /// Resident without a file behind it.
    pub anonymous: Option<u64>,
    /// Resident, pages of several processes shared out among them.
    pub proportional: Option<u64>,
}

/// Of one process.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pid: Pid,
}

impl Process {
    /// An error if there is no such process.
    pub fn new(pid: i32) -> io::Result<Process> {
        let pid = Pid::from_raw(pid)
            .filter(|pid| !pid.is_init() && pid.as_raw_nonzero().get() > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let process = Process { pid };
        process.usage().map(|_| process)
    }

    /// The CPUs it may run on.
    pub fn cpus(&self) -> io::Result<Vec<usize>> {
        let set = rustix::thread::sched_getaffinity(Some(self.pid))?;
        Ok((0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|&cpu| set.is_set(cpu))
            .collect())
    }

    fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid.as_raw_nonzero()))
    }

    /// An error if the process has ended.
    pub fn usage(&self) -> io::Result<Usage> {
        let bad = || io::Error::other("/proc/PID/stat has an unknown form");
        let (user, system) = parse_stat(&self.read("stat")?).ok_or_else(bad)?;
        let io = self.read("io").ok().and_then(|text| {
            Some(DiskBytes {
                read: field(&text, "read_bytes:")?,
                written: field(&text, "write_bytes:")?,
            })
        });
        let status = self.read("status").unwrap_or_default();
        let rollup = self.read("smaps_rollup").unwrap_or_default();
        let kib = |text: &str, name: &str| field(text, name).map(|kib| kib * 1024);
        Ok(Usage {
            user,
            system,
            io,
            memory: Memory {
                peak_resident: kib(&status, "VmHWM:"),
                resident: kib(&status, "VmRSS:"),
                anonymous: kib(&rollup, "Anonymous:").or_else(|| kib(&status, "RssAnon:")),
                proportional: kib(&rollup, "Pss:"),
            },
        })
    }
}

/// The number behind `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// User and system time of `/proc/PID/stat` (proc_pid_stat(5), fields 14 and 15).
fn parse_stat(text: &str) -> Option<(Duration, Duration)> {
    // The name of the program stands in parentheses, and may contain any of them.
    let (_, behind) = text.rsplit_once(") ")?;
    let mut fields = behind.split(' ').skip(11);
    let hz = rustix::param::clock_ticks_per_second().max(1);
    let mut time = || {
        let ticks: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_nanos(ticks * 1_000_000_000 / hz))
    };
    Some((time()?, time()?))
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    pub user: Duration,
    pub system: Duration,
    pub io: Option<DiskBytes>,
    /// At the later one.
    pub memory: Memory,
}

impl Used {
    pub fn between(before: &Usage, after: &Usage) -> Used {
        let io = before.io.zip(after.io).map(|(before, after)| DiskBytes {
            read: after.read.saturating_sub(before.read),
            written: after.written.saturating_sub(before.written),
        });
        Used {
            user: after.user.saturating_sub(before.user),
            system: after.system.saturating_sub(before.system),
            io,
            memory: after.memory,
        }
    }

    pub fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

/// What the numbers of a run depend on, as far as the machine is concerned.
#[derive(Clone, Debug)]
pub struct Machine {
    pub kernel: String,
    pub cpu_model: String,
    pub cpus: usize,
    /// Of the last minute.
    pub load: String,
}

impl Machine {
    pub fn look() -> Machine {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|l| l.strip_prefix("model name"));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Machine {
            kernel: rustix::system::uname().release().to_string_lossy().into(),
            cpu_model: model
                .unwrap_or("unknown CPU")
                .trim_start_matches([' ', '\t', ':'])
                .to_owned(),
            cpus: crate::rt::available_cpus().map_or(0, |cpus| cpus.len()),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_program_is_called() {
        let hz = rustix::param::clock_ticks_per_second();
        let text = format!(
            "7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 {} {hz} 0 0",
            2 * hz
        );
        assert_eq!(
            parse_stat(&text),
            Some((Duration::from_secs(2), Duration::from_secs(1)))
        );
        assert_eq!(parse_stat("7 (a"), None);
        assert_eq!(parse_stat("7 (a) S 1"), None);
    }

    #[test]
    fn fields_are_found_at_the_beginning_of_lines() {
        let text =
            "rchar: 1\nread_bytes: 4096\ncancelled_write_bytes: 5\nwrite_bytes: 6\nVmHWM:\t 7 kB\n";
        assert_eq!(field(text, "read_bytes:"), Some(4096));
        assert_eq!(field(text, "write_bytes:"), Some(6));
        assert_eq!(field(text, "VmHWM:"), Some(7));
        assert_eq!(field(text, "VmRSS:"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let own = Process::new(std::process::id() as i32).unwrap();
        let usage = own.usage().unwrap();
        assert!(usage.memory.peak_resident.unwrap() > 0);
        assert!(usage.memory.anonymous.unwrap() > 0);
        assert!(!own.cpus().unwrap().is_empty());
        assert!(Process::new(0).is_err());
        assert!(Process::new(i32::MAX).is_err());
    }
}
