//! Another process puts its own program in the place of the relay's.

use std::{fs, path::Path};

use aya::programs::links::PinnedLink;
use relay_proto::Family;

use super::{
    persistence::Scene,
    wire::{Relay, exchange},
};
use crate::relay::kernel::{
    Attachment, UnavailableReason,
    program::{Program, take_over},
};

/// Replaces the relay's program wherever it is attached; returns where.
fn replace(pins: &Path, other: &mut Program) -> u64 {
    let files = fs::read_dir(pins).unwrap().map(|file| file.unwrap().path());
    let is_link = |file: &Path| {
        file.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("link-")
    };
    let mut count = 0;
    for file in files.filter(|file| is_link(file)) {
        let link = PinnedLink::from_pin(&file).unwrap();
        take_over(other.classifier(), link).unwrap();
        count += 1;
    }
    count
}

#[test]
fn a_detached_program_is_attached_again_and_no_datagram_is_lost() {
    let Some(Scene {
        a,
        b,
        relay,
        vni,
        pins,
        net: _net,
    }) = Scene::open(Attachment::Link)
    else {
        return;
    };
    let exchange = |n| exchange(vni, [&a, &b], n);
    // It has maps of its own, in which there is no session: it leaves everything to the sockets.
    let (mut other, _maps, _counters) = Program::load(None, 100, Attachment::Link).unwrap();
    let detached = |relay: &Relay| relay.kernel.counters().detached;

    assert_eq!(replace(&pins.path(), &mut other), 2);
    exchange(1);
    relay.wait(|relay| detached(relay) == 2 && relay.kernel.state().borrow().devices() == 2);
    let before = relay.forwarded(Family::V4);
    exchange(2);
    let after = relay.forwarded(Family::V4);
    assert_eq!(after.1 - before.1, 2, "the kernel forwards again");

    // Who does it again is not fought, and the state says so.
    assert_eq!(replace(&pins.path(), &mut other), 2);
    let said = |relay: &Relay| match &relay.kernel.state().borrow().0 {
        Ok(_) => None,
        Err(error) => Some(error.reason),
    };
    relay.wait(|relay| said(relay) == Some(UnavailableReason::Detached));
    exchange(3);
    relay.wait(|relay| relay.kernel.state().borrow().devices() == 2);
    let before = relay.forwarded(Family::V4);
    exchange(4);
    let after = relay.forwarded(Family::V4);
    assert_eq!((after.1 - before.1, detached(&relay)), (2, 4));
}
