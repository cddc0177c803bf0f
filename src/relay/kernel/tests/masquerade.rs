//! Flows of other programs on the relay's port: the host masquerades them.

use std::os::fd::AsFd as _;

use super::{
    loaded, namespaces,
    wire::{PORT, Relay, Wire},
};
use crate::relay::kernel::{abi, frame, sys};

/// A datagram of WireGuard's, which as a Geneve header would be data of some VNI.
const WIREGUARD: [u8; 64] = [4; 64];
/// An answer of a name server, which as a Geneve header would have the control bit.
const DNS: [u8; 32] = {
    let mut answer = [1; 32];
    (answer[1], answer[2], answer[3]) = (0x83, 0x81, 0x80);
    answer
};
/// More than the guard against floods lets through in its window, on several CPUs.
const DATAGRAMS: u16 = 4_000;

#[test]
fn other_protocols_pass_the_guard_against_floods_at_any_rate() {
    const NEXT: i32 = -1;
    let Some((mut program, mut maps)) = loaded(8) else {
        return;
    };
    let (stranger, relay) = ("10.1.0.9:7".parse().unwrap(), "10.9.0.1".parse().unwrap());
    maps.locals.insert(abi::address_key(relay), 1, 0).unwrap();
    let program = program.fd().unwrap();
    for payload in [&WIREGUARD[..], &DNS[..]] {
        let frame = frame::udp(stranger, (relay, PORT).into(), 64, payload);
        for _ in 0..5 {
            let run = sys::test_run(program.as_fd(), &frame, 0, 20_000).unwrap();
            assert_eq!(run.verdict, NEXT, "{payload:?}");
        }
    }
}

#[test]
fn a_masqueraded_flow_on_the_relays_port_loses_nothing() {
    let Some(net) = namespaces(["pod", "relay", "b"]) else {
        return;
    };
    for (other, device, net_number) in [("pod", "left", 1), ("b", "right", 2)] {
        let ip = |host: u8| format!("10.{net_number}.0.{host}/24");
        net.cable([(other, "eth0", &[&ip(2)]), ("relay", device, &[&ip(1)])]);
    }
    net.ip("pod", "route add default via 10.1.0.1");
    let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    net.run("relay", forward).unwrap();
    net.nft(
        "relay",
        "table ip nat {\n\
         chain after {\n\
         type nat hook postrouting priority 100\n\
         ip saddr 10.1.0.0/24 masquerade\n\
         }\n\
         }\n",
    );
    let _relay = Relay::start(&net, "relay", &["10.2.0.1:40000"]);
    let pod = Wire::new(&net, "pod", "10.1.0.2:40000", "10.2.0.2:7");
    let server = Wire::new(&net, "b", "10.2.0.2:7", "10.2.0.1:40000");
    pod.send(b"hello");
    server.hear(b"hello");
    let mut datagram = WIREGUARD;
    for number in 0..DATAGRAMS {
        datagram[8..10].copy_from_slice(&number.to_be_bytes());
        server.send(&datagram);
        pod.hear(&datagram);
    }
}
