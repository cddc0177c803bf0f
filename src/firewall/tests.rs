#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use clap::ValueEnum;
use serde_json::json;

use super::*;
use crate::operator::{fixtures::validated, validate::ValidSpec};

#[test]
fn each_port_is_opened_once_and_for_both_families() {
    let regions = json!([
        {"name": "a", "clients": ["tag:a"]},
        {"name": "b", "clients": ["tag:b"]},
        {"name": "c", "clients": ["tag:c"], "exposure": {"type": "NodePort", "nodePort": 30_400}},
    ]);
    let relay = validated(json!({"port": 41_000, "regions": regions}));
    let openings = opened(&relay).unwrap();
    let ports: Vec<_> = openings.iter().map(|opening| opening.first).collect();
    assert_eq!(ports, [30_400, 41_000]);
    assert_eq!(
        commands(&openings, Tool::Iptables),
        [
            "iptables -I FORWARD -p udp -m conntrack --ctorigdstport 30400 -j ACCEPT",
            "ip6tables -I FORWARD -p udp -m conntrack --ctorigdstport 30400 -j ACCEPT",
            "iptables -I INPUT -p udp --dport 41000 -j ACCEPT",
            "ip6tables -I INPUT -p udp --dport 41000 -j ACCEPT",
        ]
    );
}

#[test]
fn every_tool_opens_udp_and_nothing_else() {
    let openings = opened(&validated(json!({}))).unwrap();
    for tool in Tool::ALL {
        let commands = commands(&openings, *tool);
        let commands: Vec<_> = commands
            .iter()
            .filter(|line| !line.ends_with("--reload"))
            .collect();
        assert!(!commands.is_empty(), "{tool:?}");
        let is_whole = tool
            .to_possible_value()
            .unwrap()
            .get_name()
            .starts_with("terraform");
        let texts = match is_whole {
            true => vec![
                commands
                    .iter()
                    .map(|line| line.to_lowercase())
                    .collect::<String>(),
            ],
            false => commands.iter().map(|line| line.to_lowercase()).collect(),
        };
        for text in texts {
            assert!(text.contains("40000"), "{text}");
            assert!(text.contains("udp") || text.contains("\"17\""), "{text}");
            assert!(!text.contains("tcp"), "{text}");
        }
    }
}

#[test]
fn every_port_of_a_shared_address_is_opened() {
    let region = |placement: serde_json::Value, base: Option<u16>| {
        let balancer = json!({"shareAddress": true, "basePort": base});
        let exposure = json!({"type": "LoadBalancer", "loadBalancer": balancer});
        json!({"regions": [{
            "name": "a", "clients": ["tag:a"], "placement": placement, "exposure": exposure,
        }], "maxRelays": 10})
    };
    for (spec, ports) in [
        (region(json!({}), None), "40000-40001"),
        (region(json!({"maxRelays": 4}), Some(50_000)), "50000-50003"),
        (region(json!({"maxRelays": 1}), Some(50_000)), "50000"),
        (
            region(json!({"maxRelays": 99}), Some(50_000)),
            "50000-50009",
        ),
    ] {
        let openings = opened(&validated(spec)).unwrap();
        assert_eq!(openings.len(), 1);
        assert_eq!(openings[0].ports("-"), ports);
        let text = render(&openings, &Source::everyone(), Tool::Nftables);
        let rule = format!("forward meta l4proto udp ct original proto-dst {ports} accept");
        assert!(text.contains(&rule), "{text}");
    }
}

#[test]
fn what_is_forwarded_is_said_and_not_opened_as_local() {
    let regions = json!([
        {"name": "a", "clients": ["tag:a"], "exposure": {"type": "NodePort", "nodePort": 30_400}},
        {"name": "b", "clients": ["tag:b"], "exposure": {"type": "NodePort", "nodePort": 30_401, "hostNetwork": true}},
        {"name": "c", "clients": ["tag:c"], "exposure": {"type": "LoadBalancer"}},
    ]);
    let openings = opened(&validated(json!({"regions": regions}))).unwrap();
    for tool in Tool::ALL {
        let text = render(&openings, &Source::everyone(), *tool);
        assert!(text.contains("UDP 30400 of each node (relays/edge) is forwarded by the cluster to UDP 40000 of a pod"), "{text}");
        assert!(text.contains("UDP 30401 of each node (relays/edge) is forwarded by the cluster to UDP 40000 of the node itself"), "{text}");
        assert!(
            text.contains("UDP 40000 of the load balancer (relays/edge) is forwarded"),
            "{text}"
        );
    }
    assert_eq!(
        commands(&openings, Tool::Ufw),
        [
            "ufw route allow proto udp from any to any port 40000 comment 'peer relay relays/edge'",
            "ufw allow 40000/udp comment 'peer relay relays/edge'",
        ]
    );
    assert_eq!(
        commands(&openings, Tool::Firewalld),
        [
            "firewall-cmd --permanent --add-port=40000/udp",
            "firewall-cmd --reload"
        ]
    );
    let aws = commands(&openings, Tool::Aws).join("\n");
    assert!(
        aws.contains("FromPort=30400") && !aws.contains("FromPort=40000"),
        "{aws}"
    );
}

#[test]
fn priorities_of_azure_are_distinct() {
    let exposure = |port: u16| json!({"type": "NodePort", "nodePort": port});
    let regions: Vec<_> = (0..5)
        .map(|at| json!({"name": format!("r{at}"), "clients": ["tag:a"], "exposure": exposure(30_400 + 2 * at)}))
        .collect();
    let openings = opened(&validated(json!({"regions": regions}))).unwrap();
    let priority = |line: &String| {
        line.split("--priority ")
            .nth(1)?
            .split(' ')
            .next()?
            .parse()
            .ok()
    };
    let priorities: Vec<u16> = commands(&openings, Tool::Azure)
        .iter()
        .filter_map(priority)
        .collect();
    assert_eq!(priorities, (300..310).collect::<Vec<_>>());
}

#[test]
fn rules_that_a_reboot_forgets_say_how_to_keep_them() {
    let openings = opened(&validated(json!({}))).unwrap();
    for (tool, says) in [
        (
            Tool::Iptables,
            "/etc/iptables/rules.v6 (package iptables-persistent): -A INPUT -p udp --dport 40000 -j ACCEPT",
        ),
        (
            Tool::Nftables,
            "table inet filter, chain input: udp dport 40000 accept",
        ),
        (Tool::Firewalld, "--permanent"),
        (Tool::Ufw, "survives a reboot"),
    ] {
        let text = render(&openings, &Source::everyone(), tool);
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn sources_are_kept_apart_by_family() {
    let openings = opened(&validated(json!({}))).unwrap();
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
    let relay = validated(json!({"regions": regions}));
    assert!(
        opened(&relay)
            .unwrap_err()
            .to_string()
            .contains("set exposure.nodePort")
    );
    let (region, mut ports) = relay.firewall_ports().next().unwrap();
    assert_eq!(ports.summary(), "");
    ports.assigned = vec![31_234];
    let opened = openings("relays/edge", [(region, ports.clone())].into_iter());
    assert_eq!(opened.unwrap()[0].first, 31_234);
    assert!(ports.summary().starts_with("let in UDP 31234,"));
}

/// The commands of a tool, without comments.
fn commands(openings: &[Opening], tool: Tool) -> Vec<String> {
    let text = render(openings, &Source::everyone(), tool);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

fn opened(relay: &ValidSpec) -> Result<Vec<Opening>, PortUnknown> {
    openings("relays/edge", relay.firewall_ports())
}
