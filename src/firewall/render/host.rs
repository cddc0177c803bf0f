//! Firewalls of a node. Forwarded packets have another destination, and mostly another chain, by the
//! time that their rules look at them.

use super::{Delivery, Opening, Source, is_everyone, pairs};

/// Returns whether a packet passes through the node instead of ending there.
const fn passes(opening: &Opening) -> bool {
    matches!(opening.delivery, Delivery::Forwarded { on_node: false, .. })
}

/// The port on which a packet ends.
fn inside(opening: &Opening, separator: &str) -> String {
    match opening.delivery {
        Delivery::Local => opening.ports(separator),
        Delivery::Forwarded { to, .. } => to.to_string(),
    }
}

pub(super) fn ufw(openings: &[&Opening], sources: &[Source]) -> Vec<String> {
    let rules = openings.iter().flat_map(|opening| {
        // ufw has no match for the port before the replacement of the destination.
        let (port, purpose) = (inside(opening, ":"), &opening.purpose);
        let comment = format!("comment 'peer relay {purpose}'");
        let route = if passes(opening) { "route " } else { "" };
        if is_everyone(sources) && route.is_empty() {
            return vec![format!("ufw allow {port}/udp {comment}")];
        }
        let rule = |source: &dyn std::fmt::Display| {
            format!("ufw {route}allow proto udp from {source} to any port {port} {comment}")
        };
        match is_everyone(sources) {
            true => vec![rule(&"any")],
            false => sources.iter().map(|source| rule(source)).collect(),
        }
    });
    unique(rules)
}

pub(super) fn iptables(openings: &[&Opening], sources: &[Source]) -> Vec<String> {
    let mut rules = Vec::new();
    for (opening, source) in pairs(openings, sources) {
        let program = match source.is_ipv4() {
            true => "iptables",
            false => "ip6tables",
        };
        let from = match source.is_everyone() {
            true => String::new(),
            false => format!(" -s {source}"),
        };
        let chain = if passes(opening) { "FORWARD" } else { "INPUT" };
        let port = opening.ports(":");
        let port = match opening.delivery {
            Delivery::Local => format!("--dport {port}"),
            // The cluster replaces the destination before this chain, so `--dport` would see the port of
            // the relay. Only conntrack still has the port to which the client sent.
            Delivery::Forwarded { .. } => format!("-m conntrack --ctorigdstport {port}"),
        };
        rules.push((program, format!("{chain} -p udp{from} {port} -j ACCEPT")));
    }
    let commands = rules
        .iter()
        .map(|(program, rule)| format!("{program} -I {rule}"));
    let mut lines: Vec<_> = commands.collect();
    lines.push(
        "# These are gone after a reboot. To keep them, put these lines before any that refuses (do \
         not save\n# all rules of a Kubernetes node: those of kube-proxy would be among them):"
            .to_owned(),
    );
    for (program, file) in [("iptables", "rules.v4"), ("ip6tables", "rules.v6")] {
        let own = rules.iter().filter(|(of, _)| *of == program);
        lines.extend(own.map(|(_, rule)| {
            format!("#   /etc/iptables/{file} (package iptables-persistent): -A {rule}")
        }));
    }
    lines
}

pub(super) fn nftables(openings: &[&Opening], sources: &[Source]) -> Vec<String> {
    let mut rules = Vec::new();
    let whole = is_everyone(sources);
    // A rule of the family `inet` without an address applies to IPv4 and IPv6.
    let shown = if whole { &sources[..1] } else { sources };
    for (opening, source) in pairs(openings, shown) {
        let family = if source.is_ipv4() { "ip" } else { "ip6" };
        let from = match whole {
            true => String::new(),
            false => format!("{family} saddr {source} "),
        };
        let chain = if passes(opening) { "forward" } else { "input" };
        let port = opening.ports("-");
        let port = match opening.delivery {
            Delivery::Local => format!("udp dport {port}"),
            Delivery::Forwarded { .. } => format!("meta l4proto udp ct original proto-dst {port}"),
        };
        rules.push((chain, format!("{from}{port} accept")));
    }
    let commands = rules.iter();
    let commands =
        commands.map(|(chain, rule)| format!("nft insert rule inet filter {chain} {rule}"));
    let mut lines: Vec<_> = commands.collect();
    lines.push(
        "# These are gone after a reboot. To keep them, put these lines into /etc/nftables.conf, \
         before any\n# that refuses:"
            .to_owned(),
    );
    let kept = rules.iter();
    lines.extend(kept.map(|(chain, rule)| format!("#   table inet filter, chain {chain}: {rule}")));
    lines
}

pub(super) fn firewalld(openings: &[&Opening], sources: &[Source]) -> Vec<String> {
    let mut lines = Vec::new();
    if openings.iter().any(|opening| passes(opening)) {
        lines.push(
            "# firewalld lets through what the cluster forwards to pods, unless StrictForwardPorts \
             is on"
                .to_owned(),
        );
    }
    let rules = openings.iter().filter(|opening| !passes(opening));
    let rules = rules.flat_map(|opening| {
        let port = inside(opening, "-");
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
    });
    let rules = unique(rules);
    if !rules.is_empty() {
        lines.extend(rules);
        lines.push("firewall-cmd --reload".to_owned());
    }
    lines
}

/// Rules without those that are there already: several node ports may lead to one port.
fn unique(rules: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for rule in rules {
        if !kept.contains(&rule) {
            kept.push(rule);
        }
    }
    kept
}
