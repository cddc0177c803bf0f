//! Entries in the kernel's maps: sessions whose legs change their family, and room for ways out.

use std::collections::BTreeSet;

use relay_proto::Family;

use super::{
    client::{Client, at},
    loaded,
    wire::{PORT, Relay, Wire, clients4, clients6, exchange, send_until_received, two_cables},
};
use crate::relay::kernel::{
    egress::{self, Egress},
    entry::{Leg, SessionEntry, Usage},
    self_test,
};

#[test]
fn session_whose_legs_move_to_another_family_and_back_goes_on() {
    let Some(net) = two_cables() else { return };
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    let ([a4, b4], [a6, b6]) = (clients4(&net), clients6(&net));
    let vni = relay.open(1, [&a4, &b4]);
    let [alice, bob] = [Client::new(1), Client::new(2)];
    let by_kernel = |family| relay.forwarded(family).1;
    // The thread that keeps the maps follows a leg that has moved in its own time; until then the
    // kernel forwards to the old address.
    let settle = |[a, b]: [&Wire; 2]| {
        send_until_received(vni, a, b);
        send_until_received(vni, b, a);
    };
    let forwards_again = |family, legs: [&Wire; 2]| {
        settle(legs);
        let before = by_kernel(family);
        relay.wait(|_| {
            exchange(vni, legs, 3);
            by_kernel(family) >= before + 2
        });
    };

    exchange(vni, [&a4, &b4], 1);
    assert_eq!(by_kernel(Family::V4), 2);

    relay.bind(vni, 2, &bob, &alice, &b6);
    settle([&a4, &b6]);
    let before = by_kernel(Family::V4);
    for n in 0..20 {
        exchange(vni, [&a4, &b6], n);
    }
    assert_eq!((by_kernel(Family::V4), by_kernel(Family::V6)), (before, 0));

    relay.bind(vni, 3, &bob, &alice, &b4);
    forwards_again(Family::V4, [&a4, &b4]);

    relay.bind(vni, 4, &alice, &bob, &a6);
    relay.bind(vni, 5, &bob, &alice, &b6);
    forwards_again(Family::V6, [&a6, &b6]);
}

#[test]
fn the_self_test_passes_with_full_tables_and_keeps_every_session() {
    let Some((mut program, mut maps)) = loaded(2) else {
        return;
    };
    let all = [
        (1, "10.1.0.2:1001"),
        (2, "10.1.0.2:1002"),
        (3, "[2001:db8:1::2]:1001"),
        (4, "[2001:db8:1::2]:1002"),
    ];
    let all = all.map(|(vni, address)| {
        let leg = Leg {
            address: at(address),
            mtu: 1_500,
            egress: egress::NONE,
        };
        let usage = Usage::default();
        (
            vni,
            SessionEntry {
                legs: [leg; 2],
                usage,
            },
        )
    });
    for (vni, session) in &all {
        maps.entries.insert(*vni, session).unwrap();
    }
    assert!(maps.entries.insert(5, &all[0].1).is_err(), "there is room");
    self_test::run(&program.fd().unwrap(), &mut maps, PORT).unwrap();
    for (vni, session) in all {
        assert_eq!(maps.entries.get(vni), Some(session));
    }
    assert_eq!(maps.entries.vnis().len(), 4);
}

#[test]
fn ways_out_that_no_session_uses_make_room_for_others() {
    let Some((_program, mut maps)) = loaded(7) else {
        return;
    };
    let egress = |ifindex| Egress {
        ifindex,
        ..Egress::default()
    };
    assert_eq!(maps.egresses.key(egress(0)), Some(egress::NONE));
    let keys: Vec<u16> = (1..)
        .map_while(|ifindex| maps.egresses.key(egress(ifindex)))
        .collect();
    let all: BTreeSet<_> = keys.iter().copied().collect();
    assert_eq!((keys.len(), all.len()), (1023, 1023));
    assert_eq!(maps.egresses.key(egress(7)), Some(keys[6]));

    maps.egresses.begin_round();
    for ifindex in 1..=1000 {
        assert!(maps.egresses.key(egress(ifindex)).is_some());
    }
    maps.egresses.end_round();
    assert_eq!(maps.egresses.get(keys[6]), Some(egress(7)));
    assert_eq!(maps.egresses.get(keys[1000]), None);
    assert_eq!(maps.egresses.get(egress::NONE), Some(egress(0)));
    let again: Vec<_> = (5000..)
        .map_while(|ifindex| maps.egresses.key(egress(ifindex)))
        .collect();
    assert_eq!(again, keys[1000..]);
}
