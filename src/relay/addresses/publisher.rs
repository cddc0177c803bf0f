//! Keeps what is advertised current.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use anyhow::Context;
use tokio::{sync::watch, time::sleep};

use super::{Found, advertised, cloud, interfaces, names, stun};
use crate::relay::{
    reload::DynamicConfig,
    socket_path::{PortProblem, PortState, SocketPathHandle},
    state::{Problem, Reason, RelayState},
};

/// How often sessions are looked at.
const TICK: Duration = Duration::from_secs(10);

/// Runs the sources, and tells the data path and the state what comes of them.
pub struct EndpointPublisher {
    /// What is asked for.
    pub dynamic_config: watch::Receiver<DynamicConfig>,
    /// Name of the Kubernetes node.
    pub node: Option<String>,
    /// The data path.
    pub socket_path: SocketPathHandle,
    /// What is shown.
    pub state: watch::Sender<RelayState>,
}

impl EndpointPublisher {
    /// Runs for as long as the relay.
    ///
    /// # Errors
    /// The data path or the configuration has ended.
    pub async fn run(self) -> anyhow::Result<Infallible> {
        let (found, changes) = watch::channel(Found::default());
        let names = names::follow(
            self.dynamic_config.clone(),
            self.node.clone(),
            found.clone(),
        );
        let stun = stun::follow(
            self.socket_path.clone(),
            self.dynamic_config.clone(),
            self.state.subscribe(),
            found.clone(),
        );
        let cloud = cloud::follow(
            cloud::FIRMWARE.into(),
            self.dynamic_config.clone(),
            found.clone(),
        );
        interfaces::refresh(&found).await;
        let interfaces = interfaces::follow(found);
        tokio::select! {
            never = interfaces => match never {},
            () = stun => anyhow::bail!("the configuration has ended"),
            () = cloud => anyhow::bail!("the configuration has ended"),
            () = names => anyhow::bail!("the configuration has ended"),
            ended = self.publish(changes) => ended,
        }
    }

    async fn publish(mut self, mut changes: watch::Receiver<Found>) -> anyhow::Result<Infallible> {
        let mut port = self.socket_path.port();
        loop {
            let sessions = self.socket_path.snapshot().await.sessions;
            let (bound, problem) = match &*port.borrow_and_update() {
                PortState::Binding => (None, None),
                PortState::Bound(port) => (Some(*port), None),
                PortState::Failed(problem) => (None, Some(port_problem(problem))),
            };
            let endpoints = {
                let (dynamic_config, found) = (
                    self.dynamic_config.borrow_and_update(),
                    changes.borrow_and_update(),
                );
                let node = self.node.as_deref();
                bound.map_or_else(Vec::new, |port| {
                    advertised(&dynamic_config.endpoints, node, &found, port)
                })
            };
            self.state.send_if_modified(|state| {
                let before = state.clone();
                if endpoints != before.endpoints {
                    let addresses: Vec<SocketAddr> = endpoints.iter().map(|e| e.address).collect();
                    tracing::info!(?addresses, "advertised addresses");
                    self.socket_path.set_addresses(addresses);
                }
                if problem != before.port_problem
                    && let Some(problem) = &problem
                {
                    tracing::warn!(error = problem.message, "UDP port not bound");
                }
                let nothing = bound.is_some() && endpoints.is_empty();
                state.endpoint_problem = nothing.then(no_endpoints);
                state.port = bound;
                state.port_problem = problem;
                state.endpoints = endpoints;
                state.sessions = sessions;
                *state != before
            });
            tokio::select! {
                () = sleep(TICK) => {}
                changed = port.changed() => changed.context("the data path has ended")?,
                changed = self.dynamic_config.changed() => changed.context("the configuration has ended")?,
                changed = changes.changed() => changed.context("no source is left")?,
            }
        }
    }
}

fn port_problem(problem: &PortProblem) -> Problem {
    let reason = match problem {
        PortProblem::Taken(_) => Reason::HostPortConflict,
        PortProblem::Other { .. } => Reason::PortUnavailable,
    };
    Problem::new(reason, problem.to_string())
}

fn no_endpoints() -> Problem {
    let message = "there is no address to advertise: name one in endpoints.static (--static-endpoint), \
                   or let endpoints.discover, include and exclude leave one";
    Problem::new(Reason::NoEndpoints, message)
}
