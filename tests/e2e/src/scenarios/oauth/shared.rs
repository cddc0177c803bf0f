//! A TailnetCredential that PeerRelays of two namespaces share.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rig::{
    deployment::{Deployment, condition, message},
    names::{NAMESPACE, OPERATOR_NAMESPACE},
    tailnet::{Api, OauthClient, User},
    wait::Wait,
};
use serde_json::{Value, json};

use super::{OPERATOR_TAG, allow_secrets, keys_of, policy, tailnet, write_secret_in};
use crate::scenarios::{
    FALLBACK, Scenario, held::Held, relayed, relayed_by, restarts::longest, vacant,
};

/// Name of the TailnetCredential.
const CREDENTIAL: &str = "acme";
/// Secrets with its first and its second OAuth client, in the namespace of the operator.
const SECRETS: [&str; 2] = ["shared-oauth", "shared-oauth-new"];
/// A second namespace that may use it, and one that may use it for a while.
const TENANTS: &str = "tenants";
const OUTSIDE: &str = "outside";
/// The namespaces that may use it in the end.
const ALLOWED: [&str; 2] = [NAMESPACE, TENANTS];
/// TCP port of the connection over relays.
const PORT: u16 = 7_013;
/// UDP port of the relays in each namespace.
const PORTS: [u16; 3] = [40_000, 40_100, 40_200];
/// Wait until a PeerRelay is deleted that cannot delete its devices: two minutes.
const DEADLINE: Wait = Wait::new(125, 150);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "PeerRelays of two namespaces share a TailnetCredential, whose client is replaced while a \
               connection continues, and end after it was deleted or disallows their namespace",
        run: shared,
    }]
}

fn shared(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    for namespace in [TENANTS, OUTSIDE] {
        let labels = json!({"pod-security.kubernetes.io/enforce": "privileged"});
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": labels},
        });
        deployment.rig.apply(&object.to_string())?;
    }
    let relays = |name: &str, namespace, port| Relays {
        deployment,
        namespace,
        name: format!("{name}-{}", std::process::id()),
        port,
    };
    let all = [
        relays("campus", NAMESPACE, PORTS[0]),
        relays("branch", TENANTS, PORTS[1]),
        relays("stranger", OUTSIDE, PORTS[2]),
    ];
    let shown = show(deployment, &all);
    let cleaned = clean_up(deployment, &all);
    shown.and_then(|shown| cleaned.map(|()| shown))
}

fn clean_up(deployment: &Deployment<'_>, all: &[Relays<'_>]) -> Result<()> {
    all.iter().try_for_each(Relays::delete)?;
    remove_credential(deployment)?;
    for secret in SECRETS {
        let words = ["delete", "secret", secret, "-n", OPERATOR_NAMESPACE];
        let words = words.into_iter().chain(["--ignore-not-found"]);
        deployment.rig.kubectl(words)?;
    }
    let words = ["delete", "namespace", TENANTS, OUTSIDE];
    deployment.rig.kubectl(words).map(drop)
}

