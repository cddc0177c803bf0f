//! One connection to the control server: Noise over HTTP (`ts2021`), registration, network maps.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::{io::AsyncRead, time::timeout};
use ts_capabilityversion::CapabilityVersion;
use ts_control::client::{CONTROL_PROTOCOL_VERSION, read_challenge_packet, upgrade_ts2021};
use ts_control_noise::Handshake;
use ts_http_util::{
    BytesBody, ClientExt, EmptyBody, HeaderName, HeaderValue, Http1, Http2, ResponseExt, http1,
    http2,
};
use ts_keys::MachinePublicKey;
use url::Url;

use super::{
    identity::Identity,
    map_reader::{COMPRESSION, MapStream, MapStreamError},
    wire::{Auth, Hostinfo, MapRequest, RegisterRequest, RegisterResponse},
    wrapped_key::WrappedKey,
};
use crate::{
    dial::{DialError, Dialer},
    retry_after::retry_after,
};

/// Longest time for a request, or for one message to arrive whole.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Version of the protocol; at least 121, the first that can be a relay.
const VERSION: CapabilityVersion = CapabilityVersion::CURRENT;
/// Lets a load balancer in front of control keep a device on one server (`tailcfg.LBHeader`).
const LOAD_BALANCER: HeaderName = HeaderName::from_static("ts-lb");

/// Error of the connection to the control server.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The connection could not be opened.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server did not say what a control server says.
    #[error("failed to {what}: {url} must be a Tailscale-compatible control server")]
    Protocol {
        /// Step of the protocol.
        what: &'static str,
        /// The control server.
        url: Url,
    },
    /// The server answered with an error.
    #[error("failed to {what}: the control server answered {status}{}", asked(*.retry_after))]
    Status {
        /// Step of the protocol.
        what: &'static str,
        /// HTTP status of the answer.
        status: u16,
        /// Wait that the server asks for before the next attempt.
        retry_after: Option<Duration>,
    },
    /// The stream of network maps broke.
    #[error(transparent)]
    Maps(#[from] MapStreamError),
    /// Nothing came for too long, or the connection broke.
    #[error("lost the connection to the control server while it should {what}")]
    Lost {
        /// Step of the protocol.
        what: &'static str,
    },
}

impl ControlError {
    /// The error of an answer that is no success.
    fn of_answer(what: &'static str, status: StatusCode, headers: &HeaderMap) -> Self {
        // With these, servers ask clients to slow down. Elsewhere the header has other meanings (RFC 9110,
        // section 10.2.3).
        let is_overload = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        let retry_after = retry_after(headers).filter(|_| is_overload.contains(&status));
        Self::Status {
            what,
            status: status.as_u16(),
            retry_after,
        }
    }

    /// The wait that the control server asks for before the next attempt; at most ten minutes.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn asked(wait: Option<Duration>) -> String {
    wait.map_or_else(String::new, |wait| {
        format!(", and asks to wait {} s", wait.as_secs())
    })
}

/// A connection to the control server as this device.
pub(crate) struct Control<'a> {
    http: Http2<BytesBody>,
    url: &'a Url,
    identity: &'a Identity,
}

impl<'a> Control<'a> {
    /// Connects and authenticates both sides.
    ///
    /// The key of an HTTP control server is fetched without protection, so that is for networks
    /// one trusts.
    pub(crate) async fn connect(
        dialer: &Dialer,
        url: &'a Url,
        identity: &'a Identity,
    ) -> Result<Self, ControlError> {
        let key = fetch_key(dialer, url).await?;
        let what = "start an encrypted session";
        let fail = || ControlError::Protocol {
            what,
            url: url.clone(),
        };
        let (handshake, init) =
            Handshake::initialize(&CONTROL_PROTOCOL_VERSION, &identity.machine, &key, VERSION);
        let http = http1_client(dialer, url).await?;
        let upgrade = async {
            let stream = upgrade_ts2021(url, &init, handshake, &identity.machine, http)
                .await
                .ok()?;
            // Control may send an early message before HTTP/2 begins (`tailcfg.EarlyNoise`).
            let stream = read_challenge_packet(stream).await.ok()?;
            http2::connect(stream).await.ok()
        };
        let http = timeout(REQUEST_TIMEOUT, upgrade).await;
        let http = http
            .map_err(|_| ControlError::Lost { what })?
            .ok_or_else(fail)?;
        Ok(Self {
            http,
            url,
            identity,
        })
    }

    /// Asks for a place in the tailnet, with or without an auth key.
    pub(crate) async fn register(
        &self,
        key: Option<&WrappedKey<'_>>,
        hostinfo: &Hostinfo,
        ephemeral: bool,
    ) -> Result<RegisterResponse, ControlError> {
        let what = "register this device";
        let request = RegisterRequest {
            version: VERSION.into(),
            node_key: self.identity.node.public.to_string(),
            network_lock_key: self.identity.network_lock.public.to_string(),
            node_key_signature: key.and_then(|key| {
                let node = self.identity.node.public.to_x25519_dalek();
                key.sign(node.as_bytes())
            }),
            auth: key.map(|key| Auth {
                auth_key: key.auth_key,
            }),
            hostinfo,
            ephemeral,
        };
        let response = self.post(what, "machine/register", json(&request)).await?;
        let body = timeout(REQUEST_TIMEOUT, response.collect_bytes()).await;
        let body = body
            .ok()
            .and_then(Result::ok)
            .ok_or(ControlError::Lost { what })?;
        serde_json::from_slice(&body).map_err(|_| self.protocol(what))
    }

