//! Reasons why the pod of a relay does not run, according to Kubernetes. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ContainerStatus, Event, Pod},
};
use kube::ResourceExt;

use crate::{
    config::{DEFAULT_STATE_DIR, POD_SESSION_DIR},
    names,
    operator::host_ports::{Holder, HostPort, Taken, node_of, relay_of, wanted},
};

/// Longest part of a message of Kubernetes in the status, in characters.
const LONGEST_QUOTE: usize = 300;

labels::label_enum! {
    /// Reason why a pod does not run. `docs/conditions.md` documents it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Trouble {
        /// The Pod Security level of the namespace refuses the pod.
        PodSecurityForbidden,
        /// A quota or a webhook refuses the pod.
        PodsRefused,
        /// Another pod of the node has the port.
        HostPortConflict,
        /// The node lacks resources for the pod.
        Unschedulable,
        /// The image cannot be pulled.
        ImagePullFailed,
        /// The container may not write to a directory of the node.
        StateDirectoryUnusable,
        /// The container ends repeatedly.
        CrashLooping,
    }
}

impl Trouble {
    /// Returns whether only a user can fix it.
    pub const fn needs_user(self) -> bool {
        match self {
            Self::PodSecurityForbidden
            | Self::HostPortConflict
            | Self::ImagePullFailed
            | Self::StateDirectoryUnusable => true,
            Self::PodsRefused | Self::Unschedulable | Self::CrashLooping => false,
        }
    }
}

/// Numbers of pods by trouble, with the message of the first.
pub(super) type Troubles = BTreeMap<Trouble, (String, usize)>;

/// Returns the problems that prevent the pods of a DaemonSet from running. Messages must not change
/// while a problem stays, because each change causes a write of the status.
pub(super) fn troubles(
    set: &DaemonSet,
    pods: &[&Pod],
    refusals: &[&Event],
    taken: &Taken,
) -> Troubles {
    let mut troubles = Troubles::new();
    if let Some((trouble, message, missing)) = refusal(set, refusals) {
        troubles.insert(trouble, (message, missing));
    }
    for pod in pods.iter().filter(|pod| !leaves(pod)) {
        if let Some((trouble, message)) = trouble(pod, taken) {
            troubles.entry(trouble).or_insert((message, 0)).1 += 1;
        }
    }
    troubles
}

/// Pods that are being removed do not count.
fn leaves(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Refused pods do not exist. Only an event of the DaemonSet shows them. It stays for an hour, so
/// it counts only while pods are missing.
fn refusal(set: &DaemonSet, events: &[&Event]) -> Option<(Trouble, String, usize)> {
    let status = set.status.as_ref()?;
    let missing = status.desired_number_scheduled - status.current_number_scheduled;
    let missing = usize::try_from(missing).ok().filter(|count| *count > 0)?;
    let newest = events
        .iter()
        .filter(|event| event.involved_object.uid == set.metadata.uid)
        .max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0))?;
    let said = newest.message.as_deref().unwrap_or_default();
    let namespace = set.namespace().unwrap_or_default();
    // The event has no code: these are words of the admission plugin PodSecurity.
    let (trouble, message) = match said.split_once("violates PodSecurity") {
        Some((_, details)) => (
            Trouble::PodSecurityForbidden,
            format!(
                "namespace {namespace} refuses these pods: run kubectl label namespace {namespace} \
                 pod-security.kubernetes.io/enforce=privileged --overwrite, and Kubernetes tries \
                 again; it violates {}",
                quote(details)
            ),
        ),
        None => {
            // The names of pods differ with each attempt.
            let why = said
                .split_once("is forbidden: ")
                .map_or(said, |(_, why)| why);
            let message = format!("pods cannot be created in {namespace}: {}", quote(why));
            (Trouble::PodsRefused, message)
        }
    };
    Some((trouble, message, missing))
}

