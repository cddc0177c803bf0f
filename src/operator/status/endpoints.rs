//! `EndpointsPublished`: the addresses that relays advertise to clients.

use std::{collections::BTreeSet, sync::Arc};

use super::condition::ConditionUpdate;
use crate::{crd::RelayNode, names::STATIC_ENDPOINTS_ANNOTATION, operator::plan::Region};

/// States whether every relay advertises an address.
pub(super) fn published<'a>(
    reports: &[Arc<RelayNode>],
    regions: impl Iterator<Item = Region<'a>> + Clone,
) -> ConditionUpdate {
    if let Some(update) = bad_annotations(regions.clone()).or_else(|| pending(regions)) {
        return update;
    }
    let (mut relays, mut silent, mut addresses) = (0, 0, 0);
    for status in reports.iter().filter_map(|report| report.status.as_ref()) {
        relays += 1;
        addresses += status.endpoints.len();
        // If a relay has no port, its configuration is not the reason for missing addresses.
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
                "{silent} of {relays} relay(s) have no address to advertise (those of the tailnet, of \
                 tunnels and of container networks do not count): name one in \
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

/// Reports that a Service has no port or address yet, so that nothing is advertised.
fn pending<'a>(mut regions: impl Iterator<Item = Region<'a>>) -> Option<ConditionUpdate> {
    let waiting = regions.find_map(|region| region.plan.start.waiting.as_ref())?;
    Some(ConditionUpdate {
        kind: "EndpointsPublished",
        status: "False",
        reason: waiting.reason.to_owned(),
        message: waiting.message.clone(),
    })
}

/// Reports that the annotation of a node cannot be parsed, so that its relay lacks endpoints.
fn bad_annotations<'a>(regions: impl Iterator<Item = Region<'a>>) -> Option<ConditionUpdate> {
    let bad: BTreeSet<&str> = regions
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

    fn node(status: Value) -> Arc<RelayNode> {
        let mut whole = json!({"ready": true, "version": "0", "dataPath": "Socket"});
        for (field, value) in status.as_object().unwrap() {
            whole[field] = value.clone();
        }
        let node = json!({
            "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
            "metadata": {"name": "edge-office-a"},
            "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
            "status": whole,
        });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn update(nodes: &[Arc<RelayNode>]) -> (&'static str, String) {
        let update = published(nodes, std::iter::empty());
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
