//! Scraping of the relays, alerts and dashboards.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::{
    crd::monitoring::Switch,
    monitoring::{Scope, Shown, alerts, dashboard},
    names,
    operator::{kinds::MonitoringKind, objects::MonitoringObject, validate::ValidSpec},
};

/// Name of the port of the metrics Service.
const PORT: &str = "metrics";

/// Returns the object of each kind of prometheus-operator that should exist.
pub(super) fn objects(
    relay: &ValidSpec,
    known: &BTreeSet<MonitoringKind>,
) -> Vec<MonitoringObject> {
    let object = |kind| MonitoringObject {
        kind,
        is_known: known.contains(&kind),
        object: object(kind, relay, known),
    };
    MonitoringKind::ALL.map(object).into()
}

fn object(
    kind: MonitoringKind,
    relay: &ValidSpec,
    known: &BTreeSet<MonitoringKind>,
) -> Option<DynamicObject> {
    is_wanted(kind, relay, known).then(|| {
        let spec = match kind {
            MonitoringKind::ServiceMonitor => service_monitor(relay),
            MonitoringKind::PrometheusRule => prometheus_rule(relay, known),
        };
        let resource = kind.resource();
        DynamicObject {
            metadata: selected(relay),
            data: json!({"spec": spec}),
            types: Some(kube::core::TypeMeta {
                api_version: resource.api_version,
                kind: resource.kind,
            }),
        }
    })
}

/// Returns whether an object should exist, depending on the kinds in the cluster.
fn is_wanted(kind: MonitoringKind, relay: &ValidSpec, known: &BTreeSet<MonitoringKind>) -> bool {
    let switch = match kind {
        MonitoringKind::ServiceMonitor => relay.monitoring.service_monitor,
        MonitoringKind::PrometheusRule => relay.monitoring.prometheus_rule,
    };
    switch.is_on(known.contains(&kind))
}

/// Returns whether metrics can be read from outside of the node.
pub(super) fn is_scraped(relay: &ValidSpec) -> bool {
    relay.monitoring.service_monitor != Switch::Disabled
}

/// Returns the Service for the metrics of every relay, ready or not.
///
/// With a ServiceMonitor without labels, the Service has annotations too, because most Prometheus
/// servers select monitors by a label. A server that uses both has each target twice. Only those of
/// the monitor have the labels that alerts and dashboard use.
pub(super) fn service(relay: &ValidSpec, known: &BTreeSet<MonitoringKind>) -> Option<Service> {
    let monitored = is_wanted(MonitoringKind::ServiceMonitor, relay, known)
        && (relay.monitoring.service_monitor == Switch::Enabled
            || !relay.monitoring.labels.is_empty());
    let annotations = [
        ("prometheus.io/scrape", "true".to_owned()),
        ("prometheus.io/port", relay.metrics_port.to_string()),
        ("prometheus.io/path", "/metrics".to_owned()),
    ];
    let annotations: BTreeMap<_, _> = annotations
        .map(|(key, value)| (key.to_owned(), value))
        .into();
    let port = ServicePort {
        name: Some(PORT.to_owned()),
        protocol: Some("TCP".to_owned()),
        port: relay.metrics_port.into(),
        target_port: Some(IntOrString::Int(relay.metrics_port.into())),
        ..ServicePort::default()
    };
    let selector = [
        (names::PEER_RELAY_LABEL.to_owned(), relay.owner.name.clone()),
        ("app.kubernetes.io/component".to_owned(), "relay".to_owned()),
    ];
    is_scraped(relay).then(|| Service {
        metadata: ObjectMeta {
            annotations: (!monitored).then_some(annotations),
            ..metadata(relay)
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector.into()),
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        status: None,
    })
}

/// Returns the dashboard of this PeerRelay for the sidecar of Grafana. The chart has a dashboard of
/// all PeerRelays.
pub(super) fn dashboards(relay: &ValidSpec) -> Option<ConfigMap> {
    relay.monitoring.dashboards.is_on(false).then(|| {
        let shown = Shown::One {
            namespace: &relay.owner.namespace,
            name: &relay.owner.name,
        };
        let text =
            serde_json::to_string_pretty(&dashboard(shown)).expect("a dashboard is plain data");
        let mut metadata = metadata(relay);
        metadata.name = Some(names::dashboard(&relay.owner.name));
        let labels = metadata.labels.get_or_insert_default();
        labels.insert("grafana_dashboard".to_owned(), "1".to_owned());
        ConfigMap {
            metadata,
            data: Some(BTreeMap::from([(
                format!(
                    "{}.json",
                    names::dashboard(&format!("{}-{}", relay.owner.namespace, relay.owner.name))
                ),
                text,
            )])),
            ..ConfigMap::default()
        }
    })
}

fn service_monitor(relay: &ValidSpec) -> Value {
    let monitoring = &relay.monitoring;
    let label =
        |source: &str, target: &str| json!({"sourceLabels": [source], "targetLabel": target});
    let mut relabelings = vec![
        // Prometheus writes `_` for each character of a label of Kubernetes that is no letter or digit.
        label("__meta_kubernetes_pod_node_name", "node"),
        label(
            "__meta_kubernetes_service_label_peerrelay_dev_peer_relay",
            "peer_relay",
        ),
        label(
            "__meta_kubernetes_pod_label_peerrelay_dev_region",
            "relay_region",
        ),
    ];
    relabelings.extend(monitoring.relabelings.iter().map(|rule| json!(rule)));
    let mut endpoint = json!({"port": PORT, "path": "/metrics", "relabelings": relabelings});
    let further = [
        ("interval", monitoring.interval.as_ref().map(|v| json!(v))),
        (
            "scrapeTimeout",
            monitoring.scrape_timeout.as_ref().map(|v| json!(v)),
        ),
        (
            "metricRelabelings",
            (!monitoring.metric_relabelings.is_empty())
                .then(|| json!(monitoring.metric_relabelings)),
        ),
    ];
    for (field, value) in further {
        if let Some(value) = value {
            endpoint[field] = value;
        }
    }
    json!({
        "selector": {"matchLabels": names::component_labels(&relay.owner.name, PORT)},
        "namespaceSelector": {"matchNames": [relay.owner.namespace]},
        "endpoints": [endpoint],
    })
}

fn prometheus_rule(relay: &ValidSpec, known: &BTreeSet<MonitoringKind>) -> Value {
    let selector = format!(
        "namespace=\"{}\",peer_relay=\"{}\"",
        relay.owner.namespace, relay.owner.name
    );
    let mut scopes = vec![Scope::Relays];
    // A disabled PeerRelay has no relay to scrape.
    if relay.enabled && is_wanted(MonitoringKind::ServiceMonitor, relay, known) {
        scopes.push(Scope::Targets);
    }
    let groups = scopes.into_iter().map(|scope| alerts(scope, &selector));
    json!({"groups": groups.collect::<Vec<_>>()})
}

/// Returns the metadata of objects that Prometheus selects by labels.
fn selected(relay: &ValidSpec) -> ObjectMeta {
    let own = metadata(relay);
    let mut labels = relay.monitoring.labels.clone();
    labels.extend(own.labels.unwrap_or_default());
    ObjectMeta {
        labels: Some(labels),
        ..own
    }
}

fn metadata(relay: &ValidSpec) -> ObjectMeta {
    ObjectMeta {
        name: Some(names::metrics(&relay.owner.name)),
        namespace: Some(relay.owner.namespace.clone()),
        labels: Some(names::component_labels(&relay.owner.name, PORT)),
        owner_references: Some(vec![relay.owner.reference.clone()]),
        ..ObjectMeta::default()
    }
}
