//! PeerRelays whose entries the operator merges into the policy of the tailnet.

use std::thread;

use anyhow::{Context, Result, ensure};
use rig::{
    deployment::{Deployment, Route, message},
    names::NAMESPACE,
    tailnet::{Api, ApiRequest, Fault, User},
    wait::Wait,
};
use serde_json::{Value, json};

use super::{QUIET, allow_secrets, write_secret_in};
use crate::scenarios::{
    EDGE, SEARCH, Scenario, THIRTY, grants::in_force, is_relay, policy_file::PolicyFile, reset,
};

/// Name of the Secret with the OAuth client for the policy.
const SECRET: &str = "policy-oauth";
/// Scopes that a policy needs beside its own.
const COMPANIONS: [&str; 2] = ["devices:core:read", "devices:posture_attributes:read"];
/// Pattern of the path of the check of a policy.
const VALIDATE: &str = "/api/v2/tailnet/*/acl/validate";
/// Wait until the operator reads the policy because of reports: 30 s after the last time.
const NOTICED: Wait = Wait::new(35, 60);
/// Wait until overwritten entries are written again: 30 s.
const REWRITTEN: Wait = Wait::new(35, 60);

/// Policy with the least privileges under which clients talk to each other, and no relays.
const BASE: &str = r#"// Owned by the network team.
{
  "tagOwners": {
    "tag:office": ["autogroup:admin"], // laptops
    "tag:other":  ["autogroup:admin"],
  },

  /* Clients reach each other. */
  "grants": [
    {"src": ["tag:office", "tag:other"], "dst": ["tag:office", "tag:other"], "ip": ["*"]},
  ],
}
"#;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "with grants.sync: Apply, stock clients relay within 30 s, the rest of the policy keeps its \
                   bytes and edits of others, an overwrite is reported and undone, and the deletion removes \
                   the entries",
            run: applied,
        },
        Scenario {
            name: "with grants.sync: Propose, the ConfigMap has the difference and the policy stays as it is, \
                   and a credential that may only read writes nothing",
            run: proposed,
        },
    ]
}

fn applied(deployment: &Deployment<'_>) -> Result<String> {
    let mut synced = Synced {
        deployment,
        api: begin(deployment, "policy_file")?,
        file: PolicyFile::new(deployment, "autogroup:admin")?,
    };
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    deployment.apply(EDGE, &spec(&["tag:office"]))?;
    let (_, took) = deployment.wait_route(c1, c2, is_relay, THIRTY)?;
    is(deployment, "True/PolicyUpToDate", Wait::STATUS)?;
    in_force(deployment, "True/GrantsEffective")?;
    let wanted = synced.merged(BASE, &["tag:office"])?;
    synced.policy_is(&wanted)?;

    // Nothing is left to do.
    synced.api.clear_requests()?;
    thread::sleep(QUIET);
    let requests = synced.api.requests()?;
    ensure!(requests.is_empty(), "{requests:?} in steady state");

    synced.keeps_edits(&wanted)?;
    synced.reports_overwrites()?;
    deployment.wait_route(c1, c2, is_relay, SEARCH)?;
    deployment.delete(EDGE)?;
    synced.policy_is(BASE)?;
    deployment.remove_secret_named(SECRET)?;
    Ok(format!(
        "relayed {:.1} s after the PeerRelay was applied",
        took.as_secs_f64()
    ))
}

/// A region with these clients, whose entries the operator writes.
fn spec(clients: &[&str]) -> Value {
    json!({
        "grants": {"sync": "Apply", "oauth": {"secretName": SECRET}},
        "regions": [{"name": "office", "clients": clients}],
    })
}

/// A PeerRelay whose entries the operator writes.
struct Synced<'a> {
    deployment: &'a Deployment<'a>,
    api: Api,
    file: PolicyFile<'a>,
}

impl Synced<'_> {
    /// The policy `base` with the entries for these clients.
    fn merged(&mut self, base: &str, clients: &[&str]) -> Result<String> {
        let relay = self.deployment.peer_relay(EDGE, &spec(clients))?;
        self.file.merge(base, &relay, &[])
    }

    fn policy_is(&self, wanted: &str) -> Result<()> {
        let policy = self.api.policy()?;
        ensure!(policy == wanted, "the policy is\n{policy}");
        Ok(())
    }

    /// Somebody else writes the policy while the operator does.
    fn keeps_edits(&mut self, before: &str) -> Result<()> {
        let delay = Fault::path("POST", VALIDATE).delays(4_000).times(1);
        self.api.inject(&delay)?;
        let clients = ["tag:office", "tag:other"];
        self.deployment.apply(EDGE, &spec(&clients))?;
        self.deployment
            .eventually("the operator has read the policy", || {
                let requests = self.api.requests()?;
                let is_read = |r: &ApiRequest| r.method == "GET" && r.path.ends_with("/acl");
                ensure!(requests.iter().any(is_read), "it has not: {requests:?}");
                Ok(())
            })?;
        let edited = before.replacen("// Owned by", "// An edit.\n// Owned by", 1);
        self.deployment.rig.tailnet.write_policy(&edited)?;
        let both = self.merged(&edited, &clients)?;
        self.deployment
            .eventually("the policy has the edit and the entries", || {
                self.policy_is(&both)
            })?;
        let requests = self.api.requests()?;
        let conflicts = requests.iter().filter(|request| request.status == 412);
        ensure!(conflicts.count() == 1, "no conflict in {requests:?}");
        self.api.clear_faults()?;
        is(self.deployment, "True/PolicyUpToDate", Wait::STATUS)
    }

    /// Another program puts its own text in place.
    fn reports_overwrites(&mut self) -> Result<()> {
        self.deployment.rig.tailnet.write_policy(BASE)?;
        is(self.deployment, "False/PolicyOverwritten", NOTICED)?;
        // It is not written again at once.
        self.policy_is(BASE)?;
        let select = "reason=PolicyOverwritten,type=Warning";
        let words = ["get", "events", "-n", NAMESPACE, "-o", "name"];
        let words = words.into_iter().chain(["--field-selector", select]);
        let warned = self.deployment.rig.kubectl(words)?;
        ensure!(!warned.is_empty(), "there is no event");
        is(self.deployment, "True/PolicyUpToDate", REWRITTEN)?;
        let again = self.merged(BASE, &["tag:office", "tag:other"])?;
        self.policy_is(&again)
    }
}

