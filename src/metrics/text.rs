//! Prometheus's text format, version 0.0.4.

use super::{Kind, Metric};
use std::fmt::Write;

/// Of what [`Text::finish`] gives.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page under construction. Metrics come in turn, each with all its samples.
#[derive(Default)]
pub struct Text {
    page: String,
    current: Option<Metric>,
}

impl Text {
    /// One value of a counter or a gauge; `labels` are the values of the metric's labels.
    pub fn sample(&mut self, metric: &Metric, labels: &[&str], value: impl Into<f64>) {
        assert_ne!(metric.kind, Kind::Histogram);
        self.begin(metric);
        self.line(metric, "", labels, None, value.into());
    }

    /// `buckets`: upper bounds and how many samples were in each, not summed up; the last has no
    /// bound.
    pub fn histogram(
        &mut self,
        metric: &Metric,
        labels: &[&str],
        buckets: &[(f64, u64)],
        sum: f64,
    ) {
        assert_eq!(metric.kind, Kind::Histogram);
        self.begin(metric);
        let mut count = 0;
        for (bound, samples) in buckets {
            count += samples;
            self.line(metric, "_bucket", labels, Some(*bound), count as f64);
        }
        self.line(metric, "_sum", labels, None, sum);
        self.line(metric, "_count", labels, None, count as f64);
    }

    fn begin(&mut self, metric: &Metric) {
        if self
            .current
            .is_none_or(|current| current.name != metric.name)
        {
            let (name, kind) = (metric.name, metric.kind.name());
            let _ = write!(
                self.page,
                "# HELP {name} {}\n# TYPE {name} {kind}\n",
                metric.help
            );
            self.current = Some(*metric);
        }
    }

    fn line(
        &mut self,
        metric: &Metric,
        suffix: &str,
        values: &[&str],
        bound: Option<f64>,
        value: f64,
    ) {
        assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        let _ = write!(self.page, "{}{suffix}", metric.name);
        let mut separator = '{';
        for (label, value) in metric.labels.iter().zip(values) {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.page, "{separator}{label}=\"{value}\"");
            separator = ',';
        }
        if let Some(bound) = bound {
            let _ = match bound.is_finite() {
                true => write!(self.page, "{separator}le=\"{bound}\""),
                false => write!(self.page, "{separator}le=\"+Inf\""),
            };
            separator = ',';
        }
        let end = if separator == ',' { "}" } else { "" };
        let _ = writeln!(self.page, "{end} {value}");
    }

    pub fn finish(self) -> String {
        self.page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_that_of_the_documentation() {
        const HISTOGRAM: Metric = Metric {
            name: "h_seconds",
            kind: Kind::Histogram,
            labels: &["operation"],
            help: "A histogram",
        };
        const PLAIN: Metric = Metric {
            name: "g",
            kind: Kind::Gauge,
            labels: &[],
            help: "A gauge",
        };
        const LABELLED: Metric = Metric {
            name: "c_total",
            kind: Kind::Counter,
            labels: &["a", "b"],
            help: "A counter",
        };
        let mut text = Text::default();
        text.sample(&PLAIN, &[], 1.5);
        text.sample(&LABELLED, &["x", "1"], 3u32);
        text.sample(&LABELLED, &["\"\\\n", "2"], 4e15);
        let buckets = [(0.001, 2), (0.25, 0), (f64::INFINITY, 1)];
        text.histogram(&HISTOGRAM, &["GetObject"], &buckets, 7.25);
        assert_eq!(
            text.finish(),
            "# HELP g A gauge\n# TYPE g gauge\ng 1.5\n\
             # HELP c_total A counter\n# TYPE c_total counter\n\
             c_total{a=\"x\",b=\"1\"} 3\nc_total{a=\"\\\"\\\\\\n\",b=\"2\"} 4000000000000000\n\
             # HELP h_seconds A histogram\n# TYPE h_seconds histogram\n\
             h_seconds_bucket{operation=\"GetObject\",le=\"0.001\"} 2\n\
             h_seconds_bucket{operation=\"GetObject\",le=\"0.25\"} 2\n\
             h_seconds_bucket{operation=\"GetObject\",le=\"+Inf\"} 3\n\
             h_seconds_sum{operation=\"GetObject\"} 7.25\n\
             h_seconds_count{operation=\"GetObject\"} 3\n"
        );
    }
}