/// Returns the problem that prevents a pod from running, if its own status says it.
pub fn trouble_of(pod: &Pod) -> Option<(Trouble, String)> {
    trouble(pod, &Taken::default()).filter(|_| !leaves(pod))
}

fn trouble(pod: &Pod, taken: &Taken) -> Option<(Trouble, String)> {
    let status = pod.status.as_ref()?;
    // The kubelet refuses the pod if the scheduler did not know of the other pod yet.
    if status.reason.as_deref() == Some("NodePorts") {
        return conflict(pod, taken);
    }
    let scheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "PodScheduled");
    if let Some(refused) = scheduled.filter(|c| c.status == "False") {
        let why = refused.message.as_deref().unwrap_or_default();
        return match refused.reason.as_deref() {
            // Words of the scheduler's plugin NodePorts (`ErrReason`).
            Some("Unschedulable") if why.contains("free ports") => conflict(pod, taken),
            Some("Unschedulable") => Some((
                Trouble::Unschedulable,
                format!("a node that fits has no room: {}", quote(why)),
            )),
            // The scheduler has not processed the pod yet, or a scheduling gate delays it.
            _ => None,
        };
    }
    let containers = [&status.init_container_statuses, &status.container_statuses];
    containers
        .into_iter()
        .flatten()
        .flatten()
        .find_map(|container| {
            let of = pod.namespace().unwrap_or_default();
            container_trouble(container, &of, pod)
        })
}

/// Returns the conflict about a port that a pod does not get. If a relay of the same PeerRelay has
/// the port, there is no conflict, because that relay is being removed.
fn conflict(pod: &Pod, taken: &Taken) -> Option<(Trouble, String)> {
    let node = node_of(pod).unwrap_or_default();
    let own = relay_of(pod).unwrap_or_default();
    let ports = wanted(pod);
    if let Some((port, holder)) = taken.conflict(&node, &ports, &own) {
        let message = port_conflict(&node, &port, &holder);
        return Some((Trouble::HostPortConflict, message));
    }
    if taken.is_own(&node, &ports, &own) {
        return None;
    }
    let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
    let message = format!(
        "another pod has {} of node {node}: kubectl get pods -A --field-selector \
         spec.nodeName={node} lists its pods; change spec.port or spec.monitoring.port, or place \
         one of the two elsewhere",
        ports.join(" or ")
    );
    Some((Trouble::HostPortConflict, message))
}

/// Returns the message of `HostPortConflict` if another PeerRelay has the port.
pub(super) fn port_conflict(node: &str, port: &HostPort, holder: &Holder) -> String {
    // Objects of earlier versions keep the default that was stored with them.
    let fix = match &*port.protocol {
        "TCP" => {
            "remove spec.monitoring.port of both, so that it follows spec.port (earlier versions \
             stored 9440 in it), or let it differ"
        }
        _ => "let the two have different spec.port",
    };
    format!(
        "{port} of node {node} has PeerRelay {} (pod {}): {fix}, or place one of them elsewhere",
        holder.relay, holder.pod
    )
}

