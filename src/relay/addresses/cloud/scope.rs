//! Addresses that hosts elsewhere on the internet can send to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns whether an address is one of the internet, by the registries of special addresses (RFC
/// 6890). Those for documentation count: nobody has them, and examples are written with them.
pub(super) fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => is_global_v4(v4),
        IpAddr::V6(v6) => is_global_v6(v6),
    }
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    let protocols = (a, b, c) == (192, 0, 0);
    let benchmarks = a == 198 && b & 0xfe == 18;
    let refused = shared || protocols || benchmarks || ip.is_private() || ip.is_link_local();
    // From 224 on: multicast, reserved, broadcast.
    a != 0 && a != 127 && a < 224 && !refused
}

/// All of IPv6 that is given out so far, except what is within it for protocols (`2001::/23`: Teredo
/// and the like) and for 6to4, which leads to an IPv4 address.
fn is_global_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    a & 0xe000 == 0x2000 && a != 0x2002 && (a != 0x2001 || b >= 0x200)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_global() {
        for ip in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "203.0.113.7",
            "223.255.255.254",
            "2600:1f18::1",
            "2001:200::1",
            "2001:db8::7",
            "2a01:4f8::1",
        ] {
            assert!(is_global(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.4",
            "100.64.0.1",
            "100.127.255.254",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.168.0.100",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1",
            "2001::1",
            "2002:102:304::1",
            "fd00:ec2::254",
            "fd7a:115c:a1e0::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_global(ip.parse().unwrap()), "{ip}");
        }
    }
}
