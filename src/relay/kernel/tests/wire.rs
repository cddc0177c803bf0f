//! Real packets: clients, the relay and routers, each in a namespace of its own.

use std::{
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use relay_proto::{Config, Family, Vni};

use super::{
    client::{Client, at, data, keys},
    namespaces,
};
use crate::relay::{
    kernel::{Attachment, KernelOptions, KernelPath, OpenSession, start},
    namespace::Net,
    socket::{self, Outgoing, Payload, SendBatch},
    socket_path::{
        PortState, RestoredState, Snapshot, SocketPathHandle, SocketPathOptions, fixture,
    },
};

pub(super) const PORT: u16 = 40_000;
/// Longest wait for an event that must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Limits for little memory.
pub(super) fn few() -> Config {
    Config {
        max_sessions: 100,
        ..Config::default()
    }
}

/// A relay in a namespace, on both paths.
pub(super) struct Relay {
    pub(super) socket_path: SocketPathHandle,
    pub(super) kernel: KernelPath,
}

impl Relay {
    pub(super) fn start(net: &Net, namespace: &str, addresses: &[&str]) -> Self {
        Self::with(net, namespace, addresses, few(), None)
    }

    pub(super) fn with(
        net: &Net,
        namespace: &str,
        addresses: &[&str],
        config: Config,
        pins: Option<PathBuf>,
    ) -> Self {
        let options = KernelOptions {
            pins,
            ..KernelOptions::new(&config)
        };
        Self::on(net, namespace, addresses, config, options)
    }

    pub(super) fn on(
        net: &Net,
        namespace: &str,
        addresses: &[&str],
        config: Config,
        options: KernelOptions,
    ) -> Self {
        Self::after(net, namespace, addresses, config, options, None)
    }

    /// Starts a relay that goes on with what another one has left.
    pub(super) fn after(
        net: &Net,
        namespace: &str,
        addresses: &[&str],
        config: Config,
        options: KernelOptions,
        restored_state: Option<RestoredState>,
    ) -> Self {
        net.run(namespace, || {
            let kernel = start(options).unwrap();
            let options = SocketPathOptions {
                config,
                keys: keys(),
                seed: [7; 32],
                kernel: Some(kernel.clone()),
                restored_state,
                ..fixture::options(PORT, 2)
            };
            let socket_path = fixture::spawn(options);
            let relay = Self {
                socket_path,
                kernel,
            };
            relay.wait(|relay| *relay.socket_path.port().borrow() == PortState::Bound(PORT));
            relay
                .socket_path
                .set_addresses(addresses.iter().map(|a| at(a)).collect());
            relay.kernel.set_port(Some(PORT));
            relay.wait(|relay| relay.kernel.state().borrow().is_kernel());
            relay
        })
    }

    /// A session between two sockets, which the kernel forwards.
    pub(super) fn open(&self, number: u8, [a, b]: [&Wire; 2]) -> Vni {
        let clients = [Client::new(number), Client::new(number + 1)];
        let [alice, bob] = &clients;
        let response = block_on(
            self.socket_path
                .handle_derp(|| Some(alice.peer()), alice.request(bob)),
        );
        let vni = alice.vni(&response.unwrap());
        self.bind(vni, 1, alice, bob, a);
        self.bind(vni, 1, bob, alice, b);
        self.wait(|relay| {
            relay
                .kernel
                .activity(
                    vni,
                    relay_proto::Timestamp::from_start(Duration::from_secs(60)),
                )
                .is_some()
        });
        vni
    }

    /// Binds a client, anew with a greater generation.
    pub(super) fn bind(
        &self,
        vni: Vni,
        generation: u32,
        client: &Client,
        other: &Client,
        wire: &Wire,
    ) {
        // Data may have come here after the leg had moved away: the kernel follows in its own time.
        while wire.try_receive_now() {}
        let binds = self.snapshot().counters.binds + self.snapshot().counters.rebinds;
        wire.send(&client.bind(vni, generation, other));
        let challenge = wire.receive();
        wire.send(&client.answer(vni, generation, other, &challenge));
        self.wait(|relay| {
            let counters = relay.snapshot().counters;
            counters.binds + counters.rebinds > binds
        });
    }

    /// OpenSession sessions, as the core has them.
    pub(super) fn sessions(&self) -> Vec<OpenSession> {
        let sessions = block_on(self.socket_path.sessions());
        sessions.iter().filter_map(OpenSession::of).collect()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        block_on(self.socket_path.snapshot())
    }

    /// Datagrams forwarded by sockets, and by the kernel.
    pub(super) fn forwarded(&self, family: Family) -> (u64, u64) {
        let snapshot = self.snapshot();
        let sockets = snapshot.counters.forwarded(family, family).packets;
        let kernel = snapshot.kernel.unwrap().forwarded[family as usize].packets;
        (sockets, kernel)
    }

    pub(super) fn wait(&self, done: impl Fn(&Self) -> bool) {
        for _ in 0..1_000 {
            if done(self) {
                return;
            }
            std::thread::sleep(PATIENCE / 1_000);
        }
        panic!("it did not happen: {:?}", self.kernel);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.socket_path.stop();
        self.kernel.stop(None);
    }
}

/// A small kernel path.
pub(super) fn options(attachment: Attachment, pins: Option<PathBuf>) -> KernelOptions {
    KernelOptions {
        pins,
        attachment,
        ..KernelOptions::new(&few())
    }
}

/// A client's socket, and the relay's address that it sends to.
pub(super) struct Wire {
    socket: UdpSocket,
    relay: SocketAddr,
}

impl Wire {
    pub(super) fn new(net: &Net, namespace: &str, own: &str, relay: &str) -> Self {
        let relay: SocketAddr = at(relay);
        net.run(namespace, || {
            let socket = UdpSocket::bind(at(own)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            Self { socket, relay }
        })
    }

    /// The same socket, with another address of the relay.
    pub(super) fn towards(&self, relay: &str) -> Self {
        Self {
            socket: self.socket.try_clone().unwrap(),
            relay: at(relay),
        }
    }

    pub(super) fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.relay).unwrap();
    }

    /// Datagrams of one length, in one packet for as far as it goes.
    pub(super) fn send_segments(&self, datagrams: &[Vec<u8>]) {
        let socket = socket::UdpSocket::from_std(self.socket.try_clone().unwrap()).unwrap();
        let all = datagrams.concat();
        let payload = Payload::Received {
            range: 0..all.len(),
            segment_len: datagrams[0].len(),
        };
        let mut batch = SendBatch::default();
        batch.push(Outgoing {
            to: self.relay,
            from: None,
            payload,
        });
        assert_eq!(batch.flush(&socket, &all), socket::Sent::default());
        self.socket.set_nonblocking(false).unwrap();
    }

    /// Receives a datagram, which must be this one, from the address that this client sends to.
    pub(super) fn hear(&self, datagram: &[u8]) {
        assert_eq!(self.receive_from(), (datagram.to_vec(), self.relay));
    }

    /// Receives until this datagram comes, from the address that this client sends to.
    pub(super) fn hear_in_the_end(&self, datagram: &[u8]) {
        while self.receive_from() != (datagram.to_vec(), self.relay) {}
    }

    pub(super) fn receive(&self) -> Vec<u8> {
        self.receive_from().0
    }

    /// Sets the longest wait of receives from now on.
    pub(super) fn wait_at_most(&self, time: Duration) {
        self.socket.set_read_timeout(Some(time)).unwrap();
    }

    pub(super) fn try_receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 2_048];
        let len = self.socket.recv(&mut buffer).ok()?;
        buffer.truncate(len);
        Some(buffer)
    }

    pub(super) fn try_receive_now(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let received = self.try_receive().is_some();
        self.socket.set_nonblocking(false).unwrap();
        received
    }

    fn receive_from(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 65_536];
        let (len, from) = loop {
            // A signal to the process ends a wait that has a limit.
            match self.socket.recv_from(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        buffer.truncate(len);
        (buffer, from)
    }
}

