//! The program as a clsact filter, which is all that Linux before 6.6 has.

use std::{collections::BTreeMap, path::PathBuf};

use relay_proto::Family;

use super::{
    persistence::{Pins, Scene},
    wire::{PORT, Relay, exchange, few, options, two_cables},
};
use crate::relay::{
    kernel::{Attachment, program::Program},
    namespace::Net,
    netlink::{Device, Netlink},
};

const DEVICES: [&str; 2] = ["left", "right"];

/// Filters of relays at a device, each a line.
fn filters(net: &Net, device: &str) -> Vec<String> {
    let all = net.tc("relay", &format!("filter show dev {device} ingress"));
    let ours = all.lines().filter(|line| line.contains(" peerrelay "));
    ours.map(str::to_owned).collect()
}

/// Directory of the pins of a relay with this port.
fn pinned(pins: &Pins, port: u16) -> PathBuf {
    pins.path().with_file_name(format!("relay-{port}"))
}

/// Leaves behind what a killed relay with this port does.
fn killed(net: &Net, pins: &Pins, port: u16) {
    net.run("relay", || {
        let devices = Netlink::new().unwrap().devices().unwrap();
        let named = |(index, device): (&u32, &Device)| {
            let name = device.name.clone();
            DEVICES.contains(&&*name).then_some((*index, name))
        };
        let devices: BTreeMap<_, _> = devices.iter().filter_map(named).collect();
        let pins = Some(pinned(pins, port));
        let (mut program, _, _) =
            Program::load(pins, few().max_sessions as u32, Attachment::Filter(port)).unwrap();
        let errors = program.attach(&devices);
        assert!(errors.is_empty(), "{errors:?}");
        std::mem::forget(program);
    });
}

#[test]
fn a_filter_forwards_and_goes_with_the_relay() {
    let Some(scene) = Scene::open(Attachment::Filter(PORT)) else {
        return;
    };
    exchange(scene.vni, [&scene.a, &scene.b], 1);
    assert_eq!(scene.relay.forwarded(Family::V4), (0, 2));
    for device in DEVICES {
        assert_eq!(filters(&scene.net, device).len(), 1);
    }
    scene.relay.socket_path.stop();
    scene.relay.kernel.stop(None);
    for device in DEVICES {
        assert!(filters(&scene.net, device).is_empty(), "{device}");
    }
}

#[test]
fn a_filter_replaces_the_one_of_a_killed_relay_with_its_port_only() {
    let Some(net) = two_cables() else { return };
    let pins = Pins::mount();
    let other = PORT + 1;
    for port in [PORT, other] {
        killed(&net, &pins, port);
    }
    let left = DEVICES.map(|device| filters(&net, device));
    let options = options(Attachment::Filter(PORT), Some(pinned(&pins, PORT)));
    let relay = Relay::on(&net, "relay", &["10.1.0.1:40000"], few(), options);
    for (device, left) in DEVICES.into_iter().zip(left) {
        let now = filters(&net, device);
        assert_eq!((left.len(), now.len()), (2, 2), "{now:?}");
        let handle = |port: u16| format!("handle 0x7072{port:04x} ");
        let of = |lines: &[String], port| {
            let line = lines.iter().find(|line| line.contains(&handle(port)));
            line.cloned().unwrap()
        };
        assert_eq!(of(&left, other), of(&now, other));
        assert_ne!(of(&left, PORT), of(&now, PORT), "another program");
    }
    drop(relay);
    assert_eq!(DEVICES.map(|device| filters(&net, device).len()), [1, 1]);
}

#[test]
fn a_removed_filter_is_attached_again_and_no_datagram_is_lost() {
    let Some(Scene {
        a,
        b,
        relay,
        vni,
        net,
        pins: _pins,
    }) = Scene::open(Attachment::Filter(PORT))
    else {
        return;
    };
    let ways = ["filter del dev left ingress", "qdisc del dev right clsact"];
    for (count, way) in (1..).zip(ways) {
        net.tc("relay", way);
        exchange(vni, [&a, &b], 1);
        relay.wait(|relay| relay.kernel.counters().detached == count);
        assert_eq!(relay.kernel.state().borrow().devices(), 2);
        let before = relay.forwarded(Family::V4);
        exchange(vni, [&a, &b], 2);
        let after = relay.forwarded(Family::V4);
        assert_eq!(after.1 - before.1, 2, "the kernel forwards again");
    }
}
