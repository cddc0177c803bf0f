//! The health checks for Argo CD: objects in every class of health, made by the operator's own code,
//! and how each is to be judged. `PEERRELAY_ARGOCD` names the program that runs the checks in Argo's
//! interpreter, as `cargo dev test` does.

use std::{fmt::Write as _, fs, process::Command, sync::Arc};

use k8s_openapi::{api::apps::v1::DaemonSet, jiff::Timestamp};
use peerrelay::{
    crd::{
        PeerRelay, PeerRelayStatus, RelayNode, relay_node::RelayNodeStatus,
        relay_reason::RelayReason,
    },
    operator::{
        defaults::Defaults,
        objects::{Applied, Deferred, Objects},
        plan::{Plan, RegionPlan},
        referred_credential::Referred,
        refusal::{Cause, Summary},
        status::{Outcome, Pass, status},
        validate::validate,
        view::ClusterView,
    },
};
use serde_json::{Value, json};

use crate::{hold, root};

const CHECKS: &str = "deploy/argocd/resource_customizations";
const CONFIG_MAP: &str = "deploy/argocd/argocd-cm.yaml";
const KINDS: [&str; 2] = ["PeerRelay", "RelayNode"];

/// An object, and the health that Argo CD is to show.
struct Case {
    /// Name of the file, which begins with the health.
    name: &'static str,
    health: &'static str,
    message: String,
    object: Value,
}

#[test]
fn objects_of_every_health_are_what_the_operator_writes() {
    for (kind, cases) in [("PeerRelay", peer_relays()), ("RelayNode", relay_nodes())] {
        let dir = format!("{CHECKS}/peerrelay.dev/{kind}");
        let mut tests = "tests:\n".to_owned();
        for case in &cases {
            assert!(
                case.name.starts_with(&case.health.to_lowercase()),
                "{}",
                case.name
            );
            let input = format!("testdata/{}.yaml", case.name);
            hold(
                &format!("{dir}/{input}"),
                &serde_yaml::to_string(&case.object).unwrap(),
            );
            writeln!(tests, "- healthStatus:\n    status: {}", case.health).unwrap();
            let message = serde_json::to_string(&case.message).unwrap();
            writeln!(tests, "    message: {message}\n  inputPath: {input}").unwrap();
        }
        hold(&format!("{dir}/health_test.yaml"), &tests);
        let files = fs::read_dir(root().join(&dir).join("testdata")).unwrap();
        assert_eq!(files.count(), cases.len(), "{dir} has files of no case");
    }
}

#[test]
fn argo_cd_judges_each_as_written() {
    let Some(argocd) = skips::program("PEERRELAY_ARGOCD") else {
        return;
    };
    let output = Command::new(argocd)
        .args(["check", CHECKS])
        .current_dir(root())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let judged: usize = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .unwrap();
    assert_eq!(judged, peer_relays().len() + relay_nodes().len());
}

#[test]
fn a_relay_is_degraded_for_the_reasons_that_stall() {
    let script = fs::read_to_string(
        root()
            .join(CHECKS)
            .join("peerrelay.dev/RelayNode/health.lua"),
    );
    let script = script.unwrap();
    for reason in RelayReason::ALL {
        let entry = format!("  {} = true,\n", reason.as_str());
        assert_eq!(
            script.contains(&entry),
            reason.needs_user(),
            "{}",
            reason.as_str()
        );
    }
}

