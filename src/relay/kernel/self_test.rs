//! Before the program is trusted with a packet, it forwards two that never were on a wire: one of
//! each family, through a session of its own whose VNI no real one can have.

use std::net::{IpAddr, SocketAddr};

use relay_proto::geneve::{HEADER_LEN, PROTOCOL_WIREGUARD};

use super::{
    abi,
    entry::{Leg, Session, Used},
    exits, frame,
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
        let result = forward(program, maps, [a, b, relay], port);
        maps.entries.remove(VNI);
        maps.locals.remove(&abi::address_key(relay)).ok();
        result.map_err(|error| format!("to {b}: {error}"))?;
    }
    Ok(())
}

fn forward(
    program: &aya::programs::ProgramFd,
    maps: &mut Maps,
    [a, b, relay]: [IpAddr; 3],
    port: u16,
) -> Result<(), String> {
    use std::os::fd::AsFd;

    let clients = [SocketAddr::new(a, PORTS[0]), SocketAddr::new(b, PORTS[1])];
    let relay = SocketAddr::new(relay, port);
    let session = Session {
        legs: clients.map(|address| Leg {
            address,
            mtu: 1500,
            exit: exits::NONE,
        }),
        used: Used::default(),
    };
    let failed = |error: aya::maps::MapError| error.to_string();
    maps.entries.insert(VNI, &session).map_err(failed)?;
    maps.locals
        .insert(abi::address_key(relay.ip()), SELF, 0)
        .map_err(failed)?;

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