fn show(
    deployment: &Deployment<'_>,
    [campus, branch, stranger]: &[Relays<'_>; 3],
) -> Result<String> {
    deployment.rig.tailnet.write_policy(&policy(true))?;
    allow_secrets(deployment, OPERATOR_NAMESPACE, &SECRETS)?;
    let api = deployment.rig.tailnet.api(User::Admin)?;
    let client = || api.oauth_client(&["auth_keys", "devices:core"], &[OPERATOR_TAG]);
    let clients = [client()?, client()?];
    for (secret, client) in SECRETS.into_iter().zip(&clients) {
        write_secret_in(deployment, OPERATOR_NAMESPACE, secret, client)?;
    }

    campus.apply()?;
    campus.stalls("TailnetCredentialMissing", "create it")?;
    apply_credential(deployment, SECRETS[0], &ALLOWED)?;
    campus.is_ready()?;
    branch.apply()?;
    branch.is_ready()?;
    let left = disallowed(deployment, stranger)?;
    let created = keys_of(&api, &clients[0])?.len();
    ensure!(created == 6, "{created} keys for 6 relays");

    let (held, session) = begin(deployment)?;
    let before = [campus.containers()?, branch.containers()?];
    replace_client(deployment, [campus, branch], &clients, &api, &session)?;
    remove_credential(deployment)?;
    for relays in [campus, branch] {
        relays.stalls("TailnetCredentialMissing", "create it")?;
    }
    let now = relayed(deployment)?;
    let trips = survived(held)?;
    let after = [campus.containers()?, branch.containers()?];
    ensure!(after == before, "relays were restarted");

    let devices = [campus.devices(2)?, branch.devices(2)?];
    campus.delete()?;
    gone(&api, &devices[0])?;
    let port = format!(":{}:", PORTS[1]);
    let by_branch = relayed_by(deployment, |address| address.contains(&port))?;
    branch.delete()?;
    gone(&api, &devices[1])?;
    let note = left.end(deployment, stranger, &api)?;
    Ok(format!(
        "{created} keys, {session}, then {now}, then {by_branch}; on one connection {trips}; {note}"
    ))
}

/// Allows a namespace for a while, and begins to delete its PeerRelay afterwards.
fn disallowed(deployment: &Deployment<'_>, stranger: &Relays<'_>) -> Result<Left> {
    stranger.apply()?;
    let is_refused = || stranger.stalls("NamespaceNotAllowed", "spec.allowedNamespaces");
    is_refused()?;
    let all = [&ALLOWED[..], &[OUTSIDE]].concat();
    apply_credential(deployment, SECRETS[0], &all)?;
    stranger.is_ready()?;
    let devices = stranger.devices(2)?;
    apply_credential(deployment, SECRETS[0], &ALLOWED)?;
    is_refused()?;
    let relays = stranger.containers()?.len();
    ensure!(relays == 2, "{relays} relays have stayed");
    let words = ["delete", "peerrelay", &stranger.name, "-n", OUTSIDE];
    let words = words.into_iter().chain(["--wait=false"]);
    deployment.rig.kubectl(words)?;
    let since = Instant::now();
    Ok(Left { devices, since })
}

/// A PeerRelay that is being deleted and may not delete its devices.
struct Left {
    devices: BTreeSet<String>,
    since: Instant,
}

impl Left {
    /// Waits for the deadline, and returns the event about the devices.
    fn end(self, deployment: &Deployment<'_>, stranger: &Relays<'_>, api: &Api) -> Result<String> {
        DEADLINE.until("the PeerRelay is gone", || {
            let found = stranger.get(&["peerrelays"])?;
            let left = found["items"].as_array().map_or(0, Vec::len);
            ensure!(left == 0, "it is there");
            Ok(())
        })?;
        let took = self.since.elapsed();
        ensure!(took > Duration::from_secs(110), "gone after {took:?}");
        let events = stranger.get(&["events"])?;
        let mut events = events["items"].as_array().into_iter().flatten();
        let event = events.find(|event| event["reason"] == "DevicesLeft");
        let note = event.context("there is no event")?["message"].as_str();
        let note = note.unwrap_or_default().to_owned();
        ensure!(note.contains(CREDENTIAL), "no reason in '{note}'");
        for id in &self.devices {
            ensure!(note.contains(id), "{id} is not in '{note}'");
            api.delete_device(id)?;
        }
        deployment.soon("the devices are gone", || gone(api, &self.devices))?;
        Ok(note)
    }
}

/// Replaces the OAuth client, and lets a relay of each PeerRelay join again that does not carry the session.
fn replace_client(
    deployment: &Deployment<'_>,
    both: [&Relays<'_>; 2],
    [old, new]: &[OauthClient; 2],
    api: &Api,
    session: &str,
) -> Result<()> {
    apply_credential(deployment, SECRETS[1], &ALLOWED)?;
    api.revoke(&old.id)?;
    for relays in both {
        let reports = relays.reports()?;
        let other = reports
            .iter()
            .find(|report| !relays.carries(report, session));
        let device = &other.context("each relay carries it")?["status"]["tailnet"]["nodeID"];
        api.delete_device(device.as_str().context("a relay has no device")?)?;
    }
    deployment.eventually("relays have joined with keys of the new client", || {
        let created = keys_of(api, new)?.len();
        ensure!(created == both.len(), "it has created {created} keys");
        Ok(())
    })?;
    for relays in both {
        deployment.eventually("the status has the devices of the tailnet", || {
            let there = api.devices()?.into_iter().map(|device| device.node_id);
            let there: BTreeSet<_> = there.collect();
            let found = relays.recorded()?;
            let is_whole = found.len() == 2 && found.is_subset(&there);
            ensure!(is_whole, "it has {found:?} of {there:?}");
            Ok(())
        })?;
        relays.is_ready()?;
    }
    Ok(())
}

/// The relays of a PeerRelay that refers to the TailnetCredential.
struct Relays<'a> {
    deployment: &'a Deployment<'a>,
    namespace: &'static str,
    name: String,
    port: u16,
}

impl Relays<'_> {
    fn apply(&self) -> Result<()> {
        let spec = json!({
            "tailnet": {"credentialsRef": {"name": CREDENTIAL}}, "port": self.port,
        });
        let mut relay = self.deployment.peer_relay(&self.name, &spec)?;
        relay["metadata"]["namespace"] = json!(self.namespace);
        self.deployment.rig.apply(&relay.to_string()).map(drop)
    }

    fn get(&self, words: &[&str]) -> Result<Value> {
        let get = ["get", "-n", self.namespace, "-o", "json"];
        let words = get.into_iter().chain(words.iter().copied());
        Ok(serde_json::from_str(&self.deployment.rig.kubectl(words)?)?)
    }

    /// Waits until the operator reports that the credential cannot be used.
    fn stalls(&self, reason: &str, words: &str) -> Result<()> {
        self.deployment.soon(reason, || {
            let relay = self.get(&["peerrelay", &self.name])?;
            for (kind, status) in [
                ("Ready", "False"),
                ("Stalled", "True"),
                ("CredentialAccepted", "False"),
            ] {
                let found = condition(&relay, kind);
                ensure!(found == format!("{status}/{reason}"), "{kind} is '{found}'");
                let said = message(&relay, kind);
                let names = said.contains(CREDENTIAL) && said.contains(words);
                ensure!(names, "the message is '{said}'");
            }
            Ok(())
        })
    }

    fn is_ready(&self) -> Result<()> {
        self.deployment.eventually("PeerRelay is ready", || {
            let relay = self.get(&["peerrelay", &self.name])?;
            let ready = condition(&relay, "Ready");
            ensure!(ready == "True/RelaysReady", "Ready is '{ready}'");
            Ok(())
        })
    }

    /// Waits until the status has a number of devices, and returns their IDs.
    fn devices(&self, count: usize) -> Result<BTreeSet<String>> {
        let mut ids = BTreeSet::new();
        self.deployment.soon("the status has the devices", || {
            ids = self.recorded()?;
            ensure!(ids.len() == count, "it has {ids:?}");
            Ok(())
        })?;
        Ok(ids)
    }

    fn recorded(&self) -> Result<BTreeSet<String>> {
        let relay = self.get(&["peerrelay", &self.name])?;
        let devices = relay["status"]["devices"].as_array();
        let ids = devices.into_iter().flatten();
        let ids = ids.filter_map(|device| device["nodeID"].as_str());
        Ok(ids.map(str::to_owned).collect())
    }

    fn reports(&self) -> Result<Vec<Value>> {
        let list = self.get(&["relaynodes"])?;
        let mut all = list["items"].as_array().cloned().unwrap_or_default();
        all.retain(|report| report["spec"]["peerRelay"] == self.name);
        Ok(all)
    }

    /// Returns whether a relay of this PeerRelay carries a session.
    fn carries(&self, report: &Value, session: &str) -> bool {
        let mut nodes = self.deployment.rig.nodes.iter();
        let node = nodes.find(|node| report["spec"]["nodeName"] == node.machine.name);
        let addresses = node.map(|node| [node.machine.v4.to_string(), node.machine.v6.to_string()]);
        session.contains(&format!(":{}:", self.port))
            && addresses.is_some_and(|all| all.iter().any(|address| session.contains(address)))
    }

    /// The pods of the relays, with the restarts of each.
    fn containers(&self) -> Result<Vec<(Value, Value)>> {
        let label = format!("peerrelay.dev/peer-relay={}", self.name);
        let pods = self.get(&["pods", "-l", &label])?;
        let of = |pod: &Value| {
            let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
            (pod["metadata"]["uid"].clone(), restarts.clone())
        };
        Ok(pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(of)
            .collect())
    }

    /// Deletes the PeerRelay, if it exists, and waits until its pods are gone.
    fn delete(&self) -> Result<()> {
        let words = ["delete", "peerrelay", &self.name, "-n", self.namespace];
        let options = ["--ignore-not-found", "--timeout=60s"];
        self.deployment
            .rig
            .kubectl(words.into_iter().chain(options))?;
        let is_gone = || {
            let left = self.containers()?;
            ensure!(left.is_empty(), "{} pods are there", left.len());
            Ok(())
        };
        Wait::PODS.until("pods are gone", is_gone).map(drop)
    }
}

