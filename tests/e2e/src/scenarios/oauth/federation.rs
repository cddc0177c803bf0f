//! PeerRelays whose auth keys the operator creates with a federated identity.

use anyhow::{Context, Result, ensure};
use rig::{
    deployment::Deployment,
    names::{CHART, OPERATOR_NAMESPACE},
    tailnet::{FederatedIdentity, User},
};
use serde_json::{Value, json};

use super::{OPERATOR_TAG, policy, refused, set_values};
use crate::scenarios::{Scenario, relayed, vacant};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "with a federated identity alone, the operator proves itself by its ServiceAccount and stock \
               clients relay",
        run: federated,
    }]
}

fn federated(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    deployment.rig.tailnet.write_policy(&policy(true))?;
    let api = deployment.rig.tailnet.api(User::Admin)?;
    let raw = |path| deployment.rig.kubectl(["get", "--raw", path]);
    let discovery: Value = serde_json::from_str(&raw("/.well-known/openid-configuration")?)?;
    let issuer = discovery["issuer"].as_str().context("no issuer")?;
    api.trust_issuer(issuer, &raw("/openid/v1/jwks")?)?;
    let account = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{CHART}");
    let identity = |subject: &str| {
        let scopes = ["auth_keys", "devices:core"];
        api.federated_identity(issuer, subject, &scopes, &[OPERATOR_TAG])
    };
    let (wrong, right) = (
        identity("system:serviceaccount:other:*")?,
        identity(&account)?,
    );
    let name = &format!("federated-{}", std::process::id());

    let shown = (|| {
        apply(deployment, name, &wrong)?;
        refused(deployment, name, "CredentialMissing", &wrong.audience)?;
        give_tokens(deployment, &[&wrong.audience, &right.audience])?;
        refused(deployment, name, "CredentialRefused", &account)?;
        apply(deployment, name, &right)?;
        deployment.wait_ready(name)?;
        let address = relayed(deployment)?;
        let accepted = deployment.condition(name, "CredentialAccepted")?;
        ensure!(accepted == "True/KeysCreated", "it is '{accepted}'");
        let keys = api.keys()?;
        let keys = keys.iter().filter(|key| key.client == right.id).count();
        let relays = deployment.reports(name)?.len();
        ensure!(keys == relays, "{keys} keys for {relays} relays");
        Ok(format!("{keys} keys for {relays} relays, {address}"))
    })();
    let gone = deployment.delete(name);
    give_tokens(deployment, &[])?;
    shown.and_then(|shown| gone.map(|()| shown))
}

/// Gives the operator a token for each audience, as an administrator does with the chart.
fn give_tokens(deployment: &Deployment<'_>, audiences: &[&str]) -> Result<()> {
    let value = format!("workloadIdentity.audiences={}", json!(audiences));
    set_values(deployment, &[&value])
}

fn apply(deployment: &Deployment<'_>, name: &str, identity: &FederatedIdentity) -> Result<()> {
    let mut tailnet = super::tailnet(deployment, name)?;
    let fields = tailnet.as_object_mut().context("no tailnet")?;
    fields.remove("oauth");
    let identity = json!({"clientID": identity.id, "audience": identity.audience});
    fields.insert("workloadIdentity".into(), identity);
    deployment.apply(name, &json!({"tailnet": tailnet}))
}
