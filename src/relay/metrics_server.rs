//! The relay's own HTTP server for probes and metrics, also while the relay is off.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{bootstrap::retry_while_in_use, options::RelayOptions, problem::Problem};
use crate::{
    admin::{self, AdminError, Probes, Ready, Render},
    crd::relay_reason::RelayReason,
    names,
    supervisor::Supervisor,
};

/// Wait between attempts to bind an address that another process has.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Error that ends the server.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    #[error(transparent)]
    Bind(#[from] AdminError),
    #[error("failed to serve metrics")]
    Serve(#[source] io::Error),
}

/// Starts the server as a task of `supervisor`. While another process has its address, `problem`
/// says so and binding is retried, because the relay forwards packets without this server.
///
/// # Errors
/// The address cannot be bound for another reason.
pub(super) async fn serve(
    supervisor: &mut Supervisor,
    options: &RelayOptions,
    (metrics, ready): (Render, Ready),
    problem: watch::Sender<Option<Problem>>,
) -> Result<(), ServerError> {
    let address = options.metrics_addr;
    let probes = Probes {
        metrics: metrics.clone(),
        ready,
        identity: identity(options),
    };
    // A relay that hands over, or was turned off, closes its listener a moment later.
    let bind = async || admin::bind(address, probes.clone()).await;
    match retry_while_in_use(bind, AdminError::is_taken).await {
        Ok(server) => supervisor.spawn("metrics server", server),
        Err(error) if error.is_taken() => {
            let taken = address_taken(address, options.node_name.as_deref());
            tracing::warn!(error = taken.message, "metrics and probes are not served");
            problem.send_replace(Some(taken));
            supervisor.spawn("metrics server", serve_when_free(address, probes, problem));
        }
        Err(error) => return Err(error.into()),
    }
    if let Some(address) = options.node_metrics_addr {
        let server = admin::metrics_only(address, metrics);
        supervisor.spawn("metrics server of the node", server);
    }
    Ok(())
}

/// Identity of the relay in requests, in Kubernetes only.
fn identity(options: &RelayOptions) -> Option<String> {
    let report = options.report.as_ref()?;
    Some(names::identity(
        &report.namespace,
        &report.peer_relay,
        &report.region,
    ))
}

/// Retries until the address is free, and serves there.
async fn serve_when_free(
    address: SocketAddr,
    probes: Probes,
    problem: watch::Sender<Option<Problem>>,
) -> Result<(), ServerError> {
    loop {
        sleep(RETRY_INTERVAL).await;
        match admin::bind(address, probes.clone()).await {
            Ok(server) => {
                tracing::info!(%address, "metrics and probes are served");
                problem.send_replace(None);
                return server.await.map_err(ServerError::Serve);
            }
            Err(error) if error.is_taken() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn address_taken(address: SocketAddr, node: Option<&str>) -> Problem {
    let host = node.map_or_else(|| "this host".to_owned(), |node| format!("node {node}"));
    let message = format!(
        "TCP port {} of {host}, for metrics and probes, is taken by another process: stop that \
         process or choose another port (--metrics-addr, spec.monitoring.port in a PeerRelay); \
         binding is retried",
        address.port()
    );
    Problem::new(RelayReason::HostPortConflict, message)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::sync::Arc;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::admin::NotReady;
    use crate::{
        config::{RelayConfig, ReportConfig},
        relay::options::Environment,
    };

    const SOON: Duration = Duration::from_secs(30);

    /// Makes options of a relay on node n1, in Kubernetes if `report`, with a metrics port that was
    /// free a moment ago.
    pub(in crate::relay) async fn options(report: bool) -> RelayOptions {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = RelayConfig {
            metrics_addr: Some(free.local_addr().unwrap()),
            ..RelayConfig::default()
        };
        if report {
            config.report = Some(ReportConfig {
                peer_relay: "edge".into(),
                region: "office".into(),
                namespace: "relays".into(),
            });
        }
        let environment = Environment {
            node_name: Some("n1".into()),
            ..Environment::default()
        };
        RelayOptions::new(config, environment).unwrap()
    }

    fn answers() -> (Render, Ready) {
        let metrics: Render = Arc::new(|| Box::pin(async { String::new() }));
        (
            metrics,
            Arc::new(|| Err(NotReady("the relay is off".to_owned()))),
        )
    }

    /// Sends a probe for the relay with this identity, and returns the status of the answer.
    pub(in crate::relay) async fn ask(address: SocketAddr, path: &str, identity: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}: {identity}\r\n\r\n",
            names::IDENTITY_HEADER
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_relay_in_kubernetes_answers_no_probe_for_another_one() {
        let options = options(true).await;
        let mut supervisor = Supervisor::new().unwrap();
        serve(
            &mut supervisor,
            &options,
            answers(),
            watch::Sender::default(),
        )
        .await
        .unwrap();
        let address = options.metrics_addr;
        for (path, own, other) in [("/healthz", "200", "421"), ("/readyz", "503", "421")] {
            assert_eq!(ask(address, path, "relays/edge/office").await, own);
            assert_eq!(ask(address, path, "relays/other/office").await, other);
        }
    }

    #[tokio::test]
    async fn a_port_that_another_process_has_is_reported_until_it_is_free() {
        let options = options(false).await;
        let address = options.metrics_addr;
        let holder = TcpListener::bind(address).await.unwrap();
        let (problem, mut changes) = watch::channel(None);
        let mut supervisor = Supervisor::new().unwrap();
        serve(&mut supervisor, &options, answers(), problem)
            .await
            .unwrap();
        let reported = changes.wait_for(Option::is_some);
        let problem = timeout(SOON, reported).await.unwrap().unwrap().clone();
        let problem = problem.unwrap();
        assert_eq!(problem.reason, RelayReason::HostPortConflict);
        let port = format!("TCP port {} of node n1", address.port());
        assert!(problem.message.contains(&port), "{}", problem.message);
        drop(holder);
        let free = changes.wait_for(Option::is_none);
        timeout(SOON, free).await.unwrap().unwrap();
        assert_eq!(ask(address, "/healthz", "anybody").await, "200");
    }
}
