//! Addresses that lead to the relays of a region through a Service of type NodePort.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::core::v1::{Node, Service};
use kube::ResourceExt;

use super::{Waiting, fit::fits};
use crate::operator::{validate::ValidRegion, view::ClusterView};

/// Addresses of each node at the node port.
///
/// # Errors
/// The cluster has not assigned a node port to the Service yet.
pub(super) fn addresses(
    region: &ValidRegion,
    view: &ClusterView,
) -> Result<BTreeMap<String, Vec<SocketAddr>>, Waiting> {
    let waiting = || Waiting {
        reason: "NodePortPending",
        message: format!(
            "the cluster has not given Service {} a node port yet",
            region.child
        ),
    };
    let service = view.services.iter().find(|s| s.name_any() == region.child);
    let service = service.ok_or_else(waiting)?;
    let port = node_port(service).ok_or_else(waiting)?;
    let families = families(service);
    let nodes = view
        .nodes
        .iter()
        .filter(|node| fits(node, &region.placement));
    let at = |node: &Node| -> Vec<SocketAddr> {
        let ips = families.iter().flat_map(|v6| reachable(node, *v6));
        ips.map(|ip| SocketAddr::new(ip, port)).collect()
    };
    Ok(nodes
        .map(|node| (node.name_any(), at(node)))
        .filter(|(_, addresses)| !addresses.is_empty())
        .collect())
}

/// Returns the node port of a NodePort Service. A Service of another type has no port to use.
fn node_port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    let port = spec.ports.as_ref()?.first()?.node_port?;
    u16::try_from(port)
        .ok()
        .filter(|port| *port != 0 && spec.type_.as_deref() == Some("NodePort"))
}

/// IP versions that a Service serves, IPv4 first; `true` is IPv6.
fn families(service: &Service) -> Vec<bool> {
    let families = service.spec.as_ref().and_then(|s| s.ip_families.as_ref());
    let has = |name: &str| families.is_some_and(|f| f.iter().any(|family| family == name));
    [false, true]
        .into_iter()
        .filter(|v6| has(if *v6 { "IPv6" } else { "IPv4" }))
        .collect()
}

/// Returns the addresses of one IP version at which clients reach a node: external addresses, or
/// internal ones if it has no external address.
fn reachable(node: &Node, v6: bool) -> Vec<IpAddr> {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_ref());
    let of = |kind: &str| -> Vec<IpAddr> {
        let all = addresses.into_iter().flatten();
        all.filter(|a| a.type_ == kind)
            .filter_map(|a| a.address.parse::<IpAddr>().ok())
            .filter(|ip| ip.is_ipv6() == v6)
            .collect()
    };
    match of("ExternalIP") {
        none if none.is_empty() => of("InternalIP"),
        external => external,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::operator::{fixtures, plan::RegionPlan};

    #[test]
    fn each_node_is_reached_at_its_external_address_else_its_internal() {
        let nodes = [
            node(
                "n1",
                &[("InternalIP", "10.0.0.1"), ("ExternalIP", "203.0.113.1")],
            ),
            node(
                "n2",
                &[("InternalIP", "10.0.0.2"), ("InternalIP", "2001:db8::2")],
            ),
            node("n3", &[("Hostname", "n3")]),
        ];
        let region = planned(&nodes, &[service(json!(31_000), &["IPv4", "IPv6"])]);
        let texts = |name: &str| -> Vec<String> {
            let endpoints = region.access.addresses.get(name);
            endpoints
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(texts("n1"), ["203.0.113.1:31000"]);
        assert_eq!(texts("n2"), ["10.0.0.2:31000", "[2001:db8::2]:31000"]);
        assert!(!region.access.addresses.contains_key("n3"));
    }

    #[test]
    fn only_families_that_the_service_serves_are_advertised() {
        let nodes = [node(
            "n1",
            &[("InternalIP", "10.0.0.1"), ("InternalIP", "2001:db8::1")],
        )];
        let region = planned(&nodes, &[service(json!(31_000), &["IPv6"])]);
        assert_eq!(
            region.access.addresses["n1"][0].to_string(),
            "[2001:db8::1]:31000"
        );
        assert_eq!(region.access.addresses["n1"].len(), 1);
    }

    #[test]
    fn relays_wait_for_the_node_port() {
        let nodes = [node("n1", &[("InternalIP", "10.0.0.1")])];
        for services in [vec![], vec![service(Value::Null, &["IPv4"])]] {
            let waiting = planned(&nodes, &services).start.waiting.unwrap();
            assert_eq!(waiting.reason, "NodePortPending");
        }
    }

    fn planned(nodes: &[Node], services: &[Service]) -> RegionPlan {
        let region = json!({
            "name": "office", "clients": ["tag:office"], "exposure": {"type": "NodePort"},
        });
        let view = ClusterView {
            nodes: nodes.iter().cloned().map(Arc::new).collect(),
            services: services.iter().cloned().map(Arc::new).collect(),
            ..ClusterView::default()
        };
        fixtures::planned_in(json!({"regions": [region]}), &view)
            .plan
            .regions
            .remove(0)
    }

    fn node(name: &str, addresses: &[(&str, &str)]) -> Node {
        let address = |(kind, address): &(&str, &str)| json!({"type": kind, "address": address});
        let addresses: Vec<_> = addresses.iter().map(address).collect();
        let node = json!({"metadata": {"name": name}, "status": {"addresses": addresses}});
        serde_json::from_value(node).unwrap()
    }

    fn service(node_port: Value, families: &[&str]) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "edge-office"},
            "spec": {
                "type": "NodePort", "ipFamilies": families,
                "ports": [{"port": 40_000, "nodePort": node_port}],
            },
        }))
        .unwrap()
    }
}
