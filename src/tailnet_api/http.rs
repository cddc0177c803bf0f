//! One HTTP request on a connection of its own.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, ETAG, HOST, IF_MATCH, USER_AGENT},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use url::Url;

use super::error::ApiError;
use crate::{dial::Dialer, retry_after::retry_after};

/// Media type of most answers.
pub(super) const JSON: &str = "application/json";
/// Media type of policy files.
pub(super) const HUJSON: &str = "application/hujson";
/// Longest time for a request with its answer, after the connection is open.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer, in bytes: the devices of a large tailnet fit.
const LARGEST_ANSWER: usize = 64 << 20;

/// Opens connections to one API server.
pub(super) struct Connector {
    base: Url,
    dialer: Dialer,
}

/// A request below the base URL.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// Path with query.
    pub(super) path: &'a str,
    pub(super) bearer: Option<&'a SecretString>,
    pub(super) body: Body,
    /// Media type of the answer.
    pub(super) accept: &'static str,
    /// Entity tag that the object must have.
    pub(super) if_match: Option<&'a str>,
}

/// The body of a request.
#[derive(Clone)]
pub(super) enum Body {
    None,
    Json(Bytes),
    Form(Bytes),
    HuJson(Bytes),
}

/// The whole answer to a request.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Wait that the server asks for, at most ten minutes.
    pub(super) retry_after: Option<Duration>,
    /// Entity tag of the object, with its quotes.
    pub(super) etag: Option<String>,
    pub(super) body: Bytes,
}

impl Connector {
    pub(super) const fn new(base: Url, dialer: Dialer) -> Self {
        Self { base, dialer }
    }

    /// URL of the server without a path, for messages.
    pub(super) fn server(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    /// Sends a request and receives the answer, whatever its status.
    pub(super) async fn send(
        &self,
        operation: &'static str,
        request: Request<'_>,
    ) -> Result<Answer, ApiError> {
        let opened = self.dialer.open(&self.base).await;
        let stream = opened.map_err(|source| ApiError::Unreachable {
            operation,
            server: self.server(),
            source,
        })?;
        let lost = || ApiError::Lost { operation };
        let exchange = async {
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(drop)?;
            let answer = async {
                let response = sender.send_request(self.request(request)?).await;
                let (head, body) = response.map_err(drop)?.into_parts();
                let body = Limited::new(body, LARGEST_ANSWER).collect().await;
                Ok::<_, ()>(Answer {
                    status: head.status,
                    retry_after: retry_after(&head.headers),
                    etag: etag(&head.headers),
                    body: body.map_err(drop)?.to_bytes(),
                })
            };
            // It only moves bytes: the answer alone says how the request went, also if the server
            // keeps the connection open afterwards.
            let transport = async {
                connection.await.ok();
                std::future::pending::<Infallible>().await
            };
            tokio::select! {
                answer = answer => answer,
                never = transport => match never {},
            }
        };
        let answer = timeout(REQUEST_TIMEOUT, exchange).await;
        answer.map_err(|_| lost())?.map_err(|()| lost())
    }

    fn request(&self, request: Request<'_>) -> Result<http::Request<Full<Bytes>>, ()> {
        let (kind, body) = match request.body {
            Body::None => (None, Bytes::new()),
            Body::Json(body) => (Some(JSON), body),
            Body::HuJson(body) => (Some(HUJSON), body),
            Body::Form(body) => (Some("application/x-www-form-urlencoded"), body),
        };
        let mut built = http::Request::builder()
            .method(request.method)
            // hyper sends URI and headers of such a connection as they are: servers expect a path, and
            // `Host` is not added.
            .uri(request.path)
            .header(HOST, self.base.authority())
            .header(ACCEPT, request.accept)
            // A server may end an idle connection at the moment of the next request. That request would be
            // lost, and nobody would know whether it was carried out.
            .header(CONNECTION, "close")
            .header(USER_AGENT, concat!("peerrelay/", env!("CARGO_PKG_VERSION")));
        if let Some(kind) = kind {
            built = built.header(CONTENT_TYPE, kind);
        }
        if let Some(etag) = request.if_match {
            built = built.header(IF_MATCH, etag);
        }
        if let Some(secret) = request.bearer {
            let bearer = format!("Bearer {}", secret.expose_secret());
            let mut bearer = HeaderValue::try_from(bearer).map_err(drop)?;
            // Debug output of the headers then hides the secret.
            bearer.set_sensitive(true);
            built = built.header(AUTHORIZATION, bearer);
        }
        built.body(Full::new(body)).map_err(drop)
    }
}

impl Answer {
    /// Parses the body as JSON. The error has no part of the body, which may be a secret.
    pub(super) fn json<T: DeserializeOwned>(&self, operation: &'static str) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|_| ApiError::Protocol { operation })
    }

    /// The message of an error, or an empty text. Tailscale calls it `message`, and OAuth (RFC 6749,
    /// section 5.2) `error_description`.
    pub(super) fn message(&self) -> String {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Error {
            #[serde(alias = "error_description")]
            message: String,
        }

        let error: Error = serde_json::from_slice(&self.body).unwrap_or_default();
        error.message
    }
}

/// Reads the entity tag.
fn etag(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(ETAG)?.to_str().ok()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
