//! Manifests that the API server refuses, and those that it accepts.

use anyhow::{Result, bail, ensure};
use rig::{
    command::run_with_input,
    deployment::{Deployment, NAMESPACE},
    spec::{region, tailnet},
};
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
            name: "a PeerRelay that an older version let through under a name that cannot work is \
                   InvalidSpec, with a name that can",
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
    let balanced = |load_balancer: Value| {
        let exposure = json!({"type": "LoadBalancer", "loadBalancer": load_balancer});
        region("exposure", exposure)
    };
    let long = "x".repeat(41);
    let cases = [
        ("edge", json!({"port": 0}), "spec.port"),
        ("edge", json!({"port": 65_536}), "spec.port"),
        (
            "edge",
            json!({"port": 9_440, "monitoring": {"port": 9_440}}),
            "monitoring.port must differ from port",
        ),
        (
            "edge",
            json!({"monitoring": {"port": 0}}),
            "spec.monitoring.port",
        ),
        (
            "edge",
            json!({"monitoring": {"interval": "10s", "scrapeTimeout": "1m"}}),
            "monitoring.scrapeTimeout must not be longer than monitoring.interval",
        ),
        (
            "edge",
            json!({"monitoring": {"interval": "0s"}}),
            "must be more than 0s",
        ),
        (
            "edge",
            json!({"monitoring": {"interval": "soon"}}),
            "spec.monitoring.interval",
        ),
        (
            "edge",
            json!({"monitoring": {"labels": {"release": "a b"}}}),
            "spec.monitoring.labels",
        ),
        (
            "edge",
            json!({"monitoring": {"relabelings": [{"action": "explode"}]}}),
            "spec.monitoring.relabelings",
        ),
        ("edge", json!({"regions": []}), "spec.regions"),
        ("edge", json!({"tailnet": {}}), "spec.tailnet.authKey"),
        (
            "edge",
            json!({"tailnet": {"authKey": {"secretName": ""}}}),
            "secretName",
        ),
        (
            "edge",
            json!({"tailnet": {"authKey": {"secretName": "Not A Name"}}}),
            "secretName",
        ),
        (
            "edge",
            tailnet("controlURL", json!("control.example.net")),
            "must be a URL without a path",
        ),
        (
            "edge",
            tailnet("controlURL", json!("https://c.example.net/path")),
            "must be a URL without a path",
        ),
        ("edge", tailnet("caBundle", json!("AAAA")), "must be PEM"),
        (
            "edge",
            tailnet("hostnamePrefix", json!("Not_A_Label")),
            "hostnamePrefix",
        ),
        ("edge", region("name", json!("Office")), "name"),
        (
            "edge",
            region("name", json!("a-name-of-21-character")),
            "name",
        ),
        ("edge", region("tag", json!("relay-office")), "tag"),
        ("edge", region("clients", json!([])), "clients"),
        ("edge", region("clients", json!([""])), "clients"),
        ("edge", region("clients", json!(["tag:a b"])), "clients"),
        (
            "edge",
            region("tag", json!("*")),
            "every device of the tailnet would become a relay",
        ),
        (
            "edge",
            region("name", json!("grants")),
            "name must not be grants, metrics or dashboard",
        ),
        (
            "edge",
            json!({"grants": {"output": "Secret"}}),
            "spec.grants.output",
        ),
        (
            "edge",
            region("exposure", json!({"nodePort": 31_000})),
            "exposure.nodePort is for type NodePort",
        ),
        (
            "edge",
            region("exposure", json!({"type": "NodePort", "nodePort": 0})),
            "nodePort",
        ),
        (
            "edge",
            region("exposure", json!({"hostNetwork": false})),
            "exposure.hostNetwork cannot be false",
        ),
        (
            "edge",
            balanced(json!({
                "shareAddress": true,
                "elasticIPs": [{"zone": "a", "subnet": "s", "allocations": ["eipalloc-1"]}],
            })),
            "exposure.loadBalancer.elasticIPs gives each relay an address of its own",
        ),
        (
            "edge",
            balanced(json!({
                "elasticIPs": [{"zone": "a", "subnet": "s", "allocations": ["203.0.113.1"]}],
            })),
            "allocations",
        ),
        (
            "edge",
            region("exposure", json!({"networkPolicy": true})),
            "exposure.networkPolicy is for relays on the pod network",
        ),
        (
            "edge",
            region("exposure", json!({"loadBalancer": {}})),
            "exposure.loadBalancer is for type LoadBalancer",
        ),
        (
            "edge",
            balanced(json!({"basePort": 50_000})),
            "basePort is for relays that share an address",
        ),
        (
            "edge",
            balanced(json!({"ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": "PreferDualStack"})),
            "names a family twice",
        ),
        (
            "edge",
            balanced(json!({"ipFamilies": ["IPv4", "IPv6"]})),
            "set ipFamilyPolicy to PreferDualStack",
        ),
        (
            "edge",
            balanced(json!({"sourceRanges": ["192.0.2.1"]})),
            "sourceRanges",
        ),
        (
            "edge",
            region("placement", json!({"maxRelays": 0})),
            "placement.maxRelays",
        ),
        (
            "edge",
            region("placement", json!({"zones": [""]})),
            "placement.zones",
        ),
        ("edge", json!({"maxRelays": 0}), "spec.maxRelays"),
        ("edge", json!({"logLevel": "Chatty"}), "spec.logLevel"),
        (
            "edge",
            json!({"template": {"updateStrategy": {"type": "OnDelete", "maxUnavailable": 2}}}),
            "maxUnavailable is for type RollingUpdate",
        ),
        (
            "edge",
            region("exposure", json!({"type": "Ingress"})),
            "exposure.type",
        ),
        (
            "edge",
            region("endpoints", json!({"static": ["203.0.113.10"]})),
            "endpoints.static: write each as",
        ),
        (
            "edge",
            region("endpoints", json!({"static": ["https://r.example.net:1"]})),
            "endpoints.static: write each as",
        ),
        (
            "edge",
            region("endpoints", json!({"static": ["127.0.0.1:40000"]})),
            "reaches no relay from elsewhere",
        ),
        (
            "edge",
            region("endpoints", json!({"perNode": {"n1": ["203.0.113.10:0"]}})),
            "endpoints.perNode",
        ),
        (
            "edge",
            region("endpoints", json!({"include": ["10.0.0.0"]})),
            "endpoints.include: write networks as",
        ),
        (
            "edge",
            region("endpoints", json!({"exclude": ["all"]})),
            "endpoints.exclude: write networks as",
        ),
        (
            "edge",
            region("endpoints", json!({"discover": ["Oracle"]})),
            "endpoints.discover",
        ),
        (
            "edge",
            region("endpoints", json!({"max": 33})),
            "endpoints.max",
        ),
        (
            "edge",
            json!({"regions": [
                {"name": "a", "clients": ["tag:a"]}, {"name": "a", "clients": ["tag:b"]},
            ]}),
            "Duplicate value",
        ),
        ("edge", json!({"prot": 1}), "unknown field \"spec.prot\""),
        (&long, json!({}), "at most 40 characters"),
        (
            "edge.eu",
            json!({}),
            "metadata.name must be lower-case letters, digits and dashes",
        ),
        (
            "1edge",
            json!({}),
            "metadata.name must be lower-case letters, digits and dashes",
        ),
        (
            "edge",
            region("name", json!("eu.west")),
            "name must be lower-case letters, digits and dashes",
        ),
        (
            "edge",
            region("name", json!("1st")),
            "name must be lower-case letters, digits and dashes",
        ),
    ];
    for (name, spec, message) in &cases {
        let object = deployment.peer_relay(name, spec)?.to_string();
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
    Ok(format!("{} ways to be wrong", cases.len()))
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
    deployment.soon("the name is told, with one that can work", || {
        let said = deployment.condition(NAME, "Stalled")?;
        ensure!(said == "True/InvalidSpec", "Stalled is '{said}'");
        let relay = deployment.object("peerrelay", NAME)?;
        let told = relay["status"]["conditions"].to_string();
        ensure!(told.contains("such as edge-eu"), "{told}");
        let generations = (
            &relay["status"]["observedGeneration"],
            &relay["metadata"]["generation"],
        );
        ensure!(generations.0 == generations.1, "{generations:?}");
        Ok(())
    })?;
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
    for (flag, source) in sources {
        let path = deploy.join(source).display().to_string();
        deployment.rig.kubectl([
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            flag,
            &path,
        ])?;
    }
    Ok(format!("{} sources", sources.len()))
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
