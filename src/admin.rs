//! The HTTP server for probes and metrics: `/healthz`, `/readyz`, `/metrics`.

mod answer;
mod connections;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use bytes::Bytes;
use tokio::net::TcpListener;

pub use self::answer::Render;
use self::{
    answer::{Answer, KEPT},
    connections::{LIMITS, serve},
};

/// Wait before an address is tried again.
const RETRY: Duration = Duration::from_secs(30);
const TEXT: (&str, &str) = ("content-type", prometheus::TEXT_FORMAT);

/// What the server asks of the process.
#[derive(Clone)]
pub struct Probes {
    /// Metrics in Prometheus text format.
    pub metrics: Render,
    /// `Err` says in one line what is missing.
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[error("failed to serve metrics on {address}: choose a free address with --metrics-addr")]
pub struct AdminError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

impl AdminError {
    /// Another process has the address.
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
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(probes.ready)
        .merge(metrics(Answer::new(probes.metrics, kept)));
    Ok(serve(listener, routes, LIMITS))
}

/// Serves `/metrics` and nothing else, as long as the process runs; an address that cannot be bound
/// is tried again, as relays work without.
pub async fn metrics_only(address: SocketAddr, render: Render) -> std::io::Result<()> {
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !told => {
                tracing::warn!(%address, %error, "metrics not served on the node's address yet");
                told = true;
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

type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

async fn readyz(State(ready): State<Ready>) -> (StatusCode, Bytes) {
    match ready() {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, (missing + "\n").into()),
    }
}
