//! A small client of an API server: JSON in, JSON out, paths as the API server has them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;

/// HTTP over TLS, with connections that are kept.
pub type Upstream = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Speaks to an API server as one user.
#[derive(Clone, Debug)]
pub struct Api {
    upstream: Upstream,
    server: String,
    token: String,
    resources: Arc<BTreeMap<String, Resource>>,
}

/// A kind of objects, and its place in the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// `apiVersion` of its objects.
    pub api_version: String,
    /// Kind of its objects.
    pub kind: String,
    /// Plural in paths.
    pub plural: String,
    /// True if objects of the kind are in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// Path of an object, or of all with an empty name.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let root = if self.api_version.contains('/') {
            "apis"
        } else {
            "api"
        };
        let mut path = format!("/{root}/{}", self.api_version);
        if self.namespaced && !namespace.is_empty() {
            path += &format!("/namespaces/{namespace}");
        }
        path += &format!("/{}", self.plural);
        if !name.is_empty() {
            path += &format!("/{name}");
        }
        path
    }
}

/// Connections that trust the authority in a file.
pub fn upstream(ca: &Path) -> Result<Upstream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).context("failed to read the authority")?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(https))
}

impl Api {
    /// A client of `server`, such as `https://127.0.0.1:6443`.
    pub fn new(upstream: Upstream, server: &str, token: &str) -> Self {
        Self {
            upstream,
            server: server.to_owned(),
            token: token.to_owned(),
            resources: Arc::default(),
        }
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Value)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header("authorization", format!("Bearer {}", self.token))
            .header("accept", "application/json")
            .header("content-type", content_type)
            .body(Full::new(Bytes::from(body)))?;
        let response = self.upstream.request(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        Ok((status, value))
    }

    async fn expect(&self, method: Method, path: &str, kind: &str, body: &Value) -> Result<Value> {
        let bytes = if body.is_null() {
            Vec::new()
        } else {
            serde_json::to_vec(body)?
        };
        let (status, value) = self.send(method.clone(), path, kind, bytes).await?;
        let shown = value["message"].as_str().unwrap_or_default();
        ensure!(status.is_success(), "{method} {path}: {status} {shown}");
        Ok(value)
    }

    /// Reads the object or list at `path`.
    pub async fn read(&self, path: &str) -> Result<Value> {
        self.expect(Method::GET, path, "application/json", &Value::Null)
            .await
    }

    /// Reads the object at `path`; `None` if there is none.
    pub async fn find(&self, path: &str) -> Result<Option<Value>> {
        let (status, value) = self
            .send(Method::GET, path, "application/json", Vec::new())
            .await?;
        match status {
            StatusCode::OK => Ok(Some(value)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => bail!("GET {path}: {status}"),
        }
    }

    /// Creates an object below `path`.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.expect(Method::POST, path, "application/json", object)
            .await
    }

    /// Changes the object at `path` by a merge patch.
    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        self.expect(Method::PATCH, path, "application/merge-patch+json", patch)
            .await
    }

    /// Deletes the object at `path`, if there is one.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let (status, value) = self
            .send(Method::DELETE, path, "application/json", Vec::new())
            .await?;
        ensure!(
            status.is_success() || status == StatusCode::NOT_FOUND,
            "DELETE {path}: {status} {value}"
        );
        Ok(())
    }

    /// Applies an object by server-side apply, as a user would with kubectl.
    pub async fn apply(&self, object: &Value) -> Result<Value> {
        let resource = self.resource_of(object)?;
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let path = resource.path(text("namespace"), text("name"));
        let path = format!("{path}?fieldManager=user&force=true");
        self.expect(Method::PATCH, &path, "application/apply-patch+yaml", object)
            .await
    }

    /// The resource of an object's kind, once discovered.
    fn resource_of(&self, object: &Value) -> Result<&Resource> {
        let key = format!("{}/{}", object["apiVersion"], object["kind"]);
        self.resources
            .get(&key)
            .with_context(|| format!("the API server has no {key}"))
    }

    /// Reads from the API server which kinds it serves.
    pub async fn discover(&mut self) -> Result<()> {
        let mut versions = vec!["v1".to_owned()];
        let groups = self.read("/apis").await?;
        for group in groups["groups"].as_array().into_iter().flatten() {
            let versions_of_group = group["versions"].as_array().into_iter().flatten();
            versions.extend(
                versions_of_group.filter_map(|v| v["groupVersion"].as_str().map(str::to_owned)),
            );
        }
        let mut resources = BTreeMap::new();
        for version in versions {
            let root = if version.contains('/') { "apis" } else { "api" };
            let list = self.read(&format!("/{root}/{version}")).await?;
            for item in list["resources"].as_array().into_iter().flatten() {
                let plural = item["name"].as_str().unwrap_or_default();
                if plural.contains('/') {
                    continue;
                }
                let resource = Resource {
                    api_version: version.clone(),
                    kind: item["kind"].as_str().unwrap_or_default().into(),
                    plural: plural.into(),
                    namespaced: item["namespaced"] == true,
                };
                let key = format!("{}/{}", Value::from(&*version), item["kind"]);
                resources.insert(key, resource);
            }
        }
        self.resources = Arc::new(resources);
        Ok(())
    }

    /// The resource of a group by its plural.
    pub fn resource(&self, group: &str, plural: &str) -> Option<&Resource> {
        self.resources.values().find(|resource| {
            let of = resource
                .api_version
                .split_once('/')
                .map_or("", |(group, _)| group);
            of == group && resource.plural == plural
        })
    }
}
