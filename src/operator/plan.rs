//! What the cluster decides about a PeerRelay: nodes, and the addresses that lead to its relays.
//! Pure: from what watches have seen to a plan that builders carry out.

mod addresses;
mod choose;
mod elastic_ips;
mod endpoints;
mod fit;
mod load_balancers;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Node, Service},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;

use self::choose::{Candidate, Choice};
pub use self::{elastic_ips::ElasticIp, fit::ZONE_LABEL};
use super::{
    build::monitoring::MonitoringKind,
    validate::{ValidatedRegion, ValidatedRelay},
};
use crate::{
    config::withdrawals::Withdrawals,
    crd::{RelayNode, exposure::ExposureType},
    names,
};

/// Relays of a region behind load balancers when nothing else is said: each costs an address.
const BALANCED_RELAYS: u16 = 2;

/// What the cluster has, as far as it matters to a PeerRelay.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Services of the operator in the PeerRelay's namespace.
    pub services: Vec<Arc<Service>>,
    /// Kinds of prometheus-operator that it knows.
    pub monitoring_kinds: BTreeSet<MonitoringKind>,
    /// DaemonSets of the operator there.
    pub daemon_sets: Vec<Arc<DaemonSet>>,
    /// Reports of relays there.
    pub relay_nodes: Vec<Arc<RelayNode>>,
}

/// What the cluster decides about a region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Nodes that have a relay of their own each; without them, every node that fits gets one.
    pub chosen: Option<Vec<String>>,
    /// How many nodes have a relay or could get one.
    pub fitting: usize,
    /// Nodes that would have got a relay too, if the total allowed it.
    pub excess: Vec<String>,
    /// Addresses that lead to each relay, by node; relays advertise them before all others.
    pub endpoints: BTreeMap<String, Vec<SocketAddr>>,
    /// Ports of the relays' own Services, by node.
    pub ports: BTreeMap<String, u16>,
    /// Elastic IPs of the relays' own load balancers, by node.
    pub elastic_ips: BTreeMap<String, ElasticIp>,
    /// Nodes whose relay gets no Service.
    pub unserved: BTreeSet<String>,
    /// What relays wait for before they are started.
    pub waiting: Option<Waiting>,
    /// Nodes whose relay waits; all of the region when empty.
    pub pending: BTreeSet<String>,
    /// Relays that give out no sessions.
    pub withdrawals: Withdrawals,
    /// Nodes whose annotation with endpoints cannot be read.
    pub bad_annotations: BTreeSet<String>,
}

impl ValidatedRegion {
    /// Whether the plan has a relay of this region on `node`.
    pub fn wants(&self, node: &Node) -> bool {
        match &self.plan.chosen {
            Some(nodes) => nodes.contains(&node.name_any()),
            None => fit::may_stay(node, &self.placement),
        }
    }
}

impl Plan {
    /// Whether the relays of a DaemonSet, on one node or on all, are not to be started yet.
    pub fn waits(&self, node: Option<&String>) -> bool {
        let pending = |node: &String| self.pending.contains(node);
        self.waiting.is_some() && (self.pending.is_empty() || node.is_some_and(pending))
    }
}

/// What a region waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// In CamelCase, documented.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

/// Plans every region of `relay`.
pub fn plan(relay: &mut ValidatedRelay, seen: &Surroundings) {
    relay.monitoring_kinds.clone_from(&seen.monitoring_kinds);
    choose_nodes(relay, seen);
    for region in &mut relay.regions {
        match endpoints::endpoints(region, seen) {
            Ok(endpoints) => region.plan.endpoints = endpoints,
            Err(waiting) => region.plan.waiting = Some(waiting),
        }
        if region.exposure.kind == ExposureType::LoadBalancer {
            region.plan.ports = load_balancers::ports(region, relay.port, seen);
            region.plan.elastic_ips = elastic_ips::assign(region, seen);
            region.plan.unserved = elastic_ips::unserved(region, seen);
            balance(region, seen);
        }
        addresses::complete(region, seen);
        if !relay.enabled {
            // Nothing is to be started, so nothing is waited for.
            region.plan.waiting = None;
            region.plan.pending.clear();
        }
    }
}

