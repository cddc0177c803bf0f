//! `peerrelay_relay_latency_seconds`: from the counts of the data path to a histogram.

use std::time::Duration;

use prometheus::{
    Opts, Registry,
    core::{Collector, Desc},
    proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

/// Upper bounds, none for the last, and how many samples fell into each but not into one before.
type Buckets = [(Option<Duration>, u64)];

const NAME: &str = "peerrelay_relay_latency_seconds";
const HELP: &str = "Time that a datagram spends in the relay (samples).";

/// Registers the histogram of one data path.
pub(super) fn render(
    registry: &Registry,
    region: &str,
    path: &str,
    buckets: &Buckets,
    sum: Duration,
) {
    let labels = [("data_path", path), ("region", region)];
    let opts = labels
        .into_iter()
        .fold(Opts::new(NAME, HELP), |opts, (name, value)| {
            opts.const_label(name, value)
        });
    let desc = Desc::new(NAME.into(), HELP.into(), Vec::new(), opts.const_labels);
    let once = Once {
        desc: desc.expect("names are constants that are valid"),
        metric: metric(&labels, buckets, sum),
    };
    registry
        .register(Box::new(once))
        .expect("each path is registered once");
}

/// Collector of a histogram whose counts are given. The library's own histogram only takes single samples.
struct Once {
    desc: Desc,
    metric: Metric,
}

impl Collector for Once {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(NAME.into());
        family.set_help(HELP.into());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(vec![self.metric.clone()]);
        vec![family]
    }
}

fn metric(labels: &[(&str, &str)], buckets: &Buckets, sum: Duration) -> Metric {
    let mut total = 0;
    let bounded = buckets.iter().filter_map(|(bound, count)| {
        total += count;
        let bound = bound.as_ref()?;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound.as_secs_f64());
        bucket.set_cumulative_count(total);
        Some(bucket)
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(bounded.collect());
    histogram.set_sample_count(total);
    histogram.set_sample_sum(sum.as_secs_f64());
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    });
    let mut metric = Metric::default();
    metric.set_label(pairs.collect());
    metric.set_histogram(histogram);
    metric
}
