//! The 8-byte Geneve header in front of every datagram (RFC 8926; `packet.GeneveHeader`).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---+-----------+-+-------------+-------------------------------+
//! |Ver|  Opt Len  |O|   Reserved  |          Protocol Type        |
//! +---+-----------+-+-------------+-------------------------------+
//! |        Virtual Network Identifier (VNI)       |    Reserved   |
//! +-----------------------------------------------+---------------+
//! ```

use std::{fmt, num::NonZeroU32};

/// The length of the header in bytes. Options are not used.
pub const HEADER_LEN: usize = 8;
/// The protocol type of disco messages (`packet.GeneveProtocolDisco`).
pub const PROTOCOL_DISCO: u16 = 0x7A11;
/// The protocol type of WireGuard packets (`packet.GeneveProtocolWireGuard`).
pub const PROTOCOL_WIREGUARD: u16 = 0x7A12;

/// The O bit of the header's second byte.
const CONTROL_BIT: u8 = 0x80;

/// A Virtual Network Identifier, `1 ..= 2^24 - 1`: the name of a session on one relay's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(NonZeroU32);

impl Vni {
    /// The greatest VNI.
    pub const MAX: Self = Self(NonZeroU32::new((1 << 24) - 1).expect("it is not zero"));

    /// The VNI with this number; `None` for zero and for numbers over 24 bits.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) if number.get() <= 0x00ff_ffff => Some(Self(number)),
            _ => None,
        }
    }

    /// The VNI's number, as on the wire.
    #[inline]
    pub const fn number(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The fields of a header that the relay reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The O bit: the datagram is for the relay itself and is never forwarded.
    pub control: bool,
    /// The protocol type; the relay reads it in control datagrams only.
    pub protocol: u16,
    /// The VNI of the session.
    pub vni: Vni,
}

impl Header {
    /// Reads the header of `datagram`; `None` if that is too short, or the header has a version other
    /// than 0 or VNI 0.
    #[inline]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER_LEN] = datagram.first_chunk()?;
        // The option length is not read: as in Go, the payload begins at offset 8 whatever it says
        // (docs/wire.md, section 1).
        let version = header[0] >> 6;
        let vni = u32::from_be_bytes([0, header[4], header[5], header[6]]);
        if version != 0 {
            return None;
        }
        Some(Self {
            control: header[1] & CONTROL_BIT != 0,
            protocol: u16::from_be_bytes([header[2], header[3]]),
            vni: Vni::new(vni)?,
        })
    }

    /// The bytes of the header.
    pub const fn encode(self) -> [u8; HEADER_LEN] {
        let [p0, p1] = self.protocol.to_be_bytes();
        let [v0, v1, v2, _] = (self.vni.number() << 8).to_be_bytes();
        let flags = if self.control { CONTROL_BIT } else { 0 };
        [0, flags, p0, p1, v0, v1, v2, 0]
    }
}

/// Returns whether a datagram has a header with the control bit: it is for the relay itself.
pub fn is_control(datagram: &[u8]) -> bool {
    datagram
        .get(1)
        .is_some_and(|flags| flags & CONTROL_BIT != 0)
}

/// The VNI of a super-datagram (UDP GRO) that holds nothing but data of one session: each segment of
/// `segment_len` bytes, and the shorter last one, has version 0, no control bit and the same VNI.
/// `None` otherwise: then each segment must be handled alone.
///
/// The kernel merges datagrams by addresses, ports and length only, so one buffer can hold several
/// sessions and control messages (Linux `udp_gro_receive_segment`).
pub fn uniform_data(buffer: &[u8], segment_len: usize) -> Option<Vni> {
    if segment_len == 0 {
        return None;
    }
    let first = Header::decode(buffer)?;
    // The core never reads the other segments of a super-datagram that passes here, so each of them
    // must be what the core has judged the first one to be.
    let same =
        |segment| Header::decode(segment).is_some_and(|h: Header| !h.control && h.vni == first.vni);
    buffer.chunks(segment_len).all(same).then_some(first.vni)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    fn header(vni: u32, control: bool) -> Header {
        Header {
            control,
            protocol: PROTOCOL_WIREGUARD,
            vni: Vni::new(vni).unwrap(),
        }
    }

    #[test]
    fn header_round_trips() {
        for vni in [1, 0x01_02_03, 0x00ff_ffff] {
            let header = header(vni, vni % 2 == 0);
            assert_eq!(Header::decode(&header.encode()), Some(header));
        }
    }

    #[test]
    fn version_one_short_and_vni_zero_are_refused() {
        let good = header(7, false).encode();
        assert!(Header::decode(&good[..7]).is_none());
        let mut version = good;
        version[0] = 0x40;
        assert!(Header::decode(&version).is_none());
        let mut unset = good;
        unset[4..7].fill(0);
        assert!(Header::decode(&unset).is_none());
    }

    #[test]
    fn super_datagram_with_a_foreign_segment_is_not_uniform() {
        let mut buffer = Vec::new();
        for (vni, control) in [(5, false), (5, false), (5, false)] {
            buffer.extend_from_slice(&header(vni, control).encode());
            buffer.extend_from_slice(&[0; 4]);
        }
        assert_eq!(uniform_data(&buffer, 12), Vni::new(5));
        assert_eq!(
            uniform_data(&buffer[..33], 12),
            Vni::new(5),
            "short last segment"
        );
        assert_eq!(
            uniform_data(&buffer[..28], 12),
            None,
            "last segment has no header"
        );
        for (at, replacement) in [(12, header(6, false)), (24, header(5, true))] {
            let mut mixed = buffer.clone();
            mixed[at..at + HEADER_LEN].copy_from_slice(&replacement.encode());
            assert_eq!(uniform_data(&mixed, 12), None);
        }
        assert_eq!(uniform_data(&buffer, 0), None);
    }
}
