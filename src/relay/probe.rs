//! Endpoints are proven: each relay tries the addresses of the other relays of its PeerRelay with a
//! real bind handshake, over real UDP, to a synthetic endpoint that forwards nothing.
//!
//! Relays know each other's probe keys from their RelayNodes, by way of the operator and of the
//! ConfigMap: through the API server, not through the tailnet, in which relays mostly do not see
//! each other. Who has no such key gets no reply. `docs/decisions/0006-proven-endpoints.md`.

mod attempt;
mod responder;
mod schedule;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use relay_proto::{DiscoPublic, DiscoSecret};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use self::{
    attempt::{Attempt, AttemptResult},
    responder::Responder,
    schedule::{Schedule, Target},
};
use super::{
    reload::DynamicConfig,
    socket_path::{SocketPathHandle, UnmatchedDatagram},
    watch_ext::SendIfChanged,
};
use crate::config::peers::{ProbePeer, decode_key};

/// Attempts at the same time.
const CONCURRENCY: usize = 4;

/// Result of probing one address of another relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Name of the other's RelayNode.
    pub relay: String,
    /// Address that was probed.
    pub address: SocketAddr,
    /// The handshake was completed.
    pub reachable: bool,
    /// Time from a bind to its challenge.
    pub round_trip: Option<Duration>,
    /// Time of the last attempt.
    pub time: Timestamp,
}

impl Probe {
    /// The part whose changes are reported at once.
    pub fn verdict(&self) -> (&str, SocketAddr, bool) {
        (&self.relay, self.address, self.reachable)
    }
}

/// Probes between this relay and others of its PeerRelay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbeState {
    /// Public half of this relay's key for probes.
    pub key: Option<[u8; 32]>,
    /// Results of the probes that this relay sent.
    pub results: Vec<Probe>,
}

/// Error that ends probing.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No task writes the configuration any more.
    #[error("the configuration has ended")]
    Configuration,
    /// An attempt panicked.
    #[error("a probe failed")]
    Attempt(#[from] JoinError),
}

/// Answers the probes of other relays, and makes its own.
pub struct Probing {
    secret: DiscoSecret,
    own: String,
    socket_path: SocketPathHandle,
    dynamic_config: watch::Receiver<DynamicConfig>,
    state: watch::Sender<ProbeState>,
}

impl Probing {
    /// Probes for the relay whose RelayNode has the name `own`. The key is new with each start;
    /// `state` gets its public half.
    pub fn new(
        own: String,
        socket_path: SocketPathHandle,
        dynamic_config: watch::Receiver<DynamicConfig>,
        state: watch::Sender<ProbeState>,
    ) -> Self {
        let secret = DiscoSecret::from_bytes(rand::random());
        let public = secret.public();
        state.send_modify(|state| state.key = Some(public.0));
        Self {
            secret,
            own,
            socket_path,
            dynamic_config,
            state,
        }
    }

    /// Runs for as long as the relay.
    ///
    /// # Errors
    /// The configuration has ended.
    pub async fn run(self) -> Result<Infallible, ProbeError> {
        let unmatched = self.socket_path.demux().probes();
        let responder = Responder::new(self.secret.clone());
        tokio::try_join!(
            answer(
                responder,
                unmatched,
                self.dynamic_config.clone(),
                self.socket_path.clone()
            ),
            self.make(),
        )
        .map(|(never, _)| never)
    }

    async fn make(&self) -> Result<Infallible, ProbeError> {
        let mut dynamic_config = self.dynamic_config.clone();
        let mut schedule = Schedule::new(&self.own);
        let mut running: JoinSet<(Target, AttemptResult)> = JoinSet::new();
        let attempts = Arc::new(Attempt::new(self.secret.clone()));
        loop {
            schedule.update(
                &dynamic_config.borrow_and_update().peers,
                Instant::now(),
                jitter,
            );
            self.publish(&schedule);
            while running.len() < CONCURRENCY
                && let Some(target) = schedule.take_due(Instant::now())
            {
                let attempts = attempts.clone();
                running.spawn(async move {
                    let outcome = attempts.run(target.key, target.address).await;
                    (target, outcome)
                });
            }
            let next = match (running.len() < CONCURRENCY, schedule.next_due()) {
                (true, Some(due)) => due,
                // Any time will do: a result or a new configuration ends the wait.
                _ => Instant::now() + Duration::from_secs(3_600),
            };
            tokio::select! {
                () = sleep_until(next) => {}
                changed = dynamic_config.changed() => changed.map_err(|_| ProbeError::Configuration)?,
                Some(ended) = running.join_next() => {
                    let (target, outcome) = ended?;
                    schedule.record(&target, outcome, Instant::now(), Timestamp::now(), jitter);
                }
            }
        }
    }

    fn publish(&self, schedule: &Schedule) {
        let probes = schedule.results();
        self.state
            .send_field_if_changed(|state| &mut state.results, probes);
    }
}

async fn answer(
    mut responder: Responder,
    mut unmatched: mpsc::Receiver<UnmatchedDatagram>,
    mut dynamic_config: watch::Receiver<DynamicConfig>,
    socket_path: SocketPathHandle,
) -> Result<Infallible, ProbeError> {
    loop {
        responder.set_peers(keys(&dynamic_config.borrow_and_update().peers));
        loop {
            tokio::select! {
                changed = dynamic_config.changed() => {
                    changed.map_err(|_| ProbeError::Configuration)?;
                    break;
                }
                Some(datagram) = unmatched.recv() => {
                    let random = (rand::random(), rand::random());
                    let reply = responder.handle(datagram.source, &datagram.datagram, random);
                    if let Some(reply) = reply {
                        socket_path.send(datagram.source, datagram.local, reply);
                    }
                }
            }
        }
    }
}

fn keys(peers: &[ProbePeer]) -> impl Iterator<Item = DiscoPublic> {
    peers
        .iter()
        .filter_map(|peer| decode_key(&peer.key).map(DiscoPublic))
}

/// A factor between 0.8 and 1.2, so that relays that start together do not probe together for ever.
fn jitter() -> f64 {
    use rand::Rng;
    rand::rng().random_range(0.8..1.2)
}

#[cfg(test)]
mod tests;
