//! A real Prometheus, configured by the real prometheus-operator, scrapes relays and operator
//! through the objects that our operator and our chart make.

use anyhow::{Context, Result, ensure};
use rig::{
    command::{program, run},
    deployment::Deployment,
    names::{NAMESPACE, OPERATOR_NAMESPACE, RELEASE},
    prometheus::Prometheus,
    state::repository,
};
use serde_json::{Value, json};

use super::{EDGE, Scenario, relayed, reset};

mod outages;
mod picture;
mod queries;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "prometheus-operator is installed, its Prometheus scrapes relays and operator, alerts when they \
               fail, and it is removed again",
        run: scraped,
    }]
}

fn scraped(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    relayed(deployment)?;
    let own = json!({"monitoring": {
        "interval": "2s", "scrapeTimeout": "2s",
        "relabelings": [{"targetLabel": "cluster", "replacement": "rig"}],
        "metricRelabelings": [{"sourceLabels": ["__name__"], "regex": "tailscaled_.*", "action": "drop"}],
    }});
    deployment.apply(EDGE, &own)?;
    deployment.soon("annotations stand in for a ServiceMonitor", || {
        annotated(deployment)
    })?;
    let prometheus = Prometheus::start(deployment.rig)?;
    deployment.soon("everything is made once its kind is there", || {
        made(deployment)
    })?;
    deployment.rig.apply(&charts_own(deployment)?)?;
    prometheus.scrape(&[
        format!("serviceMonitor/{NAMESPACE}/{EDGE}-metrics/0"),
        format!("serviceMonitor/{OPERATOR_NAMESPACE}/peerrelay-operator/0"),
    ])?;
    let mut seen = String::new();
    deployment
        .eventually("relays and operator are scraped", || {
            seen = complete(&prometheus)?;
            Ok(())
        })
        .with_context(|| {
            prometheus
                .targets()
                .unwrap_or_else(|error| error.to_string())
        })?;
    let (mut queries, mut touched) = (String::new(), 0);
    deployment.eventually("panels and alerts query series that exist", || {
        // Rates need traffic, and a reconciliation, between two scrapes.
        relayed(deployment)?;
        touched += 1;
        let annotation = format!("rig/touched={touched}");
        deployment.annotate(EDGE, &annotation)?;
        queries = queries::hold(&prometheus)?;
        Ok(())
    })?;
    // As with other generated files, only on request.
    if std::env::var_os("UPDATE").is_some() {
        picture::draw(&prometheus, 120, &repository().join("docs/dashboard.svg"))?;
    }
    let alerts = outages::alerts(deployment, &prometheus)?;
    disabled(deployment)?;
    prometheus.remove()?;
    deployment.soon("annotations stand in again", || annotated(deployment))?;
    deployment.wait_ready(EDGE)?;
    Ok(format!("{seen}; {queries}; {alerts}"))
}

/// Disables monitoring and enables it again, while the kinds of its objects stay.
fn disabled(deployment: &Deployment<'_>) -> Result<()> {
    let off = json!({"monitoring": {"serviceMonitor": "Disabled", "prometheusRule": "Disabled"}});
    deployment.apply(EDGE, &off)?;
    deployment.soon("what is disabled is removed", || {
        for kind in ["servicemonitors", "prometheusrules", "services"] {
            let left = deployment.list(kind, EDGE)?;
            ensure!(left.is_empty(), "there are {} {kind}", left.len());
        }
        Ok(())
    })?;
    deployment.apply(EDGE, &json!({}))?;
    deployment.soon("everything is made again", || made(deployment))
}

/// Checks that the metrics Service has annotations for scrapers.
fn annotated(deployment: &Deployment<'_>) -> Result<()> {
    let service = deployment.object("service", &format!("{EDGE}-metrics"))?;
    let annotation = &service["metadata"]["annotations"]["prometheus.io/scrape"];
    ensure!(*annotation == "true", "the annotation is {annotation}");
    Ok(())
}

/// Checks that monitor and alerts exist, with the label of the operator's defaults,
/// and that the annotations do not.
fn made(deployment: &Deployment<'_>) -> Result<()> {
    for kind in ["servicemonitor", "prometheusrule"] {
        let object = deployment.object(kind, &format!("{EDGE}-metrics"))?;
        let label = &object["metadata"]["labels"]["release"];
        ensure!(*label == RELEASE, "the label of the {kind} is {label}");
    }
    ensure!(annotated(deployment).is_err(), "the annotations stay");
    Ok(())
}

/// The chart's monitoring objects of the operator, for clusters with prometheus-operator.
fn charts_own(deployment: &Deployment<'_>) -> Result<String> {
    let chart = repository().join("charts/peerrelay-operator");
    let mut helm = program(deployment.rig.tools().program("helm"));
    helm.args(["template", "peerrelay-operator"])
        .arg(chart)
        .args(["--namespace", OPERATOR_NAMESPACE])
        .args(["--set", "image.repository=peerrelay.dev/peerrelay"])
        .args(["--show-only", "templates/monitoring.yaml"])
        .args(["--set", &format!("metrics.labels.release={RELEASE}")])
        .args(["--set", "metrics.serviceMonitor.enabled=true"])
        .args(["--set", "metrics.prometheusRule.enabled=true"]);
    run(&mut helm)
}

/// Checks series, labels and alerts; returns a summary.
fn complete(prometheus: &Prometheus<'_>) -> Result<String> {
    // Alerts of a PeerRelay select its series in this way.
    let ours = format!("namespace=\"{NAMESPACE}\",peer_relay=\"{EDGE}\"");
    let relays = prometheus.query(&format!("peerrelay_ready{{{ours}}}"))?;
    ensure!(
        relays.len() == 2,
        "of two relays {} are there",
        relays.len()
    );
    for relay in &relays {
        let labels = &relay["metric"];
        let named = labels["node"].is_string() && labels["relay_region"] == "office";
        ensure!(named, "labels of a relay: {labels}");
        ensure!(value(relay) == Some(1.0), "a relay is not ready");
        ensure!(labels["cluster"] == "rig", "not relabelled: {labels}");
    }
    let dropped = prometheus.query(&format!("{{__name__=~\"tailscaled_.*\",{ours}}}"))?;
    ensure!(dropped.is_empty(), "metrics are not relabelled");
    let forwarded = prometheus.query(&format!("sum(peerrelay_forwarded_bytes_total{{{ours}}})"))?;
    let forwarded = forwarded.first().and_then(value).unwrap_or_default();
    ensure!(forwarded > 0.0, "no relay has forwarded anything");
    let leaders = prometheus.query("sum(peerrelay_operator_leader)")?;
    let leaders = leaders.first().and_then(value);
    ensure!(leaders == Some(1.0), "{leaders:?} operators lead");
    let down = prometheus.query("up == 0")?;
    ensure!(down.is_empty(), "not scraped: {}", Value::from(down));
    let alerts = prometheus.alert_rules()?;
    for alert in ["PeerRelayNotScraped", "PeerRelayOperatorAbsent"] {
        let loaded = alerts.iter().any(|(name, _)| name == alert);
        ensure!(loaded, "{alert} is not loaded");
    }
    Ok(format!(
        "2 relays with {forwarded} forwarded bytes, 1 leader, {} alerts",
        alerts.len()
    ))
}

fn value(series: &Value) -> Option<f64> {
    series["value"][1].as_str()?.parse().ok()
}
