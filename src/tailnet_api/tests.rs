//! The client with a server that gives prepared answers and records requests.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpListener};

use super::*;

const SECRET: &str = "tskey-client-secret";
const SCOPES: &str = "auth_keys devices:core policy_file devices:posture_attributes:read";
const MINTED: &str = r#"{"id":"k1","key":"tskey-auth-minted"}"#;

/// A status, headers and a body.
pub(super) type Prepared = (u16, &'static [(&'static str, &'static str)], String);

/// The answers that are left, and the requests that came.
#[derive(Default)]
pub(super) struct Script {
    pub(super) answers: VecDeque<Prepared>,
    /// Number of access tokens given so far.
    pub(super) tokens: usize,
    /// Answer to requests for access tokens, unless they are granted.
    pub(super) token_refusal: Option<(u16, &'static str)>,
    pub(super) requests: Vec<(String, String, String)>,
    /// Headers of the requests.
    pub(super) headers: Vec<HeaderMap>,
}

pub(super) type Shared = Arc<Mutex<Script>>;

async fn answer(
    State(script): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut script = script.lock().unwrap();
    let is_exchange = uri.path() == "/api/v2/oauth/token-exchange";
    if is_exchange || uri.path() == "/api/v2/oauth/token" {
        script.tokens += 1;
        let text = String::from_utf8(body.to_vec()).unwrap();
        let (first, second) = match is_exchange {
            true => ("client_id=identity", "jwt=e30.".to_owned()),
            false => (
                "grant_type=client_credentials",
                format!("client_secret={SECRET}"),
            ),
        };
        assert!(text.contains(first) && text.contains(&second), "{text}");
        assert!(!text.contains("scope="), "{text}");
        if let Some((status, body)) = script.token_refusal {
            return (StatusCode::from_u16(status).unwrap(), body).into_response();
        }
        let granted = json!({
            "access_token": format!("token-{}", script.tokens), "expires_in": 3600,
            "token_type": "Bearer", "scope": SCOPES, "tags": "tag:op",
        });
        return granted.to_string().into_response();
    }
    let bearer = headers["authorization"].to_str().unwrap().to_owned();
    let request = (
        format!("{method} {uri}"),
        bearer,
        String::from_utf8(body.to_vec()).unwrap(),
    );
    script.requests.push(request);
    script.headers.push(headers);
    let (status, headers, body) = script.answers.pop_front().expect("no answer is left");
    let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}

/// A client of a server with these answers.
async fn api(answers: &[(u16, &str)]) -> (TailnetApi, Shared) {
    let answers = answers
        .iter()
        .map(|(status, body)| (*status, &[][..], (*body).to_owned()));
    let script = Script {
        answers: answers.collect(),
        ..Script::default()
    };
    serve(script).await
}

async fn serve(script: Script) -> (TailnetApi, Shared) {
    let (url, script) = listen(script).await;
    (client(&url), script)
}

/// Starts the server, and returns its URL.
pub(super) async fn listen(script: Script) -> (String, Shared) {
    let script = Arc::new(Mutex::new(script));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(script.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, script)
}

fn client(url: &str) -> TailnetApi {
    let client = OAuthClient {
        id: "client".into(),
        secret: SECRET.into(),
    };
    let credential = ApiCredential::OAuth(client);
    TailnetApi::new(url.parse().unwrap(), credential, Dialer::new(None).unwrap())
}

fn key_request() -> KeyRequest {
    KeyRequest {
        tags: vec!["tag:relay-office".into()],
        ephemeral: false,
        lifetime: Duration::from_secs(600),
        description: "relays/edge n1".into(),
    }
}

/// All of an error that could reach a status, an event or the log.
fn whole(error: &ApiError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source} {source:?}"));
    format!("{error} {error:?}{}", source.unwrap_or_default())
}

#[tokio::test]
async fn a_key_is_single_use_approved_and_tagged_and_one_token_serves_two() {
    let (api, script) = api(&[(200, MINTED), (200, MINTED)]).await;
    let minted = api.create_key(&key_request()).await.unwrap();
    assert_eq!(
        (&*minted.id, minted.key.expose_secret()),
        ("k1", "tskey-auth-minted")
    );
    assert!(!format!("{minted:?}").contains("minted\""), "{minted:?}");
    api.create_key(&key_request()).await.unwrap();

    let script = script.lock().unwrap();
    assert_eq!(script.tokens, 1);
    let (line, bearer, body) = &script.requests[0];
    assert_eq!(line, "POST /api/v2/tailnet/-/keys");
    assert_eq!(bearer, "Bearer token-1");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        body["capabilities"]["devices"]["create"],
        json!({
            "reusable": false, "ephemeral": false, "preauthorized": true,
            "tags": ["tag:relay-office"],
        })
    );
    assert_eq!(body["expirySeconds"], 600);
    assert_eq!(body["description"], "relays-edge n1");
}

