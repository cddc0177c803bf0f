//! Seeded faults: each is found by its name, with a remedy, and nothing else is found.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionStatus,
    jiff::SignedDuration,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Fault, Finding, Severity,
    facts::{Facts, Unread},
    installation::OLDEST_KUBERNETES,
    is_wrong, run,
};
use crate::crd::{self, relay_reason::RelayReason};

const NOW: &str = "2026-11-29T12:00:00Z";
const EARLIER: &str = "2026-11-29T11:00:00Z";

/// Change of a cluster that works.
type Seed = fn(&mut Facts);

/// Faults that no condition reports, each with the change that causes it.
const SEEDS: [(Fault, Seed); 28] = [
    (Fault::KubernetesTooOld, |f| f.kubernetes = (1, 32)),
    (Fault::DefinitionMissing, |f| {
        f.definitions.as_mut().unwrap().remove(1);
    }),
    (Fault::DefinitionNotServed, |f| {
        f.definitions.as_mut().unwrap()[0].status = None;
    }),
    (Fault::DefinitionDiffers, |f| {
        f.definitions.as_mut().unwrap()[2].metadata.annotations = None;
    }),
    (Fault::OperatorMissing, |f| f.operators = Ok(vec![])),
    (Fault::OperatorScaledDown, |f| {
        operator(f).spec.as_mut().unwrap().replicas = Some(0);
    }),
    (Fault::OperatorNotReady, |f| {
        operator(f).status.as_mut().unwrap().ready_replicas = None;
    }),
    (Fault::OperatorsOverlap, |f| {
        let mut other = operator(f).clone();
        other.metadata.namespace = Some("other".to_owned());
        f.operators.as_mut().unwrap().push(other);
    }),
    (Fault::OperatorVersionDiffers, |f| {
        operator(f)
            .metadata
            .labels
            .as_mut()
            .unwrap()
            .insert("app.kubernetes.io/version".to_owned(), "0.0.9".to_owned());
        f.relay_nodes.as_mut().unwrap()[0]
            .status
            .as_mut()
            .unwrap()
            .version = "0.0.9".to_owned();
    }),
    (Fault::NoPeerRelay, |f| {
        f.relays = Ok(vec![]);
        f.relay_nodes = Ok(vec![]);
        f.relay_pods = Ok(vec![]);
    }),
    (Fault::NamespaceNotWatched, |f| watch(f, "others")),
    (Fault::NotReconciled, |f| {
        f.relays.as_mut().unwrap()[0].metadata.generation = Some(4);
    }),
    (Fault::NamespaceNotPrivileged, |f| set_level(f, "baseline")),
    (Fault::NamespaceNotPrivileged, |f| {
        set_level(f, "restricted")
    }),
    (Fault::RelaySilent, |f| f.relay_nodes = Ok(vec![])),
    (Fault::RelayReportOld, |f| {
        f.now += SignedDuration::from_mins(16);
    }),
    (Fault::RelayVersionDiffers, |f| {
        f.relay_nodes.as_mut().unwrap()[0]
            .status
            .as_mut()
            .unwrap()
            .version = "0.0.9".to_owned();
    }),
    (Fault::KernelPathUnused, |f| {
        let node = &mut f.relay_nodes.as_mut().unwrap()[0];
        let status = node.status.as_mut().unwrap();
        status.data_path = "Socket".to_owned();
        status.data_path_reason = Some("NotPermitted".to_owned());
        status.data_path_message = Some("CAP_BPF is missing".to_owned());
    }),
    (Fault::KernelPathNotPinned, |f| {
        let node = &mut f.relay_nodes.as_mut().unwrap()[0];
        let status = node.status.as_mut().unwrap();
        status.data_path = "Kernel".to_owned();
        status.data_path_reason = Some("NotPinned".to_owned());
    }),
    (Fault::NotScraped, |f| {
        f.prometheuses.as_mut().unwrap()[0].data["spec"]["serviceMonitorSelector"] =
            json!({"matchLabels": {"release": "other"}});
    }),
    (Fault::NotScraped, |f| {
        let spec = &mut f.prometheuses.as_mut().unwrap()[0].data["spec"];
        spec["serviceMonitorNamespaceSelector"] = Value::Null;
    }),
    (Fault::NotScraped, |f| f.prometheuses = Ok(vec![])),
    (Fault::MonitoringKindMissing, |f| {
        f.relays.as_mut().unwrap()[0]
            .spec
            .monitoring
            .service_monitor = crd::monitoring::Switch::Enabled;
        f.service_monitors = Err(Unread::NoSuchKind);
    }),
    (Fault::NotChecked, |f| {
        f.definitions = Err(forbidden("customresourcedefinitions"))
    }),
    (Fault::NotChecked, |f| {
        f.operators = Err(forbidden("deployments.apps"))
    }),
    (Fault::NotChecked, |f| {
        f.namespaces = Err(forbidden("namespaces"))
    }),
    (Fault::NotChecked, |f| {
        f.prometheuses = Err(forbidden("prometheuses"))
    }),
    (Fault::NotChecked, |f| {
        f.relay_pods = Err(Unread::Failed {
            resource: "pods".to_owned(),
            error: "timed out".to_owned(),
        });
    }),
];

