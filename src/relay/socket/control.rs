//! Control messages of a datagram (`cmsg(3)`), encoded and decoded bytewise.
//!
//! ```text
//! cmsghdr   length with header (usize) | level (i32) | type (i32) | data, padded to a usize
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::specified;

const WORD: usize = size_of::<usize>();
const HEADER_LEN: usize = size_of::<libc::cmsghdr>();
/// Size of the buffer: packet information, segment length, overflow count and time, each with header
/// and padding.
const CAPACITY: usize = 128;

/// Buffer for the control messages of one datagram.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control([u8; CAPACITY]);

/// Contents of the control messages of a received datagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// Local address to which the datagram was sent.
    pub(super) local: Option<IpAddr>,
    /// Length of the segments of a super-datagram.
    pub(super) segment_len: Option<u16>,
    /// Number of datagrams that the socket has lost so far because its buffer was full.
    pub(super) overflow: Option<u32>,
    /// Time since 1970 at which the kernel received the datagram.
    pub(super) stamp: Option<Duration>,
}

impl Control {
    pub(super) const EMPTY: Self = Self([0; CAPACITY]);
    pub(super) const LEN: usize = CAPACITY;

    /// Encodes control messages that have a datagram sent from `from` and cut into segments of
    /// `segment_len` bytes; the second value is their length.
    pub(super) fn encode(from: Option<IpAddr>, segment_len: Option<u16>) -> (Self, usize) {
        let mut control = Self::EMPTY;
        let mut len = 0;
        match from {
            // struct in_pktinfo: interface (0: any), source address, destination (ignored)
            Some(IpAddr::V4(ip)) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&ip.octets());
                control.append(&mut len, libc::SOL_IP, libc::IP_PKTINFO, &info);
            }
            // struct in6_pktinfo: source address, interface (0: any)
            Some(IpAddr::V6(ip)) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&ip.octets());
                control.append(&mut len, libc::SOL_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if let Some(segment_len) = segment_len {
            let data = segment_len.to_ne_bytes();
            control.append(&mut len, libc::SOL_UDP, libc::UDP_SEGMENT, &data);
        }
        (control, len)
    }

    /// Decodes the first `len` bytes. Unknown messages are skipped.
    pub(super) fn decode(&self, len: usize) -> Received {
        let mut received = Received::default();
        let mut rest = &self.0[..len.min(CAPACITY)];
        while let Some((level, kind, data)) = next(&mut rest) {
            match (level, kind) {
                (libc::SOL_IP, libc::IP_PKTINFO) => {
                    let ip = data.get(4..).and_then(|d| d.first_chunk::<4>());
                    received.local = ip.and_then(|ip| specified(Ipv4Addr::from(*ip).into()));
                }
                (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
                    let ip = data.first_chunk::<16>();
                    received.local = ip.and_then(|ip| specified(Ipv6Addr::from(*ip).into()));
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    received.segment_len = data
                        .first_chunk()
                        .and_then(|len| u16::try_from(i32::from_ne_bytes(*len)).ok())
                        .filter(|len| *len > 0);
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    received.overflow = data.first_chunk().map(|n| u32::from_ne_bytes(*n));
                }
                // struct timespec
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let number = |at: usize| data.get(at..)?.first_chunk().copied();
                    received.stamp = number(0).zip(number(8)).map(|(seconds, nanos)| {
                        let nanos = u64::from_ne_bytes(nanos) as u32;
                        // Less than a second, because a carry into the greatest number of seconds would
                        // panic.
                        Duration::new(u64::from_ne_bytes(seconds), nanos % 1_000_000_000)
                    });
                }
                _ => {}
            }
        }
        received
    }

    fn append(&mut self, len: &mut usize, level: i32, kind: i32, data: &[u8]) {
        let message = &mut self.0[*len..];
        message[..WORD].copy_from_slice(&(HEADER_LEN + data.len()).to_ne_bytes());
        message[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        message[WORD + 4..HEADER_LEN].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER_LEN..HEADER_LEN + data.len()].copy_from_slice(data);
        *len += HEADER_LEN + data.len().next_multiple_of(WORD);
    }
}

fn next<'a>(rest: &mut &'a [u8]) -> Option<(i32, i32, &'a [u8])> {
    let len = usize::from_ne_bytes(*rest.first_chunk()?);
    let message = rest.get(..len)?;
    let header = message.get(WORD..HEADER_LEN)?;
    let level = i32::from_ne_bytes(*header.first_chunk()?);
    let kind = i32::from_ne_bytes(*header.last_chunk()?);
    *rest = rest.get(len.next_multiple_of(WORD)..).unwrap_or_default();
    Some((level, kind, &message[HEADER_LEN..]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use bolero::{check, produce};
    use fuzz_edits::{edited, edits};

    use super::*;

    #[test]
    fn control_messages_are_decoded_in_any_order() {
        let mut control = Control::EMPTY;
        let mut len = 0;
        control.append(
            &mut len,
            libc::SOL_UDP,
            libc::UDP_GRO,
            &1320_i32.to_ne_bytes(),
        );
        control.append(&mut len, libc::SOL_SOCKET, libc::SO_TIMESTAMP, &[0; 16]);
        control.append(
            &mut len,
            libc::SOL_SOCKET,
            libc::SO_RXQ_OVFL,
            &7_u32.to_ne_bytes(),
        );
        let info = [1, 0, 0, 0, 192, 0, 2, 1, 192, 0, 2, 9];
        control.append(&mut len, libc::SOL_IP, libc::IP_PKTINFO, &info);
        let expected = Received {
            local: Some("192.0.2.1".parse().unwrap()),
            segment_len: Some(1320),
            overflow: Some(7),
            stamp: None,
        };
        assert_eq!(control.decode(len), expected);
    }

    #[test]
    fn encoded_control_messages_have_the_kernels_layout() {
        for text in ["192.0.2.1", "2001:db8::1"] {
            let from = text.parse().unwrap();
            let (control, len) = Control::encode(Some(from), Some(1400));
            assert_eq!(control.decode(len).local, Some(from));
            let word = HEADER_LEN + 2_usize.next_multiple_of(WORD);
            assert_eq!(
                control.0[len - word..][HEADER_LEN..][..2],
                1400_u16.to_ne_bytes()
            );
        }
        assert_eq!(Control::encode(None, None).1, 0);
    }

    #[test]
    fn broken_control_data_causes_no_panic() {
        let mut control = Control::EMPTY;
        for len in [1_usize, 15, 16, 17, 200, usize::MAX] {
            control.0[..WORD].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(control.decode(CAPACITY), Received::default());
        }
        let (mut whole, mut len) = Control::encode(Some("192.0.2.1".parse().unwrap()), None);
        let number = 1_320_i32.to_ne_bytes();
        whole.append(&mut len, libc::SOL_UDP, libc::UDP_GRO, &number);
        whole.append(&mut len, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &number);
        whole.append(&mut len, libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &[1; 16]);
        let check = check!().with_iterations(20_000);
        let check = check.with_generator((edits(), produce::<usize>()));
        check.for_each(|(edits, len)| {
            let mut bytes = edited(&whole.0, edits);
            bytes.resize(CAPACITY, 0);
            let control = Control(*bytes.first_chunk().unwrap());
            let received = control.decode(*len);
            assert!(received.segment_len != Some(0));
            assert!(received.local.is_none_or(|local| !local.is_unspecified()));
        });
    }
}
