//! The results of a run: a table for people, and JSON for everything else (docs/bench.md has its
//! shape).

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::load::Load;
use super::measure::{Measured, Percentiles, Record};
use super::run::{Ceiling, Measurement, Plan};
use super::server_usage::{Machine, Used};
use super::workload::Workload;

/// Version of the JSON's shape. It grows when a field changes its meaning or goes; new fields may
/// come without.
pub const JSON_VERSION: u32 = 1;

/// A null server this busy may be what ends a ceiling, not the generator.
const NULL_BUSY: f64 = 0.9;

/// What was run, for a report.
pub struct Report<'a> {
    pub plan: &'a Plan,
    pub machine: &'a Machine,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    pub measurements: &'a [Measurement],
    /// What went wrong without spoiling the result.
    pub notes: &'a [String],
}

fn per(count: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| count / of)
}

fn cpu_us_per_request(cpu: Duration, measured: &Measured) -> Option<f64> {
    per(cpu.as_secs_f64() * 1e6, measured.requests() as f64)
}

/// `1.50 ms`, in the unit that suits.
fn time(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} us"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// `4 KiB`, exact if it divides, else with a decimal.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = count as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 {
        format!("{value} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// `12,345`
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn cpus(cpus: &[usize]) -> String {
    let numbers: Vec<String> = cpus.iter().map(usize::to_string).collect();
    numbers.join(",")
}

fn counted_cores(count: usize) -> String {
    match count {
        1 => "1 core".to_owned(),
        some => format!("{some} cores"),
    }
}

/// How the bodies of the plan are protected.
fn payload(load: &Load) -> &'static str {
    match (&load.credentials, load.signed_payload) {
        (None, _) => "anonymous",
        (Some(_), true) => "signed",
        (Some(_), false) => "unsigned",
    }
}

// ---- for people -----------------------------------------------------------------------------------

const COLUMNS: [&str; 10] = [
    "operation",
    "size",
    "ops/s",
    "MB/s",
    "p50",
    "p90",
    "p99",
    "p99.9",
    "max",
    "errors",
];

/// One row of the table.
fn row(name: &str, size: u64, record: &Record, elapsed: Duration) -> Vec<String> {
    let seconds = elapsed.as_secs_f64();
    let rate = |count: f64| per(count, seconds);
    let shown = |value: Option<f64>, digits: usize| {
        value.map_or("-".to_owned(), |value| match digits {
            0 => grouped(value),
            _ => format!("{value:.digits$}"),
        })
    };
    let found = Percentiles::of(&record.latency_ns);
    let latency =
        |pick: fn(&Percentiles) -> f64| found.as_ref().map_or("-".to_owned(), |p| time(pick(p)));
    vec![
        name.to_owned(),
        bytes(size),
        shown(rate(record.done as f64), 0),
        match record.bytes {
            0 => "-".to_owned(),
            count => shown(rate(count as f64 / 1e6), 1),
        },
        latency(|p| p.p50_us),
        latency(|p| p.p90_us),
        latency(|p| p.p99_us),
        latency(|p| p.p999_us),
        latency(|p| p.max_us),
        grouped(record.errors as f64),
    ]
}

