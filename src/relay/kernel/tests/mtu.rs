//! Ways that take less than the usual 1500 bytes.

use std::time::Duration;

use relay_proto::{Family, Vni};

use super::{
    client::data,
    namespaces,
    wire::{PATIENCE, Relay, Wire, exchange, two_cables},
};
use crate::relay::namespace::Net;

/// Longest packet on the links of some providers.
const NARROW: usize = 1_360;
/// WireGuard's own, around a packet of 1280 bytes.
const WIREGUARD: usize = 1_280 + 32;

/// Longest data of a datagram in an IP packet of this length.
const fn room(family: Family, packet: usize) -> usize {
    let header = match family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    packet - header - 8 - 8
}

/// A session of this family between the two cables' clients.
fn open(net: &Net, relay: &Relay, family: Family) -> ([Wire; 2], Vni) {
    let [own, to] = match family {
        Family::V4 => [
            ["10.1.0.2:1001", "10.2.0.2:1002"],
            ["10.1.0.1:40000", "10.2.0.1:40000"],
        ],
        Family::V6 => [
            ["[2001:db8:1::2]:1001", "[2001:db8:2::2]:1002"],
            ["[2001:db8:1::1]:40000", "[2001:db8:2::1]:40000"],
        ],
    };
    let wires = [
        Wire::new(net, "a", own[0], to[0]),
        Wire::new(net, "b", own[1], to[1]),
    ];
    let [a, b] = &wires;
    let vni = relay.open(1 + 2 * family as u8, [a, b]);
    (wires, vni)
}

#[test]
fn sockets_fragment_what_does_not_fit_a_narrow_device() {
    let Some(net) = two_cables() else { return };
    for (namespace, device) in [("relay", "right"), ("b", "eth0")] {
        net.ip(namespace, &format!("link set {device} mtu {NARROW}"));
    }
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    for family in Family::ALL {
        let ([a, b], vni) = open(&net, &relay, family);
        let mut expected = (0, 0);
        for (len, kernel) in [
            (room(family, NARROW), true),
            (room(family, NARROW) + 1, false),
            (room(family, 1_500), false),
        ] {
            let datagram = data(vni, &vec![len as u8; len]);
            a.send(&datagram);
            b.hear(&datagram);
            let path = if kernel {
                &mut expected.1
            } else {
                &mut expected.0
            };
            *path += 1;
            assert_eq!(relay.forwarded(family), expected, "{family:?}, {len} bytes");
        }
        // What leads to A is as wide as ever.
        let back = data(vni, &vec![3; room(family, NARROW)]);
        b.send(&back);
        a.hear(&back);
        expected.1 += 1;
        // In packets to an IPv6 client, WireGuard's longest are too long.
        for len in [WIREGUARD, room(family, 1_500)] {
            let many: Vec<_> = (0..30).map(|n| data(vni, &vec![n; len])).collect();
            a.send_segments(&many);
            for datagram in &many {
                b.hear(datagram);
            }
            let fits = len <= room(family, NARROW);
            assert_eq!(fits, family == Family::V4 && len == WIREGUARD);
            let path = if fits {
                &mut expected.1
            } else {
                &mut expected.0
            };
            *path += many.len() as u64;
            assert_eq!(relay.forwarded(family), expected, "{family:?}, {len} bytes");
        }
    }
}

/// Opens a scene with client `b` behind a router, whose link to it is narrow.
fn narrow_behind_router() -> Option<Net> {
    let net = namespaces(["a", "relay", "router", "b"])?;
    // Otherwise a link-local address becomes valid during the test, and the relay reads its routes again.
    net.run("relay", || {
        for which in ["all", "default"] {
            let switch = format!("/proc/sys/net/ipv6/conf/{which}/accept_dad");
            std::fs::write(switch, "0").unwrap();
        }
    });
    net.cable([
        ("a", "eth0", &["10.1.0.2/24", "2001:db8:1::2/64"]),
        ("relay", "left", &["10.1.0.1/24", "2001:db8:1::1/64"]),
    ]);
    net.cable([
        ("relay", "right", &["10.2.0.1/24", "2001:db8:2::1/64"]),
        ("router", "near", &["10.2.0.3/24", "2001:db8:2::3/64"]),
    ]);
    net.cable([
        ("router", "far", &["10.3.0.1/24", "2001:db8:3::1/64"]),
        ("b", "eth0", &["10.3.0.2/24", "2001:db8:3::2/64"]),
    ]);
    for (namespace, device) in [("router", "far"), ("b", "eth0")] {
        net.ip(namespace, &format!("link set {device} mtu {NARROW}"));
    }
    net.run("router", || {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    });
    for (namespace, to, via) in [("relay", 3, 3), ("b", 2, 1)] {
        let near = if namespace == "b" { 3 } else { 2 };
        net.ip(
            namespace,
            &format!("route add 10.{to}.0.0/24 via 10.{near}.0.{via}"),
        );
        net.ip(
            namespace,
            &format!("route add 2001:db8:{to}::/64 via 2001:db8:{near}::{via}"),
        );
    }
    Some(net)
}

#[test]
fn a_narrow_link_behind_a_router_is_learned_and_heeded() {
    let Some(net) = narrow_behind_router() else {
        return;
    };
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    for (number, family, own, to) in [
        (
            1,
            Family::V4,
            ["10.1.0.2:1001", "10.3.0.2:1002"],
            ["10.1.0.1:40000", "10.2.0.1:40000"],
        ),
        (
            3,
            Family::V6,
            ["[2001:db8:1::2]:1001", "[2001:db8:3::2]:1002"],
            ["[2001:db8:1::1]:40000", "[2001:db8:2::1]:40000"],
        ),
    ] {
        let a = Wire::new(&net, "a", own[0], to[0]);
        let b = Wire::new(&net, "b", own[1], to[1]);
        let vni = relay.open(number, [&a, &b]);
        exchange(vni, [&a, &b], 1);
        assert_eq!(relay.forwarded(family), (0, 2));
        // The first is too long, which the router says; later ones go in fragments.
        let long = data(vni, &vec![9; room(family, 1_500)]);
        let mut tries = 0;
        b.wait_at_most(Duration::from_millis(50));
        while b.try_receive().is_none() {
            tries += 1;
            assert!(tries < 200, "{family:?}: nothing long ever arrives");
            a.send(&long);
        }
        b.wait_at_most(PATIENCE);
        assert!(tries > 1, "the way is narrow");
        let mut before = relay.forwarded(family);
        a.send(&long);
        b.hear(&long);
        before.0 += 1;
        assert_eq!(relay.forwarded(family), before);
        exchange(vni, [&a, &b], 2);
        before.1 += 2;
        assert_eq!(
            relay.forwarded(family),
            before,
            "what fits stays in the kernel"
        );
    }
}
