//! Datagrams that belong to no session.

use std::{
    io::Read,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::Result;

/// The wait for answers after the last datagram.
const QUIET: Duration = Duration::from_millis(1_500);

/// Sends every kind of datagram that deserves no answer.
pub(super) fn hostile(to: SocketAddr) -> Result<()> {
    let socket = match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    let datagrams = datagrams();
    for datagram in &datagrams {
        socket.send_to(datagram, to)?;
    }
    let deadline = Instant::now() + QUIET;
    let mut answers = 0;
    let mut buffer = [0; 2048];
    while let Some(left) = deadline
        .checked_duration_since(Instant::now())
        .filter(|d| !d.is_zero())
    {
        socket.set_read_timeout(Some(left))?;
        if socket.recv_from(&mut buffer).is_ok() {
            answers += 1;
        }
    }
    println!("{} sent, {answers} answered", datagrams.len());
    Ok(())
}

/// Keeps both IP versions of a port.
pub(super) fn occupy(port: u16) -> Result<()> {
    let _v6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
    println!("occupied");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn datagrams() -> Vec<Vec<u8>> {
    let geneve = |control: bool, protocol: u16, vni: u32, rest: &[u8]| {
        let [p0, p1] = protocol.to_be_bytes();
        let [_, v0, v1, v2] = vni.to_be_bytes();
        let flags = if control { 0x80 } else { 0 };
        [&[0, flags, p0, p1, v0, v1, v2, 0], rest].concat()
    };
    let disco = [
        b"TS\xf0\x9f\x92\xac".as_slice(),
        &[7; 32],
        &[9; 24],
        &[1; 90],
    ]
    .concat();
    let stun_response = [&[1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[5; 12]].concat();
    let stun_request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[5; 12]].concat();
    let mut all = vec![
        Vec::new(),
        stun_response,
        stun_request,
        vec![0xff; 65_507 - 8],
    ];
    // Truncated at every length, control and data, with a session that does not exist.
    for len in 0..disco.len() {
        all.push(geneve(true, 0x7a11, 1 + len as u32, &disco[..len]));
    }
    all.push(geneve(false, 0x7a12, 0x00ff_ffff, &[3; 1_200]));
    all.push(geneve(true, 0x7a12, 5, &disco));
    // Version 1 and VNI 0 are no header of this protocol.
    all.push([&[0x40][..], &geneve(true, 0x7a11, 5, &disco)[1..]].concat());
    all.push(geneve(true, 0x7a11, 0, &disco));
    all
}