fn table(out: &mut String, rows: &[Vec<String>]) {
    let header: Vec<String> = COLUMNS.iter().map(|&name| name.to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&header).chain(rows).collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.len()).max().unwrap_or(0)
    };
    for line in &lines {
        for (column, cell) in line.iter().enumerate() {
            let width = width(column);
            // Writing to a string cannot fail, here and below.
            let _ = match column {
                0 => write!(out, "{cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        out.push('\n');
    }
}

impl Report<'_> {
    pub fn text(&self) -> String {
        let Plan {
            load,
            connections,
            rate,
            ..
        } = self.plan;
        let mut out = String::new();
        let cores = match &self.plan.cpus[..] {
            [] => "not pinned".to_owned(),
            list => format!("on CPUs {}", cpus(list)),
        };
        let _ = writeln!(
            out,
            "{} http://{}/{}: {connections} connections on {} {cores}, {}, {} s after {} s of \
             warm-up, payload {}, seed {}",
            self.plan.workload.name(),
            load.host,
            load.bucket,
            counted_cores(self.plan.cores),
            match rate {
                None => "closed loop".to_owned(),
                Some(rate) => format!("open loop at {rate} operations/s"),
            },
            self.plan.duration.as_secs_f64(),
            self.plan.warm_up.as_secs_f64(),
            payload(load),
            load.seed,
        );
        if let Workload::Mixed(mix) = self.plan.workload {
            let _ = writeln!(out, "mix: {mix}");
        }
        let _ = writeln!(
            out,
            "machine: {} CPUs, {}, Linux {}, load {} when it began",
            self.machine.cpus, self.machine.cpu_model, self.machine.kernel, self.machine.load
        );
        let _ = writeln!(
            out,
            "durability of the server: {}\n",
            self.plan
                .note
                .as_deref()
                .unwrap_or("unknown (say it with --note)")
        );
        let mut rows = Vec::new();
        for one in self.measurements {
            let kinds: Vec<_> = one.measured.kinds().collect();
            for (kind, record) in &kinds {
                rows.push(row(kind.name(), one.size, record, one.elapsed));
            }
            if kinds.iter().filter(|(kind, _)| kind.is_operation()).count() > 1 {
                let all = one.measured.operations();
                rows.push(row("all", one.size, &all, one.elapsed));
            }
        }
        table(&mut out, &rows);
        for one in self.measurements {
            self.details(&mut out, one);
        }
        for note in self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }

    fn details(&self, out: &mut String, one: &Measurement) {
        let seconds = one.elapsed.as_secs_f64();
        let requests = one.measured.requests();
        let _ = writeln!(
            out,
            "\n{}: {} requests in {seconds:.2} s, {} requests/s",
            bytes(one.size),
            grouped(requests as f64),
            grouped(per(requests as f64, seconds).unwrap_or(0.0))
        );
        let all = one.measured.operations();
        if all.keys > 0 {
            let rate = per(all.keys as f64, seconds).unwrap_or(0.0);
            let _ = writeln!(out, "  keys       {} keys/s", grouped(rate));
        }
        if one.exhausted {
            let _ = writeln!(
                out,
                "  keys       used up before the time was; more --objects measure longer"
            );
        }
        match one.measured.error_count() {
            0 => out.push_str("  errors     none\n"),
            _ => {
                for (name, count) in one.measured.errors() {
                    let _ = writeln!(out, "  ERRORS     {} x {name}", grouped(*count as f64));
                }
            }
        }
        if one.measured.unserved > 0 {
            let _ = writeln!(
                out,
                "  UNSERVED   {} arrivals found no free connection until the end; the percentiles \
                 count them with the time they had waited",
                grouped(one.measured.unserved as f64)
            );
        }
        if one.measured.reconnects > 0 {
            let _ = writeln!(out, "  reconnects {}", one.measured.reconnects);
        }
        if let Some(used) = &one.server {
            server_lines(out, one, used);
        } else if self.plan.pid.is_some() {
            out.push_str("  server     gone, or not to be read\n");
        }
        let _ = writeln!(
            out,
            "  generator  {} CPU-us/request, {:.0} % of {}",
            one_decimal(cpu_us_per_request(one.cpu, &one.measured)),
            100.0 * share_of(one.cpu, one.elapsed, self.plan.cores),
            counted_cores(self.plan.cores)
        );
        if let Some(ceiling) = &one.ceiling {
            ceiling_lines(out, ceiling);
        }
    }

    // ---- for programs -----------------------------------------------------------------------------

    pub fn json(&self) -> Value {
        let plan = self.plan;
        let load = &plan.load;
        let mix = match plan.workload {
            Workload::Mixed(mix) => Some(mix.to_string()),
            _ => None,
        };
        json!({
            "format": "ostrakon-bench",
            "version": JSON_VERSION,
            "generator": { "version": env!("CARGO_PKG_VERSION") },
            "started_unix_ms": self.started_ms,
            "machine": {
                "kernel": self.machine.kernel,
                "cpu_model": self.machine.cpu_model,
                "cpus": self.machine.cpus,
                "load_1m": self.machine.load.parse::<f64>().ok(),
            },
            "note": plan.note,
            "workload": plan.workload.name(),
            "mix": mix,
            "url": format!("http://{}", load.host),
            "bucket": load.bucket,
            "objects": load.objects,
            "part_size_bytes": matches!(plan.workload, Workload::Multipart).then_some(load.part_size),
            "connections": plan.connections,
            "cores": plan.cores,
            "cpus": plan.cpus,
            "loop": if plan.rate.is_some() { "open" } else { "closed" },
            "rate_per_second": plan.rate,
            "payload": payload(load),
            "checksum": load.crc32c.then_some("crc32c"),
            "seed": load.seed,
            "verify": load.verify,
            "warm_up_seconds": plan.warm_up.as_secs_f64(),
            "duration_seconds": plan.duration.as_secs_f64(),
            "notes": self.notes,
            "measurements": self.measurements.iter().map(|one| measurement(plan, one)).collect::<Vec<_>>(),
        })
    }
}

fn one_decimal(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.1}"))
}

