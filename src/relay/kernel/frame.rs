//! Ethernet frames with UDP over IPv4 and IPv6, for the self-test and for tests. The checksums are computed
//! from all bytes, and not updated as the program does it, so that a fault of the program shows.

use std::net::{IpAddr, SocketAddr};

const ETHERNET_LEN: usize = 14;
const UDP_LEN: usize = 8;

/// A datagram with its headers; every checksum is right.
pub(super) fn udp(from: SocketAddr, to: SocketAddr, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET_LEN];
    let len = (UDP_LEN + payload.len()) as u16;
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            frame.extend_from_slice(&[0x45, 0]);
            frame.extend_from_slice(&(20 + len).to_be_bytes());
            // Identification 1, Don't Fragment, no offset; the checksum of the header follows later.
            frame.extend_from_slice(&[0, 1, 0x40, 0, ttl, 17, 0, 0]);
            frame.extend_from_slice(&from.octets());
            frame.extend_from_slice(&to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame.extend_from_slice(&[0x60, 0, 0, 0]);
            frame.extend_from_slice(&len.to_be_bytes());
            frame.extend_from_slice(&[17, ttl]);
            frame.extend_from_slice(&from.octets());
            frame.extend_from_slice(&to.octets());
        }
        _ => panic!("both ends of a datagram are of one family"),
    }
    for part in [from.port(), to.port(), len, 0] {
        frame.extend_from_slice(&part.to_be_bytes());
    }
    frame.extend_from_slice(payload);
    seal(&mut frame);
    frame
}

/// Writes the checksums that the rest of the frame asks for.
pub(super) fn seal(frame: &mut [u8]) {
    let at = udp_at(frame);
    if is_v4(frame) {
        frame[24..26].fill(0);
        let check = !sum(0, &frame[ETHERNET_LEN..at]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }
    frame[at + 6..at + 8].fill(0);
    // Zero stands for a datagram without checksum, so a sum of zero is sent as all ones (RFC 768).
    let check = match !udp_sum(frame) {
        0 => 0xffff,
        check => check,
    };
    frame[at + 6..at + 8].copy_from_slice(&check.to_be_bytes());
}

/// Returns whether every checksum is right. A missing UDP checksum counts as wrong.
pub(super) fn is_sealed(frame: &[u8]) -> bool {
    let at = udp_at(frame);
    let ip = !is_v4(frame) || sum(0, &frame[ETHERNET_LEN..at]) == 0xffff;
    ip && frame[at + 6..at + 8] != [0, 0] && udp_sum(frame) == 0xffff
}

/// Source, destination and time to live.
pub(super) fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr, u8) {
    let at = udp_at(frame);
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let (from, to, ttl) = if is_v4(frame) {
        (ip4(&frame[26..30]), ip4(&frame[30..34]), frame[22])
    } else {
        (ip6(&frame[22..38]), ip6(&frame[38..54]), frame[21])
    };
    (
        SocketAddr::new(from, port(at)),
        SocketAddr::new(to, port(at + 2)),
        ttl,
    )
}

/// Payload of the UDP datagram.
pub(super) fn payload(frame: &[u8]) -> &[u8] {
    &frame[udp_at(frame) + UDP_LEN..]
}

/// Offset of the UDP header.
pub(super) fn udp_at(frame: &[u8]) -> usize {
    ETHERNET_LEN + if is_v4(frame) { 20 } else { 40 }
}

fn is_v4(frame: &[u8]) -> bool {
    frame[12..14] == [0x08, 0x00]
}

fn ip4(bytes: &[u8]) -> IpAddr {
    IpAddr::from(*bytes.first_chunk::<4>().expect("four bytes"))
}

fn ip6(bytes: &[u8]) -> IpAddr {
    IpAddr::from(*bytes.first_chunk::<16>().expect("sixteen bytes"))
}

/// Sum over the pseudo header and everything from the UDP header on.
fn udp_sum(frame: &[u8]) -> u16 {
    let at = udp_at(frame);
    let addresses = if is_v4(frame) { 26..34 } else { 22..54 };
    let len = (frame.len() - at) as u32;
    let pseudo = u32::from(sum(17 + (len >> 16) + (len & 0xffff), &frame[addresses]));
    sum(pseudo, &frame[at..])
}

/// One's complement sum of 16-bit words, in 16 bits: wider words sum up to the same (RFC 1071,
/// section 2 C).
fn sum(begin: u32, bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let mut sum = u64::from(begin) + u64::from(u32::from_be_bytes(last));
    for word in words {
        sum += u64::from(u32::from_be_bytes(*word));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn checksum_is_the_one_summed_by_hand_and_a_flipped_bit_is_noticed() {
        let frame = udp(
            "10.0.0.1:4096".parse().unwrap(),
            "10.0.0.2:53".parse().unwrap(),
            64,
            b"abcde",
        );
        // 4500 + 0021 + 0001 + 4000 + 4011 + 0a00 + 0001 + 0a00 + 0002 = d936
        assert_eq!(frame[24..26], (!0xd936_u16).to_be_bytes());
        assert!(is_sealed(&frame));
        for bit in [
            ETHERNET_LEN * 8 + 70,
            27 * 8,
            36 * 8 + 3,
            frame.len() * 8 - 1,
        ] {
            let mut broken = frame.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_sealed(&broken), "bit {bit}");
        }
    }
}
