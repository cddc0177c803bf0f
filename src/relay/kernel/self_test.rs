//! Before the program is trusted with a packet, it forwards two that never were on a wire: one of
//! each family, through a session of its own whose VNI no real one can have.

use std::net::{IpAddr, SocketAddr};

use relay_proto::geneve::{HEADER_LEN, PROTOCOL_WIREGUARD};

use super::{
    abi, egress,
    entry::{Leg, SessionEntry, Usage},
    frame,
    program::Maps,
    sys,
};

/// What the program answers when it has sent a packet on (`TC_ACT_REDIRECT`).
pub(super) const REDIRECTED: i32 = 7;
/// No session has it.
const VNI: u32 = 0;
/// Key of a local address that no real one has.
const SELF: u32 = 0;
/// For documentation only (RFC 5737, RFC 3849): two clients and the relay.
const ENDS: [[&str; 3]; 2] = [
    ["192.0.2.1", "192.0.2.2", "192.0.2.3"],
    ["2001:db8::1", "2001:db8::2", "2001:db8::3"],
];
const PORTS: [u16; 2] = [41_641, 41_642];

/// Runs both packets. The maps are afterwards as they were.
pub(super) fn run(
    program: &aya::programs::ProgramFd,
    maps: &mut Maps,
    port: u16,
) -> Result<(), String> {
    for ends in ENDS {
        let [a, b, relay] = ends.map(|ip| ip.parse::<IpAddr>().expect("constants are addresses"));
        let clients = [SocketAddr::new(a, PORTS[0]), SocketAddr::new(b, PORTS[1])];
        // Tables of a power of two have just the room for as many sessions as there may be: one more
        // would double them.
        let displaced = maps.entries.insert_anyway(VNI, &between(clients));
        let displaced = displaced.map_err(|error| error.to_string())?;
        let result = forward(program, maps, clients, SocketAddr::new(relay, port));
        maps.entries.remove(VNI);
        if let Some((vni, session)) = displaced {
            maps.entries.insert(vni, &session).ok();
        }
        maps.locals.remove(&abi::address_key(relay)).ok();
        result.map_err(|error| format!("to {b}: {error}"))?;
    }
    Ok(())
}

fn between(clients: [SocketAddr; 2]) -> SessionEntry {
    SessionEntry {
        legs: clients.map(|address| Leg {
            address,
            mtu: 1500,
            egress: egress::NONE,
        }),
        usage: Usage::default(),
    }
}

fn forward(
    program: &aya::programs::ProgramFd,
    maps: &mut Maps,
    clients: [SocketAddr; 2],
    relay: SocketAddr,
) -> Result<(), String> {
    use std::os::fd::AsFd;

    maps.locals
        .insert(abi::address_key(relay.ip()), SELF, 0)
        .map_err(|error| error.to_string())?;

    let mut data = vec![0; HEADER_LEN];
    data[2..4].copy_from_slice(&PROTOCOL_WIREGUARD.to_be_bytes());
    data.extend((0..100).map(|i| i as u8));
    let sent = frame::udp(clients[0], relay, 64, &data);
    let run = sys::test_run(program.as_fd(), &sent, 0, 1).map_err(|error| error.to_string())?;
    if run.verdict != REDIRECTED {
        return Err(format!(
            "the program answered {} instead of sending on",
            run.verdict
        ));
    }
    if frame::ends(&run.packet) != (relay, clients[1], 63) || frame::payload(&run.packet) != data {
        return Err("the packet came out with wrong headers".into());
    }
    if !frame::is_sealed(&run.packet) {
        return Err("the packet came out with a wrong checksum".into());
    }
    Ok(())
}