/// CPU time as a share of what `cores` have in `elapsed`.
fn share_of(cpu: Duration, elapsed: Duration, cores: usize) -> f64 {
    per(cpu.as_secs_f64(), elapsed.as_secs_f64() * cores as f64).unwrap_or(0.0)
}

fn server_lines(out: &mut String, one: &Measurement, used: &Used) {
    let requests = one.measured.requests();
    let us = |time: Duration| one_decimal(per(time.as_secs_f64() * 1e6, requests as f64));
    let _ = writeln!(
        out,
        "  server     {} CPU-us/request ({} user, {} system), {:.0} % of a CPU",
        us(used.cpu()),
        us(used.user),
        us(used.system),
        100.0 * share_of(used.cpu(), one.elapsed, 1)
    );
    let size = |count: Option<u64>| count.map_or("unknown".to_owned(), bytes);
    let _ = writeln!(
        out,
        "  memory     {} at most resident, {} resident, {} anonymous at the end",
        size(used.memory.peak_resident),
        size(used.memory.resident),
        size(used.memory.anonymous)
    );
    let Some(io) = used.io else {
        out.push_str("  disk       unknown: /proc/PID/io may be read by the server's user alone\n");
        return;
    };
    let object_bytes = one.measured.operations().bytes;
    let _ = write!(out, "  disk      ");
    for (name, count) in [("read", io.read), ("written", io.written)] {
        let _ = write!(
            out,
            " {name} {} B/request",
            grouped(per(count as f64, requests as f64).unwrap_or(0.0))
        );
        if let Some(share) = per(count as f64, object_bytes as f64) {
            let _ = write!(out, " ({share:.2} per object byte)");
        }
        if name == "read" {
            out.push(',');
        }
    }
    out.push('\n');
}

fn null_share(ceiling: &Ceiling) -> f64 {
    let us = per(ceiling.null_cpu.as_secs_f64(), ceiling.null_requests as f64).unwrap_or(0.0);
    let rate = per(
        ceiling.measured.requests() as f64,
        ceiling.elapsed.as_secs_f64(),
    );
    us * rate.unwrap_or(0.0)
}

fn ceiling_lines(out: &mut String, ceiling: &Ceiling) {
    let rate = per(
        ceiling.measured.requests() as f64,
        ceiling.elapsed.as_secs_f64(),
    );
    let place = match (ceiling.null_cpu_number, ceiling.shared) {
        (Some(cpu), true) => format!(" on CPU {cpu}, which the generator had too"),
        (Some(cpu), false) => format!(" on CPU {cpu}"),
        (None, _) => String::new(),
    };
    let _ = writeln!(
        out,
        "  ceiling    {}{} requests/s against a null server{place} ({:.0} % of it); generator {} \
         CPU-us/request",
        if null_share(ceiling) > NULL_BUSY {
            "at least "
        } else {
            ""
        },
        grouped(rate.unwrap_or(0.0)),
        100.0 * null_share(ceiling),
        one_decimal(cpu_us_per_request(ceiling.cpu, &ceiling.measured)),
    );
    for (name, count) in ceiling.measured.errors() {
        let _ = writeln!(out, "  ceiling    ERRORS {count} x {name}");
    }
}

fn latency(record: &Record) -> Value {
    Percentiles::of(&record.latency_ns).map_or(Value::Null, |found| {
        json!({
            "count": found.count,
            "min": found.min_us,
            "mean": found.mean_us,
            "p50": found.p50_us,
            "p90": found.p90_us,
            "p99": found.p99_us,
            "p99_9": found.p999_us,
            "max": found.max_us,
        })
    })
}

