//! Replaces the relays of a region in turns. Pure. Where each relay has a DaemonSet of its own, the
//! operator chooses which one is applied next; where one DaemonSet has them all, Kubernetes replaces
//! its pods, and the operator pauses it.

mod reach;
mod shared;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::apps::v1::DaemonSet, apimachinery::pkg::util::intstr::IntOrString, jiff::Timestamp,
};
use kube::ResourceExt;

use self::reach::Reach;
use super::{
    build::{Resources, checksum, is_off},
    plan::ClusterView,
};
use crate::{crd::RelayNode, names};

/// Most relays that a message names.
const NAMED: usize = 3;

/// What becomes of changed relays.
#[derive(Debug, Default)]
struct Admission {
    /// DaemonSets that may be applied now.
    now: Vec<DaemonSet>,
    /// Names of those that stay as they are for the time being.
    deferred: Vec<String>,
    /// Who waits for whom, by region.
    messages: Vec<String>,
    /// When to look again.
    recheck_after: Option<Duration>,
}

impl Admission {
    /// Notes that relays of a region wait for `absent`. Nobody has to wait when `waiting` is 0; then
    /// there is only something to look at again.
    fn wait(&mut self, region: &str, waiting: usize, absent: &[Absent]) {
        let remaining = absent.iter().filter_map(|absent| absent.remaining);
        self.recheck_after = remaining.chain(self.recheck_after).min();
        if waiting > 0 {
            self.messages.push(message(region, waiting, absent));
        }
    }
}

/// What a roll-out leaves to be done.
#[derive(Debug, Default)]
pub struct Pending {
    /// Who waits for whom, for people. `None` when nobody waits.
    pub message: Option<String>,
    /// When to look again although nothing has changed.
    pub recheck_after: Option<Duration>,
}

/// Leaves in `resources` what may be applied now. `relays` are the reports of the PeerRelay's relays.
pub fn hold_back(
    resources: &mut Resources,
    seen: &ClusterView,
    relays: &[Arc<RelayNode>],
    now: Timestamp,
) -> Pending {
    let live = |name: &str| {
        let mut sets = seen.daemon_sets.iter();
        sets.find(|set| set.name_any() == name).cloned()
    };
    let wanted = std::mem::take(&mut resources.daemon_sets);
    let admission = admit(wanted, live, &Reach::new(&seen.nodes, relays, now));
    resources.daemon_sets = admission.now;
    resources.deferred.extend(admission.deferred);
    Pending {
        message: (!admission.messages.is_empty()).then(|| admission.messages.join("; ")),
        recheck_after: admission.recheck_after,
    }
}

/// A relay that others wait for.
struct Absent {
    /// Name of its DaemonSet.
    name: String,
    node: String,
    why: &'static str,
    /// Longest time that others wait for it; `None` without a limit.
    remaining: Option<Duration>,
}

impl Absent {
    /// A ready relay that no other relay has reached since it was replaced.
    const fn unreached(name: String, node: String, remaining: Duration) -> Self {
        Self {
            name,
            node,
            why: "reached by another relay",
            remaining: Some(remaining),
        }
    }
}

/// Splits `wanted` into what may be applied now and what has to wait.
///
/// New DaemonSets wait for nobody. A ready relay is replaced while fewer than `maxUnavailable` others
/// of its region are absent: not ready, or not yet reached again by another relay. One that is not
/// ready itself loses nothing and may at any time. Relays on dead nodes count for nothing: nobody
/// knows when they come back. One that is turned off or on waits for nobody. With `OnDelete` the user
/// takes the turns.
fn admit(
    wanted: Vec<DaemonSet>,
    live: impl Fn(&str) -> Option<Arc<DaemonSet>>,
    reach: &Reach<'_>,
) -> Admission {
    let mut regions: BTreeMap<String, Vec<DaemonSet>> = BTreeMap::new();
    for set in wanted {
        let region = set.labels().get(names::REGION_LABEL).cloned();
        regions
            .entry(region.unwrap_or_default())
            .or_default()
            .push(set);
    }
    let mut admission = Admission::default();
    for (region, mut sets) in regions {
        let found: Vec<_> = sets.iter().map(|set| live(&set.name_any())).collect();
        for (set, found) in sets.iter_mut().zip(&found) {
            let live = found.as_deref().filter(|_| shared::is_shared(set));
            if let Some(pause) = live.and_then(|live| shared::pause(&region, set, live, reach)) {
                admission.wait(&region, pause.waiting, &pause.absent);
            }
        }
        let absent: Vec<_> = found
            .iter()
            .flatten()
            .filter_map(|set| absent(&region, set, reach))
            .collect();
        let before = admission.deferred.len();
        let mut replaced = 0;
        for (set, found) in sets.into_iter().zip(found) {
            let name = set.name_any();
            let replaces = found
                .as_ref()
                .is_some_and(|found| is_ready(found) && differs(found, &set))
                && !is_off(&set)
                && !found.as_deref().is_some_and(is_off);
            let others = absent.iter().filter(|absent| absent.name != name).count();
            let most = most_unavailable(&set);
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
            admission.wait(&region, waiting, &absent);
        }
    }
    admission
}

/// The relay of a live DaemonSet, if it is missing.
fn absent(region: &str, set: &DaemonSet, reach: &Reach<'_>) -> Option<Absent> {
    let node = set.annotations().get(names::NODE_ANNOTATION)?.clone();
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
    let remaining = reach.awaited(region, &node)?;
    Some(Absent::unreached(name, node, remaining))
}

fn message(region: &str, waiting: usize, absent: &[Absent]) -> String {
    let mut text = format!("region {region}: {waiting} relay(s) wait to be replaced");
    // Those that are being replaced have not been seen to go yet.
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

/// Relays of the region that may be missing at a time. `None` when that is left to the user.
fn most_unavailable(set: &DaemonSet) -> Option<usize> {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    if strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete")) {
        return None;
    }
    let most = strategy
        .and_then(|strategy| strategy.rolling_update.as_ref())
        .and_then(|rolling| rolling.max_unavailable.as_ref());
    match most {
        Some(IntOrString::Int(most)) => Some(usize::try_from(*most).unwrap_or(1).max(1)),
        _ => Some(1),
    }
}

/// Whether everything that was asked of it has happened.
fn is_ready(set: &DaemonSet) -> bool {
    set.status.as_ref().is_some_and(|status| {
        status.observed_generation == set.metadata.generation
            && status.updated_number_scheduled.unwrap_or(0) == status.desired_number_scheduled
            && status.number_ready >= status.desired_number_scheduled
    })
}

fn differs(live: &DaemonSet, wanted: &DaemonSet) -> bool {
    live.annotations().get(names::APPLIED_ANNOTATION) != Some(&checksum(wanted))
}

#[cfg(test)]
mod tests;
