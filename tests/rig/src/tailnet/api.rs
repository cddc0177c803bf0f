//! The API of the rig's tailnet, which has the shape of Tailscale's (package `api` of the Go module
//! `tests/rig/tools/tailnet`).
//!
//! Programs under test reach it at [`LOGIN_SERVER`](super::LOGIN_SERVER), the URL of the control server:
//! `https://10.90.0.1/api/v2/...`, with the rig's certificate authority
//! ([`Rig::ca`](crate::Rig::ca)), from nodes, pods and clients. Its auth keys are the only ones that control
//! accepts, and its devices are the nodes of control.
//!
//! A scenario opens it by [`Tailnet::api`](super::Tailnet::api), and creates what it tests with:
//!
//! ```ignore
//! let api = deployment.rig.tailnet.api(User::Admin)?;
//! let client = api.oauth_client(&["auth_keys", "devices:core"], &["tag:operator"])?;
//! // client.id and client.secret go into a Secret. The policy says which tags tag:operator owns.
//! api.inject(&Fault::path("POST", "/api/v2/tailnet/*/keys").loses(LostPart::Answer))?;
//! // ...
//! api.clear_faults()?;
//! ensure!(api.keys()?.iter().all(MintedKey::is_spent), "a key is left");
//! ```
//!
//! Requests of scenarios go by the admin socket of control, meet no faults and are not in
//! [`Api::requests`].

mod answers;
mod fault;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::admin;
use crate::auth_key::AuthKey;
pub use answers::{ApiRequest, Device, FederatedIdentity, MintedKey, OauthClient};
use answers::{Created, Devices, Token};
pub use fault::{Fault, LostPart};

/// The path of the auth keys, OAuth clients and federated identities of the tailnet.
const KEYS: &str = "/api/v2/tailnet/-/keys";

/// A user of the tailnet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum User {
    /// An administrator, who owns all tags that the policy defines.
    Admin,
    /// A member, who owns the tags that the policy says.
    Member,
}

impl User {
    fn login(self) -> &'static str {
        match self {
            Self::Admin => "user-123@rig.example.net",
            Self::Member => "member@rig.example.net",
        }
    }
}

/// The properties of an auth key to create. It is preauthorized.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    reusable: bool,
    ephemeral: bool,
    tags: Vec<String>,
    lifetime_seconds: u32,
}

impl NewKey {
    /// A key with which one device joins.
    pub fn single_use() -> Self {
        Self::default()
    }

    /// A key with which any number of devices join.
    pub fn reusable() -> Self {
        Self {
            reusable: true,
            ..Self::default()
        }
    }

    /// Gives the tags to devices that join with the key.
    pub fn with_tags(mut self, tags: &[&str]) -> Self {
        self.tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        self
    }

    /// Makes devices that join with the key ephemeral.
    pub fn ephemeral(mut self) -> Self {
        self.ephemeral = true;
        self
    }

    /// Limits the lifetime of the key, which is 90 days otherwise.
    pub fn expiring_in(mut self, seconds: u32) -> Self {
        self.lifetime_seconds = seconds;
        self
    }
}

/// The API for requests of a user, and what tests do with its server.
#[derive(Clone, Debug)]
pub struct Api {
    socket: PathBuf,
    token: String,
}

impl Api {
    pub(super) fn open(socket: PathBuf, user: User) -> Result<Self> {
        let path = format!("/tokens?user={}", user.login());
        let answer: Token = parse(&admin::request(&socket, "POST", &path)?)?;
        Ok(Self {
            socket,
            token: answer.token,
        })
    }

    /// Creates an auth key.
    pub fn mint(&self, key: &NewKey) -> Result<AuthKey> {
        let body = json!({
            "capabilities": {"devices": {"create": {
                "reusable": key.reusable,
                "ephemeral": key.ephemeral,
                "preauthorized": true,
                "tags": key.tags,
            }}},
            "expirySeconds": key.lifetime_seconds,
        });
        let created: Created = self.ask("POST", KEYS, &body)?;
        Ok(AuthKey::new(created.key))
    }

    /// Creates an OAuth client with these scopes and tags. The policy must define the tags.
    pub fn oauth_client(&self, scopes: &[&str], tags: &[&str]) -> Result<OauthClient> {
        let body = json!({"keyType": "client", "scopes": scopes, "tags": tags});
        let created: Created = self.ask("POST", KEYS, &body)?;
        Ok(OauthClient {
            id: created.id,
            secret: created.key,
        })
    }

