//! The assignment of Elastic IPs of AWS to relays.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;

use super::{Waiting, fit, load_balancers::service_of};
use crate::{
    crd::exposure::ElasticIps,
    names::ELASTIC_IP_ANNOTATION,
    operator::{validate::ValidRegion, view::ClusterView},
};

/// Reason of a relay without an Elastic IP.
pub(super) const MISSING: &str = "ElasticIPMissing";

/// Elastic IP of a load balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElasticIp {
    /// Allocation ID of the Elastic IP.
    pub allocation: String,
    /// Public subnet of the load balancer.
    pub subnet: String,
}

/// Assigns an Elastic IP to the relay on each of `nodes`, as long as the zone has a free one. A
/// relay that has one keeps it. Others get the first free one.
pub(super) fn assign(
    region: &ValidRegion,
    nodes: &[String],
    view: &ClusterView,
) -> BTreeMap<String, ElasticIp> {
    let pools = pools(region);
    let pool = |node: &str| {
        let zone = zone(node, view);
        pools.iter().find(|pool| Some(&*pool.zone) == zone)
    };
    let mut assigned = BTreeMap::new();
    let mut taken = BTreeSet::new();
    let mut give = |node: &String, pool: &ElasticIps, allocation: &String| {
        let is_free = !assigned.contains_key(node) && taken.insert(allocation.clone());
        if is_free {
            let (allocation, subnet) = (allocation.clone(), pool.subnet.clone());
            assigned.insert(node.clone(), ElasticIp { allocation, subnet });
        }
        is_free
    };
    for node in nodes {
        let service = service_of(region, node, view);
        let has = service.and_then(|s| s.annotations().get(ELASTIC_IP_ANNOTATION));
        if let (Some(pool), Some(has)) = (pool(node), has)
            && pool.allocations.contains(has)
        {
            give(node, pool, has);
        }
    }
    for node in nodes {
        if let Some(pool) = pool(node) {
            // This fails for all of them if the node has one.
            pool.allocations.iter().any(|a| give(node, pool, a));
        }
    }
    assigned
}

/// The missing Elastic IPs of relays on `nodes`, where relays have one.
pub(super) fn missing(
    region: &ValidRegion,
    nodes: &[String],
    assigned: &BTreeMap<String, ElasticIp>,
    view: &ClusterView,
) -> BTreeMap<String, Waiting> {
    if pools(region).is_empty() {
        return BTreeMap::new();
    }
    let without = nodes.iter().filter(|node| !assigned.contains_key(*node));
    let waiting = |node: &String| Waiting {
        reason: MISSING,
        message: format!(
            "no Elastic IP is left for the relay on node {node} in zone '{}': add one to \
             exposure.loadBalancer.elasticIPs of region {}, or lower placement.maxRelays",
            zone(node, view).unwrap_or_default(),
            region.name
        ),
    };
    without.map(|node| (node.clone(), waiting(node))).collect()
}

/// Returns the nodes of `missing` that get no Service. Without an Elastic IP, the Service would
/// have an address that external firewalls do not allow. An existing Service stays.
pub(super) fn unserved<'a>(
    region: &ValidRegion,
    missing: impl Iterator<Item = &'a String>,
    view: &ClusterView,
) -> BTreeSet<String> {
    let unserved = missing.filter(|node| service_of(region, node, view).is_none());
    unserved.cloned().collect()
}

fn pools(region: &ValidRegion) -> &[ElasticIps] {
    let balancer = region.exposure.load_balancer.as_ref();
    balancer.map_or(&[], |balancer| &balancer.elastic_ips)
}

