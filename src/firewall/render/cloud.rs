//! Firewalls of clouds, by their command lines. They see packets before the cluster forwards them.

use serde_json::json;

use super::{Opening, Source, by_family, joined, pairs};

/// First priority of rules in Azure; 4096 is the last one there.
pub(super) const FIRST_PRIORITY: usize = 300;
/// Rules that Oracle Cloud takes at once.
const ORACLE_AT_ONCE: usize = 25;

pub(super) fn aws(openings: &[&Opening], sources: &[Source]) -> Vec<String> {
    let rule = |(opening, source): (&Opening, Source)| {
        let Opening {
            first,
            last,
            purpose,
            ..
        } = opening;
        let (ranges, key) = match source.is_ipv4() {
            true => ("IpRanges", "CidrIp"),
            false => ("Ipv6Ranges", "CidrIpv6"),
        };
        format!(
            "aws ec2 authorize-security-group-ingress --group-id \"$SECURITY_GROUP\" \
             --ip-permissions 'IpProtocol=udp,FromPort={first},ToPort={last},\
             {ranges}=[{{{key}={source},Description=\"peer relay {purpose}\"}}]'"
        )
    };
    pairs(openings, sources).map(rule).collect()
}

pub(super) fn gcp(openings: &[&Opening], sources: &[Source]) -> Vec<String> {
    each_family(openings, sources, |_, opening, family, sources| {
        let (ports, ranges) = (opening.ports("-"), joined(sources, ","));
        format!(
            "gcloud compute firewall-rules create peer-relay-{ports}-{family} --network \
             \"$NETWORK\" --direction INGRESS --allow udp:{ports} --source-ranges {ranges} \
             --target-tags \"$NODE_TAG\""
        )
    })
}

pub(super) fn azure(openings: &[&Opening], sources: &[Source]) -> Vec<String> {
    each_family(openings, sources, |at, opening, family, sources| {
        let (ports, prefixes) = (opening.ports("-"), joined(sources, " "));
        let priority = FIRST_PRIORITY + at;
        format!(
            "az network nsg rule create --resource-group \"$RESOURCE_GROUP\" --nsg-name \"$NSG\" \
             --name peer-relay-{ports}-{family} --priority {priority} --direction Inbound --access \
             Allow --protocol Udp --source-address-prefixes {prefixes} --destination-port-ranges \
             {ports}"
        )
    })
}

pub(super) fn hetzner(openings: &[&Opening], sources: &[Source]) -> Vec<String> {
    let rule = |opening: &&Opening| {
        let (ports, purpose) = (opening.ports("-"), &opening.purpose);
        let from: Vec<_> = sources
            .iter()
            .map(|s| format!("--source-ips {s}"))
            .collect();
        format!(
            "hcloud firewall add-rule --direction in --protocol udp --port {ports} {} --description \
             'peer relay {purpose}' \"$FIREWALL\"",
            from.join(" ")
        )
    };
    openings.iter().map(rule).collect()
}

pub(super) fn oracle(openings: &[&Opening], sources: &[Source]) -> Vec<String> {
    let rule = |(opening, source): (&Opening, Source)| {
        json!({
            "description": format!("peer relay {}", opening.purpose),
            "direction": "INGRESS",
            "isStateless": false,
            // The number of UDP.
            "protocol": "17",
            "source": source.to_string(),
            "sourceType": "CIDR_BLOCK",
            "udpOptions": {
                "destinationPortRange": {"min": opening.first, "max": opening.last},
            },
        })
    };
    let rules: Vec<_> = pairs(openings, sources).map(rule).collect();
    let command = |rules: &[serde_json::Value]| {
        format!(
            "oci network nsg rules add --nsg-id \"$NSG_ID\" --security-rules '{}'",
            serde_json::Value::from(rules)
        )
    };
    rules.chunks(ORACLE_AT_ONCE).map(command).collect()
}

pub(super) fn digitalocean(openings: &[&Opening], sources: &[Source]) -> Vec<String> {
    let rule = |opening: &&Opening| {
        let ports = opening.ports("-");
        let rules: Vec<_> = sources
            .iter()
            .map(|source| format!("protocol:udp,ports:{ports},address:{source}"))
            .collect();
        format!(
            "doctl compute firewall add-rules \"$FIREWALL_ID\" --inbound-rules \"{}\"",
            rules.join(" ")
        )
    };
    openings.iter().map(rule).collect()
}

/// A rule for each family of each opening; `rule` also gets how many there are before it.
pub(super) fn each_family(
    openings: &[&Opening],
    sources: &[Source],
    rule: impl Fn(usize, &Opening, &str, &[Source]) -> String,
) -> Vec<String> {
    let mut rules = Vec::new();
    for opening in openings {
        // Google Cloud and Azure refuse a rule with sources of both families.
        for (family, sources) in by_family(sources) {
            rules.push(rule(rules.len(), opening, family, &sources));
        }
    }
    rules
}
