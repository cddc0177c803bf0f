//! Addresses on devices that lie on other devices.

use std::net::SocketAddr;

use relay_proto::Family;

use super::{
    client::{at, data},
    namespaces,
    tap::Tap,
    wire::{Relay, Wire, exchange},
};
use crate::relay::{kernel::frame, namespace::Net};

const RELAY: &str = "10.1.0.1:40000";
/// Stands between the addresses and the protocol of a frame (IEEE 802.1Q).
const TAG: [u8; 2] = [0x81, 0x00];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Client `a` on a device without addresses, `left`, and client `b` on one with.
fn cables() -> Option<Net> {
    let net = namespaces(["a", "relay", "b"])?;
    net.cable([("a", "eth0", &[]), ("relay", "left", &[])]);
    // Or it would answer for addresses that are on others.
    let ignore = || std::fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1");
    net.run("relay", ignore).unwrap();
    net.cable([
        ("b", "eth0", &["10.2.0.2/24", "2001:db8:2::2/64"]),
        ("relay", "right", &["10.2.0.1/24", "2001:db8:2::1/64"]),
    ]);
    Some(net)
}

/// Gives a device the addresses that are on the same cable.
fn address(net: &Net, namespace: &str, device: &str) {
    let host = if namespace == "a" { 2 } else { 1 };
    net.ip(
        namespace,
        &format!("address add 10.1.0.{host}/24 dev {device}"),
    );
    let v6 = format!("address add 2001:db8:1::{host}/64 dev {device} nodad");
    net.ip(namespace, &v6);
    net.ip(namespace, &format!("link set {device} up"));
}

/// Sessions of both families go through the kernel, super-packets too.
fn forwards(net: &Net, what: &str) {
    let relay = Relay::start(net, "relay", &[RELAY]);
    assert_eq!(relay.kernel.state().borrow().devices(), 2, "{what}");
    let ends = [
        (
            Family::V4,
            ["10.1.0.2:1001", "10.2.0.2:1002"],
            [RELAY, "10.2.0.1:40000"],
        ),
        (
            Family::V6,
            ["[2001:db8:1::2]:1003", "[2001:db8:2::2]:1004"],
            ["[2001:db8:1::1]:40000", "[2001:db8:2::1]:40000"],
        ),
    ];
    for (number, (family, own, to)) in (1..).step_by(2).zip(ends) {
        let a = Wire::new(net, "a", own[0], to[0]);
        let b = Wire::new(net, "b", own[1], to[1]);
        let vni = relay.open(number, [&a, &b]);
        exchange(vni, [&a, &b], 1);
        assert_eq!(relay.forwarded(family), (0, 2), "{what}");
        let whole: Vec<_> = (0..20).map(|n| data(vni, &[n; 1_312])).collect();
        for (from, to) in [(&a, &b), (&b, &a)] {
            from.send_segments(&whole);
            for datagram in &whole {
                to.hear(datagram);
            }
        }
        assert_eq!(relay.forwarded(family), (0, 42), "{what}");
    }
}

/// Puts the relay's addresses for client `a` on a device that has `left` as its port.
fn forwards_over_port(kind: &str) {
    let Some(net) = cables() else { return };
    if !net.add("relay", "upper0", kind) {
        return;
    }
    address(&net, "a", "eth0");
    net.ip("relay", "link set left down");
    net.ip("relay", "link set left master upper0");
    net.ip("relay", "link set left up");
    address(&net, "relay", "upper0");
    forwards(&net, kind);
}

/// Puts the relay's addresses for client `a` on a device on top of `left`; the client has `device`.
fn forwards_on_top(kind: &str, device: &str) {
    let Some(net) = cables() else { return };
    if !net.add("relay", "link left name upper0", kind) {
        return;
    }
    if device != "eth0" {
        let link = format!("link add link eth0 name {device} type {kind}");
        net.ip("a", &link);
    }
    address(&net, "a", device);
    address(&net, "relay", "upper0");
    forwards(&net, kind);
}

#[test]
fn kernel_forwards_on_a_bridge() {
    forwards_over_port("bridge");
}

#[test]
fn kernel_forwards_on_a_bond() {
    forwards_over_port("bond mode active-backup");
}

#[test]
fn kernel_forwards_on_a_vlan() {
    forwards_on_top("vlan id 5", "upper0");
}

#[test]
fn kernel_forwards_on_a_macvlan() {
    forwards_on_top("macvlan mode bridge", "eth0");
}

#[test]
fn tagged_packets_pass_and_priority_tagged_ones_go_to_the_socket() {
    let Some(net) = cables() else { return };
    address(&net, "a", "eth0");
    address(&net, "relay", "left");
    net.ip("relay", "link set left address 02:00:00:00:00:01");
    let relay = Relay::start(&net, "relay", &[RELAY]);
    let (a, b) = (
        Wire::new(&net, "a", "10.1.0.2:1001", RELAY),
        Wire::new(&net, "b", "10.2.0.2:1002", "10.2.0.1:40000"),
    );
    let vni = relay.open(1, [&a, &b]);
    let tap = Tap::new(&net, "a", "eth0");
    let send = |vlan: Option<u16>, n: u8| {
        let ends: [SocketAddr; 2] = ["10.1.0.2:1001", RELAY].map(at);
        let mut frame = frame::udp(ends[0], ends[1], 64, &data(vni, &[n; 100]));
        frame[..6].copy_from_slice(&MAC);
        if let Some(vlan) = vlan {
            let tag = [TAG, vlan.to_be_bytes()].concat();
            frame.splice(12..12, tag);
        }
        tap.send(&frame);
    };
    let passed = || relay.kernel.counters().passed;
    let before = passed();
    send(Some(5), 9);
    send(None, 1);
    b.hear(&data(vni, &[1; 100]));
    assert_eq!(relay.forwarded(Family::V4), (0, 1));
    send(Some(0), 2);
    b.hear(&data(vni, &[2; 100]));
    relay.wait(|relay| relay.forwarded(Family::V4) == (1, 1));
    assert_eq!(passed(), before, "tagged packets are none of the program's");
}
