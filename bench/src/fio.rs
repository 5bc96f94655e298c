//! fio as the peer of the log.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::Failure;

/// A pattern of writes, each followed by its own fdatasync.
#[derive(Clone, Debug)]
pub struct Pattern {
    pub name: &'static str,
    pub block_bytes: u64,
    pub jobs: u64,
    /// Each job has a file of its own of this length, written before and overwritten in turn.
    pub file_bytes: u64,
}

#[derive(Clone, Debug)]
pub struct Measured {
    /// Writes, each flushed, per second.
    pub writes_per_s: f64,
    pub bytes_per_s: f64,
    pub cpu_us_per_write: f64,
    /// p50 and p99 of the flush alone, µs.
    pub flush_us: (f64, f64),
    pub writes: u64,
}

/// fio's version, or how to get it.
pub fn version() -> Result<String, Failure> {
    match Command::new("fio").arg("--version").output() {
        Ok(out) if out.status.success() => {
            Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
        }
        Ok(out) => Err(Failure::new(format!(
            "fio --version ended with {}",
            out.status
        ))),
        Err(e) => Err(Failure::new(format!(
            "fio is not there ({e}); install it (Debian: fio) or pass --no-peer"
        ))),
    }
}

/// Writes the files of the pattern, so that fio converts no extents. Does nothing for those there.
fn prepare(directory: &Path, pattern: &Pattern) -> Result<(), Failure> {
    let piece = vec![0x5au8; 1 << 20];
    for job in 0..pattern.jobs {
        let path = directory.join(format!("{}.{job}.0", pattern.name));
        if fs::metadata(&path).is_ok_and(|m| m.len() == pattern.file_bytes) {
            continue;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&path)?;
        let mut left = pattern.file_bytes;
        while left > 0 {
            let n = left.min(piece.len() as u64);
            file.write_all(&piece[..n as usize])?;
            left -= n;
        }
        file.sync_all()?;
    }
    Ok(())
}

/// Runs the pattern for `seconds`.
pub fn run(directory: &Path, pattern: &Pattern, seconds: f64) -> Result<Measured, Failure> {
    prepare(directory, pattern)?;
    let out = Command::new("fio")
        .arg(format!("--name={}", pattern.name))
        .arg(format!("--directory={}", directory.display()))
        .arg(format!("--bs={}", pattern.block_bytes))
        .arg(format!("--numjobs={}", pattern.jobs))
        .arg(format!("--size={}", pattern.file_bytes))
        .arg(format!("--runtime={}ms", (seconds * 1e3) as u64))
        .args([
            "--rw=write",
            "--fdatasync=1",
            "--direct=1",
            "--ioengine=psync",
        ])
        .args([
            "--overwrite=1",
            "--fallocate=none",
            "--time_based",
            "--group_reporting",
        ])
        .arg("--output-format=json")
        .output()?;
    if !out.status.success() {
        return Err(Failure::new(format!(
            "fio: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        )));
    }
    // Notes may precede the document.
    let text = String::from_utf8_lossy(&out.stdout);
    let start = text
        .find('{')
        .ok_or_else(|| Failure::new("fio printed no JSON"))?;
    parse(&serde_json::from_str(&text[start..])?)
        .ok_or_else(|| Failure::new("fio's JSON lacks a field"))
}

fn parse(report: &Value) -> Option<Measured> {
    let job = report.get("jobs")?.get(0)?;
    let write = job.get("write")?;
    let writes = write.get("total_ios")?.as_u64()?;
    // Percent of the sum of all jobs' run times, which is in ms.
    let busy = job.get("usr_cpu")?.as_f64()? + job.get("sys_cpu")?.as_f64()?;
    let cpu_us = busy / 100.0 * job.get("job_runtime")?.as_f64()? * 1e3;
    let flush = job.get("sync")?.get("lat_ns")?.get("percentile");
    let percentile = |p: &str| Some(flush?.get(p)?.as_f64()? / 1e3);
    Some(Measured {
        writes_per_s: write.get("iops")?.as_f64()?,
        bytes_per_s: write.get("bw_bytes")?.as_f64()?,
        cpu_us_per_write: cpu_us / writes.max(1) as f64,
        flush_us: (
            percentile("50.000000").unwrap_or(f64::NAN),
            percentile("99.000000").unwrap_or(f64::NAN),
        ),
        writes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let report = serde_json::json!({"jobs": [{
            "usr_cpu": 1.0, "sys_cpu": 3.0, "job_runtime": 2000,
            "write": {"total_ios": 1000, "iops": 500.0, "bw_bytes": 2048000},
            "sync": {"lat_ns": {"percentile": {"50.000000": 40000, "99.000000": 90000}}},
        }]});
        let m = parse(&report).expect("complete");
        assert_eq!((m.writes, m.writes_per_s), (1000, 500.0));
        assert!((m.cpu_us_per_write - 80.0).abs() < 1e-9);
        assert_eq!(m.flush_us, (40.0, 90.0));
        assert!(parse(&serde_json::json!({"jobs": []})).is_none());
    }
}
