//! Self-test: before the program is trusted with a packet, it forwards two that never were on a wire, one
//! of each IP version, through a session of its own whose VNI no real session can have.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
};

use aya::{maps::MapError, programs::ProgramFd};
use relay_proto::geneve::{HEADER_LEN, PROTOCOL_WIREGUARD};

use super::{
    abi,
    availability::{Unavailable, UnavailableReason},
    egress,
    entry::{Leg, SessionEntry, Usage},
    frame,
    program::Maps,
    sys,
};

/// Verdict of the program when it has sent a packet on (`TC_ACT_REDIRECT`).
pub(super) const REDIRECTED: i32 = 7;
/// VNI of the test's session; the core gives it to no session.
const VNI: u32 = 0;
/// Key of the test's local address; no real one has it.
const SELF: u32 = 0;
/// Addresses of two clients and the relay, reserved for documentation (RFC 5737, RFC 3849).
const ENDS: [[&str; 3]; 2] = [
    ["192.0.2.1", "192.0.2.2", "192.0.2.3"],
    ["2001:db8::1", "2001:db8::2", "2001:db8::3"],
];
const PORTS: [u16; 2] = [41_641, 41_642];

/// Error from the self-test.
#[derive(Debug, thiserror::Error)]
#[error("to {to}: {cause}")]
pub(super) struct SelfTestError {
    /// Client for which the packet was.
    to: IpAddr,
    #[source]
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("failed to enter the test's session: {0}")]
    Map(#[from] MapError),
    #[error("failed to run the program: {0}")]
    Run(#[from] io::Error),
    #[error("the program answered {0} instead of sending on")]
    NotSent(i32),
    #[error("the packet came out with wrong headers")]
    Headers,
    #[error("the packet came out with a wrong checksum")]
    Checksum,
}

impl From<SelfTestError> for Unavailable {
    fn from(error: SelfTestError) -> Self {
        Self::new(
            UnavailableReason::SelfTestFailed,
            format!("the program forwards wrongly on this kernel: {error}"),
        )
    }
}

/// Runs the program on both packets. The maps are afterwards as they were.
pub(super) fn run(program: &ProgramFd, maps: &mut Maps, port: u16) -> Result<(), SelfTestError> {
    for ends in ENDS {
        let [a, b, relay] = ends.map(|ip| ip.parse::<IpAddr>().expect("constants are addresses"));
        let clients = [SocketAddr::new(a, PORTS[0]), SocketAddr::new(b, PORTS[1])];
        let result = with_session(maps, clients, |maps| {
            forward(program, maps, clients, SocketAddr::new(relay, port))
        });
        maps.locals.remove(&abi::address_key(relay)).ok();
        result.map_err(|cause| SelfTestError { to: b, cause })?;
    }
    Ok(())
}

/// Does `work` while there is a session between these clients. Its entry takes the place of another one
/// where the table is full: a table with room for one more than the limit would have twice the
/// size, as sizes are powers of two.
fn with_session(
    maps: &mut Maps,
    clients: [SocketAddr; 2],
    work: impl FnOnce(&mut Maps) -> Result<(), Cause>,
) -> Result<(), Cause> {
    let displaced = maps.entries.insert_anyway(VNI, &between(clients))?;
    let result = work(maps);
    maps.entries.remove(VNI);
    if let Some(displaced) = displaced {
        maps.entries.put_back(&displaced);
    }
    result
}

fn between(clients: [SocketAddr; 2]) -> SessionEntry {
    SessionEntry {
        legs: clients.map(|address| Leg {
            address,
            // At least the length of the test's packet; zero would leave it to the sockets.
            mtu: 1500,
            egress: egress::NONE,
        }),
        usage: Usage::default(),
    }
}

fn forward(
    program: &ProgramFd,
    maps: &mut Maps,
    clients: [SocketAddr; 2],
    relay: SocketAddr,
) -> Result<(), Cause> {
    let key = abi::address_key(relay.ip());
    maps.locals.insert(key, SELF, 0)?;
    let mut data = vec![0; HEADER_LEN];
    data[2..4].copy_from_slice(&PROTOCOL_WIREGUARD.to_be_bytes());
    data.extend((0..100).map(|i| i as u8));
    let sent = frame::udp(clients[0], relay, 64, &data);
    let run = sys::test_run(program.as_fd(), &sent, 0, 1)?;
    // The packet goes nowhere: a test run returns the verdict of the program and does not carry it out.
    if run.verdict != REDIRECTED {
        return Err(Cause::NotSent(run.verdict));
    }
    if frame::ends(&run.packet) != (relay, clients[1], 63) || frame::payload(&run.packet) != data {
        return Err(Cause::Headers);
    }
    if !frame::is_sealed(&run.packet) {
        return Err(Cause::Checksum);
    }
    Ok(())
}
