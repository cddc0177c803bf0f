//! Keeps what is advertised current.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use anyhow::Context;
use tokio::{sync::watch, time::sleep};

use super::{Found, advertised, cloud, interfaces, names, stun};
use crate::relay::{
    reload::Live,
    shard::{PortProblem, PortState, ShardHandle},
    state::{Problem, Reason, RelayState},
};

/// How often sessions are looked at.
const TICK: Duration = Duration::from_secs(10);

/// Runs the sources, and tells the data path and the state what comes of them.
pub struct Keeper {
    /// What is asked for.
    pub live: watch::Receiver<Live>,
    /// Name of the Kubernetes node.
    pub node: Option<String>,
    /// The data path.
    pub shard: ShardHandle,
    /// What is shown.
    pub state: watch::Sender<RelayState>,
}

impl Keeper {
    /// Runs for as long as the relay.
    ///
    /// # Errors
    /// The data path or the configuration has ended.
    pub async fn run(self) -> anyhow::Result<Infallible> {
        let (found, changes) = watch::channel(Found::default());
        let names = names::follow(self.live.clone(), self.node.clone(), found.clone());
        let stun = stun::follow(
            self.shard.clone(),
            self.live.clone(),
            self.state.subscribe(),
            found.clone(),
        );
        let cloud = cloud::follow(cloud::FIRMWARE.into(), self.live.clone(), found.clone());
        interfaces::look(&found).await;
        let interfaces = interfaces::follow(found);
        tokio::select! {
            never = interfaces => match never {},
            () = stun => anyhow::bail!("the configuration has ended"),
            () = cloud => anyhow::bail!("the configuration has ended"),
            () = names => anyhow::bail!("the configuration has ended"),
            ended = self.keep(changes) => ended,
        }
    }

    async fn keep(mut self, mut changes: watch::Receiver<Found>) -> anyhow::Result<Infallible> {
        let mut port = self.shard.port();
        loop {
            let sessions = self.shard.snapshot().await.sessions;
            let (bound, problem) = match &*port.borrow_and_update() {
                PortState::Binding => (None, None),
                PortState::Bound(port) => (Some(*port), None),
                PortState::Failed(problem) => (None, Some(port_problem(problem))),
            };
            let endpoints = {
                let (live, found) = (self.live.borrow_and_update(), changes.borrow_and_update());
                let node = self.node.as_deref();
                bound.map_or_else(Vec::new, |port| {
                    advertised(&live.endpoints, node, &found, port)
                })
            };
            self.state.send_if_modified(|state| {
                let before = state.clone();
                if endpoints != before.endpoints {
                    let addresses: Vec<SocketAddr> = endpoints.iter().map(|e| e.address).collect();
                    tracing::info!(?addresses, "advertised addresses");
                    self.shard.set_addresses(addresses);
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
                changed = self.live.changed() => changed.context("the configuration has ended")?,
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
