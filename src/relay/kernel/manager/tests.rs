//! The thread's turns, one at a time.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::net::SocketAddr;

use super::*;
use crate::relay::{
    kernel::{Attachment, program::OBJECT},
    namespace::Net,
};

const SESSIONS: u32 = 20_000;

/// A thread without port, which only keeps entries, and the sender of its requests.
fn manager() -> (Manager, mpsc::Sender<Request>) {
    let (program, maps, _) = Program::load(None, SESSIONS, Attachment::Link).unwrap();
    let (requests, inbox) = mpsc::channel();
    let manager = Manager::new(
        program,
        maps,
        inbox,
        Waker::new().unwrap(),
        watch::Sender::default(),
        Arc::default(),
        Config::default(),
    );
    (manager.unwrap(), requests)
}

fn session(number: u32, a: &str) -> OpenSession {
    let port = number as u16 | 1;
    OpenSession {
        vni: Vni::new(number).unwrap(),
        legs: [a, "10.1.0.9"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port)),
        locals: [None; 2],
    }
}

fn finish_round(manager: &mut Manager, timers: &mut Timers) -> usize {
    let mut turns = 0;
    while manager.rounds.is_running() {
        assert!(manager.turn(timers).is_continue());
        turns += 1;
    }
    turns
}

/// Entries whose first leg has this MTU.
fn with_mtu(manager: &Manager, mtu: u16) -> usize {
    let entries = (1..=SESSIONS).filter_map(|vni| manager.maps.entries.get(vni));
    entries.filter(|entry| entry.legs[0].mtu == mtu).count()
}

#[test]
fn requests_are_served_while_routes_of_many_sessions_are_followed() {
    if OBJECT.is_empty() {
        return skips::record("the kernel program was not built: install clang and build again");
    }
    let Some(net) = Net::open(["relay", "clients"]) else {
        return;
    };
    net.cable([
        ("relay", "left", &["10.1.0.1/24"]),
        ("clients", "eth0", &["10.1.0.2/24"]),
    ]);
    net.run("relay", || {
        let (mut manager, requests) = manager();
        let mut timers = Timers::new(Instant::now());
        let open = (1..=SESSIONS).map(|number| session(number, "10.1.0.2"));
        requests.send(Request::Retain(open.collect())).unwrap();
        assert!(manager.turn(&mut timers).is_continue());
        assert!(with_mtu(&manager, 1_500) < SESSIONS as usize / 2);
        assert!(finish_round(&mut manager, &mut timers) > 10);
        assert_eq!(with_mtu(&manager, 1_500), SESSIONS as usize);

        net.ip("relay", "link set left mtu 1400");
        manager.follow_network();
        let (revoked, moved) = (Vni::new(SESSIONS).unwrap(), SESSIONS - 1);
        let moved_to = session(moved, "10.1.0.3");
        requests.send(Request::Remove(revoked)).unwrap();
        requests.send(Request::Place(moved_to)).unwrap();
        assert!(manager.turn(&mut timers).is_continue());
        assert_eq!(manager.maps.entries.get(revoked.number()), None);
        let entry = manager.maps.entries.get(moved).unwrap();
        assert_eq!(entry.legs.map(|leg| leg.address), moved_to.legs);
        assert!(with_mtu(&manager, 1_400) < SESSIONS as usize / 2);

        // The network changes again before the end.
        net.ip("relay", "link set left mtu 1300");
        manager.follow_network();
        finish_round(&mut manager, &mut timers);
        assert_eq!(with_mtu(&manager, 1_300), SESSIONS as usize - 1);
    });
}
