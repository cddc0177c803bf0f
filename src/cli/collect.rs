//! Facts about a cluster, read through its API server.

use anyhow::Context;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        authorization::v1::{
            ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
        },
        core::v1::{Namespace, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
};

use crate::{
    check::facts::{Facts, Known},
    cli::reader::Reader,
    crd::{self, PeerRelay, RelayNode},
    names,
    operator::kinds::{MONITORING_GROUP, MonitoringKind},
};

/// Labels of the Deployment and the pods of an operator, as the chart sets them.
const OPERATOR: &str = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=peerrelay";
/// Label of the pods of an operator.
const OPERATOR_PODS: &str = "app.kubernetes.io/name=peerrelay-operator";
/// Resources that an installation creates, with their API groups.
const INSTALLED: [(&str, &str); 4] = [
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("apps", "deployments"),
];

/// Reads all facts about a cluster, or about one namespace of it.
///
/// # Errors
/// The API server cannot be reached. Objects that the caller may not read are no error.
pub(super) async fn collect(client: &Client, namespace: Option<&str>) -> anyhow::Result<Facts> {
    let version = client.apiserver_version().await.context(
        "failed to reach the API server: kubectl cluster-info shows whether the kubeconfig works",
    )?;
    let reader = Reader { client, namespace };
    let (definitions, operators, operator_pods) = tokio::join!(
        definitions(reader),
        reader.everywhere::<Deployment>(OPERATOR),
        reader.everywhere::<Pod>(OPERATOR_PODS),
    );
    let (relays, relay_nodes, relay_pods) = tokio::join!(
        reader.within::<PeerRelay>(""),
        reader.within::<RelayNode>(""),
        reader.within::<Pod>(names::PEER_RELAY_LABEL),
    );
    let server = monitoring("v1", "Prometheus", "prometheuses");
    let agent = monitoring("v1alpha1", "PrometheusAgent", "prometheusagents");
    let (service_monitors, prometheuses, prometheus_agents, namespaces) = tokio::join!(
        monitors(reader),
        reader.dynamic(&server, "", None),
        reader.dynamic(&agent, "", None),
        namespaces(reader, relays.as_deref().unwrap_or_default()),
    );
    let is_absent = operators.as_ref().is_ok_and(Vec::is_empty);
    let not_creatable = match is_absent {
        true => not_creatable(client).await,
        false => Vec::new(),
    };
    Ok(Facts {
        now: Timestamp::now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kubernetes: (number(&version.major), number(&version.minor)),
        definitions,
        not_creatable,
        operators,
        operator_pods,
        relays,
        relay_nodes,
        relay_pods,
        namespaces,
        service_monitors,
        prometheuses,
        prometheus_agents,
    })
}

/// Returns the number at the beginning of a text. Some clouds add a `+` to the minor version.
fn number(text: &str) -> u32 {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text[..end.unwrap_or(text.len())]
        .parse()
        .unwrap_or_default()
}

fn monitoring(version: &str, kind: &str, plural: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk(MONITORING_GROUP, version, kind);
    ApiResource::from_gvk_with_plural(&kind, plural)
}

/// Reads the ServiceMonitors that operators have created.
async fn monitors(reader: Reader<'_>) -> Known<DynamicObject> {
    let kind = MonitoringKind::ServiceMonitor;
    reader
        .dynamic(&kind.resource(), &names::managed(), reader.namespace)
        .await
}

async fn definitions(reader: Reader<'_>) -> Known<CustomResourceDefinition> {
    let names = crd::all()
        .into_iter()
        .map(|definition| definition.name_any());
    reader.named(names.collect()).await
}

async fn namespaces(reader: Reader<'_>, relays: &[PeerRelay]) -> Known<Namespace> {
    reader
        .named(relays.iter().filter_map(ResourceExt::namespace).collect())
        .await
}

/// Returns the resources that the caller may not create. Reviews that fail are left out.
async fn not_creatable(client: &Client) -> Vec<String> {
    let api = Api::<SelfSubjectAccessReview>::all(client.clone());
    let mut missing = Vec::new();
    for (group, resource) in INSTALLED {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: Some("create".to_owned()),
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answer = api.create(&PostParams::default(), &review).await;
        let status = answer.ok().and_then(|review| review.status);
        if status.is_some_and(|status| !status.allowed) {
            missing.push(format!("{resource}.{group}"));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_versions_of_clouds_are_numbers() {
        for (text, wanted) in [("33", 33), ("34+", 34), ("", 0)] {
            assert_eq!(number(text), wanted, "{text}");
        }
    }
}
