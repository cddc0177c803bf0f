//! Check of the reports of relays.

use std::collections::BTreeSet;

use k8s_openapi::{api::core::v1::Pod, jiff::SignedDuration};
use kube::ResourceExt;

use super::{
    facts::Facts,
    finding::{Check, Fault, Finding, Severity},
    installation::{not_checked, version_of},
    remedy::{Subject, remedy},
};
use crate::{
    crd::{PeerRelay, RelayNode},
    names,
    operator::status::pods,
};

/// Time in which a relay that has started has written its RelayNode.
const REPORTED_WITHIN: SignedDuration = SignedDuration::from_secs(60);
/// Age of a report at which the relay has stopped to renew it. Relays renew it every 5 minutes.
const OLD_REPORT: SignedDuration = SignedDuration::from_secs(15 * 60);
/// Reasons for sockets that no person needs to change.
const EXPECTED_SOCKETS: [&str; 2] = ["Chosen", "Starting"];

/// Returns the check of all RelayNodes and pods of relays.
pub(super) fn check(facts: &Facts) -> Check {
    let mut findings: Vec<_> = not_checked(&facts.relay_nodes).into_iter().collect();
    findings.extend(not_checked(&facts.relay_pods));
    let nodes = facts.relay_nodes.as_deref().unwrap_or_default();
    for node in nodes {
        findings.extend(problem(node, facts));
        findings.extend(kernel_path(node));
        findings.extend(old_report(node, facts));
        findings.extend(version(node, facts));
    }
    let reporting: BTreeSet<_> = nodes.iter().map(ResourceExt::name_any).collect();
    for pod in facts.relay_pods.iter().flatten() {
        findings.extend(silent(pod, &reporting, facts));
        findings.extend(pod_trouble(pod, facts));
    }
    Check::new("relays report that they work", findings)
}

/// Returns the problem that a relay reports, unless a condition of its PeerRelay has it.
fn problem(node: &RelayNode, facts: &Facts) -> Option<Finding> {
    let status = node.status.as_ref().filter(|status| !status.ready)?;
    let reason = status.reason.as_deref()?;
    if is_reported(
        facts,
        &node.namespace().unwrap_or_default(),
        &node.spec.peer_relay,
        reason,
    ) {
        return None;
    }
    let subject = Subject {
        namespace: &node.namespace().unwrap_or_default(),
        name: &node.spec.peer_relay,
        secret: None,
    };
    Some(Finding {
        fault: reason.to_owned().into(),
        severity: Severity::Problem,
        subject: shown(node),
        problem: status
            .message
            .clone()
            .unwrap_or_else(|| "the relay is not ready".to_owned()),
        remedy: remedy(reason, subject).unwrap_or_else(|| logs(node)),
    })
}

/// Returns whether a condition of a PeerRelay has a reason.
fn is_reported(facts: &Facts, namespace: &str, name: &str, reason: &str) -> bool {
    let mut relays = facts.relays.iter().flatten();
    let is_owner = |relay: &&PeerRelay| {
        relay.namespace().as_deref() == Some(namespace) && relay.name_any() == name
    };
    let status = relays
        .find(is_owner)
        .and_then(|relay| relay.status.as_ref());
    let mut conditions = status.into_iter().flat_map(|status| &status.conditions);
    conditions.any(|condition| condition.reason == reason)
}

fn kernel_path(node: &RelayNode) -> Option<Finding> {
    let status = node.status.as_ref()?;
    let reason = status.data_path_reason.as_deref()?;
    let is_wrong = status.ready && !EXPECTED_SOCKETS.contains(&reason);
    let why = status.data_path_message.as_deref().unwrap_or_default();
    let subject = Subject {
        namespace: &node.namespace().unwrap_or_default(),
        name: &node.spec.peer_relay,
        secret: None,
    };
    is_wrong.then(|| match &*status.data_path {
        "Kernel" => Finding::new(
            Fault::KernelPathNotPinned,
            shown(node),
            format!("packets are lost while the relay is replaced: {reason}: {why}"),
            remedy(reason, subject).unwrap_or_default(),
        ),
        _ => Finding::new(
            Fault::KernelPathUnused,
            shown(node),
            format!(
                "sockets forward, which needs more CPU time than the kernel path: {reason}: {why}"
            ),
            "give the relay what the message names, or accept it with dataPath: Socket",
        ),
    })
}