fn operation(name: &str, record: &Record, elapsed: Duration) -> Value {
    let seconds = elapsed.as_secs_f64();
    json!({
        "name": name,
        "count": record.done,
        "per_second": per(record.done as f64, seconds),
        "object_bytes": record.bytes,
        "object_bytes_per_second": per(record.bytes as f64, seconds),
        "keys": record.keys,
        "keys_per_second": per(record.keys as f64, seconds),
        "errors": record.errors,
        "latency_us": latency(record),
    })
}

fn measurement(plan: &Plan, one: &Measurement) -> Value {
    let measured = &one.measured;
    let seconds = one.elapsed.as_secs_f64();
    let requests = measured.requests();
    let all = measured.operations();
    let errors: Vec<Value> = measured
        .errors()
        .iter()
        .map(|(name, count)| json!({ "error": name, "count": count }))
        .collect();
    let series = measured.seconds.iter().map(|second| {
        json!({
            "operations": second.operations,
            "object_bytes": second.bytes,
            "errors": second.errors,
        })
    });
    json!({
        "size_bytes": one.size,
        "elapsed_seconds": seconds,
        "keys_used_up": one.exhausted,
        "requests": { "count": requests, "per_second": per(requests as f64, seconds) },
        "all": operation("all", &all, one.elapsed),
        "operations": measured
            .kinds()
            .map(|(kind, record)| operation(kind.name(), record, one.elapsed))
            .collect::<Vec<_>>(),
        "seconds": series.collect::<Vec<_>>(),
        "errors": { "count": measured.error_count(), "by_kind": errors },
        "unserved": measured.unserved,
        "reconnects": measured.reconnects,
        "server": one.server.as_ref().map(|used| server(plan, one, used)),
        "generator": generator(measured, one.cpu, one.elapsed, plan.cores),
        "ceiling": one.ceiling.as_ref().map(|ceiling| json!({
            "requests": {
                "count": ceiling.measured.requests(),
                "per_second": per(
                    ceiling.measured.requests() as f64,
                    ceiling.elapsed.as_secs_f64(),
                ),
            },
            "latency_us": latency(&ceiling.measured.operations()),
            "errors": ceiling.measured.error_count(),
            "generator": generator(&ceiling.measured, ceiling.cpu, ceiling.elapsed, plan.cores),
            "null_server": {
                "cpu": ceiling.null_cpu_number,
                "cpu_shared_with_generator": ceiling.shared,
                "cpu_us_per_request": per(
                    ceiling.null_cpu.as_secs_f64() * 1e6,
                    ceiling.null_requests as f64,
                ),
                "utilisation": null_share(ceiling),
            },
        })),
    })
}

fn generator(measured: &Measured, cpu: Duration, elapsed: Duration, cores: usize) -> Value {
    json!({
        "cpu_seconds": cpu.as_secs_f64(),
        "cpu_us_per_request": cpu_us_per_request(cpu, measured),
        "utilisation": share_of(cpu, elapsed, cores),
    })
}

fn server(plan: &Plan, one: &Measurement, used: &Used) -> Value {
    let requests = one.measured.requests() as f64;
    let object_bytes = one.measured.operations().bytes as f64;
    json!({
        "pid": plan.pid,
        "cpu_seconds": used.cpu().as_secs_f64(),
        "user_seconds": used.user.as_secs_f64(),
        "system_seconds": used.system.as_secs_f64(),
        "cpu_us_per_request": per(used.cpu().as_secs_f64() * 1e6, requests),
        "memory": {
            "peak_resident_bytes": used.memory.peak_resident,
            "resident_bytes": used.memory.resident,
            "anonymous_bytes": used.memory.anonymous,
            "proportional_bytes": used.memory.proportional,
        },
        "disk": used.io.map(|io| json!({
            "read_bytes": io.read,
            "written_bytes": io.written,
            "read_bytes_per_request": per(io.read as f64, requests),
            "written_bytes_per_request": per(io.written as f64, requests),
            "read_bytes_per_object_byte": per(io.read as f64, object_bytes),
            "written_bytes_per_object_byte": per(io.written as f64, object_bytes),
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_for_people() {
        assert_eq!(grouped(1234567.4), "1,234,567");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(bytes(1500), "1.5 KiB");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(time(12.3), "12 us");
        assert_eq!(time(1500.0), "1.50 ms");
        assert_eq!(time(2_500_000.0), "2.50 s");
    }
}
