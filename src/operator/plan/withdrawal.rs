//! Withdrawal of relays that will be removed, and of relays on cordoned nodes: they accept no new
//! sessions. A relay is removed when clients have left it, or after a limit. Pure.
//!
//! The request is stored in the ConfigMap of the region, which relays watch, with its time: a
//! restarted operator neither forgets nor extends it. A relay that another relay of the same
//! PeerRelay replaces on its node is not withdrawn, because its sessions continue.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{Timestamp, Unit};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Node, Pod},
};
use kube::ResourceExt;

use super::{NodePlan, fit::is_cordoned};
use crate::{
    config::withdrawals::{EVERY_NODE, LIMIT, WITHDRAWALS_KEY, Withdrawals},
    crd::{RelayNode, exposure::Exposure},
    names,
    operator::{
        daemon_sets,
        validate::{ValidRegion, ValidSpec},
        view::ClusterView,
    },
};

/// Maximum number of nodes of a region in the request. A relay on another node is removed after the
/// limit.
const MOST_NAMED: usize = 1_000;

/// Relays that will be removed.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaving {
    /// Number of these relays.
    pub relays: usize,
    /// Time at which the last of them is removed at the latest.
    pub until: Timestamp,
    /// Time at which the first of them is removed.
    pub next: Timestamp,
    /// Names of the DaemonSets and of other objects that stay until then.
    deferred: BTreeSet<String>,
    /// Nodes of these DaemonSets, by region.
    occupied: BTreeSet<(String, String)>,
    /// ConfigMaps of regions that the PeerRelay no longer has.
    config_maps: Vec<ConfigMap>,
}

impl Leaving {
    /// Creates a number of relays that are removed at the same time.
    #[cfg(test)]
    pub(crate) fn for_tests(relays: usize, until: Timestamp) -> Self {
        let tally = Tally {
            relays,
            until: Some(until),
            next: Some(until),
            ..Tally::default()
        };
        tally.leaving().expect("it has a time")
    }

    /// Returns whether `set` must not be applied before these relays are removed.
    pub fn defers(&self, set: &DaemonSet) -> bool {
        let place = daemon_sets::region(set).zip(daemon_sets::only_node(set));
        let place = place.map(|(region, node)| (region.clone(), node.clone()));
        self.deferred.contains(&set.name_any())
            || place.is_some_and(|place| self.occupied.contains(&place))
    }

    /// Names of the objects that these relays need until they are removed.
    pub fn deferred(&self) -> impl Iterator<Item = String> {
        self.deferred.iter().cloned()
    }

    /// ConfigMaps of these relays, in regions that the PeerRelay no longer has.
    pub fn config_maps(&self) -> impl Iterator<Item = ConfigMap> {
        self.config_maps.iter().cloned()
    }
}

/// A running relay: its pod, DaemonSet, node and report.
struct Relay<'a> {
    set: &'a DaemonSet,
    region: &'a str,
    node: &'a Node,
    report: Option<&'a RelayNode>,
}

/// Decides which relays of `relay` are withdrawn, by region, and which of them will be removed.
pub(super) fn plan(
    relay: &ValidSpec,
    nodes: &[NodePlan],
    view: &ClusterView,
    now: Timestamp,
) -> (Vec<Withdrawals>, Option<Leaving>) {
    // Relays report the time back in their status, where the API stores whole seconds, and it is compared.
    let now = now.round(Unit::Second).unwrap_or(now);
    let running = running(relay, view);
    let mut leaving = BTreeMap::<&str, Vec<&Relay<'_>>>::new();
    for one in running.iter().filter(|one| !is_wanted(relay, nodes, one)) {
        leaving.entry(one.region).or_default().push(one);
    }
    let mut tally = Tally::default();
    let mut withdrawn = Vec::new();
    for (region, nodes) in relay.regions.iter().zip(nodes) {
        let previous = view.entry(&region.child, WITHDRAWALS_KEY);
        let mut withdrawals = Withdrawals::default();
        if let Some(relays) = leaving.remove(&*region.name) {
            withdrawals = ask(&relays, &previous, now, !relay.enabled);
            tally.add(&relays, &withdrawals, now, &running);
        }
        if relay.enabled {
            withdrawals = cordoned((region, nodes), &running, &previous, now, withdrawals);
        }
        withdrawn.push(withdrawals);
    }
    for (region, relays) in leaving {
        let child = names::child(&relay.owner.name, region);
        let withdrawals = ask(&relays, &view.entry(&child, WITHDRAWALS_KEY), now, true);
        if tally.add(&relays, &withdrawals, now, &running) {
            let live = view.config_maps.iter().find(|map| map.name_any() == child);
            let live = live.map(|live| with_withdrawals(live, &withdrawals));
            tally.config_maps.extend(live);
            tally.deferred.insert(child);
        }
    }
    (withdrawn, tally.leaving())
}

