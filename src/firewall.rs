//! The ports that a firewall in front of relays must let in: UDP, and nothing else. Pure.

mod render;

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use self::render::{Tool, render};
use crate::crd::exposure::{Exposure, ExposureType};

/// A range of ports that clients must reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Opening {
    /// First UDP port of the range.
    pub first: u16,
    /// Last UDP port; the first one unless relays share an address.
    pub last: u16,
    /// Way of packets from there to the relay.
    pub delivery: Delivery,
    /// Namespace and name of the PeerRelay, such as `relays/edge`.
    pub purpose: String,
}

/// The way of a packet from the port to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Delivery {
    /// The relay listens there, on the node's network.
    Local,
    /// The cluster forwards it.
    Forwarded {
        /// True if a load balancer takes it, and not the node.
        balanced: bool,
        /// UDP port of the relay.
        to: u16,
        /// True if the relay is on the node's network, and not on that of pods.
        on_node: bool,
    },
}

impl Opening {
    /// The ports, such as `40000` or `40000-40007`.
    pub fn ports(&self, separator: &str) -> String {
        range(self.first, self.last, separator)
    }

    /// Returns whether the cloud opens its own firewalls, as the Service asks for it.
    const fn is_balanced(&self) -> bool {
        matches!(self.delivery, Delivery::Forwarded { balanced: true, .. })
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

/// Error of parsing a network. Its text shows the right form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSource {
    /// The text is not a network.
    #[error("expected a network, such as {0}")]
    Form(String),
    /// The address has bits after the prefix, so the prefix or the address is a mistake.
    #[error("expected a network without bits of a host, such as {0}")]
    HostBits(IpNet),
}

impl FromStr for Source {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        if let Ok(host) = text.parse::<IpAddr>() {
            return Err(InvalidSource::Form(IpNet::from(host).to_string()));
        }
        let example = || InvalidSource::Form("203.0.113.0/24 or 2001:db8::/32".to_owned());
        let net: IpNet = text.parse().map_err(|_| example())?;
        match net.trunc() == net {
            true => Ok(Self(net)),
            false => Err(InvalidSource::HostBits(net.trunc())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The UDP ports of a region's relays.
#[derive(Debug, Clone)]
pub struct Ports<'a> {
    /// Port on which the relays listen.
    pub listens: u16,
    /// Most relays of the region, if the number is limited.
    pub relays: Option<u16>,
    /// Delivery of clients to the relays.
    pub exposure: &'a Exposure,
    /// Ports that the cluster has assigned, as far as they are known.
    pub assigned: Vec<u16>,
}

/// The ports that clients of a PeerRelay with these regions must reach, each once.
///
/// # Errors
/// The first region whose port is not known.
pub fn openings<'a>(
    purpose: &str,
    regions: impl Iterator<Item = (&'a str, Ports<'a>)>,
) -> Result<Vec<Opening>, PortUnknown> {
    let mut openings = Vec::new();
    for (region, ports) in regions {
        let ranges = ports.ranges();
        if ranges.is_empty() {
            let region = region.to_owned();
            return Err(PortUnknown { region });
        }
        openings.extend(ranges.into_iter().map(|(first, last)| Opening {
            first,
            last,
            delivery: ports.delivery(),
            purpose: purpose.to_owned(),
        }));
    }
    openings.sort();
    openings.dedup();
    Ok(openings)
}

impl Ports<'_> {
    /// The sentence of the status about a region; empty while no port is known.
    pub fn summary(&self) -> String {
        let ranges = self.ranges();
        let shown = ranges.iter().map(|(first, last)| range(*first, *last, "-"));
        let shown: Vec<_> = shown.collect();
        match shown.is_empty() {
            true => String::new(),
            false => format!(
                "let in UDP {}, IPv4 and IPv6, from everywhere",
                shown.join(", ")
            ),
        }
    }

    fn delivery(&self) -> Delivery {
        let is_balanced = match self.exposure.kind {
            ExposureType::HostNetwork => return Delivery::Local,
            ExposureType::NodePort => false,
            ExposureType::LoadBalancer => true,
        };
        Delivery::Forwarded {
            balanced: is_balanced,
            to: self.listens,
            on_node: self.exposure.on_host_network(),
        }
    }

    /// Ranges of ports, first and last of each. Empty if only the cluster will know.
    fn ranges(&self) -> Vec<(u16, u16)> {
        let assigned = || self.assigned.iter().copied();
        let mut ports: Vec<u16> = match self.exposure.kind {
            ExposureType::HostNetwork => vec![self.listens],
            ExposureType::NodePort => match self.exposure.node_port {
                Some(port) => vec![port],
                None => assigned().collect(),
            },
            ExposureType::LoadBalancer => self.balanced().chain(assigned()).collect(),
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
    fn balanced(&self) -> RangeInclusive<u16> {
        let balancer = self.exposure.load_balancer.clone().unwrap_or_default();
        if !balancer.share_address {
            return self.listens..=self.listens;
        }
        let first = balancer.base_port.unwrap_or(self.listens);
        let relays = self.relays.unwrap_or(1).max(1);
        first..=first.saturating_add(relays - 1)
    }
}

/// Ports such as `40000` or `40000-40007`.
fn range(first: u16, last: u16, separator: &str) -> String {
    match first == last {
        true => first.to_string(),
        false => format!("{first}{separator}{last}"),
    }
}

/// Warnings about sources that let no client in, or not all of them.
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

#[cfg(test)]
mod tests;
