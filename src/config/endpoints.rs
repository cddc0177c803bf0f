//! Addresses that a relay advertises.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::interface_pattern::InterfacePattern;

/// Default of [`EndpointsConfig::max`]. A client tries each address, and an answer with all of them
/// must fit into a DERP packet.
pub const DEFAULT_MAX: u8 = 16;
/// Upper bound of [`EndpointsConfig::max`].
pub const MOST: u8 = 32;
/// Maximum length of a host name (RFC 1035).
const LONGEST_NAME: usize = 253;

/// Addresses that a relay advertises to clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointsConfig {
    /// Endpoints of every relay. They are advertised first.
    #[serde(rename = "static", skip_serializing_if = "Vec::is_empty")]
    pub fixed: Vec<StaticEndpoint>,
    /// Endpoints of single Kubernetes nodes, by the name of the node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, NodeEndpoints>,
    /// Sources of further addresses, in the order in which they are advertised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discover: Option<Vec<Discover>>,
    /// Networks of addresses to advertise. They apply to discovered addresses and to those of
    /// Services, and not to static ones. If empty, all are advertised.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<IpNet>,
    /// Networks of addresses that are not advertised. They apply to discovered addresses and to
    /// those of Services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<IpNet>,
    /// Interfaces whose addresses are discovered. If empty, all are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include_interfaces: Vec<InterfacePattern>,
    /// Interfaces whose addresses are not discovered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_interfaces: Vec<InterfacePattern>,
    /// Selection of static and discovered addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<Advertise>,
    /// Maximum number of addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u8>,
}

/// Endpoints of one Kubernetes node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeEndpoints {
    /// Endpoints of the relay on this node. They are advertised first.
    #[serde(rename = "static", skip_serializing_if = "Vec::is_empty")]
    pub fixed: Vec<StaticEndpoint>,
    /// Addresses of the relay's Service or load balancer. They are advertised after all static
    /// ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assigned: Vec<SocketAddr>,
    /// External addresses of the node.
    #[serde(rename = "externalIPs", skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<IpAddr>,
    /// Internal addresses of the node.
    #[serde(rename = "internalIPs", skip_serializing_if = "Vec::is_empty")]
    pub internal_ips: Vec<IpAddr>,
}

/// Source of discovered addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Discover {
    /// `ExternalIP` addresses of the Kubernetes node.
    #[serde(rename = "NodeExternalIP")]
    NodeExternalIp,
    /// `InternalIP` addresses of the Kubernetes node.
    #[serde(rename = "NodeInternalIP")]
    NodeInternalIp,
    /// Public addresses from the metadata service of AWS, Google Cloud, Azure, Oracle Cloud (IPv6),
    /// Hetzner Cloud (IPv4), DigitalOcean or OpenStack (IPv4). On other machines, no metadata
    /// service is queried.
    CloudMetadata,
    /// Addresses of the relay's port as observed by the STUN servers of the DERP map.
    Stun,
    /// Addresses of network interfaces.
    Interface,
}

impl Discover {
    /// Sources in their order if none is set.
    pub const DEFAULT: &[Self] = &[
        Self::NodeExternalIp,
        Self::CloudMetadata,
        Self::Stun,
        Self::Interface,
    ];
}

/// Selection of static and discovered addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Advertise {
    /// Advertise static endpoints first, then discovered addresses.
    #[default]
    All,
    /// Advertise static endpoints only.
    StaticOnly,
}

/// Endpoint from the configuration: `203.0.113.10:40000`, `[2001:db8::1]:40000` or
/// `relay.example.net:40000`. The port is the one to which clients send. It may differ from the
/// relay's port, for example behind a port forward.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StaticEndpoint {
    /// Endpoint with an IP address.
    Address(SocketAddr),
    /// Endpoint with a host name, which is resolved periodically.
    Name {
        /// Host name without the port.
        host: String,
        /// Port to which clients send.
        port: u16,
    },
}

/// Error of parsing a static endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The text has none of the three forms.
    #[error(
        "'{0}' is no endpoint: write 203.0.113.10:40000, [2001:db8::1]:40000 or \
         relay.example.net:40000"
    )]
    Form(String),
    /// The address is not the address of one host that others can reach.
    #[error("'{0}' cannot be reached by clients: give an address of one host, and its port")]
    Unreachable(SocketAddr),
}

impl FromStr for StaticEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let form = || EndpointError::Form(text.to_owned());
        if let Ok(address) = text.parse::<SocketAddr>() {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            return match can_be_reached(address) {
                true => Ok(Self::Address(address)),
                false => Err(EndpointError::Unreachable(address)),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let port = port.parse().ok().filter(|port| *port != 0);
        match port {
            Some(port) if is_name(host) => Ok(Self::Name {
                host: host.to_owned(),
                port,
            }),
            _ => Err(form()),
        }
    }
}

impl TryFrom<String> for StaticEndpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl From<StaticEndpoint> for String {
    fn from(endpoint: StaticEndpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for StaticEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl EndpointsConfig {
    /// Merges two configurations. Fields of `lower` are used where `self` has none.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        fn either<T>(upper: Vec<T>, lower: Vec<T>) -> Vec<T> {
            if upper.is_empty() { lower } else { upper }
        }
        Self {
            fixed: either(self.fixed, lower.fixed),
            nodes: match self.nodes.is_empty() {
                true => lower.nodes,
                false => self.nodes,
            },
            discover: self.discover.or(lower.discover),
            include: either(self.include, lower.include),
            exclude: either(self.exclude, lower.exclude),
            include_interfaces: either(self.include_interfaces, lower.include_interfaces),
            exclude_interfaces: either(self.exclude_interfaces, lower.exclude_interfaces),
            advertise: self.advertise.or(lower.advertise),
            max: self.max.or(lower.max),
        }
    }