fn container_trouble(
    container: &ContainerStatus,
    namespace: &str,
    pod: &Pod,
) -> Option<(Trouble, String)> {
    let waiting = container
        .state
        .as_ref()
        .and_then(|state| state.waiting.as_ref());
    let waits_for = waiting
        .and_then(|w| w.reason.as_deref())
        .unwrap_or_default();
    // Errors of k8s.io/kubernetes/pkg/kubelet/images.
    if let "ErrImagePull"
    | "ImagePullBackOff"
    | "InvalidImageName"
    | "ErrImageNeverPull"
    | "ImageInspectError"
    | "RegistryUnavailable" = waits_for
    {
        let image = quote(&container.image);
        let message = format!(
            "image {image} cannot be had: check its name, and that nodes may pull it; kubectl \
             describe pods -n {namespace} tells more"
        );
        return Some((Trouble::ImagePullFailed, message));
    }
    // Between two restarts the container runs for a moment. It has recovered only when it is ready.
    let last = container
        .last_state
        .as_ref()
        .and_then(|last| last.terminated.as_ref());
    let failed = last.filter(|end| end.exit_code != 0);
    let restarting = container.restart_count > 0 && !container.ready && failed.is_some();
    if waits_for != "CrashLoopBackOff" && !restarting {
        return None;
    }
    let label = |key| pod.labels().get(key).map(String::as_str);
    let owner = label(names::PEER_RELAY_LABEL).zip(label(names::REGION_LABEL));
    let owner = owner.map_or_else(
        || format!("pod/{}", pod.name_any()),
        |(relay, region)| format!("daemonset/{}", names::child(relay, region)),
    );
    let logs = format!(
        "kubectl logs -n {namespace} -c {} --previous {owner}",
        container.name
    );
    if failed.is_some_and(|end| end.exit_code == i32::from(names::STATE_DIRECTORY_UNUSABLE)) {
        let message = directory_unusable(container, pod, &logs);
        return Some((Trouble::StateDirectoryUnusable, message));
    }
    let code = failed.map_or_else(String::new, |end| format!(" with code {}", end.exit_code));
    let message = format!(
        "container {} ends{code} again and again: {logs}",
        container.name
    );
    Some((Trouble::CrashLooping, message))
}

fn directory_unusable(container: &ContainerStatus, pod: &Pod, logs: &str) -> String {
    format!(
        "node {} does not let container {} write to {DEFAULT_STATE_DIR} or {POD_SESSION_DIR}: SELinux \
         needs template.podOverrides.securityContext.seLinuxOptions.type spc_t or the type \
         container_file_t for both directories, and a read-only file system must be made writable; \
         {logs} names the directory",
        node_of(pod).unwrap_or_default(),
        container.name,
    )
}

