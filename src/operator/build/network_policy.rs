//! The NetworkPolicy of relays on the pod network.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{metadata, monitoring};
use crate::{
    crd::exposure::ExposureType,
    names,
    operator::{plan::Region, validate::ValidSpec},
};

/// Returns the policy, unless the user disables it or the pods use the host network, to which
/// policies do not apply.
pub(super) fn build(relay: &ValidSpec, region: Region<'_>) -> Option<NetworkPolicy> {
    let wanted = region.exposure.network_policy.unwrap_or(true);
    (wanted && !region.exposure.on_host_network()).then(|| NetworkPolicy {
        metadata: metadata(relay, region),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(names::selector(&relay.owner.name, &region.name)),
                match_expressions: None,
            }),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(ingress(relay, region)),
            // Relays need control server, DERP, STUN, DNS, API server, cloud metadata, and clients
            // at any address. Without this rule, a policy that denies all traffic of the namespace
            // would apply to relays.
            egress: Some(vec![NetworkPolicyEgressRule::default()]),
        }),
    })
}

fn ingress(relay: &ValidSpec, region: Region<'_>) -> Vec<NetworkPolicyIngressRule> {
    let rule = |protocol: &str, port: u16, from: Option<Vec<NetworkPolicyPeer>>| {
        let port = NetworkPolicyPort {
            protocol: Some(protocol.to_owned()),
            port: Some(IntOrString::Int(port.into())),
            end_port: None,
        };
        NetworkPolicyIngressRule {
            ports: Some(vec![port]),
            from,
        }
    };
    let mut rules = vec![rule("UDP", relay.port, None)];
    let probed = region.exposure.kind == ExposureType::LoadBalancer;
    let pods = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        ..NetworkPolicyPeer::default()
    };
    // A node always reaches its own pods, so the kubelet's probes need no rule.
    match (probed, monitoring::is_scraped(relay)) {
        // Load balancers that send to pods probe them from addresses of their own.
        (true, _) => rules.push(rule("TCP", relay.metrics_port, None)),
        (false, true) => rules.push(rule("TCP", relay.metrics_port, Some(vec![pods]))),
        (false, false) => {}
    }
    rules
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::{Value, json};

    use super::*;
    use crate::operator::fixtures;

    #[test]
    fn relays_on_the_pod_network_let_in_their_port_and_metrics() {
        let policy = policy(json!({"type": "NodePort"}), json!({})).unwrap();
        assert_eq!(
            policy["spec"],
            json!({
                "podSelector": {"matchLabels": {
                    "peerrelay.dev/peer-relay": "edge", "peerrelay.dev/region": "office",
                }},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [
                    {"ports": [{"protocol": "UDP", "port": 40_000}]},
                    {"from": [{"namespaceSelector": {}}],
                     "ports": [{"protocol": "TCP", "port": 9440}]},
                ],
                "egress": [{}],
            })
        );
    }

    #[test]
    fn load_balancers_may_probe_and_nobody_reads_metrics_that_are_not_scraped() {
        let monitoring = json!({"port": 9441, "serviceMonitor": "Disabled"});
        let ports = |kind: &str| {
            let policy = policy(json!({"type": kind}), monitoring.clone()).unwrap();
            let rules = policy["spec"]["ingress"].as_array().unwrap().clone();
            let open = rules.iter().filter(|rule| rule["from"].is_null());
            let open = open.map(|rule| rule["ports"][0]["port"].as_u64().unwrap());
            assert_eq!(open.clone().count(), rules.len());
            open.collect::<Vec<_>>()
        };
        assert_eq!(ports("NodePort"), [40_000]);
        assert_eq!(ports("LoadBalancer"), [40_000, 9441]);
    }

    #[test]
    fn relays_on_the_host_network_and_relays_with_network_policy_off_have_none() {
        for exposure in [
            json!({}),
            json!({"type": "NodePort", "hostNetwork": true}),
            json!({"type": "NodePort", "networkPolicy": false}),
        ] {
            assert_eq!(policy(exposure.clone(), json!({})), None, "{exposure}");
        }
    }

    fn policy(exposure: Value, monitoring: Value) -> Option<Value> {
        let region = json!({"name": "office", "clients": ["tag:office"], "exposure": exposure});
        let relay = fixtures::undecided(json!({"regions": [region], "monitoring": monitoring}));
        let policy = build(&relay.spec, relay.region(0))?;
        Some(serde_json::to_value(policy).unwrap())
    }
}
