//! The program after the end of its relay, and how the next relay takes it over.

use std::{fs, path::PathBuf, process::Command, thread, time::Duration};

use aya::maps::{Array, Map, MapData};
use relay_proto::{Family, Timestamp, Vni};

use super::{
    attachments,
    client::{data, keys},
    wire::{PORT, Relay, Wire, block_on, clients4, exchange, few, options, two_cables},
};
use crate::relay::{
    data_path::FORWARD_AFTER_STOP,
    kernel::{
        Attachment,
        abi::{Config, ConfigValue},
        discard,
        program::Program,
        start, sys,
    },
    namespace::Net,
    replacement::FORWARD_UNTIL_REPLACED,
    socket_path::RestoredState,
};

/// Datagrams that are on their way while relays come and go.
const DATAGRAMS: u32 = 3_000;

/// Time for which the pull of an image may keep the next relay away.
const PULL: Duration = Duration::from_secs(180);
const _: () = assert!(FORWARD_UNTIL_REPLACED.as_secs() > PULL.as_secs());

/// A BPF file system of its own, unmounted in the end.
pub(super) struct Pins(tempfile::TempDir);

impl Pins {
    pub(super) fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(directory.path())
            .status();
        assert!(mount.unwrap().success());
        Self(directory)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("relay")
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).status().ok();
    }
}

/// Two clients with an open session at a relay that leaves it in the kernel.
pub(super) struct Scene {
    pub(super) relay: Relay,
    pub(super) vni: Vni,
    pub(super) a: Wire,
    pub(super) b: Wire,
    pub(super) pins: Pins,
    pub(super) net: Net,
}

impl Scene {
    pub(super) fn open(attachment: Attachment) -> Option<Self> {
        let (net, pins) = (two_cables()?, Pins::mount());
        let [a, b] = clients4(&net);
        let options = options(attachment, Some(pins.path()));
        let relay = Relay::on(&net, "relay", &["10.1.0.1:40000"], few(), options);
        let vni = relay.open(1, [&a, &b]);
        Some(Self {
            relay,
            vni,
            a,
            b,
            pins,
            net,
        })
    }
}

#[test]
fn packets_flow_while_the_relay_is_away_and_the_next_one_takes_over() {
    for attachment in attachments() {
        replace_relay(attachment);
    }
}

fn replace_relay(attachment: Attachment) {
    let Some(Scene {
        net,
        pins,
        a,
        b,
        relay,
        vni,
    }) = Scene::open(attachment)
    else {
        return;
    };
    let [open] = &relay.sessions()[..] else {
        panic!("one session is open");
    };
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            for number in 0..DATAGRAMS {
                assert_eq!(b.receive(), data(vni, &number.to_be_bytes()));
            }
        });
        let pace = || {
            for number in 0..DATAGRAMS {
                a.send(&data(vni, &number.to_be_bytes()));
                thread::yield_now();
                if number % 50 == 0 {
                    thread::sleep(Duration::from_millis(10));
                }
            }
        };
        let sender = scope.spawn(pace);
        // Everything that the process held is closed, and nothing is taken back.
        relay.socket_path.stop();
        relay.kernel.stop(Some(FORWARD_AFTER_STOP));
        let options = options(attachment, Some(pins.path()));
        let next = net.run("relay", || start(options)).unwrap();
        next.retain(vec![*open]);
        next.set_port(Some(PORT));
        sender.join().unwrap();
        receiver.join().unwrap();
        let counted = next.counters().forwarded[0].packets;
        assert_eq!(
            counted,
            u64::from(DATAGRAMS),
            "all of them, by one program or the other"
        );
        let activity = next
            .activity(vni, Timestamp::from_start(Duration::from_secs(60)))
            .unwrap();
        let mut packets = activity.map(|leg| leg.traffic.packets);
        packets.sort_unstable();
        assert_eq!(packets, [0, u64::from(DATAGRAMS)], "the entry is the same");
        next.stop(Some(FORWARD_AFTER_STOP));
    });
}

#[test]
fn kernel_forwards_until_the_time_that_a_stopped_relay_leaves() {
    let Some(scene) = Scene::open(Attachment::of(PORT)) else {
        return;
    };
    let (relay, end) = (&scene.relay, |time: Duration| {
        sys::monotonic_ns() + time.as_nanos() as u64
    });
    relay.socket_path.stop();
    let earliest = end(FORWARD_UNTIL_REPLACED);
    relay.kernel.stop(Some(FORWARD_UNTIL_REPLACED));
    let latest = end(FORWARD_UNTIL_REPLACED);
    let config = MapData::from_pin(scene.pins.path().join("CONFIG")).unwrap();
    let config: Array<_, ConfigValue> = Map::from_map_data(config).unwrap().try_into().unwrap();
    let config = Config::decode(&config.get(&0, 0).unwrap());
    assert!((earliest..=latest).contains(&config.valid_until));
    exchange(scene.vni, [&scene.a, &scene.b], 1);
}

