//! STUN binding requests and their answers (RFC 8489), as DERP servers want them: with the
//! attributes SOFTWARE and FINGERPRINT, without which they stay silent (`stun.ParseBindingRequest`).

use std::net::{IpAddr, SocketAddr};

use crate::relay::socket_path::TransactionId;

/// Length of a message without attributes.
const HEADER_LEN: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const MAPPED_ADDRESS: u16 = 0x0001;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// As XOR_MAPPED_ADDRESS, from servers of before it had its number.
// `attrXorMappedAddressAlt` of Tailscale's net/stun.
const OLD_XOR_MAPPED_ADDRESS: u16 = 0x8020;
const SOFTWARE: u16 = 0x8022;
const FINGERPRINT: u16 = 0x8028;
/// Value of SOFTWARE without which a DERP server does not answer (`stun.software`).
const NAME: [u8; 8] = *b"tailnode";
/// RFC 8489 section 14.7.
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// The bytes of a question.
pub(super) fn request(id: TransactionId) -> Vec<u8> {
    // The fingerprint covers a header whose length counts the fingerprint too (RFC 8489, section 14.7).
    let len = (4 + NAME.len() + 8) as u16;
    let mut out = header(BINDING_REQUEST, len, id);
    attribute(&mut out, SOFTWARE, &NAME);
    let fingerprint = crc32(&out) ^ FINGERPRINT_XOR;
    attribute(&mut out, FINGERPRINT, &fingerprint.to_be_bytes());
    out
}

/// The transaction and the address in an answer; `None` for any other message.
pub(super) fn answer(message: &[u8]) -> Option<(TransactionId, SocketAddr)> {
    let (head, mut rest) = message.split_first_chunk::<HEADER_LEN>()?;
    let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if head[..2] != BINDING_SUCCESS.to_be_bytes() || head[4..8] != COOKIE {
        return None;
    }
    rest = rest.get(..len)?;
    let id: TransactionId = head[8..].try_into().expect("20 less 8 are 12");
    let mut plain = None;
    while let Some((kind, after)) = rest.split_first_chunk::<2>() {
        let (len, after) = after.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_be_bytes(*len));
        let value = after.get(..len)?;
        match u16::from_be_bytes(*kind) {
            XOR_MAPPED_ADDRESS | OLD_XOR_MAPPED_ADDRESS => {
                return Some((id, address(value, Some(&head[4..]))?));
            }
            MAPPED_ADDRESS => plain = address(value, None),
            _ => {}
        }
        // Attributes are padded to four bytes; the last may lack its padding.
        rest = after.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((id, plain?))
}

/// `mask` is the cookie and the transaction, where the address is hidden by it.
fn address(value: &[u8], mask: Option<&[u8]>) -> Option<SocketAddr> {
    let ([_, family, p0, p1], ip) = value.split_first_chunk::<4>()?;
    let mask = mask.unwrap_or(&[0; 16]);
    let port = u16::from_be_bytes([p0 ^ mask[0], p1 ^ mask[1]]);
    let ip = match family {
        1 => IpAddr::from(masked::<4>(ip, mask)?),
        2 => IpAddr::from(masked::<16>(ip, mask)?),
        _ => return None,
    };
    (port != 0 && !ip.is_unspecified()).then(|| SocketAddr::new(ip.to_canonical(), port))
}

fn masked<const N: usize>(bytes: &[u8], mask: &[u8]) -> Option<[u8; N]> {
    let mut out = *bytes.first_chunk::<N>()?;
    out.iter_mut()
        .zip(mask)
        .for_each(|(byte, mask)| *byte ^= mask);
    Some(out)
}

fn header(kind: u16, len: u16, id: TransactionId) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + usize::from(len));
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&COOKIE);
    out.extend_from_slice(&id);
    out
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

/// The checksum of Ethernet (ISO 3309), bit by bit: it is needed a few times a minute.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1))
        })
    })
}

/// The answer of a server, for tests that play one.
#[cfg(test)]
pub(super) fn response(id: TransactionId, address: SocketAddr) -> Vec<u8> {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mut out = header(BINDING_SUCCESS, 8 + ip.len() as u16, id);
    let mask = out[4..].to_vec();
    let family = if ip.len() == 4 { 1 } else { 2 };
    let mut value = vec![0, family];
    value.extend_from_slice(&address.port().to_be_bytes());
    value.extend_from_slice(&ip);
    let (fixed, hidden) = value.split_at_mut(2);
    hidden[..2]
        .iter_mut()
        .zip(&mask)
        .for_each(|(byte, mask)| *byte ^= mask);
    hidden[2..]
        .iter_mut()
        .zip(&mask)
        .for_each(|(byte, mask)| *byte ^= mask);
    let value = [fixed, hidden].concat();
    attribute(&mut out, XOR_MAPPED_ADDRESS, &value);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use bolero::{check, produce};
    use fuzz_edits::{edited, edits};

    use super::*;

    #[test]
    fn request_is_what_a_derp_server_answers() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let request = request([7; 12]);
        assert_eq!(request[..8], [0, 1, 0, 20, 0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(request[20..24], [0x80, 0x22, 0, 8]);
        assert_eq!(&request[24..32], b"tailnode");
        assert_eq!(request[32..36], [0x80, 0x28, 0, 4]);
        assert_eq!(request.len(), 40);
    }

    /// RFC 5769 section 2.2, without what it has besides the address.
    #[test]
    fn address_of_the_test_vector_is_read() {
        let id = [
            0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
        ];
        let mut message = header(BINDING_SUCCESS, 12, id);
        message.extend_from_slice(&[0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let (read, address) = answer(&message).unwrap();
        assert_eq!((read, address.to_string()), (id, "192.0.2.1:32853".into()));
    }

    #[test]
    fn any_answer_is_read_as_it_was_written() {
        let address = (produce::<IpAddr>(), 1..=u16::MAX);
        let check = check!().with_iterations(1_000);
        let check = check.with_generator((produce::<TransactionId>(), address));
        check.for_each(|(id, (ip, port))| {
            let address = SocketAddr::new(ip.to_canonical(), *port);
            let expected = (!ip.is_unspecified()).then_some((*id, address));
            assert_eq!(answer(&response(*id, address)), expected);
        });
    }

    #[test]
    fn what_is_near_to_an_answer_is_refused_or_tells_an_address() {
        let whole = ["192.0.2.1:32853", "[2001:db8::1]:9"].map(|address| {
            let mut message = response([7; 12], address.parse().unwrap());
            attribute(&mut message, MAPPED_ADDRESS, &[0, 1, 0, 9, 192, 0, 2, 1]);
            attribute(&mut message, SOFTWARE, &NAME);
            let len = (message.len() - HEADER_LEN) as u16;
            message[2..4].copy_from_slice(&len.to_be_bytes());
            message
        });
        let check = check!().with_iterations(20_000);
        let check = check.with_generator((0..2_usize, edits()));
        check.for_each(|(which, edits)| {
            if let Some((_, address)) = answer(&edited(&whole[*which], edits)) {
                assert!(address.port() != 0 && !address.ip().is_unspecified());
            }
        });
    }
}
