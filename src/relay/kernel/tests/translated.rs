//! Legs that come through address translation of the relay's own host.

use std::{thread, time::Duration};

use relay_proto::Family;

use super::{
    client::data,
    wire::{Relay, Wire, block_on, clients4, clients6, exchange, few, two_cables},
};
use crate::relay::{kernel::KernelOptions, namespace::Net, socket_path::RestoredState};

/// Longer than the time between two looks at sessions that wait.
const NEXT_LOOK: Duration = Duration::from_millis(1_500);

/// Rules that lead other ports and addresses of the host to the relay.
const RULES: &str = "table inet nat {\n\
     chain before {\n\
     type nat hook prerouting priority -100\n\
     udp dport 50000 redirect to :40000\n\
     ip daddr 10.1.0.1 udp dport 50001 dnat to 10.1.0.1:40000\n\
     ip daddr 10.9.0.1 udp dport 40000 dnat to 10.1.0.1:40000\n\
     ip6 daddr 2001:db8:1::1 udp dport 50001 dnat to [2001:db8:1::1]:40000\n\
     ip6 daddr 2001:db8:9::1 udp dport 40000 dnat to [2001:db8:1::1]:40000\n\
     }\n\
     }\n";

/// A host that translates addresses. It also has addresses that no client's link leads to.
fn translating() -> Option<Net> {
    let net = two_cables()?;
    net.ip("relay", "address add 10.9.0.1/32 dev lo");
    net.ip("relay", "address add 2001:db8:9::1/128 dev lo");
    net.ip("a", "route add 10.9.0.1 via 10.1.0.1");
    net.ip("a", "route add 2001:db8:9::1 via 2001:db8:1::1");
    net.nft("relay", RULES);
    Some(net)
}

#[test]
fn a_leg_that_the_host_translates_hears_from_the_address_that_it_sends_to() {
    let Some(net) = translating() else { return };
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    let to4 = ["10.1.0.1:50000", "10.1.0.1:50001", "10.9.0.1:40000"];
    let to6 = [
        "[2001:db8:1::1]:50000",
        "[2001:db8:1::1]:50001",
        "[2001:db8:9::1]:40000",
    ];
    let mut number = 1;
    for (family, own, [_, b], translated) in [
        (Family::V4, "10.1.0.2", clients4(&net), to4),
        (Family::V6, "[2001:db8:1::2]", clients6(&net), to6),
    ] {
        for (to, port) in translated.into_iter().zip(2_001..) {
            let a = Wire::new(&net, "a", &format!("{own}:{port}"), to);
            let before = relay.forwarded(family);
            let vni = relay.open(number, [&a, &b]);
            number += 2;
            exchange(vni, [&a, &b], 1);
            thread::sleep(NEXT_LOOK);
            exchange(vni, [&a, &b], 2);
            let after = relay.forwarded(family);
            let forwarded = (after.0 - before.0, after.1 - before.1);
            assert_eq!(forwarded, (4, 0), "{to}");
        }
    }
}

#[test]
fn legs_beside_translated_ones_go_through_the_kernel() {
    let Some(net) = translating() else { return };
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    let clients = clients4(&net);
    let [a, b] = &clients;
    let vni = relay.open(1, [a, b]);
    exchange(vni, [a, b], 1);
    assert_eq!(relay.forwarded(Family::V4), (0, 2));
}

#[test]
fn data_show_that_a_leg_is_not_translated_where_its_handshake_was_not_seen() {
    let Some(net) = two_cables() else { return };
    let clients = clients4(&net);
    let [a, b] = &clients;
    let before = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    let vni = before.open(1, [a, b]);
    let open = before.sessions();
    let left = RestoredState {
        state: block_on(before.socket_path.export()).unwrap(),
        away: Duration::ZERO,
    };
    // Without pins, nothing of the program stays.
    drop(before);
    let options = KernelOptions::new(&few());
    let own = &["10.1.0.1:40000"];
    let relay = Relay::after(&net, "relay", own, few(), options, Some(left));
    relay.kernel.retain(open);
    exchange(vni, [a, b], 1);
    assert_eq!(relay.forwarded(Family::V4), (2, 0));
    relay.wait(|relay| {
        let before = relay.forwarded(Family::V4);
        exchange(vni, [a, b], 2);
        relay.forwarded(Family::V4) == (before.0, before.1 + 2)
    });
}

#[test]
fn addresses_of_devices_that_are_down_belong_to_other_programs() {
    let Some(net) = two_cables() else { return };
    // As kube-proxy adds the addresses of Services for IPVS, on a device of type `dummy`.
    net.ip("relay", "link add kube-ipvs0 type veth peer name other");
    net.ip("relay", "address add 10.9.0.1/32 dev kube-ipvs0");
    net.ip("a", "route add 10.9.0.1 via 10.1.0.1");
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    let [a, b] = clients4(&net);
    let vni = relay.open(1, [&a, &b]);
    let datagram = data(vni, b"to the Service");
    a.towards("10.9.0.1:40000").send(&datagram);
    b.hear(&datagram);
    assert_eq!(relay.forwarded(Family::V4), (1, 0));
    exchange(vni, [&a, &b], 1);
    assert_eq!(relay.forwarded(Family::V4), (1, 2));
}
