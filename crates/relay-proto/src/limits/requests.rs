//! How often each node may ask for sessions: opening a request costs more than all that refuses one.
//!
//! As with bandwidth, a bucket is one number, the time until which its node tat. A node that tat
//! nothing needs none.

use std::{collections::HashMap, mem, time::Duration};

use crate::{
    config::Config,
    crypto::key::NodeKey,
    time::{Timestamp, nanoseconds},
    verdict::DropReason,
};

/// Requests that may come at once, at least: a node that starts asks once for each of its peers.
const LEAST: usize = 1 << 12;
/// Nodes that may owe. Beyond that all debts are forgiven, and each node has at once what it may
/// have at once; it would take as many nodes to get there.
const MOST: usize = (1 << 12) / 8 * 7;
/// How often nodes that owe nothing any more are looked for, while some do.
const LOOK: Duration = Duration::from_millis(500);
/// Fewer take less than a page or two, which are soon in use again.
const MANY: usize = 64;

/// What nodes owe for their requests.
pub(crate) struct Requests {
    /// Nanoseconds that a node tat for each.
    each: u64,
    /// The most that it may owe.
    most: u64,
    tat: HashMap<NodeKey, u64>,
    look: Option<Timestamp>,
    /// There have been many since there was none.
    many: bool,
}

impl Requests {
    /// As many at once as a node may have sessions, and as many again in the time in which an
    /// unbound session ends: with more it could only push out its own.
    pub(crate) fn new(config: &Config) -> Self {
        let most = nanoseconds(config.bind_lifetime);
        let count = config.max_sessions_per_node.max(LEAST);
        Self {
            each: most / count as u64,
            most,
            tat: HashMap::new(),
            look: None,
            many: false,
        }
    }

    /// Whether `node` may ask now, and takes that into account if so.
    pub(crate) fn take(&mut self, node: NodeKey, now: Timestamp) -> Result<(), DropReason> {
        let at = nanoseconds(now.since_start());
        if let Some(tat) = self.tat.get_mut(&node) {
            let after = (*tat).max(at).saturating_add(self.each);
            if after - at > self.most {
                return Err(DropReason::RequestRate);
            }
            *tat = after;
            return Ok(());
        }
        if self.tat.len() == MOST {
            self.tat.retain(|_, tat| *tat > at);
            // Or there would soon be another look at all of them.
            if self.tat.len() > MOST / 2 {
                self.tat.clear();
            }
        }
        self.tat.insert(node, at.saturating_add(self.each));
        self.many |= self.tat.len() >= MANY;
        self.look.get_or_insert(now + LOOK);
        Ok(())
    }

    /// When [`Requests::forget`] wants to be called.
    pub(crate) const fn poll_forget(&self) -> Option<Timestamp> {
        self.look
    }

    /// Lets go of nodes that owe nothing, and of memory that is left then; whether these were the
    /// last of many.
    pub(crate) fn forget(&mut self, now: Timestamp) -> bool {
        if self.look.is_none_or(|look| look > now) {
            return false;
        }
        let at = nanoseconds(now.since_start());
        self.tat.retain(|_, tat| *tat > at);
        if self.tat.len() <= self.tat.capacity() / 4 {
            self.tat.shrink_to_fit();
        }
        let empty = self.tat.is_empty();
        self.look = (!empty).then(|| now + LOOK);
        empty && mem::take(&mut self.many)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use bolero::{check, produce};

    use super::*;

    const START: Timestamp = Timestamp::from_start(Duration::from_secs(1_000));

    fn node(n: u64) -> NodeKey {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        NodeKey(key)
    }

    /// How many of `count` requests a node may send at one moment.
    fn granted(requests: &mut Requests, node: NodeKey, count: usize, now: Timestamp) -> usize {
        let each = (0..count).map(|_| requests.take(node, now));
        each.filter(Result::is_ok).count()
    }

    /// A bucket of tokens for each node that is filled at every step and never forgotten.
    #[test]
    fn nodes_ask_as_if_nothing_were_forgotten() {
        let step = (0..20_000_u64, produce::<bool>(), 0..4_u8, 0..6_000_u16);
        let steps = produce::<Vec<_>>().with().values(step).len(0..40_usize);
        let check = check!().with_iterations(200);
        check.with_generator(steps).for_each(|steps| {
            let mut requests = Requests::new(&Config::default());
            let (each, most) = (requests.each, requests.most);
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
    fn nodes_that_owe_are_bounded_and_a_full_table_is_seldom_looked_through() {
        let mut requests = Requests::new(&Config::default());
        for n in 0..20_000 {
            // Each tat for seconds.
            assert_eq!(granted(&mut requests, node(n), 500, START), 500);
            assert!(requests.tat.len() <= MOST);
        }
        // One that tat keeps its tat beside many that ask once in a while.
        let mut requests = Requests::new(&Config::default());
        granted(&mut requests, node(0), 5_000, START);
        for n in 1..20_000 {
            let now = START + Duration::from_micros(1_000 * n);
            requests.take(node(n), now).unwrap();
        }
        let now = START + Duration::from_secs(20);
        let granted = granted(&mut requests, node(0), 5_000, now);
        assert_eq!(granted, 4_096 * 2 / 3);
    }

    #[test]
    fn quiet_time_leaves_no_memory_and_no_wish() {
        let mut requests = Requests::new(&Config::default());
        assert_eq!(requests.poll_forget(), None);
        let mut now = START;
        // Few are not worth a word.
        for (count, many) in [(2_000, true), (10, false)] {
            for n in 0..count {
                requests.take(node(n), now).unwrap();
            }
            let due = requests.poll_forget().unwrap();
            assert!(!requests.forget(now));
            now = due;
            assert_eq!(requests.forget(now), many);
            assert_eq!(requests.poll_forget(), None);
            assert_eq!(requests.tat.capacity(), 0);
        }
        // One that tat stays, with little room.
        granted(&mut requests, node(1), 4_096, now);
        for n in 2..2_000 {
            requests.take(node(n), now).unwrap();
        }
        now = requests.poll_forget().unwrap();
        assert!(!requests.forget(now) && requests.poll_forget().is_some());
        assert!(requests.tat.len() == 1 && requests.tat.capacity() < 10);
        now = now + Duration::from_secs(30);
        assert!(requests.forget(now));
        assert_eq!(requests.tat.capacity(), 0);
    }
}
