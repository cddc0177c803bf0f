//! Manifests that the API server refuses, and those that it accepts.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Result, bail, ensure};
use rig::{
    command::run_with_input,
    deployment::Deployment,
    names::NAMESPACE,
    spec::{region, tailnet},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{EDGE, Scenario, reset};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "every invalid field is refused with a message that names the fix",
            run: refused,
        },
        Scenario {
            name: "the smallest PeerRelay is accepted",
            run: smallest,
        },
        Scenario {
            name: "a PeerRelay that an older version admitted under a name that cannot work is \
                   InvalidSpec, with a message that gives a name that can",
            run: older_name,
        },
        Scenario {
            name: "install.yaml, the kustomize base and the examples are accepted",
            run: manifests,
        },
        Scenario {
            name: "a relay may write its own RelayNode and no other",
            run: own_report,
        },
    ]
}

fn refused(deployment: &Deployment<'_>) -> Result<String> {
    let cases: Vec<Refused> = serde_yaml::from_str(include_str!("admission/refused.yaml"))?;
    for case in &cases {
        let (name, spec, message) = (&case.name, case.spec(), &case.message);
        let object = deployment.peer_relay(name, &spec)?.to_string();
        let mut kubectl = deployment.rig.kubectl_command();
        kubectl.args(["create", "--dry-run=server", "--validate=strict", "-f", "-"]);
        match run_with_input(&mut kubectl, object.as_bytes()) {
            Ok(_) => bail!("{name} {spec} was accepted"),
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(
                    said.contains(message),
                    "{spec} was refused without '{message}': {said}"
                );
            }
        }
    }
    Ok(format!("{} invalid PeerRelays were refused", cases.len()))
}

/// A PeerRelay that the API server refuses.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    #[serde(default = "edge")]
    name: String,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    region: BTreeMap<String, Value>,
    #[serde(default)]
    tailnet: BTreeMap<String, Value>,
    /// A part of the message of the refusal.
    message: String,
}

impl Refused {
    fn spec(&self) -> Value {
        let regions = self
            .region
            .iter()
            .map(|(name, value)| region(name, value.clone()));
        let tailnets = self
            .tailnet
            .iter()
            .map(|(name, value)| tailnet(name, value.clone()));
        let mut fields = regions.chain(tailnets);
        fields.next().unwrap_or_else(|| self.spec.clone())
    }
}

fn edge() -> String {
    EDGE.to_owned()
}

fn smallest(deployment: &Deployment<'_>) -> Result<String> {
    let object = r#"
apiVersion: peerrelay.dev/v1alpha1
kind: PeerRelay
metadata: {name: smallest, namespace: relays}
spec:
  tailnet: {authKey: {secretName: tailnet-auth}}
  regions: [{name: office, clients: ["tag:office"]}]
"#;
    let mut kubectl = deployment.rig.kubectl_command();
    kubectl.args([
        "create",
        "--dry-run=server",
        "--validate=strict",
        "-o",
        "json",
        "-f",
        "-",
    ]);
    let text = run_with_input(&mut kubectl, object.as_bytes())?;
    let relay: Value = serde_json::from_str(&text)?;
    ensure!(
        relay["spec"]["port"] == 40_000,
        "the default port is {}",
        relay["spec"]["port"]
    );
    ensure!(
        relay["status"]["observedGeneration"] == -1,
        "status: {}",
        relay["status"]
    );
    Ok("defaults filled in, observedGeneration -1".into())
}

