//! The nodes that fit a placement.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration,
};
use kube::ResourceExt;

use crate::{
    crd::placement::Placement,
    names::{DRAIN_LABEL, DRAIN_REMOVE, DRAIN_WITHDRAW, ZONE_LABEL},
};

/// Label with the operating system of a node; every kubelet sets it.
const OS_LABEL: &str = "kubernetes.io/os";
/// Label with the architecture of a node; every kubelet sets it.
const ARCHITECTURE_LABEL: &str = "kubernetes.io/arch";
/// Architectures that the image supports.
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
/// Labels of nodes without relays. Virtual nodes support neither the host network nor DaemonSets:
/// Virtual Kubelet (also AKS virtual nodes, Alibaba ECI) and EKS Fargate. Others are drained.
const EXCLUDED: [(&str, &str); 3] = [
    ("type", "virtual-kubelet"),
    ("eks.amazonaws.com/compute-type", "fargate"),
    (DRAIN_LABEL, DRAIN_REMOVE),
];
/// Taints that a DaemonSet's pods always tolerate.
const OUTLIVED: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];

/// Returns the zone of a node. Nodes without a zone share the zone with an empty name.
pub(super) fn zone(node: &Node) -> &str {
    node.labels().get(ZONE_LABEL).map_or("", String::as_str)
}

/// Returns the requirements for every node with relays, as part of a pod's affinity: Linux, a
/// supported architecture, and neither virtual nor drained.
pub fn requirements() -> Vec<NodeSelectorRequirement> {
    let requirement = |key: &str, operator: &str, values: &[&str]| NodeSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
    };
    let mut all = vec![
        requirement(OS_LABEL, "In", &["linux"]),
        requirement(ARCHITECTURE_LABEL, "In", &ARCHITECTURES),
    ];
    all.extend(EXCLUDED.map(|(key, value)| requirement(key, "NotIn", &[value])));
    all
}

/// Returns whether relays can run on `node`, regardless of the placement. A node without labels for
/// its operating system or architecture counts as suitable.
fn can_relay(node: &Node) -> bool {
    let labels = node.labels();
    let value = |key: &str| labels.get(key).map(String::as_str);
    value(OS_LABEL).is_none_or(|os| os == "linux")
        && value(ARCHITECTURE_LABEL).is_none_or(|a| ARCHITECTURES.contains(&a))
        && EXCLUDED
            .iter()
            .all(|(key, excluded)| value(key) != Some(*excluded))
}

/// Returns whether a relay of this placement may run on `node`, apart from taints.
pub(super) fn fits(node: &Node, placement: &Placement) -> bool {
    let labels = node.labels();
    can_relay(node)
        && placement
            .node_selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
        && (placement.zones.is_empty() || placement.zones.iter().any(|z| z == zone(node)))
        && placement
            .required()
            .is_none_or(|s| s.node_selector_terms.iter().any(|term| holds(term, node)))
}

/// Returns whether a new relay may run on `node`, on which a running one [may stay](may_stay): the
/// node is not cordoned, and has no taint that prevents relays.
pub(super) fn is_open(node: &Node, placement: &Placement) -> bool {
    let keeps_away = |taint: &Taint| taint.effect != "PreferNoSchedule";
    !is_cordoned(node) && !is_repelled(node, placement, keeps_away)
}

/// Returns whether a running relay may stay on a node. Cordons and most taints apply to new pods
/// only.
pub(super) fn may_stay(node: &Node, placement: &Placement) -> bool {
    // A node that is not ready keeps its place, however long: a timeout would move relays at every reboot.
    // The taint `node.kubernetes.io/out-of-service` says that a node does not come back, and ends the
    // place.
    let ends = |taint: &Taint| taint.effect == "NoExecute" && !OUTLIVED.contains(&&*taint.key);
    node.metadata.deletion_timestamp.is_none()
        && fits(node, placement)
        && !is_repelled(node, placement, ends)
}

/// Returns whether `node` accepts no new pods, or is about to be drained of relays.
pub(super) fn is_cordoned(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    spec.and_then(|spec| spec.unschedulable).unwrap_or(false)
        || node
            .labels()
            .get(DRAIN_LABEL)
            .is_some_and(|drain| drain == DRAIN_WITHDRAW)
}

