//! One connection to a DERP server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use relay_proto::NodeKey;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use ts_derp::{
    Client as DerpClient,
    frame::{NotePreferred, Ping},
};
use ts_http_util::{Client as _, EmptyBody, Http1, Upgraded, do_upgrade, http1, make_upgrade_req};
use ts_keys::{NodeKeyPair, NodePublicKey};
use url::Url;

use super::Timing;
use crate::{
    dial::{DialError, Dialer, ExpectedCertificate},
    relay::tailnet::wire::{DerpMap, DerpNode},
};

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
    #[error("failed to get an answer from DERP server {host} within {} s", .within.as_secs())]
    Silent { host: String, within: Duration },
    #[error(
        "failed to use DERP server {host}: its CertName in the DERP map must be a name, or \
         sha256-raw: and 64 hex digits"
    )]
    CertName { host: String },
    #[error("lost the connection to the DERP server")]
    Lost,
    #[error("lost the connection to the DERP server: nothing came from it for {} s", .0.as_secs())]
    Stalled(Duration),
}

/// A packet of DERP and its sender.
pub(super) type Received = (NodeKey, Vec<u8>);

/// A connection whose server has answered a ping.
pub(super) struct Connection {
    client: DerpClient<Upgraded>,
    /// Packet that came before the answer.
    early: Option<Received>,
}

/// The sending half of a connection.
pub(super) struct Sender {
    client: Arc<DerpClient<Upgraded>>,
    limit: Duration,
}

/// The receiving half of a connection. A task of its own reads, because the reader answers pings
/// and must not be cut off in the middle of that. Another task pings.
pub(super) struct Receiver {
    packets: mpsc::Receiver<Received>,
    tasks: JoinSet<DerpError>,
}

