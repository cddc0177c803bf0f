//! Roll-out of a change to the relays of a region, one after the other. Pure.
//!
//! If each relay has its own DaemonSet, the operator decides which one is applied next. If one
//! DaemonSet has all relays, Kubernetes replaces its pods, and the operator can pause it.

mod reach;
mod shared;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{apps::v1::DaemonSet, core::v1::Node},
    jiff::Timestamp,
};
use kube::ResourceExt;

use self::reach::Reach;
use crate::{
    crd::RelayNode,
    names,
    operator::{
        daemon_sets::{is_off, is_ready, max_unavailable, only_node, outdated, region},
        objects::checksum,
    },
};

/// Maximum number of relays in a message.
const NAMED: usize = 3;

/// The state of the DaemonSets of a PeerRelay that decides which of them may be replaced.
#[derive(Debug, Clone, Default)]
pub struct Rollout {
    live: BTreeMap<String, LiveSet>,
    /// Relays of shared DaemonSets that no other relay has reached since their replacement, by
    /// region, with the remaining time that the roll-out waits for them.
    unreached: BTreeMap<String, Vec<(String, Duration)>>,
}

/// A DaemonSet in the cluster.
#[derive(Debug, Clone)]
struct LiveSet {
    /// Checksum of the DaemonSet as it was applied.
    applied: Option<String>,
    is_ready: bool,
    is_off: bool,
    /// Number of relays that Kubernetes has not replaced yet.
    outdated: usize,
    /// Missing relay of a DaemonSet with one node.
    absent: Option<Absent>,
}

/// Relay that the roll-out waits for.
#[derive(Debug, Clone)]
struct Absent {
    /// Name of its DaemonSet.
    name: String,
    node: String,
    why: &'static str,
    /// Remaining time that the roll-out waits for it. `None` without a limit.
    remaining: Option<Duration>,
}

/// Changed DaemonSets, divided into those that may be applied now and deferred ones.
#[derive(Debug, Default)]
pub struct Admission {
    /// DaemonSets that may be applied now.
    pub now: Vec<DaemonSet>,
    /// Names of DaemonSets that are not applied yet.
    pub deferred: Vec<String>,
    /// Sentences about relays that wait, by region.
    messages: Vec<String>,
    /// Time after which a DaemonSet may be applied although nothing has changed.
    pub recheck_after: Option<Duration>,
}

impl Rollout {
    /// Collects the state of the `live` DaemonSets of a PeerRelay, whose relays report `reports`.
    pub(super) fn new<'a>(
        live: impl Iterator<Item = &'a DaemonSet>,
        nodes: &[Arc<Node>],
        reports: &[Arc<RelayNode>],
        now: Timestamp,
    ) -> Self {
        let reach = Reach::new(nodes, reports, now);
        let mut rollout = Self::default();
        for set in live {
            let live = LiveSet::new(set, &reach);
            if let Some(region) = region(set).filter(|_| shared::is_shared(set))
                && live.outdated > 0
            {
                let unreached = reach.unreached(region).collect();
                rollout.unreached.insert(region.clone(), unreached);
            }
            rollout.live.insert(set.name_any(), live);
        }
        rollout
    }

    /// Splits `wanted` into DaemonSets that may be applied now and those that have to wait.
    ///
    /// New DaemonSets wait for no other. A ready relay is replaced while fewer than `maxUnavailable`
    /// others of its region are absent: not ready, or not yet reached again by another relay. A relay
    /// that is not ready itself loses nothing and may be replaced at any time. Relays on dead nodes
    /// do not count: they may never come back. A relay that is turned off or on waits for no other.
    /// With `OnDelete` the user decides.
    pub fn admit(&self, wanted: Vec<DaemonSet>) -> Admission {
        let mut regions: Vec<(String, Vec<DaemonSet>)> = Vec::new();
        for set in wanted {
            let region = region(&set).cloned().unwrap_or_default();
            match regions.iter_mut().find(|(name, _)| *name == region) {
                Some((_, sets)) => sets.push(set),
                None => regions.push((region, vec![set])),
            }
        }
        let mut admission = Admission::default();
        for (region, sets) in regions {
            self.admit_region(&region, sets, &mut admission);
        }
        admission
    }

    fn admit_region(&self, region: &str, mut sets: Vec<DaemonSet>, admission: &mut Admission) {
        for set in sets.iter_mut().filter(|set| shared::is_shared(set)) {
            let live = self.live.get(&set.name_any());
            let unreached = self.unreached.get(region).map_or(&[][..], |all| all);
            if let Some(pause) = live.and_then(|live| shared::pause(set, live, unreached)) {
                admission.wait(region, pause.waiting, &pause.absent);
            }
        }
        let found: Vec<_> = sets
            .iter()
            .map(|set| self.live.get(&set.name_any()))
            .collect();
        let absent: Vec<&Absent> = found.iter().flatten().flat_map(|f| &f.absent).collect();
        let before = admission.deferred.len();
        let mut replaced = 0;
        for (set, found) in sets.into_iter().zip(found) {
            let name = set.name_any();
            let replaces = found.is_some_and(|live| live.is_replaced_by(&set)) && !is_off(&set);
            let others = absent.iter().filter(|absent| absent.name != name).count();
            let most = max_unavailable(&set);
            match replaces && most.is_some_and(|most| others + replaced >= most) {
                true => admission.deferred.push(name),
                false => {
                    replaced += usize::from(replaces);
                    admission.now.push(set);
                }
            }
        }
        let waiting = admission.deferred.len() - before;
        if waiting > 0 {
            let absent: Vec<_> = absent.into_iter().cloned().collect();
            admission.wait(region, waiting, &absent);
        }
    }
}