/// Sends a datagram in each direction between the clients of a session; both must arrive.
pub(super) fn exchange(vni: Vni, [a, b]: [&Wire; 2], n: u8) {
    let datagram = data(vni, &[n; 900]);
    a.send(&datagram);
    b.hear(&datagram);
    b.send(&datagram);
    a.hear(&datagram);
}

/// Sends datagrams until the one sent last arrives: the kernel path learns of a leg or a route that has
/// moved later than the sender does, and loses what it forwards until then.
pub(super) fn send_until_received(vni: Vni, from: &Wire, to: &Wire) {
    to.wait_at_most(Duration::from_millis(20));
    let arrives = |attempt: u16| {
        let datagram = data(vni, &attempt.to_be_bytes());
        from.send(&datagram);
        std::iter::from_fn(|| to.try_receive()).any(|received| received == datagram)
    };
    assert!((0..500).any(arrives), "no datagram arrives");
    to.wait_at_most(PATIENCE);
}

/// Runs what is asynchronous.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// Opens a scene with two clients, each on a cable of its own to the relay.
pub(super) fn two_cables() -> Option<Net> {
    let net = namespaces(["a", "relay", "b"])?;
    net.cable([
        ("a", "eth0", &["10.1.0.2/24", "2001:db8:1::2/64"]),
        ("relay", "left", &["10.1.0.1/24", "2001:db8:1::1/64"]),
    ]);
    net.cable([
        ("b", "eth0", &["10.2.0.2/24", "2001:db8:2::2/64"]),
        ("relay", "right", &["10.2.0.1/24", "2001:db8:2::1/64"]),
    ]);
    Some(net)
}

