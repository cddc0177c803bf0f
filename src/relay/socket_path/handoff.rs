//! Datagrams on their way from one worker thread to another.

use crate::relay::socket::Arrival;

/// Datagrams that came to one thread and belong to another.
///
/// The kernel steers a super-datagram by its first segment. Merged from datagrams of several
/// sessions of one client, it holds segments for other threads too.
#[derive(Debug, Default)]
pub(super) struct HandoffBatch {
    /// Datagrams, with their ranges in `bytes`.
    pub(super) arrivals: Vec<Arrival>,
    pub(super) bytes: Vec<u8>,
}

impl HandoffBatch {
    pub(super) fn push(&mut self, arrival: &Arrival, bytes: &[u8], segment_len: usize) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.arrivals.push(Arrival {
            range: start..self.bytes.len(),
            segment_len,
            ..arrival.clone()
        });
    }

    pub(super) fn datagrams(&self) -> u64 {
        let count = |a: &Arrival| a.range.len().div_ceil(a.segment_len.max(1)).max(1) as u64;
        self.arrivals.iter().map(count).sum()
    }
}
