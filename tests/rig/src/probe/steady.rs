//! Datagrams at a steady rate, and the moment at which each one of the peer's arrived.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

/// Time between two datagrams.
const INTERVAL: Duration = Duration::from_millis(100);
/// Lengths that datagrams have in turn: a path may carry short ones only.
const LENGTHS: [usize; 2] = [64, 1_200];

/// Sends to the peer, and records what arrives from it, until standard input ends. A line of the
/// record is the time in milliseconds since 1970, and the number of the datagram.
pub(super) fn steady(port: u16, peer: SocketAddr, record: &Path) -> Result<()> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
    socket.set_read_timeout(Some(INTERVAL))?;
    let peer = SocketAddr::new(mapped(peer), peer.port());
    let mut record = File::create(record).context("failed to create the record")?;
    let stop = thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    println!("steady");
    let start = Instant::now();
    let mut sent = 0_u64;
    let mut buffer = [0; 2_048];
    while !stop.is_finished() {
        if start.elapsed() >= INTERVAL * u32::try_from(sent)? {
            let mut datagram = [0; LENGTHS[1]];
            datagram[..8].copy_from_slice(&sent.to_le_bytes());
            let len = LENGTHS[usize::try_from(sent)? % LENGTHS.len()];
            // While there is no route, nothing is sent.
            socket.send_to(&datagram[..len], peer).ok();
            sent += 1;
        }
        match socket.recv_from(&mut buffer) {
            Ok((_, from)) if from.ip() == peer.ip() => {
                let number = u64::from_le_bytes(buffer[..8].try_into()?);
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
                writeln!(record, "{now} {number}")?;
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("failed to receive"),
        }
    }
    println!("{sent} datagrams sent");
    Ok(())
}

/// The address as a socket of both IP versions takes and gives it.
fn mapped(peer: SocketAddr) -> IpAddr {
    match peer.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 => v6,
    }
}
