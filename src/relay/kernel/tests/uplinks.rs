//! A relay with two uplinks: a datagram leaves by the uplink of its source address, also while
//! uplinks come and go.

use std::{net::IpAddr, time::Duration};

use relay_proto::{Family, Vni};

use super::{
    client::{at, data},
    namespaces,
    tap::Tap,
    wire::{PATIENCE, Relay, Wire, clients4, exchange, two_cables},
};
use crate::relay::namespace::Net;

/// The relay on each uplink.
const RELAY: [&str; 2] = ["10.9.1.1:40000", "10.9.2.1:40000"];
const CLIENTS: [&str; 2] = ["10.1.0.2:1001", "10.2.0.2:1002"];

/// Clients `a` and `b`, each behind a router of its own, and the relay at both routers, which reach
/// each other. The relay's default route is the first uplink, and what has the address of the second
/// leaves by it or not at all, as hosts with two providers do.
struct TwoUplinks {
    net: Net,
    taps: [Tap; 2],
}

impl TwoUplinks {
    fn open() -> Option<Self> {
        let net = namespaces(["a", "b", "r1", "r2", "relay"])?;
        for [
            (left, left_device, left_ip),
            (right, right_device, right_ip),
        ] in [
            [("a", "eth0", "10.1.0.2/24"), ("r1", "lan", "10.1.0.1/24")],
            [("b", "eth0", "10.2.0.2/24"), ("r2", "lan", "10.2.0.1/24")],
            [("relay", "w1", "10.9.1.1/24"), ("r1", "wan", "10.9.1.2/24")],
            [("relay", "w2", "10.9.2.1/24"), ("r2", "wan", "10.9.2.2/24")],
            [("r1", "peer", "10.8.0.1/24"), ("r2", "peer", "10.8.0.2/24")],
        ] {
            net.cable([
                (left, left_device, &[left_ip]),
                (right, right_device, &[right_ip]),
            ]);
        }
        for (router, client, other) in [("r1", "a", 2), ("r2", "b", 1)] {
            let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
            net.run(router, forward).unwrap();
            net.ip(router, &format!("route add default via 10.8.0.{other}"));
            let own = 3 - other;
            net.ip(client, &format!("route add default via 10.{own}.0.1"));
        }
        net.ip("relay", "route add default via 10.9.1.2");
        net.ip("relay", "rule add from 10.9.2.1 table 2");
        net.ip("relay", "route add default via 10.9.2.2 table 2");
        net.ip("relay", "route add unreachable default metric 9 table 2");
        let taps = ["r1", "r2"].map(|router| Tap::new(&net, router, "wan"));
        Some(Self { net, taps })
    }

    /// Brings back what a device loses with its last address, or when it goes down.
    fn route_again(&self) {
        self.net
            .ip("relay", "route replace default via 10.9.2.2 table 2");
    }

    /// Clients that know the relay by its addresses on these uplinks.
    fn clients(&self, uplinks: [usize; 2]) -> [Wire; 2] {
        let [a, b] = uplinks.map(|uplink| RELAY[uplink]);
        [
            Wire::new(&self.net, "a", CLIENTS[0], a),
            Wire::new(&self.net, "b", CLIENTS[1], b),
        ]
    }

    /// Every datagram of the relay that left by an uplink had its address; returns how many did.
    fn left(&self) -> [usize; 2] {
        let ips = RELAY.map(|address| at(address).ip());
        [0, 1].map(|uplink| {
            let heard = self.taps[uplink].heard();
            let left = heard.iter().filter(|(from, _)| ips.contains(&from.ip()));
            let sources: Vec<IpAddr> = left.map(|(from, _)| from.ip()).collect();
            assert!(
                sources.iter().all(|ip| *ip == ips[uplink]),
                "uplink {uplink}: {sources:?}"
            );
            sources.len()
        })
    }
}

#[test]
fn what_leaves_takes_the_uplink_of_the_address_that_its_client_knows() {
    for uplinks in [[0, 1], [1, 0], [0, 0], [1, 1]] {
        let Some(host) = TwoUplinks::open() else {
            return;
        };
        let relay = Relay::start(&host.net, "relay", &RELAY);
        let [a, b] = &host.clients(uplinks);
        let vni = relay.open(1, [a, b]);
        host.left();
        exchange(vni, [a, b], 1);
        assert_eq!(relay.forwarded(Family::V4), (0, 2), "{uplinks:?}");
        let mut expected = [0; 2];
        for uplink in uplinks {
            expected[uplink] += 1;
        }
        assert_eq!(host.left(), expected, "{uplinks:?}");
    }
}

/// Checks that datagrams arrive in both directions, maybe after earlier ones; returns whether the
/// kernel forwarded them.
fn forwards_in_the_kernel(relay: &Relay, vni: Vni, [a, b]: [&Wire; 2], n: u8) -> bool {
    let before = relay.forwarded(Family::V4).1;
    let datagram = data(vni, &[n; 900]);
    for [from, to] in [[a, b], [b, a]] {
        from.send(&datagram);
        to.hear_in_the_end(&datagram);
    }
    relay.forwarded(Family::V4).1 == before + 2
}

/// Checks that a datagram from A to B is lost while the second uplink is away, and does not leave
/// by the first. Returns how many datagrams may leave by the second when it is back: the kernel path
/// took them before it followed, and they wait for the neighbor.
fn goes_nowhere(host: &TwoUplinks, relay: &Relay, vni: Vni, a: &Wire) -> usize {
    relay.wait(|relay| relay.kernel.state().borrow().devices() == 1);
    let by_kernel = relay.forwarded(Family::V4).1;
    let failed = |relay: &Relay| relay.snapshot().sockets.send_failed;
    let before = failed(relay);
    relay.wait(|relay| {
        a.send(&data(vni, &[7; 100]));
        failed(relay) > before
    });
    assert_eq!(host.left(), [0, 0]);
    (relay.forwarded(Family::V4).1 - by_kernel) as usize
}

