#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use serde_json::json;

use super::*;
use crate::operator::fixtures::validated;

#[test]
fn each_port_is_opened_once_and_for_both_families() {
    let regions = json!([
        {"name": "a", "clients": ["tag:a"]},
        {"name": "b", "clients": ["tag:b"]},
        {"name": "c", "clients": ["tag:c"], "exposure": {"type": "NodePort", "nodePort": 30_400}},
    ]);
    let relay = validated(json!({"port": 41_000, "regions": regions}));
    let openings = openings(&relay).unwrap();
    let ports: Vec<_> = openings.iter().map(|opening| opening.port).collect();
    assert_eq!(ports, [30_400, 41_000]);
    let text = render(&openings, &Source::everyone(), Tool::Iptables);
    assert_eq!(
        text.lines().skip(1).collect::<Vec<_>>(),
        [
            "iptables -I INPUT -p udp --dport 30400 -j ACCEPT",
            "ip6tables -I INPUT -p udp --dport 30400 -j ACCEPT",
            "iptables -I INPUT -p udp --dport 41000 -j ACCEPT",
            "ip6tables -I INPUT -p udp --dport 41000 -j ACCEPT",
        ]
    );
}

#[test]
fn every_tool_opens_udp_and_nothing_else() {
    let openings = openings(&validated(json!({}))).unwrap();
    for tool in Tool::ALL {
        let text = render(&openings, &Source::everyone(), *tool);
        let commands = text.lines().filter(|line| !line.starts_with('#'));
        let commands: Vec<_> = commands
            .filter(|line| !line.ends_with("--reload"))
            .collect();
        assert!(!commands.is_empty(), "{tool:?}");
        for command in commands {
            assert!(command.contains("40000"), "{command}");
            assert!(command.to_lowercase().contains("udp"), "{command}");
            assert!(!command.to_lowercase().contains("tcp"), "{command}");
        }
    }
}

#[test]
fn sources_are_kept_apart_by_family() {
    let openings = openings(&validated(json!({}))).unwrap();
    let sources = ["192.0.2.0/24", "2001:db8::/32"].map(|s| Source::network(s.parse().unwrap()));
    let text = |tool| render(&openings, &sources, tool);
    for line in [
        "iptables -I INPUT -p udp -s 192.0.2.0/24 --dport 40000 -j ACCEPT",
        "ip6tables -I INPUT -p udp -s 2001:db8::/32 --dport 40000 -j ACCEPT",
    ] {
        assert!(text(Tool::Iptables).lines().any(|l| l == line));
    }
    assert!(text(Tool::Nftables).contains("ip saddr 192.0.2.0/24 udp dport 40000 accept"));
    assert!(text(Tool::Nftables).contains("ip6 saddr 2001:db8::/32 udp dport 40000 accept"));
    assert!(text(Tool::Gcp).contains("peer-relay-40000-ipv6"));
    for tool in Tool::ALL {
        assert!(text(*tool).contains("192.0.2.0/24") && text(*tool).contains("2001:db8::/32"));
    }
}

#[test]
fn sources_inside_of_the_tailnet_are_warned_of() {
    let warned = |net: &str| warnings(&[Source::network(net.parse().unwrap())]);
    for net in ["100.64.0.0/10", "100.100.0.0/16", "fd7a:115c:a1e0::/48"] {
        assert!(warned(net)[0].contains("lets no client in"), "{net}");
    }
    assert!(warned("192.0.2.0/24")[0].contains("outside of the given sources"));
    assert!(warnings(&Source::everyone()).is_empty());
}

#[test]
fn a_port_that_the_cluster_chooses_is_known_once_it_has() {
    let regions = json!([{"name": "a", "clients": ["tag:a"], "exposure": {"type": "NodePort"}}]);
    let mut relay = validated(json!({"regions": regions}));
    assert!(
        openings(&relay)
            .unwrap_err()
            .to_string()
            .contains("set exposure.nodePort")
    );
    assert_eq!(line(relay.port, &relay.regions[0]), "");
    let endpoints = vec!["192.0.2.1:31234".parse().unwrap()];
    relay.regions[0]
        .plan
        .endpoints
        .insert("n1".into(), endpoints);
    assert_eq!(openings(&relay).unwrap()[0].port, 31_234);
    assert!(line(relay.port, &relay.regions[0]).starts_with("let in UDP 31234,"));
}