#[test]
fn sessions_that_the_next_relay_does_not_know_end_with_its_start() {
    let Some(Scene {
        net,
        pins,
        relay,
        vni,
        a: _a,
        b: _b,
    }) = Scene::open(Attachment::of(PORT))
    else {
        return;
    };
    relay.socket_path.stop();
    relay.kernel.stop(Some(FORWARD_AFTER_STOP));
    let options = options(Attachment::of(PORT), Some(pins.path()));
    let next = net.run("relay", || start(options)).unwrap();
    next.retain(Vec::new());
    next.stop(None);
    assert!(
        next.activity(vni, Timestamp::from_start(Duration::from_secs(60)))
            .is_none()
    );
    assert!(
        !pins.path().exists(),
        "a relay that ends for good leaves nothing"
    );
}

#[test]
fn a_relay_whose_sockets_forward_leaves_nothing_to_what_was_left() {
    for attachment in attachments() {
        let Some(Scene {
            net,
            pins,
            relay,
            vni,
            a,
            b,
        }) = Scene::open(attachment)
        else {
            return;
        };
        relay.socket_path.stop();
        relay.kernel.stop(Some(FORWARD_AFTER_STOP));
        exchange(vni, [&a, &b], 1);
        let options = options(attachment, Some(pins.path()));
        net.run("relay", || discard(&options));
        assert!(!pins.path().exists());
        // The kernel lets go of an attachment a moment later.
        a.wait_at_most(Duration::from_millis(10));
        b.wait_at_most(Duration::from_millis(10));
        relay.wait(|_| {
            let passes = |from: &Wire, to: &Wire| {
                from.send(&data(vni, b"late"));
                to.try_receive().is_some()
            };
            !passes(&a, &b) && !passes(&b, &a)
        });
    }
}

#[test]
fn what_the_kernel_has_heard_counts_when_sessions_are_saved() {
    const STEADY: Duration = Duration::from_secs(2);
    let Some(scene) = Scene::open(Attachment::of(PORT)) else {
        return;
    };
    thread::sleep(STEADY + Duration::from_millis(100));
    exchange(scene.vni, [&scene.a, &scene.b], 1);
    let mut state = block_on(scene.relay.socket_path.export()).unwrap();
    scene.relay.socket_path.complete(&mut state);
    // In the next relay, sessions that were silent for that long are over.
    let config = relay_proto::Config {
        steady_lifetime: STEADY,
        ..few()
    };
    let now = Timestamp::from_start(Duration::from_secs(60));
    let mut next = relay_proto::Relay::new(config, keys(), [8; 32], 1, now);
    let restored = next.import(&state, 0, |_| true, now);
    assert_eq!(restored, 1, "the sockets heard of it last {STEADY:?} ago");
}

#[test]
fn what_a_relay_with_other_limits_or_other_maps_has_pinned_is_replaced() {
    let Some(net) = two_cables() else { return };
    let pins = Pins::mount();
    let attachment = Attachment::of(PORT);
    let same = few().max_sessions as u32;
    for (sessions, other_map) in [(7, None), (same, Some("GATEWAYS"))] {
        drop(Program::load(Some(pins.path()), sessions, attachment).unwrap());
        if let Some(name) = other_map {
            fs::rename(pins.path().join("EXITS"), pins.path().join(name)).unwrap();
        }
        let options = options(attachment, Some(pins.path()));
        let relay = Relay::on(&net, "relay", &["10.1.0.1:40000"], few(), options);
        let [a, b] = clients4(&net);
        let vni = relay.open(1, [&a, &b]);
        exchange(vni, [&a, &b], 1);
        assert_eq!(relay.forwarded(Family::V4), (0, 2));
        assert!(!pins.path().join("GATEWAYS").exists());
        drop(relay);
        assert!(!pins.path().exists());
    }
}

#[test]
fn sessions_that_only_the_kernel_forwarded_go_on_in_the_next_relay() {
    let Some(Scene {
        net,
        pins,
        a,
        b,
        relay,
        vni,
    }) = Scene::open(Attachment::of(PORT))
    else {
        return;
    };
    let state = block_on(relay.socket_path.export()).unwrap();
    relay.socket_path.stop();
    relay.kernel.stop(Some(FORWARD_AFTER_STOP));
    exchange(vni, [&a, &b], 1);
    // Longer than a session lives when its clients are silent.
    let away = 2 * few().steady_lifetime;
    let options = options(Attachment::of(PORT), Some(pins.path()));
    let left = Some(RestoredState { state, away });
    let next = Relay::after(&net, "relay", &["10.1.0.1:40000"], few(), options, left);
    assert_eq!(next.sessions().len(), 1, "the kernel heard of it just now");
    exchange(vni, [&a, &b], 2);
    assert_eq!(
        next.forwarded(Family::V4).0,
        0,
        "by the kernel all the time"
    );
}
