//! The page that Prometheus scrapes: the counters of all cores, summed up, and what the volumes say.

use super::counters::{CLASSES, CoreCounters, Count, DURATION_BOUNDS};
use super::text::Text;
use super::*;
use crate::link::{Link, VolumeStatus};
use crate::tls;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where the figures come from.
#[derive(Clone)]
pub struct Sources {
    pub cores: Arc<[CoreCounters]>,
    pub tls: Option<Arc<tls::Current>>,
    pub started_ms: u64,
}

/// The page.
pub async fn page(sources: &Sources, link: &Link) -> String {
    let volumes = link.statuses().await;
    let mut text = Text::default();
    write_process(&mut text, sources);
    write_requests(&mut text, sources);
    write_volumes(&mut text, &volumes);
    text.finish()
}

/// Counts up to 2⁵³ are exact, which is 8 PiB.
fn number(count: u64) -> f64 {
    count as f64
}

fn write_process(text: &mut Text, sources: &Sources) {
    text.sample(&BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
    text.sample(&START_TIME, &[], number(sources.started_ms) / 1000.0);
    text.sample(&CORES, &[], sources.cores.len() as f64);
}

fn write_requests(text: &mut Text, sources: &Sources) {
    #[derive(Default)]
    struct Operation {
        by_class: [u64; CLASSES.len()],
        by_duration: [u64; DURATION_BOUNDS.len() + 1],
        duration_ns: u64,
    }
    let mut operations: BTreeMap<&str, Operation> = BTreeMap::new();
    let mut failures: BTreeMap<&str, u64> = BTreeMap::new();
    for core in sources.cores.iter() {
        for (name, counts) in core.operations.iter() {
            let sum = operations.entry(name).or_default();
            for (sum, count) in sum.by_class.iter_mut().zip(&counts.by_class) {
                *sum += count.get();
            }
            for (sum, count) in sum.by_duration.iter_mut().zip(&counts.by_duration) {
                *sum += count.get();
            }
            sum.duration_ns += counts.duration_ns.get();
        }
        for (code, count) in core.authentication_failures.iter() {
            *failures.entry(code).or_default() += count.get();
        }
    }
    for (name, operation) in &operations {
        for (class, count) in CLASSES.iter().zip(operation.by_class) {
            text.sample(&REQUESTS, &[name, class], number(count));
        }
    }
    for (name, operation) in &operations {
        let bounds = DURATION_BOUNDS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(operation.by_duration).collect();
        let sum = number(operation.duration_ns) / 1e9;
        text.histogram(&REQUEST_SECONDS, &[name], &buckets, sum);
    }
    let sum = |which: fn(&CoreCounters) -> &Count| {
        number(sources.cores.iter().map(|core| which(core).get()).sum())
    };
    text.sample(&BROKEN, &[], sum(|core| &core.answers_broken));
    for (code, count) in &failures {
        text.sample(&AUTHENTICATION, &[code], number(*count));
    }
    text.sample(&RECEIVED, &[], sum(|core| &core.received_bytes));
    text.sample(&SENT, &[], sum(|core| &core.sent_bytes));
    text.sample(&PUT_BYTES, &[], sum(|core| &core.put_bytes));
    text.sample(&GET_BYTES, &[], sum(|core| &core.get_bytes));
    text.sample(&CONNECTIONS, &[], sum(|core| &core.connections));
    text.sample(&ACCEPTED, &[], sum(|core| &core.connections_accepted));
    text.sample(&REFUSED, &[], sum(|core| &core.connections_refused));
    text.sample(
        &HANDSHAKES_FAILED,
        &[],
        sum(|core| &core.tls_handshakes_failed),
    );
    if let Some(end) = sources.tls.as_ref().and_then(|tls| tls.valid_to()) {
        text.sample(&CERTIFICATE_END, &[], end as f64);
    }
}

fn write_volumes(text: &mut Text, volumes: &[(u16, Option<VolumeStatus>)]) {
    // Volumes tell of the core that owns them.
    let cores: BTreeMap<String, &VolumeStatus> = volumes
        .iter()
        .filter_map(|(_, status)| status.as_ref())
        .map(|status| (status.core.0.to_string(), status))
        .collect();
    for (core, status) in &cores {
        text.sample(&BUFFERS, &[core], status.buffer_bytes.1 as f64);
    }
    for (core, status) in &cores {
        text.sample(&BUFFERS_USED, &[core], status.buffer_bytes.0 as f64);
    }
    for (core, status) in &cores {
        text.sample(&RUNS_REBUILT, &[core], number(status.runs_rebuilt));
    }
    for (core, status) in &cores {
        text.sample(&RUNS_REPAIRED, &[core], number(status.runs_repaired));
    }
    for (volume, status) in volumes {
        let up = f64::from(u8::from(status.is_some()));
        text.sample(&VOLUME_UP, &[&volume.to_string()], up);
    }
    type Value = fn(&VolumeStatus) -> u64;
    let before_flushes: [(&Metric, Value); 9] = [
        (&WRITABLE, |s| s.writable.is_ok().into()),
        (&SUSPECT, |s| s.suspect.into()),
        (&FILES, |s| s.files as u64),
        (&FILES_FREE, |s| s.files_free as u64),
        (&FILE_BYTES, |s| s.file_bytes),
        (&LIVE_BYTES, |s| s.live_bytes),
        (&DEAD_BYTES, |s| s.dead_bytes),
        (&COMMITS, |s| s.counters.commits),
        (&COMMIT_BATCHES, |s| s.counters.commit_batches),
    ];
    let behind_flushes: [(&Metric, Value); 6] = [
        (&CHECKPOINTS, |s| s.counters.checkpoints),
        (&RECLAIMED_FILES, |s| s.counters.files_freed),
        (&RECLAIM_COPIED, |s| s.counters.bytes_relocated),
        (&CHECKSUM_FAILURES, |s| s.counters.checksum_failures),
        (&RECORD_CACHE_HITS, |s| s.counters.record_cache_hits),
        (&RECORD_CACHE_MISSES, |s| s.counters.record_cache_misses),
    ];
    let known: Vec<(String, &VolumeStatus)> = volumes
        .iter()
        .filter_map(|(volume, status)| Some((volume.to_string(), status.as_ref()?)))
        .collect();
    let each = |text: &mut Text, metrics: &[(&Metric, Value)]| {
        for (metric, value) in metrics {
            for (volume, status) in &known {
                text.sample(metric, &[volume], number(value(status)));
            }
        }
    };
    each(text, &before_flushes);
    for (volume, status) in &known {
        for (head, flushes) in ["commit", "bulk", "relocate"].iter().zip(status.flushes) {
            text.sample(&FLUSHES, &[volume, head], number(flushes));
        }
    }
    each(text, &behind_flushes);
}
