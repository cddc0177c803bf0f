//! A client with a socket, as little of one as a relay notices.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use crypto_box::{PublicKey, SalsaBox, SecretKey};
use relay_proto::{
    DiscoPublic, NodeKey, Peer, Vni,
    disco::{BindCommon, Frame, Generation, Message, seal},
    geneve::{HEADER_LEN, Header, PROTOCOL_DISCO, PROTOCOL_WIREGUARD},
};

use crate::relay::socket::{self, Outgoing, Payload, SendBatch};

/// Longest wait for what must come, and the wait for what must not.
const PATIENCE: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_millis(100);

pub(super) struct Client {
    pub(super) key: DiscoPublic,
    secret: [u8; 32],
    number: u8,
    socket: UdpSocket,
}

impl Client {
    pub(super) fn new(number: u8, ip: IpAddr) -> Self {
        let mut secret = [0x40; 32];
        secret[1] = number;
        let key = DiscoPublic(SecretKey::from(secret).public_key().to_bytes());
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            key,
            secret,
            number,
            socket,
        }
    }

    pub(super) fn peer(&self) -> Peer {
        Peer {
            node_key: NodeKey([self.number; 32]),
            disco: Some(self.key),
            may_relay: true,
            unsigned_peer_api_only: false,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    pub(super) fn request(&self, other: DiscoPublic) -> Vec<u8> {
        let clients = [self.key, other];
        let request = Message::AllocateRequest {
            clients,
            generation: Generation(1),
        };
        self.seal(super::node_key(), &request)
    }

    pub(super) fn read_response(&self, sender: DiscoPublic, frame: &[u8]) -> Vni {
        match self.open(sender, frame) {
            Message::AllocateResponse { endpoint, .. } => Vni::new(endpoint.vni).unwrap(),
            other => panic!("no response: {other:?}"),
        }
    }

    /// Both steps of the handshake, over the wire.
    pub(super) fn bind(
        &self,
        relay: SocketAddr,
        server: DiscoPublic,
        vni: Vni,
        other: DiscoPublic,
    ) {
        self.bind_again(relay, server, vni, other, 1);
    }

    /// The same as the client's handshake number `generation`.
    pub(super) fn bind_again(
        &self,
        relay: SocketAddr,
        server: DiscoPublic,
        vni: Vni,
        other: DiscoPublic,
        generation: u32,
    ) {
        let common = BindCommon::first(vni.number(), generation, other);
        self.send(relay, &self.control(server, vni, &Message::Bind(common)));
        let reply = self.receive();
        let Message::Challenge(challenge) = self.open(server, &reply[HEADER_LEN..]) else {
            panic!("no challenge");
        };
        let answer = BindCommon {
            challenge: challenge.challenge,
            ..common
        };
        self.send(relay, &self.control(server, vni, &Message::Answer(answer)));
    }

    /// What a handshake begins with.
    pub(super) fn first_of_handshake(
        &self,
        server: DiscoPublic,
        vni: Vni,
        other: DiscoPublic,
        generation: u32,
    ) -> Vec<u8> {
        let bind = Message::Bind(BindCommon::first(vni.number(), generation, other));
        self.control(server, vni, &bind)
    }

    pub(super) fn data(&self, vni: Vni, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            control: false,
            protocol: PROTOCOL_WIREGUARD,
            vni,
        };
        [&header.encode()[..], payload].concat()
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

    fn control(&self, server: DiscoPublic, vni: Vni, message: &Message) -> Vec<u8> {
        let header = Header {
            control: true,
            protocol: PROTOCOL_DISCO,
            vni,
        };
        [&header.encode()[..], &self.seal(server, message)].concat()
    }

    fn seal(&self, to: DiscoPublic, message: &Message) -> Vec<u8> {
        seal(&self.shared(to), self.key, [9; 24], &message.marshal())
    }

    fn open(&self, from: DiscoPublic, frame: &[u8]) -> Message {
        Frame::parse(frame)
            .unwrap()
            .open(&self.shared(from))
            .expect("sealed for this client")
    }

    fn shared(&self, other: DiscoPublic) -> SalsaBox {
        SalsaBox::new(&PublicKey::from(other.0), &SecretKey::from(self.secret))
    }
}
