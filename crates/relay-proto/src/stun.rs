//! What STUN is, as far as a relay must know: somebody else's (docs/wire.md section 8).

/// Whether a datagram is a binding message (RFC 8489, section 5).
pub(crate) fn is_stun(datagram: &[u8]) -> bool {
    const STUN_HEADER_LEN: usize = 20;
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    let Some(header) = datagram.first_chunk::<STUN_HEADER_LEN>() else {
        return false;
    };
    header[0] & 0xc0 == 0 && header[1] == 0x01 && header[4..8] == COOKIE
}
