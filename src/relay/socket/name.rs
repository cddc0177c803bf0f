//! Socket addresses in the kernel's layout (`sockaddr_in`, `sockaddr_in6`), by bytes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

const V4_LEN: usize = size_of::<libc::sockaddr_in>();
const V6_LEN: usize = size_of::<libc::sockaddr_in6>();

/// Buffer for one address of either family.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Name([u8; V6_LEN]);

impl Name {
    pub(super) const EMPTY: Self = Self([0; V6_LEN]);
    pub(super) const LEN: usize = V6_LEN;

    /// Encodes `address`; the second value is its length. Flow label and scope are zero, because
    /// clients at addresses that need a scope never bind.
    pub(super) fn encode(address: SocketAddr) -> (Self, usize) {
        let mut name = Self::EMPTY;
        let family = match address {
            SocketAddr::V4(_) => libc::AF_INET,
            SocketAddr::V6(_) => libc::AF_INET6,
        };
        let family = family as libc::sa_family_t;
        // The family is in the byte order of the host, and the port in that of the network (ip(7)).
        name.0[..2].copy_from_slice(&family.to_ne_bytes());
        name.0[2..4].copy_from_slice(&address.port().to_be_bytes());
        let len = match address {
            SocketAddr::V4(v4) => {
                name.0[4..8].copy_from_slice(&v4.ip().octets());
                V4_LEN
            }
            SocketAddr::V6(v6) => {
                name.0[8..24].copy_from_slice(&v6.ip().octets());
                V6_LEN
            }
        };
        (name, len)
    }

    /// Decodes an address of `len` bytes; `None` when it is neither IPv4 nor IPv6.
    pub(super) fn decode(&self, len: usize) -> Option<SocketAddr> {
        let family = i32::from(u16::from_ne_bytes([self.0[0], self.0[1]]));
        let port = u16::from_be_bytes([self.0[2], self.0[3]]);
        match family {
            libc::AF_INET if len >= V4_LEN => {
                let ip: [u8; 4] = *self.0[4..].first_chunk()?;
                Some(SocketAddr::from((Ipv4Addr::from(ip), port)))
            }
            libc::AF_INET6 if len >= V6_LEN => {
                let ip: [u8; 16] = *self.0[8..].first_chunk()?;
                Some(SocketAddr::from((Ipv6Addr::from(ip), port)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use bolero::{check, constant, one_of, produce};

    use super::*;

    #[test]
    fn addresses_survive_the_kernel_layout() {
        for text in ["192.0.2.1:1", "[2001:db8::1]:40000"] {
            let address: SocketAddr = text.parse().unwrap();
            let (name, len) = Name::encode(address);
            assert_eq!(name.decode(len), Some(address));
            assert_eq!(name.decode(len - 1), None);
        }
        assert_eq!(Name::EMPTY.decode(Name::LEN), None);
    }

    #[test]
    fn a_decoded_address_is_encoded_the_same() {
        let family = one_of((
            constant(libc::AF_INET),
            constant(libc::AF_INET6),
            0..1 << 16,
        ));
        let check = check!().with_iterations(4_000);
        let check = check.with_generator((family, produce::<[u8; V6_LEN]>(), 0..2 * V6_LEN));
        check.for_each(|(family, bytes, len)| {
            let mut name = Name(*bytes);
            name.0[..2].copy_from_slice(&(*family as u16).to_ne_bytes());
            if let Some(address) = name.decode(*len) {
                let (again, written) = Name::encode(address);
                assert!(written <= *len);
                assert_eq!(again.decode(written), Some(address));
            }
        });
    }
}
