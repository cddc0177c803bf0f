#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use super::*;
use crate::{
    dial::Dialer,
    tailnet_api::tests::{Script, Shared, listen},
};

const KEY: &str = "hskey-api-1-secret";
const TEXT: &str = "// ours\n{\"grants\": [],}\n";

/// A client of a server with these answers.
async fn headscale(answers: &[(u16, &str)]) -> (TailnetApi, Shared) {
    let answers = answers
        .iter()
        .map(|(status, body)| (*status, &[][..], (*body).to_owned()));
    let (url, script) = listen(Script {
        answers: answers.collect(),
        ..Script::default()
    })
    .await;
    let credential = ApiCredential::ApiKey(KEY.into());
    let dialer = Dialer::new(None).unwrap();
    (
        TailnetApi::new(url.parse().unwrap(), credential, dialer),
        script,
    )
}

fn answer(policy: &str) -> String {
    serde_json::json!({"policy": policy, "updatedAt": "2026-01-01T00:00:00Z"}).to_string()
}

#[tokio::test]
async fn a_policy_is_written_only_if_it_is_still_the_one_that_was_read() {
    let (ours, edited) = (answer(TEXT), answer("{}"));
    let answers = [&ours, "{}", &ours, &ours, &edited].map(|body| (200, body));
    let (api, script) = headscale(&answers).await;
    let read = api.policy().await.unwrap();
    let guard = read.guard.unwrap();
    assert_eq!(read.text, TEXT);
    assert!(api.validate_policy("{}").await.unwrap().is_empty());
    assert!(api.write_policy("{}", &guard).await.unwrap());
    assert!(!api.write_policy("{}", &guard).await.unwrap());
    let script = script.lock().unwrap();
    let lines: Vec<_> = script.requests.iter().map(|(line, ..)| &**line).collect();
    let wanted = [
        "GET /api/v1/policy",
        "POST /api/v1/policy/check",
        "GET /api/v1/policy",
        "PUT /api/v1/policy",
        "GET /api/v1/policy",
    ];
    assert_eq!(lines, wanted);
    assert_eq!(script.requests[0].1, format!("Bearer {KEY}"));
    assert_eq!(script.requests[3].2, r#"{"policy":"{}"}"#);
    assert_eq!(script.tokens, 0);
}

#[tokio::test]
async fn the_expiry_of_the_own_api_key_is_found_by_its_beginning() {
    let keys = serde_json::json!({"apiKeys": [
        {"id": "1", "prefix": "***", "expiration": "2026-01-01T00:00:00Z"},
        {"id": "2", "prefix": "hskey-api-2-***", "expiration": "2026-02-01T00:00:00Z"},
        {"id": "3", "prefix": "hskey-api-1-***", "expiration": "2026-03-01T00:00:00.5Z"},
    ]});
    let keys = keys.to_string();
    let (api, script) = headscale(&[(200, &keys), (200, "{}"), (401, "Unauthorized")]).await;
    let expiry = api.credential_expiry().await.unwrap();
    assert_eq!(expiry, Some("2026-03-01T00:00:00.5Z".parse().unwrap()));
    assert_eq!(script.lock().unwrap().requests[0].0, "GET /api/v1/apikey");
    assert_eq!(api.credential_expiry().await.unwrap(), None);
    api.credential_expiry().await.unwrap_err();
}

#[tokio::test]
async fn answers_of_headscale_are_told_with_their_fix() {
    let fault = |message: &str| serde_json::json!({"code": 3, "message": message}).to_string();
    let (invalid, missing, file) = (
        fault("unknown tag"),
        fault("loading ACL from database: acl policy not found"),
        fault("update is disabled for modes other than 'database'"),
    );
    let (api, _) = headscale(&[
        (400, &invalid),
        (500, &missing),
        (500, &missing),
        (500, &file),
        (401, "Unauthorized"),
    ])
    .await;
    assert_eq!(api.validate_policy("{}").await.unwrap(), ["unknown tag"]);
    let read = api.policy().await.unwrap();
    assert_eq!(read.text, NO_POLICY);
    let error = api
        .write_policy("{}", &read.guard.unwrap())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("policy.mode"), "{error}");
    assert!(error.needs_user());
    let error = api.policy().await.unwrap_err();
    assert!(matches!(error, ApiError::KeyRefused { .. }), "{error}");
    assert!(error.needs_user() && !format!("{error:?}").contains(KEY));
}
