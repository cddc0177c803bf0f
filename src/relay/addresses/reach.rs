//! Choice of the local addresses that clients can be told.
//!
//! The kind of a device decides, and not its name: what the host uses towards the outside is told, and
//! what is inside a tunnel or a container network is not, whoever made it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::InterfaceAddress;
use crate::relay::netlink::Device;

/// Addresses of the tailnet itself (`tsaddr.CGNATRange`, `tsaddr.TailscaleULARange`): a path
/// through the tunnel that the path is for.
const TAILNET: [&str; 2] = ["100.64.0.0/10", "fd7a:115c:a1e0::/48"];
/// Kinds of devices whose packets travel inside others (`ip link help`).
const TUNNELS: &[&str] = &[
    "amt",
    "bareudp",
    "batadv",
    "erspan",
    "fou",
    "geneve",
    "gre",
    "gretap",
    "gtp",
    "ip6erspan",
    "ip6gre",
    "ip6gretap",
    "ip6tnl",
    "ipip",
    "l2tp",
    "ovpn",
    "sit",
    "tun",
    "vti",
    "vti6",
    "vxlan",
    "wireguard",
    "xfrm",
];
/// Kinds of devices that are on the link of the device below them.
const STACKED: &[&str] = &["ipvlan", "ipvtap", "macsec", "macvlan", "macvtap", "vlan"];
/// Kinds of devices that are hardware in effect.
const HARDWARE: &[&str] = &[
    "bond", "can", "hsr", "ipoib", "ppp", "rmnet", "team", "wwan",
];
/// Longest chain of devices on top of each other that is followed.
const LONGEST_CHAIN: usize = 8;
/// Temporary IPv6 addresses that are told at most. They change, mostly each day.
const MOST_TEMPORARY: usize = 2;

/// Routes of the host to outside: the device, and the source address of packets.
pub(super) type Outside = BTreeSet<(u32, Option<IpAddr>)>;

/// Returns whether an address is one of the tailnet, which no client may be told: the path would go
/// through the tunnel that it is for.
pub(super) fn is_of_tailnet(ip: IpAddr) -> bool {
    let tailnet = TAILNET.map(|net| net.parse::<IpNet>().expect("constant networks are valid"));
    tailnet.iter().any(|net| net.contains(&ip))
}

/// Returns the addresses of devices that other hosts may reach, those that change often last.
pub(super) fn reachable(
    devices: &BTreeMap<u32, Device>,
    outside: &Outside,
) -> Vec<InterfaceAddress> {
    let (mut lasting, mut temporary) = (Vec::new(), Vec::new());
    for (index, device) in devices.iter().filter(|(_, device)| device.up) {
        let is_told = is_uplink(*index, devices, outside, LONGEST_CHAIN);
        for address in device.addresses.iter().filter(|address| address.is_usable) {
            let is_source = outside
                .iter()
                .any(|(_, source)| *source == Some(address.ip));
            let is_told = is_told || is_source && !is_tunnel(device);
            if !is_told || !address.is_global() || is_of_tailnet(address.ip) {
                tracing::trace!(interface = device.name, ip = %address.ip, "address not told");
                continue;
            }
            let found = InterfaceAddress {
                interface: device.name.clone(),
                ip: address.ip,
            };
            match address.is_temporary {
                true => temporary.push(found),
                false => lasting.push(found),
            }
        }
    }
    temporary.truncate(MOST_TEMPORARY);
    lasting.extend(temporary);
    lasting
}

fn is_tunnel(device: &Device) -> bool {
    let kind = device.kind.as_deref();
    kind.is_some_and(|kind| TUNNELS.contains(&kind))
}