#[test]
fn the_patch_of_argocd_cm_has_the_checks() {
    let mut text = "\
# The health checks of resource_customizations, for an Argo CD that does not have them built in:
# kubectl patch configmap argocd-cm -n argocd --patch-file deploy/argocd/argocd-cm.yaml
apiVersion: v1
kind: ConfigMap
metadata:
  name: argocd-cm
  namespace: argocd
  labels:
    app.kubernetes.io/name: argocd-cm
    app.kubernetes.io/part-of: argocd
data:
"
    .to_owned();
    for kind in KINDS {
        let file = root()
            .join(CHECKS)
            .join("peerrelay.dev")
            .join(kind)
            .join("health.lua");
        writeln!(
            text,
            "  resource.customizations.health.peerrelay.dev_{kind}: |"
        )
        .unwrap();
        for line in fs::read_to_string(file).unwrap().lines() {
            text += format!("    {line}").trim_end();
            text.push('\n');
        }
    }
    hold(CONFIG_MAP, &text);
}

/// PeerRelays in each state that their conditions distinguish.
fn peer_relays() -> Vec<Case> {
    let states = [progressing(), degraded(), healthy(), suspended()];
    states.into_iter().flatten().collect()
}

fn progressing() -> Vec<Case> {
    let no_control = json!({"ready": false, "reason": "ControlUnreachable",
        "message": "failed to connect to the control server"});
    let failed = refused(Cause::Failed, "the API server is overloaded");
    let waiting = "waiting for the operator".to_owned();
    vec![
        case(
            "progressing_notSeen",
            &waiting,
            peer_relay(&json!({}), &json!({"observedGeneration": -1})),
        ),
        case("progressing_noStatus", &waiting, {
            let mut object = peer_relay(&json!({}), &Value::Null);
            object.as_object_mut().unwrap().remove("status");
            object
        }),
        case("progressing_newGeneration", &waiting, {
            let mut object = peer_relay(&json!({}), &ready());
            object["metadata"]["generation"] = json!(4);
            object
        }),
        reported(
            "progressing_starting",
            &json!({}),
            &seen(2, 1, &[]),
            Ending::Applied,
        ),
        reported(
            "progressing_noNodes",
            &json!({}),
            &seen(0, 0, &[]),
            Ending::Applied,
        ),
        reported(
            "progressing_controlUnreachable",
            &json!({}),
            &seen(2, 0, &[no_control]),
            Ending::Applied,
        ),
        reported(
            "progressing_applyFailed",
            &json!({}),
            &seen(2, 2, &[]),
            Ending::Refused(&failed),
        ),
        reported(
            "progressing_withdrawing",
            &off(),
            &seen(2, 2, &[]),
            Ending::Applied,
        ),
    ]
}

fn degraded() -> Vec<Case> {
    let no_key = json!({"ready": false, "reason": "AuthKeyInvalid",
        "message": "the control server refuses the auth key: put a new one into the Secret"});
    let invalid = Ending::Invalid("rename the region");
    let rejected = refused(Cause::Rejected, "exceeded quota: services");
    let taken = refused(Cause::NameTaken, "it belongs to someone else");
    vec![
        reported(
            "degraded_authKeyInvalid",
            &json!({}),
            &seen(2, 0, &[no_key]),
            Ending::Applied,
        ),
        reported(
            "degraded_imagePullFailed",
            &json!({}),
            &image_pull_fails(),
            Ending::Applied,
        ),
        reported(
            "degraded_invalidSpec",
            &json!({}),
            &seen(2, 2, &[]),
            invalid,
        ),
        reported(
            "degraded_applyRejected",
            &json!({}),
            &seen(2, 2, &[]),
            Ending::Refused(&rejected),
        ),
        reported(
            "degraded_nameTaken",
            &json!({}),
            &seen(2, 2, &[]),
            Ending::Refused(&taken),
        ),
    ]
}

fn healthy() -> Vec<Case> {
    let ungranted = json!({"ready": true,
        "grant": {"rules": 0, "knownPeers": 1, "everyone": false}});
    vec![
        reported(
            "healthy_ready",
            &json!({}),
            &seen(2, 2, &[json!({"ready": true})]),
            Ending::Applied,
        ),
        reported(
            "healthy_grantsMissing",
            &json!({}),
            &seen(1, 1, &[ungranted]),
            Ending::Applied,
        ),
    ]
}

