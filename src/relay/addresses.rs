//! Which addresses a relay advertises.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Interfaces of container networks, by the beginning of their names: their addresses mean nothing
/// outside the node.
const CONTAINER_INTERFACES: &[&str] = &[
    "cni",
    "docker",
    "veth",
    "cali",
    "cilium",
    "lxc",
    "flannel",
    "kube-",
    "br-",
    "nodelocaldns",
];
/// Addresses of the tailnet itself (`tsaddr.CGNATRange`, `tsaddr.TailscaleULARange`): a path
/// through the tunnel that the path is for.
const TAILNET: [&str; 2] = ["100.64.0.0/10", "fd7a:115c:a1e0::/48"];
/// Most addresses; a client tries each, and an answer must fit a DERP packet.
const MOST: usize = 16;

/// An address of a network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Name of the interface.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
}

/// Addresses to advertise: the static ones in their order, then those of interfaces with the bound
/// port, IPv4 first. Without duplicates, 16 at most.
pub fn advertised(
    fixed: &[SocketAddr],
    interfaces: &[InterfaceAddress],
    port: u16,
) -> Vec<SocketAddr> {
    let tailnet = TAILNET.map(|net| net.parse::<IpNet>().expect("constant networks are valid"));
    let mut found: Vec<SocketAddr> = interfaces
        .iter()
        .filter(|address| is_reachable(address, &tailnet))
        .map(|address| SocketAddr::new(address.ip, port))
        .collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    let mut all = Vec::new();
    for address in fixed.iter().chain(&found) {
        if !all.contains(address) {
            all.push(*address);
        }
    }
    all.truncate(MOST);
    all
}

/// Addresses of all interfaces that are up; empty, with a warning, when the system does not say.
pub fn interfaces() -> Vec<InterfaceAddress> {
    match if_addrs::get_if_addrs() {
        Ok(list) => {
            let address = |i: if_addrs::Interface| InterfaceAddress {
                ip: i.ip(),
                interface: i.name,
            };
            list.into_iter().map(address).collect()
        }
        Err(error) => {
            tracing::warn!(%error, "failed to list network interfaces");
            Vec::new()
        }
    }
}

fn is_reachable(address: &InterfaceAddress, tailnet: &[IpNet]) -> bool {
    let InterfaceAddress { interface, ip } = address;
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_loopback()
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && !link_local
        && !tailnet.iter().any(|net| net.contains(ip))
        && !CONTAINER_INTERFACES
            .iter()
            .any(|prefix| interface.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    fn on(interface: &str, ip: &str) -> InterfaceAddress {
        InterfaceAddress {
            interface: interface.into(),
            ip: ip.parse().unwrap(),
        }
    }

    #[test]
    fn static_endpoints_come_first_then_ipv4_then_ipv6() {
        let fixed = [
            "203.0.113.10:40000".parse().unwrap(),
            "192.0.2.1:4000".parse().unwrap(),
        ];
        let interfaces = [on("eth0", "2001:db8::1"), on("eth0", "192.0.2.1")];
        let all = advertised(&fixed, &interfaces, 4000);
        let texts: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["203.0.113.10:40000", "192.0.2.1:4000", "[2001:db8::1]:4000"]
        );
    }

    #[test]
    fn addresses_that_clients_cannot_reach_are_left_out() {
        let interfaces = [
            on("lo", "127.0.0.1"),
            on("lo", "::1"),
            on("eth0", "169.254.3.4"),
            on("eth0", "fe80::1"),
            on("cni0", "10.244.1.1"),
            on("veth12ab", "10.244.1.9"),
            on("docker0", "172.17.0.1"),
            on("tailscale0", "100.100.1.2"),
            on("tailscale0", "fd7a:115c:a1e0::1"),
        ];
        assert!(advertised(&[], &interfaces, 4000).is_empty());
    }
}