fn zone<'a>(node: &str, view: &'a ClusterView) -> Option<&'a str> {
    let node = view.nodes.iter().find(|n| n.name_any() == node)?;
    Some(fit::zone(node))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        names,
        operator::fixtures::{self, Fixture},
    };

    #[test]
    fn each_relay_has_an_elastic_ip_of_its_zone_and_the_subnet_with_it() {
        let relay = planned(json!({}), &cluster(&[]));
        let plan = &relay.plan.regions[0];
        assert_eq!(plan.nodes.chosen.as_ref().unwrap(), &["a1", "a2", "b1"]);
        assert_eq!(
            assigned(&relay),
            [
                ("a1", "eipalloc-1"),
                ("a2", "eipalloc-2"),
                ("b1", "eipalloc-3")
            ]
        );
        let service = services(&relay).remove("b1").unwrap();
        let prefix = "service.beta.kubernetes.io/aws-load-balancer";
        assert_eq!(service[format!("{prefix}-eip-allocations")], "eipalloc-3");
        assert_eq!(service[format!("{prefix}-subnets")], "subnet-b");
    }

    #[test]
    fn who_has_an_elastic_ip_keeps_it() {
        let relay = planned(
            json!({}),
            &cluster(&[("a1", "eipalloc-2"), ("b1", "eipalloc-gone")]),
        );
        assert_eq!(
            assigned(&relay),
            [
                ("a1", "eipalloc-2"),
                ("a2", "eipalloc-1"),
                ("b1", "eipalloc-3")
            ]
        );
    }

    #[test]
    fn a_relay_for_which_none_is_left_waits_without_a_service() {
        let few = json!([{"zone": "a", "subnet": "subnet-a", "allocations": ["eipalloc-1"]}]);
        let relay = planned(json!({"elasticIPs": few, "max": 2}), &cluster(&[]));
        let plan = &relay.plan.regions[0];
        assert_eq!(assigned(&relay), [("a1", "eipalloc-1")]);
        assert!(plan.start.pending.contains("a2"));
        assert!(services(&relay).keys().eq(["a1"]));
        // The other relay waits for its address, which needs no action.
        let waiting = plan.start.waiting.as_ref().unwrap();
        assert_eq!(waiting.reason, "ElasticIPMissing");
        assert!(waiting.message.contains("zone 'a'"), "{}", waiting.message);
    }

    #[test]
    fn what_a_relay_had_before_stays() {
        let few = json!([{"zone": "a", "subnet": "subnet-a", "allocations": ["eipalloc-1"]}]);
        let seen = cluster(&[("a2", "")]);
        let relay = planned(json!({"elasticIPs": few, "max": 2}), &seen);
        assert!(services(&relay).keys().eq(["a1", "a2"]));
    }

    #[test]
    fn zones_of_the_user_win() {
        let relay = planned(json!({"zones": ["b"]}), &cluster(&[]));
        assert_eq!(assigned(&relay), [("b1", "eipalloc-3")]);
    }

    fn planned(wanted: Value, seen: &ClusterView) -> Fixture {
        let all = json!([
            {"zone": "a", "subnet": "subnet-a", "allocations": ["eipalloc-1", "eipalloc-2"]},
            {"zone": "b", "subnet": "subnet-b", "allocations": ["eipalloc-3"]},
        ]);
        let pools = wanted.get("elasticIPs").unwrap_or(&all);
        let mut placement = json!({});
        if let Some(zones) = wanted.get("zones") {
            placement["zones"] = zones.clone();
        }
        if let Some(max) = wanted.get("max") {
            placement["maxRelays"] = max.clone();
        }
        let region = json!({
            "name": "office", "clients": ["tag:office"], "placement": placement,
            "exposure": {"type": "LoadBalancer", "loadBalancer": {"elasticIPs": pools}},
        });
        fixtures::planned_in(json!({"regions": [region], "maxRelays": 9}), seen)
    }

    fn assigned(relay: &Fixture) -> Vec<(&str, &str)> {
        let all = relay.plan.regions[0].access.elastic_ips.iter();
        all.map(|(node, ip)| (&**node, &*ip.allocation)).collect()
    }

    /// Annotations of Services by node.
    fn services(relay: &Fixture) -> BTreeMap<String, Value> {
        let services = relay.build().services;
        let of_relays = services.iter().filter_map(|service| {
            let node = service.annotations().get(names::NODE_ANNOTATION)?;
            Some((node.clone(), json!(service.annotations())))
        });
        of_relays.collect()
    }

    fn cluster(services: &[(&str, &str)]) -> ClusterView {
        let node = |(name, zone): &(&str, &str)| {
            let labels = json!({names::ZONE_LABEL: zone});
            let node = json!({"metadata": {"name": name, "labels": labels}});
            Arc::new(serde_json::from_value(node).unwrap())
        };
        let service = |(node, allocation): &(&str, &str)| {
            let annotations =
                json!({names::NODE_ANNOTATION: node, ELASTIC_IP_ANNOTATION: allocation});
            let service = json!({"metadata": {
                "name": names::on_node("edge-office", node), "annotations": annotations,
                "labels": names::selector("edge", "office"),
            }});
            Arc::new(serde_json::from_value(service).unwrap())
        };
        let nodes = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("c1", "c")];
        ClusterView {
            nodes: nodes.iter().map(node).collect(),
            services: services.iter().map(service).collect(),
            ..ClusterView::default()
        }
    }
}
