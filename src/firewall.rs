//! What a firewall in front of relays must let in: UDP to their port, nothing else. Pure.

mod render;

use std::fmt;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use self::render::{Tool, render};
use crate::{
    crd::exposure::ExposureType,
    operator::validate::{ValidatedRegion, ValidatedRelay},
};

/// A port that clients must reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Opening {
    /// UDP port of the nodes.
    pub port: u16,
    /// What it is for, such as `relays/edge`.
    pub purpose: String,
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

/// The ports of a PeerRelay's nodes, each once.
///
/// # Errors
/// The first region whose port is not known.
pub fn openings(relay: &ValidatedRelay) -> Result<Vec<Opening>, PortUnknown> {
    let purpose = format!("{}/{}", relay.namespace, relay.name);
    let mut openings = Vec::new();
    for region in &relay.regions {
        let ports = ports(relay.port, region);
        if ports.is_empty() {
            let region = region.name.clone();
            return Err(PortUnknown { region });
        }
        openings.extend(ports.into_iter().map(|port| Opening {
            port,
            purpose: purpose.clone(),
        }));
    }
    openings.sort();
    openings.dedup();
    Ok(openings)
}

/// What the status says about a region; nothing while its port is not known.
pub fn line(port: u16, region: &ValidatedRegion) -> String {
    let ports: Vec<_> = ports(port, region).iter().map(u16::to_string).collect();
    match ports.is_empty() {
        true => String::new(),
        false => format!(
            "let in UDP {}, IPv4 and IPv6, from everywhere",
            ports.join(", ")
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

fn ports(port: u16, region: &ValidatedRegion) -> Vec<u16> {
    let planned = || region.plan.endpoints.values().flatten().map(|to| to.port());
    let mut ports: Vec<u16> = match region.exposure.kind {
        ExposureType::HostNetwork => vec![port],
        ExposureType::NodePort => match region.exposure.node_port {
            Some(port) => vec![port],
            None => planned().collect(),
        },
        // Balancers lead to nodes by themselves; what stands before them must let these through.
        ExposureType::LoadBalancer => {
            let balancer = region.exposure.load_balancer.as_ref();
            let first = balancer.and_then(|balancer| balancer.base_port);
            match planned().next() {
                Some(_) => planned().collect(),
                None => vec![first.unwrap_or(port)],
            }
        }
    };
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[cfg(test)]
mod tests;
