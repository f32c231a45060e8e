//! Prometheus metrics: every one declared once, in `table`, and read from plain numbers at the moment of a scrape.
//!
//! Invariant: no label carries the name of a channel, client or key, so the number of series is fixed by this program and
//! not by its users. Names are `tidegate_<subsystem>_<name>_<unit>[_total]`, seconds and bytes.
//! Deliberately not here: counting. Who does something counts it (`relay::stats`, the store, the log).

mod table;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

use crate::downstream::counts::HttpCounts;
use crate::relay::stats::Stats;
use crate::relay::time::Wall;
use crate::store::StoreStats;

/// What a scrape shows.
pub struct View<'a> {
    /// The relay's numbers.
    pub stats: &'a Stats,
    /// The store's.
    pub store: &'a StoreStats,
    /// What the listeners count.
    pub http: &'a HttpCounts,
    /// Lines that the log dropped because nobody read it (`log::Log::dropped`).
    pub log_dropped: u64,
    /// The time of the scrape.
    pub now: Wall,
}

/// A metric: its name, what people read about it, and how it is read from a [`View`].
struct Declared {
    name: &'static str,
    help: &'static str,
    read: Read,
}

/// Takes one series: the label's value and the number.
type Put<'a, T> = &'a mut dyn FnMut(&str, T);

/// How a metric is read.
enum Read {
    Counter(fn(&View<'_>) -> u64),
    Gauge(fn(&View<'_>) -> f64),
    /// Absent while there is nothing to show.
    Maybe(fn(&View<'_>) -> Option<f64>),
    /// One series per value of one label.
    Counters(&'static str, fn(&View<'_>, Put<'_, u64>)),
    Gauges(&'static str, fn(&View<'_>, Put<'_, f64>)),
    Histogram(fn(&View<'_>) -> Shape),
}

/// A histogram as Prometheus counts it.
struct Shape {
    /// `(upper bound in seconds, how many at or below)`, rising.
    below: Vec<(f64, u64)>,
    count: u64,
    sum: f64,
}

impl From<&crate::relay::stats::Histogram> for Shape {
    fn from(histogram: &crate::relay::stats::Histogram) -> Self {
        Shape { below: histogram.cumulative().collect(), count: histogram.count(), sum: histogram.sum_seconds() }
    }
}

/// The registry of this process: its own numbers (CPU, memory, descriptors) and what happens outside the relay.
pub struct Metrics {
    registry: Registry,
    reloads: IntCounterVec,
    last_reload: IntGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry of its own; nothing global.
    pub fn new() -> Self {
        let registry = Registry::new();
        let reloads = Opts::new("tidegate_config_reloads_total", "Reloads of the configuration, by result.");
        // Constant names and labels are valid, and each name is registered once.
        let reloads = IntCounterVec::new(reloads, &["result"]).expect("a valid name");
        let last_reload = Opts::new("tidegate_config_last_reload_successful", "1 unless the last reload was refused.");
        let last_reload = IntGauge::with_opts(last_reload).expect("a valid name");
        last_reload.set(1);
        for result in ["applied", "refused"] {
            reloads.with_label_values(&[result]).inc_by(0);
        }
        let collectors: [Box<dyn Collector>; 3] = [
            Box::new(reloads.clone()),
            Box::new(last_reload.clone()),
            Box::new(prometheus::process_collector::ProcessCollector::for_self()),
        ];
        for collector in collectors {
            // Names are distinct, so this cannot fail; a test renders them all.
            registry.register(collector).expect("distinct names");
        }
        Metrics { registry, reloads, last_reload }
    }

    /// A reload was applied or refused.
    pub fn reloaded(&self, applied: bool) {
        self.reloads.with_label_values(&[if applied { "applied" } else { "refused" }]).inc();
        self.last_reload.set(i64::from(applied));
    }

    /// The text exposition format, version 0.0.4.
    pub fn render(&self, view: &View<'_>) -> String {
        let mut families = self.registry.gather();
        families
            .extend(table::METRICS.iter().map(|declared| declared.family(view)).filter(|f| !f.get_metric().is_empty()));
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut out = Vec::new();
        // Writing to memory cannot fail, and no family is empty or nameless.
        TextEncoder::new().encode(&families, &mut out).expect("a valid exposition");
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Every name that a scrape may show, in alphabetical order: for alert rules and documents that name them.
    pub fn names(&self) -> Vec<String> {
        let own = [Collector::desc(&self.reloads), Collector::desc(&self.last_reload)].into_iter().flatten();
        let own = own.map(|desc: &Desc| desc.fq_name.clone());
        let mut names: Vec<String> =
            table::METRICS.iter().map(|declared| declared.name.to_owned()).chain(own).collect();
        names.sort();
        names
    }
}

impl Declared {
    fn family(&self, view: &View<'_>) -> MetricFamily {
        let mut series = Vec::new();
        let kind = match self.read {
            Read::Counter(read) => {
                series.push(counter(read(view)));
                MetricType::COUNTER
            }
            Read::Gauge(read) => {
                series.push(gauge(read(view)));
                MetricType::GAUGE
            }
            Read::Maybe(read) => {
                series.extend(read(view).map(gauge));
                MetricType::GAUGE
            }
            Read::Counters(label, read) => {
                read(view, &mut |value, count| series.push(labelled(counter(count), label, value)));
                MetricType::COUNTER
            }
            Read::Gauges(label, read) => {
                read(view, &mut |value, level| series.push(labelled(gauge(level), label, value)));
                MetricType::GAUGE
            }
            Read::Histogram(read) => {
                series.push(histogram(read(view)));
                MetricType::HISTOGRAM
            }
        };
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(kind);
        family.set_metric(series);
        family
    }
}

fn counter(count: u64) -> Metric {
    let mut value = Counter::default();
    value.set_value(count as f64);
    let mut metric = Metric::default();
    metric.set_counter(value);
    metric
}

fn gauge(level: f64) -> Metric {
    let mut value = Gauge::default();
    value.set_value(level);
    Metric::from_gauge(value)
}

fn labelled(mut metric: Metric, name: &str, value: &str) -> Metric {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    metric.set_label(vec![pair]);
    metric
}

fn histogram(shape: Shape) -> Metric {
    let bucket = |(bound, below): &(f64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(*below);
        bucket
    };
    let mut value = Histogram::default();
    value.set_bucket(shape.below.iter().map(bucket).collect());
    value.set_sample_count(shape.count);
    value.set_sample_sum(shape.sum);
    let mut metric = Metric::default();
    metric.set_histogram(value);
    metric
}

#[cfg(test)]
mod tests;