/// Notes what load balancers give the relays of `region`.
fn balance(region: &mut ValidatedRegion, seen: &Surroundings) {
    let mut given = load_balancers::given(region, seen);
    given.waiting.extend(elastic_ips::missing(region, seen));
    region.plan.endpoints = given.addresses;
    for (node, names) in given.names {
        region
            .endpoints
            .nodes
            .entry(node)
            .or_default()
            .fixed
            .extend(names);
    }
    region.plan.pending = given.waiting.keys().cloned().collect();
    // What only a person can mend is told first.
    let mut waiting: Vec<_> = given.waiting.into_values().collect();
    waiting.sort_by_key(|waiting| waiting.reason != elastic_ips::MISSING);
    region.plan.waiting = waiting.into_iter().next();
}

/// Decides which nodes get a relay, where that is not left to the DaemonSet.
fn choose_nodes(relay: &mut ValidatedRelay, seen: &Surroundings) {
    let (namespace, name) = (relay.namespace.clone(), relay.name.clone());
    let running: Vec<_> = relay
        .regions
        .iter()
        .map(|region| running(&name, region, seen))
        .collect();
    let mut choices = Vec::new();
    for (at, region) in relay.regions.iter_mut().enumerate() {
        // Two relays on the network of one node would want the same port.
        let on_host = region.exposure.on_host_network();
        let elsewhere = |node: &str| {
            let other = running
                .iter()
                .enumerate()
                .any(|(other, r)| other != at && r.contains(node));
            let started = choices
                .iter()
                .any(|c: &Choice| c.start.iter().any(|n| n == node));
            on_host && (other || started)
        };
        let candidate = |node: &Arc<Node>| {
            let name = node.name_any();
            fit::may_stay(node, &region.placement).then(|| Candidate {
                zone: fit::zone(node).to_owned(),
                open: fit::may_start(node, &region.placement) && !elsewhere(&name),
                name,
            })
        };
        let candidates: Vec<_> = seen.nodes.iter().filter_map(candidate).collect();
        let gets_one = |c: &&Candidate| c.open || running[at].contains(&c.name);
        region.plan.fitting = candidates.iter().filter(gets_one).count();
        let most = most(region).map_or(usize::MAX, usize::from);
        let key = format!("{namespace}/{name}/{}", region.name);
        choices.push(choose::choose(&key, &candidates, &running[at], most));
    }
    let excess = match relay.max_relays {
        Some(total) => choose::share(&mut choices, total.into()),
        None => vec![Vec::new(); choices.len()],
    };
    for ((region, choice), excess) in relay.regions.iter_mut().zip(choices).zip(excess) {
        let limited = relay.max_relays.is_some() || most(region).is_some();
        region.plan.excess = excess;
        region.plan.chosen = limited.then(|| {
            let mut nodes: Vec<_> = choice.stay.into_iter().chain(choice.start).collect();
            nodes.sort_unstable();
            nodes
        });
    }
}

/// Relays that the region may have, if there is a number.
pub fn most(region: &ValidatedRegion) -> Option<u16> {
    let balanced = region.exposure.kind == ExposureType::LoadBalancer;
    let by_addresses = || elastic_ips::count(region).unwrap_or(BALANCED_RELAYS);
    region
        .placement
        .max_relays
        .or_else(|| balanced.then(by_addresses))
}

/// Nodes on which the region has a relay: those with a DaemonSet or a Service of their own; before
/// the first of these, those that report.
fn running(relay: &str, region: &ValidatedRegion, seen: &Surroundings) -> BTreeSet<String> {
    let labels = names::selector(relay, &region.name);
    let is_ours = |metadata: &ObjectMeta| {
        let found = metadata.labels.as_ref();
        let has = |(key, value): (&String, &String)| found.and_then(|l| l.get(key)) == Some(value);
        labels.iter().all(has) && metadata.deletion_timestamp.is_none()
    };
    let sets = seen.daemon_sets.iter().filter(|set| is_ours(&set.metadata));
    let services = seen
        .services
        .iter()
        .filter(|service| is_ours(&service.metadata));
    let mut nodes: BTreeSet<_> = services
        .filter_map(|service| service.annotations().get(names::NODE_ANNOTATION).cloned())
        .collect();
    for set in sets {
        match set.annotations().get(names::NODE_ANNOTATION) {
            Some(node) => {
                nodes.insert(node.clone());
            }
            None => nodes.extend(
                seen.relay_nodes
                    .iter()
                    .filter(|node| node.spec.peer_relay == relay && node.spec.region == region.name)
                    .map(|node| node.spec.node_name.clone()),
            ),
        }
    }
    nodes
}

#[cfg(test)]
mod tests;
