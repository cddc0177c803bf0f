//! The rate limit on allocation requests of each node: opening one costs more than all checks that
//! refuse it.

use std::{collections::HashMap, mem, num::NonZero, time::Duration};

use crate::{
    config::Config, crypto::key::NodeKey, limits::rate::RateLimit, time::Timestamp,
    verdict::DropReason,
};

/// The least number of requests that a node may send at once: a node that starts asks once for each
/// of its peers.
const MIN_REQUESTS: usize = 1 << 12;
/// The most nodes whose TAT is kept. A full table is cleared, and each node has its whole burst
/// again; it would take as many nodes to get there.
const CAPACITY: usize = (1 << 12) / 8 * 7;
/// The pause between two sweeps for TATs that have passed.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// The number of nodes from which freeing the table is reported: fewer fill less than two pages,
/// which the allocator soon uses again.
const REPORTED_NODES: usize = 64;

/// The TATs of nodes that have asked lately.
pub(crate) struct Requests {
    limit: RateLimit,
    tats: HashMap<NodeKey, Timestamp>,
    next_sweep: Option<Timestamp>,
    /// The table has held [`REPORTED_NODES`] nodes since it was last empty.
    was_large: bool,
}

impl Requests {
    /// A node may ask at once as often as it may have sessions, and as often again in the lifetime
    /// of an unbound session: with more requests it could only evict its own.
    pub(crate) fn new(config: &Config) -> Self {
        let count = config.max_sessions_per_node.max(MIN_REQUESTS) as u64;
        let count = NonZero::new(count).unwrap_or(NonZero::<u64>::MIN);
        Self {
            limit: RateLimit::new(count, config.bind_lifetime),
            tats: HashMap::new(),
            next_sweep: None,
            was_large: false,
        }
    }

    /// Admits one request of `node`.
    pub(crate) fn admit(&mut self, node: NodeKey, now: Timestamp) -> Result<(), DropReason> {
        if let Some(tat) = self.tats.get_mut(&node) {
            let after = self.limit.admit(*tat, 1, now);
            *tat = after.ok_or(DropReason::RequestRate)?;
            return Ok(());
        }
        let tat = self.limit.admit(Timestamp::START, 1, now);
        let tat = tat.ok_or(DropReason::RequestRate)?;
        if self.tats.len() == CAPACITY {
            self.tats.retain(|_, tat| *tat > now);
            // A table that stays this full would be swept again for every few new nodes.
            if self.tats.len() > CAPACITY / 2 {
                self.tats.clear();
            }
        }
        self.tats.insert(node, tat);
        self.was_large |= self.tats.len() >= REPORTED_NODES;
        self.next_sweep.get_or_insert(now + SWEEP_INTERVAL);
        Ok(())
    }

    /// The time at which [`Requests::forget`] has something to do.
    pub(crate) const fn poll_forget(&self) -> Option<Timestamp> {
        self.next_sweep
    }