fn suspended() -> Vec<Case> {
    vec![
        reported(
            "suspended_paused",
            &json!({"paused": true}),
            &seen(2, 2, &[]),
            Ending::Paused,
        ),
        reported(
            "suspended_disabled",
            &off(),
            &seen(0, 0, &[]),
            Ending::Applied,
        ),
    ]
}

fn off() -> Value {
    json!({"enabled": false})
}

/// The status of a PeerRelay whose relays are ready.
fn ready() -> Value {
    let seen = seen(2, 2, &[json!({"ready": true})]);
    computed(&json!({}), &seen, Ending::Applied)
}

fn refused(cause: Cause, words: &str) -> Summary {
    Summary {
        cause,
        message: format!("failed to apply Service edge-office: {words}"),
    }
}

/// Reports of relays in each state.
fn relay_nodes() -> Vec<Case> {
    let problem = |reason: RelayReason, message: &str| json!({"ready": false, "reason": reason.as_str(), "message": message});
    let mut silent = relay_node(&json!({}));
    silent.as_object_mut().unwrap().remove("status");
    let withdrawn = json!({"ready": true,
        "withdrawal": {"since": "2027-01-15T08:00:00Z", "complete": false}});
    let cases = [
        (
            "progressing_noReport",
            "waiting for the relay's report",
            silent,
        ),
        (
            "progressing_starting",
            "the relay is starting",
            relay_node(&json!({"ready": false})),
        ),
        (
            "progressing_portUnavailable",
            "PortUnavailable: UDP port 40000 is taken",
            relay_node(&problem(
                RelayReason::PortUnavailable,
                "UDP port 40000 is taken",
            )),
        ),
        (
            "degraded_keyExpired",
            "KeyExpired: disable key expiry for the device",
            relay_node(&problem(
                RelayReason::KeyExpired,
                "disable key expiry for the device",
            )),
        ),
        (
            "healthy_ready",
            "the relay is ready",
            relay_node(&json!({"ready": true})),
        ),
        (
            "suspended_withdrawn",
            "the relay gives out no more sessions: it is going to be removed, or its node is cordoned",
            relay_node(&withdrawn),
        ),
    ];
    cases
        .into_iter()
        .map(|(name, message, object)| case(name, message, object))
        .collect()
}

/// Returns the case of a status that the operator computes. Its message is the message of `Ready`.
fn reported(name: &'static str, spec: &Value, seen: &ClusterView, ending: Ending<'_>) -> Case {
    let status = computed(spec, seen, ending);
    let conditions = status["conditions"].as_array().unwrap();
    let said = |condition: &Value| {
        let text = |field: &str| condition[field].as_str().unwrap().to_owned();
        format!("{}: {}", text("reason"), text("message"))
    };
    let ready = conditions.iter().find(|c| c["type"] == "Ready").unwrap();
    let mut message = said(ready);
    if name.starts_with("healthy") {
        // What is not as it should be although relays are ready.
        for condition in conditions.iter().filter(|c| c["status"] == "False") {
            message += &format!("; {}", said(condition));
        }
    }
    case(name, &message, peer_relay(spec, &status))
}

fn case(name: &'static str, message: &str, object: Value) -> Case {
    let health = ["Progressing", "Degraded", "Healthy", "Suspended"];
    let is_of = |health: &&&str| name.starts_with(&health.to_lowercase());
    Case {
        name,
        health: health.iter().find(is_of).unwrap(),
        message: message.to_owned(),
        object,
    }
}

