//! Sampled time that datagrams stay in the relay, from the kernel's receipt to the end of the send.

use std::time::Duration;

/// Upper bounds of the buckets of [`Latency`].
pub const BOUNDS: [Duration; 13] = [
    Duration::from_micros(5),
    Duration::from_micros(10),
    Duration::from_micros(20),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(200),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
];

/// A histogram of times, which is not cumulative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// Number of samples up to each of [`BOUNDS`] and above the one before.
    pub counts: [u64; BOUNDS.len()],
    /// Number of samples above the last bound.
    pub above: u64,
    /// Sum of all samples.
    pub sum: Duration,
}

impl Latency {
    /// Counts one sample.
    pub fn record(&mut self, time: Duration) {
        match BOUNDS.iter().position(|bound| time <= *bound) {
            Some(bucket) => self.counts[bucket] += 1,
            None => self.above += 1,
        }
        self.sum += time;
    }

    /// Adds the samples of another histogram.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.counts.iter_mut().zip(other.counts) {
            *sum += more;
        }
        self.above += other.above;
        self.sum += other.sum;
    }

    /// Returns the upper bound of each bucket, none for the last, with its number of samples.
    pub fn buckets(&self) -> Vec<(Option<Duration>, u64)> {
        let bounded = BOUNDS.map(Some).into_iter().zip(self.counts);
        bounded.chain([(None, self.above)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_is_in_the_first_bucket_that_holds_it() {
        let mut latency = Latency::default();
        for micros in [5, 6, 1_000, 900_000] {
            latency.record(Duration::from_micros(micros));
        }
        assert_eq!((latency.counts[0], latency.counts[1]), (1, 1));
        assert_eq!((latency.counts[7], latency.above), (1, 1));
        let mut twice = latency;
        twice.add(&latency);
        let counts = twice.buckets().into_iter().map(|(_, count)| count);
        assert_eq!(counts.sum::<u64>(), 8);
        assert_eq!(twice.sum, 2 * Duration::from_micros(901_011));
    }
}
