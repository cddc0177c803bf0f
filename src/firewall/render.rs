//! The same openings in the words of each firewall.

mod cloud;
mod host;
mod terraform;

use super::{Delivery, Opening, Source};

/// The firewall that is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tool {
    /// Uncomplicated firewall of a node
    Ufw,
    /// iptables and ip6tables of a node
    Iptables,
    /// nftables of a node
    Nftables,
    /// firewall-cmd of a node
    Firewalld,
    /// Security group of AWS
    Aws,
    /// VPC firewall rule of Google Cloud
    Gcp,
    /// Network security group of Azure
    Azure,
    /// Firewall of Hetzner Cloud
    Hetzner,
    /// Network security group of Oracle Cloud
    Oracle,
    /// Cloud firewall of DigitalOcean
    Digitalocean,
    /// Terraform: rules of an AWS security group
    TerraformAws,
    /// Terraform: firewall rules of Google Cloud
    TerraformGoogle,
    /// Terraform: rules of an Azure network security group
    TerraformAzurerm,
}

impl Tool {
    /// All tools, in the order of the output.
    pub const ALL: &[Self] = &[
        Self::Ufw,
        Self::Iptables,
        Self::Nftables,
        Self::Firewalld,
        Self::Aws,
        Self::Gcp,
        Self::Azure,
        Self::Hetzner,
        Self::Oracle,
        Self::Digitalocean,
        Self::TerraformAws,
        Self::TerraformGoogle,
        Self::TerraformAzurerm,
    ];

    /// Returns whether it is on the node itself, and sees where packets are forwarded to.
    const fn is_on_node(self) -> bool {
        matches!(
            self,
            Self::Ufw | Self::Iptables | Self::Nftables | Self::Firewalld
        )
    }

    const fn heading(self) -> &'static str {
        match self {
            Self::Ufw => "ufw; one rule is for IPv4 and IPv6, and survives a reboot",
            Self::Iptables => {
                "iptables; inserted, as a rule after one that refuses everything does nothing"
            }
            Self::Nftables => {
                "nftables; name your own table and chain: accepting in another table does not \
                 help where one refuses"
            }
            Self::Firewalld => {
                "firewalld, default zone; a port is for IPv4 and IPv6, and survives a reboot"
            }
            Self::Aws => "AWS: set SECURITY_GROUP to the one of the nodes",
            Self::Gcp => "Google Cloud: set NETWORK, and NODE_TAG to a network tag of the nodes",
            Self::Azure => {
                "Azure: set RESOURCE_GROUP, and NSG to the one of the nodes; change priorities \
                 that are taken"
            }
            Self::Hetzner => "Hetzner Cloud: set FIREWALL to the one of the nodes",
            Self::Oracle => {
                "Oracle Cloud: set NSG_ID to the network security group of the nodes. Images of \
                 Oracle also refuse by iptables on the node: see --for iptables"
            }
            Self::Digitalocean => "DigitalOcean: set FIREWALL_ID to the one of the nodes",
            Self::TerraformAws => "Terraform, AWS: the security group of the nodes",
            Self::TerraformGoogle => {
                "Terraform, Google Cloud: the network, and a network tag of the nodes"
            }
            Self::TerraformAzurerm => {
                "Terraform, Azure: the network security group of the nodes; change priorities \
                 that are taken"
            }
        }
    }
}

/// A text for a shell or a file of Terraform, with comments on top. A port may be opened twice
/// without harm.
pub fn render(openings: &[Opening], sources: &[Source], tool: Tool) -> String {
    let mut lines = vec![format!("# {}", tool.heading())];
    lines.extend(openings.iter().filter_map(|opening| comment(opening, tool)));
    // The controller of the cluster opens a balancer's ports in the cloud.
    let own: Vec<&Opening> = openings
        .iter()
        .filter(|opening| tool.is_on_node() || !opening.is_balanced())
        .collect();
    if !own.is_empty() {
        lines.extend(match tool {
            Tool::Ufw => host::ufw(&own, sources),
            Tool::Iptables => host::iptables(&own, sources),
            Tool::Nftables => host::nftables(&own, sources),
            Tool::Firewalld => host::firewalld(&own, sources),
            Tool::Aws => cloud::aws(&own, sources),
            Tool::Gcp => cloud::gcp(&own, sources),
            Tool::Azure => cloud::azure(&own, sources),
            Tool::Hetzner => cloud::hetzner(&own, sources),
            Tool::Oracle => cloud::oracle(&own, sources),
            Tool::Digitalocean => cloud::digitalocean(&own, sources),
            Tool::TerraformAws => terraform::aws(&own, sources),
            Tool::TerraformGoogle => terraform::google(&own, sources),
            Tool::TerraformAzurerm => terraform::azurerm(&own, sources),
        });
    }
    lines.join("\n") + "\n"
}

/// The comment about an opening whose packets are forwarded.
fn comment(opening: &Opening, tool: Tool) -> Option<String> {
    let Delivery::Forwarded {
        balanced,
        to,
        on_node,
    } = opening.delivery
    else {
        return None;
    };
    let (ports, purpose) = (opening.ports("-"), &opening.purpose);
    let at = match balanced {
        true => "of the load balancer",
        false => "of each node",
    };
    let network = match on_node {
        true => "the node itself",
        false => "a pod",
    };
    let then = match (balanced, tool.is_on_node()) {
        (true, false) => {
            "the controller of the cluster opens the nodes for it; open these ports in firewalls \
             before the load balancer"
        }
        (true, true) => {
            "this is for nodes that packets reach with the balancer's port (MetalLB, Cilium); \
             clouds send to node ports or straight to pods"
        }
        (false, false) => "the node port is what must be open",
        (false, true) => "the rule is for what is forwarded, or arrives after it",
    };
    Some(format!(
        "# UDP {ports} {at} ({purpose}) is forwarded by the cluster to UDP {to} of {network}: {then}"
    ))
}

/// The sources of each family, as some firewalls have rules of one family only.
fn by_family(sources: &[Source]) -> impl Iterator<Item = (&'static str, Vec<Source>)> {
    let of = |ipv4: bool| {
        let sources = sources.iter().filter(move |s| s.is_ipv4() == ipv4);
        sources.copied().collect::<Vec<_>>()
    };
    [("ipv4", of(true)), ("ipv6", of(false))]
        .into_iter()
        .filter(|(_, sources)| !sources.is_empty())
}

fn joined(sources: &[Source], separator: &str) -> String {
    let sources: Vec<_> = sources.iter().map(ToString::to_string).collect();
    sources.join(separator)
}

fn is_everyone(sources: &[Source]) -> bool {
    let of = |ipv4: bool| {
        sources
            .iter()
            .any(|s| s.is_everyone() && s.is_ipv4() == ipv4)
    };
    of(true) && of(false)
}

/// Each opening with each source.
fn pairs<'a>(
    openings: &'a [&'a Opening],
    sources: &'a [Source],
) -> impl Iterator<Item = (&'a Opening, Source)> {
    let with_all = |opening: &&'a Opening| {
        let opening = *opening;
        sources.iter().map(move |source| (opening, *source))
    };
    openings.iter().flat_map(with_all)
}
