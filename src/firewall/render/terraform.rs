//! Firewalls of clouds, as files of Terraform or OpenTofu.

use super::{
    Opening, Source,
    cloud::{FIRST_PRIORITY, each_family},
};

pub(super) fn aws(openings: &[&Opening], sources: &[Source]) -> Vec<String> {
    let mut lines = variable("security_group_id");
    for opening in openings {
        let ports = opening.ports("_");
        for (at, source) in sources.iter().enumerate() {
            let key = match source.is_ipv4() {
                true => "cidr_ipv4",
                false => "cidr_ipv6",
            };
            let name = format!("peer_relay_{ports}_{at}");
            lines.push(resource(
                "aws_vpc_security_group_ingress_rule",
                &name,
                &[
                    ("security_group_id", "var.security_group_id".to_owned()),
                    (
                        "description",
                        quoted(&format!("peer relay {}", opening.purpose)),
                    ),
                    ("ip_protocol", quoted("udp")),
                    ("from_port", opening.first.to_string()),
                    ("to_port", opening.last.to_string()),
                    (key, quoted(&source.to_string())),
                ],
                None,
            ));
        }
    }
    lines
}

pub(super) fn google(openings: &[&Opening], sources: &[Source]) -> Vec<String> {
    let mut lines = variable("network");
    lines.extend(variable("node_tag"));
    lines.extend(each_family(
        openings,
        sources,
        |_, opening, family, sources| {
            let name = format!("peer_relay_{}_{family}", opening.ports("_"));
            let allow = format!(
                "  allow {{\n    protocol = \"udp\"\n    ports    = [{}]\n  }}\n",
                quoted(&opening.ports("-"))
            );
            resource(
                "google_compute_firewall",
                &name,
                &[
                    (
                        "name",
                        quoted(&format!("peer-relay-{}-{family}", opening.ports("-"))),
                    ),
                    (
                        "description",
                        quoted(&format!("peer relay {}", opening.purpose)),
                    ),
                    ("network", "var.network".to_owned()),
                    ("direction", quoted("INGRESS")),
                    ("source_ranges", list(sources)),
                    ("target_tags", "[var.node_tag]".to_owned()),
                ],
                Some(&allow),
            )
        },
    ));
    lines
}

pub(super) fn azurerm(openings: &[&Opening], sources: &[Source]) -> Vec<String> {
    let mut lines = variable("resource_group_name");
    lines.extend(variable("network_security_group_name"));
    lines.extend(each_family(
        openings,
        sources,
        |at, opening, family, sources| {
            let name = format!("peer_relay_{}_{family}", opening.ports("_"));
            resource(
                "azurerm_network_security_rule",
                &name,
                &[
                    (
                        "name",
                        quoted(&format!("peer-relay-{}-{family}", opening.ports("-"))),
                    ),
                    (
                        "description",
                        quoted(&format!("peer relay {}", opening.purpose)),
                    ),
                    ("resource_group_name", "var.resource_group_name".to_owned()),
                    (
                        "network_security_group_name",
                        "var.network_security_group_name".to_owned(),
                    ),
                    ("priority", (FIRST_PRIORITY + at).to_string()),
                    ("direction", quoted("Inbound")),
                    ("access", quoted("Allow")),
                    ("protocol", quoted("Udp")),
                    ("source_port_range", quoted("*")),
                    ("source_address_prefixes", list(sources)),
                    ("destination_port_range", quoted(&opening.ports("-"))),
                    ("destination_address_prefix", quoted("*")),
                ],
                None,
            )
        },
    ));
    lines
}

fn variable(name: &str) -> Vec<String> {
    vec![format!("variable \"{name}\" {{\n  type = string\n}}\n")]
}

/// A block with aligned arguments, as `terraform fmt` writes it.
fn resource(kind: &str, name: &str, arguments: &[(&str, String)], block: Option<&str>) -> String {
    let width = arguments
        .iter()
        .map(|(key, _)| key.len())
        .max()
        .unwrap_or(0);
    let lines = arguments
        .iter()
        .map(|(key, value)| format!("  {key:width$} = {value}\n"));
    let lines: String = lines.collect();
    let block = block.map_or(String::new(), |block| format!("\n{block}"));
    format!("resource \"{kind}\" \"{name}\" {{\n{lines}{block}}}\n")
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn list(sources: &[Source]) -> String {
    let sources: Vec<_> = sources
        .iter()
        .map(|source| quoted(&source.to_string()))
        .collect();
    format!("[{}]", sources.join(", "))
}
