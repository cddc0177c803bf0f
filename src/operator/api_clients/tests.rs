#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::convert::Infallible;

use http::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::json;

use super::*;

/// An API server that has the Secret `shared` in the namespace of the operator, and no other one.
fn clients(namespace: Option<&str>) -> ApiClients {
    let answer = |request: Request<Body>| async move {
        let path = "/api/v1/namespaces/peerrelay-system/secrets/shared";
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "shared", "resourceVersion": "1"},
            "data": {"client_id": "aWQ=", "client_secret": "c2VjcmV0"},
        });
        let missing = json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound",
            "message": "not found", "code": 404,
        });
        let (code, body) = match request.uri().path() == path {
            true => (StatusCode::OK, secret),
            false => (StatusCode::NOT_FOUND, missing),
        };
        let mut response = Response::new(Body::from(body.to_string().into_bytes()));
        *response.status_mut() = code;
        Ok::<_, Infallible>(response)
    };
    let client = Client::new(tower::service_fn(answer), "default");
    ApiClients::new(
        client,
        Path::new("/nonexistent").into(),
        namespace.map(Into::into),
    )
}

fn access(account: Result<ApiAccount, ReferenceError>) -> ApiAccess {
    ApiAccess {
        relay: ObjectRef::new("edge").within("relays"),
        namespace: "relays".into(),
        account,
    }
}

fn account(namespace: SecretNamespace) -> ApiAccount {
    ApiAccount {
        source: AccountSource::OAuthClient {
            secret: "shared".into(),
            namespace,
        },
        url: "https://api.example.net".parse().unwrap(),
        ca_bundle: None,
    }
}

#[tokio::test]
async fn the_secret_of_a_tailnet_credential_is_in_the_namespace_of_the_operator() {
    let shared = access(Ok(account(SecretNamespace::Operator)));
    let own = access(Ok(account(SecretNamespace::PeerRelay)));
    let found = clients(Some("peerrelay-system"));
    found.get(&shared).await.unwrap();
    let error = found.get(&own).await.err().unwrap();
    assert!(error.to_string().contains("namespace relays"), "{error}");
    let error = clients(None).get(&shared).await.err().unwrap();
    assert!(error.to_string().contains("--lease-namespace"), "{error}");
}

#[tokio::test]
async fn the_last_account_stands_in_for_a_deleted_tailnet_credential() {
    let clients = clients(Some("peerrelay-system"));
    let missing = access(Err(ReferenceError::Missing("acme".into())));
    let error = clients.get_or_last(&missing).await.err().unwrap();
    assert_eq!(error.problem().reason, "TailnetCredentialMissing");

    let known = access(Ok(account(SecretNamespace::Operator)));
    let last = clients.get(&known).await.unwrap();
    let found = clients.get_or_last(&missing).await.unwrap();
    assert!(Arc::ptr_eq(&last, &found));
    assert!(clients.get(&missing).await.is_err(), "for deletions only");
    let not_allowed = access(Err(ReferenceError::NotAllowed {
        name: "acme".into(),
        namespace: "relays".into(),
    }));
    let error = clients.get_or_last(&not_allowed).await.err().unwrap();
    assert_eq!(error.problem().reason, "NamespaceNotAllowed");
    let error = clients.get_or_last(&missing).await.err().unwrap();
    assert_eq!(
        error.problem().reason,
        "TailnetCredentialMissing",
        "it is not allowed"
    );
}