impl Connection {
    /// Connects to the first server of `region` that answers.
    pub(super) async fn open(
        dialer: &Dialer,
        node: &NodeKeyPair,
        region: u32,
        map: &DerpMap,
        limit: Duration,
    ) -> Result<Self, DerpError> {
        let mut failed = DerpError::UnknownRegion(region);
        for server in servers(map, region) {
            let silent = || DerpError::Silent {
                host: server.host_name.clone(),
                within: limit,
            };
            let opened = timeout(limit, connect(dialer, node, server)).await;
            match opened.unwrap_or_else(|_| Err(silent())) {
                Ok(connection) => return Ok(connection),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Tells the server that this is the home region.
    pub(super) async fn send_home(&self, limit: Duration) -> Result<(), DerpError> {
        let note = NotePreferred { is_home: 1 };
        let sent = timeout(limit, self.client.send_frame(&note)).await;
        sent.ok().and_then(Result::ok).ok_or(DerpError::Lost)
    }

    /// Splits the connection into its two directions.
    pub(super) fn split(self, timing: &Timing) -> (Sender, Receiver) {
        let client = Arc::new(self.client);
        let (queue, packets) = mpsc::channel(QUEUE_LEN);
        let mut tasks = JoinSet::new();
        tasks.spawn(read(client.clone(), self.early, queue, timing.silence));
        tasks.spawn(keep_pinging(client.clone(), timing.ping, timing.open));
        let limit = timing.open;
        (Sender { client, limit }, Receiver { packets, tasks })
    }
}

impl Sender {
    pub(super) async fn send(&self, to: NodeKey, packet: &[u8]) -> Result<(), DerpError> {
        let to = NodePublicKey::from_bytes(to.0);
        let sent = timeout(self.limit, self.client.send_one(to, packet)).await;
        sent.ok().and_then(Result::ok).ok_or(DerpError::Lost)
    }
}

impl Receiver {
    /// Returns the next packet and its sender.
    ///
    /// # Errors
    /// The connection is lost, or its server sends nothing any more.
    pub(super) async fn next(&mut self) -> Result<Received, DerpError> {
        tokio::select! {
            biased;
            Some(packet) = self.packets.recv() => Ok(packet),
            ended = self.tasks.join_next() => Err(match ended {
                Some(Ok(error)) => error,
                // A frame that the DERP library cannot read ends its task.
                Some(Err(_)) | None => DerpError::Lost,
            }),
        }
    }
}

/// Returns the servers of a region that do more than STUN.
pub(super) fn servers(map: &DerpMap, region: u32) -> impl Iterator<Item = &DerpNode> {
    let region = map.regions.get(&region).and_then(Option::as_ref);
    region
        .into_iter()
        .flat_map(|region| &region.nodes)
        .filter(|node| !node.stun_only)
}

/// Returns the addresses that the map has for a server. They are empty if its name must be resolved.
pub(super) fn addresses(server: &DerpNode) -> Vec<SocketAddr> {
    let ips = [&server.ipv4, &server.ipv6]
        .into_iter()
        .filter_map(|ip| ip.parse().ok());
    ips.map(|ip| SocketAddr::new(ip, port(server))).collect()
}

/// Returns the TCP port of a server.
pub(super) const fn port(server: &DerpNode) -> u16 {
    match server.derp_port {
        0 => DEFAULT_PORT,
        port => port,
    }
}

/// Returns the certificate that a server must show. `None` if its `CertName` cannot be read.
fn certificate(server: &DerpNode) -> Option<ExpectedCertificate> {
    match ExpectedCertificate::from_cert_name(&server.cert_name)? {
        // Control says so, which Noise has authenticated. What DERP carries for a relay is sealed end to end.
        // A `CertName` is checked nevertheless, as by `derphttp.Client.tlsClient` of Tailscale.
        ExpectedCertificate::OfHost if server.insecure_for_tests => Some(ExpectedCertificate::Any),
        expected => Some(expected),
    }
}

async fn connect(
    dialer: &Dialer,
    node: &NodeKeyPair,
    server: &DerpNode,
) -> Result<Connection, DerpError> {
    let host = &server.host_name;
    let dial = |source| DerpError::Dial {
        host: host.clone(),
        source: Arc::new(source),
    };
    let expected = certificate(server);
    let expected = expected.ok_or_else(|| DerpError::CertName { host: host.clone() })?;
    let stream = dialer
        .tls(host, &expected, &addresses(server), port(server))
        .await
        .map_err(dial)?;
    let handshake = async {
        let url = Url::parse(&format!("https://{host}/derp")).ok()?;
        let http: Http1<EmptyBody> = http1::connect(stream).await.ok()?;
        let response = http
            .send(make_upgrade_req(&url, "DERP", None).ok()?)
            .await
            .ok()?;
        let upgraded = do_upgrade(response).await.ok()?;
        DerpClient::handshake(upgraded, node).await.ok()
    };
    let client = handshake.await;
    let client = client.ok_or_else(|| DerpError::Handshake { host: host.clone() })?;
    // A server can shake hands and forward nothing. One that answers works.
    ping(&client).await.map_err(|_| DerpError::Lost)?;
    let early = match client.recv_one().await {
        Ok((from, packet)) => Some(received(&from, packet.as_ref())),
        Err(ts_derp::Error::UnexpectedRecvFrameType(_)) => None,
        Err(_) => return Err(DerpError::Lost),
    };
    Ok(Connection { client, early })
}

fn received(from: &NodePublicKey, packet: &[u8]) -> Received {
    (NodeKey(from.to_x25519_dalek().to_bytes()), packet.to_vec())
}

async fn ping(client: &DerpClient<Upgraded>) -> Result<(), ts_derp::Error> {
    let payload = rand::random();
    client.send_frame(&Ping { payload }).await
}

/// Pings until that is not possible any more.
async fn keep_pinging(
    client: Arc<DerpClient<Upgraded>>,
    interval: Duration,
    limit: Duration,
) -> DerpError {
    loop {
        sleep(interval).await;
        let sent = timeout(limit, ping(&client)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return DerpError::Lost;
        }
    }
}

/// Reads packets until the connection ends, or neither a packet nor an answer to a ping has come for
/// `silence`. Keep-alives do not count: they show that the server sends, and not that it receives.
async fn read(
    client: Arc<DerpClient<Upgraded>>,
    early: Option<Received>,
    queue: mpsc::Sender<Received>,
    silence: Duration,
) -> DerpError {
    if let Some(packet) = early
        && queue.send(packet).await.is_err()
    {
        return DerpError::Lost;
    }
    loop {
        let Ok(next) = timeout(silence, client.recv_one()).await else {
            return DerpError::Stalled(silence);
        };
        match next {
            Ok((from, packet)) => {
                if queue.send(received(&from, packet.as_ref())).await.is_err() {
                    return DerpError::Lost;
                }
            }
            // Answers to pings, and frames that are of no use here, such as health.
            Err(ts_derp::Error::UnexpectedRecvFrameType(frame)) => {
                tracing::trace!(%frame, "DERP frame skipped");
            }
            Err(error) => {
                tracing::debug!(%error, "DERP connection ended");
                return DerpError::Lost;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn cert_name_is_checked_although_the_server_is_for_tests() {
        let expected = |cert_name: &str, insecure: bool| {
            let server = json!({"CertName": cert_name, "InsecureForTests": insecure});
            certificate(&serde_json::from_value(server).unwrap())
        };
        let checksum = format!("sha256-raw:{}", "0a".repeat(32));
        for insecure in [false, true] {
            let pinned = Some(ExpectedCertificate::Sha256([10; 32]));
            assert_eq!(expected(&checksum, insecure), pinned);
            let named = Some(ExpectedCertificate::Named("cert.test".into()));
            assert_eq!(expected("cert.test", insecure), named);
            assert_eq!(expected("sha256-raw:0a", insecure), None);
        }
        assert_eq!(expected("", true), Some(ExpectedCertificate::Any));
        assert_eq!(expected("", false), Some(ExpectedCertificate::OfHost));
    }
}
