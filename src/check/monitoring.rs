//! Check of the monitoring of relays by prometheus-operator.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{
    ResourceExt,
    api::DynamicObject,
    core::{Selector, SelectorExt},
};
use serde_json::Value;

use super::{
    conditions::shown,
    facts::{Facts, Unread},
    finding::{Check, Fault, Finding},
    installation::not_checked,
};
use crate::{
    crd::{PeerRelay, monitoring::Switch},
    names,
};

/// Returns the check of all PeerRelays whose metrics should be scraped.
pub(super) fn check(facts: &Facts) -> Check {
    let mut findings: Vec<_> = not_checked(&facts.service_monitors).into_iter().collect();
    findings.extend(not_checked(&facts.prometheuses));
    let relays = facts.relays.iter().flatten();
    findings.extend(
        relays.filter_map(|relay| match relay.spec.monitoring.service_monitor {
            Switch::Disabled => None,
            switch => match &facts.service_monitors {
                Err(Unread::NoSuchKind) => (switch == Switch::Enabled).then(|| kind_missing(relay)),
                Err(_) => None,
                Ok(monitors) => not_scraped(relay, monitors, facts),
            },
        }),
    );
    Check::new(
        "Prometheus scrapes the relays, if the cluster has prometheus-operator",
        findings,
    )
}

fn kind_missing(relay: &PeerRelay) -> Finding {
    Finding::new(
        Fault::MonitoringKindMissing,
        shown(relay),
        "spec.monitoring.serviceMonitor is Enabled, but the cluster has no ServiceMonitors",
        "install prometheus-operator, or set spec.monitoring.serviceMonitor: Auto",
    )
}

/// Returns the finding about a ServiceMonitor that no server selects.
fn not_scraped(relay: &PeerRelay, monitors: &[DynamicObject], facts: &Facts) -> Option<Finding> {
    let servers = facts.prometheuses.as_deref().ok()?;
    let agents = facts.prometheus_agents.as_deref().unwrap_or_default();
    let (namespace, name) = (relay.namespace(), names::metrics(&relay.name_any()));
    let own =
        |monitor: &&DynamicObject| monitor.namespace() == namespace && monitor.name_any() == name;
    let monitor = monitors.iter().find(own)?;
    let mut all = servers.iter().chain(agents);
    if all.clone().any(|server| selects(server, monitor, facts)) {
        return None;
    }
    let (problem, remedy) = match all.next() {
        None => (
            "the cluster has ServiceMonitors, but no Prometheus that reads them".to_owned(),
            "create a Prometheus with serviceMonitorSelector: {} and \
             serviceMonitorNamespaceSelector: {}"
                .to_owned(),
        ),
        Some(server) => (
            format!(
                "Prometheus {}/{} does not select ServiceMonitor {}/{name}",
                server.namespace().unwrap_or_default(),
                server.name_any(),
                namespace.unwrap_or_default()
            ),
            wanted_labels(server),
        ),
    };
    Some(Finding::new(
        Fault::NotScraped,
        shown(relay),
        problem,
        remedy,
    ))
}

/// Returns the labels that a server selects, as a line of the PeerRelay.
fn wanted_labels(server: &DynamicObject) -> String {
    let labels = &server.data["spec"]["serviceMonitorSelector"]["matchLabels"];
    let labels: BTreeMap<String, String> =
        serde_json::from_value(labels.clone()).unwrap_or_default();
    let pairs: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}: {value}"))
        .collect();
    let spaces = "let serviceMonitorNamespaceSelector of the Prometheus select the namespace";
    match pairs.is_empty() {
        true => spaces.to_owned(),
        false => format!(
            "set spec.monitoring.labels: {{{}}} (or the chart's value metrics.labels for all \
             PeerRelays), and {spaces}",
            pairs.join(", ")
        ),
    }
}

/// Returns whether a server selects a ServiceMonitor. A selector that is missing selects nothing; for
/// namespaces, it selects that of the server.
fn selects(server: &DynamicObject, monitor: &DynamicObject, facts: &Facts) -> bool {
    let spec = &server.data["spec"];
    let is_labelled = matches(&spec["serviceMonitorSelector"], monitor.labels()).unwrap_or(false);
    let mut spaces = facts.namespaces.iter().flatten();
    let space = spaces.find(|space| Some(space.name_any()) == monitor.namespace());
    let labels = space
        .map(|space| space.labels().clone())
        .unwrap_or_default();
    let in_space = matches(&spec["serviceMonitorNamespaceSelector"], &labels)
        .unwrap_or_else(|| server.namespace() == monitor.namespace());
    is_labelled && in_space
}

/// Returns whether a selector matches labels, or nothing if there is no selector.
fn matches(selector: &Value, labels: &BTreeMap<String, String>) -> Option<bool> {
    let selector: Option<LabelSelector> = serde_json::from_value(selector.clone()).ok()?;
    let selector = Selector::try_from(selector?).ok()?;
    Some(selector.matches(labels))
}