fn proposed(deployment: &Deployment<'_>) -> Result<String> {
    let api = begin(deployment, "policy_file:read")?;
    let grants = |sync: &str| json!({"grants": {"sync": sync, "oauth": {"secretName": SECRET}}});
    deployment.apply(EDGE, &grants("Propose"))?;
    is(deployment, "False/PolicyProposed", Wait::STATUS)?;
    let map = deployment.object("configmap", &format!("{EDGE}-grants"))?;
    let diff = map["data"]["policy.diff"]
        .as_str()
        .context("no difference")?;
    let relay = deployment.object("peerrelay", EDGE)?;
    let proposal = &relay["status"]["policy"]["proposal"];
    ensure!(proposal["diff"] == diff, "the status has {proposal}");
    let checksum = proposal["checksum"].as_str().context("no checksum")?;
    let said = message(&relay, "PolicySynced");
    ensure!(said.contains(checksum), "the message is {said}");
    let line = "+      \"dst\": [\"tag:relay-office\"],\n";
    ensure!(diff.contains(line), "the difference is\n{diff}");
    ensure!(api.policy()? == BASE, "the policy was written");

    deployment.apply(EDGE, &grants("Apply"))?;
    is(deployment, "False/ScopeMissing", Wait::STATUS)?;
    let said = message(&deployment.object("peerrelay", EDGE)?, "PolicySynced");
    ensure!(said.contains("policy_file with write access"), "{said}");
    ensure!(api.policy()? == BASE, "the policy was written");
    deployment.apply(EDGE, &grants("Propose"))?;
    is(deployment, "False/PolicyProposed", Wait::STATUS)?;

    let mut file = PolicyFile::new(deployment, "autogroup:admin")?;
    let relay = deployment.peer_relay(EDGE, &json!({}))?;
    let merged = file.merge(BASE, &relay, &[])?;
    deployment.rig.tailnet.write_policy(&merged)?;
    is(deployment, "True/PolicyUpToDate", NOTICED)?;
    let map = deployment.object("configmap", &format!("{EDGE}-grants"))?;
    ensure!(map["data"]["policy.diff"] == Value::Null, "it stays");

    deployment.apply(EDGE, &json!({}))?;
    deployment.soon("the policy is left alone", || {
        let relay = deployment.object("peerrelay", EDGE)?;
        let status = &relay["status"];
        ensure!(status["policy"] == Value::Null, "{}", status["policy"]);
        Ok(())
    })?;
    ensure!(api.policy()? == merged, "the policy was written");
    deployment.remove_secret_named(SECRET)?;
    reset(deployment)?;
    Ok(format!("{} lines proposed", diff.lines().count()))
}

/// Prepares a policy without relays, a PeerRelay that clients do not use, and a credential for the
/// policy with this scope.
fn begin(deployment: &Deployment<'_>, scope: &str) -> Result<Api> {
    reset(deployment)?;
    allow_secrets(deployment, NAMESPACE, &[SECRET])?;
    let api = deployment.rig.tailnet.api(User::Admin)?;
    let client = api.oauth_client(&[&[scope], &COMPANIONS[..]].concat(), &[])?;
    write_secret_in(deployment, NAMESPACE, SECRET, &client)?;
    deployment.rig.tailnet.write_policy(BASE)?;
    in_force(deployment, "False/GrantsMissing")?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    deployment.wait_route(c1, c2, |route| *route == Route::Derp, SEARCH)?;
    Ok(api)
}

/// Waits until the condition is as wanted.
fn is(deployment: &Deployment<'_>, wanted: &str, wait: Wait) -> Result<()> {
    let probe = || {
        let found = deployment.condition(EDGE, "PolicySynced")?;
        ensure!(found == wanted, "it is '{found}'");
        Ok(())
    };
    wait.until(&format!("PolicySynced is {wanted}"), probe)
        .map(drop)
}
