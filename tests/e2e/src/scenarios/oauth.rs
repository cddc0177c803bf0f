//! PeerRelays whose auth keys the operator creates with an OAuth client.

mod changes;
mod devices;
mod federation;
mod namespaces;
mod policy_sync;
mod shared;

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use rig::{
    deployment::{Deployment, message},
    names::{CHART, NAMESPACE, OPERATOR_NAMESPACE},
    state::repository,
    tailnet::{Api, DEFAULT_POLICY, Fault, LostPart, MintedKey, OauthClient, User},
};
use serde_json::{Value, json};

use super::{SEARCH, Scenario, is_relay, vacant};

/// Name of the Secret with the OAuth client.
const SECRET: &str = "tailnet-oauth";
/// Tag of the OAuth client.
const OPERATOR_TAG: &str = "tag:operator";
/// Pattern of the path of requests that create auth keys.
const KEYS: &str = "/api/v2/tailnet/*/keys";
/// Time without a request to the API after which none is expected.
const QUIET: Duration = Duration::from_secs(10);

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = vec![
        Scenario {
            name: "with an OAuth client alone, each relay gets a single-use key of its own and \
                   stock clients relay",
            run: oauth_only,
        },
        Scenario {
            name: "lost answers, used keys, limited rates and failures of the API end with relays \
                   in the tailnet",
            run: faults,
        },
    ];
    all.extend(changes::scenarios());
    all.extend(devices::scenarios());
    all.extend(federation::scenarios());
    all.extend(namespaces::scenarios());
    all.extend(policy_sync::scenarios());
    all.extend(shared::scenarios());
    all
}

fn oauth_only(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    allow_secret(deployment)?;
    let api = deployment.rig.tailnet.api(User::Admin)?;
    deployment.rig.tailnet.write_policy(&policy(false))?;
    let client = api.oauth_client(&["auth_keys", "devices:core"], &[OPERATOR_TAG])?;
    let name = &format!("oauth-{}", std::process::id());
    deployment.remove_secret_named(SECRET)?;
    apply(deployment, name)?;
    refused(deployment, name, "CredentialMissing", SECRET)?;
    write_secret(deployment, &client)?;
    // The API names the tags of a client only if they are requested.
    let line = r#""tag:relay-office": ["#;
    refused(deployment, name, "TagsRefused", line)?;
    deployment.rig.tailnet.write_policy(&policy(true))?;
    deployment.wait_ready(name)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    let (route, _) = deployment.wait_route(c1, c2, is_relay, SEARCH)?;

    let accepted = deployment.condition(name, "CredentialAccepted")?;
    ensure!(accepted == "True/KeysCreated", "it is '{accepted}'");
    let keys = keys_of(&api, &client)?;
    let relays = deployment.reports(name)?.len();
    ensure!(
        keys.len() == relays,
        "{} keys for {relays} relays",
        keys.len()
    );
    for key in &keys {
        ensure!(key.is_spent() && key.devices.len() == 1, "unused: {key:?}");
        ensure!(!key.reusable && !key.ephemeral, "{key:?}");
        ensure!(key.tags == ["tag:relay-office"], "tags {:?}", key.tags);
    }
    nothing_is_left(deployment, name)?;
    let seconds = QUIET.as_secs();
    api.clear_requests()?;
    thread::sleep(QUIET);
    let requests = api.requests()?;
    ensure!(requests.is_empty(), "{requests:?} in steady state");

    // A replaced pod is the same device, and needs no key.
    let pods = format!("peerrelay.dev/peer-relay={name}");
    let words = ["delete", "pods", "-n", NAMESPACE, "-l", &pods];
    deployment.rig.kubectl(words)?;
    deployment.wait_ready(name)?;
    let after = keys_of(&api, &client)?.len();
    ensure!(after == relays, "{after} keys after a restart");
    deployment.delete(name)?;
    Ok(format!(
        "{relays} relays, {} keys, {route}, no request in {seconds} s",
        keys.len()
    ))
}

fn faults(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    allow_secret(deployment)?;
    let api = deployment.rig.tailnet.api(User::Admin)?;
    deployment.rig.tailnet.write_policy(&policy(true))?;
    let client = api.oauth_client(&["auth_keys", "devices:core"], &[OPERATOR_TAG])?;
    write_secret(deployment, &client)?;
    let mut told = Vec::new();
    let create = || Fault::path("POST", KEYS);
    let register = || Fault::path("POST", "/machine/register");
    for (what, fault) in [
        ("answer lost", create().loses(LostPart::Answer).times(1)),
        ("rate limited", create().limits_rate(1).times(2)),
        ("API fails", create().answers(503, "try later").times(2)),
        (
            "registration lost",
            register().loses(LostPart::Answer).times(1),
        ),
    ] {
        let name = &format!("oauth-{}-{}", told.len(), std::process::id());
        let before = keys_of(&api, &client)?.len();
        api.inject(&fault)?;
        apply(deployment, name)?;
        let ready = deployment.wait_ready(name);
        api.clear_faults()?;
        ready.with_context(|| what.to_owned())?;
        let relays = deployment.reports(name)?.len();
        let created = keys_of(&api, &client)?.len() - before;
        ensure!(
            (relays..=relays + 1).contains(&created),
            "{what}: {created} keys for {relays} relays"
        );
        nothing_is_left(deployment, name)?;
        deployment.delete(name)?;
        told.push(format!("{what}: {created} keys"));
    }
    Ok(told.join(", "))
}

