//! Bandwidth limits in the program.

use std::{num::NonZero, thread, time::Duration};

use relay_proto::{Config, DropReason, Family, Vni, geneve::HEADER_LEN};

use super::{
    client::data,
    wire::{Relay, Wire, clients4, few, two_cables},
};

/// UDP payload of each datagram, in bytes.
const LEN: usize = 1 << 10;
/// Datagrams that a limit lets through at once, however low it is.
const BURST: u64 = 128;
/// Datagrams that a slow machine may let through besides: one for each second that it takes, and
/// one for each CPU that looks at the same moment.
const SLACK: u64 = 20;

/// A limit of one datagram a second.
const ONE: Option<NonZero<u64>> = NonZero::new(LEN as u64);

/// Sends that many datagrams, and takes what comes out until then; returns how many that are.
fn flood([from, to]: [&Wire; 2], vni: Vni, count: usize) -> u64 {
    let datagram = data(vni, &[0; LEN - HEADER_LEN]);
    let mut came = 0;
    for _ in 0..count {
        from.send(&datagram);
        while to.try_receive_now() {
            came += 1;
        }
    }
    came
}

/// Datagrams that the program dropped for a reason.
pub(super) fn dropped(relay: &Relay, wanted: DropReason) -> u64 {
    let counters = relay.kernel.counters();
    let mut all = counters.dropped.into_iter();
    all.find(|(reason, _)| *reason == wanted).unwrap().1
}

#[test]
fn data_above_a_sessions_bandwidth_is_dropped_and_other_sessions_go_on() {
    let Some(net) = two_cables() else { return };
    let limits = Config {
        max_bytes_per_second_per_session: ONE,
        ..few()
    };
    let relay = Relay::with(&net, "relay", &["10.1.0.1:40000"], limits, None);
    let [a, b] = clients4(&net);
    let (first, second) = (relay.open(1, [&a, &b]), relay.open(3, [&a, &b]));
    let mut came = 0;
    for (vni, sessions) in [(first, 1), (second, 2)] {
        came += flood([&a, &b], vni, 200);
        relay.wait(|relay| {
            let (_, forwarded) = relay.forwarded(Family::V4);
            forwarded + dropped(relay, DropReason::SessionRate) == sessions * 200
        });
        let (sockets, forwarded) = relay.forwarded(Family::V4);
        assert_eq!(sockets, 0);
        assert!((sessions * BURST..=sessions * BURST + SLACK).contains(&forwarded));
    }
    assert_eq!(dropped(&relay, DropReason::RelayRate), 0);
    let (_, forwarded) = relay.forwarded(Family::V4);
    (came..forwarded).for_each(|_| drop(b.receive()));
    assert!(!b.try_receive_now(), "nothing more came out");
}

#[test]
fn both_paths_together_keep_to_the_relays_bandwidth() {
    let Some(net) = two_cables() else { return };
    let limits = Config {
        max_bytes_per_second: ONE,
        ..few()
    };
    let relay = Relay::with(&net, "relay", &["10.1.0.1:40000"], limits, None);
    let [a, b] = clients4(&net);
    let other = Wire::new(&net, "b", "[2001:db8:2::2]:1002", "[2001:db8:2::1]:40000");
    let (kernel, mixed) = (relay.open(1, [&a, &b]), relay.open(3, [&a, &other]));
    let came = flood([&a, &b], kernel, 100);
    (came..100).for_each(|_| drop(b.receive()));
    // Between the families the sockets forward.
    let by_sockets = |relay: &Relay| {
        let counters = relay.snapshot().counters;
        let forwarded = counters.forwarded(Family::V4, Family::V6).packets;
        (forwarded, counters.dropped(DropReason::RelayRate))
    };
    flood([&a, &other], mixed, 100);
    relay.wait(|relay| {
        let (forwarded, dropped) = by_sockets(relay);
        forwarded + dropped == 100
    });
    let (forwarded, _) = by_sockets(&relay);
    assert!(
        (BURST - 100..=BURST - 100 + SLACK).contains(&forwarded),
        "{forwarded}"
    );
    flood([&a, &b], kernel, 10);
    relay.wait(|relay| dropped(relay, DropReason::RelayRate) > 0);
}

#[test]
fn data_flows_again_once_a_limit_is_not_exceeded_any_more() {
    let Some(net) = two_cables() else { return };
    let limits = Config {
        max_bytes_per_second: NonZero::new(1 << 20),
        max_bytes_per_second_per_session: NonZero::new(1 << 20),
        ..few()
    };
    let relay = Relay::with(&net, "relay", &["10.1.0.1:40000"], limits, None);
    let [a, b] = clients4(&net);
    let vni = relay.open(1, [&a, &b]);
    relay.wait(|relay| {
        flood([&a, &b], vni, 50);
        dropped(relay, DropReason::SessionRate) > 0
    });
    let (_, before) = relay.forwarded(Family::V4);
    relay.wait(|relay| {
        thread::sleep(Duration::from_millis(2));
        flood([&a, &b], vni, 1);
        relay.forwarded(Family::V4).1 > before
    });
}