/// Renders `withdrawals` for relays. `None` if there are none.
pub fn text(withdrawals: &Withdrawals) -> Option<String> {
    let is_empty = withdrawals.0.is_empty();
    (!is_empty).then(|| serde_yaml::to_string(withdrawals).expect("a map is plain data"))
}

/// Returns the pods of the PeerRelay's DaemonSets whose nodes are known.
fn running<'a>(relay: &ValidSpec, view: &'a ClusterView) -> Vec<Relay<'a>> {
    let nodes: HashMap<_, &Node> = (view.nodes.iter())
        .filter_map(|node| Some((node.metadata.name.as_deref()?, &**node)))
        .collect();
    let reports: HashMap<_, &RelayNode> = (view.reports.iter())
        .filter_map(|report| Some((report.metadata.name.as_deref()?, &**report)))
        .collect();
    let is_ours = |set: &&DaemonSet| {
        set.metadata.deletion_timestamp.is_none()
            && daemon_sets::is_owned(set, &relay.owner.reference)
    };
    let sets = view.daemon_sets.iter().map(AsRef::as_ref);
    let sets: Vec<&DaemonSet> = sets.filter(is_ours).collect();
    let relay = |pod: &'a Pod| {
        let is_own = |set: &&&DaemonSet| {
            let region = daemon_sets::region(set);
            region.is_some_and(|region| daemon_sets::has_pod(set, region, pod))
        };
        let set = sets.iter().find(is_own)?;
        let node = pod.spec.as_ref()?.node_name.as_deref()?;
        Some(Relay {
            set,
            region: daemon_sets::region(set)?,
            // A relay ends with its node.
            node: nodes.get(node)?,
            report: reports.get(pod.metadata.name.as_deref()?).copied(),
        })
    };
    let pods = view.own_pods.iter().map(AsRef::as_ref);
    pods.filter(|pod: &&Pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(relay)
        .collect()
}

/// Returns whether a relay stays, or another one replaces it on the node.
fn is_wanted(relay: &ValidSpec, nodes: &[NodePlan], one: &Relay<'_>) -> bool {
    let own = |region: &&ValidRegion| region.name == one.region;
    let here = relay.regions.iter().find(own);
    // The relay of a removed region may have used either network.
    let on_host = here.is_none_or(|region| Exposure::on_host_network(&region.exposure));
    let mut regions = relay.regions.iter().zip(nodes);
    relay.enabled
        && regions.any(|(region, nodes)| {
            let same_port = on_host && region.exposure.on_host_network();
            (region.name == one.region || same_port) && nodes.wants(region, one.node)
        })
}

