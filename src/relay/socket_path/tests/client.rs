//! A client with a socket.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use relay_proto::{
    DiscoPublic, Peer, Vni,
    client::{self, Handshake},
};

use crate::relay::socket::{self, Outgoing, Payload, SendBatch};

/// The longest wait for a datagram that must come, and the wait for one that must not.
const PATIENCE: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_millis(100);

const NONCE: [u8; 24] = [9; 24];
/// The generation of allocation requests.
const REQUEST: u32 = 1;

pub(super) struct Client {
    pub(super) key: DiscoPublic,
    client: client::Client,
    socket: UdpSocket,
}

impl Client {
    pub(super) fn new(number: u8, ip: IpAddr) -> Self {
        let client = client::Client::numbered(number.into());
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            key: client.key,
            client,
            socket,
        }
    }

    pub(super) fn peer(&self) -> Peer {
        self.client.peer()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    pub(super) fn request(&self, other: DiscoPublic) -> Vec<u8> {
        let node = self.client.channel(super::node_key());
        node.request(NONCE, [self.key, other], REQUEST)
    }

    pub(super) fn read_response(&self, sender: DiscoPublic, frame: &[u8]) -> Vni {
        let endpoint = self.client.channel(sender).allocation(REQUEST, frame);
        endpoint.and_then(|e| Vni::new(e.vni)).unwrap()
    }

    /// Runs the client's first handshake.
    pub(super) fn bind(
        &self,
        relay: SocketAddr,
        server: DiscoPublic,
        vni: Vni,
        other: DiscoPublic,
    ) {
        self.bind_again(relay, server, vni, other, 1);
    }

    /// Runs the client's handshake number `generation`.
    pub(super) fn bind_again(
        &self,
        relay: SocketAddr,
        server: DiscoPublic,
        vni: Vni,
        other: DiscoPublic,
        generation: u32,
    ) {
        let server = self.client.channel(server);
        let handshake = Handshake::new(vni, generation, other);
        self.send(relay, &handshake.bind(&server, NONCE));
        let answer = handshake.answer(&server, NONCE, &self.receive());
        self.send(relay, &answer.expect("the relay replies with a challenge"));
    }

    /// The first datagram of a handshake.
    pub(super) fn first_of_handshake(
        &self,
        server: DiscoPublic,
        vni: Vni,
        other: DiscoPublic,
        generation: u32,
    ) -> Vec<u8> {
        let server = self.client.channel(server);
        Handshake::new(vni, generation, other).bind(&server, NONCE)
    }

    pub(super) fn data(&self, vni: Vni, payload: &[u8]) -> Vec<u8> {
        client::data(vni, payload)
    }

    pub(super) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        self.socket.send_to(datagram, to).unwrap();
    }

    /// Sends datagrams of one length in one go, for the kernel to cut apart.
    pub(super) fn send_segments(&self, to: SocketAddr, datagrams: &[Vec<u8>]) {
        let socket = socket::UdpSocket::from_std(self.socket.try_clone().unwrap()).unwrap();
        let all = datagrams.concat();
        let payload = Payload::Received {
            range: 0..all.len(),
            segment_len: datagrams[0].len(),
        };
        let mut batch = SendBatch::default();
        batch.push(Outgoing {
            to,
            from: None,
            payload,
        });
        assert_eq!(batch.flush(&socket, &all), socket::Sent::default());
        self.socket.set_nonblocking(false).unwrap();
    }

    pub(super) fn receive(&self) -> Vec<u8> {
        self.receive_from().0
    }

    pub(super) fn receive_from(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 65_536];
        let (len, from) = self.socket.recv_from(&mut buffer).unwrap();
        buffer.truncate(len);
        (buffer, from)
    }

    pub(super) fn hears_nothing(&self) -> bool {
        self.socket.set_read_timeout(Some(QUIET)).unwrap();
        self.socket.recv_from(&mut [0; 2_048]).is_err()
    }
}
