//! Checks of PeerRelays: what their conditions report, and what keeps the operator from reporting.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::Namespace,
    apimachinery::pkg::apis::meta::v1::Condition,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;

use super::{
    facts::Facts,
    finding::{Check, Fault, Finding, Severity},
    installation::{not_checked, watched},
    remedy::{Subject, remedy},
};
use crate::{
    crd::{PeerRelay, exposure::ExposureType},
    names::CREDENTIAL_EXPIRING,
};

/// Time in which an operator that works has handled a change.
const HANDLED_WITHIN: SignedDuration = SignedDuration::from_secs(30);
/// Label of a namespace with its Pod Security level.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
/// Reason of a condition that says the same as [`Fault::NamespaceNotPrivileged`].
const FORBIDDEN: &str = "PodSecurityForbidden";
/// Reasons that name no fault: an intended state, or work that is in progress.
const NO_FAULT: [&str; 5] = [
    "Disabled",
    "RelaysWithdrawing",
    "RelaysStarting",
    "GrantsNotReported",
    "NotTried",
];

/// Returns a check of all PeerRelays together, and one of each.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let mut general: Vec<_> = not_checked(&facts.relays).into_iter().collect();
    let relays = facts.relays.as_deref().unwrap_or_default();
    if relays.is_empty() && general.is_empty() {
        general.push(Finding::new(
            Fault::NoPeerRelay,
            "PeerRelays",
            "there is none in the namespaces that are checked, so there is no relay",
            "kubectl apply -f deploy/examples/smallest.yaml, or check all namespaces without -n",
        ));
    }
    general.extend(not_checked(&facts.namespaces));
    let mut checks = vec![Check::new("PeerRelays can be read", general)];
    checks.extend(relays.iter().map(|relay| check(relay, facts)));
    checks
}

fn check(relay: &PeerRelay, facts: &Facts) -> Check {
    let mut findings = reported(relay);
    findings.extend(not_watched(relay, facts).or_else(|| not_reconciled(relay, facts.now)));
    if !findings.iter().any(|finding| finding.fault == FORBIDDEN) {
        findings.extend(not_privileged(relay, facts));
    }
    let status = relay.status.as_ref();
    let relays = status.map_or("", |status| &status.relays);
    let name = match relays {
        "" => format!("{} works", shown(relay)),
        relays => format!("{} works ({relays} relays ready)", shown(relay)),
    };
    Check::new(name, findings)
}

/// Returns the findings of the conditions, each reason once.
pub fn reported(relay: &PeerRelay) -> Vec<Finding> {
    let conditions = relay.status.iter().flat_map(|status| &status.conditions);
    let (namespace, name) = (relay.namespace().unwrap_or_default(), relay.name_any());
    let subject = Subject {
        namespace: &namespace,
        name: &name,
        secret: secret(relay),
    };
    let mut seen = BTreeSet::new();
    let problems = conditions.filter_map(|condition| {
        let severity = severity(condition)?;
        let is_new = seen.insert((condition.reason.clone(), condition.message.clone()));
        let is_fault = !NO_FAULT.contains(&&*condition.reason);
        (is_new && is_fault).then(|| Finding {
            fault: condition.reason.clone().into(),
            severity,
            subject: shown(relay),
            problem: condition.message.clone(),
            remedy: remedy(&condition.reason, subject).unwrap_or_else(|| {
                format!("kubectl describe peerrelay {name} -n {namespace} shows all conditions")
            }),
        })
    });
    problems.collect()
}

/// Returns the urgency of a condition, or nothing if it reports no problem.
fn severity(condition: &Condition) -> Option<Severity> {
    match (&*condition.type_, &*condition.status) {
        ("Reconciling", _) | ("Stalled", "False") => None,
        ("Stalled", "True") => Some(Severity::Problem),
        ("WithinQuota" | "PolicySynced" | "DevicesDeleted", "False")
        | (CREDENTIAL_EXPIRING, "True") => Some(Severity::Warning),
        (_, "False") => Some(Severity::Problem),
        (_, "Unknown") => Some(Severity::Warning),
        _ => None,
    }
}

fn not_watched(relay: &PeerRelay, facts: &Facts) -> Option<Finding> {
    let operators = facts.operators.as_deref().unwrap_or_default();
    let namespace = relay.namespace().unwrap_or_default();
    let watches = |namespaces: &[&str]| namespaces.is_empty() || namespaces.contains(&&*namespace);
    let is_watched = operators.iter().any(|operator| watches(&watched(operator)));
    let names: Vec<_> = operators.iter().flat_map(watched).collect();
    (!is_watched && !operators.is_empty()).then(|| {
        Finding::new(
            Fault::NamespaceNotWatched,
            shown(relay),
            format!(
                "the operator watches only the namespaces {}",
                names.join(", ")
            ),
            format!("add {namespace} to the chart's value watchNamespaces, or move the PeerRelay"),
        )
    })
}

fn not_reconciled(relay: &PeerRelay, now: Timestamp) -> Option<Finding> {
    let generation = relay.metadata.generation.unwrap_or_default();
    let observed = relay
        .status
        .as_ref()
        .map_or(-1, |status| status.observed_generation);
    let waited = now.duration_since(last_change(relay)?);
    (observed != generation && waited > HANDLED_WITHIN).then(|| {
        Finding::new(
            Fault::NotReconciled,
            shown(relay),
            format!(
                "the operator has not handled its last change, {} s ago",
                waited.as_secs()
            ),
            "kubectl logs -A -l app.kubernetes.io/component=operator --prefix --tail=50 shows why",
        )
    })
}

/// Returns the time of the last change of the object apart from its status.
fn last_change(relay: &PeerRelay) -> Option<Timestamp> {
    let entries = relay.metadata.managed_fields.iter().flatten();
    let changes =
        entries.filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty());
    let times = changes.filter_map(|entry| Some(entry.time.as_ref()?.0));
    let created = relay
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0);
    times.chain(created).max()
}

fn not_privileged(relay: &PeerRelay, facts: &Facts) -> Option<Finding> {
    let namespace = relay.namespace().unwrap_or_default();
    let mut namespaces = facts.namespaces.iter().flatten();
    let level = namespaces
        .find(|found| found.name_any() == namespace)
        .and_then(level)
        .filter(|level| level != "privileged")?;
    let on_host = relay.spec.regions.iter().any(|region| {
        let exposure = region.exposure.as_ref();
        exposure.is_none_or(|exposure| exposure.kind == ExposureType::HostNetwork)
    });
    (on_host && relay.spec.enabled).then(|| {
        let subject = Subject {
            namespace: &namespace,
            name: &relay.name_any(),
            secret: None,
        };
        Finding::new(
            Fault::NamespaceNotPrivileged,
            format!("Namespace {namespace}"),
            format!("its Pod Security level is {level}, which forbids relays on the host network"),
            remedy(FORBIDDEN, subject).unwrap_or_default(),
        )
    })
}

fn level(namespace: &Namespace) -> Option<String> {
    namespace.labels().get(POD_SECURITY).cloned()
}

/// Returns the name of the Secret with the credential.
fn secret(relay: &PeerRelay) -> Option<&str> {
    let tailnet = &relay.spec.tailnet;
    let auth_key = tailnet.auth_key.as_ref().map(|key| &*key.secret_name);
    auth_key.or(tailnet.oauth.as_ref().map(|oauth| &*oauth.secret_name))
}

/// Returns the kind, namespace and name of a PeerRelay.
pub(super) fn shown(relay: &PeerRelay) -> String {
    let namespace = relay.namespace().unwrap_or_default();
    format!("PeerRelay {namespace}/{}", relay.name_any())
}