/// The policy of the rig with a tag for OAuth clients, which owns the tag of relays or does not.
fn policy(owns: bool) -> String {
    let owners = match owns {
        true => format!(r#"["autogroup:admin", "{OPERATOR_TAG}"]"#),
        false => r#"["autogroup:admin"]"#.to_owned(),
    };
    let relays = r#""tag:relay-office": ["autogroup:admin"]"#;
    let with = format!(r#""{OPERATOR_TAG}": ["autogroup:admin"], "tag:relay-office": {owners}"#);
    DEFAULT_POLICY.replace(relays, &with)
}

/// Allows the operator to read the Secret, by a value of the chart.
fn allow_secret(deployment: &Deployment<'_>) -> Result<()> {
    allow_secrets(deployment, NAMESPACE, &[SECRET])
}

/// Upgrades the release of the operator with these arguments, and keeps its other values.
fn upgrade(deployment: &Deployment<'_>, arguments: &[&str]) -> Result<()> {
    let chart = repository().join("charts").join(CHART);
    let chart = chart.display().to_string();
    let words = [
        "upgrade",
        CHART,
        &chart,
        "-n",
        OPERATOR_NAMESPACE,
        "--reuse-values",
    ];
    deployment.rig.helm(words.iter().chain(arguments)).map(drop)
}

/// Sets values of the chart, each as `NAME=JSON`, and waits until the operator has them.
fn set_values(deployment: &Deployment<'_>, values: &[&str]) -> Result<()> {
    let values = values.iter().flat_map(|value| ["--set-json", value]);
    let words: Vec<_> = ["--wait"].into_iter().chain(values).collect();
    upgrade(deployment, &words)
}

/// Allows the operator to read Secrets of a namespace, and no others.
pub(super) fn allow_secrets(
    deployment: &Deployment<'_>,
    namespace: &str,
    secrets: &[&str],
) -> Result<()> {
    upgrade(
        deployment,
        &[
            "--set",
            &format!("credentials[0].namespace={namespace}"),
            "--set",
            &format!("credentials[0].secrets={{{}}}", secrets.join(",")),
        ],
    )?;
    let account = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{CHART}");
    let may_read = |secret: &str| {
        let secret = format!("secret/{secret}");
        let words = [
            "auth", "can-i", "get", &secret, "-n", namespace, "--as", &account,
        ];
        deployment.rig.kubectl(words).map(drop)
    };
    deployment.soon("the operator may read the Secrets", || {
        secrets.iter().try_for_each(|secret| may_read(secret))
    })?;
    ensure!(may_read("other").is_err(), "it may read others");
    Ok(())
}

fn apply(deployment: &Deployment<'_>, name: &str) -> Result<()> {
    let tailnet = tailnet(deployment, name)?;
    deployment.apply(name, &json!({"tailnet": tailnet}))
}

/// The rig's tailnet, with the OAuth client in place of the auth key.
fn tailnet(deployment: &Deployment<'_>, name: &str) -> Result<Value> {
    let relay = deployment.peer_relay(name, &json!({}))?;
    let mut tailnet = relay["spec"]["tailnet"].clone();
    let tailnet_fields = tailnet.as_object_mut().context("no tailnet")?;
    tailnet_fields.remove("authKey");
    tailnet_fields.insert("oauth".into(), json!({"secretName": SECRET}));
    Ok(tailnet)
}

fn write_secret(deployment: &Deployment<'_>, client: &OauthClient) -> Result<()> {
    write_secret_in(deployment, NAMESPACE, SECRET, client)
}

fn write_secret_in(
    deployment: &Deployment<'_>,
    namespace: &str,
    name: &str,
    client: &OauthClient,
) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": {"client_id": client.id, "client_secret": client.secret},
    });
    deployment.rig.apply(&secret.to_string()).map(drop)
}

/// Waits until a PeerRelay shows why its credential is not accepted.
fn refused(deployment: &Deployment<'_>, name: &str, reason: &str, words: &str) -> Result<()> {
    deployment.eventually(reason, || {
        for (kind, status) in [
            ("CredentialAccepted", "False"),
            ("Ready", "False"),
            ("Stalled", "True"),
        ] {
            let found = deployment.condition(name, kind)?;
            ensure!(found == format!("{status}/{reason}"), "{kind} is '{found}'");
        }
        let relay = deployment.object("peerrelay", name)?;
        let said = message(&relay, "CredentialAccepted");
        ensure!(said.contains(words), "the message is '{said}'");
        Ok(())
    })
}

fn keys_of(api: &Api, client: &OauthClient) -> Result<Vec<MintedKey>> {
    let mut keys = api.keys()?;
    keys.retain(|key| key.client == client.id);
    Ok(keys)
}

/// Fails if a key is left for a relay that has joined, or if the operator has written a Secret.
fn nothing_is_left(deployment: &Deployment<'_>, name: &str) -> Result<()> {
    deployment.soon("no key is left", || {
        let map = deployment.object("configmap", &format!("{name}-office"))?;
        ensure!(map["data"]["auth-keys.yaml"] == Value::Null, "one is left");
        for report in deployment.reports(name)? {
            let request = &report["status"]["authKeyRequest"];
            ensure!(*request == Value::Null, "one is requested");
        }
        Ok(())
    })?;
    let secrets = deployment.list("secrets", name)?;
    ensure!(secrets.is_empty(), "{} Secrets", secrets.len());
    Ok(())
}
