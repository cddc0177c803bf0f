//! The addresses that a relay advertises: configured ones, then discovered ones, in one order.

mod cloud;
mod interfaces;
mod names;
mod publisher;
mod reach;
mod stun;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

pub use self::{
    interfaces::InterfaceAddress,
    publisher::{EndpointPublisher, EndpointState},
    stun::StunServer,
};
use crate::{
    config::endpoints::{Discover, EndpointsConfig, StaticEndpoint},
    crd::relay_node::EndpointSource,
};

/// An address that clients are told to try, and its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertised {
    /// Address to which clients send.
    pub address: SocketAddr,
    /// Source of the address.
    pub source: EndpointSource,
    /// `true` while clients are not told it: other relays reach another address, and not this one.
    pub is_withheld: bool,
}

/// Addresses that the sources have found so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Last known addresses of the names among the static endpoints.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Last answer of the cloud's metadata service.
    pub cloud: Vec<IpAddr>,
    /// Addresses of network interfaces that other hosts may reach.
    pub interfaces: Vec<InterfaceAddress>,
    /// Addresses that STUN servers saw last, by IP version.
    pub stun: [Vec<SocketAddr>; 2],
}

impl Advertised {
    /// An address that clients are told.
    const fn told(address: SocketAddr, source: EndpointSource) -> Self {
        Self {
            address,
            source,
            is_withheld: false,
        }
    }
}

impl Found {
    /// Addresses of the interfaces that the configuration chooses.
    fn of_interfaces(&self, config: &EndpointsConfig) -> Vec<IpAddr> {
        let interfaces = self.interfaces.iter();
        let chosen = interfaces.filter(|found| config.admits_interface(&found.interface));
        chosen.map(|found| found.ip).collect()
    }
}

/// Addresses that a relay on `node` advertises when it is bound to `port`: the static ones in their order,
/// those of a Service, then those of each source in the order of the sources, IPv4 first. There are no
/// duplicates, and no more than the configuration allows.
pub fn advertised(
    config: &EndpointsConfig,
    node: Option<&str>,
    found: &Found,
    port: u16,
) -> Vec<Advertised> {
    let mut all: Vec<Advertised> = Vec::new();
    let mut add = |address: SocketAddr, source| {
        if all.iter().all(|other| other.address != address) {
            all.push(Advertised::told(address, source));
        }
    };
    for endpoint in config.fixed_on(node) {
        match endpoint {
            StaticEndpoint::Address(address) => add(address, EndpointSource::Static),
            StaticEndpoint::Name { host, port } => {
                for ip in found.names.get(&host).into_iter().flatten() {
                    add(SocketAddr::new(*ip, port), EndpointSource::Static);
                }
            }
        }
    }
    let own = node.and_then(|name| config.nodes.get(name));
    // Not for static endpoints: 100.64.0.0/10 has other users than the tailnet (decision 0026).
    let is_told =
        |address: &SocketAddr| config.admits(address.ip()) && !reach::is_of_tailnet(address.ip());
    let assigned = own.iter().flat_map(|own| &own.assigned);
    for address in assigned.filter(|address| is_told(address)) {
        add(*address, EndpointSource::Service);
    }
    let with_port = |ips: &[IpAddr]| -> Vec<SocketAddr> {
        ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
    };
    for source in config.sources() {
        let (mut addresses, source) = match source {
            Discover::NodeExternalIp => (
                own.map_or_else(Vec::new, |own| with_port(&own.external_ips)),
                EndpointSource::NodeExternalIp,
            ),
            Discover::NodeInternalIp => (
                own.map_or_else(Vec::new, |own| with_port(&own.internal_ips)),
                EndpointSource::NodeInternalIp,
            ),
            Discover::CloudMetadata => (with_port(&found.cloud), EndpointSource::CloudMetadata),
            Discover::Stun => (found.stun.concat(), EndpointSource::Stun),
            Discover::Interface => {
                let ips = found.of_interfaces(config);
                (with_port(&ips), EndpointSource::Interface)
            }
        };
        addresses.retain(is_told);
        addresses.sort_by_key(SocketAddr::is_ipv6);
        addresses
            .into_iter()
            .for_each(|address| add(address, source));
    }
    all.truncate(config.most());
    all
}

