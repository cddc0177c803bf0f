//! Addresses of the host's network interfaces.

use std::net::IpAddr;

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

/// An address of a network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Name of the interface.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
}

impl InterfaceAddress {
    /// Whether it may mean this host to anyone else.
    pub fn is_reachable(&self) -> bool {
        let Self { interface, ip } = self;
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let tailnet = TAILNET.map(|net| net.parse::<IpNet>().expect("constant networks are valid"));
        !ip.is_loopback()
            && !ip.is_unspecified()
            && !ip.is_multicast()
            && !link_local
            && !tailnet.iter().any(|net| net.contains(ip))
            && !CONTAINER_INTERFACES
                .iter()
                .any(|prefix| interface.starts_with(prefix))
    }
}

/// Addresses of all interfaces that are up; nothing, with a warning, when the system does not say.
pub(super) fn list() -> Option<Vec<InterfaceAddress>> {
    match if_addrs::get_if_addrs() {
        Ok(list) => {
            let address = |i: if_addrs::Interface| InterfaceAddress {
                ip: i.ip(),
                interface: i.name,
            };
            Some(list.into_iter().map(address).collect())
        }
        Err(error) => {
            tracing::warn!(%error, "failed to list network interfaces");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn addresses_that_clients_cannot_reach_are_left_out() {
        for (interface, ip) in [
            ("lo", "127.0.0.1"),
            ("lo", "::1"),
            ("eth0", "169.254.3.4"),
            ("eth0", "fe80::1"),
            ("cni0", "10.244.1.1"),
            ("veth12ab", "10.244.1.9"),
            ("docker0", "172.17.0.1"),
            ("tailscale0", "100.100.1.2"),
            ("tailscale0", "fd7a:115c:a1e0::1"),
        ] {
            let address = InterfaceAddress {
                interface: interface.into(),
                ip: ip.parse().unwrap(),
            };
            assert!(!address.is_reachable(), "{interface} {ip}");
        }
        let address = InterfaceAddress {
            interface: "eth0".into(),
            ip: "192.0.2.1".parse().unwrap(),
        };
        assert!(address.is_reachable());
    }
}