fn is_repelled(node: &Node, placement: &Placement, counts: impl Fn(&Taint) -> bool) -> bool {
    let tolerated = |taint: &Taint| placement.tolerations.iter().any(|t| tolerates(t, taint));
    let mut taints = node.spec.iter().flat_map(|spec| &spec.taints).flatten();
    taints.any(|taint| counts(taint) && !tolerated(taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    // As `Toleration.ToleratesTaint` of k8s.io/api/core/v1.
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let any_value = toleration.operator.as_deref() == Some("Exists");
    let value = |value: &Option<String>| value.clone().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && (key == taint.key || key.is_empty() && any_value)
        && (any_value || value(&toleration.value) == value(&taint.value))
}

/// Returns whether a term matches the node. A term without requirements matches no node, as in a
/// pod.
fn holds(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let name = node.name_any();
    let is_empty = labels.clone().next().is_none() && fields.clone().next().is_none();
    let label =
        |r: &NodeSelectorRequirement| satisfies(r, node.labels().get(&r.key).map(String::as_str));
    // Kubernetes supports no other field.
    let field = |r: &NodeSelectorRequirement| r.key == "metadata.name" && satisfies(r, Some(&name));
    !is_empty && labels.into_iter().all(label) && fields.into_iter().all(field)
}

fn satisfies(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = found.is_some_and(|found| values.iter().any(|value| value == found));
    let numbers = || {
        let (found, value) = (found?.parse::<i64>().ok()?, values.first()?);
        Some((found, value.parse::<i64>().ok()?))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        // As in Kubernetes, a node without the label satisfies it.
        "NotIn" => !listed,
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => numbers().is_some_and(|(found, value)| found > value),
        "Lt" => numbers().is_some_and(|(found, value)| found < value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn selector_zones_and_affinity_must_all_fit() {
        let node = node(json!({}));
        for (placement, wanted) in [
            (json!({}), true),
            (json!({"nodeSelector": {"size": "8"}}), true),
            (json!({"nodeSelector": {"size": "9"}}), false),
            (json!({"zones": ["a", "b"]}), true),
            (json!({"zones": ["b"]}), false),
            (
                json!({"zones": ["a"], "nodeSelector": {"size": "9"}}),
                false,
            ),
        ] {
            assert_eq!(fits(&node, &read(&placement)), wanted, "{placement}");
        }
    }

    #[test]
    fn nodes_on_which_no_relay_can_run_never_fit() {
        let labelled = |labels: Value| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": labels}})).unwrap()
        };
        let tolerant = read(&json!({"tolerations": [{"operator": "Exists"}]}));
        for (labels, wanted) in [
            (json!({}), true),
            (
                json!({OS_LABEL: "linux", ARCHITECTURE_LABEL: "amd64"}),
                true,
            ),
            (
                json!({OS_LABEL: "linux", ARCHITECTURE_LABEL: "arm64"}),
                true,
            ),
            (
                json!({OS_LABEL: "windows", ARCHITECTURE_LABEL: "amd64"}),
                false,
            ),
            (
                json!({OS_LABEL: "linux", ARCHITECTURE_LABEL: "s390x"}),
                false,
            ),
            (json!({OS_LABEL: "linux", "type": "virtual-kubelet"}), false),
            (json!({"eks.amazonaws.com/compute-type": "fargate"}), false),
            (json!({"eks.amazonaws.com/compute-type": "ec2"}), true),
            (json!({DRAIN_LABEL: DRAIN_WITHDRAW}), true),
            (json!({DRAIN_LABEL: DRAIN_REMOVE}), false),
        ] {
            let node = labelled(labels.clone());
            assert_eq!(may_stay(&node, &tolerant), wanted, "{labels}");
        }
        let term = NodeSelectorTerm {
            match_expressions: Some(requirements()),
            match_fields: None,
        };
        let windows = labelled(json!({OS_LABEL: "windows", ARCHITECTURE_LABEL: "amd64"}));
        let linux = labelled(json!({OS_LABEL: "linux", ARCHITECTURE_LABEL: "arm64"}));
        assert!(holds(&term, &linux) && !holds(&term, &windows));
        let drained = labelled(
            json!({OS_LABEL: "linux", ARCHITECTURE_LABEL: "arm64", DRAIN_LABEL: DRAIN_REMOVE}),
        );
        assert!(!holds(&term, &drained));
        let withdrawn = labelled(json!({DRAIN_LABEL: DRAIN_WITHDRAW}));
        assert!(is_cordoned(&withdrawn) && !is_open(&withdrawn, &tolerant));
    }

    #[test]
    fn requirements_mean_what_they_mean_in_a_pod() {
        for (key, operator, values, wanted) in [
            ("size", "In", json!(["4", "8"]), true),
            ("size", "NotIn", json!(["8"]), false),
            ("gone", "NotIn", json!(["8"]), true),
            ("size", "Exists", json!([]), true),
            ("gone", "Exists", json!([]), false),
            ("gone", "DoesNotExist", json!([]), true),
            ("size", "Gt", json!(["7"]), true),
            ("size", "Gt", json!(["8"]), false),
            ("size", "Lt", json!(["9"]), true),
            ("name", "Gt", json!(["7"]), false),
        ] {
            let requirement = json!({"key": key, "operator": operator, "values": values});
            let placement = affinity(&json!([{"matchExpressions": [requirement]}]));
            assert_eq!(fits(&node(json!({})), &placement), wanted, "{requirement}");
        }
        let by_name = |name: &str| {
            let field = json!({"key": "metadata.name", "operator": "In", "values": [name]});
            affinity(&json!([{"matchFields": [field]}]))
        };
        assert!(fits(&node(json!({})), &by_name("n1")));
        assert!(!fits(&node(json!({})), &by_name("n2")));
        assert!(!fits(&node(json!({})), &affinity(&json!([{}]))));
    }

    #[test]
    fn cordons_and_taints_are_for_who_comes() {
        let tolerant = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
        let taint =
            |effect: &str| json!({"taints": [{"key": "k", "value": "v", "effect": effect}]});
        let unreachable = json!({"taints": [
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
        ]});
        for (spec, placement, start, stay) in [
            (json!({}), json!({}), true, true),
            (json!({"unschedulable": true}), json!({}), false, true),
            (taint("NoSchedule"), json!({}), false, true),
            (taint("NoSchedule"), tolerant.clone(), true, true),
            (taint("NoExecute"), json!({}), false, false),
            (taint("NoExecute"), tolerant, true, true),
            (taint("PreferNoSchedule"), json!({}), true, true),
            (unreachable, json!({}), false, true),
        ] {
            let (node, placement) = (node(spec.clone()), read(&placement));
            let stays = may_stay(&node, &placement);
            assert_eq!(stays, stay, "stay: {spec}");
            assert_eq!(stays && is_open(&node, &placement), start, "start: {spec}");
        }
    }

    #[test]
    fn tolerations_mean_what_they_mean_in_a_pod() {
        let taint = Taint {
            key: "k".into(),
            value: Some("v".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        };
        for (toleration, wanted) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (
                json!({"key": "k", "operator": "Equal", "value": "w"}),
                false,
            ),
            (
                json!({"key": "k", "value": "v", "effect": "NoExecute"}),
                false,
            ),
            (json!({"value": "v"}), false),
        ] {
            let read: Toleration = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(tolerates(&read, &taint), wanted, "{toleration}");
        }
    }

    fn node(spec: Value) -> Node {
        let labels = json!({"size": "8", "name": "x", ZONE_LABEL: "a"});
        let node = json!({"metadata": {"name": "n1", "labels": labels}, "spec": spec});
        serde_json::from_value(node).unwrap()
    }

    fn read(placement: &Value) -> Placement {
        serde_json::from_value(placement.clone()).unwrap()
    }

    fn affinity(terms: &Value) -> Placement {
        let required = json!({"nodeSelectorTerms": terms});
        let affinity = json!({"requiredDuringSchedulingIgnoredDuringExecution": required});
        read(&json!({"affinity": {"nodeAffinity": affinity}}))
    }
}