/// Connects c1 to c2, and returns the address of the relay.
fn begin(deployment: &Deployment<'_>) -> Result<(Held, String)> {
    // The relays of the third PeerRelay have just ended.
    let ended = format!(":{}:", PORTS[2]);
    let session = relayed_by(deployment, |address| !address.contains(&ended))?;
    Ok((Held::open(deployment, PORT)?, session))
}

/// Fails if the connection has ended or stalled.
fn survived(held: Held) -> Result<String> {
    let trips = held.finish().context("the connection did not survive")?;
    ensure!(longest(&trips)? < FALLBACK, "TCP stalled: {trips}");
    Ok(trips)
}

/// Writes the TailnetCredential for the rig's tailnet, with the OAuth client of a Secret and the namespaces
/// that may use it.
fn apply_credential(deployment: &Deployment<'_>, secret: &str, allowed: &[&str]) -> Result<()> {
    let own = tailnet(deployment, CREDENTIAL)?;
    let credential = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "TailnetCredential",
        "metadata": {"name": CREDENTIAL},
        "spec": {
            "oauth": {"secretName": secret}, "allowedNamespaces": allowed,
            "controlURL": own["controlURL"], "caBundle": own["caBundle"],
        },
    });
    deployment.rig.apply(&credential.to_string()).map(drop)
}

fn remove_credential(deployment: &Deployment<'_>) -> Result<()> {
    let words = [
        "delete",
        "tailnetcredential",
        CREDENTIAL,
        "--ignore-not-found",
    ];
    deployment.rig.kubectl(words).map(drop)
}

fn gone(api: &Api, ids: &BTreeSet<String>) -> Result<()> {
    let devices = api.devices()?.into_iter().map(|device| device.node_id);
    let left: Vec<_> = devices.filter(|id| ids.contains(id)).collect();
    ensure!(left.is_empty(), "{left:?} are left");
    Ok(())
}