    /// Creates a federated identity for tokens of an issuer, whose subject matches a pattern in which `*`
    /// stands for any text. [`Api::trust_issuer`] gives the issuer its keys.
    pub fn federated_identity(
        &self,
        issuer: &str,
        subject: &str,
        scopes: &[&str],
        tags: &[&str],
    ) -> Result<FederatedIdentity> {
        let body = json!({
            "keyType": "federated",
            "issuer": issuer,
            "subject": subject,
            "scopes": scopes,
            "tags": tags,
        });
        let created: Created = self.ask("POST", KEYS, &body)?;
        Ok(FederatedIdentity {
            id: created.id,
            audience: created.audience,
        })
    }

    /// Replaces the keys of an issuer of tokens by those of a JSON Web Key Set, such as
    /// `kubectl get --raw /openid/v1/jwks` prints.
    pub fn trust_issuer(&self, issuer: &str, key_set: &str) -> Result<()> {
        let path = format!("/issuers?issuer={issuer}");
        self.send("PUT", &path, key_set).map(drop)
    }

    /// Revokes an auth key, an OAuth client or a federated identity.
    pub fn revoke(&self, id: &str) -> Result<()> {
        self.send("DELETE", &format!("{KEYS}/{id}"), "").map(drop)
    }

    /// Lets an auth key, or the access tokens of an OAuth client, expire now.
    pub fn expire(&self, id: &str) -> Result<()> {
        let path = format!("/credentials/expire?id={id}");
        self.send("POST", &path, "").map(drop)
    }

    /// All auth keys that were ever made.
    pub fn keys(&self) -> Result<Vec<MintedKey>> {
        parse(&self.send("GET", "/keys", "")?)
    }

    /// All secrets that the server ever made: auth keys, access tokens, and secrets of OAuth clients.
    pub fn secrets(&self) -> Result<Vec<String>> {
        parse(&self.send("GET", "/secrets", "")?)
    }

    /// The devices of the tailnet.
    pub fn devices(&self) -> Result<Vec<Device>> {
        let path = "/api/v2/tailnet/-/devices";
        let answer: Devices = parse(&self.send("GET", path, "")?)?;
        Ok(answer.devices)
    }

    /// Deletes a device by its node ID.
    pub fn delete_device(&self, node_id: &str) -> Result<()> {
        let path = format!("/api/v2/device/{node_id}");
        self.send("DELETE", &path, "").map(drop)
    }

    /// Authorizes a device by its node ID, or withdraws that.
    pub fn authorize_device(&self, node_id: &str, authorized: bool) -> Result<()> {
        let path = format!("/api/v2/device/{node_id}/authorized");
        let body = json!({"authorized": authorized}).to_string();
        self.send("POST", &path, &body).map(drop)
    }

    /// Makes devices wait for approval that join without a preauthorized key, or lets them in at once.
    pub fn require_approval(&self, required: bool) -> Result<()> {
        let body = json!({"devicesApprovalOn": required}).to_string();
        self.send("PATCH", "/api/v2/tailnet/-/settings", &body)
            .map(drop)
    }

    /// Removes ephemeral devices that are not connected, as Tailscale does within an hour.
    pub fn remove_ephemeral(&self) -> Result<()> {
        self.send("POST", "/ephemeral", "").map(drop)
    }

    /// The text of the policy file in force.
    pub fn policy(&self) -> Result<String> {
        self.send("GET", "/api/v2/tailnet/-/acl", "")
    }

    /// Injects a fault from now on.
    pub fn inject(&self, fault: &Fault) -> Result<()> {
        let body = serde_json::to_string(fault)?;
        self.send("POST", "/faults", &body).map(drop)
    }

    /// Number of requests that have failed by faults since these were removed last.
    pub fn failed_requests(&self) -> Result<u64> {
        let faults: Vec<Value> = parse(&self.send("GET", "/faults", "")?)?;
        let failed = faults.iter().filter_map(|fault| fault["failed"].as_u64());
        Ok(failed.sum())
    }

    /// Removes all faults.
    pub fn clear_faults(&self) -> Result<()> {
        self.send("DELETE", "/faults", "").map(drop)
    }

    /// The last requests of programs under test, at most 10,000, the newest last.
    pub fn requests(&self) -> Result<Vec<ApiRequest>> {
        let requests: Option<_> = parse(&self.send("GET", "/requests", "")?)?;
        Ok(requests.unwrap_or_default())
    }

    /// Forgets the requests.
    pub fn clear_requests(&self) -> Result<()> {
        self.send("DELETE", "/requests", "").map(drop)
    }

    fn ask<T: DeserializeOwned>(&self, method: &str, path: &str, body: &Value) -> Result<T> {
        parse(&self.send(method, path, &body.to_string())?)
    }

    fn send(&self, method: &str, path: &str, body: &str) -> Result<String> {
        admin::send(&self.socket, method, path, Some(&self.token), body)
    }
}

fn parse<T: DeserializeOwned>(answer: &str) -> Result<T> {
    if answer.is_empty() {
        bail!("the API answered nothing");
    }
    serde_json::from_str(answer).context("failed to parse the answer of the API")
}
