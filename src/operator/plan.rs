//! What the cluster decides about a PeerRelay: nodes, and the addresses that lead to its relays.
//! Pure: from what watches have seen to a plan that builders carry out.

mod addresses;
mod choose;
mod elastic_ips;
mod endpoints;
mod fit;
mod load_balancers;
mod placement;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod, Service},
};
use kube::ResourceExt;

pub use self::{
    elastic_ips::ElasticIp,
    fit::{ZONE_LABEL, is_cordoned, requirements},
    placement::most,
};
use super::{
    build::monitoring::MonitoringKind,
    host_ports::{Holder, HostPort},
    validate::{ValidRegion, ValidSpec},
};
use crate::{
    config::peers::ProbePeer,
    config::withdrawals::Withdrawals,
    crd::{RelayNode, exposure::ExposureType},
};

/// What the cluster has, as far as it matters to a PeerRelay.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
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
    /// The relays' pods of the whole cluster.
    pub pods: Vec<Arc<Pod>>,
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
    /// A node that fits and is not chosen because another PeerRelay has a port there, and the port.
    pub conflict: Option<(String, HostPort, Holder)>,
    /// Nodes that get a relay when the relay of another region, which gives it up, is gone.
    pub awaited: Vec<String>,
    /// Addresses that lead to each relay, by node; relays advertise them before all others.
    pub endpoints: BTreeMap<String, Vec<SocketAddr>>,
    /// Ports of the relays' own Services, by node.
    pub ports: BTreeMap<String, u16>,
    /// Elastic IPs of the relays' own load balancers, by node.
    pub elastic_ips: BTreeMap<String, ElasticIp>,
    /// Nodes whose relay gets no Service.
    pub unserved: BTreeSet<String>,
    /// Relays that those of the region try, and that try them.
    pub peers: Vec<ProbePeer>,
    /// What relays wait for before they are started.
    pub waiting: Option<Waiting>,
    /// Nodes whose relay waits; all of the region when empty.
    pub pending: BTreeSet<String>,
    /// Relays that give out no sessions.
    pub withdrawals: Withdrawals,
    /// Nodes whose annotation with endpoints cannot be read.
    pub bad_annotations: BTreeSet<String>,
}

impl ValidRegion {
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
pub fn plan(relay: &mut ValidSpec, seen: &ClusterView) {
    relay.monitoring_kinds.clone_from(&seen.monitoring_kinds);
    placement::place(relay, seen);
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
fn balance(region: &mut ValidRegion, seen: &ClusterView) {
    let mut assigned = load_balancers::assigned(region, seen);
    assigned.waiting.extend(elastic_ips::missing(region, seen));
    region.plan.endpoints = assigned.addresses;
    for (node, names) in assigned.names {
        region
            .endpoints
            .nodes
            .entry(node)
            .or_default()
            .fixed
            .extend(names);
    }
    region.plan.pending = assigned.waiting.keys().cloned().collect();
    // What only a person can mend is told first.
    let mut waiting: Vec<_> = assigned.waiting.into_values().collect();
    waiting.sort_by_key(|waiting| waiting.reason != elastic_ips::MISSING);
    region.plan.waiting = waiting.into_iter().next();
}

#[cfg(test)]
mod tests;