/// Withholds addresses. Of each IP version at least one is told: a list of addresses to withhold may be
/// older than the addresses.
pub fn withhold(all: &mut [Advertised], withheld: &[SocketAddr]) {
    for is_ipv4 in [true, false] {
        let of_version = |a: &&mut Advertised| a.address.is_ipv4() == is_ipv4;
        let mut all: Vec<_> = all.iter_mut().filter(of_version).collect();
        if all.iter().any(|a| !withheld.contains(&a.address)) {
            for advertised in &mut all {
                advertised.is_withheld = withheld.contains(&advertised.address);
            }
        }
    }
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

    fn found() -> Found {
        Found {
            names: BTreeMap::from([(
                "relay.example.net".into(),
                vec![
                    "203.0.113.7".parse().unwrap(),
                    "2001:db8::7".parse().unwrap(),
                ],
            )]),
            interfaces: vec![on("eth0", "2001:db8::1"), on("eth0", "192.0.2.1")],
            ..Found::default()
        }
    }

    fn addresses(config: &str, node: Option<&str>) -> Vec<String> {
        let config: EndpointsConfig = serde_yaml::from_str(config).unwrap();
        let all = advertised(&config, node, &found(), 4000);
        all.iter().map(|a| a.address.to_string()).collect()
    }

    #[test]
    fn static_endpoints_come_first_then_ipv4_then_ipv6() {
        let config = "{static: ['relay.example.net:4001', '203.0.113.10:40000', '192.0.2.1:4000']}";
        assert_eq!(
            addresses(config, None),
            [
                "203.0.113.7:4001",
                "[2001:db8::7]:4001",
                "203.0.113.10:40000",
                "192.0.2.1:4000",
                "[2001:db8::1]:4000",
            ]
        );
    }

    #[test]
    fn static_only_discovers_nothing_and_a_node_has_its_own() {
        let config = "{advertise: StaticOnly, static: ['203.0.113.10:40000'], \
                      nodes: {n1: {static: ['198.51.100.1:7']}}}";
        assert_eq!(addresses(config, Some("n2")), ["203.0.113.10:40000"]);
        assert_eq!(
            addresses(config, Some("n1")),
            ["198.51.100.1:7", "203.0.113.10:40000"]
        );
    }

    #[test]
    fn no_source_but_the_spec_tells_addresses_of_the_tailnet() {
        let config = "{static: ['100.64.0.9:7'], discover: [NodeExternalIP, NodeInternalIP, Interface], \
                      nodes: {n1: {assigned: ['100.64.0.1:31000', '203.0.113.1:31000'], \
                      externalIPs: [100.64.0.2], internalIPs: [100.64.0.3, 'fd7a:115c:a1e0::3']}}}";
        assert_eq!(
            addresses(config, Some("n1")),
            [
                "100.64.0.9:7",
                "203.0.113.1:31000",
                "192.0.2.1:4000",
                "[2001:db8::1]:4000"
            ]
        );
    }

    #[test]
    fn networks_filter_all_but_static_endpoints() {
        let config = "{static: ['192.0.2.1:7'], exclude: [192.0.2.0/24]}";
        assert_eq!(
            addresses(config, None),
            ["192.0.2.1:7", "[2001:db8::1]:4000"]
        );
        assert_eq!(
            addresses("{include: [192.0.2.0/24]}", None),
            ["192.0.2.1:4000"]
        );
        let behind_service = "{include: [203.0.113.0/24], \
                              nodes: {n1: {assigned: ['198.51.100.1:31000', '203.0.113.1:31000']}}}";
        assert_eq!(addresses(behind_service, Some("n1")), ["203.0.113.1:31000"]);
    }

    #[test]
    fn interfaces_are_chosen_by_name_and_other_sources_are_not() {
        let mut found = found();
        found.interfaces = vec![on("enp1s0", "192.0.2.1"), on("wan0", "203.0.113.1")];
        found.cloud = vec!["198.51.100.1".parse().unwrap()];
        for (config, interface) in [
            ("{}", &["192.0.2.1:4000", "203.0.113.1:4000"][..]),
            ("{includeInterfaces: [wan*]}", &["203.0.113.1:4000"]),
            ("{excludeInterfaces: [wan0]}", &["192.0.2.1:4000"]),
            (
                "{includeInterfaces: ['*'], excludeInterfaces: ['en*', 'wan?']}",
                &["203.0.113.1:4000"],
            ),
            ("{includeInterfaces: [eth0]}", &[]),
        ] {
            let config: EndpointsConfig = serde_yaml::from_str(config).unwrap();
            let all = advertised(&config, None, &found, 4000);
            let all: Vec<_> = all.iter().map(|a| a.address.to_string()).collect();
            assert_eq!(all[0], "198.51.100.1:4000");
            assert_eq!(&all[1..], interface);
        }
    }

    #[test]
    fn sources_are_used_in_the_order_in_which_they_are_named() {
        let node = "nodes: {n1: {assigned: ['203.0.113.1:31000'], externalIPs: [203.0.113.2], \
                    internalIPs: [10.0.0.1, 192.0.2.1]}}";
        assert_eq!(
            addresses(&format!("{{{node}}}"), Some("n1")),
            [
                "203.0.113.1:31000",
                "203.0.113.2:4000",
                "192.0.2.1:4000",
                "[2001:db8::1]:4000"
            ]
        );
        assert_eq!(
            addresses(
                &format!("{{{node}, discover: [Interface, NodeInternalIP]}}"),
                Some("n1")
            ),
            [
                "203.0.113.1:31000",
                "192.0.2.1:4000",
                "[2001:db8::1]:4000",
                "10.0.0.1:4000"
            ]
        );
        let alone = addresses(&format!("{{{node}, discover: []}}"), Some("n1"));
        assert_eq!(alone, ["203.0.113.1:31000"]);
    }

    #[test]
    fn address_that_two_sources_have_is_the_first_ones() {
        let mut found = found();
        found.stun[0] = vec![
            "198.51.100.7:45000".parse().unwrap(),
            "192.0.2.1:4000".parse().unwrap(),
        ];
        let all = advertised(&EndpointsConfig::default(), None, &found, 4000);
        let shown: Vec<_> = all
            .iter()
            .map(|a| (a.address.to_string(), a.source))
            .collect();
        assert_eq!(
            shown,
            [
                ("198.51.100.7:45000".to_owned(), EndpointSource::Stun),
                ("192.0.2.1:4000".to_owned(), EndpointSource::Stun),
                ("[2001:db8::1]:4000".to_owned(), EndpointSource::Interface),
            ]
        );
    }

    #[test]
    fn addresses_of_the_cloud_come_after_the_nodes_and_before_stuns() {
        let mut found = found();
        found.cloud = vec![
            "2600:1f18::7".parse().unwrap(),
            "203.0.113.9".parse().unwrap(),
        ];
        found.stun[0] = vec![
            "203.0.113.9:4000".parse().unwrap(),
            "198.51.100.7:45000".parse().unwrap(),
        ];
        let shown = |config: &str| {
            let config: EndpointsConfig = serde_yaml::from_str(config).unwrap();
            let all = advertised(&config, Some("n1"), &found, 4000);
            let all = all.iter().map(|a| format!("{} {:?}", a.address, a.source));
            all.collect::<Vec<_>>()
        };
        assert_eq!(
            shown("{nodes: {n1: {externalIPs: [203.0.113.2]}}, exclude: [192.0.2.0/24]}"),
            [
                "203.0.113.2:4000 NodeExternalIp",
                "203.0.113.9:4000 CloudMetadata",
                "[2600:1f18::7]:4000 CloudMetadata",
                "198.51.100.7:45000 Stun",
                "[2001:db8::1]:4000 Interface",
            ]
        );
        assert_eq!(
            shown("{discover: [CloudMetadata], exclude: ['2600::/12']}"),
            ["203.0.113.9:4000 CloudMetadata"]
        );
        assert_eq!(
            shown("{discover: [CloudMetadata], include: [10.0.0.0/8]}"),
            [""; 0]
        );
        assert_eq!(shown("{advertise: StaticOnly}"), [""; 0]);
    }

    #[test]
    fn what_is_withheld_leaves_an_address_of_each_version() {
        let all = advertised(&EndpointsConfig::default(), None, &found(), 4000);
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let told = |withheld: &[&str]| {
            let withheld: Vec<_> = withheld.iter().map(|text| address(text)).collect();
            let mut all = all.clone();
            all.extend(all.first().map(|a| Advertised {
                address: address("192.0.2.9:4000"),
                ..*a
            }));
            withhold(&mut all, &withheld);
            let told = all.iter().filter(|a| !a.is_withheld);
            told.map(|a| a.address.to_string()).collect::<Vec<_>>()
        };
        let (old, new, v6) = ("192.0.2.1:4000", "192.0.2.9:4000", "[2001:db8::1]:4000");
        assert_eq!(told(&[]), [old, v6, new]);
        assert_eq!(told(&[old]), [v6, new]);
        assert_eq!(told(&[old, v6, "198.51.100.1:1"]), [v6, new]);
        assert_eq!(told(&[old, new]), [old, v6, new]);
    }

    #[test]
    fn no_more_than_the_maximum_is_advertised_static_ones_first() {
        let config = "{static: ['203.0.113.10:40000'], max: 2}";
        assert_eq!(
            addresses(config, None),
            ["203.0.113.10:40000", "192.0.2.1:4000"]
        );
    }
}
