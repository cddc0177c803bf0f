//! Endpoints that relays advertise, completed with addresses and annotations of their nodes.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::{AccessPlan, NodePlan, fit::fits};
use crate::{
    config::endpoints::{Discover, EndpointsConfig, StaticEndpoint},
    names::STATIC_ENDPOINTS_ANNOTATION,
    operator::{validate::ValidRegion, view::ClusterView},
};

/// Maximum number of endpoints in an annotation.
const MOST: usize = 16;

/// Completes the endpoints that the relays of `region` advertise with the addresses of their
/// Services, with annotations of nodes and with the addresses of the nodes that fit. Also returns
/// the nodes whose annotation is not a list of endpoints.
pub(super) fn complete(
    region: &ValidRegion,
    nodes: &NodePlan,
    access: &AccessPlan,
    view: &ClusterView,
) -> (EndpointsConfig, BTreeSet<String>) {
    let mut endpoints = region.endpoints.clone();
    for (name, names) in &access.names {
        let node = endpoints.nodes.entry(name.clone()).or_default();
        node.fixed.extend(names.iter().cloned());
    }
    for (name, assigned) in &access.addresses {
        let node = endpoints.nodes.entry(name.clone()).or_default();
        node.assigned.clone_from(assigned);
    }
    let sources = endpoints.sources().to_vec();
    let mut refused = BTreeSet::new();
    for node in view.nodes.iter().filter(|n| fits(n, &region.placement)) {
        let name = node.name_any();
        let annotated = annotated(node).unwrap_or_else(|()| {
            refused.insert(name.clone());
            Vec::new()
        });
        let wants = |source| sources.contains(&source);
        let ips = |kind, wanted: bool| match wanted {
            true => addresses(node, kind),
            false => Vec::new(),
        };
        let external_ips = ips("ExternalIP", wants(Discover::NodeExternalIp));
        let internal_ips = ips("InternalIP", wants(Discover::NodeInternalIp));
        if annotated.is_empty() && external_ips.is_empty() && internal_ips.is_empty() {
            continue;
        }
        let entry = endpoints.nodes.entry(name).or_default();
        entry.fixed.extend(annotated);
        entry.external_ips = external_ips;
        entry.internal_ips = internal_ips;
    }
    // Every relay reads the whole list, and each change of it is sent to all of them.
    if let Some(chosen) = &nodes.chosen {
        endpoints.nodes.retain(|node, _| chosen.contains(node));
        refused.retain(|node| chosen.contains(node));
    }
    (endpoints, refused)
}

/// Returns the endpoints in the annotation of a node, or an error if it contains anything else.
fn annotated(node: &Node) -> Result<Vec<StaticEndpoint>, ()> {
    let Some(text) = node.annotations().get(STATIC_ENDPOINTS_ANNOTATION) else {
        return Ok(Vec::new());
    };
    let texts = text
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty());
    let endpoints: Result<Vec<_>, _> = texts.map(str::parse).collect();
    endpoints
        .ok()
        .filter(|endpoints| endpoints.len() <= MOST)
        .ok_or(())
}

fn addresses(node: &Node, kind: &str) -> Vec<IpAddr> {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_ref());
    let of_kind = addresses.into_iter().flatten().filter(|a| a.type_ == kind);
    of_kind.filter_map(|a| a.address.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::operator::{fixtures, plan::RegionPlan};

    fn planned(endpoints: Value, nodes: &[Value]) -> RegionPlan {
        let region = json!({"name": "office", "clients": ["tag:office"], "endpoints": endpoints});
        let node = |node: &Value| Arc::new(serde_json::from_value(node.clone()).unwrap());
        let view = ClusterView {
            nodes: nodes.iter().map(node).collect(),
            ..ClusterView::default()
        };
        fixtures::planned_in(json!({"regions": [region]}), &view)
            .plan
            .regions
            .remove(0)
    }

    fn node(name: &str, annotation: Option<&str>) -> Value {
        json!({
            "metadata": {"name": name, "annotations": annotation.map(|text| {
                json!({"peerrelay.dev/static-endpoints": text})
            })},
            "status": {"addresses": [
                {"type": "ExternalIP", "address": "203.0.113.1"},
                {"type": "InternalIP", "address": "10.0.0.1"},
            ]},
        })
    }

    #[test]
    fn annotation_adds_to_what_the_spec_says_of_a_node() {
        let spec = json!({"perNode": {"n1": ["203.0.113.7:7"]}});
        let region = planned(
            spec,
            &[node("n1", Some("relay.example.net:8, [2001:db8::1]:9"))],
        );
        let fixed: Vec<_> = region.endpoints.nodes["n1"]
            .fixed
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            fixed,
            ["203.0.113.7:7", "relay.example.net:8", "[2001:db8::1]:9"]
        );
        assert!(region.bad_annotations.is_empty());
    }

    #[test]
    fn annotation_that_is_no_list_of_endpoints_is_named_and_not_used() {
        let mut bare = node("n1", Some("203.0.113.1"));
        bare["status"] = json!({});
        let region = planned(json!({}), &[bare]);
        assert!(!region.endpoints.nodes.contains_key("n1"));
        assert!(region.bad_annotations.contains("n1"));
    }

    #[test]
    fn internal_addresses_are_told_on_request_only() {
        let region = planned(json!({}), &[node("n1", None)]);
        let known = &region.endpoints.nodes["n1"];
        assert_eq!(
            known.external_ips,
            ["203.0.113.1".parse::<IpAddr>().unwrap()]
        );
        assert!(known.internal_ips.is_empty());
        let asked = planned(json!({"discover": ["NodeInternalIP"]}), &[node("n1", None)]);
        let known = &asked.endpoints.nodes["n1"];
        assert_eq!(known.internal_ips, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert!(known.external_ips.is_empty());
        let none = planned(json!({"advertise": "StaticOnly"}), &[node("n1", None)]);
        assert!(none.endpoints.nodes.is_empty());
    }
}
