//! Task that keeps the advertised addresses current.

use std::{convert::Infallible, net::SocketAddr};

use tokio::sync::watch;

use super::{Advertised, Found, StunServer, advertised, cloud, interfaces, names, stun, withhold};
use crate::{
    config::peers::ProbePeer,
    relay::{
        reload::DynamicConfig,
        socket_path::{PortState, SocketPathHandle},
        watch_ext::SendIfChanged,
    },
};

/// UDP port, and the addresses that were chosen for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointState {
    /// UDP port of the relay, bound or not.
    pub port: PortState,
    /// Addresses of the relay, in the order in which allocations advertise them.
    pub advertised: Vec<Advertised>,
}

impl EndpointState {
    /// The addresses that clients are told.
    pub fn told(&self) -> impl Iterator<Item = SocketAddr> {
        let told = self.advertised.iter().filter(|it| !it.is_withheld);
        told.map(|it| it.address)
    }
}

/// Finds the addresses of the relay, has the socket path advertise them, and publishes them.
pub struct EndpointPublisher {
    /// Configuration, of which the endpoints are used.
    pub dynamic_config: watch::Receiver<DynamicConfig>,
    /// Name of the Kubernetes node.
    pub node: Option<String>,
    /// Name of the relay's RelayNode.
    pub relay: Option<String>,
    /// Handle of the socket path, which advertises the addresses.
    pub socket_path: SocketPathHandle,
    /// STUN servers of the DERP map.
    pub stun_servers: watch::Receiver<Vec<StunServer>>,
    /// Receiver of the result.
    pub state: watch::Sender<EndpointState>,
}

/// Error that ends the task: a part that it reads from has ended.
#[derive(Debug, thiserror::Error)]
pub enum PublisherError {
    /// No task writes the configuration any more.
    #[error("the configuration has ended")]
    Configuration,
    /// No task binds the port any more.
    #[error("the data path has ended")]
    DataPath,
    /// No source discovers addresses any more.
    #[error("no source of addresses is left")]
    Sources,
}

impl EndpointPublisher {
    /// Runs until a channel closes.
    ///
    /// # Errors
    /// The data path or the configuration has ended.
    pub async fn run(self) -> Result<Infallible, PublisherError> {
        let (found, changes) = watch::channel(Found::default());
        let names = names::follow(
            self.dynamic_config.clone(),
            self.node.clone(),
            found.clone(),
        );
        let stun = stun::follow(
            self.socket_path.clone(),
            self.dynamic_config.clone(),
            self.stun_servers.clone(),
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
            () = stun => Err(PublisherError::Configuration),
            () = cloud => Err(PublisherError::Configuration),
            () = names => Err(PublisherError::Configuration),
            ended = self.publish(changes) => ended,
        }
    }

    async fn publish(
        mut self,
        mut found: watch::Receiver<Found>,
    ) -> Result<Infallible, PublisherError> {
        let mut port = self.socket_path.port();
        loop {
            let next = {
                let port = port.borrow_and_update().clone();
                let config = self.dynamic_config.borrow_and_update();
                let found = found.borrow_and_update();
                let mut advertised = port.bound().map_or_else(Vec::new, |number| {
                    advertised(&config.endpoints, self.node.as_deref(), &found, number)
                });
                let is_own = |peer: &&ProbePeer| Some(&peer.relay) == self.relay.as_ref();
                if let Some(own) = config.peers.iter().find(is_own) {
                    withhold(&mut advertised, &own.withheld);
                }
                EndpointState { port, advertised }
            };
            self.apply(&next);
            self.state.send_if_changed(next);
            tokio::select! {
                changed = port.changed() => changed.map_err(|_| PublisherError::DataPath)?,
                changed = self.dynamic_config.changed() => {
                    changed.map_err(|_| PublisherError::Configuration)?;
                }
                changed = found.changed() => changed.map_err(|_| PublisherError::Sources)?,
            }
        }
    }

    fn apply(&self, next: &EndpointState) {
        let previous = self.state.borrow();
        if next.advertised != previous.advertised {
            let addresses: Vec<SocketAddr> = next.told().collect();
            tracing::info!(?addresses, "advertised addresses");
            self.socket_path.set_addresses(addresses);
        }
        if next.port != previous.port
            && let Some(error) = next.port.problem()
        {
            tracing::warn!(%error, "UDP port not bound");
        }
    }
}
