//! Ports and addresses of relays behind load balancers.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;

use super::Waiting;
use crate::{
    config::endpoints::StaticEndpoint,
    crd::placement::MOST_CHOSEN,
    names,
    operator::{validate::ValidRegion, view::ClusterView},
};

/// The addresses that load balancers have assigned to the relays of a region, by node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Assigned {
    /// IP addresses with ports.
    pub(super) addresses: BTreeMap<String, Vec<SocketAddr>>,
    /// DNS names with ports, which relays resolve.
    pub(super) names: BTreeMap<String, Vec<StaticEndpoint>>,
    /// Missing addresses. Relays with an address start anyway.
    pub(super) waiting: BTreeMap<String, Waiting>,
}

/// Returns the port of the relay on each of `nodes`: `port`, or different ports if the relays share
/// an address. A relay that has a port keeps it. Others get the lowest free port.
pub(super) fn ports(
    region: &ValidRegion,
    nodes: &[String],
    port: u16,
    view: &ClusterView,
) -> BTreeMap<String, u16> {
    let wanted = region.exposure.load_balancer.clone().unwrap_or_default();
    if !wanted.share_address {
        return nodes.iter().map(|node| (node.clone(), port)).collect();
    }
    let first = wanted.base_port.unwrap_or(port);
    let mut ports = BTreeMap::new();
    for node in nodes {
        let has = service_of(region, node, view).and_then(service_port);
        let fits = |port: &u16| (first..first.saturating_add(MOST_CHOSEN)).contains(port);
        let is_free = |port: &u16| !ports.values().any(|taken| taken == port);
        if let Some(port) = has.filter(fits).filter(is_free) {
            ports.insert(node.clone(), port);
        }
    }
    for node in nodes {
        if !ports.contains_key(node) {
            let taken: Vec<u16> = ports.values().copied().collect();
            let free = (first..=u16::MAX).find(|port| !taken.contains(port));
            ports.extend(free.map(|port| (node.clone(), port)));
        }
    }
    ports
}

/// Returns the addresses that load balancers have assigned so far to the Services of the relays on
/// `nodes`, with these ports.
pub(super) fn assigned(
    region: &ValidRegion,
    nodes: &[String],
    ports: &BTreeMap<String, u16>,
    view: &ClusterView,
) -> Assigned {
    let mut assigned = Assigned::default();
    for node in nodes {
        let service = service_of(region, node, view);
        let wanted = ports.get(node).copied();
        let port = service
            .and_then(service_port)
            // While the Service still has another port, its address leads nowhere with the new one.
            .filter(|port| Some(*port) == wanted);
        let (addresses, names) = match (service, port) {
            (Some(service), Some(port)) => ingress(service, port),
            _ => (Vec::new(), Vec::new()),
        };
        if addresses.is_empty() && names.is_empty() {
            let name = names::on_node(&region.child, node);
            let message = format!(
                "Service {name} has no address yet: the cluster needs a controller for Services of \
                 type LoadBalancer; kubectl describe service {name} may say more"
            );
            let waiting = Waiting {
                reason: "LoadBalancerPending",
                message,
            };
            assigned.waiting.insert(node.clone(), waiting);
            continue;
        }
        assigned.addresses.insert(node.clone(), addresses);
        assigned.names.insert(node.clone(), names);
    }
    assigned
}

fn ingress(service: &Service, port: u16) -> (Vec<SocketAddr>, Vec<StaticEndpoint>) {
    let balancer = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let all = balancer
        .and_then(|b| b.ingress.as_ref())
        .into_iter()
        .flatten();
    let ips = all
        .clone()
        .filter_map(|i| i.ip.as_ref()?.parse::<IpAddr>().ok());
    // Load balancers of AWS have a name in place of addresses.
    let hosts = all.filter_map(|i| i.hostname.as_ref());
    (
        ips.map(|ip| SocketAddr::new(ip, port)).collect(),
        hosts
            .filter_map(|host| format!("{host}:{port}").parse().ok())
            .collect(),
    )
}

/// Returns the Service of the relay on a node, unless the Service is being removed.
pub(super) fn service_of<'a>(
    region: &ValidRegion,
    node: &str,
    view: &'a ClusterView,
) -> Option<&'a Service> {
    let name = names::on_node(&region.child, node);
    view.services
        .iter()
        .map(AsRef::as_ref)
        .find(|s: &&Service| s.name_any() == name && s.metadata.deletion_timestamp.is_none())
}

