//! Condition `EndpointsVerified`: the addresses at which relays reach each other.

use std::sync::Arc;

use kube::ResourceExt;

use super::condition::{ConditionUpdate, LONGEST_MESSAGE};
use crate::{
    crd::{
        RelayNode,
        probe::{EndpointVerification, Verified},
        relay_node::{Endpoint, EndpointSource},
    },
    operator::probes::{ProbeResults, missing},
};

/// Returns the condition about addresses at which relays reach each other.
///
/// A configured address that is not reached is always a problem. A discovered address, such as a
/// private one, may be unreachable for others; it is a problem only if its relay has no working
/// address.
pub(super) fn verified(nodes: &[Arc<RelayNode>]) -> ConditionUpdate {
    let mut nodes = nodes.to_vec();
    nodes.sort_by_key(|node| node.name_any());
    let reporting = nodes.iter().filter(|node| node.status.is_some()).count();
    if reporting < 2 {
        return condition(
            "Unknown",
            "NoOtherRelay",
            format!(
                "{reporting} relay(s) report: a relay's addresses are tried by another, so with one \
                 relay nobody can; try from a client, with tailscale ping"
            ),
        );
    }
    let results = ProbeResults::new(&nodes);
    let mut tally = Tally::default();
    for node in &nodes {
        tally.add(node, &results);
    }
    tally.condition()
}

/// The numbers of addresses by the results of probes.
#[derive(Default)]
struct Tally {
    proven: usize,
    untried: usize,
    silent: usize,
    /// Reason and message of the first address that is wrong.
    wrong: Option<(&'static str, String)>,
}

impl Tally {
    fn add(&mut self, node: &RelayNode, results: &ProbeResults<'_>) {
        let endpoints = node.status.iter().flat_map(|status| &status.endpoints);
        let verified: Vec<_> = endpoints
            .map(|endpoint| (endpoint, results.verify(node, &endpoint.address)))
            .collect();
        let count = |wanted| {
            let found = verified.iter().filter(|(_, v)| v.verified == wanted);
            found.count()
        };
        let reached = count(Verified::True);
        self.proven += reached;
        self.untried += count(Verified::Unknown);
        self.silent += count(Verified::False);
        let failed = |(endpoint, v): &&(&Endpoint, EndpointVerification)| {
            v.verified == Verified::False
                && (endpoint.source == EndpointSource::Static || reached == 0)
        };
        if let Some((endpoint, verification)) = verified.iter().find(failed) {
            let reason = match endpoint.source {
                EndpointSource::Static => "StaticEndpointUnreachable",
                _ => "EndpointUnreachable",
            };
            let (name, address) = (node.name_any(), &endpoint.address);
            let by = verification.by.as_deref().unwrap_or_default();
            self.wrong.get_or_insert((
                reason,
                format!(
                    "relay {by} gets no answer from {address} of relay {name}: {}",
                    missing(node, address)
                ),
            ));
        }
    }

    fn condition(self) -> ConditionUpdate {
        let Self {
            proven, untried, ..
        } = self;
        match self.wrong {
            Some((reason, message)) => condition("False", reason, message),
            None if untried > 0 && proven == 0 => condition(
                "Unknown",
                "NotTried",
                format!("{untried} address(es) have not been tried by another relay yet"),
            ),
            None if proven == 0 => condition(
                "Unknown",
                "NotTried",
                "no relay advertises an address".into(),
            ),
            None => {
                let more = match self.silent {
                    0 => String::new(),
                    n => format!("; {n} discovered one(s) reach only part of the network"),
                };
                condition(
                    "True",
                    "Verified",
                    format!("{proven} address(es) were reached by another relay{more}"),
                )
            }
        }
    }
}

fn condition(status: &'static str, reason: &str, message: String) -> ConditionUpdate {
    ConditionUpdate {
        kind: "EndpointsVerified",
        status,
        reason: reason.to_owned(),
        message: message.chars().take(LONGEST_MESSAGE).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::probes::tests::{node, probe};

    const A1: &str = "192.0.2.1:40000";
    const A2: &str = "203.0.113.9:40000";
    const B1: &str = "192.0.2.2:40000";

    fn said(nodes: &[Arc<RelayNode>]) -> (&'static str, String) {
        let verdict = verified(nodes);
        (verdict.status, verdict.reason)
    }

    #[test]
    fn one_relay_alone_proves_nothing() {
        let a = node("a", &[(A1, "Interface")], &[]);
        assert_eq!(said(&[a]), ("Unknown", "NoOtherRelay".into()));
        assert_eq!(said(&[]), ("Unknown", "NoOtherRelay".into()));
    }

    #[test]
    fn given_address_that_nobody_reaches_is_wrong_though_another_works() {
        let a = node(
            "a",
            &[(A2, "Static"), (A1, "Interface")],
            &[probe("b", B1, Some(5))],
        );
        let seen = [probe("a", A1, Some(5)), probe("a", A2, None)];
        let b = node("b", &[(B1, "Interface")], &seen);
        let verdict = verified(&[b, a]);
        assert_eq!(verdict.status, "False");
        assert_eq!(verdict.reason, "StaticEndpointUnreachable");
        assert!(verdict.message.contains("allow UDP port 40000 over IPv4"));
    }

    #[test]
    fn discovered_address_out_of_reach_is_no_matter_while_another_works() {
        let a = node(
            "a",
            &[(A1, "Interface"), (A2, "Interface")],
            &[probe("b", B1, Some(5))],
        );
        let seen = [probe("a", A1, None), probe("a", A2, Some(4))];
        let b = node("b", &[(B1, "Interface")], &seen);
        assert_eq!(said(&[a.clone(), b]), ("True", "Verified".into()));
        let b = node("b", &[(B1, "Interface")], &[probe("a", A1, None)]);
        assert_eq!(said(&[a, b]), ("False", "EndpointUnreachable".into()));
    }

    #[test]
    fn nothing_is_said_before_anything_was_tried() {
        let nodes = [
            node("a", &[(A1, "Interface")], &[]),
            node("b", &[(B1, "Interface")], &[]),
        ];
        assert_eq!(said(&nodes), ("Unknown", "NotTried".into()));
    }
}
