//! Addresses of legs, and the policy of which addresses may bind.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
};

/// The address and port of a leg in 18 bytes, IPv4 in mapped form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    ip: [u8; 16],
    port: NonZeroU16,
}

impl Address {
    /// The compact form of `address`; `None` for port 0, from which nobody sends. Flow label and scope
    /// of IPv6 are left out.
    #[inline]
    pub(crate) const fn of(address: SocketAddr) -> Option<Self> {
        let Some(port) = NonZeroU16::new(address.port()) else {
            return None;
        };
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Some(Self { ip, port })
    }
}

impl From<Address> for SocketAddr {
    fn from(Address { ip, port }: Address) -> Self {
        Self::new(Ipv6Addr::from(ip).to_canonical(), port.get())
    }
}

/// The address with an IPv4-mapped IPv6 address turned back into IPv4.
#[inline]
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        // Without this, ::ffff:127.0.0.1 would pass as an address that is not loopback (coturn's
        // CVE-2026-27624).
        SocketAddr::V6(v6) => SocketAddr::new(v6.ip().to_canonical(), v6.port()),
        SocketAddr::V4(_) => address,
    }
}

/// The policy that keeps out addresses which lead back to the relay itself or to many hosts.
#[derive(Debug, Default)]
pub(crate) struct AddressPolicy {
    allow_loopback: bool,
    own: BTreeSet<SocketAddr>,
}

impl AddressPolicy {
    pub(crate) fn new(allow_loopback: bool) -> Self {
        Self {
            allow_loopback,
            own: BTreeSet::new(),
        }
    }

    /// Sets the relay's own endpoints: a session with them would loop.
    pub(crate) fn set_own(&mut self, own: impl Iterator<Item = SocketAddr>) {
        self.own = own.collect();
    }

    /// Returns whether the canonical address `source` may bind.
    pub(crate) fn may_bind(&self, source: &SocketAddr) -> bool {
        if source.port() == 0 || self.own.contains(source) {
            return false;
        }
        let ip = source.ip();
        if ip.is_loopback() {
            return self.allow_loopback;
        }
        match ip {
            IpAddr::V4(v4) => {
                // 0.0.0.0 leads to this host itself, and no other host has an address of 0.0.0.0/8
                // (RFC 1122, section 3.2.1.3).
                let this_network = v4.octets()[0] == 0;
                !(this_network || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast())
            }
            IpAddr::V6(v6) => {
                // The scope of an address is not stored, and without it a link-local one names no host.
                !(v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn only_addresses_of_one_other_host_may_bind() {
        let mut policy = AddressPolicy::new(false);
        policy.set_own(["10.0.0.1:40000".parse().unwrap()].into_iter());
        for good in [
            "10.0.0.1:41641",
            "10.0.0.2:40000",
            "203.0.113.7:1",
            "[2001:db8::1]:41641",
        ] {
            assert!(policy.may_bind(&good.parse().unwrap()), "{good}");
        }
        for bad in [
            "10.0.0.1:40000",
            "10.0.0.2:0",
            "0.0.0.0:7",
            "0.1.2.3:7",
            "127.0.0.1:7",
            "169.254.1.1:7",
            "224.0.0.1:7",
            "255.255.255.255:7",
            "[::]:7",
            "[::1]:7",
            "[fe80::1]:7",
            "[ff02::1]:7",
        ] {
            assert!(!policy.may_bind(&bad.parse().unwrap()), "{bad}");
        }
        let loopback = AddressPolicy::new(true);
        assert!(loopback.may_bind(&"127.0.0.1:7".parse().unwrap()));
        assert!(loopback.may_bind(&"[::1]:7".parse().unwrap()));
    }
}
