//! The CPUs this process may use.

#![allow(unsafe_code)]

use std::io;
use std::path::Path;

/// The CPUs of the process's affinity mask, in order, and no more of them than the cgroup's quota
/// pays for (rounded up; at least one).
pub fn available_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: an empty set is all zeroes.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set has the size that is passed.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut cpus: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
        // SAFETY: the index is within the set.
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect();
    if let Some(quota) = cgroup_quota(Path::new("/sys/fs/cgroup"), Path::new("/proc/self/cgroup")) {
        cpus.truncate(quota.max(1));
    }
    Ok(cpus)
}

/// Whole CPUs of the tightest `cpu.max` (cgroup v2) from our group up, or of `cpu.cfs_quota_us`
/// (v1); `None` without a limit.
fn cgroup_quota(root: &Path, own: &Path) -> Option<usize> {
    let text = std::fs::read_to_string(own).unwrap_or_default();
    let mut least: Option<usize> = None;
    let mut take = |cpus: Option<usize>| {
        if let Some(cpus) = cpus {
            least = Some(least.map_or(cpus, |l| l.min(cpus)));
        }
    };
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let relative = path.trim_start_matches('/');
        // Inside a container the group's own directory is often mounted as the root.
        let mut at = Some(Path::new(relative));
        while let Some(group) = at {
            if controllers.is_empty() {
                let file = root.join(group).join("cpu.max");
                take(
                    std::fs::read_to_string(file)
                        .ok()
                        .and_then(|t| parse_cpu_max(&t)),
                );
            } else if controllers.split(',').any(|c| c == "cpu") {
                let dir = root.join("cpu").join(group);
                let read = |name| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
                let (quota, period) = (read("cpu.cfs_quota_us"), read("cpu.cfs_period_us"));
                take(parse_cpu_max(&format!(
                    "{} {}",
                    quota.trim(),
                    period.trim()
                )));
            }
            at = group.parent();
        }
    }
    least
}

/// `"150000 100000"` is one and a half CPUs, so 2; `"max 100000"` and `"-1 100000"` no limit.
fn parse_cpu_max(text: &str) -> Option<usize> {
    let mut words = text.split_whitespace();
    let quota: u64 = words.next()?.parse().ok()?;
    let period: u64 = words.next()?.parse().ok().filter(|&p| p > 0)?;
    usize::try_from(quota.div_ceil(period)).ok()
}

/// Pins the calling thread to one CPU.
pub(in crate::rt) fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: an empty set is all zeroes; the index is within it.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set has the size that is passed; 0 is the calling thread.
    if unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_rounds_up_and_max_is_none() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(2));
        assert_eq!(parse_cpu_max("100000 100000"), Some(1));
        assert_eq!(parse_cpu_max("max 100000"), None);
        assert_eq!(parse_cpu_max("-1 100000"), None);
        assert_eq!(parse_cpu_max("1 0"), None);
        assert_eq!(parse_cpu_max(""), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/cpu.max"), "200000 100000").unwrap();
        std::fs::write(dir.path().join("a/b/cpu.max"), "max 100000").unwrap();
        let own = dir.path().join("own");
        std::fs::write(&own, "0::/a/b\n").unwrap();
        assert_eq!(cgroup_quota(dir.path(), &own), Some(2));
        std::fs::write(&own, "0::/elsewhere\n").unwrap();
        assert_eq!(cgroup_quota(dir.path(), &own), None);
    }

    #[test]
    fn there_is_a_cpu() {
        assert!(!available_cpus().unwrap().is_empty());
    }
}
