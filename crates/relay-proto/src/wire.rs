//! Codecs of the wire format (docs/wire.md): the Geneve header, disco messages, and STUN as far as a
//! relay must tell it from its own traffic.

pub mod disco;
pub mod geneve;

/// Returns whether a datagram is a STUN binding message (RFC 8489, section 5): request or response.
///
/// The relay's port answers no STUN (docs/wire.md, section 8); such datagrams only get a counter of
/// their own.
pub(crate) fn is_stun(datagram: &[u8]) -> bool {
    const STUN_HEADER_LEN: usize = 20;
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    let Some(header) = datagram.first_chunk::<STUN_HEADER_LEN>() else {
        return false;
    };
    header[0] & 0xc0 == 0 && header[1] == 0x01 && header[4..8] == COOKIE
}
