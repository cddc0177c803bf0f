//! Checks of what is installed once for the cluster: Kubernetes, definitions and the operator.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::ResourceExt;

use super::{
    facts::{Facts, Known, Unread},
    finding::{Check, Fault, Finding},
};
use crate::{
    crd::{self, CHECKSUM_ANNOTATION},
    operator::status::pods,
};

/// Oldest version of Kubernetes that is supported, as in `kubeVersion` of the chart.
pub(super) const OLDEST_KUBERNETES: (u32, u32) = (1, 33);
/// Label with the version of a program.
const VERSION_LABEL: &str = "app.kubernetes.io/version";
/// Variable of the operator with the namespaces that it watches.
const WATCHED: &str = "PEERRELAY_WATCH_NAMESPACES";
/// Commands that install the definitions and the operator.
const INSTALL_DEFINITIONS: &str = "peerrelay crd | kubectl apply --server-side -f -";
const INSTALL_OPERATOR: &str = "helm install peerrelay-operator charts/peerrelay-operator -n \
                                peerrelay-system --create-namespace --set image.repository=IMAGE";

/// Returns the checks of the installation.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    vec![kubernetes(facts), definitions(facts), operator(facts)]
}

/// Returns the finding about objects that could not be read. Kinds that the cluster does not have are
/// left to the caller.
pub(super) fn not_checked<T>(known: &Known<T>) -> Option<Finding> {
    let unread = known.as_ref().err()?;
    let (resource, problem, remedy) = match unread {
        Unread::NoSuchKind => return None,
        Unread::Forbidden {
            resource,
            namespace,
        } => {
            let flag = namespace
                .as_ref()
                .map_or_else(|| "-A".to_owned(), |namespace| format!("-n {namespace}"));
            let remedy = format!(
                "ask an administrator for the right to list them (kubectl auth can-i list {resource} \
                 {flag}), or check one namespace with -n"
            );
            (
                resource,
                format!("{unread}, so they are not checked"),
                remedy,
            )
        }
        Unread::Failed { resource, .. } => {
            let remedy = format!("kubectl get {resource} -A shows whether the API server answers");
            (resource, unread.to_string(), remedy)
        }
    };
    Some(Finding::new(Fault::NotChecked, resource, problem, remedy))
}

fn kubernetes(facts: &Facts) -> Check {
    let ((major, minor), (least_major, least_minor)) = (facts.kubernetes, OLDEST_KUBERNETES);
    let findings = match facts.kubernetes < OLDEST_KUBERNETES {
        true => vec![Finding::new(
            Fault::KubernetesTooOld,
            "API server",
            format!("Kubernetes {major}.{minor} does not evaluate all rules of the definitions"),
            format!("upgrade the cluster to Kubernetes {least_major}.{least_minor} or later"),
        )],
        false => Vec::new(),
    };
    Check::new(format!("Kubernetes {major}.{minor} is supported"), findings)
}

fn definitions(facts: &Facts) -> Check {
    let mut findings: Vec<_> = not_checked(&facts.definitions).into_iter().collect();
    if let Ok(found) = &facts.definitions {
        for wanted in crd::all() {
            let name = wanted.name_any();
            let installed = found.iter().find(|found| found.name_any() == name);
            findings.extend(definition(&wanted, installed));
        }
        findings.extend(may_not_install(facts));
    }
    Check::new(
        "custom resource definitions are installed and current",
        findings,
    )
}

fn definition(
    wanted: &CustomResourceDefinition,
    installed: Option<&CustomResourceDefinition>,
) -> Option<Finding> {
    let name = wanted.name_any();
    let subject = format!("CustomResourceDefinition {name}");
    let Some(installed) = installed else {
        return Some(Finding::new(
            Fault::DefinitionMissing,
            subject,
            "it is not installed",
            INSTALL_DEFINITIONS,
        ));
    };
    let conditions = installed.status.iter().flat_map(|s| s.conditions.iter());
    let mut conditions = conditions.flatten();
    let is_served = conditions
        .clone()
        .any(|c| c.type_ == "Established" && c.status == "True");
    if !is_served {
        let refused = conditions.find(|c| c.status == "False");
        let why = refused.and_then(|c| c.message.clone());
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        return Some(Finding::new(
            Fault::DefinitionNotServed,
            subject,
            format!("the API server does not serve it{why}"),
            format!("kubectl describe crd {name} shows the conflict; then {INSTALL_DEFINITIONS}"),
        ));
    }
    let checksum =
        |of: &CustomResourceDefinition| of.annotations().get(CHECKSUM_ANNOTATION).cloned();
    (checksum(wanted) != checksum(installed)).then(|| {
        Finding::new(
            Fault::DefinitionDiffers,
            subject,
            "it is of another version than this program, which may refuse or ignore other fields",
            format!(
                "if this program is the newer one: {INSTALL_DEFINITIONS}; otherwise use the program \
                 of the operator's version"
            ),
        )
    })
}

