//! Services that the operator replaces, because Kubernetes does not allow the change of a field.
//! Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use serde_json::Value;

use crate::names;

/// The field with the class of a load balancer.
pub const CLASS: &str = "spec.loadBalancerClass";
/// The field with the IP families.
pub const FAMILIES: &str = "spec.ipFamilies";
/// The field with the ports of the nodes.
pub(super) const NODE_PORT: &str = "spec.ports[].nodePort";

/// Returns the field because of which `live` must be replaced to become `wanted`, if there is one.
pub(super) fn replaced_for(live: &Value, wanted: &Value) -> Option<&'static str> {
    if wanted["kind"] != "Service" {
        return None;
    }
    let balanced = |service: &Value| service["spec"]["type"] == "LoadBalancer";
    if balanced(live) && balanced(wanted) && class(live, wanted) {
        return Some(CLASS);
    }
    // Kubernetes never changes the first family of a Service. A second one may come and go.
    let first = |service: &Value| service["spec"]["ipFamilies"][0].clone();
    let (is, should) = (first(live), first(wanted));
    (!is.is_null() && !should.is_null() && is != should).then_some(FAMILIES)
}

/// Returns whether the class of `live` must change. A class that the operator did not set stays.
fn class(live: &Value, wanted: &Value) -> bool {
    let class = |service: &Value| service["spec"]["loadBalancerClass"].clone();
    let (is, should) = (class(live), class(wanted));
    let ours = &live["metadata"]["annotations"][names::CLASS_ANNOTATION];
    match should {
        Value::Null => !is.is_null() && *ours == is,
        _ => is != should,
    }
}

/// Completes the families of `wanted` with those that the cluster has added. Kubernetes treats a
/// shorter list as a removal, and refuses it unless the policy is `SingleStack`.
pub(super) fn keep_families(live: &Value, wanted: &mut Value) {
    let families = |service: &Value| service["spec"]["ipFamilies"].as_array().cloned();
    if wanted["kind"] != "Service" || wanted["spec"]["ipFamilyPolicy"] == "SingleStack" {
        return;
    }
    if let (Some(is), Some(should)) = (families(live), families(wanted))
        && is.len() > should.len()
        && is.starts_with(&should)
    {
        wanted["spec"]["ipFamilies"] = is.into();
    }
}

/// Returns the names of the Services that have a node port that another Service needs. They must
/// release it first, even if they are wanted: two Services that swap ports would otherwise wait for
/// each other.
pub(super) fn in_the_way<'a>(
    live: impl Iterator<Item = &'a Service>,
    wanted: &[Service],
) -> BTreeSet<String> {
    let claims = |name: &str, port: i32| {
        let others = wanted.iter().filter(|other| other.name_any() != name);
        others.flat_map(node_ports).any(|claimed| claimed == port)
    };
    live.filter(|service| {
        let name = service.name_any();
        node_ports(service).any(|port| claims(&name, port))
    })
    .map(ResourceExt::name_any)
    .collect()
}

fn node_ports(service: &Service) -> impl Iterator<Item = i32> + '_ {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter());
    ports.flatten().filter_map(|port| port.node_port)
}

#[cfg(test)]
mod tests;
