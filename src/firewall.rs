//! The ports that a firewall in front of relays must let in: UDP, and nothing else. Pure.

mod render;

use std::{fmt, ops::RangeInclusive};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use self::render::{Tool, render};
use crate::{
    crd::exposure::ExposureType,
    operator::{
        plan,
        validate::{ValidRegion, ValidSpec},
    },
};

/// Ports that clients must reach, and where their packets go from there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Opening {
    /// First UDP port.
    pub first: u16,
    /// Last UDP port; the first one unless relays share an address.
    pub last: u16,
    /// How packets get to the relay.
    pub way: Way,
    /// What it is for, such as `relays/edge`.
    pub purpose: String,
}

/// The way of a packet that has arrived at one of the ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// The relay listens there, on the node's network.
    Local,
    /// The cluster forwards it.
    Forwarded {
        /// Whether a load balancer takes it, and not the node.
        balanced: bool,
        /// UDP port of the relay.
        to: u16,
        /// Whether the relay is on the node's network, and not on that of pods.
        on_node: bool,
    },
}

impl Opening {
    /// The ports, such as `40000` or `40000-40007`.
    pub fn ports(&self, separator: &str) -> String {
        range(self.first, self.last, separator)
    }

    /// Whether firewalls of the cloud open it by themselves, as the Service asks for it.
    const fn is_balanced(&self) -> bool {
        matches!(self.way, Way::Forwarded { balanced: true, .. })
    }
}

/// The port of a region is not known before the cluster has chosen it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster chooses the node port of region {region}: set exposure.nodePort, or read \
     status.regions[].firewall once it has"
)]
pub struct PortUnknown {
    region: String,
}

/// Packets that are let in: from one network of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source(IpNet);

impl Source {
    /// Everyone, by IPv4 and by IPv6.
    pub fn everyone() -> Vec<Self> {
        vec![
            Self(Ipv4Net::default().into()),
            Self(Ipv6Net::default().into()),
        ]
    }

    /// Everyone in a network.
    pub const fn network(net: IpNet) -> Self {
        Self(net)
    }

    fn is_everyone(self) -> bool {
        self.0.prefix_len() == 0
    }

    const fn is_ipv4(self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The ports that clients of a PeerRelay must reach, each once.
///
/// # Errors
/// The first region whose port is not known.
pub fn openings(relay: &ValidSpec) -> Result<Vec<Opening>, PortUnknown> {
    let mut openings = Vec::new();
    for region in &relay.regions {
        let ports = ports(relay.port, relay.max_relays, region);
        if ports.is_empty() {
            let region = region.name.clone();
            return Err(PortUnknown { region });
        }
        openings.extend(ports.into_iter().map(|(first, last)| Opening {
            first,
            last,
            way: way(relay.port, region),
            purpose: format!("{}/{}", relay.namespace, relay.name),
        }));
    }
    openings.sort();
    openings.dedup();
    Ok(openings)
}

fn way(port: u16, region: &ValidRegion) -> Way {
    let forwarded = |balanced| Way::Forwarded {
        balanced,
        to: port,
        on_node: region.exposure.on_host_network(),
    };
    match region.exposure.kind {
        ExposureType::HostNetwork => Way::Local,
        ExposureType::NodePort => forwarded(false),
        ExposureType::LoadBalancer => forwarded(true),
    }
}

/// Ports such as `40000` or `40000-40007`.
fn range(first: u16, last: u16, separator: &str) -> String {
    match first == last {
        true => first.to_string(),
        false => format!("{first}{separator}{last}"),
    }
}

/// What the status says about a region; nothing while its port is not known.
pub fn line(port: u16, region: &ValidRegion) -> String {
    let ports = ports(port, None, region);
    let shown = ports.iter().map(|(first, last)| range(*first, *last, "-"));
    let shown: Vec<_> = shown.collect();
    match shown.is_empty() {
        true => String::new(),
        false => format!(
            "let in UDP {}, IPv4 and IPv6, from everywhere",
            shown.join(", ")
        ),
    }
}

/// What is worth a warning about restricted sources.
pub fn warnings(sources: &[Source]) -> Vec<String> {
    let tailnet = |source: &&Source| crate::grants::is_tailnet(source.0);
    let mut warnings: Vec<_> = sources
        .iter()
        .filter(tailnet)
        .map(|source| {
            format!(
                "{source} are addresses inside of the tailnet: relay packets come from the \
                 clients' addresses outside of it, so that this lets no client in"
            )
        })
        .collect();
    if warnings.is_empty() && sources.iter().any(|source| !source.is_everyone()) {
        let all = "clients with addresses outside of the given sources cannot use the relays: \
                   behind NAT, the address of the NAT counts";
        warnings.push(all.to_owned());
    }
    warnings
}

/// Ranges of ports, first and last of each. Empty if only the cluster will know.
fn ports(port: u16, total: Option<u16>, region: &ValidRegion) -> Vec<(u16, u16)> {
    let planned = || region.plan.endpoints.values().flatten().map(|to| to.port());
    let mut ports: Vec<u16> = match region.exposure.kind {
        ExposureType::HostNetwork => vec![port],
        ExposureType::NodePort => match region.exposure.node_port {
            Some(port) => vec![port],
            None => planned().collect(),
        },
        ExposureType::LoadBalancer => balanced(port, total, region).chain(planned()).collect(),
    };
    ports.sort_unstable();
    ports.dedup();
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(port) => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    ranges
}

/// Ports of load balancers: one for each relay if they share an address.
fn balanced(port: u16, total: Option<u16>, region: &ValidRegion) -> RangeInclusive<u16> {
    let balancer = region.exposure.load_balancer.clone().unwrap_or_default();
    if !balancer.share_address {
        return port..=port;
    }
    let first = balancer.base_port.unwrap_or(port);
    let most = plan::most(region).unwrap_or(1);
    let relays = most.min(total.unwrap_or(most)).max(1);
    first..=first.saturating_add(relays - 1)
}

#[cfg(test)]
mod tests;