fn may_not_install(facts: &Facts) -> Option<Finding> {
    let missing = facts.not_creatable.join(", ");
    (!missing.is_empty()).then(|| {
        Finding::new(
            Fault::InstallationForbidden,
            "your user",
            format!("you may not create {missing}, which the installation creates"),
            "let an administrator of the cluster install the chart",
        )
    })
}

fn operator(facts: &Facts) -> Check {
    let mut findings: Vec<_> = not_checked(&facts.operators).into_iter().collect();
    if let Ok(operators) = &facts.operators {
        if operators.is_empty() {
            findings.push(Finding::new(
                Fault::OperatorMissing,
                "Deployment peerrelay-operator",
                "no namespace has the operator, so PeerRelays have no effect",
                INSTALL_OPERATOR,
            ));
        }
        for operator in operators {
            findings.extend(running(operator, facts));
            findings.extend(version(operator, &facts.version));
        }
        findings.extend(overlap(operators));
    }
    Check::new("the operator runs", findings)
}

fn running(operator: &Deployment, facts: &Facts) -> Option<Finding> {
    let (namespace, name) = (
        operator.namespace().unwrap_or_default(),
        operator.name_any(),
    );
    let ready = operator.status.as_ref().and_then(|s| s.ready_replicas);
    if replicas(operator) == 0 {
        return Some(Finding::new(
            Fault::OperatorScaledDown,
            shown(operator),
            "it has 0 replicas, so changes of PeerRelays have no effect",
            format!("kubectl scale deployment/{name} -n {namespace} --replicas=1"),
        ));
    }
    if ready.unwrap_or_default() > 0 {
        return None;
    }
    let pods = facts.operator_pods.iter().flatten();
    let mut own = pods.filter(|pod| pod.namespace().as_deref() == Some(&namespace));
    if let Some((trouble, message)) = own.find_map(pods::trouble_of) {
        let mut finding = Finding::new(
            Fault::OperatorNotReady,
            shown(operator),
            message,
            format!("kubectl describe pods -n {namespace} -l app.kubernetes.io/component=operator"),
        );
        finding.fault = trouble.as_str().into();
        return Some(finding);
    }
    let status = operator.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    Some(Finding::new(
        Fault::OperatorNotReady,
        shown(operator),
        format!(
            "no replica is ready{}",
            refusal(conditions.unwrap_or_default())
        ),
        format!("kubectl logs deployment/{name} -n {namespace}; kubectl get events -n {namespace}"),
    ))
}

/// Returns the message of a condition that says why pods do not exist.
fn refusal(conditions: &[DeploymentCondition]) -> String {
    let is_cause = |c: &&DeploymentCondition| c.type_ == "ReplicaFailure" && c.status == "True";
    let cause = conditions.iter().find(is_cause);
    let message = cause.and_then(|cause| cause.message.as_deref());
    message.map_or_else(String::new, |message| format!(": {message}"))
}

fn version(operator: &Deployment, own: &str) -> Option<Finding> {
    let found = version_of(operator)?;
    (found != own).then(|| {
        Finding::new(
            Fault::OperatorVersionDiffers,
            shown(operator),
            format!("the operator is version {found}, and this program is {own}"),
            format!("upgrade the older one; this check knows the reasons and fields of {own}"),
        )
    })
}

/// Returns the version of an operator according to its chart.
pub(super) fn version_of(operator: &Deployment) -> Option<&str> {
    operator.labels().get(VERSION_LABEL).map(String::as_str)
}

fn overlap(operators: &[Deployment]) -> Option<Finding> {
    let acting: Vec<_> = operators.iter().filter(|o| replicas(o) > 0).collect();
    let mut pairs = acting
        .iter()
        .enumerate()
        .flat_map(|(at, one)| acting[at + 1..].iter().map(move |other| (one, other)));
    let (one, other) = pairs.find(|(one, other)| {
        let (one, other) = (watched(one), watched(other));
        one.is_empty() || other.is_empty() || one.iter().any(|space| other.contains(space))
    })?;
    Some(Finding::new(
        Fault::OperatorsOverlap,
        shown(one),
        format!(
            "{} acts on the same namespaces, and the two undo each other's changes",
            shown(other)
        ),
        "remove one of them, or give each its own namespaces with the chart's value watchNamespaces",
    ))
}

fn replicas(operator: &Deployment) -> i32 {
    operator.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

fn shown(operator: &Deployment) -> String {
    let namespace = operator.namespace().unwrap_or_default();
    format!("Deployment {namespace}/{}", operator.name_any())
}

/// Returns the namespaces that an operator watches. It is empty if it watches all.
pub(super) fn watched(operator: &Deployment) -> Vec<&str> {
    let template = operator.spec.as_ref().map(|spec| &spec.template);
    let pod = template.and_then(|template| template.spec.as_ref());
    let containers = pod.iter().flat_map(|pod| &pod.containers);
    let variables = containers.flat_map(|container| container.env.iter().flatten());
    let values: BTreeMap<_, _> = variables
        .filter_map(|variable| Some((&*variable.name, variable.value.as_deref()?)))
        .collect();
    let value = values.get(WATCHED).copied().unwrap_or_default();
    value.split(',').filter(|name| !name.is_empty()).collect()
}