/// Reasons of conditions, with the type and status of the condition that has them.
const REPORTED: [(&str, &str, &str); 22] = [
    ("NoNodes", "Ready", "False"),
    ("NodesTaken", "Ready", "False"),
    ("HostPortConflict", "Stalled", "True"),
    ("PodSecurityForbidden", "Stalled", "True"),
    ("ImagePullFailed", "Ready", "False"),
    ("CrashLooping", "Ready", "False"),
    ("Unschedulable", "Ready", "False"),
    ("LoadBalancerPending", "Ready", "False"),
    ("InvalidSpec", "Stalled", "True"),
    ("ApplyRejected", "Ready", "False"),
    ("NameTaken", "Stalled", "True"),
    ("GrantsMissing", "GrantsInForce", "False"),
    ("GrantsIncomplete", "GrantsInForce", "False"),
    ("GrantsTooBroad", "GrantsInForce", "False"),
    ("TagOnOtherDevices", "GrantsInForce", "False"),
    ("StaticEndpointUnreachable", "EndpointsVerified", "False"),
    ("EndpointUnreachable", "EndpointsVerified", "False"),
    ("CredentialMissing", "CredentialAccepted", "False"),
    ("TagsRefused", "CredentialAccepted", "False"),
    ("PolicyOverwritten", "PolicySynced", "False"),
    ("NodeKeyExpiring", "CredentialExpiring", "True"),
    ("APIKeyExpiring", "CredentialExpiring", "True"),
];

#[test]
fn nothing_is_found_in_a_cluster_that_works() {
    let checks = run(&healthy());
    assert!(
        checks.iter().all(|check| check.findings.is_empty()),
        "{checks:#?}"
    );
    assert!(checks.len() >= 7 && !is_wrong(&checks));
}

#[test]
fn each_seeded_fault_is_found_by_its_name_alone() {
    for (fault, seed) in SEEDS {
        let mut facts = healthy();
        seed(&mut facts);
        let found = findings(&facts);
        let names: Vec<_> = found.iter().map(|finding| &*finding.fault).collect();
        assert_eq!(names, [fault.as_str()], "{found:#?}");
        assert!(is_complete(&found[0]), "{found:#?}");
    }
}

#[test]
fn each_reported_reason_is_found_with_its_remedy() {
    let relays = RelayReason::ALL
        .iter()
        .map(|reason| (reason.as_str(), "TailnetConnected", "False"));
    for (reason, kind, status) in REPORTED.into_iter().chain(relays) {
        let mut facts = healthy();
        report(&mut facts, kind, status, reason);
        report(&mut facts, "Ready", "False", reason);
        let found = findings(&facts);
        let names: Vec<_> = found.iter().map(|finding| &*finding.fault).collect();
        assert_eq!(names, [reason], "{found:#?}");
        assert!(is_complete(&found[0]), "{found:#?}");
        assert!(
            !found[0].remedy.starts_with("kubectl describe peerrelay"),
            "{reason}"
        );
    }
}

