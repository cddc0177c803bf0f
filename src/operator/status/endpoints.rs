//! `EndpointsPublished`: whether clients are told where to send.

use std::collections::BTreeSet;

use super::ConditionUpdate;
use crate::{crd::RelayNode, names::STATIC_ENDPOINTS_ANNOTATION, operator::validate::ValidSpec};

/// What the relays say of the addresses that they advertise.
pub(super) fn published<'a>(
    nodes: impl Iterator<Item = &'a RelayNode>,
    relay: Option<&ValidSpec>,
) -> ConditionUpdate {
    if let Some(update) = bad_annotations(relay).or_else(|| pending(relay)) {
        return update;
    }
    let (mut relays, mut silent, mut addresses) = (0, 0, 0);
    for status in nodes.filter_map(|node| node.status.as_ref()) {
        relays += 1;
        addresses += status.endpoints.len();
        // Without its port, a relay has no address for another reason than its configuration.
        silent += usize::from(status.endpoints.is_empty() && status.port.is_some());
    }
    let (status, reason, message) = match (relays, silent, addresses) {
        (0, ..) => (
            "Unknown",
            "NoReport",
            "no relay has reported yet".to_owned(),
        ),
        (_, 0, 0) => (
            "Unknown",
            "NoReport",
            "no relay has its UDP port yet".to_owned(),
        ),
        (_, 0, _) => (
            "True",
            "Published",
            format!("{relays} relay(s) advertise {addresses} address(es)"),
        ),
        _ => (
            "False",
            "NoEndpoints",
            format!(
                "{silent} of {relays} relay(s) have no address to advertise: name one in \
                 regions[].endpoints.static or perNode, or let discover, include and exclude \
                 leave one"
            ),
        ),
    };
    ConditionUpdate {
        kind: "EndpointsPublished",
        status,
        reason: reason.to_owned(),
        message,
    }
}

/// A Service without its port or address: nothing of it is advertised.
fn pending(relay: Option<&ValidSpec>) -> Option<ConditionUpdate> {
    let mut regions = relay.into_iter().flat_map(|relay| &relay.regions);
    let waiting = regions.find_map(|region| region.plan.waiting.as_ref())?;
    Some(ConditionUpdate {
        kind: "EndpointsPublished",
        status: "False",
        reason: waiting.reason.to_owned(),
        message: waiting.message.clone(),
    })
}

/// A node whose annotation nobody can use: its relay advertises less than it should.
fn bad_annotations(relay: Option<&ValidSpec>) -> Option<ConditionUpdate> {
    let regions = relay.map_or(&[][..], |relay| &relay.regions);
    let bad: BTreeSet<&str> = regions
        .iter()
        .flat_map(|region| &region.plan.bad_annotations)
        .map(String::as_str)
        .collect();
    let first = bad.first()?;
    let message = format!(
        "annotation {STATIC_ENDPOINTS_ANNOTATION} of node {first} is not used ({} node(s) in all): \
         write 203.0.113.10:40000, [2001:db8::1]:40000 or relay.example.net:40000, separated by \
         commas",
        bad.len()
    );
    Some(ConditionUpdate {
        kind: "EndpointsPublished",
        status: "False",
        reason: "InvalidAnnotation".to_owned(),
        message,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::{Value, json};

    use super::*;

    fn node(status: Value) -> RelayNode {
        let mut whole = json!({"ready": true, "version": "0", "dataPath": "Socket"});
        for (field, value) in status.as_object().unwrap() {
            whole[field] = value.clone();
        }
        serde_json::from_value(json!({
            "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
            "metadata": {"name": "edge-office-a"},
            "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
            "status": whole,
        }))
        .unwrap()
    }

    fn update(nodes: &[RelayNode]) -> (&'static str, String) {
        let update = published(nodes.iter(), None);
        (update.status, update.reason)
    }

    #[test]
    fn a_bound_relay_without_address_is_the_one_that_counts() {
        let some =
            json!({"port": 1, "endpoints": [{"address": "192.0.2.1:1", "source": "Static"}]});
        let silent = json!({"port": 1});
        let unbound = json!({});
        let update = |statuses: &[&Value]| {
            update(
                &statuses
                    .iter()
                    .map(|s| node((*s).clone()))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(update(&[]), ("Unknown", "NoReport".into()));
        assert_eq!(update(&[&unbound]), ("Unknown", "NoReport".into()));
        assert_eq!(update(&[&some, &unbound]), ("True", "Published".into()));
        assert_eq!(update(&[&some, &silent]), ("False", "NoEndpoints".into()));
    }
}
