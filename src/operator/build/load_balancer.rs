//! A Service of type LoadBalancer for each relay of a region.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::metadata;
use crate::{
    crd::exposure::{IpFamily, IpFamilyPolicy, LoadBalancer},
    names,
    operator::{plan::Region, validate::ValidSpec},
};

/// By which MetalLB and Cilium know Services that may have one address.
const SHARING_KEYS: [&str; 2] = ["metallb.io/allow-shared-ip", "lbipam.cilium.io/sharing-key"];

/// One for each chosen node; it selects the pod there.
pub(super) fn build(relay: &ValidSpec, region: Region<'_>) -> Vec<Service> {
    let nodes = region.plan.nodes.chosen.iter().flatten();
    let nodes = nodes.filter(|node| !region.plan.access.unserved.contains(*node));
    nodes.map(|node| service(relay, region, node)).collect()
}

fn service(relay: &ValidSpec, region: Region<'_>, node: &str) -> Service {
    let wanted = region.exposure.load_balancer.clone().unwrap_or_default();
    let name = names::on_node(&region.child, node);
    let label = (names::RELAY_LABEL.to_owned(), name.clone());
    let mut metadata = metadata(relay, region);
    metadata
        .labels
        .get_or_insert_default()
        .extend([label.clone()]);
    metadata.annotations = Some(annotations(relay, region, &wanted, node));
    metadata.name = Some(name);
    let mut selector = names::selector(&relay.owner.name, &region.name);
    selector.extend([label]);
    let port = ServicePort {
        name: Some("relay".to_owned()),
        protocol: Some("UDP".to_owned()),
        port: region
            .plan
            .access
            .ports
            .get(node)
            .copied()
            .unwrap_or(relay.port)
            .into(),
        target_port: Some(IntOrString::Int(relay.port.into())),
        ..ServicePort::default()
    };
    let policy = match wanted.share_address {
        // An address leads to one node at a time, and the relays are on several nodes.
        true => "Cluster",
        false => "Local",
    };
    let families: Vec<_> = wanted
        .ip_families
        .iter()
        .map(|f| IpFamily::as_str(*f).to_owned())
        .collect();
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some("LoadBalancer".to_owned()),
            load_balancer_class: wanted.class,
            load_balancer_source_ranges: (!wanted.source_ranges.is_empty())
                .then_some(wanted.source_ranges),
            external_traffic_policy: Some(policy.to_owned()),
            ip_family_policy: wanted
                .ip_family_policy
                .map(|p| IpFamilyPolicy::as_str(p).to_owned()),
            ip_families: (!families.is_empty()).then_some(families),
            // A relay without the control server, or one that drains, still forwards its open
            // sessions.
            publish_not_ready_addresses: Some(true),
            selector: Some(selector),
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The annotations of a Service: requests to clouds, then those of the user, then those by which the
/// operator finds the Service.
fn annotations(
    relay: &ValidSpec,
    region: Region<'_>,
    wanted: &LoadBalancer,
    node: &str,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut put = |key: &str, value: String| all.insert(key.to_owned(), value);
    let aws = |key: &str| format!("service.beta.kubernetes.io/aws-load-balancer-{key}");
    // `external` leaves the Service to the AWS Load Balancer Controller, whose load balancers are internal
    // by default. Without it, the older controller of Kubernetes would take the Service.
    put(&aws("type"), "external".to_owned());
    put(&aws("scheme"), "internet-facing".to_owned());
    match region.exposure.on_host_network() {
        true => {
            put(&aws("nlb-target-type"), "instance".to_owned());
        }
        false => {
            put(&aws("nlb-target-type"), "ip".to_owned());
            // Load balancers cannot probe UDP.
            put(&aws("healthcheck-protocol"), "http".to_owned());
            put(&aws("healthcheck-port"), relay.metrics_port.to_string());
            put(&aws("healthcheck-path"), "/healthz".to_owned());
        }
    }
    if wanted.ip_families.contains(&IpFamily::IPv6) {
        put(&aws("ip-address-type"), "dualstack".to_owned());
        // Without it, a load balancer of both families has no UDP listener.
        put(&aws("enable-prefix-for-ipv6-source-nat"), "on".to_owned());
    }
    if let Some(ip) = region.plan.access.elastic_ips.get(node) {
        // The number of subnets equals the number of addresses, because the relay is in one zone
        // only.
        put(names::ELASTIC_IP_ANNOTATION, ip.allocation.clone());
        put(&aws("subnets"), ip.subnet.clone());
    }
    put(
        "service.beta.kubernetes.io/azure-load-balancer-internal",
        "false".to_owned(),
    );
    put("cloud.google.com/l4-rbs", "enabled".to_owned());
    if wanted.share_address {
        for key in SHARING_KEYS {
            put(key, region.child.clone());
        }
    }
    all.extend(wanted.annotations.clone());
    all.insert(names::NODE_ANNOTATION.to_owned(), node.to_owned());
    // Without it, the operator could not distinguish its own class from one that the cluster has
    // set.
    all.remove(names::CLASS_ANNOTATION);
    let class = wanted.class.clone();
    all.extend(class.map(|class| (names::CLASS_ANNOTATION.to_owned(), class)));
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::{Value, json};

    use super::*;
    use crate::operator::fixtures;

    #[test]
    fn each_relay_has_a_service_that_selects_it_alone() {
        let services = services(json!({}));
        assert_eq!(services.len(), 2);
        let selects: Vec<_> = services
            .iter()
            .map(|s| &s["spec"]["selector"][names::RELAY_LABEL])
            .collect();
        assert_ne!(selects[0], selects[1]);
        for service in &services {
            assert_eq!(service["spec"]["externalTrafficPolicy"], "Local");
            assert_eq!(
                service["spec"]["selector"][names::RELAY_LABEL],
                service["metadata"]["name"]
            );
            assert_eq!(service["spec"]["ports"][0]["port"], 40_000);
        }
    }

    #[test]
    fn annotations_of_the_user_win() {
        let scheme = "service.beta.kubernetes.io/aws-load-balancer-scheme";
        let wanted = json!({"annotations": {scheme: "internal", "a": "b"}});
        let annotations = services(wanted)[0]["metadata"]["annotations"].clone();
        assert_eq!(annotations[scheme], "internal");
        assert_eq!(annotations["a"], "b");
        assert_eq!(annotations["cloud.google.com/l4-rbs"], "enabled");
        assert_eq!(annotations[names::NODE_ANNOTATION], "n1");
    }

    #[test]
    fn what_a_service_can_say_is_said() {
        let service = services(json!({
            "class": "example.net/lb", "sourceRanges": ["192.0.2.0/24"],
            "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"],
        }))
        .remove(0);
        assert_eq!(service["spec"]["loadBalancerClass"], "example.net/lb");
        assert_eq!(
            service["spec"]["loadBalancerSourceRanges"],
            json!(["192.0.2.0/24"])
        );
        assert_eq!(service["spec"]["ipFamilyPolicy"], "RequireDualStack");
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]));
    }

    #[test]
    fn a_load_balancer_of_aws_that_serves_ipv6_is_asked_for_both_families() {
        let prefix = "service.beta.kubernetes.io/aws-load-balancer";
        let annotations = |wanted| services(wanted)[0]["metadata"]["annotations"].clone();
        let both = annotations(json!({"ipFamilies": ["IPv6"]}));
        assert_eq!(both[format!("{prefix}-ip-address-type")], "dualstack");
        let nat = format!("{prefix}-enable-prefix-for-ipv6-source-nat");
        assert_eq!(both[&nat], "on");
        assert_eq!(annotations(json!({}))[nat], Value::Null);
    }

    #[test]
    fn relays_that_share_an_address_have_a_key_and_no_local_policy() {
        let service = services(json!({"shareAddress": true})).remove(0);
        assert_eq!(service["spec"]["externalTrafficPolicy"], "Cluster");
        assert_eq!(
            service["metadata"]["annotations"]["metallb.io/allow-shared-ip"],
            "edge-office"
        );
    }

    fn services(load_balancer: Value) -> Vec<Value> {
        let region = json!({
            "name": "office", "clients": ["tag:office"],
            "exposure": {"type": "LoadBalancer", "loadBalancer": load_balancer},
        });
        let mut relay = fixtures::undecided(json!({"regions": [region]}));
        relay.plan.regions[0].nodes.chosen = Some(vec!["n1".into(), "n2".into()]);
        let services = build(&relay.spec, relay.region(0));
        services
            .iter()
            .map(|s| serde_json::to_value(s).unwrap())
            .collect()
    }
}