fn old_report(node: &RelayNode, facts: &Facts) -> Option<Finding> {
    let last = node.status.as_ref()?.last_update_time.as_ref()?;
    let age = facts.now.duration_since(last.0);
    (age > OLD_REPORT).then(|| {
        Finding::new(
            Fault::RelayReportOld,
            shown(node),
            format!(
                "its last report is {} min old, so its state is not known",
                age.as_mins()
            ),
            format!("allow the node to reach the API server; {}", logs(node)),
        )
    })
}

fn version(node: &RelayNode, facts: &Facts) -> Option<Finding> {
    let own = &*node.status.as_ref()?.version;
    let operators = facts.operators.as_deref().unwrap_or_default();
    let versions: Vec<_> = operators.iter().filter_map(version_of).collect();
    let newest = versions.first().filter(|_| !versions.contains(&own))?;
    let child = names::child(&node.spec.peer_relay, &node.spec.region);
    Some(Finding::new(
        Fault::RelayVersionDiffers,
        shown(node),
        format!("the relay is version {own}, and the operator is {newest}"),
        format!(
            "wait for the roll-out: kubectl get daemonsets -n {} -l {}={}; if spec.template.image \
             is set, remove it ({child})",
            node.namespace().unwrap_or_default(),
            names::PEER_RELAY_LABEL,
            node.spec.peer_relay
        ),
    ))
}

/// Returns the finding about a relay that runs without a report.
fn silent(pod: &Pod, reporting: &BTreeSet<String>, facts: &Facts) -> Option<Finding> {
    let containers = pod.status.as_ref()?.container_statuses.iter().flatten();
    let running =
        containers.filter_map(|c| c.state.as_ref()?.running.as_ref()?.started_at.as_ref());
    let since = running.map(|time| time.0).max()?;
    let is_new = facts.now.duration_since(since) < REPORTED_WITHIN;
    let is_silent = facts.relay_nodes.is_ok() && !reporting.contains(&pod.name_any());
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    (is_silent && !is_new && pod.metadata.deletion_timestamp.is_none()).then(|| {
        Finding::new(
            Fault::RelaySilent,
            format!("Pod {namespace}/{name}"),
            "the relay runs, but has not written its RelayNode: it cannot reach the API server, or \
             an admission policy refuses the object",
            format!("kubectl logs {name} -n {namespace}"),
        )
    })
}

/// Returns the reason why the pod of a relay does not run, unless a condition has it.
fn pod_trouble(pod: &Pod, facts: &Facts) -> Option<Finding> {
    let (trouble, message) = pods::trouble_of(pod)?;
    let namespace = pod.namespace().unwrap_or_default();
    let owner = pod.labels().get(names::PEER_RELAY_LABEL)?;
    if is_reported(facts, &namespace, owner, trouble.as_str()) {
        return None;
    }
    let subject = Subject {
        namespace: &namespace,
        name: owner,
        secret: None,
    };
    Some(Finding {
        fault: trouble.as_str().into(),
        severity: Severity::Problem,
        subject: format!("Pod {namespace}/{}", pod.name_any()),
        problem: message,
        remedy: remedy(trouble.as_str(), subject).unwrap_or_default(),
    })
}

fn shown(node: &RelayNode) -> String {
    let namespace = node.namespace().unwrap_or_default();
    let (name, on) = (node.name_any(), &node.spec.node_name);
    format!("RelayNode {namespace}/{name} (node {on})")
}

fn logs(node: &RelayNode) -> String {
    let namespace = node.namespace().unwrap_or_default();
    format!("kubectl logs {} -n {namespace}", node.name_any())
}
