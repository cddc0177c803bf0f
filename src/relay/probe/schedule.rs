//! The schedule of attempts: which address of which relay is due. Pure.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use k8s_openapi::jiff::Timestamp;
use relay_proto::DiscoPublic;
use tokio::time::Instant;

use super::{AttemptResult, Probe};
use crate::config::peers::{MOST_TRIED, ProbePeer, decode_key};

/// Time between two attempts at an address that works.
const PROBE_INTERVAL: Duration = Duration::from_secs(300);
/// Time between two attempts at one that does not, so that a mended firewall shows soon.
const FAILED_INTERVAL: Duration = Duration::from_secs(30);
/// Wait before the second attempt: the other relay may not know this one yet.
const RETRY_INTERVAL: Duration = Duration::from_secs(3);
/// Failures in a row until an address counts as not reachable.
const MAX_FAILURES: u32 = 2;
/// Addresses of one relay that are tried.
const MOST_ADDRESSES: usize = 16;

/// An address to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) relay: String,
    pub(super) key: DiscoPublic,
    pub(super) address: SocketAddr,
}

/// All addresses, each with its next attempt and its last result.
pub(super) struct Schedule {
    own: String,
    entries: BTreeMap<(String, SocketAddr), Entry>,
}

struct Entry {
    key: DiscoPublic,
    /// `None` while an attempt runs.
    due: Option<Instant>,
    failures: u32,
    result: Option<(Timestamp, Option<Duration>)>,
}

impl Schedule {
    pub(super) fn new(own: &str) -> Self {
        Self {
            own: own.to_owned(),
            entries: BTreeMap::new(),
        }
    }

    /// Takes over the current relays and addresses: new ones are due at once, and those that are
    /// gone are forgotten.
    pub(super) fn update(&mut self, peers: &[ProbePeer], now: Instant, jitter: fn() -> f64) {
        let mut before = std::mem::take(&mut self.entries);
        for peer in neighbours(&self.own, peers) {
            let Some(key) = decode_key(&peer.key).map(DiscoPublic) else {
                continue;
            };
            for address in peer.endpoints.iter().take(MOST_ADDRESSES) {
                let name = (peer.relay.clone(), *address);
                let previous = before.remove(&name).filter(|entry| entry.key == key);
                let entry = previous.unwrap_or_else(|| Entry {
                    key,
                    // All relays learn of a new address at the same moment, and must not probe it at
                    // once.
                    due: Some(now + Duration::from_millis(500).mul_f64(jitter())),
                    failures: 0,
                    result: None,
                });
                self.entries.insert(name, entry);
            }
        }
    }

    /// The next address whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Target> {
        let due = |entry: &Entry| entry.due.filter(|due| *due <= now);
        let ((relay, address), entry) = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| due(entry).is_some())
            .min_by_key(|(_, entry)| entry.due)?;
        entry.due = None;
        Some(Target {
            relay: relay.clone(),
            key: entry.key,
            address: *address,
        })
    }

    /// Time at which [`Schedule::take_due`] has a target.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.due).min()
    }

    /// Records the result of an attempt.
    pub(super) fn record(
        &mut self,
        target: &Target,
        outcome: AttemptResult,
        now: Instant,
        time: Timestamp,
        jitter: fn() -> f64,
    ) {
        let name = (target.relay.clone(), target.address);
        let entry = self.entries.get_mut(&name);
        let Some(entry) = entry.filter(|entry| entry.key == target.key) else {
            return;
        };
        let wait = match outcome {
            AttemptResult::Reached(round_trip) => {
                entry.failures = 0;
                entry.result = Some((time, Some(round_trip)));
                PROBE_INTERVAL
            }
            // A relay without a route to an address can say nothing about it.
            AttemptResult::NoRoute => {
                entry.failures = 0;
                entry.result = None;
                PROBE_INTERVAL
            }
            AttemptResult::Silent => {
                entry.failures += 1;
                match entry.failures {
                    ..MAX_FAILURES => RETRY_INTERVAL,
                    _ => {
                        entry.result = Some((time, None));
                        FAILED_INTERVAL
                    }
                }
            }
        };
        entry.due = Some(now + wait.mul_f64(jitter()));
    }

    /// The results so far, in a stable order.
    pub(super) fn results(&self) -> Vec<Probe> {
        let probe = |((relay, address), entry): (&(String, SocketAddr), &Entry)| {
            let (time, round_trip) = entry.result?;
            Some(Probe {
                relay: relay.clone(),
                address: *address,
                reachable: round_trip.is_some(),
                round_trip,
                time,
            })
        };
        self.entries.iter().filter_map(probe).collect()
    }
}

