//! A DERP server that works, or fails in one of the ways in which servers in the field do.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use crypto_box::{PublicKey, SalsaBox, SecretKey, aead::Aead};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use relay_proto::NodeKey;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// First bytes of a DERP server's key frame (`derp.Magic`).
const MAGIC: &[u8] = "DERP🔑".as_bytes();
const NAME: &str = "derp.test";

const SERVER_KEY: u8 = 1;
const CLIENT_INFO: u8 = 2;
const SERVER_INFO: u8 = 3;
const SEND_PACKET: u8 = 4;
const RECV_PACKET: u8 = 5;
const KEEP_ALIVE: u8 = 6;
const NOTE_PREFERRED: u8 = 7;
const PING: u8 = 0x12;
const PONG: u8 = 0x13;

/// Behaviour of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// It forwards packets and answers pings.
    Works,
    /// It accepts TCP connections and sends nothing.
    AcceptsOnly,
    /// It answers in another protocol than TLS.
    SpeaksNoTls,
    /// It speaks TLS, but answers no HTTP request.
    SilentAfterTls,
    /// It shakes hands and sends keep-alives. It forwards nothing and answers no ping.
    KeepAlivesOnly,
    /// It closes each connection, and accepts none.
    Closed,
}

/// A DERP server on loopback, which ends with this value.
pub(super) struct DerpServer {
    /// Certificate of the authority to trust, as PEM.
    pub(super) authority: String,
    /// Packets that clients sent, with their destinations.
    pub(super) sent: mpsc::UnboundedReceiver<(NodeKey, Vec<u8>)>,
    behaviour: watch::Sender<Behaviour>,
    deliveries: Deliveries,
    connections: watch::Receiver<usize>,
    port: u16,
    _task: JoinSet<()>,
}

type Deliveries = Arc<Mutex<Vec<mpsc::UnboundedSender<(NodeKey, Vec<u8>)>>>>;

/// State that the connections of a server share.
#[derive(Clone)]
struct Shared {
    acceptor: TlsAcceptor,
    behaviour: watch::Receiver<Behaviour>,
    deliveries: Deliveries,
    connections: watch::Sender<usize>,
    sent: mpsc::UnboundedSender<(NodeKey, Vec<u8>)>,
}

impl DerpServer {
    /// Starts a server.
    pub(super) async fn start(behaviour: Behaviour) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (behaviour, current) = watch::channel(behaviour);
        let (connections, count) = watch::channel(0);
        let (sent, received) = mpsc::unbounded_channel();
        let deliveries = Deliveries::default();
        let shared = Shared {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            behaviour: current,
            deliveries: deliveries.clone(),
            connections,
            sent,
        };
        let mut task = JoinSet::new();
        task.spawn(accept(listener, shared));
        Self {
            authority: cert.pem(),
            sent: received,
            behaviour,
            deliveries,
            connections: count,
            port,
            _task: task,
        }
    }

    /// Changes the behaviour, also of open connections.
    pub(super) fn set(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Returns the server as a region of a DERP map.
    pub(super) fn region(&self) -> Value {
        let node = json!({"HostName": NAME, "IPv4": "127.0.0.1", "DERPPort": self.port});
        json!({"Nodes": [node]})
    }

    /// Delivers a packet to all clients that are connected.
    pub(super) fn deliver(&self, from: NodeKey, packet: &[u8]) {
        for connection in &*self.deliveries.lock().unwrap() {
            connection.send((from, packet.to_vec())).ok();
        }
    }

    /// Returns how many connections have been accepted so far.
    pub(super) fn connections(&self) -> usize {
        *self.connections.borrow()
    }
}

/// Returns a DERP map of these regions.
pub(super) fn map(regions: BTreeMap<u32, Value>) -> Arc<super::DerpMap> {
    let regions: BTreeMap<_, _> = regions
        .into_iter()
        .map(|(id, region)| (id.to_string(), region))
        .collect();
    Arc::new(serde_json::from_value(json!({"Regions": regions})).unwrap())
}

async fn accept(listener: TcpListener, shared: Shared) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.send_modify(|count| *count += 1);
        connections.spawn(serve(stream, shared.clone()));
    }
}

async fn serve(mut stream: TcpStream, shared: Shared) -> Option<()> {
    let behaviour = *shared.behaviour.borrow();
    let work = async {
        match behaviour {
            Behaviour::Closed => return None,
            Behaviour::AcceptsOnly => std::future::pending().await,
            Behaviour::SpeaksNoTls => stream.write_all(b"220 mail.test ESMTP\r\n").await.ok()?,
            _ => {
                let stream = shared.acceptor.accept(stream).await.ok()?;
                if behaviour == Behaviour::SilentAfterTls {
                    std::future::pending().await
                }
                speak(stream, &shared).await?;
            }
        }
        Some(())
    };
    let mut closed = shared.behaviour.clone();
    tokio::select! {
        ended = work => ended,
        _ = closed.wait_for(|behaviour| *behaviour == Behaviour::Closed) => None,
    }
}

async fn speak(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) -> Option<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.ok()?);
    }
    let upgraded =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n";
    stream.write_all(upgraded).await.ok()?;
    let key = SecretKey::from([7; 32]);
    let hello = [MAGIC, key.public_key().as_bytes()].concat();
    send(&mut stream, SERVER_KEY, &hello).await?;
    let (kind, info) = receive(&mut stream).await?;
    assert_eq!(kind, CLIENT_INFO);
    let client = PublicKey::from_slice(info.get(..32)?).ok()?;
    let nonce = [8; 24];
    let sealed = SalsaBox::new(&client, &key)
        .encrypt(&nonce.into(), &br#"{"version":2}"#[..])
        .ok()?;
    send(&mut stream, SERVER_INFO, &[&nonce[..], &sealed].concat()).await?;
    let (queue, mut deliveries) = mpsc::unbounded_channel();
    shared.deliveries.lock().unwrap().push(queue);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (read, mut frames) = mpsc::unbounded_channel();
    let reading = async {
        while let Some(frame) = receive(&mut reader).await {
            read.send(frame).ok()?;
        }
        None::<()>
    };
    let answering = async {
        loop {
            let works = *shared.behaviour.borrow() == Behaviour::Works;
            tokio::select! {
                Some((from, packet)) = deliveries.recv() => if works {
                    send(&mut writer, RECV_PACKET, &[&from.0[..], &packet].concat()).await?;
                },
                frame = frames.recv() => match frame? {
                    (PING, body) if works => send(&mut writer, PONG, &body).await?,
                    (PING, _) => send(&mut writer, KEEP_ALIVE, &[]).await?,
                    (SEND_PACKET, body) if works => {
                        let (to, packet) = body.split_at_checked(32)?;
                        let to = NodeKey(to.try_into().ok()?);
                        shared.sent.send((to, packet.to_vec())).ok()?;
                    }
                    (SEND_PACKET | NOTE_PREFERRED, _) => {}
                    (other, _) => panic!("the client sent a frame of type {other}"),
                }
            }
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = answering => ended,
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), kind: u8, body: &[u8]) -> Option<()> {
    let length = u32::try_from(body.len()).ok()?;
    let frame = [&[kind][..], &length.to_be_bytes(), body].concat();
    stream.write_all(&frame).await.ok()?;
    stream.flush().await.ok()
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await.ok()?;
    let mut body = vec![0; usize::try_from(stream.read_u32().await.ok()?).ok()?];
    stream.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}
