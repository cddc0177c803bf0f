//! `ProxyClass` objects of Tailscale's operator: placement and pods of its relays.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity as PodAffinity, LocalObjectReference, PodDNSConfig, ResourceRequirements, Toleration,
    TopologySpreadConstraint,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Kind, Others,
    draft::Monitoring,
    fields::Fields,
    note::{Notes, Place},
    overrides::Overrides,
};
use crate::{
    crd::{
        placement::{Affinity, NodeAffinity, Placement},
        template::Template,
    },
    names::{HOSTNAME_LABEL, ZONE_LABEL},
};

/// Fields of a pod's security context that `template.podOverrides` may set.
const POD_SECURITY: [&str; 5] = [
    "appArmorProfile",
    "fsGroupChangePolicy",
    "seLinuxOptions",
    "supplementalGroups",
    "sysctls",
];
/// Keys of topology over which the operator spreads relays.
const SPREAD_OVER: [&str; 2] = [ZONE_LABEL, HOSTNAME_LABEL];
/// Environment variables of HTTP proxies, in lower case.
const PROXY_VARIABLES: [&str; 4] = ["all_proxy", "http_proxy", "https_proxy", "no_proxy"];
const NOT_FOR_RELAYS: &str = "the setting has no effect on relays, and is not needed";

/// Settings that a ProxyClass gives to relays.
#[derive(Debug, Default)]
pub(super) struct ProxyClass {
    pub(super) placement: Placement,
    pub(super) monitoring: Option<Monitoring>,
    pub(super) template: Template,
}

/// Variable of a container.
#[derive(Deserialize, Serialize)]
struct Variable {
    name: String,
    #[serde(default)]
    value: String,
}

/// Converts the ProxyClass that a relay names, if it is among the documents.
pub(super) fn find(
    name: Option<String>,
    place: Place,
    others: &Others<'_>,
    notes: &mut Notes,
    named: &mut Vec<usize>,
) -> ProxyClass {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return ProxyClass::default();
    };
    let Some((document, object)) = others.find(&Kind::ProxyClass(&name)) else {
        notes.lost(
            place,
            "the ProxyClass is not in the input, so placement and pods have defaults: add the \
             output of 'kubectl get proxyclasses.tailscale.com -o yaml' with another -f",
        );
        return ProxyClass::default();
    };
    named.push(document);
    convert(Fields::of(object, document), notes)
}

fn convert(mut fields: Fields, notes: &mut Notes) -> ProxyClass {
    let mut class = ProxyClass::default();
    for name in ["apiVersion", "kind", "metadata", "status"] {
        fields.take(name);
    }
    let mut spec = fields.object("spec", notes);
    fields.finish(notes);
    class.monitoring = monitoring(spec.object("metrics", notes), notes);
    let mut tailscale = spec.object("tailscale", notes);
    tailscale.drop_unneeded("acceptRoutes", NOT_FOR_RELAYS, notes);
    tailscale.finish(notes);
    spec.drop_unneeded("useLetsEncryptStagingEnvironment", NOT_FOR_RELAYS, notes);
    // Tailscale's operator uses these for ProxyGroups only.
    spec.drop_unneeded("staticEndpoints", NOT_FOR_RELAYS, notes);
    let mut set = spec.object("statefulSet", notes);
    spec.finish(notes);
    let of_set = "a PeerRelay does not change labels and annotations of DaemonSets: use those of \
                  pods (statefulSet.pod), or of the PeerRelay";
    set.lose("labels", of_set, notes);
    set.lose("annotations", of_set, notes);
    pod(set.object("pod", notes), &mut class, notes);
    set.finish(notes);
    class
}

fn monitoring(mut metrics: Fields, notes: &mut Notes) -> Option<Monitoring> {
    let enabled = metrics.typed("enable", notes).unwrap_or(false);
    if enabled {
        notes.changed(
            metrics.place("enable"),
            "relays always serve metrics: names that begin with tailscaled_peer_relay_ are the \
             same, other metrics of tailscaled do not exist",
        );
    }
    let mut monitor = metrics.object("serviceMonitor", notes);
    let is_monitored = monitor.typed("enable", notes).unwrap_or(false);
    let labels: BTreeMap<String, String> = monitor.typed("labels", notes).unwrap_or_default();
    monitor.finish(notes);
    metrics.finish(notes);
    is_monitored.then_some(Monitoring {
        service_monitor: "Enabled",
        labels,
    })
}

fn pod(mut pod: Fields, class: &mut ProxyClass, notes: &mut Notes) {
    let mut overrides = Overrides::default();
    let template = &mut class.template;
    template.labels = pod.typed("labels", notes).unwrap_or_default();
    template.annotations = pod.typed("annotations", notes).unwrap_or_default();
    template.priority_class_name = pod.typed("priorityClassName", notes);
    let secrets: Vec<LocalObjectReference> =
        pod.typed("imagePullSecrets", notes).unwrap_or_default();
    template.image_pull_secrets = secrets.into_iter().map(|secret| secret.name).collect();
    if !template.image_pull_secrets.is_empty() {
        notes.changed(
            pod.place("imagePullSecrets"),
            "the Secrets must be in the namespace of the PeerRelay, and allow its image to be \
             pulled",
        );
    }
    class.placement = placement(&mut pod, notes);
    if let Some(policy) = pod.typed::<String>("dnsPolicy", notes) {
        overrides.pod.insert("dnsPolicy".to_owned(), json!(policy));
    }
    if let Some(config) = pod.typed::<PodDNSConfig>("dnsConfig", notes) {
        overrides.pod.insert("dnsConfig".to_owned(), json!(config));
    }
    pod_security(pod.object("securityContext", notes), &mut overrides, notes);
    let container = pod.object("tailscaleContainer", notes);
    template.resources = self::container(container, &mut overrides, notes);
    pod.drop_unneeded(
        "tailscaleInitContainer",
        "relays have no container that changes the network of their pod",
        notes,
    );
    pod.finish(notes);
    template.pod_overrides = overrides.patch();
}