fn quote(text: &str) -> String {
    text.trim().chars().take(LONGEST_QUOTE).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::operator::host_ports;

    #[test]
    fn a_refusal_counts_while_pods_are_missing_and_names_the_label() {
        let message = "Error creating: pods \"edge-office-x2x7q\" is forbidden: violates PodSecurity \
                       \"restricted:latest\": host namespaces (hostNetwork=true)";
        let event = event("u-9", message);
        let found = troubles(&set(2, 0), &[], &[&event], &Taken::default());
        let (message, count) = &found[&Trouble::PodSecurityForbidden];
        assert_eq!(*count, 2);
        assert!(
            message.contains("kubectl label namespace relays pod-security"),
            "{message}"
        );
        assert!(message.ends_with("\"restricted:latest\": host namespaces (hostNetwork=true)"));
        assert!(
            troubles(&set(2, 2), &[], &[&event], &Taken::default()).is_empty(),
            "the pods are there by now"
        );
    }

    #[test]
    fn an_event_of_an_earlier_daemon_set_tells_nothing() {
        let event = event("u-8", "violates PodSecurity");
        assert!(troubles(&set(2, 0), &[], &[&event], &Taken::default()).is_empty());
    }

    #[test]
    fn another_refusal_keeps_its_words_but_not_the_name_of_the_pod() {
        let said = |pod: &str| {
            let text = format!("Error creating: pods \"{pod}\" is forbidden: exceeded quota: few");
            troubles(&set(1, 0), &[], &[&event("u-9", &text)], &Taken::default())
        };
        assert_eq!(said("a"), said("b"));
        assert!(
            said("a")[&Trouble::PodsRefused]
                .0
                .ends_with("exceeded quota: few")
        );
    }

    #[test]
    fn each_trouble_of_a_pod_has_its_reason() {
        let unscheduled = |message: &str| {
            json!({"conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": message,
            }]})
        };
        let ports = "0/2 nodes are available: 1 node(s) didn't have free ports for the requested \
                     pod ports";
        let crashed = json!({"terminated": {"exitCode": 101}});
        let cases = [
            (unscheduled(ports), Some(Trouble::HostPortConflict)),
            (
                json!({"phase": "Failed", "reason": "NodePorts"}),
                Some(Trouble::HostPortConflict),
            ),
            (
                unscheduled("0/2 nodes are available: 1 Insufficient memory."),
                Some(Trouble::Unschedulable),
            ),
            (
                container(json!({"state": {"waiting": {"reason": "ErrImagePull"}}})),
                Some(Trouble::ImagePullFailed),
            ),
            (
                container(json!({"state": {"waiting": {"reason": "ImagePullBackOff"}}})),
                Some(Trouble::ImagePullFailed),
            ),
            (
                container(json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}},
                                 "lastState": crashed, "restartCount": 1})),
                Some(Trouble::CrashLooping),
            ),
            (
                container(json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}},
                                 "lastState": {"terminated": {"exitCode": 73}}, "restartCount": 1})),
                Some(Trouble::StateDirectoryUnusable),
            ),
            (
                container(json!({"state": {"running": {}}, "lastState": crashed,
                                 "restartCount": 1})),
                Some(Trouble::CrashLooping),
            ),
            (
                container(json!({"state": {"running": {}}, "lastState": crashed,
                                 "restartCount": 1, "ready": true})),
                None,
            ),
            (
                container(json!({"state": {"waiting": {"reason": "ContainerCreating"}}})),
                None,
            ),
        ];
        for (status, wanted) in cases {
            let found = troubles(&set(1, 1), &[&pod(&status)], &[], &Taken::default());
            assert_eq!(found.keys().next().copied(), wanted, "{status}");
        }
    }

    #[test]
    fn a_stored_host_port_for_metrics_is_named_with_the_field_to_remove() {
        let with_ports = |relay: &str, scheduled, port| {
            let mut pod = host_ports::tests::pod(relay, "n1", scheduled, port);
            let container = &mut pod.spec.as_mut().unwrap().containers[0];
            let metrics = json!({"containerPort": 9440, "hostPort": 9440, "protocol": "TCP"});
            let ports = container.ports.as_mut().unwrap();
            ports.push(serde_json::from_value(metrics).unwrap());
            pod
        };
        let holder = with_ports("edge", true, 40_000);
        let mut waiting = with_ports("other", false, 40_300);
        waiting.status = serde_json::from_value(json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "1 node(s) didn't have free ports for the requested pod ports",
        }]}))
        .unwrap();
        let taken = Taken::new(&[Arc::new(holder)]);
        let found = troubles(&set(1, 1), &[&waiting], &[], &taken);
        let (message, _) = &found[&Trouble::HostPortConflict];
        for words in [
            "TCP port 9440 of node n1 has PeerRelay relays/edge",
            "remove spec.monitoring.port",
        ] {
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn a_pod_that_leaves_is_nobodys_trouble() {
        let mut pod = pod(&json!({"reason": "NodePorts"}));
        pod.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert!(troubles(&set(1, 1), &[&pod], &[], &Taken::default()).is_empty());
    }

    fn set(desired: i32, current: i32) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "edge-office", "namespace": "relays", "uid": "u-9"},
            "status": {
                "desiredNumberScheduled": desired, "currentNumberScheduled": current,
                "numberMisscheduled": 0, "numberReady": 0,
            },
        }))
        .unwrap()
    }

    fn event(uid: &str, message: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": {"name": "edge-office.1", "namespace": "relays"},
            "involvedObject": {"kind": "DaemonSet", "name": "edge-office", "uid": uid},
            "reason": "FailedCreate", "message": message,
        }))
        .unwrap()
    }

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "edge-office-1", "namespace": "relays"}, "status": status,
        }))
        .unwrap()
    }

    fn container(fields: Value) -> Value {
        let mut status = json!({
            "name": "relay", "image": "example.test/relay:1", "imageID": "", "ready": false,
            "restartCount": 0,
        });
        for (field, value) in fields.as_object().unwrap() {
            status[field] = value.clone();
        }
        json!({"containerStatuses": [status]})
    }
}
