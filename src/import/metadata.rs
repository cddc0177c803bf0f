//! Metadata: names, labels and annotations of a converted object.

use std::collections::BTreeMap;

use super::{Options, draft::Metadata, fields::Fields, note::Notes};
use crate::names;

/// Fields that only the API server writes.
const OF_THE_SERVER: [&str; 8] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// Finalizer of Tailscale's operator.
const FINALIZER: &str = "tailscale.com/finalizer";
/// Domains of tools that remove objects which have their marks and are not in their sources.
const TOOLS: [&str; 8] = [
    "argocd.argoproj.io",
    "config.k8s.io",
    "config.kubernetes.io",
    "helm.toolkit.fluxcd.io",
    "kubectl.kubernetes.io",
    "kustomize.toolkit.fluxcd.io",
    "meta.helm.sh",
    "tailscale.com",
];
/// Labels with which such tools mark objects.
const TOOL_LABELS: [&str; 3] = [
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
];

/// Converts the metadata of an object.
pub(super) fn convert(mut fields: Fields, options: &Options, notes: &mut Notes) -> Metadata {
    let given: String = fields.typed("name", notes).unwrap_or_default();
    let name = match names::is_peer_relay_name(&given) {
        true => given,
        false => {
            let place = fields.place("name");
            notes.changed(place, RENAMED);
            names::suggestion(&given)
        }
    };
    // Objects of Tailscale's operator have no namespace; kubectl ignores one.
    fields.take("namespace");
    notes.changed(
        fields.place("namespace"),
        "a PeerRelay of this operator has a namespace, in which its relays and their Secrets are",
    );
    for field in OF_THE_SERVER {
        fields.take(field);
    }
    let finalizers: Vec<String> = fields.typed("finalizers", notes).unwrap_or_default();
    if finalizers.iter().any(|finalizer| finalizer != FINALIZER) {
        notes.lost(
            fields.place("finalizers"),
            "the finalizer belongs to another controller: add it again if it must see the deletion",
        );
    }
    fields.lose(
        "ownerReferences",
        "the owner would remove the new object with the old one: add the reference again if both \
         owners are the same",
        notes,
    );
    let labels = own(&mut fields, "labels", notes);
    let annotations = own(&mut fields, "annotations", notes);
    fields.finish(notes);
    Metadata {
        name,
        namespace: options.namespace.clone(),
        labels,
        annotations,
    }
}

const RENAMED: &str = "a PeerRelay of this operator has at most 40 lower-case letters, digits and \
                       dashes as its name, begins with a letter, and is renamed";

/// Takes labels or annotations, without the marks of tools.
fn own(fields: &mut Fields, name: &str, notes: &mut Notes) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = fields.typed(name, notes).unwrap_or_default();
    let before = all.len();
    all.retain(|key, _| !is_of_a_tool(key));
    if all.len() < before {
        notes.changed(
            fields.place(name),
            "marks of kubectl, Helm, Argo CD, Flux and Tailscale's operator are not copied: a tool \
             removes an object that has its mark and is not in its source",
        );
    }
    all
}

fn is_of_a_tool(key: &str) -> bool {
    let domain = key.split('/').next().unwrap_or_default();
    TOOLS.contains(&domain) || TOOL_LABELS.contains(&key)
}