fn placement(pod: &mut Fields, notes: &mut Notes) -> Placement {
    let mut selector: BTreeMap<String, String> =
        pod.typed("nodeSelector", notes).unwrap_or_default();
    if let Some(node) = pod.typed::<String>("nodeName", notes) {
        notes.changed(
            pod.place("nodeName"),
            "the node is selected by its label kubernetes.io/hostname: correct the selector if the \
             label differs from the name of the node",
        );
        selector.insert(HOSTNAME_LABEL.to_owned(), node);
    }
    let spread: Vec<TopologySpreadConstraint> = pod
        .typed("topologySpreadConstraints", notes)
        .unwrap_or_default();
    let place = pod.place("topologySpreadConstraints");
    match spread
        .iter()
        .all(|constraint| SPREAD_OVER.contains(&&*constraint.topology_key))
    {
        true if spread.is_empty() => {}
        true => notes.changed(
            place,
            "the operator spreads relays over zones and nodes itself",
        ),
        false => notes.lost(
            place,
            "the operator spreads relays over zones and nodes only: use a region for each part of \
             another topology, with its own nodeSelector",
        ),
    }
    let tolerations: Vec<Toleration> = pod.typed("tolerations", notes).unwrap_or_default();
    if tolerations.len() > 32 {
        notes.lost(
            pod.place("tolerations"),
            "a region has at most 32 tolerations",
        );
    }
    Placement {
        node_selector: selector,
        affinity: affinity(pod, notes),
        tolerations: tolerations.into_iter().take(32).collect(),
        ..Placement::default()
    }
}

fn affinity(pod: &mut Fields, notes: &mut Notes) -> Option<Affinity> {
    let given: PodAffinity = pod.typed("affinity", notes)?;
    let place = |name: &str| pod.place(&format!("affinity.{name}"));
    if given.pod_affinity.is_some() {
        notes.lost(
            place("podAffinity"),
            "relays are placed by properties of nodes: use nodeSelector or nodeAffinity",
        );
    }
    if given.pod_anti_affinity.is_some() {
        notes.lost(
            place("podAntiAffinity"),
            "a node runs at most one relay of a region in any case: keep relays away from other \
             pods with nodeSelector, nodeAffinity or taints",
        );
    }
    let nodes = given.node_affinity?;
    if nodes
        .preferred_during_scheduling_ignored_during_execution
        .is_some_and(|terms| !terms.is_empty())
    {
        notes.lost(
            place("nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution"),
            "relays have no preferred nodes: make the terms required, or remove them",
        );
    }
    let required = nodes.required_during_scheduling_ignored_during_execution?;
    Some(Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(required),
        }),
    })
}

fn pod_security(mut context: Fields, overrides: &mut Overrides, notes: &mut Notes) {
    let mut kept = serde_json::Map::new();
    for name in POD_SECURITY {
        if let Some(value) = context.take(name) {
            kept.insert(name.to_owned(), value);
        }
    }
    if !kept.is_empty() {
        let kept = Value::Object(kept);
        overrides.pod.insert("securityContext".to_owned(), kept);
    }
    for name in context.names() {
        context.lose(
            &name,
            "relays set users and privileges themselves: they run without root, and with the \
             capabilities of their data path only",
            notes,
        );
    }
}

fn container(
    mut container: Fields,
    overrides: &mut Overrides,
    notes: &mut Notes,
) -> Option<ResourceRequirements> {
    container.lose(
        "image",
        "the image runs tailscaled: set template.image if nodes pull the image of this operator \
         from another registry",
        notes,
    );
    if let Some(policy) = container.typed::<String>("imagePullPolicy", notes) {
        let policy = json!(policy);
        overrides
            .container
            .insert("imagePullPolicy".to_owned(), policy);
    }
    container.lose(
        "securityContext",
        "relays set users and privileges themselves, for their data path",
        notes,
    );
    container.lose(
        "debug",
        "relays have no profiling endpoint: metrics and the log level (spec.logLevel) remain",
        notes,
    );
    let place = container.place("env");
    let variables: Vec<Variable> = container.typed("env", notes).unwrap_or_default();
    let (proxies, others): (Vec<_>, Vec<_>) = variables
        .into_iter()
        .partition(|variable| PROXY_VARIABLES.contains(&&*variable.name.to_lowercase()));
    for variable in others {
        notes.lost(
            Place {
                path: format!("{}.{}", place.path, super::fields::shown(&variable.name)),
                ..place
            },
            "the variable is for tailscaled: set a variable of the relay in \
             template.podOverrides, or a field of spec (peerrelay relay --help)",
        );
    }
    if !proxies.is_empty() {
        let proxies = json!(proxies);
        overrides.container.insert("env".to_owned(), proxies);
    }
    let resources = container.typed("resources", notes);
    container.finish(notes);
    resources.filter(|resources| *resources != ResourceRequirements::default())
}
