//! Values of the chart: the effect of each value, and the values that are refused.

use std::{collections::BTreeMap, io::Write, process::Command};

use peerrelay::operator::defaults;
use serde_json::{Value, json};

use crate::{
    chart::{RELEASE, helm, objects, render, render_as, run},
    root,
};

/// File with every value that is not empty by default, and more.
const MUCH: &str = "tests/manifests/values/much.yaml";

#[test]
fn a_release_called_view_leaves_the_built_in_role_alone() {
    let image = ["--set", "image.repository=a"];
    let Some(rendered) = render_as("view", &image) else {
        return;
    };
    for object in objects(&rendered.unwrap()) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let own = name.starts_with("view-peerrelay-operator") || name.ends_with(".peerrelay.dev");
        assert!(own, "{} {name}", object["kind"]);
    }
    for builtin in ["view", "edit", "admin", "cluster-admin"] {
        let set = format!("fullnameOverride={builtin}");
        let error = render(&["--set", &set]).unwrap().expect_err(builtin);
        assert!(
            error.contains("name of a ClusterRole of Kubernetes"),
            "{error}"
        );
    }
}

#[test]
fn names_follow_the_overrides_and_are_those_that_services_may_have() {
    for (release, set, wanted) in [
        ("relays", "nameOverride=", "relays-peerrelay-operator"),
        ("a", "nameOverride=b", "a-b"),
        ("a", "fullnameOverride=c", "c"),
        (
            "my.peerrelay-operator",
            "nameOverride=",
            "my-peerrelay-operator",
        ),
        ("1st", "nameOverride=", "r1st-peerrelay-operator"),
    ] {
        let Some(rendered) = render_as(release, &["--set", "image.repository=a", "--set", set])
        else {
            return;
        };
        let all = objects(&rendered.unwrap());
        let service = of_kind(&all, "Service");
        assert_eq!(service["metadata"]["name"], format!("{wanted}-metrics"));
        assert_eq!(deployment(&all)["metadata"]["name"], wanted);
    }
}

