//! The first data of a session, which comes before the program has an entry for it.

use std::{cell::RefCell, collections::BTreeSet, time::Duration};

use relay_proto::{DropReason, Vni, geneve::Header};

use super::{
    client::{Client, data},
    limits::dropped,
    wire::{Relay, block_on, clients4, exchange, two_cables},
};
use crate::relay::socket_path::PROBE_HEADER;

/// Sessions that open one after another.
const SESSIONS: u8 = 40;
/// More unknown numbers than one CPU lets through, and than come by chance in the next window.
const FLOOD: u32 = 600;
/// No datagram is on its way for so long.
const LATE: Duration = Duration::from_secs(2);

#[test]
fn first_data_arrive_while_unknown_numbers_flood() {
    let Some(net) = two_cables() else { return };
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    let [a, b] = clients4(&net);
    // All that each session lacks is A's last message.
    let almost_open = |n: u8| {
        let [alice, bob] = [Client::new(2 * n + 1), Client::new(2 * n + 2)];
        let request = alice.request(&bob);
        let response = block_on(
            relay
                .socket_path
                .handle_derp(|| Some(alice.peer()), request),
        );
        let vni = alice.vni(&response.unwrap());
        b.send(&bob.bind(vni, 1, &alice));
        b.send(&bob.answer(vni, 1, &alice, &b.receive()));
        a.send(&alice.bind(vni, 1, &bob));
        (vni, alice.answer(vni, 1, &bob, &a.receive()))
    };
    let sessions: Vec<(Vni, Vec<u8>)> = (0..SESSIONS).map(almost_open).collect();
    let known: BTreeSet<Vni> = sessions.iter().map(|(vni, _)| *vni).collect();
    let flood = unknown(&known);
    for (vni, answer) in &sessions {
        for datagram in flood.iter().cycle().take(FLOOD as usize) {
            a.send(datagram);
        }
        a.send(answer);
        a.send(&data(*vni, b"first"));
    }
    let mut came = BTreeSet::new();
    b.wait_at_most(LATE);
    while came.len() < known.len()
        && let Some(datagram) = b.try_receive()
    {
        came.extend(Header::decode(&datagram).map(|header| header.vni));
    }
    let lost: Vec<_> = known.difference(&came).collect();
    assert!(lost.is_empty(), "of {}: {lost:?}", known.len());
    assert!(dropped(&relay, DropReason::UnknownVni) > u64::from(FLOOD));
}

/// Data of numbers that no session has.
fn unknown(known: &BTreeSet<Vni>) -> Vec<Vec<u8>> {
    let others = (1..)
        .filter_map(Vni::new)
        .filter(|vni| !known.contains(vni));
    others.map(|vni| data(vni, &[0; 32])).take(64).collect()
}

#[test]
fn the_program_drops_handshakes_of_unknown_vnis_only() {
    let Some(net) = two_cables() else { return };
    let relay = Relay::start(&net, "relay", &["10.1.0.1:40000"]);
    let [a, b] = clients4(&net);
    let flood = unknown(&BTreeSet::new());
    let handshake = |datagram: &Vec<u8>| [&[0, 0x80, 0x7a, 0x11], &datagram[4..]].concat();
    let flood: Vec<_> = flood.iter().map(handshake).collect();
    let probes = RefCell::new(relay.socket_path.demux().probes());
    let probed = |_: &Relay| probes.borrow_mut().try_recv().is_ok();
    for round in 0..10 {
        for datagram in flood.iter().cycle().take(FLOOD as usize) {
            a.send(datagram);
        }
        a.send(&PROBE_HEADER);
        relay.wait(probed);
        let vni = relay.open(2 * round + 1, [&a, &b]);
        exchange(vni, [&a, &b], round);
    }
    assert!(dropped(&relay, DropReason::UnknownVni) > u64::from(FLOOD));
}