/// Returns whether packets to the outside leave by a device, or could.
fn is_uplink(
    index: u32,
    devices: &BTreeMap<u32, Device>,
    outside: &Outside,
    longest_chain: usize,
) -> bool {
    let Some((device, rest)) = devices.get(&index).zip(longest_chain.checked_sub(1)) else {
        return false;
    };
    if is_tunnel(device) || device.loopback {
        return false;
    }
    if outside.iter().any(|(used, _)| *used == index) {
        return true;
    }
    let below = |index| is_uplink(index, devices, outside, rest);
    match device.kind.as_deref() {
        // A network card has no kind (`IFLA_INFO_KIND`).
        None => true,
        Some(kind) if HARDWARE.contains(&kind) => true,
        Some(kind) if STACKED.contains(&kind) => {
            // The device below one in a pod may be in the namespace of the host.
            device.lower_is_elsewhere || device.lower.is_some_and(below)
        }
        // A bridge to the host's network has a port in it, and one of containers has none.
        Some(_) => {
            let ports = devices
                .iter()
                .filter(|(_, port)| port.master == Some(index));
            { ports }.any(|(port, _)| below(*port))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use crate::relay::netlink::DeviceAddress;

    /// Devices by index, from 1 on, each with one address `10.INDEX.0.1`.
    fn devices(devices: Vec<Device>) -> BTreeMap<u32, Device> {
        let with_address = |(index, mut device): (u32, Device)| {
            let octet = u8::try_from(index).unwrap();
            device.up = true;
            if device.addresses.is_empty() {
                device.addresses = vec![usable(&format!("10.{octet}.0.1"))];
            }
            (index, device)
        };
        (1..).zip(devices).map(with_address).collect()
    }

    fn usable(ip: &str) -> DeviceAddress {
        DeviceAddress {
            ip: ip.parse().unwrap(),
            is_temporary: false,
            is_usable: true,
        }
    }

    fn hardware(name: &str) -> Device {
        Device {
            name: name.into(),
            ..Device::default()
        }
    }

    fn of_kind(name: &str, kind: &str) -> Device {
        Device {
            kind: Some(kind.into()),
            ..hardware(name)
        }
    }

    fn told(devices: &BTreeMap<u32, Device>, outside: &[(u32, Option<&str>)]) -> Vec<String> {
        let outside = outside.iter().map(|(index, source)| {
            let source = source.map(|source| source.parse().unwrap());
            (*index, source)
        });
        let found = reachable(devices, &outside.collect());
        found.into_iter().map(|found| found.interface).collect()
    }

    #[test]
    fn container_networks_and_tunnels_are_not_told_whoever_made_them() {
        let devices = devices(vec![
            hardware("eno1"),
            of_kind("vxlan.calico", "vxlan"),
            of_kind("tunl0", "ipip"),
            of_kind("wireguard.cali", "wireguard"),
            of_kind("tailscale0", "tun"),
            of_kind("virbr0", "bridge"),
            of_kind("podman0", "bridge"),
            of_kind("cni0", "bridge"),
            of_kind("ovn-k8s-mp0", "openvswitch"),
            of_kind("antrea-gw0", "openvswitch"),
            of_kind("kube-ipvs0", "dummy"),
            of_kind("nodelocaldns", "dummy"),
            of_kind("cilium_host", "veth"),
            hardware("enp2s0"),
        ]);
        assert_eq!(told(&devices, &[(1, Some("10.1.0.1"))]), ["eno1", "enp2s0"]);
    }

    #[test]
    fn devices_that_lead_to_the_outside_are_told_whatever_their_kind() {
        let devices = devices(vec![
            of_kind("eth0", "veth"),
            of_kind("br-ex", "openvswitch"),
            of_kind("br0", "bridge"),
            of_kind("wg0", "wireguard"),
        ]);
        for index in 1..=3 {
            assert_eq!(told(&devices, &[(index, None)]).len(), 1, "{index}");
        }
        let through_vpn = [(4, Some("10.4.0.1"))];
        assert!(told(&devices, &through_vpn).is_empty(), "a tunnel");
    }

    #[test]
    fn device_on_top_of_another_is_as_that_one() {
        let on = |name: &str, kind: &str, lower| Device {
            lower: Some(lower),
            ..of_kind(name, kind)
        };
        let port = |name: &str, master| Device {
            master: Some(master),
            addresses: vec![usable("127.0.0.9")],
            ..hardware(name)
        };
        let devices = devices(vec![
            of_kind("bond0", "bond"),
            on("bond0.7", "vlan", 1),
            of_kind("br-lan", "bridge"),
            port("enp1s0", 3),
            of_kind("docker0", "bridge"),
            on("docker0.8", "vlan", 5),
            on("loop", "macvlan", 7),
            Device {
                lower_is_elsewhere: true,
                ..of_kind("eth1", "macvlan")
            },
        ]);
        let wanted = ["bond0", "bond0.7", "br-lan", "eth1"];
        assert_eq!(told(&devices, &[]), wanted);
    }

    #[test]
    fn source_of_packets_to_the_outside_is_told_also_on_the_loopback_device() {
        let loopback = Device {
            loopback: true,
            addresses: vec![usable("127.0.0.1"), usable("203.0.113.1")],
            ..hardware("lo")
        };
        let devices = devices(vec![loopback, hardware("eth0")]);
        assert_eq!(told(&devices, &[(2, Some("203.0.113.1"))]), ["lo", "eth0"]);
        assert_eq!(told(&devices, &[(2, None)]), ["eth0"]);
    }

    #[test]
    fn addresses_that_do_not_last_are_told_last_or_not() {
        let address = |ip: &str, is_temporary, is_usable| DeviceAddress {
            is_temporary,
            is_usable,
            ..usable(ip)
        };
        let eth0 = Device {
            addresses: vec![
                address("2001:db8::a1", true, true),
                address("2001:db8::a2", true, true),
                address("2001:db8::a3", true, true),
                address("2001:db8::d", false, false),
                address("2001:db8::1", false, true),
            ],
            ..hardware("eth0")
        };
        let found = reachable(&devices(vec![eth0]), &Outside::new());
        let shown: Vec<_> = found.iter().map(|found| found.ip.to_string()).collect();
        assert_eq!(shown, ["2001:db8::1", "2001:db8::a1", "2001:db8::a2"]);
    }

    #[test]
    fn addresses_of_a_host_a_link_or_the_tailnet_are_not_told() {
        let ips = [
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "169.254.3.4",
            "fe80::1",
            "224.0.0.1",
            "100.100.1.2",
            "fd7a:115c:a1e0::1",
        ];
        let eth0 = Device {
            addresses: ips.map(usable).to_vec(),
            ..hardware("eth0")
        };
        assert!(told(&devices(vec![eth0]), &[(1, Some("100.100.1.2"))]).is_empty());
        assert!(is_of_tailnet("100.64.0.1".parse().unwrap()));
        assert!(!is_of_tailnet("100.63.0.1".parse().unwrap()));
    }
}
