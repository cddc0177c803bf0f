#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::operator::{fixtures, referred_credential};

fn credential(spec: &Value) -> Referred {
    Referred::Found(Arc::new(fixtures::tailnet_credential(spec)))
}

fn of(tailnet: &Value, referred: &Referred) -> Result<TailnetAccess, InvalidRelay> {
    access(&fixtures::relay(json!({"tailnet": tailnet})), referred)
}

fn account(access: &TailnetAccess) -> &ApiAccount {
    match &access.credential {
        Credential::Api(account) => account,
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_about_the_account_comes_from_the_tailnet_credential() {
    let shared = credential(&json!({
        "oauth": {"secretName": "shared"},
        "controlURL": "https://control.example.net", "apiURL": "https://api.example.net",
        "caBundle": "PEM", "allowedNamespaces": ["other", "relays"],
    }));
    // Admission refuses such an object. Its URLs must not receive the client's secret.
    let tailnet = json!({
        "credentialsRef": {"name": "acme"}, "apiURL": "https://evil.example.net",
        "controlURL": "https://evil.example.net", "caBundle": "EVIL",
    });
    let found = of(&tailnet, &shared).unwrap();
    let wanted = ApiAccount {
        source: AccountSource::OAuthClient {
            secret: "shared".into(),
            namespace: SecretNamespace::Operator,
        },
        url: "https://api.example.net".parse().unwrap(),
        ca_bundle: Some("PEM".into()),
    };
    assert_eq!(account(&found), &wanted);
    assert_eq!(found.deletion_credential, Some(wanted));
    assert_eq!(found.ca_bundle.as_deref(), Some("PEM"));
    let control = found.control_url.unwrap();
    assert_eq!(control.as_str(), "https://control.example.net/");
    assert_eq!(found.identity.namespace, None);
}

#[test]
fn a_federated_identity_is_shared_too() {
    let shared = credential(&json!({
        "workloadIdentity": {"clientID": "k1"}, "allowedNamespaces": ["*"],
    }));
    let reference = json!({"credentialsRef": {"name": "acme"}, "deletionPolicy": "Retain"});
    let found = of(&reference, &shared).unwrap();
    let wanted = AccountSource::WorkloadIdentity {
        client_id: "k1".into(),
        audience: "api.tailscale.com/k1".into(),
    };
    assert_eq!(account(&found).source, wanted);
    assert_eq!(account(&found).url.as_str(), "https://api.tailscale.com/");
    assert_eq!(found.deletion_credential, None, "devices are retained");
    assert_eq!(found.control_url, None);
}

#[test]
fn a_tailnet_credential_that_cannot_be_used_is_told_with_the_fix() {
    let oauth = |more: Value| {
        let mut spec = json!({"oauth": {"secretName": "s"}, "allowedNamespaces": ["*"]});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        credential(&spec)
    };
    let reference = json!({"credentialsRef": {"name": "acme"}});
    for (referred, reason, words) in [
        (Referred::Missing, referred_credential::MISSING, "create it"),
        (
            Referred::Unreadable("unknown variant".into()),
            referred_credential::INVALID,
            "unknown variant",
        ),
        (
            oauth(json!({"allowedNamespaces": ["other"]})),
            referred_credential::NOT_ALLOWED,
            "namespace relays: add the namespace to its spec.allowedNamespaces",
        ),
        (
            oauth(json!({"controlURL": "https://["})),
            referred_credential::INVALID,
            "spec.controlURL",
        ),
        (
            oauth(json!({"apiURL": "https://["})),
            referred_credential::INVALID,
            "spec.apiURL",
        ),
        (
            oauth(json!({"workloadIdentity": {"clientID": "k"}})),
            referred_credential::INVALID,
            "either oauth or workloadIdentity",
        ),
    ] {
        let error = of(&reference, &referred).unwrap_err();
        let said = error.to_string();
        assert_eq!(error.reason(), reason, "{said}");
        assert!(said.contains("acme") && said.contains(words), "{said}");
    }
}

#[test]
fn a_reference_without_a_cluster_is_not_known() {
    let reference = json!({"credentialsRef": {"name": "acme"}});
    let found = of(&reference, &Referred::Unknown).unwrap();
    assert_eq!(found.credential, Credential::Unknown);
    assert_eq!(found.deletion_credential, None);
}

#[test]
fn a_reference_beside_another_credential_is_invalid() {
    let shared = credential(&json!({
        "oauth": {"secretName": "s"}, "allowedNamespaces": ["*"],
    }));
    for own in [
        json!({"authKey": {"secretName": "s"}}),
        json!({"oauth": {"secretName": "s"}}),
        json!({"workloadIdentity": {"clientID": "k"}}),
    ] {
        let mut both = own;
        both["credentialsRef"] = json!({"name": "acme"});
        let error = of(&both, &shared).unwrap_err();
        assert!(matches!(error, InvalidRelay::Credential), "{error}");
    }
}