fn service_port(service: &Service) -> Option<u16> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    u16::try_from(ports.first()?.port).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::sync::Arc;

    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
    use serde_json::{Value, json};

    use super::*;
    use crate::operator::fixtures;

    #[test]
    fn addresses_of_both_families_and_names_are_given() {
        let ingress =
            json!([{"ip": "192.0.2.7"}, {"ip": "2001:db8::7"}, {"hostname": "lb.example.net"}]);
        let seen = seen(&[("n1", 40_000, ingress)]);
        let planned = region(&["n1"], json!({}), &seen);
        let assigned = assigned_to(&planned, &seen);
        let texts: Vec<_> = assigned.addresses["n1"]
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(texts, ["192.0.2.7:40000", "[2001:db8::7]:40000"]);
        assert_eq!(assigned.names["n1"][0].to_string(), "lb.example.net:40000");
        assert!(assigned.waiting.is_empty());
    }

    #[test]
    fn only_the_relay_without_an_address_waits() {
        let seen = seen(&[
            ("n1", 40_000, json!([{"ip": "192.0.2.7"}])),
            ("n2", 40_000, json!([])),
        ]);
        let planned = region(&["n1", "n2", "n3"], json!({}), &seen);
        let assigned = assigned_to(&planned, &seen);
        assert!(assigned.addresses.contains_key("n1"));
        assert!(assigned.waiting.keys().eq(["n2", "n3"]));
        assert_eq!(assigned.waiting["n2"].reason, "LoadBalancerPending");
    }

    #[test]
    fn relays_that_share_an_address_keep_their_ports() {
        let share = json!({"shareAddress": true, "basePort": 50_000});
        let seen = seen(&[("n2", 50_000, json!([])), ("n3", 40_000, json!([]))]);
        let (_, _, ports) = region(&["n1", "n2", "n3"], share, &seen);
        let wanted = [("n1", 50_001), ("n2", 50_000), ("n3", 50_002)];
        assert_eq!(ports, wanted.map(|(n, p)| (n.to_owned(), p)).into());
    }

    #[test]
    fn a_service_that_is_being_removed_gives_no_address() {
        let mut seen = seen(&[("n1", 40_000, json!([{"ip": "192.0.2.7"}]))]);
        let planned = region(&["n1"], json!({}), &seen);
        assert!(assigned_to(&planned, &seen).waiting.is_empty());
        let mut service = (*seen.services[0]).clone();
        service.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        seen.services = vec![Arc::new(service)];
        assert_eq!(assigned_to(&planned, &seen).waiting.len(), 1);
    }

    #[test]
    fn an_address_with_another_port_than_wanted_is_not_given() {
        let seen = seen(&[("n1", 40_001, json!([{"ip": "192.0.2.7"}]))]);
        let planned = region(&["n1"], json!({}), &seen);
        assert_eq!(assigned_to(&planned, &seen).waiting.len(), 1);
    }

    fn region(nodes: &[&str], load_balancer: Value, seen: &ClusterView) -> Planned {
        let region = json!({
            "name": "office", "clients": ["tag:office"],
            "exposure": {"type": "LoadBalancer", "loadBalancer": load_balancer},
        });
        let region = fixtures::validated(json!({"regions": [region]}))
            .regions
            .remove(0);
        let nodes: Vec<_> = nodes.iter().map(ToString::to_string).collect();
        let ports = ports(&region, &nodes, 40_000, seen);
        (region, nodes, ports)
    }

    /// A region, its nodes and the ports of its relays.
    type Planned = (ValidRegion, Vec<String>, BTreeMap<String, u16>);

    fn assigned_to((region, nodes, ports): &Planned, seen: &ClusterView) -> Assigned {
        assigned(region, nodes, ports, seen)
    }

    fn seen(services: &[(&str, u16, Value)]) -> ClusterView {
        let service = |(node, port, ingress): &(&str, u16, Value)| {
            let service = json!({
                "metadata": {"name": names::on_node("edge-office", node)},
                "spec": {"ports": [{"port": port}]},
                "status": {"loadBalancer": {"ingress": ingress}},
            });
            Arc::new(serde_json::from_value(service).unwrap())
        };
        ClusterView {
            services: services.iter().map(service).collect(),
            ..ClusterView::default()
        }
    }
}