#[test]
fn without_an_image_the_chart_says_how_to_build_and_load_one() {
    let Some(rendered) = render_as(RELEASE, &[]) else {
        return;
    };
    let error = rendered.expect_err("there is no image");
    for word in [
        "cargo dev image",
        "kind load image-archive",
        "k3s ctr images import",
        "ctr --namespace k8s.io images import",
        "docker push",
        "--set image.repository=",
    ] {
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn images_are_named_by_registry_repository_tag_and_digest() {
    let digest = format!("sha256:{}", "0".repeat(64));
    for (sets, wanted) in [
        ("image.tag=v2", "localhost/peerrelay:v2".to_owned()),
        (
            "image.repository=p,image.registry=r.test:5000",
            "r.test:5000/p:0.1.0".to_owned(),
        ),
        (
            "image.repository=p,image.registry=a,global.imageRegistry=b",
            "b/p:0.1.0".to_owned(),
        ),
        (
            &format!("image.tag=v2,image.digest={digest}"),
            format!("localhost/peerrelay@{digest}"),
        ),
    ] {
        let Some(rendered) = render(&["--set", sets]) else {
            return;
        };
        let all = objects(&rendered.unwrap());
        assert_eq!(container(&all)["image"], wanted, "{sets}");
        assert_eq!(
            setting(&all, "PEERRELAY_RELAY_IMAGE"),
            None,
            "it is the pod's own"
        );
    }
}

#[test]
fn no_value_is_null_and_breaks_a_template() {
    let text = std::fs::read_to_string(root().join("charts/peerrelay-operator/values.yaml"));
    let values: Value = serde_yaml::from_str(&text.unwrap()).unwrap();
    let mut sections = Vec::new();
    let mut leaves = Vec::new();
    paths(&values, "", &mut sections, &mut leaves);
    leaves.retain(|path| path != "image.repository");
    let all: Vec<_> = leaves.iter().map(|path| format!("{path}=null")).collect();
    let Some(rendered) = render(&["--set", &all.join(",")]) else {
        return;
    };
    rendered.expect("every field may be null");
    for path in &sections {
        let set = format!("{path}=null");
        if let Err(error) = render(&["--set", &set]).unwrap() {
            let is_missing = error.contains("missing propert") || error.contains("is required");
            let name = path.rsplit('.').next().unwrap();
            assert!(is_missing && error.contains(name), "{path}: {error}");
        }
    }
    assert!(sections.len() > 20 && leaves.len() > 80, "{sections:?}");
}

#[test]
fn labels_of_users_do_not_change_whom_selectors_select() {
    let mut sets = Vec::new();
    for place in [
        "podLabels",
        "commonLabels",
        "deploymentLabels",
        "service.labels",
    ] {
        for label in ["name", "instance", "managed-by"] {
            sets.push(format!("{place}.app\\.kubernetes\\.io/{label}=other"));
        }
        sets.push(format!("{place}.team={}", place.replace('.', "-")));
    }
    sets.push("metrics.serviceMonitor.enabled=true,networkPolicy.enabled=true".into());
    let Some(rendered) = render(&["--set", &sets.join(",")]) else {
        return;
    };
    let all = objects(&rendered.unwrap());
    let pod = &deployment(&all)["spec"]["template"]["metadata"]["labels"];
    assert_eq!(pod["team"], "podLabels");
    let selected = |selector: &Value, labels: &Value| {
        let pairs = selector.as_object().expect("a selector");
        assert!(
            !pairs.is_empty() && pairs.iter().all(|(k, v)| labels[k] == *v),
            "{selector}"
        );
    };
    selected(&deployment(&all)["spec"]["selector"]["matchLabels"], pod);
    selected(&of_kind(&all, "Service")["spec"]["selector"], pod);
    selected(
        &of_kind(&all, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        pod,
    );
    let service = &of_kind(&all, "Service")["metadata"]["labels"];
    assert_eq!(service["team"], "service-labels");
    selected(
        &of_kind(&all, "ServiceMonitor")["spec"]["selector"]["matchLabels"],
        service,
    );
}

#[test]
fn every_value_of_the_pod_is_where_it_belongs() {
    let Some(rendered) = render(&["--values", MUCH]) else {
        return;
    };
    let all = objects(&rendered.unwrap());
    let deployment = deployment(&all);
    let pod = &deployment["spec"]["template"]["spec"];
    let own = container(&all);
    for (found, wanted) in [
        (&deployment["metadata"]["namespace"], json!("elsewhere")),
        (
            &deployment["metadata"]["annotations"],
            json!({"a": "deployment", "all": "yes"}),
        ),
        (&deployment["spec"]["replicas"], json!(3)),
        (&deployment["spec"]["revisionHistoryLimit"], json!(0)),
        (&deployment["spec"]["strategy"]["type"], json!("Recreate")),
        (&pod["terminationGracePeriodSeconds"], json!(60)),
        (
            &pod["imagePullSecrets"],
            json!([{"name": "shared"}, {"name": "own"}, {"name": "map"}]),
        ),
        (&pod["automountServiceAccountToken"], json!(false)),
        (&pod["runtimeClassName"], json!("gvisor")),
        (&pod["priorityClassName"], json!("system-cluster-critical")),
        (&pod["hostNetwork"], json!(true)),
        (&pod["dnsPolicy"], json!("ClusterFirstWithHostNet")),
        (&pod["dnsConfig"]["nameservers"], json!(["192.0.2.53"])),
        (&pod["hostAliases"][0]["ip"], json!("192.0.2.1")),
        (&pod["initContainers"][0]["name"], json!("before")),
        (&pod["containers"][1]["name"], json!("beside")),
        (&pod["volumes"][0]["name"], json!("more")),
        (&pod["tolerations"][0]["operator"], json!("Exists")),
        (
            &pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
            deployment["spec"]["selector"]["matchLabels"].clone(),
        ),
        (
            &pod["securityContext"],
            json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}),
        ),
        (
            &own["securityContext"]["allowPrivilegeEscalation"],
            json!(false),
        ),
        (&own["args"], json!(["operator", "--identity=me"])),
        (&own["envFrom"][0]["secretRef"]["name"], json!("variables")),
        (&own["volumeMounts"][0]["mountPath"], json!("/more")),
        (&own["livenessProbe"]["httpGet"]["path"], json!("/healthz")),
        (&own["livenessProbe"]["failureThreshold"], json!(9)),
        (&own["startupProbe"]["failureThreshold"], json!(30)),
        (&own["ports"][0]["containerPort"], json!(9090)),
    ] {
        assert_eq!(*found, wanted);
    }
}

#[test]
fn every_value_of_the_other_objects_is_where_it_belongs() {
    let Some(rendered) = render(&["--values", MUCH]) else {
        return;
    };
    let all = objects(&rendered.unwrap());
    let account = of_kind(&all, "ServiceAccount");
    assert_eq!(account["automountServiceAccountToken"], json!(false));
    assert_eq!(account["metadata"]["annotations"]["role"], "arn");
    assert_eq!(account["metadata"]["labels"]["azure"], "true");
    let service = &of_kind(&all, "Service")["spec"];
    assert_eq!(service["ipFamilies"], json!(["IPv6", "IPv4"]));
    assert_eq!(service["ipFamilyPolicy"], "PreferDualStack");
    let budget = &of_kind(&all, "PodDisruptionBudget")["spec"];
    assert_eq!(
        (&budget["minAvailable"], &budget["maxUnavailable"]),
        (&json!("50%"), &Value::Null)
    );
    let extra: Vec<_> = all.iter().filter(|o| o["data"]["of"] == RELEASE).collect();
    assert_eq!(extra.len(), 2, "objects as YAML and as text are rendered");
    let relay = of_kind(&all, "PeerRelay");
    assert_eq!(relay["metadata"]["namespace"], "relays");
    assert_eq!(relay["spec"]["regions"][0]["name"], "office");
    let constraints = of_kind(&all, "SecurityContextConstraints");
    assert_eq!(constraints["allowHostNetwork"], true);
    for object in &all {
        assert_eq!(
            object["metadata"]["annotations"]["all"],
            extra_or(object, "yes")
        );
    }
}

/// Returns true if an object of the user has the user's annotation.
fn extra_or(object: &Value, annotation: &str) -> Value {
    match object["data"]["of"].is_null() {
        true => json!(annotation),
        false => Value::Null,
    }
}

#[test]
fn settings_of_the_operator_are_those_that_it_reads() {
    let Some(rendered) = render(&["--values", MUCH]) else {
        return;
    };
    let all = objects(&rendered.unwrap());
    for (name, wanted) in [
        ("LEASE_DURATION", "60s"),
        ("RENEW_DEADLINE", "40s"),
        ("RETRY_PERIOD", "5s"),
        ("CONCURRENCY", "8"),
        ("METRICS_ADDR", "[::]:9090"),
        ("WATCH_NAMESPACES", "relays,relays-eu"),
        ("RELAY_IMAGE", "mirror.test/relay:7"),
        ("RELAY_IMAGE_PULL_POLICY", "Always"),
        ("RELAY_ENV", "A=1\nB=x=y"),
    ] {
        let found = setting(&all, &format!("PEERRELAY_{name}"));
        assert_eq!(found.as_deref(), Some(wanted), "{name}");
    }
    let text = setting(&all, "PEERRELAY_RELAY_TEMPLATE").unwrap();
    let template = defaults::template(&text).unwrap();
    assert_eq!(template.image_pull_secrets, ["pull"]);
    assert_eq!(template.priority_class_name.as_deref(), Some("relays"));
    assert_eq!(template.labels["team"], "net");
    assert!(template.resources.is_some() && template.update_strategy.is_some());
}

#[test]
fn an_operator_of_some_namespaces_has_rights_in_them_only() {
    let Some(rendered) = render(&["--set", "watchNamespaces={relays,relays-eu}"]) else {
        return;
    };
    let all = objects(&rendered.unwrap());
    let rules = |kind: &str, name: &str, namespace: Option<&str>| {
        let found = all.iter().find(|o| {
            o["kind"] == kind
                && o["metadata"]["name"] == name
                && o["metadata"]["namespace"].as_str() == namespace
        });
        found.map(|role| role["rules"].as_array().unwrap().clone())
    };
    let cluster = rules("ClusterRole", RELEASE, None).unwrap();
    let resources: Vec<_> = cluster
        .iter()
        .map(|rule| rule["resources"].to_string())
        .collect();
    assert_eq!(
        resources,
        [
            r#"["nodes"]"#,
            r#"["peerrelays"]"#,
            r#"["tailnetcredentials"]"#,
            r#"["customresourcedefinitions"]"#
        ]
    );
    assert_eq!(cluster[1]["verbs"].to_string(), r#"["patch"]"#);
    let role = format!("{RELEASE}-relays");
    let whole = objects(&render(&[]).unwrap().unwrap());
    let everywhere = whole
        .iter()
        .find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == RELEASE);
    let everywhere = everywhere.unwrap()["rules"].as_array().unwrap();
    for namespace in ["relays", "relays-eu"] {
        let here = rules("Role", &role, Some(namespace)).unwrap();
        assert_eq!(everywhere[..], [cluster.clone(), here].concat()[..]);
    }
    let bound = |o: &&Value| o["kind"] == "RoleBinding" && o["roleRef"]["name"] == role;
    assert_eq!(all.iter().filter(bound).count(), 2);
    let policy = of_kind(&all, "ValidatingAdmissionPolicyBinding");
    let selector = &policy["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"][0];
    assert_eq!(selector["values"], json!(["relays", "relays-eu"]));
}

#[test]
fn alerts_can_be_left_out_added_and_given_another_severity() {
    let extra = json!([{"alert": "Own", "expr": "vector(1)"}]).to_string();
    let extra = format!("metrics.prometheusRule.extraAlerts={extra}");
    let Some(rendered) = render(&[
        "--set",
        "metrics.prometheusRule.enabled=true,metrics.prometheusRule.namespace=monitoring",
        "--set",
        "metrics.prometheusRule.disabled={PeerRelayOverQuota}",
        "--set",
        "metrics.prometheusRule.severities.PeerRelayStalled=critical",
        "--set-json",
        &extra,
    ]) else {
        return;
    };
    let all = objects(&rendered.unwrap());
    let rule = of_kind(&all, "PrometheusRule");
    assert_eq!(rule["metadata"]["namespace"], "monitoring");
    let rules = rule["spec"]["groups"][0]["rules"].as_array().unwrap();
    let severities: BTreeMap<_, _> = rules
        .iter()
        .map(|rule| {
            (
                rule["alert"].as_str().unwrap(),
                rule["labels"]["severity"].as_str(),
            )
        })
        .collect();
    assert_eq!(severities.get("PeerRelayOverQuota"), None);
    assert_eq!(severities["PeerRelayStalled"], Some("critical"));
    assert_eq!(severities["PeerRelayNotReady"], Some("warning"));
    assert_eq!(severities["Own"], None);
}

#[test]
fn a_pod_monitor_stands_for_a_service_monitor_and_not_beside_it() {
    let both = "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true";
    let Some(rendered) = render(&["--set", both]) else {
        return;
    };
    assert!(
        rendered
            .expect_err("both")
            .contains("scrape each pod twice")
    );
    let one = "metrics.podMonitor.enabled=true,metrics.podMonitor.namespace=monitoring,\
               metrics.podMonitor.interval=15s,metrics.podMonitor.honorLabels=true";
    let all = objects(&render(&["--set", one]).unwrap().unwrap());
    let monitor = of_kind(&all, "PodMonitor");
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert_eq!(
        (&endpoint["interval"], &endpoint["honorLabels"]),
        (&json!("15s"), &json!(true))
    );
    assert_eq!(
        monitor["spec"]["namespaceSelector"]["matchNames"],
        json!(["peerrelay-system"])
    );
}

#[test]
fn what_cannot_work_is_refused_with_the_name_of_the_value() {
    for (set, word) in [
        ("image.repository=a:b", "repository"),
        ("image.tag=a b", "tag"),
        ("image.digest=sha256:1", "digest"),
        ("nameOverride=A_B", "nameOverride"),
        ("fullnameOverride=a b", "fullnameOverride"),
        ("replicaCount=ten", "replicaCount"),
        ("concurrency=0", "concurrency"),
        ("concurrency=65", "concurrency"),
        ("leaderElection.leaseDuration=soon", "leaseDuration"),
        ("leaderElection.leaseduration=1s", "leaseduration"),
        ("watchNamespaces={A}", "watchNamespaces"),
        ("watchNamespaces={a,a}", "watchNamespaces"),
        ("watchNamespaces=a", "watchNamespaces"),
        ("podLabels.a=b c", "podLabels"),
        ("commonLabels.a=-", "commonLabels"),
        ("service.ipFamilies={IPv5}", "ipFamilies"),
        ("service.ipFamilyPolicy=Dual", "ipFamilyPolicy"),
        ("metrics.port=0", "port"),
        ("metrics.serviceMonitor.interval=1 minute", "interval"),
        ("metrics.serviceMonitor.label.a=b", "label"),
        ("metrics.prometheusRule.disabled={Nothing}", "disabled"),
        (
            "metrics.prometheusRule.severities.PeerRelayStalled=high",
            "severities",
        ),
        (
            "metrics.prometheusRule.severities.Nothing=info",
            "severities",
        ),
        ("relayDefaults.image.pullPolicy=Sometimes", "pullPolicy"),
        ("relayDefaults.environment.A-B=c", "environment"),
        ("relayDefaults.updateStrategy.type=Never", "updateStrategy"),
        ("relays.edge.namespace=a", "spec"),
        ("relays.edge.port=1", "port"),
        ("podDisruptionBudget.minAvailable=half", "minAvailable"),
        ("extraEnv.A=b", "extraEnv"),
        ("extraArgs=--x", "extraArgs"),
        ("hostNetwork=maybe", "hostNetwork"),
        ("openshift.scc=true", "scc"),
    ] {
        let Some(rendered) = render(&["--set", set]) else {
            return;
        };
        let error = rendered.expect_err(set);
        assert!(
            error.contains(word) && !error.contains("nil pointer"),
            "{set}: {error}"
        );
    }
    let both = "podDisruptionBudget.minAvailable=1,podDisruptionBudget.maxUnavailable=1";
    let error = render(&["--set", both]).unwrap().expect_err(both);
    assert!(error.contains("set one of them to null"), "{error}");
}

#[test]
fn chart_has_no_complaint_of_helm_lint() {
    let chart = "charts/peerrelay-operator";
    let image = "image.repository=localhost/peerrelay";
    for values in [
        None,
        Some(MUCH),
        Some("charts/peerrelay-operator/values-ha.yaml"),
    ] {
        let mut arguments = vec!["lint", "--strict", chart, "--set", image];
        arguments.extend(values.iter().flat_map(|file| ["--values", file]));
        let Some(said) = helm(&arguments) else { return };
        let said = said.unwrap();
        assert!(
            !said.contains("[INFO]") && !said.contains("[WARNING]"),
            "{said}"
        );
    }
}

#[test]
fn both_majors_of_helm_make_the_same_objects() {
    let Some(other) = skips::program("PEERRELAY_HELM3") else {
        return;
    };
    let image = "image.repository=localhost/peerrelay";
    let sets: [&[&str]; 4] = [
        &[],
        &["--values", MUCH],
        &["--values", "charts/peerrelay-operator/values-ha.yaml"],
        &["--set", "watchNamespaces={relays},crds.keep=false"],
    ];
    for arguments in sets {
        let template = ["template", RELEASE, "charts/peerrelay-operator", "-n", "a"];
        let arguments = [&template, arguments, &["--set", image]].concat();
        let sorted = |rendered: String| {
            let mut all: Vec<_> = objects(&rendered).iter().map(Value::to_string).collect();
            all.sort();
            all
        };
        let Some(newer) = helm(&arguments) else {
            return;
        };
        let older = run(other.as_ref(), &arguments);
        assert_eq!(
            sorted(newer.unwrap()),
            sorted(older.unwrap()),
            "{arguments:?}"
        );
    }
}

/// Complaints of kube-score that the chart accepts.
const NOT_DONE: [&str; 3] = [
    // A CPU limit would throttle the leader, which may then lose its lease.
    "--ignore-container-cpu-limit",
    // The root file system is read-only and there are no volumes; kubelets rotate logs.
    "--ignore-test=container-ephemeral-storage-request-and-limit",
    // An image that was loaded into nodes is in no registry; digests are for who wants to be sure.
    "--ignore-test=container-image-pull-policy",
];

#[test]
fn chart_has_no_complaint_of_kube_score_but_those_that_are_listed() {
    let Some(judge) = skips::program("PEERRELAY_KUBE_SCORE") else {
        return;
    };
    let ha = "charts/peerrelay-operator/values-ha.yaml";
    for values in [&[][..], &["--values", ha]] {
        let closed = [&["--set", "networkPolicy.enabled=true"], values].concat();
        let Some(rendered) = render(&closed) else {
            return;
        };
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(rendered.unwrap().as_bytes()).unwrap();
        let mut kube_score = Command::new(&judge);
        kube_score
            .args(["score", "--kubernetes-version=v1.33", "--output-format=ci"])
            .args(NOT_DONE)
            .arg(file.path());
        let output = kube_score.output().expect("kube-score starts");
        let said = String::from_utf8_lossy(&output.stdout);
        let bad = |line: &&str| !line.starts_with("[OK]") && !line.starts_with("[SKIPPED]");
        let bad: Vec<_> = said.lines().filter(bad).collect();
        assert!(output.status.success() && bad.is_empty(), "{bad:?}");
        assert!(said.contains("Deployment"), "{said}");
    }
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    found.next().unwrap_or_else(|| panic!("there is no {kind}"))
}

fn deployment(objects: &[Value]) -> &Value {
    of_kind(objects, "Deployment")
}

fn container(objects: &[Value]) -> &Value {
    &deployment(objects)["spec"]["template"]["spec"]["containers"][0]
}

/// A variable of the operator.
fn setting(objects: &[Value], name: &str) -> Option<String> {
    let all = container(objects)["env"].as_array()?;
    let found = all.iter().find(|variable| variable["name"] == name)?;
    found["value"].as_str().map(str::to_owned)
}

/// Collects the paths of values: those of objects with fields, and all others.
fn paths(value: &Value, at: &str, sections: &mut Vec<String>, leaves: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let key = key.replace('.', "\\.");
        let path = if at.is_empty() {
            key
        } else {
            format!("{at}.{key}")
        };
        match value.as_object() {
            Some(fields) if !fields.is_empty() => {
                sections.push(path.clone());
                paths(value, &path, sections, leaves);
            }
            _ => leaves.push(path),
        }
    }
}
