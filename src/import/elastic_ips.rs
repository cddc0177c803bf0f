//! Elastic IPs of AWS: one for each replica in the source, and by zone in a PeerRelay.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{
    Options,
    note::{Notes, Place},
};
use crate::crd::exposure::ElasticIps;

/// Maximum numbers of zones, and of addresses in a zone.
const MOST_ZONES: usize = 16;
const MOST_ALLOCATIONS: usize = 32;
/// Longest name of a zone.
const LONGEST_ZONE: usize = 63;

/// Elastic IP of one replica, with the subnet of its load balancer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ElasticIp {
    #[serde(rename = "allocationID")]
    allocation_id: String,
    #[serde(rename = "subnetID")]
    subnet_id: String,
}

/// Groups Elastic IPs by zone. `zone` is the zone of all pods, if the source names it.
pub(super) fn convert(
    given: &[ElasticIp],
    zone: Option<&str>,
    place: &Place,
    options: &Options,
    notes: &mut Notes,
) -> Vec<ElasticIps> {
    let mut by_zone: Vec<ElasticIps> = Vec::new();
    let mut unknown = BTreeSet::new();
    for (at, ip) in given.iter().enumerate() {
        let place = Place {
            path: format!("{}[{at}]", place.path),
            ..*place
        };
        if !is_id(&ip.allocation_id, "eipalloc-") || !is_id(&ip.subnet_id, "subnet-") {
            notes.lost(
                place,
                "the IDs are invalid: write eipalloc- and subnet-, and hexadecimal digits",
            );
            continue;
        }
        let known = options.zones.get(&ip.subnet_id).map(String::as_str);
        let zone = known.or(zone).map(str::to_owned).unwrap_or_else(|| {
            unknown.insert(ip.subnet_id.clone());
            let placeholder = format!("zone-of-{}", ip.subnet_id);
            placeholder.chars().take(LONGEST_ZONE).collect()
        });
        match by_zone.iter_mut().find(|ips| ips.zone == zone) {
            Some(ips) => {
                if ips.subnet != ip.subnet_id {
                    notes.changed(
                        place,
                        "the address is used in the first subnet of its zone, because each zone \
                         has one subnet",
                    );
                }
                ips.allocations.push(ip.allocation_id.clone());
            }
            None => by_zone.push(ElasticIps {
                zone,
                subnet: ip.subnet_id.clone(),
                allocations: vec![ip.allocation_id.clone()],
            }),
        }
    }
    if !unknown.is_empty() {
        let subnets: Vec<_> = unknown.into_iter().collect();
        notes.required(
            place.clone(),
            format!(
                "replace the zones that begin with zone-of-, or convert again with --subnet-zone \
                 SUBNET=ZONE: 'aws ec2 describe-subnets --subnet-ids {} --query \
                 Subnets[].[SubnetId,AvailabilityZone]' prints them",
                subnets.join(" ")
            ),
        );
    }
    limited(by_zone, place, notes)
}

fn limited(mut all: Vec<ElasticIps>, place: &Place, notes: &mut Notes) -> Vec<ElasticIps> {
    let too_many = |ips: &ElasticIps| ips.allocations.len() > MOST_ALLOCATIONS;
    if all.len() > MOST_ZONES || all.iter().any(too_many) {
        notes.lost(
            place.clone(),
            "a region has at most 16 zones with 32 Elastic IPs each: move the others to a second \
             region",
        );
    }
    all.truncate(MOST_ZONES);
    for ips in &mut all {
        ips.allocations.truncate(MOST_ALLOCATIONS);
    }
    all
}

fn is_id(text: &str, prefix: &str) -> bool {
    let hexadecimal = |letter: char| letter.is_ascii_digit() || ('a'..='f').contains(&letter);
    text.len() <= LONGEST_ZONE
        && text
            .strip_prefix(prefix)
            .is_some_and(|id| !id.is_empty() && id.chars().all(hexadecimal))
}
