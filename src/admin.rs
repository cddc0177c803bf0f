//! The HTTP server for probes and metrics: `/healthz`, `/readyz`, `/metrics`.

mod answer;
mod connections;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use tokio::net::TcpListener;

pub use self::answer::Render;
use self::{
    answer::{Answer, KEPT},
    connections::{LIMITS, serve},
};
use crate::names::IDENTITY_HEADER;

/// Wait before binding an address is tried again.
const RETRY: Duration = Duration::from_secs(30);
const TEXT: (&str, &str) = ("content-type", prometheus::TEXT_FORMAT);

/// Returns, as an error of one line, what keeps the process from being ready.
pub type Ready = Arc<dyn Fn() -> Result<(), NotReady> + Send + Sync>;

/// Reason why the process is not ready, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(pub String);

/// Content of the answers, which the process gives.
#[derive(Clone)]
pub struct Probes {
    /// Metrics in Prometheus text format.
    pub metrics: Render,
    /// `Err` says in one line what is missing.
    pub ready: Ready,
    /// Name of the process in [`IDENTITY_HEADER`]. A request that names another process, whose port
    /// this one has, is refused.
    pub identity: Option<String>,
}

/// Error from binding the server.
#[derive(Debug, thiserror::Error)]
#[error("failed to serve metrics on {address}: choose a free address with --metrics-addr")]
pub struct AdminError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

impl AdminError {
    /// Returns whether another process has the address.
    pub fn is_taken(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::AddrInUse
    }
}

/// Binds the server; the future serves until it is dropped.
///
/// # Errors
/// The address is taken or not one of this host's.
pub async fn bind(
    address: SocketAddr,
    probes: Probes,
) -> Result<impl Future<Output = std::io::Result<()>> + Send, AdminError> {
    let mut listener = TcpListener::bind(address).await;
    // A host without IPv6 has one unspecified address only.
    if listener.is_err() && address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await;
    }
    let listener = listener.map_err(|source| AdminError { address, source })?;
    // Only processes of this host ask on a loopback address, and see what is.
    let kept = match address.ip().is_loopback() {
        true => Duration::ZERO,
        false => KEPT,
    };
    Ok(serve(listener, routes(probes, kept), LIMITS))
}

fn routes(probes: Probes, kept: Duration) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(probes.ready)
        .merge(metrics(Answer::new(probes.metrics, kept)))
        .layer(from_fn_with_state(probes.identity, addressed))
}

/// Serves `/metrics` and nothing else, as long as the process runs; an address that cannot be bound
/// is tried again, as relays work without.
pub async fn metrics_only(address: SocketAddr, render: Render) -> std::io::Result<()> {
    let mut reported = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !reported => {
                tracing::warn!(%address, %error, "metrics not served on the node's address yet");
                reported = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    };
    serve(listener, metrics(Answer::new(render, KEPT)), LIMITS).await
}

fn metrics(answer: Answer) -> Router {
    let text = |State(answer): State<Answer>| async move { ([TEXT], answer.text().await) };
    Router::new()
        .route("/metrics", get(text))
        .with_state(answer)
}

async fn readyz(State(ready): State<Ready>) -> (StatusCode, Bytes) {
    match ready() {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{reason}\n").into(),
        ),
    }
}

/// Refuses a request that names another process than the one called `identity`.
async fn addressed(
    State(identity): State<Option<String>>,
    request: Request,
    next: Next,
) -> Response {
    let named = request.headers().get(IDENTITY_HEADER);
    // Only the probes of kubelet have the header. Prometheus and health checks of load balancers do not.
    let (Some(named), Some(own)) = (named, identity) else {
        return next.run(request).await;
    };
    match named.as_bytes() == own.as_bytes() {
        true => next.run(request).await,
        false => {
            let message = format!("this is {own}, which has the port of the relay asked for\n");
            // Kubelet takes every status from 400 on as a failed probe.
            (StatusCode::MISDIRECTED_REQUEST, message).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    #[tokio::test]
    async fn a_probe_for_another_relay_is_refused() {
        let probes = Probes {
            metrics: Arc::new(|| Box::pin(async { String::new() })),
            ready: Arc::new(|| Ok(())),
            identity: Some("relays/edge/office".into()),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes(probes, Duration::ZERO)).await });
        for (header, wanted) in [
            ("Accept: */*", "200"),
            ("peerrelay-identity: relays/edge/office", "200"),
            ("Peerrelay-Identity: relays/other/office", "421"),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request =
                format!("GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{header}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let status = answer.split(' ').nth(1);
            assert_eq!(status, Some(wanted), "{header}");
        }
    }
}
