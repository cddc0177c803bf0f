//! The HTTP server for probes and metrics: `/healthz`, `/readyz`, `/metrics`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use futures::future::BoxFuture;
use tokio::net::TcpListener;

/// Wait before an address is tried again.
const RETRY: Duration = Duration::from_secs(30);
const TEXT: (&str, &str) = ("content-type", prometheus::TEXT_FORMAT);

/// What the server asks of the process.
#[derive(Clone)]
pub struct Probes {
    /// Metrics in Prometheus text format.
    pub metrics: Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>,
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
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(probes);
    Ok(async move { axum::serve(listener, routes).await })
}

/// Serves `/metrics` and nothing else, as long as the process runs; an address that cannot be bound
/// is tried again, as relays work without.
pub async fn metrics_only(
    address: SocketAddr,
    metrics: Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>,
) -> std::io::Result<()> {
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
    let served = move || async move { ([TEXT], metrics().await) };
    let routes = Router::new().route("/metrics", get(served));
    axum::serve(listener, routes).await
}

async fn readyz(State(probes): State<Probes>) -> (StatusCode, String) {
    match (probes.ready)() {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing + "\n"),
    }
}

async fn metrics(State(probes): State<Probes>) -> ([(&'static str, &'static str); 1], String) {
    ([TEXT], (probes.metrics)().await)
}
