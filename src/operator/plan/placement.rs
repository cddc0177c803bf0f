//! Choice of the nodes that get relays, if no DaemonSet of a region decides this.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;

use super::{
    NodePlan,
    choose::{Candidate, Request, choose},
    fit,
};
use crate::{
    crd::placement::MOST_CHOSEN,
    names,
    operator::{
        daemon_sets,
        host_ports::{Holder, HostPort, Taken, relay_of},
        validate::{ValidRegion, ValidSpec},
        view::ClusterView,
    },
};

/// Decides which nodes get a relay, for each region of `relay`.
pub(super) fn place(relay: &ValidSpec, view: &ClusterView) -> Vec<NodePlan> {
    let mut requests: Vec<_> = relay
        .regions
        .iter()
        .map(|region| request(relay, region, view))
        .collect();
    let mut plans: Vec<_> = requests
        .iter()
        .map(|request| NodePlan {
            fitting: fitting(request).count(),
            ..NodePlan::default()
        })
        .collect();
    let individually = individually(relay, &requests);
    if !individually.contains(&true) {
        return plans;
    }
    let taken = Taken::new(&view.pods);
    for (at, request) in requests.iter_mut().enumerate() {
        if individually[at] && request.exclusive {
            plans[at].conflict = avoid(relay, request, &taken, view);
        }
    }
    let allowance = relay.max_relays.map_or(usize::MAX, usize::from);
    let choices = choose(&requests, allowance);
    for (at, (plan, choice)) in plans.iter_mut().zip(choices).enumerate() {
        if individually[at] {
            let mut nodes: Vec<_> = choice.stay.into_iter().chain(choice.start).collect();
            nodes.sort_unstable();
            plan.chosen = Some(nodes);
            plan.awaited = choice.awaited;
            plan.excess = choice.excess;
        }
    }
    plans
}

fn request(relay: &ValidSpec, region: &ValidRegion, view: &ClusterView) -> Request {
    let candidate = |node: &Arc<Node>| {
        fit::may_stay(node, &region.placement).then(|| Candidate {
            name: node.name_any(),
            zone: fit::zone(node).to_owned(),
            open: fit::is_open(node, &region.placement),
        })
    };
    Request {
        key: format!(
            "{}/{}/{}",
            relay.owner.namespace, relay.owner.name, region.name
        ),
        candidates: view.nodes.iter().filter_map(candidate).collect(),
        running: running(&relay.owner.name, region, view),
        most: region.max_relays.map_or(usize::MAX, usize::from),
        cap: MOST_CHOSEN.into(),
        exclusive: region.exposure.on_host_network(),
    }
}

/// Excludes nodes where another PeerRelay uses a port of `relay`, and returns the first of them. A
/// relay that has the ports itself stays.
fn avoid(
    relay: &ValidSpec,
    request: &mut Request,
    taken: &Taken,
    view: &ClusterView,
) -> Option<(String, HostPort, Holder)> {
    let own = format!("{}/{}", relay.owner.namespace, relay.owner.name);
    let ports = [HostPort::udp(relay.port), HostPort::tcp(relay.metrics_port)];
    let of_relay = |pod: &&Arc<Pod>| relay_of(pod).is_some_and(|name| name == own);
    let scheduled: BTreeSet<&str> = (view.pods.iter().filter(of_relay))
        .filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref())
        .collect();
    let mut conflicts = BTreeMap::new();
    request.candidates.retain(|candidate| {
        let name = &candidate.name;
        // A DaemonSet alone has no port: its pod may be waiting for the one that another relay has.
        let holds = request.running.contains(name) && scheduled.contains(&**name);
        let conflict = taken.conflict(name, &ports, &own).filter(|_| !holds);
        let free = conflict.is_none();
        conflicts.extend(conflict.map(|conflict| (name.clone(), conflict)));
        free
    });
    let (node, (port, holder)) = conflicts.pop_first()?;
    Some((node, port, holder))
}

/// Nodes that have a relay or could get one.
fn fitting(request: &Request) -> impl Iterator<Item = &str> {
    let nodes = request.candidates.iter();
    nodes
        .filter(|node| node.open || request.running.contains(&node.name))
        .map(|node| &*node.name)
}

/// Returns whether nodes are chosen one by one, by region: where a number applies that does not cover all
/// nodes anyway, and where regions on the host network could meet on a node.
///
/// A number up to [`MOST_CHOSEN`] always applies. Otherwise, one node more than the number would
/// replace all relays, because their DaemonSets change.
fn individually(relay: &ValidSpec, requests: &[Request]) -> Vec<bool> {
    let all: usize = requests
        .iter()
        .map(|r| fitting(r).count().min(r.most))
        .sum();
    let total = relay
        .max_relays
        .is_some_and(|total| total <= MOST_CHOSEN || all > usize::from(total));
    let (mut once, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for request in requests.iter().filter(|request| request.exclusive) {
        let again = fitting(request).filter(|node| !once.insert(*node));
        twice.extend(again.collect::<Vec<_>>());
    }
    let meets = |r: &Request| r.exclusive && fitting(r).any(|node| twice.contains(node));
    requests
        .iter()
        .map(|request| total || request.most < usize::MAX || meets(request))
        .collect()
}

/// Returns the nodes on which the region has a relay: nodes with their own DaemonSet or Service,
/// or, if there is none, nodes with a report.
fn running(relay: &str, region: &ValidRegion, view: &ClusterView) -> BTreeSet<String> {
    let labels = names::selector(relay, &region.name);
    let is_ours = |metadata: &ObjectMeta| {
        let found = metadata.labels.as_ref();
        let has = |(key, value): (&String, &String)| found.and_then(|l| l.get(key)) == Some(value);
        labels.iter().all(has) && metadata.deletion_timestamp.is_none()
    };
    let sets = view.daemon_sets.iter().filter(|set| is_ours(&set.metadata));
    let services = view
        .services
        .iter()
        .filter(|service| is_ours(&service.metadata));
    // A relay behind a load balancer has a Service before it has a DaemonSet, which waits for the address.
    // Without it, another node might be chosen meanwhile.
    let mut nodes: BTreeSet<_> = services
        .filter_map(|service| service.annotations().get(names::NODE_ANNOTATION).cloned())
        .collect();
    for set in sets {
        match daemon_sets::only_node(set) {
            Some(node) => {
                nodes.insert(node.clone());
            }
            None => nodes.extend(
                view.relay_nodes
                    .iter()
                    .filter(|node| node.spec.peer_relay == relay && node.spec.region == region.name)
                    .map(|node| node.spec.node_name.clone()),
            ),
        }
    }
    nodes
}
