//! Plan of a PeerRelay: the decisions that depend on the state of the cluster. Pure.
//!
//! A plan contains nodes, addresses, load balancers, withdrawn relays, the peers that relays probe,
//! and the relays that may be replaced now.

mod addresses;
mod auth_keys;
mod choose;
mod devices;
mod elastic_ips;
mod fit;
mod load_balancers;
mod node_ports;
mod peers;
mod placement;
mod policy;
pub mod rollout;
pub mod withdrawal;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Deref,
};

use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::ResourceExt;

pub use self::{
    auth_keys::{RegionKeys, WantedKey},
    devices::DevicePlan,
    elastic_ips::ElasticIp,
    fit::requirements,
    policy::{DIFF as POLICY_DIFF, PolicyPlan},
};
use self::{load_balancers::Assigned, rollout::Rollout, withdrawal::Leaving};
use super::{
    daemon_sets,
    host_ports::{Holder, HostPort},
    kinds::MonitoringKind,
    validate::{ValidRegion, ValidSpec},
    view::ClusterView,
};
use crate::{
    config::{
        endpoints::{EndpointsConfig, StaticEndpoint},
        peers::ProbePeer,
        withdrawals::Withdrawals,
    },
    crd::exposure::ExposureType,
    names,
};

/// Decisions about a PeerRelay.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Decisions about each region, in the order of the specification.
    pub regions: Vec<RegionPlan>,
    /// Kinds of prometheus-operator that are installed in the cluster.
    pub monitoring_kinds: BTreeSet<MonitoringKind>,
    /// Relays that will be removed.
    pub leaving: Option<Leaving>,
    /// Order in which changed relays are replaced.
    pub rollout: Rollout,
    /// Tailnet devices of the relays.
    pub devices: DevicePlan,
    /// Entries of the tailnet policy.
    pub policy: PolicyPlan,
}

/// Decisions about a region.
#[derive(Debug, Clone, Default)]
pub struct RegionPlan {
    /// Nodes that have or get a relay.
    pub nodes: NodePlan,
    /// Services that lead to the relays, and their addresses.
    pub access: AccessPlan,
    /// Conditions for the start of relays.
    pub start: StartPlan,
    /// Endpoints that relays advertise, including those that the cluster has assigned.
    pub endpoints: EndpointsConfig,
    /// Nodes whose annotation with endpoints cannot be read.
    pub bad_annotations: BTreeSet<String>,
    /// Relays that the relays of the region probe, and relays that probe them.
    pub peers: Vec<ProbePeer>,
    /// Relays that accept no new sessions.
    pub withdrawals: Withdrawals,
    /// Auth keys for relays that request one.
    pub keys: RegionKeys,
}

/// The nodes of a region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodePlan {
    /// Chosen nodes, each with its own DaemonSet. `None` if every node that fits gets a relay.
    pub chosen: Option<Vec<String>>,
    /// Number of nodes that have a relay or could get one.
    pub fitting: usize,
    /// Nodes that fit, and get no relay because the total is used up.
    pub excess: Vec<String>,
    /// Node that fits but is not chosen because another PeerRelay uses a port there, with the port
    /// and its owner.
    pub conflict: Option<(String, HostPort, Holder)>,
    /// Nodes that get a relay when the relay of another region on them has ended.
    pub awaited: Vec<String>,
}

/// Addresses and Services through which clients reach the relays of a region, by node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessPlan {
    /// Addresses that lead to each relay; relays advertise them before all others.
    pub addresses: BTreeMap<String, Vec<SocketAddr>>,
    /// DNS names that lead to each relay, with a port.
    pub names: BTreeMap<String, Vec<StaticEndpoint>>,
    /// Ports of the relays' own Services.
    pub ports: BTreeMap<String, u16>,
    /// Elastic IPs of the relays' own load balancers.
    pub elastic_ips: BTreeMap<String, ElasticIp>,
    /// Nodes whose relay gets no Service.
    pub unserved: BTreeSet<String>,
}

/// The conditions for the start of a region's relays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartPlan {
    /// First condition that is not met yet.
    pub waiting: Option<Waiting>,
    /// Nodes whose relay waits. If empty, all relays of the region wait.
    pub pending: BTreeSet<String>,
}

/// A condition that relays wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Documented reason, in CamelCase.
    pub reason: &'static str,
    /// Sentence that names the missing object.
    pub message: String,
}

/// A region together with its plan.
#[derive(Debug, Clone, Copy)]
pub struct Region<'a> {
    /// Validated region.
    pub spec: &'a ValidRegion,
    /// Decisions about the region.
    pub plan: &'a RegionPlan,
}

impl Deref for Region<'_> {
    type Target = ValidRegion;

    fn deref(&self) -> &ValidRegion {
        self.spec
    }
}

impl Region<'_> {
    /// Names of the DaemonSets that run the region's relays.
    pub fn daemon_sets(&self) -> Vec<String> {
        match &self.plan.nodes.chosen {
            None => vec![self.child.clone()],
            Some(nodes) => nodes
                .iter()
                .map(|node| names::on_node(&self.child, node))
                .collect(),
        }
    }
}

