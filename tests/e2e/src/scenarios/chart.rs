//! The chart on a real API server: its objects, installation, upgrades and removal.

mod lifecycle;

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use rig::{
    command::{program, run, run_with_input},
    deployment::Deployment,
    names::OPERATOR_NAMESPACE,
    state::repository,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Scenario;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "fifty renderings of the chart are accepted by the API server, which warns only of values that \
               Pod Security restricted forbids",
        run: renderings,
    }]
}

/// Installs and removes the operator, so that it comes last.
pub(super) fn closing() -> Vec<Scenario> {
    vec![Scenario {
        name: "the operator is installed by both majors of Helm, by kustomize and by \
                   install.yaml, and its removal leaves only what is to be kept",
        run: lifecycle::run,
    }]
}

/// Kinds that clusters may not know, as this one.
const OPTIONAL: [&str; 4] = [
    "PodMonitor",
    "PrometheusRule",
    "SecurityContextConstraints",
    "ServiceMonitor",
];

/// Values, each of which is a rendering with each of the others that begin a line of `WITH`.
const VALUES: [&str; 25] = [
    "replicaCount=0",
    "replicaCount=9,podDisruptionBudget.minAvailable=50%",
    "podDisruptionBudget.maxUnavailable=2",
    "strategy.type=Recreate,revisionHistoryLimit=0",
    "terminationGracePeriodSeconds=0,priorityClassName=system-cluster-critical",
    "crds.enabled=false",
    "crds.keep=false,admissionPolicy.enabled=false",
    "rbac.aggregateClusterRoles=false,serviceAccount.annotations.a=b",
    "rbac.create=false,serviceAccount.create=false,serviceAccount.name=other",
    "watchNamespaces={relays}",
    "leaderElection.leaseDuration=60s,leaderElection.renewDeadline=40s,concurrency=64",
    "log.format=json,log.level=debug\\,kube=warn,extraArgs={--identity=x}",
    "podSecurityContext.runAsUser=null,podSecurityContext.runAsGroup=null",
    "podSecurityContext=null,securityContext=null,resources=null,affinity=null",
    "livenessProbe.failureThreshold=9,startupProbe.failureThreshold=30,readinessProbe=null",
    "topologySpreadConstraints[0].maxSkew=1,topologySpreadConstraints[0].topologyKey=zone,\
     topologySpreadConstraints[0].whenUnsatisfiable=ScheduleAnyway",
    "runtimeClassName=gvisor,dnsPolicy=Default,hostAliases[0].ip=192.0.2.1",
    "hostNetwork=true,metrics.port=9090,dnsConfig.nameservers={192.0.2.53}",
    "commonLabels.team=net,podLabels.a=b,deploymentLabels.c=d,commonAnnotations.note=yes",
    "service.ipFamilyPolicy=PreferDualStack,service.ipFamilies={IPv6,IPv4}",
    "networkPolicy.enabled=true,networkPolicy.metricsFrom=null",
    "metrics.dashboard.enabled=false,global.imageRegistry=mirror.test",
    "relayDefaults.resources.limits.memory=1Gi,relayDefaults.labels.a=b,relayDefaults.environment.A=b",
    "relays.valued.namespace=relays,relays.valued.spec.tailnet.authKey.secretName=s,\
     relays.valued.spec.regions[0].name=office,relays.valued.spec.regions[0].clients={tag:office}",
    "extraVolumes[0].name=more,extraVolumes[0].emptyDir.sizeLimit=1Mi,\
     extraVolumeMounts[0].name=more,extraVolumeMounts[0].mountPath=/more,extraEnv[0].name=A",
];

fn renderings(deployment: &Deployment<'_>) -> Result<String> {
    let chart = repository().join("charts/peerrelay-operator");
    let mut seen = BTreeSet::new();
    let mut count = 0;
    for values in VALUES {
        for with in [&[][..], &["--values", "values-ha.yaml"]] {
            let mut helm = program(deployment.rig.tools().program("helm"));
            helm.current_dir(&chart)
                // The release has a name of its own: fields of existing objects that are left out here have other owners.
                .args(["template", "fifty", "."])
                .args(["--namespace", OPERATOR_NAMESPACE])
                .args(with)
                .args(["--set", "image.repository=localhost/peerrelay"])
                .args(["--set", values]);
            for document in serde_yaml::Deserializer::from_str(&run(&mut helm)?) {
                let object = Value::deserialize(document)?;
                let kind = object["kind"].as_str().unwrap_or_default();
                if !object.is_null() && !OPTIONAL.contains(&kind) {
                    seen.insert(object.to_string());
                }
            }
            count += 1;
        }
    }
    let items: Vec<Value> = seen
        .iter()
        .map(|object| serde_json::from_str(object))
        .collect::<Result<_, _>>()?;
    let objects = items.len();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let said = accept(deployment, &list)?;
    // Without security contexts, and on the host network.
    let warnings = said.lines().filter(|line| line.starts_with("Warning:"));
    let (expected, other): (Vec<_>, Vec<_>) =
        warnings.partition(|line| line.contains("would violate PodSecurity"));
    ensure!(
        other.is_empty() && expected.len() == 2,
        "the API server warns: {said}"
    );
    Ok(format!("{count} renderings, {objects} different objects"))
}

/// The warnings of kubectl when the API server accepts objects without keeping them.
fn accept(deployment: &Deployment<'_>, list: &str) -> Result<String> {
    let file = deployment.rig.scratch("renderings")?.join("list.json");
    fs::write(&file, list)?;
    let mut kubectl = deployment.rig.kubectl_command();
    kubectl
        .args(["apply", "--server-side", "--force-conflicts"])
        .args(["--dry-run=server", "--validate=strict", "-o", "name", "-f"])
        .arg(&file);
    let output = kubectl.output().context("failed to start kubectl")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    Ok(said)
}

/// Applies manifests as users do.
fn apply_server_side(deployment: &Deployment<'_>, yaml: &str) -> Result<()> {
    let mut kubectl = deployment.rig.kubectl_command();
    kubectl.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
    run_with_input(&mut kubectl, yaml.as_bytes()).map(drop)
}
