//! One connection to a DERP server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use relay_proto::NodeKey;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use ts_derp::{Client as DerpClient, frame::NotePreferred};
use ts_http_util::{Client as _, EmptyBody, Http1, Upgraded, do_upgrade, http1, make_upgrade_req};
use ts_keys::{NodeKeyPair, NodePublicKey};
use url::Url;

use crate::{
    dial::{DialError, Dialer},
    relay::tailnet::wire::{DerpMap, DerpNode},
};

/// Longest time for the upgrade and handshake, and for sending a packet.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Packets that wait to be handled.
const QUEUE_LEN: usize = 256;
/// TCP port of DERP unless the map says otherwise.
const DEFAULT_PORT: u16 = 443;

/// Error of a connection to a DERP server.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum DerpError {
    #[error(
        "failed to reach any DERP region: allow TCP from this node to the DERP servers, mostly port 443"
    )]
    NoRegion,
    #[error("failed to find DERP region {0} in the DERP map")]
    UnknownRegion(u32),
    #[error("failed to connect to DERP server {host}: {source}")]
    Dial {
        host: String,
        source: Arc<DialError>,
    },
    #[error("failed to speak DERP with {host}: it must be a DERP server")]
    Handshake { host: String },
    #[error("lost the connection to the DERP server")]
    Lost,
}

/// A connection that has just been opened.
pub(super) struct Connection {
    client: DerpClient<Upgraded>,
}

/// The sending half of a connection.
pub(super) struct Sender(Arc<DerpClient<Upgraded>>);

/// The receiving half of a connection. A task of its own reads, because the reader answers pings
/// and must not be cut off in the middle of that.
pub(super) struct Receiver {
    packets: mpsc::Receiver<(NodeKey, Vec<u8>)>,
    _task: JoinSet<()>,
}

impl Connection {
    /// Connects to the first server of `region` that answers.
    pub(super) async fn open(
        dialer: &Dialer,
        node: &NodeKeyPair,
        region: u32,
        map: &DerpMap,
    ) -> Result<Self, DerpError> {
        let mut failed = DerpError::UnknownRegion(region);
        for server in servers(map, region) {
            match connect(dialer, node, server).await {
                Ok(client) => return Ok(Self { client }),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Tells the server that this is the home region.
    pub(super) async fn send_home(&self) -> Result<(), DerpError> {
        let note = NotePreferred { is_home: 1 };
        let sent = timeout(TIMEOUT, self.client.send_frame(&note)).await;
        sent.ok().and_then(Result::ok).ok_or(DerpError::Lost)
    }

    /// Splits the connection into its two directions.
    pub(super) fn split(self) -> (Sender, Receiver) {
        let client = Arc::new(self.client);
        let (queue, packets) = mpsc::channel(QUEUE_LEN);
        let mut task = JoinSet::new();
        task.spawn(read(client.clone(), queue));
        (
            Sender(client),
            Receiver {
                packets,
                _task: task,
            },
        )
    }
}

impl Sender {
    pub(super) async fn send(&self, to: NodeKey, packet: &[u8]) -> Result<(), DerpError> {
        let to = NodePublicKey::from_bytes(to.0);
        let sent = timeout(TIMEOUT, self.0.send_one(to, packet)).await;
        sent.ok().and_then(Result::ok).ok_or(DerpError::Lost)
    }
}

impl Receiver {
    /// The next packet and its sender; `None` when the connection is lost.
    pub(super) async fn next(&mut self) -> Option<(NodeKey, Vec<u8>)> {
        self.packets.recv().await
    }

    pub(super) const fn error(&self) -> DerpError {
        DerpError::Lost
    }
}

/// Servers of a region that do more than STUN.
pub(super) fn servers(map: &DerpMap, region: u32) -> impl Iterator<Item = &DerpNode> {
    let region = map.regions.get(&region).and_then(Option::as_ref);
    region
        .into_iter()
        .flat_map(|region| &region.nodes)
        .filter(|node| !node.stun_only)
}

/// Addresses that the map names for a server; empty when its name must be resolved.
pub(super) fn addresses(server: &DerpNode) -> Vec<SocketAddr> {
    let ips = [&server.ipv4, &server.ipv6]
        .into_iter()
        .filter_map(|ip| ip.parse().ok());
    ips.map(|ip| SocketAddr::new(ip, port(server))).collect()
}

/// TCP port of a server.
pub(super) const fn port(server: &DerpNode) -> u16 {
    match server.derp_port {
        0 => DEFAULT_PORT,
        port => port,
    }
}

async fn connect(
    dialer: &Dialer,
    node: &NodeKeyPair,
    server: &DerpNode,
) -> Result<DerpClient<Upgraded>, DerpError> {
    let host = &server.host_name;
    let name = if server.cert_name.is_empty() {
        host
    } else {
        &server.cert_name
    };
    let dial = |source| DerpError::Dial {
        host: host.clone(),
        source: Arc::new(source),
    };
    let stream = dialer
        .tls(name, &addresses(server), port(server))
        .await
        .map_err(dial)?;
    let handshake = async {
        let url = Url::parse(&format!("https://{host}/derp")).ok()?;
        let http: Http1<EmptyBody> = http1::connect(stream).await.ok()?;
        let response = http
            .send(make_upgrade_req(&url, "DERP", None).ok()?)
            .await
            .ok()?;
        DerpClient::handshake(do_upgrade(response).await.ok()?, node)
            .await
            .ok()
    };
    let client = timeout(TIMEOUT, handshake).await.ok().flatten();
    client.ok_or_else(|| DerpError::Handshake { host: host.clone() })
}

async fn read(client: Arc<DerpClient<Upgraded>>, queue: mpsc::Sender<(NodeKey, Vec<u8>)>) {
    loop {
        match client.recv_one().await {
            Ok((from, packet)) => {
                let packet = (
                    NodeKey(from.to_x25519_dalek().to_bytes()),
                    packet.as_ref().to_vec(),
                );
                if queue.send(packet).await.is_err() {
                    return;
                }
            }
            // Frames that are of no use here, such as health.
            Err(ts_derp::Error::UnexpectedRecvFrameType(frame)) => {
                tracing::debug!(%frame, "DERP frame skipped");
            }
            Err(error) => {
                tracing::debug!(%error, "DERP connection ended");
                return;
            }
        }
    }
}
