//! Sessions of a relay for the administrator of the node, served on a unix socket that no other user
//! reaches. They name clients and addresses, which no metric and no log does.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::State, routing::get};
use relay_proto::{DiscoPublic, SessionCounts, SessionInfo};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::sleep};

use super::{private, socket_path::SocketPathHandle, watch_ext::SendIfChanged};

/// Time between two counts of the sessions.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// Name of the socket in the session directory.
pub const SOCKET: &str = "sessions.sock";
/// Path of the sessions as [`SessionList`].
pub const REPORT: &str = "/sessions";
/// Path of the sessions in the form of a Tailscale relay (LocalAPI of tailscaled 1.102).
pub const LOCAL_API: &str = "/localapi/v0/debug-peer-relay-sessions";

/// Name of a client in the network map.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// Name of the device.
    pub node: String,
    /// Tags of the device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// Looks up the names of clients in the network map, by disco key.
pub type Directory = Arc<dyn Fn(&HashSet<DiscoPublic>) -> HashMap<DiscoPublic, Name> + Send + Sync>;

/// All sessions of a relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionList {
    /// UDP port, once bound.
    pub port: Option<u16>,
    /// Sessions in the order of allocation.
    pub sessions: Vec<ListedSession>,
}

/// A session as it is reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedSession {
    /// Virtual network identifier, which clients show too.
    pub vni: u32,
    /// `open` or `connecting`.
    pub state: String,
    /// Data path that forwards: `kernel` or `socket`.
    pub path: String,
    /// Seconds since the allocation.
    pub age_seconds: u64,
    /// The two clients, in the order of their disco keys.
    pub clients: [ListedClient; 2],
}

/// One client of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedClient {
    /// Start of its disco key, as Tailscale shows it.
    pub disco: String,
    /// Name in the network map, if the client is in there.
    #[serde(flatten)]
    pub name: Option<Name>,
    /// Address from which the client has bound, once it has.
    pub address: Option<String>,
    /// Datagrams received from it.
    pub packets: u64,
    /// Bytes of UDP payload received from it.
    pub bytes: u64,
}

/// `ServerStatus` of tailscaled's LocalAPI.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServerStatus {
    #[serde(rename = "UDPPort")]
    udp_port: Option<u16>,
    sessions: Vec<ServerSession>,
}

#[derive(Debug, Serialize)]
struct ServerSession {
    #[serde(rename = "VNI")]
    vni: u32,
    #[serde(rename = "Client1")]
    client1: ClientInfo,
    #[serde(rename = "Client2")]
    client2: ClientInfo,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ClientInfo {
    /// `IP:PORT`, empty when not bound (Go's zero `netip.AddrPort`).
    endpoint: String,
    short_disco: String,
    packets_tx: u64,
    bytes_tx: u64,
}

type Json = ([(&'static str, &'static str); 1], String);

/// Sources of the server's answers.
#[derive(Clone)]
struct Source {
    socket_path: SocketPathHandle,
    directory: Directory,
}

/// Serves the sessions in `dir`, a private directory; the future serves until it is dropped.
///
/// # Errors
/// The directory is not writable, or its path is too long for a socket (107 bytes).
pub fn serve(
    dir: &Path,
    socket_path: SocketPathHandle,
    directory: Directory,
) -> io::Result<impl Future<Output = io::Result<()>> + Send + use<>> {
    let listener = private::listen(&dir.join(SOCKET))?;
    let routes = Router::new()
        .route(REPORT, get(report))
        .route(LOCAL_API, get(local_api))
        .with_state(Source {
            socket_path,
            directory,
        });
    Ok(async move { axum::serve(listener, routes).await })
}

/// Sockets that `peerrelay sessions` tries by default: in a pod, and on a host.
pub fn usual_sockets() -> Vec<PathBuf> {
    let state = Path::new(crate::config::DEFAULT_STATE_DIR);
    let pod = Path::new(crate::config::POD_SESSION_DIR);
    [pod.to_owned(), state.to_owned(), state.join("identity")]
        .map(|dir| dir.join(SOCKET))
        .into()
}

/// Publishes the number of sessions every ten seconds.
pub(super) async fn count(
    socket_path: SocketPathHandle,
    counts: watch::Sender<SessionCounts>,
) -> Result<Infallible, Infallible> {
    loop {
        counts.send_if_changed(socket_path.snapshot().await.sessions);
        sleep(COUNT_INTERVAL).await;
    }
}

async fn report(State(source): State<Source>) -> Json {
    let (port, sessions) = source.sessions().await;
    let clients = sessions.iter().flat_map(|info| &info.legs);
    let names = (source.directory)(&clients.map(|leg| leg.client).collect());
    let now = source.socket_path.now();
    let client = |leg: relay_proto::LegInfo| ListedClient {
        disco: leg.client.to_string(),
        name: names.get(&leg.client).cloned(),
        address: leg.address.map(|address| address.to_string()),
        packets: leg.packets,
        bytes: leg.bytes,
    };
    let session = |info: SessionInfo| ListedSession {
        vni: info.vni.number(),
        state: if is_open(&info) { "open" } else { "connecting" }.to_owned(),
        path: source.socket_path.path(info.vni).to_owned(),
        age_seconds: now.since(info.allocated).as_secs(),
        clients: info.legs.map(client),
    };
    json(&SessionList {
        port,
        sessions: sessions.into_iter().map(session).collect(),
    })
}

async fn local_api(State(source): State<Source>) -> Json {
    let (udp_port, sessions) = source.sessions().await;
    let client = |leg: relay_proto::LegInfo| ClientInfo {
        endpoint: leg.address.map(|a| a.to_string()).unwrap_or_default(),
        short_disco: leg.client.to_string(),
        packets_tx: leg.packets,
        bytes_tx: leg.bytes,
    };
    let session = |info: SessionInfo| {
        let [client1, client2] = info.legs.map(client);
        ServerSession {
            vni: info.vni.number(),
            client1,
            client2,
        }
    };
    json(&ServerStatus {
        udp_port,
        sessions: sessions.into_iter().map(session).collect(),
    })
}

impl Source {
    async fn sessions(&self) -> (Option<u16>, Vec<SessionInfo>) {
        let port = self.socket_path.port().borrow().bound();
        let mut sessions = self.socket_path.sessions().await;
        sessions.sort_by_key(|session| session.lamport);
        (port, sessions)
    }
}

fn json(value: &impl Serialize) -> Json {
    let text = serde_json::to_string(value).expect("plain data");
    ([("content-type", "application/json")], text)
}

fn is_open(info: &SessionInfo) -> bool {
    info.legs.iter().all(|leg| leg.address.is_some())
}