/// The clients of [`two_cables`], on IPv4.
pub(super) fn clients4(net: &Net) -> [Wire; 2] {
    [
        Wire::new(net, "a", "10.1.0.2:1001", "10.1.0.1:40000"),
        Wire::new(net, "b", "10.2.0.2:1002", "10.2.0.1:40000"),
    ]
}

/// The clients of [`two_cables`], on IPv6.
pub(super) fn clients6(net: &Net) -> [Wire; 2] {
    [
        Wire::new(net, "a", "[2001:db8:1::2]:1001", "[2001:db8:1::1]:40000"),
        Wire::new(net, "b", "[2001:db8:2::2]:1002", "[2001:db8:2::1]:40000"),
    ]
}

#[test]
fn datagrams_of_both_families_go_through_the_kernel_unchanged() {
    let Some(net) = two_cables() else { return };
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    for (family, number, [a, b]) in [
        (Family::V4, 1, clients4(&net)),
        (Family::V6, 3, clients6(&net)),
    ] {
        let vni = relay.open(number, [&a, &b]);
        for len in [0, 1, 33, 1_400] {
            let datagram = data(vni, &vec![len as u8; len]);
            a.send(&datagram);
            b.hear(&datagram);
            b.send(&datagram);
            a.hear(&datagram);
        }
        assert_eq!(relay.forwarded(family), (0, 8));
    }
}

