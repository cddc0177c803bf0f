//! Static endpoints of a source, which are IP addresses with ports.

use std::net::SocketAddr;

use super::{
    draft::Endpoints,
    note::{Notes, Place},
};

/// Maximum number of static endpoints of a region.
const MOST: usize = 16;

/// Converts static endpoints. Invalid and excess ones are noted.
pub(super) fn convert(given: &[String], place: &Place, notes: &mut Notes) -> Option<Endpoints> {
    let mut fixed = Vec::new();
    for (at, endpoint) in given.iter().enumerate() {
        let place = Place {
            path: format!("{}[{at}]", place.path),
            ..*place
        };
        match endpoint.parse() {
            Ok(address) if is_reachable(address) => fixed.push(address.to_string()),
            _ => notes.lost(
                place,
                "it is no address and port that clients can send to: write 203.0.113.10:40000 or \
                 [2001:db8::1]:40000, without a zone and with a port that is not 0",
            ),
        }
    }
    if fixed.len() > MOST {
        fixed.truncate(MOST);
        notes.lost(
            place.clone(),
            "a region has at most 16 static endpoints, the first 16 are kept: use \
             regions[].endpoints.perNode for endpoints of single nodes",
        );
    }
    if fixed.is_empty() {
        return None;
    }
    notes.required(
        place.clone(),
        "an endpoint leads to one relay at a time: let it lead to the new relays when the old ones \
         are removed, or use other endpoints if both run",
    );
    Some(Endpoints { fixed })
}

fn is_reachable(address: SocketAddr) -> bool {
    let has_zone = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
    let ip = address.ip().to_canonical();
    address.port() != 0 && !has_zone && !ip.is_loopback() && !ip.is_unspecified()
}