impl NodePlan {
    /// Returns whether a relay of `region` is planned on `node`.
    fn wants(&self, region: &ValidRegion, node: &Node) -> bool {
        match &self.chosen {
            Some(nodes) => nodes.contains(&node.name_any()),
            None => fit::may_stay(node, &region.placement),
        }
    }
}

impl StartPlan {
    /// Returns whether the relays of a DaemonSet must not be started yet. `node` is `None` for a
    /// DaemonSet of all nodes.
    pub fn waits(&self, node: Option<&String>) -> bool {
        let pending = |node: &String| self.pending.contains(node);
        self.waiting.is_some() && (self.pending.is_empty() || node.is_some_and(pending))
    }
}

impl Plan {
    /// Returns whether devices of the relays may be in the tailnet that the operator deletes.
    pub fn has_devices(&self) -> bool {
        let mut regions = self.regions.iter();
        !self.devices.recorded.is_empty()
            || self.devices.deletes && regions.any(|region| !region.keys.issued.0.is_empty())
    }

    /// The regions of `spec` with their plans.
    pub fn regions<'a>(&'a self, spec: &'a ValidSpec) -> impl Iterator<Item = Region<'a>> + Clone {
        let regions = spec.regions.iter().zip(&self.regions);
        regions.map(|(spec, plan)| Region { spec, plan })
    }
}

/// Plans the relays of `spec` in the cluster of `view`.
pub fn plan(spec: &ValidSpec, view: &ClusterView, now: Timestamp) -> Plan {
    let nodes = placement::place(spec, view);
    let devices = devices::plan(spec, &nodes, view, now);
    let (withdrawals, leaving) = withdrawal::plan(spec, &nodes, view, now);
    let peers = peers::assign(spec, &view.reports);
    let decided = nodes.into_iter().zip(withdrawals).zip(peers);
    let regions = spec.regions.iter().zip(decided);
    let owned = |set: &&k8s_openapi::api::apps::v1::DaemonSet| {
        daemon_sets::is_owned(set, &spec.owner.reference)
    };
    let live = view.daemon_sets.iter().map(AsRef::as_ref).filter(owned);
    Plan {
        regions: regions
            .map(|(region, ((nodes, withdrawals), peers))| RegionPlan {
                peers,
                withdrawals,
                keys: auth_keys::plan(spec, region, view),
                ..region_plan(spec, region, nodes, view)
            })
            .collect(),
        monitoring_kinds: view.monitoring_kinds.clone(),
        leaving,
        devices,
        policy: policy::plan(spec, view),
        rollout: Rollout::new(live, &view.nodes, &view.reports, now),
    }
}

/// Plans Services, addresses and endpoints of the relays of `region` on these nodes.
fn region_plan(
    spec: &ValidSpec,
    region: &ValidRegion,
    nodes: NodePlan,
    view: &ClusterView,
) -> RegionPlan {
    let (access, start) = match region.exposure.kind {
        ExposureType::HostNetwork => Default::default(),
        ExposureType::NodePort => node_port(region, view),
        ExposureType::LoadBalancer => balance(spec, region, &nodes, view),
    };
    let (endpoints, bad_annotations) = addresses::complete(region, &nodes, &access, view);
    RegionPlan {
        nodes,
        access,
        // Without relays to start, there is nothing to wait for.
        start: if spec.enabled {
            start
        } else {
            StartPlan::default()
        },
        endpoints,
        bad_annotations,
        ..RegionPlan::default()
    }
}

fn node_port(region: &ValidRegion, view: &ClusterView) -> (AccessPlan, StartPlan) {
    let (addresses, waiting) = match node_ports::addresses(region, view) {
        Ok(addresses) => (addresses, None),
        Err(waiting) => (BTreeMap::new(), Some(waiting)),
    };
    let access = AccessPlan {
        addresses,
        ..AccessPlan::default()
    };
    let start = StartPlan {
        waiting,
        ..StartPlan::default()
    };
    (access, start)
}

fn balance(
    spec: &ValidSpec,
    region: &ValidRegion,
    nodes: &NodePlan,
    view: &ClusterView,
) -> (AccessPlan, StartPlan) {
    let nodes = nodes.chosen.as_deref().unwrap_or_default();
    let ports = load_balancers::ports(region, nodes, spec.port, view);
    let elastic_ips = elastic_ips::assign(region, nodes, view);
    let missing = elastic_ips::missing(region, nodes, &elastic_ips, view);
    let Assigned {
        addresses,
        names,
        mut waiting,
    } = load_balancers::assigned(region, nodes, &ports, view);
    let access = AccessPlan {
        addresses,
        names,
        ports,
        elastic_ips,
        unserved: elastic_ips::unserved(region, missing.keys(), view),
    };
    waiting.extend(missing);
    let pending = waiting.keys().cloned().collect();
    // A problem that only a user can fix is reported first.
    let mut waiting: Vec<_> = waiting.into_values().collect();
    waiting.sort_by_key(|waiting| waiting.reason != elastic_ips::MISSING);
    let start = StartPlan {
        waiting: waiting.into_iter().next(),
        pending,
    };
    (access, start)
}

#[cfg(test)]
mod tests;