#[test]
fn an_uplink_that_comes_back_is_used_again_without_a_new_handshake() {
    let Some(host) = TwoUplinks::open() else {
        return;
    };
    let relay = Relay::start(&host.net, "relay", &RELAY);
    let [a, b] = &host.clients([0, 1]);
    let vni = relay.open(1, [a, b]);
    let ip = |arguments| host.net.ip("relay", arguments);
    let losses: [(&[&str], &[&str]); 2] = [
        (&["link set w2 down"], &["link set w2 up"]),
        (
            &["address del 10.9.2.1/24 dev w2"],
            &["address add 10.9.2.1/24 dev w2"],
        ),
    ];
    for (round, (lose, mend)) in (1..).zip(losses) {
        host.left();
        lose.iter().for_each(|change| ip(change));
        let waiting = goes_nowhere(&host, &relay, vni, a);
        mend.iter().for_each(|change| ip(change));
        host.route_again();
        relay.wait(|relay| relay.kernel.state().borrow().devices() == 2);
        relay.wait(|relay| forwards_in_the_kernel(relay, vni, [a, b], round));
        let [first, second] = host.left();
        let expected = first..=first + waiting;
        assert!(
            first > 0 && expected.contains(&second),
            "{first} and {second}, of which {waiting} may be late"
        );
    }
}

#[test]
fn an_address_that_moves_to_another_device_is_followed_there() {
    let Some(net) = two_cables() else { return };
    net.cable([("relay", "spare", &[]), ("b", "spare", &[])]);
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    let [a, b] = clients4(&net);
    let vni = relay.open(1, [&a, &b]);
    exchange(vni, [&a, &b], 1);
    for (namespace, host, old) in [("relay", 1, "right"), ("b", 2, "eth0")] {
        let address = format!("10.2.0.{host}/24");
        net.ip(namespace, &format!("address del {address} dev {old}"));
        net.ip(namespace, &format!("address add {address} dev spare"));
    }
    // What still goes to the old device is lost.
    b.wait_at_most(Duration::from_millis(20));
    relay.wait(|_| {
        a.send(&data(vni, &[2; 100]));
        b.try_receive().is_some()
    });
    b.wait_at_most(PATIENCE);
    relay.wait(|relay| forwards_in_the_kernel(relay, vni, [&a, &b], 3));
}

#[test]
fn a_client_gets_datagrams_from_the_address_that_it_sends_to() {
    let Some(net) = two_cables() else { return };
    net.ip("relay", "address add 169.254.7.1/32 dev left");
    net.ip("a", "route add 169.254.7.1 dev eth0");
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    // Nobody is told to use such an address, and the program does not know it.
    let a = Wire::new(&net, "a", "10.1.0.2:1001", "169.254.7.1:40000");
    let b = Wire::new(&net, "b", "10.2.0.2:1002", "10.2.0.1:40000");
    let vni = relay.open(1, [&a, &b]);
    exchange(vni, [&a, &b], 1);
    assert_eq!(relay.forwarded(Family::V4), (2, 0));
}

#[test]
fn kernel_forwards_through_an_address_that_is_newer_than_its_news() {
    let Some(net) = two_cables() else { return };
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    for (namespace, device, host) in [("a", "eth0", 2), ("relay", "left", 1)] {
        let address = format!("10.3.0.{host}/24");
        net.ip(namespace, &format!("address add {address} dev {device}"));
    }
    let a = Wire::new(&net, "a", "10.3.0.2:1001", "10.3.0.1:40000");
    let b = Wire::new(&net, "b", "10.2.0.2:1002", "10.2.0.1:40000");
    let vni = relay.open(1, [&a, &b]);
    relay.wait(|relay| forwards_in_the_kernel(relay, vni, [&a, &b], 2));
}

#[test]
fn a_router_is_followed_also_when_it_is_of_the_other_family() {
    let Some(net) = two_cables() else { return };
    net.ip("b", "link set lo up");
    net.ip("b", "address add 10.7.0.2/32 dev lo");
    net.ip("b", "route add default via 10.2.0.1");
    // Nobody answers for the client's address on the link, or asks with it.
    for (setting, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
        let path = format!("/proc/sys/net/ipv4/conf/all/{setting}");
        net.run("b", || std::fs::write(path, value)).unwrap();
    }
    net.ip("relay", "route add 10.7.0.2 via 10.2.0.2");
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    let a = Wire::new(&net, "a", "10.1.0.2:1001", "10.1.0.1:40000");
    let b = Wire::new(&net, "b", "10.7.0.2:1002", "10.2.0.1:40000");
    let vni = relay.open(1, [&a, &b]);
    assert!(forwards_in_the_kernel(&relay, vni, [&a, &b], 1));

    net.ip("relay", "route replace 10.7.0.2 via inet6 2001:db8:2::2");
    // What still goes to the old one is lost.
    let elsewhere = "neighbor replace 10.2.0.2 lladdr 02:00:00:00:00:99 dev right";
    net.ip("relay", elsewhere);
    b.wait_at_most(Duration::from_millis(20));
    relay.wait(|_| {
        a.send(&data(vni, &[2; 100]));
        b.try_receive().is_some()
    });
    b.wait_at_most(PATIENCE);
    while b.try_receive_now() {}
    relay.wait(|relay| forwards_in_the_kernel(relay, vni, [&a, &b], 3));
}