/// The relays after `own` in the order of names, around the end, without `own`.
fn neighbours<'a>(own: &str, peers: &'a [ProbePeer]) -> Vec<&'a ProbePeer> {
    let mut others: Vec<_> = peers.iter().filter(|peer| peer.relay != own).collect();
    others.sort_by_key(|peer| (&*peer.relay < own, &peer.relay));
    others.truncate(MOST_TRIED);
    others
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use crate::config::peers::encode_key;

    fn peer(relay: &str, key: u8, endpoints: &[&str]) -> ProbePeer {
        ProbePeer {
            relay: relay.into(),
            key: encode_key([key; 32]),
            endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
            withheld: Vec::new(),
        }
    }

    fn evenly() -> f64 {
        1.0
    }

    const LATER: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn new_address_is_tried_at_once_and_a_known_one_in_its_time() {
        let now = Instant::now();
        let mut schedule = Schedule::new("b");
        let own = peer("b", 9, &["192.0.2.9:9"]);
        let peers = [peer("a", 1, &["192.0.2.1:1"]), own.clone()];
        schedule.update(&peers, now, evenly);
        let first = schedule.take_due(now + LATER).unwrap();
        assert_eq!(first.address.to_string(), "192.0.2.1:1");
        assert!(schedule.take_due(now + LATER).is_none(), "own is not tried");
        let reached = AttemptResult::Reached(Duration::from_millis(3));
        schedule.record(&first, reached, now, Timestamp::UNIX_EPOCH, evenly);
        assert_eq!(schedule.next_due(), Some(now + PROBE_INTERVAL));

        let two = peer("a", 1, &["192.0.2.1:1", "192.0.2.2:2"]);
        schedule.update(&[two, own], now, evenly);
        let second = schedule.take_due(now + LATER).unwrap();
        assert_eq!(second.address.to_string(), "192.0.2.2:2");
        assert_eq!(schedule.results().len(), 1);
        schedule.update(&[peer("a", 2, &["192.0.2.1:1"])], now, evenly);
        assert!(schedule.results().is_empty(), "another key, another relay");
    }

    #[tokio::test(start_paused = true)]
    async fn address_fails_only_after_it_was_doubted_and_recovers_at_once() {
        let now = Instant::now();
        let mut schedule = Schedule::new("b");
        schedule.update(&[peer("a", 1, &["192.0.2.1:1"])], now, evenly);
        let target = schedule.take_due(now + LATER).unwrap();
        let record = |schedule: &mut Schedule, outcome| {
            schedule.record(&target, outcome, now, Timestamp::UNIX_EPOCH, evenly);
        };
        record(&mut schedule, AttemptResult::Silent);
        assert!(schedule.results().is_empty());
        assert_eq!(schedule.next_due(), Some(now + RETRY_INTERVAL));
        record(&mut schedule, AttemptResult::Silent);
        assert!(!schedule.results()[0].reachable);
        assert_eq!(schedule.next_due(), Some(now + FAILED_INTERVAL));
        record(
            &mut schedule,
            AttemptResult::Reached(Duration::from_millis(1)),
        );
        assert!(schedule.results()[0].reachable);
        record(&mut schedule, AttemptResult::NoRoute);
        assert!(schedule.results().is_empty(), "nothing is known");
    }

    #[test]
    fn of_many_relays_each_is_tried_by_as_many() {
        let peers: Vec<_> = (0..50)
            .map(|n| peer(&format!("r{n:02}"), n, &["192.0.2.1:1"]))
            .collect();
        let mut tried = BTreeMap::<&str, usize>::new();
        for own in &peers {
            for other in neighbours(&own.relay, &peers) {
                *tried.entry(&other.relay).or_default() += 1;
            }
        }
        assert_eq!(tried.len(), 50);
        assert!(tried.values().all(|count| *count == MOST_TRIED));
    }
}