    /// Tells control about this device: disco key, home DERP region, host info. A streaming
    /// request is read-only (`tailcfg.MapRequest.Stream`), so this goes in its own.
    pub(crate) async fn update(&self, hostinfo: &Hostinfo) -> Result<(), ControlError> {
        let what = "take this device's update";
        // Without `omit_peers`, control would end the open map stream for this request
        // (`tailcfg.MapRequest.OmitPeers`).
        let request = MapRequest {
            omit_peers: true,
            ..self.map_request(hostinfo)
        };
        let response = self.post(what, "machine/map", json(&request)).await?;
        let body = timeout(REQUEST_TIMEOUT, response.collect_bytes()).await;
        body.ok()
            .and_then(Result::ok)
            .map(drop)
            .ok_or(ControlError::Lost { what })
    }

    /// Opens the stream of network maps.
    pub(crate) async fn maps(
        &self,
        hostinfo: &Hostinfo,
    ) -> Result<MapStream<impl AsyncRead + Unpin + use<>>, ControlError> {
        let request = MapRequest {
            stream: true,
            keep_alive: true,
            ..self.map_request(hostinfo)
        };
        let response = self
            .post("send network maps", "machine/map", json(&request))
            .await?;
        Ok(MapStream::new(response.into_read()))
    }

    fn map_request<'r>(&self, hostinfo: &'r Hostinfo) -> MapRequest<'r> {
        MapRequest {
            version: VERSION.into(),
            keep_alive: false,
            compress: COMPRESSION,
            node_key: self.identity.node.public.to_string(),
            disco_key: self.identity.disco.public.to_string(),
            stream: false,
            omit_peers: false,
            hostinfo,
        }
    }

    async fn post(
        &self,
        what: &'static str,
        path: &str,
        body: Vec<u8>,
    ) -> Result<impl ResponseExt + use<>, ControlError> {
        let url = self.url.join(path).map_err(|_| self.protocol(what))?;
        let node = self.identity.node.public.to_string();
        let node = HeaderValue::try_from(node).expect("a key in hex is a header value");
        let post = self
            .http
            .post(&url, [(LOAD_BALANCER, node)], Bytes::from(body).into());
        let response = timeout(REQUEST_TIMEOUT, post)
            .await
            .ok()
            .and_then(Result::ok);
        let response = response.ok_or(ControlError::Lost { what })?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status => Err(ControlError::of_answer(what, status, response.headers())),
        }
    }

    fn protocol(&self, what: &'static str) -> ControlError {
        ControlError::Protocol {
            what,
            url: self.url.clone(),
        }
    }
}

fn json(request: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(request).expect("requests are plain data")
}

async fn fetch_key(dialer: &Dialer, url: &Url) -> Result<MachinePublicKey, ControlError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Keys {
        public_key: String,
    }

    let what = "fetch its public key";
    let fail = || ControlError::Protocol {
        what,
        url: url.clone(),
    };
    let mut key_url = url.join("key").map_err(|_| fail())?;
    key_url
        .query_pairs_mut()
        // As `controlclient.loadServerPubKeys`: the version asks for the key in JSON. The older form without
        // JSON is not read.
        .append_pair("v", &u16::from(VERSION).to_string());
    let http = http1_client(dialer, url).await?;
    let fetch = async {
        let response = http
            .get(&key_url, None)
            .await
            .map_err(|_| ControlError::Lost { what })?;
        match response.status() {
            status if status.is_success() => response.collect_bytes().await.map_err(|_| fail()),
            status => Err(ControlError::of_answer(what, status, response.headers())),
        }
    };
    let body = timeout(REQUEST_TIMEOUT, fetch)
        .await
        .map_err(|_| ControlError::Lost { what })??;
    let keys: Keys = serde_json::from_slice(&body).map_err(|_| fail())?;
    keys.public_key.parse().map_err(|_| fail())
}

async fn http1_client(dialer: &Dialer, url: &Url) -> Result<Http1<EmptyBody>, ControlError> {
    let what = "open an HTTP connection";
    let stream = dialer.open(url).await?;
    http1::connect(stream)
        .await
        .map_err(|_| ControlError::Lost { what })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn wait_is_the_one_that_an_overloaded_server_asks_for() {
        let headers = HeaderMap::from_iter([(http::header::RETRY_AFTER, "90".parse().unwrap())]);
        let error = |code, headers: &HeaderMap| {
            ControlError::of_answer("register", StatusCode::from_u16(code).unwrap(), headers)
        };
        for (code, wait) in [(429, Some(90)), (503, Some(90)), (500, None), (404, None)] {
            let wait = wait.map(Duration::from_secs);
            assert_eq!(error(code, &headers).retry_after(), wait, "{code}");
            assert_eq!(error(code, &HeaderMap::new()).retry_after(), None);
        }
        assert_eq!(
            error(429, &headers).to_string(),
            "failed to register: the control server answered 429, and asks to wait 90 s"
        );
        assert_eq!(
            error(500, &headers).to_string(),
            "failed to register: the control server answered 500"
        );
    }
}
