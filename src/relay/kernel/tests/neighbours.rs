//! Programs of others at the same hook, as those of a CNI are: before the relay's and after it.

use std::{net::UdpSocket, time::Duration};

use aya::programs::{
    LinkOrder, TcAttachType,
    tc::{SchedClassifierLink, TcAttachOptions},
};
use relay_proto::{Family, Vni};

use super::{
    client::at,
    persistence::Scene,
    wire::{PORT, Relay, Wire, block_on, exchange, few, options},
};
use crate::relay::{
    kernel::{
        Attachment, KernelCounters, KernelOptions, abi, discard,
        program::{CounterMaps, Program},
        sys,
    },
    namespace::Net,
    netlink::{Device, Netlink},
    socket_path::RestoredState,
};

/// Port of the datagrams that the programs of others count.
const OTHER: u16 = PORT + 1;
/// The device that clients A send to.
const DEVICE: &str = "left";

/// Program of another process: it counts the datagrams for [`OTHER`], and lets all pass. It has the code of the
/// relay's, and no local address.
struct Neighbour {
    program: Program,
    counters: CounterMaps,
    link: Option<SchedClassifierLink>,
}

impl Neighbour {
    fn attached(net: &Net, order: LinkOrder) -> Self {
        let (program, mut maps, counters) = Program::load(None, 8, Attachment::Link).unwrap();
        let config = abi::Config {
            valid_until: u64::MAX,
            port: OTHER,
            ..abi::Config::default()
        };
        maps.config.set(0, config.encode(), 0).unwrap();
        let mut neighbour = Self {
            program,
            counters,
            link: None,
        };
        neighbour.attach(net, order);
        neighbour
    }

    /// Attaches the program, after it was detached from where it was.
    fn attach(&mut self, net: &Net, order: LinkOrder) {
        self.link = None;
        let classifier = self.program.classifier();
        let options = TcAttachOptions::TcxOrder(order);
        let attach = || {
            let id = classifier.attach_with_options(DEVICE, TcAttachType::Ingress, options);
            classifier.take_link(id.unwrap()).unwrap()
        };
        self.link = Some(net.run("relay", attach));
    }

    fn id(&mut self) -> u32 {
        self.program.classifier().info().unwrap().id()
    }

    fn seen(&self) -> u64 {
        KernelCounters::read(&self.counters, 0).passed.iter().sum()
    }
}

/// Programs at the hook of [`DEVICE`], in their order.
fn attached(net: &Net) -> Vec<u32> {
    net.run("relay", || {
        let devices = Netlink::new().unwrap().devices().unwrap();
        let is_wanted = |(_, device): &(&u32, &Device)| device.name == DEVICE;
        let (index, _) = devices.iter().find(is_wanted).unwrap();
        sys::attached(*index).unwrap()
    })
}

/// Datagrams of the relay's clients, and of another program of the host.
struct Traffic {
    vni: Vni,
    clients: [Wire; 2],
    other: Wire,
    other_socket: UdpSocket,
    sent: u8,
}

impl Traffic {
    fn new(net: &Net, vni: Vni, clients: [Wire; 2]) -> Self {
        let other_socket = net.run("relay", || UdpSocket::bind(at("10.1.0.1:40001")).unwrap());
        let patience = Some(Duration::from_secs(10));
        other_socket.set_read_timeout(patience).unwrap();
        Self {
            vni,
            clients,
            other: Wire::new(net, "a", "10.1.0.2:7", "10.1.0.1:40001"),
            other_socket,
            sent: 0,
        }
    }

    /// Fails unless the kernel forwards, and both programs of others see their datagram, which arrives.
    fn passes(&mut self, relay: &Relay, [before, after]: [&Neighbour; 2]) {
        let counts = || [before.seen(), after.seen()];
        let (seen, forwarded) = (counts(), relay.forwarded(Family::V4));
        let [a, b] = &self.clients;
        exchange(self.vni, [a, b], self.sent);
        let now = relay.forwarded(Family::V4);
        let forwarded = (now.0 - forwarded.0, now.1 - forwarded.1);
        assert_eq!(forwarded, (0, 2), "the kernel forwards");
        self.sent += 1;
        self.other.send(&[self.sent; 20]);
        let mut buffer = [0; 64];
        let len = self.other_socket.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..len], [self.sent; 20]);
        assert_eq!(counts(), seen.map(|seen| seen + 1), "both saw it");
    }
}

#[test]
fn programs_of_others_before_and_after_lose_nothing_and_take_nothing() {
    let Some(Scene {
        relay,
        vni,
        a,
        b,
        pins,
        net,
    }) = Scene::open(Attachment::Link)
    else {
        return;
    };
    let mut traffic = Traffic::new(&net, vni, [a, b]);
    let [ours] = attached(&net)[..] else {
        panic!("the relay's program is alone");
    };
    let mut before = Neighbour::attached(&net, LinkOrder::first());
    let mut after = Neighbour::attached(&net, LinkOrder::last());
    assert_eq!(attached(&net), [before.id(), ours, after.id()]);
    traffic.passes(&relay, [&before, &after]);

    // They are replaced: the new ones are attached before the old ones go.
    for (neighbour, order) in [
        (&mut before, LinkOrder::first()),
        (&mut after, LinkOrder::last()),
    ] {
        let mut next = Neighbour::attached(&net, order);
        std::mem::swap(neighbour, &mut next);
    }
    assert_eq!(attached(&net), [before.id(), ours, after.id()]);
    traffic.passes(&relay, [&before, &after]);
    // They change their places.
    before.attach(&net, LinkOrder::last());
    after.attach(&net, LinkOrder::first());
    assert_eq!(attached(&net), [after.id(), ours, before.id()]);
    traffic.passes(&relay, [&after, &before]);
    assert_eq!(relay.kernel.counters().detached, 0);

    let kernel = options(Attachment::Link, Some(pins.path()));
    let next = successor(&relay, &net, &kernel);
    let [first, now, last] = attached(&net)[..] else {
        panic!("three programs are attached");
    };
    assert_eq!([first, last], [after.id(), before.id()]);
    assert_ne!(now, ours);
    traffic.passes(&next, [&after, &before]);

    // The relay is removed, and they stay.
    drop(next);
    discard(&kernel);
    assert_eq!(attached(&net), [after.id(), before.id()]);
}

/// Replaces a relay: the program of the next one takes the place of its own.
fn successor(relay: &Relay, net: &Net, kernel: &KernelOptions) -> Relay {
    let left = RestoredState {
        state: block_on(relay.socket_path.export()).unwrap(),
        away: Duration::ZERO,
    };
    relay.socket_path.stop();
    relay.kernel.stop(Some(Duration::from_secs(60)));
    let own = &["10.1.0.1:40000"];
    Relay::after(net, "relay", own, few(), kernel.clone(), Some(left))
}