    /// Drops TATs that have passed, and spare memory. Returns whether a large table became empty.
    pub(crate) fn forget(&mut self, now: Timestamp) -> bool {
        if self.next_sweep.is_none_or(|due| due > now) {
            return false;
        }
        self.tats.retain(|_, tat| *tat > now);
        if self.tats.len() <= self.tats.capacity() / 4 {
            self.tats.shrink_to_fit();
        }
        let empty = self.tats.is_empty();
        self.next_sweep = (!empty).then(|| now + SWEEP_INTERVAL);
        empty && mem::take(&mut self.was_large)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use bolero::{check, produce};

    use super::*;
    use crate::time::nanoseconds;

    const START: Timestamp = Timestamp::from_start(Duration::from_secs(1_000));

    fn node(n: u64) -> NodeKey {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        NodeKey(key)
    }

    /// The number of requests, of `count` at one moment, that are admitted.
    fn granted(requests: &mut Requests, node: NodeKey, count: usize, now: Timestamp) -> usize {
        let each = (0..count).map(|_| requests.admit(node, now));
        each.filter(Result::is_ok).count()
    }

    /// The reference is a token bucket for each node, filled at every step and never dropped.
    #[test]
    fn nodes_ask_as_if_nothing_were_forgotten() {
        let step = (0..20_000_u64, produce::<bool>(), 0..4_u8, 0..6_000_u16);
        let steps = produce::<Vec<_>>().with().values(step).len(0..40_usize);
        let check = check!().with_iterations(200);
        check.with_generator(steps).for_each(|steps| {
            let mut requests = Requests::new(&Config::default());
            let most = nanoseconds(Config::default().bind_lifetime);
            let each = most / MIN_REQUESTS as u64;
            let mut tokens = [most; 4];
            let mut now = START;
            for (ms, forget, number, count) in steps {
                let passed = Duration::from_millis(*ms);
                now = now + passed;
                if *forget {
                    requests.forget(now);
                }
                for tokens in &mut tokens {
                    *tokens = most.min(*tokens + nanoseconds(passed));
                }
                let tokens = &mut tokens[usize::from(*number)];
                let may = u64::from(*count).min(*tokens / each);
                *tokens -= may * each;
                let asked = node(u64::from(*number));
                let given = granted(&mut requests, asked, usize::from(*count), now);
                assert_eq!(given as u64, may);
            }
        });
    }

    #[test]
    fn node_asks_as_often_as_it_may_have_sessions_at_once_and_in_thirty_seconds() {
        for (limit, count) in [(0, 4_096), (4_096, 4_096), (10_000, 10_000)] {
            let config = Config {
                max_sessions_per_node: limit,
                ..Config::default()
            };
            let mut requests = Requests::new(&config);
            let mut ask = |now| granted(&mut requests, node(1), 3 * count, now);
            assert_eq!(ask(START), count);
            assert_eq!(ask(START), 0);
            assert_eq!(ask(START + Duration::from_secs(15)), count / 2);
            assert_eq!(ask(START + Duration::from_secs(45)), count);
        }
    }

    #[test]
    fn table_of_nodes_is_bounded_and_seldom_swept_when_full() {
        let mut requests = Requests::new(&Config::default());
        for n in 0..20_000 {
            // The TAT of each lies seconds ahead.
            assert_eq!(granted(&mut requests, node(n), 500, START), 500);
            assert!(requests.tats.len() <= CAPACITY);
        }
        // A busy node keeps its TAT beside many that ask once in a while.
        let mut requests = Requests::new(&Config::default());
        granted(&mut requests, node(0), 5_000, START);
        for n in 1..20_000 {
            let now = START + Duration::from_micros(1_000 * n);
            requests.admit(node(n), now).unwrap();
        }
        let now = START + Duration::from_secs(20);
        let granted = granted(&mut requests, node(0), 5_000, now);
        assert_eq!(granted, 4_096 * 2 / 3);
    }

    #[test]
    fn quiet_time_leaves_no_memory_and_no_timer() {
        let mut requests = Requests::new(&Config::default());
        assert_eq!(requests.poll_forget(), None);
        let mut now = START;
        // Freeing a small table is not reported.
        for (count, many) in [(2_000, true), (10, false)] {
            for n in 0..count {
                requests.admit(node(n), now).unwrap();
            }
            let due = requests.poll_forget().unwrap();
            assert!(!requests.forget(now));
            now = due;
            assert_eq!(requests.forget(now), many);
            assert_eq!(requests.poll_forget(), None);
            assert_eq!(requests.tats.capacity(), 0);
        }
        // A node whose TAT lies ahead stays, in a small table.
        granted(&mut requests, node(1), 4_096, now);
        for n in 2..2_000 {
            requests.admit(node(n), now).unwrap();
        }
        now = requests.poll_forget().unwrap();
        assert!(!requests.forget(now) && requests.poll_forget().is_some());
        assert!(requests.tats.len() == 1 && requests.tats.capacity() < 10);
        now = now + Duration::from_secs(30);
        assert!(requests.forget(now));
        assert_eq!(requests.tats.capacity(), 0);
    }
}