    /// Returns the static endpoints of the node `name`: first its own, then those of all nodes.
    pub fn fixed_on(&self, name: Option<&str>) -> Vec<StaticEndpoint> {
        let own = name.and_then(|name| self.nodes.get(name));
        let mut all: Vec<StaticEndpoint> = Vec::new();
        for endpoint in own.iter().flat_map(|own| &own.fixed).chain(&self.fixed) {
            if !all.contains(endpoint) {
                all.push(endpoint.clone());
            }
        }
        all
    }

    /// Returns the sources to use, in their order.
    pub fn sources(&self) -> &[Discover] {
        match (self.advertise, &self.discover) {
            (Some(Advertise::StaticOnly), _) => &[],
            (_, Some(sources)) => sources,
            (_, None) => Discover::DEFAULT,
        }
    }

    /// Returns whether `include` and `exclude` allow an address that is not static.
    pub fn admits(&self, ip: IpAddr) -> bool {
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&ip));
        (self.include.is_empty() || within(&self.include)) && !within(&self.exclude)
    }

    /// Returns whether addresses of the interface `name` may be discovered.
    pub fn admits_interface(&self, name: &str) -> bool {
        let among = |all: &[InterfacePattern]| all.iter().any(|pattern| pattern.matches(name));
        let (include, exclude) = (&self.include_interfaces, &self.exclude_interfaces);
        (include.is_empty() || among(include)) && !among(exclude)
    }

    /// Returns the maximum number of addresses, including static ones.
    pub fn most(&self) -> usize {
        // Clients refuse an answer without an address as too short (`UDPRelayEndpoint.decode` in
        // disco.go).
        self.max.unwrap_or(DEFAULT_MAX).clamp(1, MOST).into()
    }
}

fn can_be_reached(address: SocketAddr) -> bool {
    let ip = address.ip();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    let refused = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || broadcast;
    address.port() != 0 && !refused
}

/// Returns whether `host` is a host name. A name of digits only is refused, because it is a
/// mistyped address.
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    name.len() <= LONGEST_NAME
        && name.split('.').all(label)
        && name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.contains(|c: char| c.is_ascii_alphabetic()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use bolero::{ValueGenerator, check, one_of, one_value_of, produce};
    use fuzz_edits::{edited, edits};

    use super::*;

    #[test]
    fn the_three_forms_are_read_and_written_alike() {
        for text in [
            "203.0.113.10:40000",
            "[2001:db8::1]:40000",
            "relay.example.net:40000",
            "relay:1",
        ] {
            let endpoint: StaticEndpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
        }
        let mapped: StaticEndpoint = "[::ffff:203.0.113.10]:40000".parse().unwrap();
        assert_eq!(mapped.to_string(), "203.0.113.10:40000");
    }

    #[test]
    fn an_endpoint_that_is_read_is_written_the_same() {
        let known = one_value_of([
            "203.0.113.10:40000",
            "[2001:db8::1]:40000",
            "[::ffff:203.0.113.10]:9",
            "relay.example.net.:40000",
        ]);
        let near = (known, edits()).map_gen(|(text, edits)| edited(text.as_bytes(), &edits));
        let text = one_of((near, produce::<Vec<u8>>()));
        let check = check!().with_iterations(20_000).with_generator(text);
        check.for_each(|text| {
            let text = String::from_utf8_lossy(text);
            if let Ok(endpoint) = text.parse::<StaticEndpoint>() {
                assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
            }
        });
    }

    #[test]
    fn what_no_client_can_reach_is_refused_with_the_fix() {
        for text in [
            "",
            "203.0.113.10",
            "203.0.113.10:0",
            "203.0.113.10:65536",
            "203.0.113.999:40000",
            "2001:db8::1:40000",
            "https://relay.example.net:40000",
            "-relay.example.net:40000",
            "relay..net:40000",
            ":40000",
        ] {
            let error = text.parse::<StaticEndpoint>().unwrap_err().to_string();
            assert!(
                error.contains("write 203.0.113.10:40000") || error.contains("cannot be reached"),
                "{text}: {error}"
            );
        }
        for text in [
            "0.0.0.0:1",
            "127.0.0.1:1",
            "[::1]:1",
            "224.0.0.1:1",
            "[ff02::1]:1",
        ] {
            let error = text.parse::<StaticEndpoint>().unwrap_err();
            assert!(matches!(error, EndpointError::Unreachable(_)), "{text}");
        }
    }

    #[test]
    fn endpoints_of_a_node_come_before_those_of_all() {
        let config: EndpointsConfig = serde_yaml::from_str(
            "static: ['203.0.113.1:1', 'relay.example.net:2']\n\
             nodes: {n1: {static: ['203.0.113.9:9', '203.0.113.1:1']}}",
        )
        .unwrap();
        let on = |node| {
            let texts = config.fixed_on(node).into_iter().map(String::from);
            texts.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            on(Some("n1")),
            "203.0.113.9:9 203.0.113.1:1 relay.example.net:2"
        );
        assert_eq!(on(Some("n2")), "203.0.113.1:1 relay.example.net:2");
        assert_eq!(on(None), "203.0.113.1:1 relay.example.net:2");
    }

    #[test]
    fn exclusion_wins_over_inclusion() {
        let config: EndpointsConfig =
            serde_yaml::from_str("include: [10.0.0.0/8]\nexclude: [10.1.0.0/16]").unwrap();
        let admits = |ip: &str| config.admits(ip.parse().unwrap());
        assert!(admits("10.2.0.1"));
        assert!(!admits("10.1.0.1"));
        assert!(!admits("192.0.2.1"));
        assert!(EndpointsConfig::default().admits("192.0.2.1".parse().unwrap()));
    }
}