/// Returns withdrawals for relays that will be removed. Earlier requests keep their time. `whole`
/// means that all relays of the region will be removed.
fn ask(relays: &[&Relay<'_>], previous: &Withdrawals, now: Timestamp, whole: bool) -> Withdrawals {
    let mut asked = Withdrawals::default();
    for relay in relays {
        let node = relay.node.name_any();
        let since = previous.since(&node);
        let key = match whole && !previous.0.contains_key(&node) {
            true => EVERY_NODE.to_owned(),
            false => node,
        };
        if asked.0.len() < MOST_NAMED {
            asked.0.insert(key, since.unwrap_or(now));
        }
    }
    asked
}

/// Adds to `withdrawals` the relays of a region on cordoned nodes, while a relay on another node
/// can be used.
fn cordoned(
    (region, nodes): (&ValidRegion, &NodePlan),
    running: &[Relay<'_>],
    previous: &Withdrawals,
    now: Timestamp,
    mut withdrawals: Withdrawals,
) -> Withdrawals {
    let of_region = || running.iter().filter(|one| one.region == region.name);
    let is_cordoned = |one: &&Relay<'_>| is_cordoned(one.node);
    let is_ready = |one: &Relay<'_>| {
        let status = one.report.and_then(|report| report.status.as_ref());
        status.is_some_and(|status| status.ready)
    };
    let goes_on = |one: &&Relay<'_>| withdrawals.since(&one.node.name_any()).is_none();
    if !of_region()
        .filter(|one| !is_cordoned(one) && nodes.wants(region, one.node))
        .filter(goes_on)
        .any(is_ready)
    {
        return withdrawals;
    }
    for one in of_region().filter(is_cordoned) {
        let node = one.node.name_any();
        if withdrawals.0.len() < MOST_NAMED {
            let since = previous.since(&node).unwrap_or(now);
            withdrawals.0.entry(node).or_insert(since);
        }
    }
    withdrawals
}

#[derive(Default)]
struct Tally {
    relays: usize,
    until: Option<Timestamp>,
    next: Option<Timestamp>,
    deferred: BTreeSet<String>,
    occupied: BTreeSet<(String, String)>,
    config_maps: Vec<ConfigMap>,
}

impl Tally {
    /// Adds those of `relays` that must not be removed yet, and returns whether there are any.
    fn add(
        &mut self,
        relays: &[&Relay<'_>],
        asked: &Withdrawals,
        now: Timestamp,
        running: &[Relay<'_>],
    ) -> bool {
        let before = self.relays;
        for one in relays {
            let since = asked.since(&one.node.name_any());
            let Some(until) = since.and_then(|since| stays_until(one, since, now)) else {
                continue;
            };
            self.relays += 1;
            self.until = self.until.max(Some(until));
            self.next = Some(self.next.map_or(until, |next| next.min(until)));
            if self.deferred.insert(one.set.name_any()) {
                let same_set = |other: &&Relay<'_>| std::ptr::eq(other.set, one.set);
                let place = |other: &Relay<'_>| (other.region.to_owned(), other.node.name_any());
                let places = running.iter().filter(same_set).map(place);
                self.occupied.extend(places);
            }
        }
        self.relays > before
    }

    fn leaving(self) -> Option<Leaving> {
        Some(Leaving {
            relays: self.relays,
            until: self.until?,
            next: self.next?,
            deferred: self.deferred,
            occupied: self.occupied,
            config_maps: self.config_maps,
        })
    }
}

/// Returns the time until which a relay that was withdrawn at `since` stays. `None` if it can be
/// removed now: clients have left it, the limit has passed, or it has never reported and has no
/// sessions.
fn stays_until(relay: &Relay<'_>, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let until = since.saturating_add(LIMIT).unwrap_or(Timestamp::MAX);
    let status = relay.report?.status.as_ref()?;
    let complete = (status.withdrawal.as_ref()).is_some_and(|w| w.complete && w.since.0 == since);
    (!complete && now < until).then_some(until)
}

/// Returns the ConfigMap of a removed region, with `withdrawals` for its last relays.
fn with_withdrawals(live: &ConfigMap, withdrawals: &Withdrawals) -> ConfigMap {
    let mut map = ConfigMap {
        data: live.data.clone(),
        ..ConfigMap::default()
    };
    map.metadata.name.clone_from(&live.metadata.name);
    map.metadata.namespace.clone_from(&live.metadata.namespace);
    map.metadata.labels.clone_from(&live.metadata.labels);
    let owners = &live.metadata.owner_references;
    map.metadata.owner_references.clone_from(owners);
    let text = text(withdrawals).map(|text| (WITHDRAWALS_KEY.to_owned(), text));
    map.data.get_or_insert_default().extend(text);
    map
}

#[cfg(test)]
mod tests;