fn older_name(deployment: &Deployment<'_>) -> Result<String> {
    const NAME: &str = "edge.eu";
    let definition = "peerrelays.peerrelay.dev";
    let crd: Value = serde_json::from_str(&deployment.rig.kubectl([
        "get",
        "customresourcedefinition",
        definition,
        "-o",
        "json",
    ])?)?;
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let rules = &schema["x-kubernetes-validations"];
    let set = |rules: &Value| {
        let path = "/spec/versions/0/schema/openAPIV3Schema/x-kubernetes-validations";
        let patch = json!([{"op": "replace", "path": path, "value": rules}]).to_string();
        let words = [
            "patch",
            "customresourcedefinition",
            definition,
            "--type=json",
            "-p",
            &patch,
        ];
        deployment.rig.kubectl(words).map(drop)
    };
    let all = rules.as_array().cloned().unwrap_or_default();
    let older = |rule: &Value| rule["optionalOldSelf"] != true;
    set(&all.iter().filter(|rule| older(rule)).cloned().collect())?;
    let created = deployment.soon("the older definition admits the name", || {
        deployment.apply(NAME, &json!({}))
    });
    set(rules)?;
    created?;
    deployment.soon(
        "the status names the fault and a name that can work",
        || {
            let said = deployment.condition(NAME, "Stalled")?;
            ensure!(said == "True/InvalidSpec", "Stalled is '{said}'");
            let relay = deployment.object("peerrelay", NAME)?;
            let conditions = relay["status"]["conditions"].to_string();
            ensure!(conditions.contains("such as edge-eu"), "{conditions}");
            let generations = (
                &relay["status"]["observedGeneration"],
                &relay["metadata"]["generation"],
            );
            ensure!(generations.0 == generations.1, "{generations:?}");
            Ok(())
        },
    )?;
    let services = deployment.list("services", NAME)?.len();
    deployment.delete(NAME)?;
    ensure!(services == 0, "{services} Services were made");
    Ok("Stalled/InvalidSpec names edge-eu".into())
}

fn manifests(deployment: &Deployment<'_>) -> Result<String> {
    let deploy = rig::state::repository().join("deploy");
    let sources = [
        ("-f", "install.yaml"),
        ("-k", "kustomize/base"),
        ("-f", "examples"),
    ];
    let created = create_namespaces(deployment, &deploy.join("examples"))?;
    let accepted = sources.iter().try_for_each(|(flag, source)| {
        let path = deploy.join(source).display().to_string();
        let dry_run = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            flag,
            &path,
        ];
        deployment.rig.kubectl(dry_run).map(drop)
    });
    for name in created {
        deployment.rig.kubectl(["delete", "namespace", &name])?;
    }
    accepted?;
    Ok(format!("{} sources", sources.len()))
}

/// Creates namespaces that manifests of a directory contain, where they do not exist: a dry run creates
/// none for the objects in them. Returns their names.
fn create_namespaces(deployment: &Deployment<'_>, manifests: &Path) -> Result<Vec<String>> {
    let mut created = Vec::new();
    for entry in fs::read_dir(manifests)? {
        let text = fs::read_to_string(entry?.path())?;
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = Value::deserialize(document)?;
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let get = ["get", "namespace", name, "--ignore-not-found", "-o", "name"];
            if object["kind"] == "Namespace" && deployment.rig.kubectl(get)?.is_empty() {
                deployment.rig.kubectl(["create", "namespace", name])?;
                created.push(name.to_owned());
            }
        }
    }
    Ok(created)
}

fn own_report(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let nodes = deployment.list("pods", EDGE)?;
    let name = |at: usize| {
        nodes[at]["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    ensure!(nodes.len() == 2, "{} relays run", nodes.len());
    let account = format!("{EDGE}-office");
    let uid = nodes[0]["metadata"]["uid"].as_str().unwrap_or_default();
    let token = deployment.rig.kubectl([
        "create",
        "token",
        &account,
        "-n",
        NAMESPACE,
        "--bound-object-kind=Pod",
        &format!("--bound-object-name={}", name(0)),
        &format!("--bound-object-uid={uid}"),
    ])?;
    let patch = |pod: &str| deployment.patch_as(token.trim(), &format!("relaynodes/{pod}/status"));
    let said = patch(&name(0))?;
    ensure!(
        said.contains(r#""kind": "RelayNode""#),
        "its own was refused: {said}"
    );
    let said = patch(&name(1))?;
    ensure!(
        said.contains("a relay may write its own RelayNode only"),
        "the other's was not refused by the policy: {said}"
    );
    for (verb, resource) in [("get", "secrets"), ("list", "relaynodes"), ("get", "pods")] {
        let user = format!("--as=system:serviceaccount:{NAMESPACE}:{account}");
        let mut kubectl = deployment.rig.kubectl_command();
        kubectl.args(["auth", "can-i", verb, resource, "-n", NAMESPACE, &user]);
        let said = kubectl.output()?.stdout;
        ensure!(said.starts_with(b"no"), "a relay may {verb} {resource}");
    }
    Ok("the other's is refused by the admission policy".into())
}
