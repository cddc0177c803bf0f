//! The router's filter between the clients and everything else, as one nftables transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

/// An address family of the network below the tailnet.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Family {
    /// The family of IPv4 addresses.
    V4,
    /// The family of IPv6 addresses.
    V6,
}

/// The router's rules; displayed as input for nft.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Filter {
    pub(super) clients_reach_each_other: bool,
    pub(super) cuts: BTreeSet<(String, Family)>,
    /// Number of times that a client got new ports.
    pub(super) renumbered: BTreeMap<String, u16>,
}

/// Ports that one renumbering uses.
const PORTS: u16 = 100;
const FIRST_PORT: u16 = 20_000;
const RANGES: u16 = 300;

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "table inet prr {{}}\ndelete table inet prr\ntable inet prr {{"
        )?;
        writeln!(
            f,
            "  chain forward {{\n    type filter hook forward priority filter;"
        )?;
        if !self.clients_reach_each_other {
            writeln!(f, "    iifname \"client-*\" oifname \"client-*\" drop")?;
        }
        for (client, family) in &self.cuts {
            let family = match family {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            };
            for (this, other) in [("iifname", "oifname"), ("oifname", "iifname")] {
                writeln!(
                    f,
                    "    {this} \"client-{client}\" {other} \"control\" meta nfproto {family} \
                     meta l4proto tcp accept"
                )?;
                writeln!(
                    f,
                    "    {this} \"client-{client}\" meta nfproto {family} drop"
                )?;
            }
        }
        writeln!(
            f,
            "  }}\n  chain postrouting {{\n    type nat hook postrouting priority srcnat;"
        )?;
        for (client, moves) in &self.renumbered {
            let first = FIRST_PORT + (moves % RANGES) * PORTS;
            writeln!(
                f,
                "    iifname \"client-{client}\" meta l4proto udp masquerade to :{first}-{}",
                first + PORTS - 1
            )?;
        }
        writeln!(f, "  }}\n}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_blocked_unless_told_otherwise() {
        let drop = "iifname \"client-*\" oifname \"client-*\" drop";
        let mut filter = Filter::default();
        assert!(filter.to_string().contains(drop));
        filter.clients_reach_each_other = true;
        assert!(!filter.to_string().contains(drop));
    }

    #[test]
    fn cut_keeps_tcp_to_control_before_it_drops() {
        let mut filter = Filter::default();
        filter.cuts.insert(("c1".into(), Family::V4));
        let rules = filter.to_string();
        let accept = rules.find("iifname \"client-c1\" oifname \"control\" meta nfproto ipv4");
        let drop = rules.find("iifname \"client-c1\" meta nfproto ipv4 drop");
        assert!(accept.is_some() && accept < drop);
    }

    #[test]
    fn every_move_uses_other_ports() {
        let ports = |moves| {
            let renumbered = [("c1".to_owned(), moves)].into();
            Filter {
                renumbered,
                ..Filter::default()
            }
            .to_string()
        };
        assert!(ports(1).contains("masquerade to :20100-20199"));
        assert!(ports(2).contains("masquerade to :20200-20299"));
        assert!(ports(u16::MAX).contains("masquerade to :"));
    }
}