#[test]
fn each_reason_of_a_relay_is_found_in_its_report() {
    for reason in RelayReason::ALL {
        let mut facts = healthy();
        let status = facts.relay_nodes.as_mut().unwrap()[0]
            .status
            .as_mut()
            .unwrap();
        status.ready = false;
        status.reason = Some(reason.as_str().to_owned());
        status.message = Some("it does not work".to_owned());
        let found = findings(&facts);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].fault, reason.as_str());
        assert_eq!(found[0].subject, "RelayNode relays/edge-office-x (node n1)");
        report(&mut facts, "Ready", "False", reason.as_str());
        assert_eq!(findings(&facts).len(), 1, "the condition has it");
    }
}

#[test]
fn pods_of_the_operator_say_why_they_do_not_run() {
    let mut facts = healthy();
    operator(&mut facts).status.as_mut().unwrap().ready_replicas = None;
    facts.operator_pods = objects(&[json!({
        "metadata": {"name": "peerrelay-operator-x", "namespace": "peerrelay-system"},
        "status": {"containerStatuses": [{
            "name": "operator", "image": "example.net/none:1", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
    })]);
    let found = findings(&facts);
    assert_eq!(found[0].fault, "ImagePullFailed");
    assert!(
        found[0].problem.contains("example.net/none:1"),
        "{found:#?}"
    );
}

#[test]
fn before_the_installation_the_steps_are_named() {
    let mut facts = healthy();
    facts.definitions = Ok(vec![]);
    facts.operators = Ok(vec![]);
    facts.relays = Err(Unread::NoSuchKind);
    facts.not_creatable = vec!["clusterroles.rbac.authorization.k8s.io".to_owned()];
    let found = findings(&facts);
    let names: Vec<_> = found.iter().map(|finding| &*finding.fault).collect();
    let definitions = ["DefinitionMissing"; 3];
    let rest = ["InstallationForbidden", "OperatorMissing"];
    assert_eq!(names, [&definitions[..], &rest].concat());
    assert!(found.iter().all(is_complete), "{found:#?}");
}

#[test]
fn work_in_progress_is_no_fault() {
    for (kind, status, reason) in [
        ("Ready", "False", "RelaysStarting"),
        ("Reconciling", "True", "RelaysStarting"),
        ("GrantsInForce", "Unknown", "GrantsNotReported"),
        ("Stalled", "False", "RelaysReady"),
    ] {
        let mut facts = healthy();
        report(&mut facts, kind, status, reason);
        assert_eq!(findings(&facts), [], "{reason}");
    }
}

#[test]
fn unverified_endpoints_and_paused_relays_are_warnings() {
    for (kind, reason) in [("EndpointsVerified", "NoOtherRelay"), ("Ready", "Paused")] {
        let mut facts = healthy();
        report(&mut facts, kind, "Unknown", reason);
        let found = findings(&facts);
        assert_eq!(
            (&*found[0].fault, found[0].severity),
            (reason, Severity::Warning)
        );
    }
}

#[test]
fn oldest_kubernetes_is_that_of_the_chart() {
    let chart = include_str!("../../charts/peerrelay-operator/Chart.yaml");
    let (major, minor) = OLDEST_KUBERNETES;
    assert!(chart.contains(&format!("kubeVersion: \">={major}.{minor}.0-0\"")));
}

/// Facts about a cluster in which everything works.
fn healthy() -> Facts {
    let mut definitions = crd::all();
    for definition in &mut definitions {
        definition.status = Some(CustomResourceDefinitionStatus {
            conditions: Some(vec![object(
                json!({"type": "Established", "status": "True"}),
            )]),
            ..CustomResourceDefinitionStatus::default()
        });
    }
    let version = env!("CARGO_PKG_VERSION");
    let namespace = |name: &str| {
        json!({"metadata": {"name": name, "labels": {
            "pod-security.kubernetes.io/enforce": "privileged", "kubernetes.io/metadata.name": name}}})
    };
    Facts {
        now: NOW.parse().unwrap(),
        version: version.to_owned(),
        kubernetes: OLDEST_KUBERNETES,
        definitions: Ok(definitions),
        not_creatable: Vec::new(),
        operators: objects(&[json!({
            "metadata": {"name": "peerrelay-operator", "namespace": "peerrelay-system",
                         "labels": {"app.kubernetes.io/version": version}},
            "spec": {"replicas": 1, "selector": {}, "template": {"spec": {"containers": [
                {"name": "operator", "env": []}]}}},
            "status": {"readyReplicas": 1},
        })]),
        operator_pods: Ok(Vec::new()),
        relays: objects(&[relay()]),
        relay_nodes: objects(&[json!({
            "metadata": {"name": "edge-office-x", "namespace": "relays"},
            "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
            "status": {"ready": true, "version": version, "dataPath": "Kernel",
                       "lastUpdateTime": NOW},
        })]),
        relay_pods: objects(&[json!({
            "metadata": {"name": "edge-office-x", "namespace": "relays",
                         "labels": {"peerrelay.dev/peer-relay": "edge"}},
            "status": {"containerStatuses": [{
                "name": "relay", "image": "peerrelay", "imageID": "", "ready": true,
                "restartCount": 0, "state": {"running": {"startedAt": EARLIER}}}]},
        })]),
        namespaces: objects(&[namespace("relays")]),
        service_monitors: objects(&[json!({
            "metadata": {"name": "edge-metrics", "namespace": "relays",
                         "labels": {"release": "kps"}},
        })]),
        prometheuses: objects(&[json!({
            "metadata": {"name": "kps", "namespace": "monitoring"},
            "spec": {"serviceMonitorSelector": {"matchLabels": {"release": "kps"}},
                     "serviceMonitorNamespaceSelector": {}},
        })]),
        prometheus_agents: Err(Unread::NoSuchKind),
    }
}

/// A PeerRelay that is ready.
fn relay() -> Value {
    json!({
        "metadata": {"name": "edge", "namespace": "relays", "generation": 3,
                     "creationTimestamp": EARLIER},
        "spec": {"tailnet": {"authKey": {"secretName": "tailnet-auth"}},
                 "regions": [{"name": "office", "clients": ["tag:office"]}]},
        "status": {"observedGeneration": 3, "relays": "1/1", "conditions": [{
            "type": "Ready", "status": "True", "reason": "RelaysReady", "message": "1/1",
            "lastTransitionTime": EARLIER}]},
    })
}

fn objects<T: DeserializeOwned>(values: &[Value]) -> Result<Vec<T>, Unread> {
    Ok(values.iter().cloned().map(object).collect())
}

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn findings(facts: &Facts) -> Vec<Finding> {
    run(facts)
        .into_iter()
        .flat_map(|check| check.findings)
        .collect()
}

fn is_complete(finding: &Finding) -> bool {
    let texts = [&finding.subject, &finding.problem, &finding.remedy];
    texts.iter().all(|text| text.len() > 3)
}

fn operator(facts: &mut Facts) -> &mut k8s_openapi::api::apps::v1::Deployment {
    &mut facts.operators.as_mut().unwrap()[0]
}

fn watch(facts: &mut Facts, namespaces: &str) {
    let spec = operator(facts).spec.as_mut().unwrap();
    let pod = spec.template.spec.as_mut().unwrap();
    let variable = json!({"name": "PEERRELAY_WATCH_NAMESPACES", "value": namespaces});
    pod.containers[0].env = Some(vec![object(variable)]);
}

fn set_level(facts: &mut Facts, level: &str) {
    let labels = facts.namespaces.as_mut().unwrap()[0]
        .metadata
        .labels
        .as_mut()
        .unwrap();
    labels.insert(
        "pod-security.kubernetes.io/enforce".to_owned(),
        level.to_owned(),
    );
}

/// Sets a condition of the PeerRelay.
fn report(facts: &mut Facts, kind: &str, status: &str, reason: &str) {
    let relay = &mut facts.relays.as_mut().unwrap()[0];
    let conditions = &mut relay.status.as_mut().unwrap().conditions;
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(object(json!({
        "type": kind, "status": status, "reason": reason, "message": "office: it does not work",
        "lastTransitionTime": EARLIER,
    })));
}

fn forbidden(resource: &str) -> Unread {
    Unread::Forbidden {
        resource: resource.to_owned(),
        namespace: None,
    }
}