#[tokio::test]
async fn nothing_is_sent_before_a_request_and_tokens_expire_on_their_own() {
    let (api, script) = api(&[(200, MINTED), (200, MINTED)]).await;
    assert_eq!(script.lock().unwrap().tokens, 0);
    api.create_key(&key_request()).await.unwrap();
    // Only the clock of the client moves: the server still takes the first token.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3_541)).await;
    tokio::time::resume();
    api.create_key(&key_request()).await.unwrap();
    let script = script.lock().unwrap();
    assert_eq!(script.tokens, 2);
    assert_eq!(script.requests[1].1, "Bearer token-2");
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let invalid = r#"{"message":"API token invalid"}"#;
    let (first, script) = api(&[(401, invalid), (200, MINTED)]).await;
    first.create_key(&key_request()).await.unwrap();
    assert_eq!(script.lock().unwrap().tokens, 2);

    let (second, script) = api(&[(401, invalid), (401, invalid)]).await;
    let error = second.create_key(&key_request()).await.unwrap_err();
    assert!(matches!(error, ApiError::TokenRefused { .. }), "{error}");
    assert!(!error.may_have_happened() && !error.needs_user());
    assert_eq!(script.lock().unwrap().requests.len(), 2);
}

#[tokio::test]
async fn refused_tags_are_told_with_the_line_for_the_policy() {
    let refusal = r#"{"message":"requested tags [tag:relay-office] are invalid or not permitted"}"#;
    let (api, _) = api(&[(400, refusal)]).await;
    let error = api.create_key(&key_request()).await.unwrap_err();
    assert!(matches!(error, ApiError::TagsRefused { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(r#""tag:relay-office": ["tag:op"]"#), "{text}");
    assert!(error.needs_user());
}

#[tokio::test]
async fn a_missing_scope_is_named_and_the_next_request_has_a_new_token() {
    let refusal =
        r#"{"message":"calling actor does not have enough permissions to perform this function"}"#;
    let (api, script) = api(&[(403, refusal), (200, MINTED)]).await;
    let error = api.create_key(&key_request()).await.unwrap_err();
    assert!(error.to_string().contains("the scope auth_keys"), "{error}");
    api.create_key(&key_request()).await.unwrap();
    assert_eq!(script.lock().unwrap().tokens, 2);
}

#[tokio::test]
async fn other_refusals_keep_the_words_of_the_api() {
    let plan = r#"{"message":"feature not available on current billing plan"}"#;
    for (status, body, words) in [
        (403, plan, "billing plan"),
        (402, plan, "402"),
        (503, "<html>", "503"),
        (
            400,
            r#"{"message":"keys: description had invalid characters"}"#,
            "invalid characters",
        ),
    ] {
        let (api, _) = api(&[(status, body)]).await;
        let error = api.create_key(&key_request()).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.may_have_happened(), status == 503);
    }
}

#[tokio::test]
async fn a_limited_rate_is_told_with_the_wait_and_nothing_is_repeated() {
    let script = Script {
        answers: VecDeque::from([(429, &[("retry-after", "7")][..], String::new())]),
        ..Script::default()
    };
    let (api, script) = serve(script).await;
    let error = api.create_key(&key_request()).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert!(!error.may_have_happened());
    assert_eq!(script.lock().unwrap().requests.len(), 1);
}

#[tokio::test]
async fn an_oauth_client_that_is_refused_is_told_without_its_secret() {
    for (status, body, words) in [
        (
            401,
            r#"{"message":"API token invalid"}"#,
            "API token invalid",
        ),
        (
            401,
            r#"{"error":"invalid_client","error_description":"no such client"}"#,
            "no such",
        ),
    ] {
        let script = Script {
            token_refusal: Some((status, body)),
            ..Script::default()
        };
        let (api, _) = serve(script).await;
        let error = api.create_key(&key_request()).await.unwrap_err();
        assert!(matches!(error, ApiError::ClientRefused { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(!whole(&error).contains(SECRET));
        assert!(error.needs_user());
    }
}

/// A client with a federated identity.
fn federated(url: &str) -> TailnetApi {
    let claims = r#"{"iss":"https://cluster","sub":"system:serviceaccount:a:b","aud":["me"]}"#;
    let claims = BASE64_URL_SAFE_NO_PAD.encode(claims);
    let credential = ApiCredential::Federated(FederatedClient {
        id: "identity".into(),
        token: IdentityToken::parse(&format!("e30.{claims}.{SECRET}")).unwrap(),
    });
    TailnetApi::new(url.parse().unwrap(), credential, Dialer::new(None).unwrap())
}

#[tokio::test]
async fn a_federated_identity_exchanges_its_token() {
    let script = Script {
        answers: [(200, &[][..], MINTED.to_owned())].into(),
        ..Script::default()
    };
    let (url, script) = listen(script).await;
    federated(&url).create_key(&key_request()).await.unwrap();
    assert_eq!(script.lock().unwrap().tokens, 1);
}

#[tokio::test]
async fn a_refused_token_of_a_workload_is_told_by_its_claims() {
    let script = Script {
        token_refusal: Some((401, r#"{"message":"no match"}"#)),
        ..Script::default()
    };
    let (url, _) = listen(script).await;
    let error = federated(&url)
        .create_key(&key_request())
        .await
        .unwrap_err();
    for words in [
        "identity",
        "no match",
        "https://cluster",
        "serviceaccount:a:b",
        "audience me",
    ] {
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(!whole(&error).contains(SECRET));
    assert!(error.needs_user());
}

#[tokio::test]
async fn a_lost_answer_is_told_from_a_request_that_was_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let cut = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
    });
    let api = client(&url);
    let lost = api.create_key(&key_request()).await.unwrap_err();
    cut.await.unwrap();
    assert!(
        matches!(lost, ApiError::Lost { .. }) && lost.may_have_happened(),
        "{lost}"
    );
    assert!(!whole(&lost).contains(SECRET));
    let unsent = api.create_key(&key_request()).await.unwrap_err();
    assert!(matches!(unsent, ApiError::Unreachable { .. }), "{unsent}");
    assert!(!unsent.may_have_happened());
}

#[tokio::test]
async fn deletions_of_what_is_gone_succeed() {
    let gone = r#"{"message":"not found"}"#;
    let (api, script) = api(&[
        (200, "{}"),
        (404, gone),
        (200, ""),
        (404, gone),
        (404, gone),
    ])
    .await;
    assert!(api.delete_key("k1").await.unwrap());
    assert!(!api.delete_key("k1").await.unwrap());
    assert!(api.delete_device("n1CNTRL").await.unwrap());
    assert!(!api.delete_device("../keys?").await.unwrap());
    assert_eq!(api.device("n1CNTRL").await.unwrap(), None);
    let script = script.lock().unwrap();
    let lines: Vec<_> = script.requests.iter().map(|(line, ..)| &**line).collect();
    assert_eq!(lines[0], "DELETE /api/v2/tailnet/-/keys/k1");
    assert_eq!(lines[2], "DELETE /api/v2/device/n1CNTRL");
    assert_eq!(lines[3], "DELETE /api/v2/device/..%2Fkeys%3F");
    assert_eq!(lines[4], "GET /api/v2/device/n1CNTRL");
    assert_eq!(
        script.tokens, 1,
        "an object that is gone says nothing about the token"
    );
}

#[tokio::test]
async fn devices_are_listed_by_tag_even_if_the_server_has_no_filters() {
    let devices = json!({"devices": [
        {"nodeId": "n1", "name": "edge-n1.tail.ts.net", "tags": ["tag:relay-office"],
         "addresses": ["100.64.0.1"], "authorized": true, "unknown": {}},
        {"nodeId": "n2", "name": "laptop.tail.ts.net", "authorized": true},
    ]});
    let (api, script) = api(&[(200, &devices.to_string())]).await;
    let found = api.devices_with_tag("tag:relay-office").await.unwrap();
    let ids: Vec<_> = found.iter().map(|device| &*device.node_id).collect();
    assert_eq!(ids, ["n1"]);
    let script = script.lock().unwrap();
    let line = &script.requests[0].0;
    assert_eq!(
        line,
        "GET /api/v2/tailnet/-/devices?tags=tag%3Arelay-office"
    );
}

#[tokio::test]
async fn a_policy_is_read_with_its_entity_tag_and_written_only_if_it_has_not_changed() {
    let text = "// ours\n{\"grants\": [],}\n";
    let changed = r#"{"message":"precondition failed, invalid old hash"}"#;
    let script = Script {
        answers: VecDeque::from([
            (200, &[("etag", "\"abc\"")][..], text.to_owned()),
            (200, &[][..], text.to_owned()),
            (412, &[][..], changed.to_owned()),
            (200, &[][..], text.to_owned()),
        ]),
        ..Script::default()
    };
    let (api, script) = serve(script).await;
    let read = api.policy().await.unwrap();
    let guard = read.guard.unwrap();
    assert_eq!(read.text, text);
    assert_eq!(guard, PolicyGuard::EntityTag("\"abc\"".into()));
    assert!(api.write_policy(text, &guard).await.unwrap());
    assert!(!api.write_policy(text, &guard).await.unwrap());
    assert_eq!(api.policy().await.unwrap().guard, None);
    let script = script.lock().unwrap();
    let (line, _, body) = &script.requests[1];
    assert_eq!((&**line, &**body), ("POST /api/v2/tailnet/-/acl", text));
    assert_eq!(script.requests[0].0, "GET /api/v2/tailnet/-/acl");
    assert_eq!(script.headers[0]["accept"], "application/hujson");
    assert_eq!(script.headers[1]["content-type"], "application/hujson");
    assert_eq!(script.headers[1]["if-match"], "\"abc\"");
}

#[tokio::test]
async fn a_policy_is_judged_by_the_errors_in_the_answer() {
    let failed =
        r#"{"message":"test(s) failed","data":[{"user":"tag:a","errors":["want: Drop"]}]}"#;
    let warned = r#"{"message":"warning(s) found","data":[{"user":"group:a","warnings":["w"]}]}"#;
    for (status, body, faults) in [
        (200, "", &[][..]),
        (200, "{}", &[]),
        (200, warned, &[]),
        (200, failed, &["tag:a: want: Drop"]),
        (200, r#"{"message":"no such group"}"#, &["no such group"]),
        (400, r#"{"message":"line 3: no"}"#, &["line 3: no"]),
    ] {
        let (api, script) = api(&[(status, body)]).await;
        assert_eq!(api.validate_policy("{}").await.unwrap(), faults, "{body}");
        let line = &script.lock().unwrap().requests[0].0;
        assert_eq!(line, "POST /api/v2/tailnet/-/acl/validate");
    }
    let (api, _) = api(&[(200, "<html>")]).await;
    let error = api.validate_policy("{}").await.unwrap_err();
    assert!(matches!(error, ApiError::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn a_policy_that_may_not_be_read_is_told_with_all_scopes() {
    let refusal =
        r#"{"message":"calling actor does not have enough permissions to perform this function"}"#;
    let (api, _) = api(&[(403, refusal), (403, refusal)]).await;
    let read = api.policy().await.unwrap_err().to_string();
    let guard = PolicyGuard::EntityTag("a".into());
    let write = api
        .write_policy("{}", &guard)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        read.contains("policy_file:read, devices:core:read"),
        "{read}"
    );
    assert!(write.contains("devices:posture_attributes:read"), "{write}");
    assert!(write.contains("policy_file with write access"), "{write}");
}
