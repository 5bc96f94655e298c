//! What the server counts, and how it is told to Prometheus.
//!
//! Every metric stands once, in [`METRICS`]; what is served is written through that table, and a
//! test compares it with the one for operators (docs/operating.md).
//!
//! Nothing is shared to be counted: each core has its own block of [`counters::CoreCounters`],
//! which it alone writes, and which the core that is asked reads. Volumes are asked over the links.

pub mod counters;
pub mod exposition;
pub mod text;

/// How a metric behaves, in Prometheus's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives; its name ends in `_total`.
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// Labels beside `le`, in the order they are written.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(pub const $constant: Metric = Metric {
            name: $name, kind: Kind::$kind, labels: &$labels, help: $help,
        };)*
        /// All of them, in the order they are served.
        pub const METRICS: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD_INFO Gauge "ostrakon_build_info" ["version"], "Always 1; the label says what runs";
    START_TIME Gauge "ostrakon_start_time_seconds" [], "When the process started, in seconds since 1970";
    CORES Gauge "ostrakon_cores" [], "Cores that serve";
    REQUESTS Counter "ostrakon_requests_total" ["operation", "status"], "Requests answered, by operation (None: refused before it was known) and class of status";
    REQUEST_SECONDS Histogram "ostrakon_request_duration_seconds" ["operation"], "From the first byte of a head to the last byte of its answer given to the kernel";
    BROKEN Counter "ostrakon_answers_broken_total" [], "Answers that could not be sent to their end";
    AUTHENTICATION Counter "ostrakon_authentication_failures_total" ["code"], "Requests whose sender was not accepted, by S3 error code";
    RECEIVED Counter "ostrakon_received_bytes_total" [], "Bytes of HTTP received, decrypted";
    SENT Counter "ostrakon_sent_bytes_total" [], "Bytes of HTTP sent, before encryption";
    PUT_BYTES Counter "ostrakon_put_bytes_total" [], "Bytes of objects stored";
    GET_BYTES Counter "ostrakon_get_bytes_total" [], "Bytes of objects sent";
    CONNECTIONS Gauge "ostrakon_connections" [], "Connections open";
    ACCEPTED Counter "ostrakon_connections_accepted_total" [], "Connections accepted";
    REFUSED Counter "ostrakon_connections_refused_total" [], "Connections that could not be accepted, such as for want of file descriptors";
    HANDSHAKES_FAILED Counter "ostrakon_tls_handshakes_failed_total" [], "TLS handshakes that came to nothing";
    CERTIFICATE_END Gauge "ostrakon_tls_certificate_end_seconds" [], "When the TLS certificate in force expires, in seconds since 1970; absent without TLS";
    BUFFERS Gauge "ostrakon_buffer_bytes" ["core"], "Size of the core's buffer arena";
    BUFFERS_USED Gauge "ostrakon_buffer_used_bytes" ["core"], "Bytes of the arena handed out, those that wait for received bytes included";
    RUNS_REBUILT Counter "ostrakon_runs_rebuilt_total" ["core"], "Runs (some 1 MiB of an object) read with the help of parity";
    RUNS_REPAIRED Counter "ostrakon_runs_repaired_total" ["core"], "Runs whose missing or damaged shards were stored again";
    VOLUME_UP Gauge "ostrakon_volume_up" ["volume"], "1 if the volume answered this scrape; if not, it has no other figures";
    WRITABLE Gauge "ostrakon_volume_writable" ["volume"], "0 if the volume accepts no writes since one failed";
    SUSPECT Gauge "ostrakon_volume_suspect" ["volume"], "1 if durable metadata cannot be read and part of the volume is not served";
    FILES Gauge "ostrakon_volume_files" ["volume"], "Segment files";
    FILES_FREE Gauge "ostrakon_volume_files_free" ["volume"], "Segment files that may be written anew";
    FILE_BYTES Gauge "ostrakon_volume_file_bytes" ["volume"], "Length of one segment file";
    LIVE_BYTES Gauge "ostrakon_volume_live_bytes" ["volume"], "Bytes in segment files that are needed, an estimate";
    DEAD_BYTES Gauge "ostrakon_volume_dead_bytes" ["volume"], "Bytes in sealed segment files that reclaim can free, an estimate";
    COMMITS Counter "ostrakon_volume_commits_total" ["volume"], "Metadata commands made durable";
    COMMIT_BATCHES Counter "ostrakon_volume_commit_batches_total" ["volume"], "Batches that carried them; each is one flush";
    FLUSHES Counter "ostrakon_volume_flushes_total" ["volume", "head"], "Flushes of a head's batches";
    CHECKPOINTS Counter "ostrakon_volume_checkpoints_total" ["volume"], "Checkpoints of the index";
    RECLAIMED_FILES Counter "ostrakon_volume_reclaimed_files_total" ["volume"], "Segment files that reclaim freed";
    RECLAIM_COPIED Counter "ostrakon_volume_reclaim_copied_bytes_total" ["volume"], "Live bytes that reclaim copied to free them";
    CHECKSUM_FAILURES Counter "ostrakon_volume_checksum_failures_total" ["volume"], "Reads that found bytes which are not what was written";
    RECORD_CACHE_HITS Counter "ostrakon_volume_record_cache_hits_total" ["volume"], "Records of objects, small bodies included, found in memory";
    RECORD_CACHE_MISSES Counter "ostrakon_volume_record_cache_misses_total" ["volume"], "Records read from the drive instead";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are_and_occur_once() {
        let mut seen = std::collections::BTreeSet::new();
        for metric in METRICS {
            assert!(seen.insert(metric.name));
            assert!(metric.name.starts_with("ostrakon_"), "{}", metric.name);
            let counter = metric.kind == Kind::Counter;
            assert_eq!(metric.name.ends_with("_total"), counter, "{}", metric.name);
            assert!(!metric.help.contains(['\\', '\n', '|']), "{}", metric.name);
        }
    }

    /// `| name | type | labels | meaning |`, the same words in the same order.
    #[test]
    fn the_operators_page_has_every_metric_and_no_other() {
        let page = include_str!("../../docs/operating.md");
        let documented: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("| `ostrakon_"))
            .collect();
        let served: Vec<String> = METRICS
            .iter()
            .map(|m| {
                let labels: Vec<String> = m.labels.iter().map(|l| format!("`{l}`")).collect();
                let (kind, labels) = (m.kind.name(), labels.join(", "));
                format!("| `{}` | {kind} | {labels} | {} |", m.name, m.help)
            })
            .collect();
        assert!(
            documented == served,
            "the table is to read:\n{}",
            served.join("\n")
        );
    }
}