/// The outcome of a pass.
#[derive(Clone, Copy)]
enum Ending<'a> {
    Applied,
    Refused(&'a Summary),
    Paused,
    Invalid(&'a str),
}

/// Returns the status that the operator writes.
fn computed(spec: &Value, view: &ClusterView, ending: Ending<'_>) -> Value {
    let relay: PeerRelay = serde_json::from_value(peer_relay(spec, &json!({}))).unwrap();
    let spec = validate(&relay, &Referred::Unknown, &Defaults::default()).unwrap();
    let plan = Plan {
        regions: vec![RegionPlan::default()],
        ..Plan::default()
    };
    let refused = match ending {
        Ending::Refused(summary) => Some(summary.clone()),
        _ => None,
    };
    let objects = Objects {
        owner: spec.owner.clone(),
        deferred: Deferred::default(),
        stage: Applied {
            refused,
            ..Applied::default()
        },
    };
    let outcome = match ending {
        Ending::Paused => Outcome::Paused,
        Ending::Invalid(message) => Outcome::Invalid {
            reason: "InvalidSpec",
            message,
        },
        Ending::Applied | Ending::Refused(_) => Outcome::Applied(Pass {
            spec: &spec,
            plan: &plan,
            objects: &objects,
        }),
    };
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    serde_json::to_value(status(&relay, view, outcome, now)).unwrap()
}

fn peer_relay(spec: &Value, status: &Value) -> Value {
    let mut whole = json!({
        "tailnet": {"authKey": {"secretName": "tailnet-auth"}},
        "regions": [{"name": "office", "clients": ["tag:office"]}],
    });
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    let mut object = json!({
        "apiVersion": "peerrelay.dev/v1alpha1",
        "kind": "PeerRelay",
        "metadata": {
            "name": "edge", "namespace": "relays", "generation": 3,
            "uid": "5d0f2a6e-3c1c-4f0b-9d3e-0c1f6d6f7a01",
        },
        "spec": whole,
        "status": status,
    });
    if status == &json!({}) {
        object.as_object_mut().unwrap().remove("status");
    } else if status.get("conditions").is_some() {
        // It is one that the type can hold.
        serde_json::from_value::<PeerRelayStatus>(status.clone()).unwrap();
    }
    object
}

fn relay_node(status: &Value) -> Value {
    let mut whole = json!({"ready": true, "version": "0.1.0", "dataPath": "Kernel"});
    for (field, value) in status.as_object().unwrap() {
        whole[field] = value.clone();
    }
    let status: RelayNodeStatus = serde_json::from_value(whole).unwrap();
    json!({
        "apiVersion": "peerrelay.dev/v1alpha1",
        "kind": "RelayNode",
        "metadata": {"name": "edge-office-7xk2p", "namespace": "relays"},
        "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
        "status": status,
    })
}

/// A region with so many relays, and what they report.
fn seen(desired: i32, ready: i32, reports: &[Value]) -> ClusterView {
    let set = json!({
        "metadata": {"name": "edge-office", "namespace": "relays", "generation": 1},
        "status": {
            "observedGeneration": 1, "currentNumberScheduled": desired, "numberMisscheduled": 0,
            "desiredNumberScheduled": desired, "updatedNumberScheduled": desired,
            "numberReady": ready,
        },
    });
    let set: DaemonSet = serde_json::from_value(set).unwrap();
    let node = |status: &Value| -> Arc<RelayNode> {
        Arc::new(serde_json::from_value(relay_node(status)).unwrap())
    };
    ClusterView {
        daemon_sets: vec![Arc::new(set)],
        reports: reports.iter().map(node).collect(),
        ..ClusterView::default()
    }
}

fn image_pull_fails() -> ClusterView {
    let pod = json!({
        "metadata": {
            "name": "edge-office-7xk2p", "namespace": "relays",
            "labels": {"peerrelay.dev/peer-relay": "edge", "peerrelay.dev/region": "office"},
        },
        "status": {"containerStatuses": [{
            "name": "relay", "image": "registry.example.com/peerrelay:1", "imageID": "",
            "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff"}},
        }]},
    });
    ClusterView {
        own_pods: vec![Arc::new(serde_json::from_value(pod).unwrap())],
        ..seen(2, 0, &[])
    }
}
