//! The same openings in the words of each firewall.

use super::{Opening, Source};

/// What is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tool {
    /// Uncomplicated firewall.
    Ufw,
    /// iptables and ip6tables.
    Iptables,
    /// nft.
    Nftables,
    /// firewall-cmd.
    Firewalld,
    /// Security group.
    Aws,
    /// VPC firewall rule.
    Gcp,
    /// Network security group.
    Azure,
}

impl Tool {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Ufw,
        Self::Iptables,
        Self::Nftables,
        Self::Firewalld,
        Self::Aws,
        Self::Gcp,
        Self::Azure,
    ];

    const fn heading(self) -> &'static str {
        match self {
            Self::Ufw => "ufw; one rule is for IPv4 and IPv6",
            Self::Iptables => {
                "iptables; inserted, as a rule after one that refuses everything does nothing"
            }
            Self::Nftables => {
                "nftables; name your own table and chain: accepting in another table does not \
                 help where one refuses"
            }
            Self::Firewalld => "firewalld, default zone; a port is for IPv4 and IPv6",
            Self::Aws => "AWS: set SECURITY_GROUP to the one of the nodes",
            Self::Gcp => "Google Cloud: set NETWORK, and NODE_TAG to a network tag of the nodes",
            Self::Azure => "Azure: set RESOURCE_GROUP, and NSG to the one of the nodes",
        }
    }
}

/// Commands for a shell, with a comment on top. A port may be opened twice without harm.
pub fn render(openings: &[Opening], sources: &[Source], tool: Tool) -> String {
    let rule: fn(&Opening, &[Source]) -> Vec<String> = match tool {
        Tool::Ufw => ufw,
        Tool::Iptables => iptables,
        Tool::Nftables => nftables,
        Tool::Firewalld => firewalld,
        Tool::Aws => aws,
        Tool::Gcp => gcp,
        Tool::Azure => azure,
    };
    let mut lines = vec![format!("# {}", tool.heading())];
    lines.extend(openings.iter().flat_map(|opening| rule(opening, sources)));
    if tool == Tool::Firewalld {
        lines.push("firewall-cmd --reload".to_owned());
    }
    lines.join("\n") + "\n"
}

fn ufw(opening: &Opening, sources: &[Source]) -> Vec<String> {
    let Opening { port, purpose } = opening;
    if is_everyone(sources) {
        return vec![format!(
            "ufw allow {port}/udp comment 'peer relay {purpose}'"
        )];
    }
    let rule = |source: &Source| {
        format!(
            "ufw allow proto udp from {source} to any port {port} comment 'peer relay {purpose}'"
        )
    };
    sources.iter().map(rule).collect()
}

fn iptables(opening: &Opening, sources: &[Source]) -> Vec<String> {
    let rule = |source: &Source| {
        let program = if source.is_ipv4() {
            "iptables"
        } else {
            "ip6tables"
        };
        let from = match source.is_everyone() {
            true => String::new(),
            false => format!(" -s {source}"),
        };
        format!(
            "{program} -I INPUT -p udp{from} --dport {} -j ACCEPT",
            opening.port
        )
    };
    sources.iter().map(rule).collect()
}

fn nftables(opening: &Opening, sources: &[Source]) -> Vec<String> {
    let port = opening.port;
    let insert = "nft insert rule inet filter input";
    if is_everyone(sources) {
        return vec![format!("{insert} udp dport {port} accept")];
    }
    let rule = |source: &Source| {
        let family = if source.is_ipv4() { "ip" } else { "ip6" };
        format!("{insert} {family} saddr {source} udp dport {port} accept")
    };
    sources.iter().map(rule).collect()
}

fn firewalld(opening: &Opening, sources: &[Source]) -> Vec<String> {
    let port = opening.port;
    if is_everyone(sources) {
        return vec![format!("firewall-cmd --permanent --add-port={port}/udp")];
    }
    let rule = |source: &Source| {
        let family = if source.is_ipv4() { "ipv4" } else { "ipv6" };
        format!(
            "firewall-cmd --permanent --add-rich-rule='rule family=\"{family}\" source \
             address=\"{source}\" port port=\"{port}\" protocol=\"udp\" accept'"
        )
    };
    sources.iter().map(rule).collect()
}

fn aws(opening: &Opening, sources: &[Source]) -> Vec<String> {
    let Opening { port, purpose } = opening;
    let rule = |source: &Source| {
        let (ranges, key) = match source.is_ipv4() {
            true => ("IpRanges", "CidrIp"),
            false => ("Ipv6Ranges", "CidrIpv6"),
        };
        format!(
            "aws ec2 authorize-security-group-ingress --group-id \"$SECURITY_GROUP\" \
             --ip-permissions 'IpProtocol=udp,FromPort={port},ToPort={port},\
             {ranges}=[{{{key}={source},Description=\"peer relay {purpose}\"}}]'"
        )
    };
    sources.iter().map(rule).collect()
}

/// A rule holds ranges of one family only.
fn gcp(opening: &Opening, sources: &[Source]) -> Vec<String> {
    by_family(sources, ",")
        .map(|(family, ranges)| {
            let port = opening.port;
            format!(
                "gcloud compute firewall-rules create peer-relay-{port}-{family} --network \
                 \"$NETWORK\" --direction INGRESS --allow udp:{port} --source-ranges {ranges} \
                 --target-tags \"$NODE_TAG\""
            )
        })
        .collect()
}

fn azure(opening: &Opening, sources: &[Source]) -> Vec<String> {
    by_family(sources, " ")
        .zip([300, 301])
        .map(|((family, prefixes), priority)| {
            let port = opening.port;
            format!(
                "az network nsg rule create --resource-group \"$RESOURCE_GROUP\" --nsg-name \
                 \"$NSG\" --name peer-relay-{port}-{family} --priority {priority} --direction \
                 Inbound --access Allow --protocol Udp --source-address-prefixes {prefixes} \
                 --destination-port-ranges {port}"
            )
        })
        .collect()
}

fn by_family(sources: &[Source], separator: &str) -> impl Iterator<Item = (&'static str, String)> {
    let of = |ipv4: bool| {
        let sources = sources.iter().filter(|source| source.is_ipv4() == ipv4);
        sources
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(separator)
    };
    [("ipv4", of(true)), ("ipv6", of(false))]
        .into_iter()
        .filter(|(_, ranges)| !ranges.is_empty())
}

fn is_everyone(sources: &[Source]) -> bool {
    let of = |ipv4: bool| {
        sources
            .iter()
            .any(|s| s.is_everyone() && s.is_ipv4() == ipv4)
    };
    of(true) && of(false)
}
