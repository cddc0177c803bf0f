//! Changes of a DaemonSet according to `spec.template`.

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, DaemonSetUpdateStrategy, RollingUpdateDaemonSet},
        core::v1::{LocalObjectReference, PodSpec},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{
    crd::template::{Template, UpdateType},
    operator::overrides,
};

/// Applies the template of the user to `set`. Labels, annotations and everything else that a relay
/// needs stay.
pub(super) fn apply(template: &Template, set: &mut DaemonSet) {
    let spec = set.spec.get_or_insert_default();
    if let Some(strategy) = &template.update_strategy {
        spec.update_strategy = Some(match strategy.kind {
            UpdateType::OnDelete => DaemonSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                rolling_update: None,
            },
            UpdateType::RollingUpdate => DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(IntOrString::Int(
                        strategy.max_unavailable.unwrap_or(1).into(),
                    )),
                    max_surge: None,
                }),
            },
        });
    }
    let metadata = spec.template.metadata.get_or_insert_default();
    for (ours, theirs) in [
        (&mut metadata.labels, &template.labels),
        (&mut metadata.annotations, &template.annotations),
    ] {
        let ours = ours.get_or_insert_default();
        for (key, value) in theirs {
            ours.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let pod = spec.template.spec.get_or_insert_default();
    pod.priority_class_name
        .clone_from(&template.priority_class_name);
    let secret = |name: &String| LocalObjectReference { name: name.clone() };
    if !template.image_pull_secrets.is_empty() {
        pod.image_pull_secrets = Some(template.image_pull_secrets.iter().map(secret).collect());
    }
    for container in pod
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut pod.containers)
    {
        if let Some(image) = &template.image {
            container.image = Some(image.clone());
        }
        if let Some(resources) = &template.resources {
            container.resources = Some(resources.clone());
        }
    }
    if let Some(patch) = &template.pod_overrides {
        let mut value = serde_json::to_value(&*pod).expect("Kubernetes objects are plain data");
        overrides::merge(&mut value, patch);
        let merged = serde_json::from_value::<PodSpec>(value);
        *pod = merged.expect("overrides were checked when the PeerRelay was validated");
    }
}