#[test]
fn super_packets_stay_whole_and_mixed_ones_reach_the_right_clients() {
    let Some(net) = two_cables() else { return };
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    for (family, number, [own_a, own_b, own_c], [to_a, to_b]) in [
        (
            Family::V4,
            1,
            ["10.1.0.2:1001", "10.2.0.2:1002", "10.2.0.2:1003"],
            ["10.1.0.1:40000", "10.2.0.1:40000"],
        ),
        (
            Family::V6,
            11,
            [
                "[2001:db8:1::2]:1001",
                "[2001:db8:2::2]:1002",
                "[2001:db8:2::2]:1003",
            ],
            ["[2001:db8:1::1]:40000", "[2001:db8:2::1]:40000"],
        ),
    ] {
        let a = Wire::new(&net, "a", own_a, to_a);
        let b = Wire::new(&net, "b", own_b, to_b);
        let c = Wire::new(&net, "b", own_c, to_b);
        let (ab, ac) = (
            relay.open(number, [&a, &b]),
            relay.open(number + 2, [&a, &c]),
        );
        let whole: Vec<_> = (0..40).map(|n| data(ab, &[n; 1_312])).collect();
        a.send_segments(&whole);
        for datagram in &whole {
            assert_eq!(&b.receive(), datagram);
        }
        assert_eq!(relay.forwarded(family), (0, 40), "{family:?}");
        // The kernel makes one packet of datagrams that have only addresses and length in common.
        let mixed: Vec<_> = (0..40)
            .map(|n| data(if n == 37 { ac } else { ab }, &[n; 600]))
            .collect();
        a.send_segments(&mixed);
        for (n, datagram) in mixed.iter().enumerate() {
            assert_eq!(&if n == 37 { &c } else { &b }.receive(), datagram);
        }
        assert_eq!(
            relay.forwarded(family),
            (40, 40),
            "the sockets take it apart"
        );
    }
}

#[test]
fn a_route_between_clients_behind_routers_that_moves_is_followed() {
    let Some(net) = namespaces(["a", "r1", "relay", "r2", "b"]) else {
        return;
    };
    let cables = [
        ("a", "r1", "10.1.0.2/24", "10.1.0.1/24", "north", "south"),
        ("relay", "r1", "10.9.1.1/24", "10.9.1.2/24", "w1", "north"),
        ("relay", "r2", "10.9.2.1/24", "10.9.2.2/24", "w2", "north"),
        ("b", "r2", "10.2.0.2/24", "10.2.0.1/24", "north", "south"),
        ("b", "r1", "10.3.0.2/24", "10.3.0.1/24", "other", "east"),
    ];
    for (left, right, left_ip, right_ip, left_device, right_device) in cables {
        net.cable([
            (left, left_device, &[left_ip]),
            (right, right_device, &[right_ip]),
        ]);
    }
    for router in ["r1", "r2"] {
        net.run(router, || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
        })
        .unwrap();
    }
    net.ip("a", "route add default via 10.1.0.1");
    net.ip("b", "route add default via 10.2.0.1");
    net.ip("b", "route add 10.9.1.0/24 via 10.2.0.1");
    net.ip("relay", "route add 10.1.0.0/24 via 10.9.1.2");
    net.ip("relay", "route add 10.2.0.0/24 via 10.9.2.2");
    net.ip("r2", "route add default via 10.9.2.1");
    let relay = Relay::start(&net, "relay", &["10.9.1.1:40000"]);
    let a = Wire::new(&net, "a", "10.1.0.2:1001", "10.9.1.1:40000");
    let b = Wire::new(&net, "b", "10.2.0.2:1002", "10.9.1.1:40000");
    let vni = relay.open(1, [&a, &b]);
    let exchange = |n| exchange(vni, [&a, &b], n);
    exchange(1);
    assert_eq!(relay.forwarded(Family::V4), (0, 2));

    // B becomes reachable the other way round only.
    net.ip("r1", "route add 10.2.0.0/24 via 10.3.0.2");
    net.ip("relay", "route change 10.2.0.0/24 via 10.9.1.2");
    net.ip("relay", "link set w2 down");
    net.ip("b", "route change default via 10.3.0.1");
    net.ip("b", "route change 10.9.1.0/24 via 10.3.0.1");
    send_until_received(vni, &a, &b);
    relay.wait(|relay| relay.kernel.state().borrow().devices() == 1);
    let before = relay.forwarded(Family::V4);
    while b.try_receive_now() {}
    exchange(3);
    let after = relay.forwarded(Family::V4);
    assert_eq!(
        (after.0 - before.0, after.1 - before.1),
        (0, 2),
        "{after:?}"
    );
}