impl LiveSet {
    fn new(set: &DaemonSet, reach: &Reach<'_>) -> Self {
        Self {
            applied: set.annotations().get(names::APPLIED_ANNOTATION).cloned(),
            is_ready: is_ready(set),
            is_off: is_off(set),
            outdated: outdated(set),
            absent: absent(set, reach),
        }
    }

    /// Returns whether applying `wanted` ends a ready relay.
    fn is_replaced_by(&self, wanted: &DaemonSet) -> bool {
        self.is_ready && !self.is_off && self.applied.as_ref() != Some(&checksum(wanted))
    }
}

impl Absent {
    /// Creates the entry of a ready relay that no other relay has reached since its replacement.
    const fn unreached(name: String, node: String, remaining: Duration) -> Self {
        Self {
            name,
            node,
            why: "reached by another relay",
            remaining: Some(remaining),
        }
    }
}

/// The relay of a live DaemonSet with one node, if it is missing.
fn absent(set: &DaemonSet, reach: &Reach<'_>) -> Option<Absent> {
    let node = only_node(set)?.clone();
    let name = set.name_any();
    if reach.is_dead(&node) {
        return None;
    }
    if !is_ready(set) {
        return Some(Absent {
            name,
            node,
            why: "ready",
            remaining: None,
        });
    }
    let remaining = reach.awaited(region(set)?, &node)?;
    Some(Absent::unreached(name, node, remaining))
}

impl Admission {
    /// The sentences about relays that wait, as one text. `None` when no relay waits.
    pub fn message(&self) -> Option<String> {
        (!self.messages.is_empty()).then(|| self.messages.join("; "))
    }

    /// Records that `waiting` relays of a region wait for `absent`. With 0, only a later check is
    /// scheduled.
    fn wait(&mut self, region: &str, waiting: usize, absent: &[Absent]) {
        let remaining = absent.iter().filter_map(|absent| absent.remaining);
        self.recheck_after = remaining.chain(self.recheck_after).min();
        if waiting > 0 {
            self.messages.push(message(region, waiting, absent));
        }
    }
}

fn message(region: &str, waiting: usize, absent: &[Absent]) -> String {
    let mut text = format!("region {region}: {waiting} relay(s) wait to be replaced");
    // The view may not show yet that relays that are being replaced have ended.
    let named: Vec<_> = absent
        .iter()
        .take(NAMED)
        .map(|absent| format!("the one on {} is {}", absent.node, absent.why))
        .collect();
    if !named.is_empty() {
        text += &format!(" until {}", named.join(" and "));
    }
    if absent.len() > NAMED {
        text += &format!(" and {} more are back", absent.len() - NAMED);
    }
    text
}

#[cfg(test)]
mod tests;
